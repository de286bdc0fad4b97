"""One folder of tomograms, scaled to [0, 1] and white on black.

In:  <tomograms>/{tomogram}<extension>
Out: <scaled>/{tomogram}.mrc
"""

from functools import partial

from cryoseg.job_resources import SLABWISE_MB, slabwise_minutes, voxel_count

voxels = partial(voxel_count, config["volume"])


rule scale_tomogram:
    """Scale a tomogram to [0, 1], white on black, between two percentiles."""
    input:
        tomogram="<tomograms>/{tomogram}<extension>",
    output:
        scaled="<scaled>/{tomogram}.mrc",
    log:
        "<logs>/scale_tomogram/{tomogram}.log",
    benchmark:
        "<benchmarks>/scale_tomogram/{tomogram}.tsv"
    wildcard_constraints:
        tomogram="[^/]+",
    group:
        "cpu_scale"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
        runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
    params:
        settings=config["settings"],
    script:
        "../scripts/scale_tomogram.py"

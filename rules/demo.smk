"""Simulated tomograms.

Out: <tomograms>/{tomogram}.mrc, <labels>/{tomogram}.mrc, <lamella>/{tomogram}.mrc
"""

from functools import partial

from cryoseg.job_resources import simulate_memory, slabwise_minutes, voxel_count
from cryoseg.plan import simulated_settings

voxels = partial(voxel_count, config["volume"])


rule simulate_tomogram:
    """Simulate a tomogram of a lamella, with labels and lamella mask."""
    output:
        tomogram="<tomograms>/{tomogram}.mrc",
        labels="<labels>/{tomogram}.mrc",
        lamella="<lamella>/{tomogram}.mrc",
    log:
        "<logs>/simulate_tomogram/{tomogram}.log",
    benchmark:
        "<benchmarks>/simulate_tomogram/{tomogram}.tsv"
    wildcard_constraints:
        tomogram="[^/]+",
    group:
        "cpu_simulate"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: simulate_memory(voxels(wildcards.tomogram), attempt),
        runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
    params:
        settings=lambda wildcards: simulated_settings(config["settings"], wildcards.tomogram),
    script:
        "../scripts/simulate_tomogram.py"

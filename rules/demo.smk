"""Simulated tomograms, and pictures of what was predicted for them.

Out: <tomograms>/{tomogram}.mrc, <labels>/{tomogram}.mrc, <lamella>/{tomogram}.mrc
     <pictures>/{tomogram}.png, where a stage predicts them within masks
"""

from functools import partial

from cryoseg.job_resources import SLABWISE_MB, simulate_memory, slabwise_minutes, voxel_count
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


if config["draw"]:

    rule draw_prediction:
        """Draw a tomogram with its lamella mask and its classes in three planes."""
        input:
            tomogram="<predicted>/{tomogram}.mrc",
            mask="<masks>/{tomogram}<mask_ending>",
            labels="<predictions>/{tomogram}_preds.h5",
        output:
            picture="<pictures>/{tomogram}.png",
        log:
            "<logs>/draw_prediction/{tomogram}.log",
        benchmark:
            "<benchmarks>/draw_prediction/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_draw"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["draw"],
        script:
            "../scripts/draw_prediction.py"

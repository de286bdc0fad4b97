"""Simulated tomograms, and how well what was predicted for them agrees.

Out: <tomograms>/{tomogram}.mrc, <labels>/{tomogram}.mrc, <lamella>/{tomogram}.mrc
     <evaluation>/{tomogram}.tsv, where a stage predicts them within masks
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


if config["evaluate"]:

    rule evaluate_labels:
        """Compare a lamella mask and classes with those that were simulated: Dice and IoU."""
        input:
            predictions=[
                "<masks>/{tomogram}<mask_ending>",
                "<predictions>/{tomogram}_preds.h5",
            ],
            truths=["<lamella>/{tomogram}.mrc", "<labels>/{tomogram}.mrc"],
        output:
            table="<evaluation>/{tomogram}.tsv",
        log:
            "<logs>/evaluate_labels/{tomogram}.log",
        benchmark:
            "<benchmarks>/evaluate_labels/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_evaluate"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["evaluate"],
        script:
            "../scripts/evaluate_labels.py"

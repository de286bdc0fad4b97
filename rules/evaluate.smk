"""One prediction stage against true labels, tomogram by tomogram and all together.

In:  <predictions>/{tomogram}_preds.h5, <truth>/{tomogram}<truth_ending>,
     <counted>/{tomogram}<counted_ending> if only voxels within masks count, files of positions,
     <compared>/{tomogram}<compared_ending> where another model predicted the tomogram too
Out: <evaluation>/{tomogram}_evaluation.tsv, <evaluation>/summary.tsv, <evaluation>/comparison.tsv
"""

from functools import partial

from cryoseg.job_resources import SLABWISE_MB, label_memory, slabwise_minutes, voxel_count

MASK = {"mask": "<counted>/{tomogram}<counted_ending>"} if config["masked"] else {}
POSITIONS = {"positions": config["positions"]} if config["positions"] else {}
COMPARISON = {"comparison": "<evaluation>/comparison.tsv"} if config["compared"] else {}

voxels = partial(voxel_count, config["volume"])


COMPARED = (
    {"compared": lambda wildcards: config["compared"].get(wildcards.tomogram, [])}
    if config["compared"]
    else {}
)


rule evaluate_labels:
    """Measure how the labels of a tomogram agree with the true ones, class by class."""
    input:
        **MASK,
        **POSITIONS,
        **COMPARED,
        predicted="<predictions>/{tomogram}_preds.h5",
        truth="<truth>/{tomogram}<truth_ending>",
    output:
        table="<evaluation>/{tomogram}_evaluation.tsv",
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
        mem_mb=lambda wildcards, attempt: (
            label_memory(voxels(wildcards.tomogram), attempt)
            if config["positions"]
            else attempt * SLABWISE_MB
        ),
        runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
    params:
        settings=config["evaluate"],
    script:
        "../scripts/evaluate_labels.py"


rule summarise_evaluation:
    """Sum up the evaluations of all tomograms of a stage, and compare it with another one."""
    input:
        tables=lambda wildcards: config["tables"],
    output:
        **COMPARISON,
        summary="<evaluation>/summary.tsv",
    log:
        "<logs>/summarise_evaluation.log",
    benchmark:
        "<benchmarks>/summarise_evaluation.tsv"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
        runtime=10,
    params:
        settings=config["summarise"],
    script:
        "../scripts/summarise_evaluation.py"

"""One training: labels, distances and patches of each tomogram, and one model from all of them.

In:  <tomograms>/{tomogram}<extension>, <labels>/{tomogram}<label_ending>,
     <unfiltered>/{tomogram}<unfiltered_ending> if labels are filtered,
     <noisy>/{tomogram}<noisy_ending> if they are read, a pretrained checkpoint if there is one,
     <admitted>/{tomogram}.admitted, which rules/check.smk writes of a tomogram that can be used
Out: <labels>/{tomogram}.mrc if labels are filtered, <distances>/{tomogram}_distances.h5,
     <patches>/{tomogram}_patches.h5, <models>/model_best.ckpt; for the overview
     <training_pictures>/{curves,augmented_samples,split}.png; for plans
     <training_logs>/calibration.json

Trainings that want the very same patches share those of the first of them.

train_model writes more than it declares: Snakemake deletes the declared outputs of a job before it
runs and after it failed, and a training that was cut short goes on from <models>/last.ckpt.
"""

from functools import partial
from pathlib import Path

from cryoseg.job_resources import (
    LONGEST_TRAINING_MINUTES,
    SLABWISE_MB,
    slabwise_minutes,
    sum_voxels,
    train_memory,
    voxel_count,
)

NOISY = {"noisy": "<noisy>/{tomogram}<noisy_ending>"} if config["noisy"] else {}
PRETRAINED = {"pretrained": "<pretrained>"} if config["pretrained"] else {}
# Ancient: a tomogram that is checked anew, and is what it was, is not prepared anew.
ADMITTED = {"admitted": ancient("<admitted>/{tomogram}.admitted")}

voxels = partial(voxel_count, config["volume"])
all_voxels = partial(sum_voxels, config["volume"], config["names"])


if config["prepares"] and config["filtered"]:

    rule filter_labels:
        """Keep the labels that are selected, and geometry; the originals stay as they are."""
        input:
            **ADMITTED,
            labels="<unfiltered>/{tomogram}<unfiltered_ending>",
        output:
            filtered="<labels>/{tomogram}<label_ending>",
        log:
            "<logs>/filter_labels/{tomogram}.log",
        benchmark:
            "<benchmarks>/filter_labels/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_filter"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["filter"],
        script:
            "../scripts/filter_labels.py"


if config["prepares"]:

    rule measure_distances:
        """Measure the signed distance of each voxel from the boundary of each class."""
        input:
            **({} if config["filtered"] else ADMITTED),
            labels="<labels>/{tomogram}<label_ending>",
        output:
            distances="<distances>/{tomogram}_distances.h5",
        log:
            "<logs>/measure_distances/{tomogram}.log",
        benchmark:
            "<benchmarks>/measure_distances/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_distances"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["distances"],
        script:
            "../scripts/measure_distances.py"

    rule cut_patches:
        """Cut a tomogram, its labels and distances into overlapping patches, which share their voxels."""
        input:
            **NOISY,
            **ADMITTED,
            tomogram="<tomograms>/{tomogram}<extension>",
            labels="<labels>/{tomogram}<label_ending>",
            distances="<distances>/{tomogram}_distances.h5",
        output:
            patches="<patches>/{tomogram}_patches.h5",
        log:
            "<logs>/cut_patches/{tomogram}.log",
        benchmark:
            "<benchmarks>/cut_patches/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_cut"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["cut"],
        script:
            "../scripts/cut_patches.py"


rule train_model:
    """Train a model on the patches of all tomograms."""
    input:
        **PRETRAINED,
        patches=lambda wildcards: config["patches"],
    output:
        checkpoint="<models>/model_best.ckpt",
    log:
        "<logs>/train_model.log",
    benchmark:
        "<benchmarks>/train_model.tsv"
    conda:
        "../envs/cryoseg.yaml"
    threads: config["threads"]
    resources:
        **config["speed"],
        mem_mb=lambda wildcards, attempt: train_memory(config["job"], all_voxels, attempt),
        runtime=LONGEST_TRAINING_MINUTES,
    params:
        settings=config["train"],
        log_dir=lambda wildcards, output: str(Path(output.checkpoint).parents[1]),
        # A function of the output is no reason to train anew when its value changes.
        continue_training=lambda wildcards, output: config["continue_training"],
    script:
        "../scripts/train_model.py"


rule calibrate_training:
    """Measure how fast the network trains on made-up patches, for plans."""
    input:
        **PRETRAINED,
    output:
        calibration="<training_logs>/calibration.json",
    log:
        "<logs>/calibrate_training.log",
    benchmark:
        "<benchmarks>/calibrate_training.tsv"
    conda:
        "../envs/cryoseg.yaml"
    threads: config["threads"]
    resources:
        gpu=int(config["speed"]["device"] != "cpu"),
        device=config["speed"]["device"],
        mem_mb=lambda wildcards, attempt: train_memory(config["job"], all_voxels, attempt),
        runtime=10,
    params:
        settings=config["train"],
    script:
        "../scripts/calibrate_training.py"


rule draw_training:
    """Draw which tomograms a finished model was trained on, and keep its curves and samples."""
    input:
        checkpoint="<models>/model_best.ckpt",
    output:
        curves=report(
            "<training_pictures>/curves.png",
            category="Training",
            subcategory=config["name"],
            caption="captions/curves.rst",
            labels={"shows": "curves"},
        ),
        samples=report(
            "<training_pictures>/augmented_samples.png",
            category="Training",
            subcategory=config["name"],
            caption="captions/augmented_samples.rst",
            labels={"shows": "augmented samples"},
        ),
        split=report(
            "<training_pictures>/split.png",
            category="Training",
            subcategory=config["name"],
            caption="captions/split.rst",
            labels={"shows": "split"},
        ),
    log:
        "<logs>/draw_training.log",
    benchmark:
        "<benchmarks>/draw_training.tsv"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
        runtime=30,
    script:
        "../scripts/draw_training.py"

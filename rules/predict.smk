"""One prediction stage: one model, applied to a folder of tomograms.

In:  <tomograms>/{tomogram}<extension>, <checkpoint>, <masks>/{tomogram}<mask_ending> if there are,
     <admitted>/{tomogram}.admitted, which rules/check.smk writes of a tomogram that can be used
Out: <predictions>/scores/{tomogram}_scores.h5 (GPU), <predictions>/{tomogram}_preds.h5 (CPU)
     and <predictions>/{tomogram}_preds<extension> if it is asked for; for the overview
     <predictions>/pictures/{tomogram}.png, <predictions>/pictures/summaries/{tomogram}.json

Scores and labels are two steps, so that a threshold never costs a GPU job. What only changes how
fast scores are computed are resources, which Snakemake does not compare with the last run's.
"""

from functools import partial
from tempfile import gettempdir

from cryoseg.job_resources import (
    SLABWISE_MB,
    USUAL_VOXELS,
    label_memory,
    score_memory,
    score_minutes,
    slabwise_minutes,
    voxel_count,
)

MASK = {"mask": "<masks>/{tomogram}<mask_ending>"} if config["masked"] else {}
MRC = {"mrc": "<predictions>/{tomogram}_preds<extension>"} if config["mrc"] else {}
PICTURE = "<predictions>/pictures/{tomogram}.png"

voxels = partial(voxel_count, config["volume"])
# Snakemake's own default, found once; worked out for each job, it slows large plans by a tenth.
tmpdir = gettempdir()


rule inspect_model:
    """Read the checkpoint and write down what it is, before any GPU is booked for it."""
    input:
        checkpoint="<checkpoint>",
    output:
        model="<predictions>/scores/model.json",
    log:
        "<logs>/inspect_model.log",
    benchmark:
        "<benchmarks>/inspect_model.tsv"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        # Resources, so that another postprocessing is no reason to compute scores anew.
        **config["asked_of_model"],
        mem_mb=lambda wildcards, attempt: attempt * 2000,
        runtime=10,
    params:
        settings=config["inspect"],
    script:
        "../scripts/inspect_model.py"


rule calibrate:
    """Measure how fast the checkpoint scores made-up tomograms, in about a minute, for plans."""
    input:
        checkpoint="<checkpoint>",
        model="<predictions>/scores/model.json",
    output:
        calibration="<predictions>/scores/calibration.json",
    log:
        "<logs>/calibrate.log",
    benchmark:
        "<benchmarks>/calibrate.tsv"
    conda:
        "../envs/cryoseg.yaml"
    threads: 8
    resources:
        **config["speed"],
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: score_memory(
            USUAL_VOXELS, config["speed"]["device"], config["speed"]["memory_gb"], attempt
        ),
        runtime=10,
    params:
        settings=config["score"],
    script:
        "../scripts/calibrate.py"


rule score_voxels:
    """Send a tomogram through the network and keep what it says of each voxel."""
    input:
        **MASK,
        # Ancient: a tomogram that is checked anew, and is what it was, is not scored anew.
        admitted=ancient("<admitted>/{tomogram}.admitted"),
        tomogram="<tomograms>/{tomogram}<extension>",
        checkpoint="<checkpoint>",
        model="<predictions>/scores/model.json",
    output:
        scores="<predictions>/scores/{tomogram}_scores.h5",
    log:
        "<logs>/score_voxels/{tomogram}.log",
    benchmark:
        "<benchmarks>/score_voxels/{tomogram}.tsv"
    wildcard_constraints:
        tomogram="[^/]+",
    group:
        "gpu_score"
    conda:
        "../envs/cryoseg.yaml"
    threads: 8
    resources:
        **config["speed"],
        tmpdir=tmpdir,
        attempt=lambda wildcards, attempt: attempt,
        mem_mb=lambda wildcards, attempt: score_memory(
            voxels(wildcards.tomogram),
            config["speed"]["device"],
            config["speed"]["memory_gb"],
            attempt,
        ),
        runtime=lambda wildcards, attempt: score_minutes(
            voxels(wildcards.tomogram), config["speed"]["device"], attempt
        ),
    params:
        settings=config["score"],
    script:
        "../scripts/score_voxels.py"


rule label_voxels:
    """Turn scores into labels: threshold, and cleaning of masks or of small components."""
    input:
        **MASK,
        scores="<predictions>/scores/{tomogram}_scores.h5",
        tomogram="<tomograms>/{tomogram}<extension>",
    output:
        **MRC,
        labels="<predictions>/{tomogram}_preds.h5",
    log:
        "<logs>/label_voxels/{tomogram}.log",
    benchmark:
        "<benchmarks>/label_voxels/{tomogram}.tsv"
    wildcard_constraints:
        tomogram="[^/]+",
    group:
        "cpu_label"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        tmpdir=tmpdir,
        mem_mb=lambda wildcards, attempt: label_memory(voxels(wildcards.tomogram), attempt),
        runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
    params:
        settings=config["label"],
        # What the scores must be made with: scores that are missing because their job failed are
        # no reason to make labels anew, and labels of older scores would pass for new ones.
        scored=config["score"],
    script:
        "../scripts/label_voxels.py"


rule draw_prediction:
    """Draw a tomogram with its lamella and classes, and count them, for the overview."""
    input:
        **MASK,
        tomogram="<tomograms>/{tomogram}<extension>",
        scores="<predictions>/scores/{tomogram}_scores.h5",
        labels="<predictions>/{tomogram}_preds.h5",
    output:
        picture=(
            report(
                PICTURE,
                category="Predictions",
                subcategory=config["draw"]["stage"],
                caption="captions/prediction.rst",
                labels={"tomogram": "{tomogram}"},
            )
            if config["in_report"]
            else PICTURE
        ),
        summary="<predictions>/pictures/summaries/{tomogram}.json",
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
        tmpdir=tmpdir,
        mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
        runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
    params:
        settings=config["draw"],
    script:
        "../scripts/draw_prediction.py"

"""One prediction stage against true labels, tomogram by tomogram and all together.

In:  <predictions>/{tomogram}_preds.h5, <truth>/{tomogram}<truth_ending>,
     <predictions>/scores/model.json, which tells what the model was trained on,
     <counted>/{tomogram}<counted_ending> if only voxels within masks count, files of positions,
     <compared>/{tomogram}<compared_ending> where another model predicted the tomogram too,
     <checks>/{tomogram}.json, which rules/check.smk writes, where there are files to be checked
Out: <admitted>/{tomogram}.admitted, if these can be used,
     <evaluation>/{tomogram}_evaluation.tsv, <evaluation>/summary.tsv, <evaluation>/comparison.tsv,
     the latter two as .html too, with a row for each tomogram that failed (cryoseg.unmade),
     and where thresholds are chosen, <evaluation>/config_with_thresholds.yaml
"""

from functools import partial

from cryoseg.job_resources import SLABWISE_MB, label_memory, slabwise_minutes, voxel_count
from cryoseg.plan import UNMADE

MASK = {"mask": "<counted>/{tomogram}<counted_ending>"} if config["masked"] else {}
POSITIONS = {"positions": config["positions"]} if config["positions"] else {}
# Ancient: what is checked anew, and is what it was, is not evaluated anew.
ADMITTED = {"admitted": ancient("<admitted>/{tomogram}.admitted")} if config["checked"] else {}

voxels = partial(voxel_count, config["volume"])


in_report = partial(report, category="Evaluation", subcategory=config["name"])
of_tables = partial(in_report, caption="captions/evaluation.rst")


COMPARED = (
    {"compared": lambda wildcards: config["compared"].get(wildcards.tomogram, [])}
    if config["compared"]
    else {}
)
COMPARISON = (
    {
        "comparison_page": of_tables(
            "<evaluation>/comparison.html", labels={"shows": "comparison"}
        ),
        "comparison": of_tables(
            "<evaluation>/comparison.tsv", labels={"shows": "comparison as a table (TSV)"}
        ),
    }
    if config["compared"]
    else {}
)


if config["checked"]:

    rule admit_to_evaluate:
        """Let a tomogram be evaluated, unless its check found an error in what that reads."""
        input:
            findings="<checks>/{tomogram}.json",
        output:
            admitted="<admitted>/{tomogram}.admitted",
        log:
            "<logs>/admit_to_evaluate/{tomogram}.log",
        benchmark:
            "<benchmarks>/admit_to_evaluate/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_check"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: attempt * 500,
            runtime=10,
        params:
            settings=config["admit"],
        script:
            "../scripts/admit_tomogram.py"


rule evaluate_labels:
    """Measure how the labels of a tomogram agree with the true ones, class by class."""
    input:
        **MASK,
        **POSITIONS,
        **COMPARED,
        **ADMITTED,
        models=config["models"],
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
        tables=lambda wildcards: config["tables"]["evaluation"],
    output:
        **COMPARISON,
        summary_page=of_tables("<evaluation>/summary.html", labels={"shows": "summary"}),
        summary=of_tables("<evaluation>/summary.tsv", labels={"shows": "summary as a table (TSV)"}),
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
        unmade=UNMADE,
    script:
        "../scripts/summarise_evaluation.py"


if config["chooses"]:

    rule try_thresholds:
        """Count the voxels of each class of a tomogram at every threshold."""
        input:
            **MASK,
            **ADMITTED,
            scores="<predictions>/scores/{tomogram}_scores.h5",
            truth="<truth>/{tomogram}<truth_ending>",
        output:
            table="<evaluation>/{tomogram}_thresholds.tsv",
        log:
            "<logs>/try_thresholds/{tomogram}.log",
        benchmark:
            "<benchmarks>/try_thresholds/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_try_thresholds"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: label_memory(voxels(wildcards.tomogram), attempt),
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["try_thresholds"],
        script:
            "../scripts/try_thresholds.py"

    rule choose_thresholds:
        """Choose the threshold of each class that gives the largest mean Dice."""
        input:
            tables=lambda wildcards: config["tables"]["thresholds"],
            model=config["models"][0],
        output:
            chosen="<evaluation>/thresholds.tsv",
        log:
            "<logs>/choose_thresholds.log",
        benchmark:
            "<benchmarks>/choose_thresholds.tsv"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
            runtime=10,
        params:
            settings=config["choose_thresholds"],
        script:
            "../scripts/choose_thresholds.py"

    rule try_sizes:
        """Count the voxels of each class that stay where small components are removed."""
        input:
            **MASK,
            **ADMITTED,
            scores="<predictions>/scores/{tomogram}_scores.h5",
            truth="<truth>/{tomogram}<truth_ending>",
            thresholds="<evaluation>/thresholds.tsv",
        output:
            table="<evaluation>/{tomogram}_sizes.tsv",
        log:
            "<logs>/try_sizes/{tomogram}.log",
        benchmark:
            "<benchmarks>/try_sizes/{tomogram}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_try_sizes"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: label_memory(voxels(wildcards.tomogram), attempt),
            runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
        params:
            settings=config["try_sizes"],
        script:
            "../scripts/try_sizes.py"

    rule choose_sizes:
        """Choose which components go, and write a configuration to predict with."""
        input:
            tables=lambda wildcards: config["tables"]["sizes"],
            thresholds="<evaluation>/thresholds.tsv",
        output:
            chosen="<evaluation>/sizes.tsv",
            choice="<evaluation>/choice.tsv",
            picture=in_report(
                "<evaluation>/thresholds.png",
                caption="captions/thresholds.rst",
                labels={"shows": "thresholds"},
            ),
            configuration="<evaluation>/config_with_thresholds.yaml",
        log:
            "<logs>/choose_sizes.log",
        benchmark:
            "<benchmarks>/choose_sizes.tsv"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
            runtime=10,
        params:
            settings=config["choose_sizes"],
        script:
            "../scripts/choose_sizes.py"

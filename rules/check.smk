"""One folder of tomograms that are predicted or trained on, checked before any job that takes long.

In:  <tomograms>/{tomogram}<extension>, the masks and labels that belong to it, files of positions
Out: <checks>/{tomogram}.json, what it is like and what is wrong with it
     <checks>/predict_STAGE/{tomogram}.admitted and <checks>/train_NAME/{tomogram}.admitted, if that
     stage or training can use it
     <table>, a row for each tomogram, and <page>, the same to look at

A check never fails for what is wrong with a tomogram, so that the table can be made; admitting the
tomogram does, which keeps it alone from what comes next. Stages that make the same demands are
admitted to by one job, others by jobs of their own: what is wrong for one stops that one. A tomogram
that cannot be scaled is not checked, and the table says why.
"""

from functools import partial
from tempfile import gettempdir

from cryoseg.job_resources import SLABWISE_MB, slabwise_minutes, voxel_count
from cryoseg.plan import UNMADE, checked_for, companions_of, positions_of, tomogram_of

voxels = partial(voxel_count, config["volume"])
# Snakemake's own default, found once, as in predict.smk.
tmpdir = gettempdir()


rule check_tomogram:
    """Read a tomogram once and write down what it is like and what is wrong with it."""
    input:
        tomogram=lambda wildcards: tomogram_of(config, wildcards.tomogram),
        companions=lambda wildcards: companions_of(config, wildcards.tomogram),
        positions=lambda wildcards: positions_of(config, wildcards.tomogram),
    output:
        findings="<checks>/{tomogram}.json",
    log:
        "<logs>/check_tomogram/{tomogram}.log",
    benchmark:
        "<benchmarks>/check_tomogram/{tomogram}.tsv"
    wildcard_constraints:
        tomogram="[^/]+",
    group:
        "cpu_check"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        tmpdir=tmpdir,
        mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
        runtime=lambda wildcards, attempt: slabwise_minutes(voxels(wildcards.tomogram), attempt),
    params:
        settings=lambda wildcards: checked_for(config, wildcards.tomogram),
    script:
        "../scripts/check_tomogram.py"


for admission in config["admissions"]:

    rule:
        """Let a tomogram be predicted or trained on, unless its check found an error."""
        name:
            admission["rule"]
        input:
            findings="<checks>/{tomogram}.json",
        output:
            admitted=[f"<checks>/{folder}/{{tomogram}}.admitted" for folder in admission["folders"]],
        log:
            f"<logs>/{admission['rule']}/{{tomogram}}.log",
        benchmark:
            f"<benchmarks>/{admission['rule']}/{{tomogram}}.tsv"
        wildcard_constraints:
            tomogram="[^/]+",
        group:
            "cpu_check"
        conda:
            "../envs/cryoseg.yaml"
        resources:
            tmpdir=tmpdir,
            mem_mb=lambda wildcards, attempt: attempt * 500,
            runtime=10,
        params:
            settings={"demands": admission["demands"]},
        script:
            "../scripts/admit_tomogram.py"


rule tabulate_checks:
    """Tabulate the checks of all tomograms, with names of files that nearly match."""
    input:
        findings=lambda wildcards: config["findings"],
    output:
        page=report(
            "<page>",
            category="Checks",
            caption="captions/checks.rst",
            labels={"shows": config["name"]},
        ),
        table=report(
            "<table>",
            category="Checks",
            caption="captions/checks.rst",
            labels={"shows": f"{config['name']} as a table (TSV)"},
        ),
    log:
        "<logs>/tabulate_checks.log",
    benchmark:
        "<benchmarks>/tabulate_checks.tsv"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: attempt * SLABWISE_MB,
        runtime=30,
    params:
        settings={"folders": config["folders"], "readers": config["readers"]},
        unmade=UNMADE,
    script:
        "../scripts/tabulate_checks.py"

"""What shows all that was predicted, on one page.

In:  what draw_prediction wrote of each tomogram (rules/predict.smk)
Out: overview.html, overview.tsv

A tomogram that failed has a row too, which says why (cryoseg.unmade).

The report of a run is made by snakemake itself, of the outputs that are marked for it:
snakemake --report report.html overview. One label each and no more: of a second one that has two
values for half of the files each, the report makes a switch, and shows nothing at all where a file
has no counterpart.
"""

from cryoseg.plan import UNMADE


rule write_overview:
    """Write a page and a table of all predicted tomograms, those that stand out first."""
    input:
        summaries=lambda wildcards: config["summaries"],
    output:
        page=report(
            "overview.html",
            category="Overview",
            caption="captions/overview.rst",
            labels={"shows": "all tomograms"},
        ),
        table=report(
            "overview.tsv",
            category="Overview",
            caption="captions/overview.rst",
            labels={"shows": "the same as a table (TSV)"},
        ),
    log:
        "logs/write_overview.log",
    benchmark:
        "benchmarks/write_overview.tsv"
    conda:
        "../envs/cryoseg.yaml"
    resources:
        mem_mb=lambda wildcards, attempt: attempt * 2000,
        runtime=30,
    params:
        settings=config["settings"],
        unmade=UNMADE,
    script:
        "../scripts/write_overview.py"

"""What looks at a run as a whole: plan before it, verify after it.

Both only read, and start anew each time that they are asked for: they have no output that
Snakemake knows of. They take the jobs from Snakemake itself, so that no rule is described twice.
"""


rule verify:
    log:
        "logs/verify.log",
    retries: 0
    """List the outputs whose recorded input, checkpoint or settings no longer match, and why."""
    localrule: True
    conda:
        "../envs/cryoseg.yaml"
    threads: 4
    params:
        steps=lambda wildcards: [as_step(job) for job in jobs_behind(workflow.dag, FILES["all"])],
        table="verify.tsv",
    script:
        "../scripts/verify_outputs.py"

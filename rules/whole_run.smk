"""What looks at a run as a whole: plan before it, verify after it, calibrate once for plan.

plan and verify only read, and start anew each time that they are asked for: they have no output
that Snakemake knows of. They take the jobs from Snakemake itself, so that no rule is described
twice, and run where snakemake was started, since they print what they find.
"""


localrules:
    calibrate,
    plan,
    verify,


rule calibrate:
    """Measure how fast each stage scores, where its model is there, and each training trains."""
    input:
        plan.calibrations(STAGES) if HERE else [],


rule plan:
    """Estimate jobs, time, disk and memory of what is still to be done."""
    log:
        "logs/plan.log",
    conda:
        "../envs/cryoseg.yaml"
    params:
        steps=lambda wildcards: [
            as_step(job, with_resources=True)
            for job in jobs_behind(workflow.dag, [*FILES["all"], *FILES["overview"]])
        ],
        # A function: names of files may have braces, which stand for wildcards elsewhere.
        targets=lambda wildcards: FILES["all"],
        cores=workflow.resource_settings.cores,
        memory_mb=booked_together(workflow),
        elsewhere=workflow.resource_settings.nodes is not None,
        table="plan.tsv",
    script:
        "../scripts/estimate_run.py"


rule verify:
    """List the outputs whose recorded input, checkpoint or settings no longer match, and why."""
    log:
        "logs/verify.log",
    conda:
        "../envs/cryoseg.yaml"
    threads: 4
    params:
        steps=lambda wildcards: [
            as_step(job) for job in jobs_behind(workflow.dag, plan.all_outputs(STAGES, FILES))
        ],
        table="verify.tsv",
    script:
        "../scripts/verify_outputs.py"

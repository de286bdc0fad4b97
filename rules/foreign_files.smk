"""A run that would replace files of others is refused before anything starts.

The jobs are known when Snakemake has made its plan, and what they write is deleted when the first
of them begins; this comes in between, in dry runs too.
"""

import snakemake.dag

from cryoseg import foreign_files


def refuse_to_replace_foreign_files(workflow, stages):
    """Let a run end, once it is planned, where it would replace what cryoseg did not make."""
    prepare = snakemake.dag.DAG.postprocess

    async def postprocess(dag, *arguments, check_initial=False, **options):
        await prepare(dag, *arguments, check_initial=check_initial, **options)
        # check_initial: the plan is complete, and jobs are about to be started
        if check_initial and workflow.is_main_process and not workflow.touch:
            check_planned(dag, stages)

    snakemake.dag.DAG.postprocess = postprocess


def check_planned(dag, stages):
    """End the run where planned outputs, or models that are not planned anew, are not ours."""
    trainings = {stages.best_model(name): f"train.{name}" for name in stages.train}
    outputs = {
        str(file): file
        for job in dag.jobs
        for file in job.output
        if file in trainings or dag.needrun(job)
    }
    recorded, others = foreign_files.recorded_or_not(outputs)
    foreign = [file for file in others if not is_known(dag.workflow.persistence, outputs[file])]
    changed = foreign_files.changed_since(recorded)
    if foreign or changed:
        models = {file: trainings[file] for file in [*foreign, *changed] if file in trainings}
        sys.exit(foreign_files.refusal(foreign, changed, models))


def is_known(persistence, file):
    """Whether a file without a record is ours: by Snakemake's notes, or as a model."""
    if persistence._filter_incomplete_keys([str(file)]):
        return foreign_files.is_signed(file)
    noted = persistence.metadata(file)
    if noted is not None and foreign_files.has_time(file, noted.endtime or 0):
        return True
    return file.endswith(".ckpt") and foreign_files.has_dated_copy(file)


refuse_to_replace_foreign_files(workflow, STAGES)

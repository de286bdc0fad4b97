"""A run that would replace files of others is refused before anything starts.

The jobs are known when Snakemake has made its plan, and what they write is deleted when the first
of them begins; this comes in between, in dry runs too.
"""

import snakemake.dag

from cryoseg import foreign_files
from cryoseg.provenance import record_path
from cryoseg.shared_folders import entries_by_folder, other_runs


def refuse_to_replace_foreign_files(workflow, stages):
    """Let a run end, once it is planned, where it would replace what cryoseg did not make."""
    prepare, delete_outputs = snakemake.dag.DAG.postprocess, snakemake.dag.DAG.clean

    async def postprocess(dag, *arguments, check_initial=False, **options):
        await prepare(dag, *arguments, check_initial=check_initial, **options)
        # check_initial: the plan is complete, and jobs are about to be started
        if check_initial and workflow.is_main_process and not workflow.touch:
            refuse_foreign(dag, stages, dag.needrun)

    async def clean(dag, only_temp=False, **options):  # snakemake --delete-all-output
        if not only_temp:
            refuse_foreign(dag, stages, lambda job: True)
        await delete_outputs(dag, only_temp=only_temp, **options)

    snakemake.dag.DAG.postprocess = postprocess
    snakemake.dag.DAG.clean = clean


def refuse_foreign(dag, stages, is_lost):
    """End the run where outputs that would be lost, or any models of trainings, are not ours.

    is_lost: function that tells of a job whether what its outputs are now would be
    """
    trainings = {stages.best_model(name): f"train.{name}" for name in stages.train}
    outputs = {
        str(file): file
        for job in dag.jobs
        for file in job.output
        if file in trainings or is_lost(job)
    }
    recorded, others = foreign_files.recorded_or_not(outputs)
    elsewhere = list(other_runs(entries_by_folder(stages))) if others else []
    persistence = dag.workflow.persistence
    foreign = [file for file in others if not is_known(persistence, outputs[file], elsewhere)]
    changed = foreign_files.changed_since(recorded)
    if foreign or changed:
        models = {file: trainings[file] for file in [*foreign, *changed] if file in trainings}
        sys.exit(foreign_files.refusal(foreign, changed, models))


def is_known(persistence, file, elsewhere):
    """Whether a file without a record is ours, by its own word and by Snakemake's notes.

    A job that is killed between the two leaves a mark; notes tell of what older versions made.
    elsewhere: as of other_runs
    """
    noted = persistence.metadata(file)
    expected = (
        file.endswith(".ckpt")  # which has a dated copy, or is not ours
        or persistence._filter_incomplete_keys([str(file)])
        or (noted is not None and foreign_files.has_time(file, noted.endtime or 0))
        or is_made_elsewhere(persistence, str(file), elsewhere)
    )
    return expected and foreign_files.is_signed(str(file))


def is_made_elsewhere(persistence, file, elsewhere):
    """Whether a run of another working folder has begun a file, or recorded it by now."""
    for folder, run in elsewhere:
        marks = os.path.join(run, ".snakemake", "incomplete")
        if file.startswith(f"{folder}/") and os.path.isdir(marks):
            for key in (file, os.path.relpath(file, run)):
                if os.path.exists(persistence._record_path(marks, key)):
                    return True
    return record_path(file).exists()


refuse_to_replace_foreign_files(workflow, STAGES)

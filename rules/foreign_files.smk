"""A run that would replace files of others is refused before anything starts.

The jobs are known when Snakemake has made its plan, and what they write is deleted when they begin;
this comes in between, in dry runs too, and again as each job begins, which may be days later.
"""

import os
import sys
from contextlib import suppress
from functools import cached_property
from pathlib import Path

import snakemake.dag
import snakemake.jobs
import snakemake.persistence.file
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from cryoseg import foreign_files
from cryoseg.errors import InputError
from cryoseg.provenance import is_empty, record_path
from cryoseg.shared_folders import entries_by_folder, noted_elsewhere, other_runs
from cryoseg.small_files import files_only


def refuse_to_replace_foreign_files(workflow, stages):
    """Let a run end, once it is planned, where it would replace what cryoseg did not make."""
    notes = Notes(workflow, stages)
    plan, delete_outputs = snakemake.dag.DAG.postprocess, snakemake.dag.DAG.clean
    prepare, end = snakemake.jobs.Job.prepare, snakemake.jobs.Job.postprocess
    date_outputs = snakemake.dag.DAG.check_and_touch_output
    write_note = snakemake.persistence.file.FilePersistence._write_record
    unmark = snakemake.persistence.file.FilePersistence._unmark_incomplete
    left_at = {}  # times of change as jobs left them, by the notes' keys, of outputs changed since
    outdated = set()  # the notes' keys of outputs whose inputs were changed since they were read

    async def planned(dag, *arguments, check_initial=False, **options):
        await plan(dag, *arguments, check_initial=check_initial, **options)
        # check_initial: the plan is complete, and jobs are about to be started
        if check_initial and workflow.is_main_process:
            refuse_foreign(dag, notes, dag.needrun)

    async def clean(dag, only_temp=False, **options):  # snakemake --delete-all-output
        if not only_temp:
            refuse_foreign(dag, notes, lambda job: True)
        await delete_outputs(dag, only_temp=only_temp, **options)

    async def prepared(job):  # by deleting what is there of its outputs
        if said := foreign_among(job, notes):
            # Where the end of the run looks for what to say; every rule that writes has one.
            log = Path(job.log[0])
            with suppress(OSError, InputError):
                log.parent.mkdir(parents=True, exist_ok=True)
                with open(log, "w", encoding="utf-8", opener=files_only) as file:
                    file.write(f"error: {said}\n")
            raise WorkflowError(said)
        await prepare(job)

    async def ended(job, *arguments, error=False, **options):
        if error and not workflow.is_main_process:
            return  # the main process does what follows; a mark that is there tells it of the error
        if not (error and foreign_among(job, notes)):
            await end(job, *arguments, error=error, **options)
        else:  # or Snakemake would take what is there for the job's, and remove it
            for file in job.output:
                workflow.persistence._unmark_incomplete(workflow.persistence._get_key(file))

    async def dated(dag, job, **options):
        """Date what a job has left, in the main process alone: not what was changed since.

        On a cluster a job's outputs may lie there for hours until that one notices.
        """
        undated = options | {"no_touch": True, "check_output_mtime": False}
        await date_outputs(dag, job, **undated)  # which waits for the files
        if not workflow.is_main_process:
            return
        changed, replaced = {}, []
        if not workflow.touch:  # whose plan has compared all
            changed = foreign_files.changed_since_made(map(str, job.output))
            replaced = foreign_files.changed_since_read(map(str, job.output), given_to(dag, job))
        for file in job.output:
            left_at[workflow.persistence._get_key(file)] = changed.get(str(file))
        if replaced:
            outdated.update(map(workflow.persistence._get_key, job.output))
            logger.warning(foreign_files.said_of_outdated(replaced))
        if changed:
            logger.warning(foreign_files.said_of_changed(changed))
        else:
            await date_outputs(dag, job, **options | {"wait": 0})  # nor for what went since

    def noted(persistence, key, record):
        # By the time at which it was changed, it would be told as the job's own.
        record.endtime = left_at.pop(key, None) or record.endtime
        write_note(persistence, key, record)

    def unmarked(persistence, key):
        # By its date, and by what Snakemake notes of its inputs now, it would be up to date.
        if key not in outdated:
            unmark(persistence, key)

    snakemake.dag.DAG.postprocess = planned
    snakemake.dag.DAG.clean = clean
    snakemake.jobs.Job.prepare = prepared
    snakemake.jobs.Job.postprocess = ended
    snakemake.dag.DAG.check_and_touch_output = dated
    snakemake.persistence.file.FilePersistence._write_record = noted
    snakemake.persistence.file.FilePersistence._unmark_incomplete = unmarked


def given_to(dag, job):
    """Paths of the inputs of a job that no job makes."""
    made = {file for files in dag.dependencies[job].values() for file in files}
    return [str(file) for file in job.input if file not in made]


def refuse_foreign(dag, notes, is_lost):
    """End the run where outputs that would be lost, or pass for what was asked for, are not ours.

    is_lost: function that tells of a job whether what its outputs are now would be
    """
    lost = {str(file): file for job in dag.jobs for file in job.output if is_lost(job)}
    kept = {str(file): file for job in dag.jobs for file in job.output if not is_lost(job)}
    stages = notes.stages
    trainings = {stages.best_model(name): f"train.{name}" for name in stages.train}
    models = {path: file for path, file in kept.items() if path in trainings}
    try:
        there = foreign_files.recorded_or_not(lost)
        # The dates of --touch would tell of no change; with it, no job begins that looks again.
        most = None if notes.workflow.touch else foreign_files.MOST_READ
        foreign, changed = not_ours(notes, lost, there, most)
        foreign += passing_for_ours(notes, kept)
        changed += changed_models(notes, models)
        warn_of_changed_inputs(dag, notes, is_lost)
    except InputError as error:
        sys.exit(str(error))
    if foreign or changed:
        models = {file: trainings[file] for file in [*foreign, *changed] if file in trainings}
        sys.exit(foreign_files.refusal(foreign, changed, models))


def foreign_among(job, notes):
    """What to tell of outputs of a job that would be lost when it begins; None if all are ours."""
    outputs = {str(file): file for file in job.output}
    there = foreign_files.recorded_or_not_of_a_job(outputs)
    try:
        foreign, changed = not_ours(notes, outputs, there)
    except InputError as error:
        return str(error)
    return foreign_files.refusal_of_a_job(foreign + changed) if foreign or changed else None


def not_ours(notes, outputs, there, most=None):
    """Two lists of those of the outputs, {path: file}, that are there: foreign, and changed.

    there: of them, as of recorded_or_not
    most:  as changed_since takes it
    """
    recorded, others = there
    foreign = [path for path in others if not notes.tell_of(outputs[path])]
    changed = foreign_files.changed_since(recorded, lambda path: notes.times(outputs[path]), most)
    return foreign, changed


def passing_for_ours(notes, outputs):
    """Those of the outputs of jobs with nothing to do that nobody knows of and that are not ours.

    By their own word: where records and notes are lost, as in a copy of the results alone, it is
    enough for what is not replaced.
    """
    _, others = foreign_files.recorded_or_not(outputs)
    return [
        path
        for path in others
        if not foreign_files.has_time(path, notes.times(outputs[path]))
        and not foreign_files.is_signed(path)
    ]


def changed_models(notes, models):
    """Those of the models, {path: file}, that are no longer as their trainings left them."""
    recorded, _ = foreign_files.recorded_or_not(models)
    return foreign_files.changed_since(recorded, lambda path: notes.times(models[path]))


def warn_of_changed_inputs(dag, notes, is_lost):
    """Tell of outputs that were changed since they were made, and that jobs are about to read."""
    read = {
        str(file): notes.times(file)
        for job in dag.jobs
        if is_lost(job)
        for producer, files in dag.dependencies[job].items()
        if not is_lost(producer)
        for file in files
    }
    recorded, _ = foreign_files.recorded_or_not(read)
    # Of what nobody noted, all would have to be read.
    noted = [path for path in recorded if read[path]]
    changed = foreign_files.changed_since(noted, read.get, foreign_files.MOST_READ)
    if changed:
        logger.warning(foreign_files.said_of_changed(changed))


class Notes:
    """What runs of this and other working folders have noted of outputs that lie there."""

    def __init__(self, workflow, stages):
        self.workflow, self.stages = workflow, stages

    @property
    def persistence(self):
        return self.workflow.persistence  # which is there once the plan is

    @cached_property
    def elsewhere(self):
        """As of other_runs, when a run began."""
        return list(other_runs(entries_by_folder(self.stages)))

    def times(self, file):
        """Times of change that an output had when jobs that made it were done."""
        noted = self.persistence.metadata(file)
        times = [noted.endtime] if noted and noted.endtime else []
        if not foreign_files.has_time(str(file), times):
            place_of = self.persistence._record_path
            others = (
                note.get("endtime") for note in noted_elsewhere(file, self.elsewhere, place_of)
            )
            times += [each for each in others if isinstance(each, float)]
        return times

    def tell_of(self, file):
        """Whether a file without a record is ours, by its own word and by Snakemake's notes.

        These tell of what older versions made: by now, a file's record is there before the file.
        In a file of no bytes, nothing can be lost.
        """
        path = str(file)
        expected = (
            file.endswith(".ckpt")  # which has a dated copy, or is not ours
            or foreign_files.has_time(path, self.times(file))
            or record_path(path).exists()  # by now, of a run elsewhere
        )
        return is_empty(path) or (expected and foreign_files.is_signed(path))


refuse_to_replace_foreign_files(workflow, STAGES)

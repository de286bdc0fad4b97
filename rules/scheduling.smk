"""How a run goes on where something fails: what Snakemake does not do by itself.

A job whose input is wrong is not tried again; steps that gather files of all tomograms do without
what could not be made; a lock that a killed run left is taken off; jobs at once fit into memory;
what a full disk or a folder of somebody else does not take is told of in words, and does not cost
what is done; a file that is gone costs its own job alone.
"""

import _thread
import logging
import os
import sys
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import snakemake.benchmark
import snakemake.dag
import snakemake.executors.local
import snakemake.jobs
import snakemake.persistence
import snakemake.persistence.file
from snakemake.common.workdir_handler import WorkdirHandler
from snakemake.exceptions import RuleException, WorkflowError
from snakemake.logging import logger
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake.settings.types import PersistenceBackend

from cryoseg import plan, run_owners
from cryoseg.errors import InputError
from cryoseg.failures import explain, names_input_error, stamp_of_log, why_not_begun
from cryoseg.folders import is_full_disk, not_writable, why_gone, why_no_notes
from cryoseg.host_memory import free_host_memory
from cryoseg.joblog import not_to_outlive_this
from cryoseg.unmade import Unmade, write_unmade

# What the end of the run says of jobs that could not begin, or for whose notes there was no space.
SAID = {}
# What lay at the path of each job's log when this run last began it: a job that does not get as far
# as its log leaves there that of an earlier run.
LOGS_BEFORE = {}
WORKING_FOLDER = os.getcwd()
NOTES_FOLDER = f"{WORKING_FOLDER}/.snakemake"


class WithoutAncient:
    """The jobs that depend on each job of a DAG, without those for which its date does not count."""

    def __init__(self, depending):
        self.depending = depending

    def __getitem__(self, job):
        found = self.depending[job].items()
        return {each: files for each, files in found if not all(f.is_ancient for f in files)}


def heed_changes_behind_ancient_files():
    """Let Snakemake look at each job that depends on a job that runs by ancient() files alone.

    It takes all that comes after a job that runs for certain to run too, and does not look at it;
    then it leaves out what does so by ancient files alone, even if its own settings changed.
    """
    search = snakemake.dag.DAG.bfs

    def bfs(dag, direction, *jobs, **options):
        if direction is dag.depending:
            direction = WithoutAncient(direction)
        return search(dag, direction, *jobs, **options)

    snakemake.dag.DAG.bfs = bfs


def retry_what_may_succeed():
    """Do not try a job again that says what is wrong with its input or places: that stays wrong."""
    allowed = snakemake.jobs.Job.restart_times.fget

    def restart_times(job):
        log = str(job.log[0]) if job.log else ""
        stays = job in SAID or names_input_error(log, log_before(job))
        return 0 if stays else allowed(job)

    snakemake.jobs.Job.restart_times = property(restart_times)


def log_before(job):
    """stamp_of_log of a job's log when it last began; what is there is of before if it never did."""
    if job in LOGS_BEFORE or not job.log:
        return LOGS_BEFORE.get(job)
    return stamp_of_log(str(job.log[0]))


def note_logs_of_before():
    """Note what lies at the path of a job's log as the job begins, see LOGS_BEFORE."""
    run = JobScheduler.run

    def noted(scheduler, jobs, executor=None):
        for each in jobs:
            with_log = [job for job in getattr(each, "jobs", [each]) if job.log]
            LOGS_BEFORE.update((job, stamp_of_log(str(job.log[0]))) for job in with_log)
        run(scheduler, jobs, executor)

    JobScheduler.run = noted


def gather_what_there_is():
    """Let steps that gather files of all tomograms run without those that could not be made.

    They are those of rules with a parameter ``unmade`` (see cryoseg.unmade), and wait until nothing
    else can run any more.
    """
    open_jobs, wait = JobScheduler.open_jobs.fget, snakemake.jobs.wait_for_files
    waited_for = snakemake.jobs.Job.get_wait_for_files

    def open_or_gathering(scheduler):
        idle = not (open_jobs(scheduler) or scheduler.running or LACKING)
        ended = scheduler._user_kill or scheduler._executor_error or not scheduler.keepgoing
        if idle and scheduler.failed and not ended and workflow.is_main_process:
            begin_to_gather(scheduler)
        return open_jobs(scheduler)

    async def wait_for_what_there_is(files, *arguments, **options):
        await wait([file for file in files if file not in LACKING], *arguments, **options)

    def of_what_there_is(job, *arguments, **options):
        files = waited_for(job, *arguments, **options)
        there = [file for file in files if file not in LACKING]
        return there if len(there) == len(files) else [*there, plan.UNMADE]

    JobScheduler.open_jobs = property(open_or_gathering)
    snakemake.jobs.wait_for_files = wait_for_what_there_is
    snakemake.jobs.Job.get_wait_for_files = of_what_there_is


def begin_to_gather(scheduler):
    """Make the gathering jobs that wait for what failed ready, and write down what they lack."""
    dag, known = scheduler.workflow.dag, {}
    failed = {job for each in scheduler.failed for job in getattr(each, "jobs", [each])}

    def reason(job):
        """Why a job was not done: the first failure among what it waits for, or its own."""
        if job not in known:
            before = [reason(each) for each in dag.dependencies[job] if waits(each)]
            known[job] = before[0] if before else why_failed(job)
        return known[job]

    def waits(job):
        return dag.needrun(job) and not dag.finished(job)

    gathering = [
        job
        for job in dag.needrun_jobs()
        if "unmade" in job.rule.params.keys() and job not in failed
    ]
    for job in gathering:
        for producer, files in dag.dependencies[job].items():
            if waits(producer):
                LACKING.update(dict.fromkeys(map(str, files), reason(producer)))
    if gathering:
        try:
            write_unmade(plan.UNMADE, LACKING)
        except InputError as error:  # such as that the disk is full
            SAID.update(dict.fromkeys(gathering, str(error)))
            scheduler.failed.update(gathering)
            return
        names = ", ".join(sorted(job.rule.name for job in gathering))
        logger.info(f"{len(LACKING)} files could not be made; now without them: {names}")
        dag._ready_jobs.update(gathering)


def why_failed(job):
    """The Unmade of the files of a job that failed."""
    kind, sentence = explain(failure_of(job))
    if kind != "input error":
        where = f"; its log is {job.log[0]}" if job.log else ""
        sentence = f"{job.rule.name} failed: {sentence}{where}"
    return Unmade(job.rule.name, sentence)


def forget_what_was_lacking():
    """Begin a run without the list of what an earlier one could not make."""
    Path(plan.UNMADE).unlink(missing_ok=True)


def take_off_dead_locks(workflow):
    """Let a run take off the lock of a working folder that a killed run of this machine left.

    Not where that one's jobs ran on other machines: they may run on, and are to be cancelled first.
    """
    hold = snakemake.persistence.PersistenceBase.lock

    def make_free(persistence):
        others, locks = run_owners.owners(), Path(persistence.path, "locks")
        dead = {note: each for note, each in others.items() if each.is_dead}
        living = [each for each in others.values() if each not in dead.values()]
        abandoned = {name for each in dead.values() for name in each.locks}
        # Names are used again, once somebody has taken a lock off by hand.
        abandoned -= {name for each in living for name in each.locks}
        # Of one that was killed before it could say which they are, only where nobody else is.
        any_may_be = not living and any(not each.locks for each in dead.values())
        stale = [lock for lock in locks.glob("*.lock") if any_may_be or lock.name in abandoned]
        if stale and persistence.locked:
            logger.info("The lock that a killed run left is taken off.")
        for lock in stale:
            lock.unlink()
        for note in dead:
            note.unlink(missing_ok=True)
        if living and persistence.locked:
            said = said_of_others(living)
            if any(not each.doubt for each in living):
                sys.exit(said)  # instead of Snakemake's advice to take the lock off
            logger.error(said)

    @contextmanager
    def lock(persistence):
        own = run_owners.this_run(elsewhere=workflow.resource_settings.nodes is not None)
        with ExitStack() as at_the_end:
            try:
                with run_owners.one_at_a_time():
                    make_free(persistence)
                    at_the_end.enter_context(run_owners.noted(own))
                    at_the_end.enter_context(hold(persistence))
                    locks = tuple(Path(lock).name for lock in persistence._lockfile.values())
                    run_owners.write_note(replace(own, locks=locks))
            except InputError as error:
                living = [each for each in run_owners.owners().values() if not each.is_dead]
                sys.exit(said_of_others(living) or str(error))
            yield

    snakemake.persistence.PersistenceBase.lock = lock


def said_of_others(living):
    """What to tell of other runs in a working folder, Owners."""
    return "\n".join(
        f"Another snakemake works in this folder: {each}.{each.advice}" for each in living
    )


def keep_locks_of_others():
    """Let a run that ends take off its own lock only: Snakemake removes those of all runs."""
    persistence = snakemake.persistence.file.FilePersistence
    remove_all = persistence._delete_locks

    def remove_own(self):
        for lock in self._lockfile.values():
            with suppress(OSError):  # else the next run does it, as the note says whose it is
                # Not by the whole path, as the working folder may have got another name meanwhile.
                os.remove(os.path.join(".snakemake", "locks", os.path.basename(lock)))
        self._lockfile.clear()

    def unlock(self):  # snakemake --unlock
        living = [each for each in run_owners.owners().values() if not each.is_dead]
        if certain := [each for each in living if not each.doubt]:
            sys.exit(said_of_others(certain))
        remove_all(self)
        for note in run_owners.owners():
            note.unlink(missing_ok=True)

    persistence._delete_locks = remove_own
    persistence.cleanup_locks = unlock


def tell_where_notes_cannot_be_kept():
    """Fail those jobs alone for whose notes there is no space in the working folder, or no right.

    Snakemake would speak of write permissions, end at once without a word on other jobs, and print
    a traceback for each line that its own log does not take.
    """
    finish = snakemake.persistence.PersistenceBase.finished
    write_note = snakemake.persistence.file.FilePersistence._write_record
    end = snakemake.jobs.Job.postprocess
    take_result = snakemake.executors.local.Executor._callback
    log_failed = logging.Handler.handleError

    def written(persistence, key, record):
        make_way(persistence._record_path(persistence._metadata_path, key))
        write_note(persistence, key, record)

    async def finished(persistence, job):
        try:
            await finish(persistence, job)
        except OSError as error:
            if said := why_no_notes(error, NOTES_FOLDER):
                SAID.setdefault(job, said)
            raise

    async def ended(job, *arguments, error=False, **options):
        try:
            await end(job, *arguments, error=error, **options)
        except WorkflowError as problem:
            if not (error and why_no_notes(problem, NOTES_FOLDER)):
                raise
            await job.cleanup(())  # which Snakemake has not come to

    def callback(executor, submitted, future):
        error = None if future.cancelled() else future.exception()
        # Of its script, for one, which Snakemake copies there.
        if said := why_no_notes(error, NOTES_FOLDER):
            SAID[submitted.job] = said
            future = Future()
            future.set_exception(WorkflowError(said))  # which is printed without a traceback
        take_result(executor, submitted, future)

    def handle_error(handler, record):
        if not is_full_disk(sys.exception()):
            log_failed(handler, record)

    snakemake.persistence.PersistenceBase.finished = finished
    snakemake.persistence.file.FilePersistence._write_record = written
    snakemake.jobs.Job.postprocess = ended
    snakemake.executors.local.Executor._callback = callback
    logging.Handler.handleError = handle_error


def make_way(note):
    """Remove a note that a colleague left and only he may write, where everybody may remove it."""
    if os.path.exists(note) and not os.access(note, os.W_OK):
        with suppress(OSError):  # which comes up again when it is written
            os.remove(note)


def do_without_times_that_cannot_be_written():
    """Let a job that is done count where its benchmark, the time that it took, cannot be written."""
    write, path_of = snakemake.benchmark.write_benchmark_records, snakemake.jobs.Job.benchmark.fget
    end, without = snakemake.jobs.Job.postprocess, set()

    def written(records, path, extended):
        make_way(path)
        try:
            write(records, path, extended)
        except OSError as error:
            said = not_writable(path, error.errno)
            logger.warning(f"the time that a job took is not noted: {said}")

    def benchmark(job):
        return None if job in without else path_of(job)

    async def ended(job, *arguments, error=False, **options):
        if not error and job.benchmark and not os.access(job.benchmark, os.W_OK):
            without.add(job)
        await end(job, *arguments, error=error, **options)

    snakemake.benchmark.write_benchmark_records = written
    snakemake.jobs.Job.benchmark = property(benchmark)
    snakemake.jobs.Job.postprocess = ended


def fail_alone_where_a_file_is_gone():
    """Fail those jobs alone that cannot begin, as an input is gone or an output has no place, or
    whose outputs cannot be dated, or removed after a failure, as their folder became read-only.

    Snakemake would end the whole run, with all jobs that are on their way.
    """
    run = snakemake.executors.local.Executor.run_job
    end = snakemake.jobs.Job.postprocess

    def run_or_fail(executor, job):
        try:
            run(executor, job)
        except (OSError, RuleException, WorkflowError) as error:
            inputs = [str(file) for file in job.input if file not in LACKING]
            SAID[job] = why_not_begun(inputs, [*map(str, job.output)], error)
            logger.error(f"{job}: {SAID[job]}")
            executor.workflow.scheduler.error_callback(job)

    async def ended(job, *arguments, error=False, **options):
        try:
            await end(job, *arguments, error=error, **options)
        except OSError as problem:
            said = not_writable(problem.filename or str(job.output[0]), problem.errno)
            if not error:
                SAID[job] = said
                raise WorkflowError(said) from problem
            with suppress(OSError):
                # Or it would count as done, as nothing but its absence says that it is not.
                workflow.persistence.started(job)
            logger.warning(f"{said}; what is there of a job that failed will be made anew")

    snakemake.executors.local.Executor.run_job = run_or_fail
    snakemake.jobs.Job.postprocess = ended


def leave_folders_of_people():
    """Let the end of a run remove empty folders of outputs alone, and go on where it may not.

    Snakemake removes those of inputs too, and ends with a traceback, instead of the list of what
    failed, where one is a mount or lies on a file system that is read-only.
    """

    def remove_empty(dag):
        for folder in {os.path.dirname(file) for job in dag.jobs for file in job.output}:
            with suppress(OSError):  # as where there is something in it
                os.removedirs(folder)

    snakemake.dag.DAG.cleanup_workdir = remove_empty


def end_where_the_working_folder_is_gone():
    """End a run whose working folder is gone, as no job of it can begin or end any more.

    What is told of a job that ends comes in a thread, where an exception goes by unseen; the run
    would wait for that job for ever. One on a cluster ends with a traceback.
    """
    schedule = JobScheduler.schedule
    run = snakemake.executors.local.Executor.run_job
    take_result = snakemake.executors.local.Executor._callback
    change_back = WorkdirHandler.change_back

    def is_gone(executor):
        if said := why_gone(WORKING_FOLDER):
            executor.workflow.scheduler.executor_error_callback(WorkflowError(said))
        return bool(said)

    def run_or_end(executor, job):
        if not is_gone(executor):
            run(executor, job)

    def callback(executor, submitted, future):
        if not is_gone(executor):
            take_result(executor, submitted, future)

    def scheduled(scheduler):
        try:
            return schedule(scheduler)
        except Exception:
            if why_gone(WORKING_FOLDER):
                return False  # and the end of the run says why
            raise

    def back(handler):
        with suppress(FileNotFoundError):  # where snakemake was started, mostly the same folder
            change_back(handler)

    snakemake.executors.local.Executor.run_job = run_or_end
    snakemake.executors.local.Executor._callback = callback
    JobScheduler.schedule = scheduled
    WorkdirHandler.change_back = back


def end_without_waiting_for_itself():
    """Let a run take SIGTERM at any moment.

    Snakemake asks for its scheduler's lock then, in the thread that may hold it: while jobs are
    chosen, or what has ended is looked at. Such a run would never end.
    """

    def exit_gracefully(scheduler, *arguments):
        scheduler._user_kill = "graceful"  # at once, for which no lock is needed
        with suppress(RuntimeError):  # no further thread; then it is seen when a job has ended
            # Not by threading, whose own locks this thread may hold too.
            _thread.start_new_thread(scheduler._open_jobs.release, ())

    JobScheduler.exit_gracefully = exit_gracefully


def refuse_other_notes(workflow):
    """End a run that is to keep its notes in a database: ours are read and mended as files."""
    backend = workflow.workflow_settings.persistence_backend
    if backend != PersistenceBackend.FILE:
        sys.exit(
            f"--persistence-backend {backend}: cryoseg needs Snakemake's notes in files, as they are "
            "without this option; leave it out"
        )


def limit_memory(workflow):
    """Let jobs that run on this machine together book no more memory than it has free.

    Without a limit, Snakemake would start as many as there are processors for. Jobs that run
    elsewhere are limited in number (--jobs), which Snakemake calls nodes.
    """
    here = workflow.is_main_process and workflow.resource_settings.nodes is None
    if here and "mem_mb" not in workflow.global_resources:
        workflow.register_resource("mem_mb", int(free_host_memory() / 1e6))


def booked_together(workflow):
    """MB that jobs may book together, or None where nothing limits it."""
    limit = workflow.global_resources.get("mem_mb")
    return None if limit is None else limit.value


refuse_other_notes(workflow)
heed_changes_behind_ancient_files()
retry_what_may_succeed()
note_logs_of_before()
gather_what_there_is()
take_off_dead_locks(workflow)
keep_locks_of_others()
tell_where_notes_cannot_be_kept()
do_without_times_that_cannot_be_written()
fail_alone_where_a_file_is_gone()
leave_folders_of_people()
end_where_the_working_folder_is_gone()
end_without_waiting_for_itself()
os.environ.update(not_to_outlive_this())
limit_memory(workflow)

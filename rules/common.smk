"""The configuration, read and checked; the files that can be asked for; the end of a failed run.

All Python that the rules need lies in scripts/cryoseg; this file connects it with Snakemake.
"""

import gc
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path

import snakemake.common
import snakemake.dag
import snakemake.jobs
import snakemake.persistence
import snakemake.rules
from snakemake.logging import logger
from snakemake.report import html_reporter

# Resources that a plan is made of; _cores are a job's threads.
ASKED_FOR = ("_cores", "gpu", "mem_mb", "device", "memory_gb", "tile_size", "attempt")
LIBRARY = str(Path(str(workflow.current_basedir.join("../scripts"))).resolve())
if LIBRARY not in sys.path:
    # Appended: installed packages come first, as they do for Snakemake's scripts.
    sys.path.append(LIBRARY)

from cryoseg import plan, run_owners
from cryoseg.configuration import SECTIONS, check_syntax, read_configuration
from cryoseg.errors import InputError
from cryoseg.failures import Failure, failure_lines, names_input_error, write_failures
from cryoseg.host_memory import free_host_memory
from cryoseg.run_warnings import warning_lines
from cryoseg.steps import Step, by_name


def hasten_plans():
    """Let Snakemake look up a rule's script and a function's arguments once, not for each job.

    The answers are the same for all jobs; with this, a plan for 5,000 tomograms in two stages
    takes 26 s instead of 49 s. Snakemake's version is pinned.
    """
    look_up, arguments = snakemake.common.get_function_params, {}
    check, checked = snakemake.dag.ScriptProcessor.process_job, set()

    def arguments_of(function):
        # A bound method is a new object each time it is named; its function is not.
        key = getattr(function, "__func__", function)
        if key not in arguments:
            arguments[key] = look_up(function)
        return arguments[key]

    def check_once(processor, job):
        if (type(processor), job.rule) not in checked:
            check(processor, job)
            checked.add((type(processor), job.rule))

    snakemake.common.get_function_params = snakemake.rules.get_function_params = arguments_of
    snakemake.dag.ScriptProcessor.process_job = check_once
    # Names with many repeats (0000...) would be taken for a rule that feeds itself without end.
    # None can: the configuration was checked for steps that wait for each other.
    snakemake.dag.DAG.check_periodic_wildcards = lambda dag, job: None
    # A plan is millions of small objects that stay; searching them for garbage less often saves
    # another second or two.
    gc.set_threshold(100_000, 50, 100)


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
    """Do not try a job again whose log says what is wrong with its input: that stays wrong."""
    allowed = snakemake.jobs.Job.restart_times.fget

    def restart_times(job):
        return 0 if job.log and names_input_error(str(job.log[0])) else allowed(job)

    snakemake.jobs.Job.restart_times = property(restart_times)


def take_off_dead_locks(workflow):
    """Let a run take off the lock of a working folder that a killed run of this machine left.

    Not where that one's jobs ran on other machines: they may run on, and are to be cancelled first.
    """
    hold = snakemake.persistence.PersistenceBase.lock

    def make_free(persistence):
        others = run_owners.owners()
        living = [each for each in others.values() if not each.is_dead]
        if persistence.locked and others and not living:
            logger.info("The lock that a killed run left is taken off.")
            for lock in Path(persistence.path, "locks").glob("*.lock"):
                lock.unlink()
        for note, each in others.items():
            if each.is_dead:
                note.unlink(missing_ok=True)
        for each in living if persistence.locked else ():
            logger.error(f"Another snakemake works in this folder: {each}.")

    @contextmanager
    def lock(persistence):
        own = run_owners.this_run(elsewhere=workflow.resource_settings.nodes is not None)
        with ExitStack() as at_the_end:
            with run_owners.one_at_a_time():
                make_free(persistence)
                at_the_end.enter_context(run_owners.noted(own))
                at_the_end.enter_context(hold(persistence))
            yield

    snakemake.persistence.PersistenceBase.lock = lock


def limit_memory(workflow):
    """Let jobs that run on this machine together book no more memory than it has free.

    Without a limit, Snakemake would start as many as there are processors for. Jobs that run
    elsewhere are limited in number (--jobs), which Snakemake calls nodes.
    """
    here = workflow.is_main_process and workflow.resource_settings.nodes is None
    if here and "mem_mb" not in workflow.global_resources:
        workflow.register_resource("mem_mb", int(free_host_memory() / 1e6))


def show_large_figures():
    """Let reports show figures that are higher than the window from their top on, and not wider.

    Snakemake puts them in the middle of the window, so that what lies above its top is out of reach.
    """
    prepare = html_reporter.Reporter.__post_init__
    style = ".items-center.h-screen { align-items: safe center } .h-screen img { max-width: 100% }"

    def prepare_with_style(reporter):
        prepare(reporter)
        reporter.custom_stylesheet = f"{reporter.custom_stylesheet or ''}\n{style}\n"

    html_reporter.Reporter.__post_init__ = prepare_with_style


def or_stop(read, *arguments, **options):
    """What ``read`` returns; mistakes in the configuration end the run, without a traceback."""
    try:
        return read(*arguments, **options)
    except InputError as error:
        sys.exit(str(error))


def report_failures(workflow):
    """Say at the end of a run which jobs failed and why; write it down in logs/failures.tsv."""
    failed = [job for each in workflow.scheduler.failed for job in getattr(each, "jobs", [each])]
    failures = [
        Failure(job.rule.name, job.wildcards.get("tomogram"), str(job.log[0]), SLURM_JOBS.get(job))
        for job in failed
    ]
    for line in failure_lines(failures):
        logger.error(line)
    if failures:
        write_failures("logs/failures.tsv", failures)


def report_warnings(workflow):
    """Say at the end of a run what its jobs warned of."""
    for line in warning_lines(str(log) for job in workflow.dag.finished_jobs for log in job.log):
        logger.warning(line)


def jobs_behind(dag, files):
    """Jobs that make files and all that these are made of, done or not, each once.

    Snakemake's own jobs, so that verify and plan need no second description of the rules.
    """
    jobs, waiting, seen = {}, list(files), set()
    while waiting:
        file = waiting.pop()
        producers = () if file in seen else sorted(dag.output_index.match_producers(file), key=str)
        seen.add(file)
        if producers:
            wildcards = producers[0].get_wildcards(file)
            job = snakemake.jobs.Job(producers[0], dag, wildcards_dict=wildcards)
            seen.update(job.output)
            jobs[job.output[0]] = job
            waiting += job.input
    return list(jobs.values())


def as_step(job, with_resources=False):
    """A job as plain values; parameters that follow from its files are no reason to rerun it."""
    derived = {
        name for name, value in job.rule.params.items() if job.rule._is_deriving_function(value)
    }
    return Step(
        job.rule.name,
        job.wildcards_dict.get("tomogram"),
        by_name(job.input),
        by_name(job.output),
        {name: value for name, value in job.params.items() if name not in derived},
        job.benchmark and str(job.benchmark),
        {name: job.resources.get(name) for name in ASKED_FOR} if with_resources else {},
    )


hasten_plans()
heed_changes_behind_ancient_files()
retry_what_may_succeed()
take_off_dead_locks(workflow)
limit_memory(workflow)
show_large_figures()

# A configuration file given on the command line stands alone: the stages of the lab's own
# config.yaml must not run along with those of the demo.
if not workflow.overwrite_configfiles and not config.keys() & set(SECTIONS):
    or_stop(check_syntax, ["config/config.yaml"])

    configfile: "config/config.yaml"


# Jobs on other machines read this file again; the folders were checked before they were sent.
HERE = workflow.is_main_process
STAGES, NOTES = or_stop(read_configuration, config, workflow.configfiles, on_disk=HERE)
CHECKS = plan.checks(STAGES)
FILES = plan.targets(STAGES) if HERE else {}
ALIASES = plan.aliases(FILES)
TARGETS = plan.with_aliases(FILES, ALIASES)
FIGURES_IN_REPORT = HERE and plan.figures_in_report(STAGES)
for note in NOTES if HERE else ():
    logger.info(note)

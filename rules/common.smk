"""The configuration, read and checked; the files that can be asked for; the end of a failed run.

All Python that the rules need lies in scripts/cryoseg; this file connects it with Snakemake.
"""

import gc
import os
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import snakemake.common
import snakemake.dag
import snakemake.io.fmt
import snakemake.jobs
import snakemake.persistence
import snakemake.report
import snakemake.rules
from snakemake.io import is_flagged
from snakemake.iocontainers import ResourceList
from snakemake.logging import logger
from snakemake.report import common as report_files, html_reporter
from snakemake.report.html_reporter.data import results as report_results
from snakemake.scheduling.job_scheduler import JobScheduler

# Resources that a plan is made of; _cores are a job's threads.
ASKED_FOR = (
    *("_cores", "gpu", "mem_mb", "device", "memory_gb", "tile_size", "attempt"),
    *("gpu_devices", "nodes"),
)
LIBRARY = str(Path(str(workflow.current_basedir.join("../scripts"))).resolve())
if LIBRARY not in sys.path:
    # Appended: installed packages come first, as they do for Snakemake's scripts.
    sys.path.append(LIBRARY)

from cryoseg import plan, run_owners
from cryoseg.configuration import SECTIONS, check_syntax, read_configuration
from cryoseg.errors import InputError
from cryoseg.failures import Failure, explain, failure_lines, names_input_error, write_failures
from cryoseg.folders import some
from cryoseg.host_memory import free_host_memory
from cryoseg.run_warnings import warning_lines
from cryoseg.steps import Step, by_name
from cryoseg.unmade import Unmade, read_unmade, write_unmade


def hasten_plans():
    """Let Snakemake look up once what is the same for all jobs of a rule, or of all rules.

    With this, a plan for 5,000 tomograms in two stages takes 33 s instead of 58 s on a busy
    processor, and less than 30 s on one with nothing else to do. Snakemake's
    version is pinned.
    """
    look_up, arguments = snakemake.common.get_function_params, {}
    check, checked = snakemake.dag.ScriptProcessor.process_job, set()
    expand, environments = snakemake.rules.Rule.expand_conda_env, {}
    annotated = {}
    expand_resources, functions, expanded = snakemake.rules.Rule.expand_resources, {}, {}
    describe = snakemake.jobs.fmt_iofile

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

    def environment_of(job):
        # None of the environments depends on wildcards, so the job's params need not be worked out.
        step = job.rule
        if step not in environments:
            environments[step] = expand(step, job.wildcards_dict, job.params, job.input)
        return environments[step]

    def is_flagged(value, flag):
        # Asked five million times; asking an abstract class for its instances is slow.
        kind = type(value)
        if kind not in annotated:
            annotated[kind] = issubclass(kind, snakemake.io.AnnotatedStringInterface)
        return annotated[kind] and bool(value.flags.get(flag))

    def functions_of(rule, skipped):
        found = [each for each in rule.resources.values() if each.is_evaluable()]
        found = [each._evaluator for each in found if each.name not in skipped]
        names = [arguments_of(function) for function in found]
        if any(set(each) - {"wildcards", "attempt"} for each in names):
            return None
        return [(function, "attempt" in each) for function, each in zip(found, names)]

    def resources_of(rule, wildcards, input, attempt, skip_evaluation=frozenset()):
        # The functions are asked for each job; what follows is the same where they say the same,
        # which they do for tomograms of one size.
        key = rule, frozenset(skip_evaluation)
        if key not in functions:
            functions[key] = functions_of(*key)
        if functions[key] is None:
            return expand_resources(rule, wildcards, input, attempt, skip_evaluation)
        named, options = SimpleNamespace(**wildcards), {"attempt": attempt}
        said = [function(named, **(options if asks else {})) for function, asks in functions[key]]
        key = *key, attempt, *said
        if key not in expanded:
            found = expand_resources(rule, wildcards, input, attempt, skip_evaluation)
            expanded[key] = dict(found.items())
        return ResourceList(fromdict=expanded[key])

    def described(file, **options):
        return describe(file, **options) if getattr(file, "flags", None) else str(file)

    snakemake.common.get_function_params = snakemake.rules.get_function_params = arguments_of
    snakemake.dag.ScriptProcessor.process_job = check_once
    snakemake.jobs.Job.conda_env_spec = property(environment_of)
    snakemake.rules.Rule.expand_resources = resources_of
    snakemake.jobs.fmt_iofile = described
    snakemake.io.is_flagged = snakemake.io.fmt.is_flagged = is_flagged
    # Names with many repeats (0000...) would be taken for a rule that feeds itself without end.
    # None can: the configuration was checked for steps that wait for each other.
    snakemake.dag.DAG.check_periodic_wildcards = lambda dag, job: None
    # No rule makes a folder whole, so no file can lie in one that another rule makes.
    snakemake.dag.DAG.check_directory_outputs = lambda dag: None
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
        write_unmade(plan.UNMADE, LACKING)
        names = ", ".join(sorted(job.rule.name for job in gathering))
        logger.info(f"{len(LACKING)} files could not be made; now without them: {names}")
        dag._ready_jobs.update(gathering)


def why_failed(job):
    """The Unmade of the files of a job that failed."""
    kind, sentence = explain(failure_of(job))
    if kind != "input error":
        sentence = f"{job.rule.name} failed: {sentence}; its log is {job.log[0]}"
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


def booked_together(workflow):
    """MB that jobs may book together, or None where nothing limits it."""
    limit = workflow.global_resources.get("mem_mb")
    return None if limit is None else limit.value


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


def quote_names_in_reports():
    """Let reports name files as addresses do: a # or a comma would end the address of a picture."""
    make_uri, find_uri = report_files.data_uri, report_results.get_result_uri

    def data_uri(data, filename, *arguments, **options):
        return make_uri(data, quote(filename), *arguments, **options)

    def address_of(result, mode_embedded):
        found = find_uri(result, mode_embedded)
        return found if mode_embedded else quote(found)

    report_files.data_uri, report_results.get_result_uri = data_uri, address_of


def report_what_there_is():
    """Let a report leave out figures of tomograms that failed, and say so."""
    make_report = snakemake.report.auto_report

    async def auto_report(dag, *arguments, **options):
        lacking = [
            file
            for job in dag.jobs
            for file in job.output
            if job.wildcards.get("tomogram")
            and is_flagged(file, "report")
            and not os.path.exists(file)
        ]
        for file in lacking:
            del file.flags["report"]
        if lacking:
            logger.warning(f"not there, and so not in the report: {some(lacking)}")
        await make_report(dag, *arguments, **options)

    snakemake.report.auto_report = auto_report


def or_stop(read, *arguments, **options):
    """What ``read`` returns; mistakes in the configuration end the run, without a traceback."""
    try:
        return read(*arguments, **options)
    except InputError as error:
        sys.exit(str(error))


def report_failures(workflow):
    """Say at the end of a run which jobs failed and why; write it down in logs/failures.tsv."""
    failed = [job for each in workflow.scheduler.failed for job in getattr(each, "jobs", [each])]
    failures = [failure_of(job) for job in failed]
    for line in failure_lines(failures):
        logger.error(line)
    if failures:
        write_failures("logs/failures.tsv", failures)


def failure_of(job):
    """The Failure of a job that failed."""
    tomogram, log = job.wildcards.get("tomogram"), str(job.log[0])
    return Failure(job.rule.name, tomogram, log, SLURM_JOBS.get(job))


def report_warnings(workflow):
    """Say at the end of a run what its jobs warned of."""
    tables = {
        str(log): job.output.table if job.rule.name.endswith("_tabulate_checks") else None
        for job in workflow.dag.finished_jobs
        for log in job.log
    }
    for line in warning_lines(tables):
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
gather_what_there_is()


take_off_dead_locks(workflow)
limit_memory(workflow)
show_large_figures()
quote_names_in_reports()
report_what_there_is()

# A configuration file given on the command line stands alone: the stages of the lab's own
# config.yaml must not run along with those of the demo.
if not workflow.overwrite_configfiles and not config.keys() & set(SECTIONS):
    or_stop(check_syntax, ["config/config.yaml"])

    configfile: "config/config.yaml"


# Jobs on other machines read this file again; the folders were checked before they were sent.
HERE = workflow.is_main_process
# Files that gathering jobs go without, {path: Unmade}; known to this run when nothing else can run.
LACKING = {} if HERE else read_unmade(plan.UNMADE)
STAGES, NOTES = or_stop(read_configuration, config, workflow.configfiles, on_disk=HERE)
CHECKS = plan.checks(STAGES)
FILES = plan.targets(STAGES) if HERE else {}
ALIASES = plan.aliases(FILES)
TARGETS = plan.with_aliases(FILES, ALIASES)
FIGURES_IN_REPORT = HERE and plan.figures_in_report(STAGES)
for note in NOTES if HERE else ():
    logger.info(note)

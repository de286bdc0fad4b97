"""The configuration, read and checked; the files that can be asked for; the end of a failed run.

All Python that the rules need lies in scripts/cryoseg; this file connects it with Snakemake.
"""

import sys
from pathlib import Path

import snakemake.jobs
from snakemake.logging import logger

# Resources that a plan is made of; _cores are a job's threads.
ASKED_FOR = (
    *("_cores", "gpu", "mem_mb", "device", "memory_gb", "tile_size", "attempt"),
    *("gpu_devices", "nodes"),
)
LIBRARY = str(Path(str(workflow.current_basedir.join("../scripts"))).resolve())
if LIBRARY not in sys.path:
    # Appended: installed packages come first, as they do for Snakemake's scripts.
    sys.path.append(LIBRARY)

from cryoseg import plan
from cryoseg.configuration import SECTIONS, check_syntax, read_configuration
from cryoseg.errors import InputError
from cryoseg.failures import Failure, failure_lines, write_failures
from cryoseg.folders import check_own_folders, why_gone
from cryoseg.run_warnings import warning_lines
from cryoseg.shared_folders import entries_by_folder, leave_notes, others_in
from cryoseg.steps import Step, by_name
from cryoseg.unmade import read_unmade


def or_stop(read, *arguments, **options):
    """What ``read`` returns; mistakes in the configuration end the run, without a traceback."""
    try:
        return read(*arguments, **options)
    except InputError as error:
        sys.exit(str(error))


def report_failures(workflow):
    """Say at the end of a run which jobs failed and why; write it down in logs/failures.tsv."""
    if gone := why_gone(WORKING_FOLDER):
        logger.error(gone)
        return
    failed = [job for each in workflow.scheduler.failed for job in getattr(each, "jobs", [each])]
    failures = [failure_of(job) for job in failed]
    for line in failure_lines(failures):
        logger.error(line)
    if not failures:  # as after Ctrl-C
        logger.error("The run was ended early; the same command, given again, goes on from there.")
    try:
        if failures:
            write_failures("logs/failures.tsv", failures)
    except InputError as error:  # such as that the disk is full
        logger.error(str(error))


def failure_of(job):
    """The Failure of a job that failed."""
    # A target, as "all" is, has no log: it fails where a file is gone by then.
    tomogram, log = job.wildcards.get("tomogram"), str(job.log[0]) if job.log else ""
    about = SLURM_JOBS.get(job), SAID.get(job), log_before(job)
    return Failure(job.rule.name, tomogram, log, *about)


def report_warnings(workflow):
    """Say at the end of a run what its jobs warned of, and what was said at its beginning."""
    tables = {
        str(log): job.output.table if job.rule.name.endswith("_tabulate_checks") else None
        for job in workflow.dag.finished_jobs
        for log in job.log
    }
    for line in [*warning_lines(tables), *told_of_others()]:
        logger.warning(line)


def told_of_others():
    """SHARED, and what is to be known of runs that have begun to write there since."""
    since = [] if why_gone(WORKING_FOLDER) else others_in(entries_by_folder(STAGES))
    return list(dict.fromkeys([*SHARED, *since]))


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


# A configuration file given on the command line stands alone: the stages of the lab's own
# config.yaml must not run along with those of the demo.
if not workflow.overwrite_configfiles and not config.keys() & set(SECTIONS):
    or_stop(check_syntax, ["config/config.yaml"])

    configfile: "config/config.yaml"


# Jobs on other machines read this file again; the folders were checked before they were sent.
HERE = workflow.is_main_process
# Files that gathering jobs go without, {path: Unmade}; known to this run when nothing else can run.
LACKING = {} if HERE else read_unmade(plan.UNMADE)
if HERE and not workflow.dryrun:
    or_stop(check_own_folders)
STAGES, NOTES = or_stop(read_configuration, config, workflow.configfiles, on_disk=HERE)
CHECKS = plan.checks(STAGES)
FILES = plan.targets(STAGES) if HERE else {}
ALIASES = plan.aliases(FILES)
TARGETS = plan.with_aliases(FILES, ALIASES)
FIGURES_IN_REPORT = HERE and plan.figures_in_report(STAGES)
for note in NOTES if HERE else ():
    logger.info(note)
# What is to be known of output folders that other working folders use too.
SHARED = []
if HERE:
    if not workflow.dryrun:  # first, so that of two that begin at once one sees the other's
        SHARED += leave_notes(entries_by_folder(STAGES))
    SHARED += others_in(entries_by_folder(STAGES))
for sentence in SHARED:
    logger.warning(sentence)

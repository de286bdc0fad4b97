"""The configuration, read and checked; the files that can be asked for; the end of a failed run.

All Python that the rules need lies in scripts/cryoseg; this file connects it with Snakemake.
"""

import gc
import sys
from functools import cache
from pathlib import Path

import snakemake.common
import snakemake.rules
import snakemake.sourcecache
from snakemake.logging import logger

LIBRARY = str(Path(str(workflow.current_basedir.join("../scripts"))).resolve())
if LIBRARY not in sys.path:
    # Appended: installed packages come first, as they do for Snakemake's scripts.
    sys.path.append(LIBRARY)

from cryoseg import plan
from cryoseg.configuration import SECTIONS, check_syntax, read_configuration
from cryoseg.errors import InputError
from cryoseg.failures import failure_lines


def remember_lookups():
    """Let Snakemake look up the arguments of a function, or the parts of a path, only once.

    It does so several times for each job, and the answers never change; with this, a plan for
    5,000 tomograms in two stages takes 28 s instead of 49 s. Snakemake's version is pinned.
    """
    look_up, known = snakemake.common.get_function_params, {}

    def arguments_of(function):
        # A bound method is a new object each time it is named; what it is bound to matters not.
        key = getattr(function, "__func__", function)
        if key not in known:
            known[key] = look_up(function)
        return known[key]

    snakemake.common.get_function_params = snakemake.rules.get_function_params = arguments_of
    snakemake.sourcecache.parse_uri = cache(snakemake.sourcecache.parse_uri)
    # A plan is millions of small objects that stay; searching them for garbage less often saves
    # another tenth.
    gc.set_threshold(100_000, 50, 100)


def or_stop(read, *arguments, **options):
    """What ``read`` returns; mistakes in the configuration end the run, without a traceback."""
    try:
        return read(*arguments, **options)
    except InputError as error:
        sys.exit(str(error))


def report_failures(workflow):
    """Say at the end of a run which jobs failed and why."""
    failed = [job for each in workflow.scheduler.failed for job in getattr(each, "jobs", [each])]
    jobs = [(job.rule.name, job.wildcards.get("tomogram"), str(job.log[0])) for job in failed]
    for line in failure_lines(jobs):
        logger.error(line)


remember_lookups()

# A configuration file given on the command line stands alone: the stages of the lab's own
# config.yaml must not run along with those of the demo.
if not config.keys() & set(SECTIONS):
    or_stop(check_syntax, ["config/config.yaml"])

    configfile: "config/config.yaml"


# Jobs on other machines read this file again; the folders were checked before they were sent.
HERE = workflow.is_main_process
STAGES, NOTES = or_stop(read_configuration, config, workflow.configfiles, on_disk=HERE)
FILES = plan.targets(STAGES) if HERE else {}
ALIASES = plan.aliases(FILES)
TARGETS = plan.with_aliases(FILES, ALIASES)
for note in NOTES if HERE else ():
    logger.info(note)

"""Jobs that run elsewhere: where, which of them share one cluster job, and what is left of a
cluster job that failed.

A profile names the partitions (profiles/slurm); a rule says what it needs (`gpu`, `mem_mb`,
`runtime`) and its group: `cpu_...` or `gpu_...`. Jobs of one group and one entry of the
configuration are put together, so many to a cluster job as the profile says
(`group-components: {cpu: 8, gpu: 4}`), and take turns in it. Here Snakemake is taught what it does
not do by itself: a member of a group that fails costs the other members nothing.
"""

import os
import re
import shlex
import subprocess
import threading
import time
from collections import Counter
from functools import wraps

import snakemake.dag
import snakemake_executor_plugin_slurm
from snakemake_executor_plugin_slurm import Executor
from snakemake.exceptions import WorkflowError
from snakemake.jobs import GroupJob, Job
from snakemake.resources import GroupResources, Resource
from snakemake.scheduling.job_scheduler import JobScheduler
from snakemake_interface_executor_plugins import utils as executor_utils

from cryoseg import slurm
from cryoseg.configuration import SECTIONS

# What a profile says once for all jobs, under default-resources: which partition and GPU jobs with
# a GPU get, and how many minutes a job may ask for without one and with one.
GPU_PARTITION, GPU_TYPE, LONGEST, GPU_LONGEST = PLACES = (
    "gpu_partition",
    "gpu_type",
    "cpu_longest",
    "gpu_longest",
)
# What Slurm says of the last cluster job of each job that failed, for the end of the run.
SLURM_JOBS = {}
# A submission that is refused for a reason that passes is tried again after so many seconds, so
# many times: for an hour.
REFUSED_SECONDS, REFUSALS = 15, 240
REFUSED = Counter()

layered_resources = GroupResources.basic_layered.__func__
command_of = Executor.format_job_exec
report_error = Executor.report_job_error
cancel_jobs = Executor.cancel
check_active_jobs = Executor.check_active_jobs
ask_for_states = snakemake_executor_plugin_slurm.query_job_status
until_next_look = Executor.next_seconds_between_status_checks
handle_error = JobScheduler._handle_error
prepare_job = Job.prepare
chunks = snakemake.dag.group_into_chunks
format_value = executor_utils.format_cli_value


def place_jobs(workflow, stages, checks):
    """Prepare all rules for where their jobs will run; call this when all are there."""
    if not workflow.is_main_process or workflow.resource_settings.nodes is not None:
        send_elsewhere(workflow, stages, checks)
        return
    for step in workflow.rules:  # here, a group means nothing, except to a dry run
        step.group = None
        settle(step.resources)


def send_elsewhere(workflow, stages, checks):
    """Prepare all rules for a cluster, in the process that runs there and in each job's."""
    entries = [name for section in SECTIONS for name in getattr(stages, section)] + [*checks]
    chosen = workflow.resource_settings._parsed_overwrite_resources
    for step in workflow.rules:
        settle(step.resources, but={"tmpdir"})  # which each node has its own of
        choose_partition(step.resources, chosen.get(step.name, {}))
        if step._group:
            join_group(workflow, step, entries)
    # In a group, jobs take turns: they ask for the memory, processors and GPU of one.
    workflow.resource_scopes.update({"turn": "local"})
    workflow.register_resource("turn", 1)
    executor_utils.format_cli_value = quoted
    GroupResources.basic_layered = classmethod(within_the_limit)
    if workflow.is_main_process:
        GroupJob.wildcards = property(names_of_members)
        # The executor names it where a submission fails, and would hang for want of it.
        GroupJob.rule = property(rule_of_any)
        Executor.format_job_exec = run_members_here
        Executor.cancel = cancel_all
        Executor.check_active_jobs, snakemake_executor_plugin_slurm.query_job_status = notice_ends()
        Executor.report_job_error = keep_finished_members
        Executor.next_seconds_between_status_checks = property(until_next_look.fget, look_soon)
        JobScheduler._handle_error = let_others_go_on
        snakemake.dag.group_into_chunks = chunks_in_order
    else:
        # Within a cluster job: one member of a group does not stop the others, and what those
        # wrote stays, although the job as a whole fails.
        JobScheduler.keepgoing = property(lambda self: True, lambda self, asked: None)
        # A job whose node Slurm gave up may run on there, beside its next try elsewhere.
        Job.prepare = unless_given_up


def settle(resources, but=()):
    """Work out once what a profile says as a plain number or word, rather than for each job.

    resources: a rule's, which are changed
    but:       names of those that are left as they are
    """
    for name, resource in resources.items():
        text = resource.raw
        if name in but or not isinstance(text, str) or not re.fullmatch(r"[\w-]+", text):
            continue
        job = dict.fromkeys(("wildcards", "input", "attempt", "threads", "rulename", "async_run"))
        value = resource.evaluate(**job).value
        if value is not None:  # as it is where the word is one of those
            resources[name] = value


def quoted(value, quote=False, base64_encode=False):
    """A value on the command line of a job, quoted as a shell reads it.

    Snakemake quotes as Python does, and a shell would look for $ in a name with an apostrophe.
    """
    if isinstance(value, str) and quote and not base64_encode:
        return shlex.quote(value)
    return format_value(value, quote=quote, base64_encode=base64_encode)


def choose_partition(resources, chosen):
    """Choose a rule's partition by whether it needs a GPU, and limit its time to what is granted.

    resources: the rule's, which are changed
    chosen:    those set for it on the command line or in the profile
    """
    said = {name: str(resources._data.pop(name).raw) for name in PLACES if name in resources}
    by_node = "gres" in resources  # a training on several nodes: gpu:N of each
    on_gpu = by_node or ("gpu" in resources and resources["gpu"] != 0)
    if on_gpu:
        if said.get(GPU_PARTITION) and "slurm_partition" not in chosen:
            resources["slurm_partition"] = said[GPU_PARTITION]
        if said.get(GPU_TYPE) and by_node and "gres" not in chosen:
            resources["gres"] = f"gpu:{said[GPU_TYPE]}:{resources['gres'].rpartition(':')[2]}"
        elif said.get(GPU_TYPE) and "gpu_model" not in chosen:
            resources["gpu_model"] = said[GPU_TYPE]
    longest = said.get(GPU_LONGEST if on_gpu else LONGEST)
    if longest:
        resources["longest"] = longest = int(longest)
        if "runtime" in resources:
            resources["runtime"] = at_most(resources["runtime"], longest)


def at_most(resource, limit):
    """A resource that is as the given one, but not above the limit."""
    if not resource.is_evaluable():
        return resource.constrain(limit)

    @wraps(resource._evaluator)
    def limited(*arguments, **options):
        return resource.evaluate(*arguments, **options).constrain(limit).value

    return Resource(resource.name, limited, raw=resource.raw)


def join_group(workflow, step, entries):
    """Make a rule's group one of its entry, with as many members as the group's kind has."""
    begins = [name for name in entries if step.name.startswith(f"{name}_")]
    # Not step.group: it is None as long as it is unknown whether jobs will run here.
    kind = step._group.partition("_")[0]
    name = f"{max(begins, key=len)}_{step._group}"
    step.group = name
    workflow.parent_groupids[name] = kind
    step.resources["turn"] = 1


def within_the_limit(cls, *arguments, **options):
    """Resources of a group: its members' times together, but no more than the partition grants."""
    resources = dict(layered_resources(cls, *arguments, **options))
    if "longest" in resources:
        resources["runtime"] = min(resources["runtime"], resources["longest"])
    return resources


def rule_of_any(group):
    """A rule that stands for those of a group, in a message."""
    return next(iter(group.jobs)).rule


def names_of_members(group):
    """What stands for the wildcards of a group, in its comment and the name of its Slurm log."""
    names = {job.wildcards.get("tomogram") for job in group.jobs} - {None}
    return [slurm.span(names)] if names else []


def chunks_in_order(size, groups):
    """Chunks of groups by the names of their tomograms: each stage shares them out the same way.

    So a stage can begin with what another has finished; Snakemake's own order is arbitrary.
    """

    def names(group):
        return min((*job.wildcards, job.rule.name) for job in group.jobs)

    return chunks(size, sorted(groups, key=names))


def run_members_here(executor, job):
    """The command of a cluster job; of a group, one that runs all members in its own snakemake.

    What the executor adds would start another snakemake for each member, by srun: 3 s each. A
    training on several nodes needs its cleared environment, and is never in a group.
    """
    command, more = command_of(executor, job), executor.additional_general_args()
    if not job.is_group():
        return command
    if more not in command:
        raise WorkflowError("the executor for Slurm does not say how its jobs start members")
    return command.replace(more, "")


def notice_ends():
    """Functions that check on jobs and ask for their states, and miss none that has ended.

    The executor waits for ever for a job that was preempted, since it would leave that to Slurm to
    start again, and for one that Slurm has forgotten.
    """
    lost, numbers = slurm.LostJobs(), []

    async def check(executor, jobs):
        numbers[:] = [job.external_jobid for job in jobs]
        async for still_active in check_active_jobs(executor, jobs):
            yield still_active

    async def ask(command, log):
        states, seconds = await ask_for_states(command, log)
        if states is None:  # no answer says nothing
            return states, seconds
        ended = lost.among(numbers, states, time.monotonic())
        ended |= {number for number, state in states.items() if state == "PREEMPTED"}
        return states | dict.fromkeys(ended, "FAILED"), seconds

    return check, ask


def cancel_all(executor):
    """Cancel what was submitted, what is being submitted, and send nothing that waits for it."""
    executor.wait = False
    executor._job_submission_executor.shutdown(wait=True, cancel_futures=True)
    subprocess.run(["scancel", "--me", "--name", executor.run_uuid], check=False)
    cancel_jobs(executor)


def keep_finished_members(executor, job_info, msg=None, **options):
    """Report an error of a cluster job; of a group, finish what is done and fail the rest only."""
    group = job_info.job
    submitted = job_info.external_jobid is not None
    if not submitted and slurm.is_refused_for_now(msg) and try_later(executor, group, msg):
        return
    # What was never submitted has done nothing, whatever an earlier run left.
    if group.is_group() and submitted:
        done = {job for job in group.jobs if is_done(job)}
        if done == set(group.jobs):
            executor.report_job_success(job_info)
            return
        if done:
            finish_members(executor.workflow, group, done)
    log = (job_info.aux or {}).get("slurm_logfile")
    about = slurm.job_record(job_info.external_jobid, log, msg)
    SLURM_JOBS.update(dict.fromkeys(getattr(group, "jobs", [group]), about))
    # Of a job on several nodes that lost one, the executor would never use any again.
    executor._failed_nodes -= {nodes for nodes in executor._failed_nodes if set(nodes) & set("[,")}
    report_error(executor, job_info, msg=msg, **options)


def try_later(executor, job, message):
    """Submit a job again in a while, unless that was tried for long; returns whether it will be."""
    REFUSED[job] += 1
    if REFUSED[job] > REFUSALS:
        return False
    if REFUSED[job] == 1:
        why = slurm.job_record(None, message=message).last_line
        logger.warning(f"Slurm takes no job now ({why}); it is asked again every few seconds")

    def submit():
        if executor.wait:  # nobody has cancelled
            executor._job_submission_executor.submit(executor.run_job, job)

    timer = threading.Timer(REFUSED_SECONDS, submit)
    timer.daemon = True
    timer.start()
    return True


def look_soon(executor, seconds):
    """Set how long to wait until jobs are looked at, at most as --seconds-between-status-checks.

    The executor for Slurm does not mind that option, and waits up to 3 minutes where no job ends.
    """
    longest = executor.workflow.remote_execution_settings.seconds_between_status_checks
    until_next_look.fset(executor, min(seconds, longest))


def is_done(job):
    """Whether all outputs are there and none bears the mark of a process that has begun it."""
    persistence = job.dag.workflow.persistence
    marks = [
        persistence._record_path(persistence._incomplete_path, persistence._get_key(file))
        for file in job.output
    ]
    return all(map(os.path.exists, job.output)) and not any(map(os.path.exists, marks))


def finish_members(workflow, group, done):
    """Take finished members out of a running group, as a group of their own that succeeded."""
    scheduler, dag = workflow.scheduler, workflow.dag
    finished = GroupJob(group.groupid, frozenset(done), group.global_resources)
    finished.finalize()
    with scheduler._lock:
        # A group is known by its members, so it leaves the sets before it changes.
        scheduler.running.remove(group)
        dag._running.remove(group)
        take_out(group, done)
        # As if the finished ones had been started apart; what they took of the limits (a cluster
        # job) is given back when they end.
        scheduler.update_available_resources([finished])
        scheduler.running.update({group, finished})
        dag.register_running({group, finished})
    scheduler.finish_callback(finished)


def take_out(group, jobs):
    """Make a group one of fewer jobs."""
    group.jobs = frozenset(group.jobs) - jobs
    group._toposorted = group._resources = group._scheduler_resources = None
    group._input = group._output = group._log = group._all_products = group._jobid = None
    group.finalize()


def let_others_go_on(scheduler, failed, postprocess_job=True):
    """Do what follows an error; of groups that wait for what has failed, only that part waits."""
    handle_error(scheduler, failed, postprocess_job)
    if failed not in scheduler.failed:  # it is tried again
        return
    dag = scheduler.workflow.dag
    lost, new = set(), set(getattr(failed, "jobs", [failed]))
    while new:
        new = {after for job in new for after in dag.depending[job] if dag.needrun(after)} - lost
        lost |= new
    for group in {
        id(dag._group[job]): dag._group[job] for job in lost & dag._group.keys()
    }.values():
        if kept := group.jobs - lost:
            take_out(group, lost)
            dag.update_ready(kept)


async def unless_given_up(job):
    """Prepare a step, which removes old outputs: not where another job has taken its place."""
    number = os.environ.get("SLURM_JOB_ID")
    if number and slurm.is_given_up(number):
        raise WorkflowError(f"Slurm gave up job {number}, so it goes no further")
    await prepare_job(job)

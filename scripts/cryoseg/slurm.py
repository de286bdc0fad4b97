"""What Slurm knows of a job."""

import re
import subprocess
import time
from dataclasses import dataclass

from cryoseg.errors import InputError
from cryoseg.small_files import files_only

# How Slurm and the kernel say in a job's log that they killed for memory; the state of the job is
# OUT_OF_MEMORY only where control groups watch it.
OUT_OF_MEMORY = re.compile(r"oom[-_ ]kill|out of memory|exceeded memory limit", re.IGNORECASE)
# How Snakemake's executor quotes what sbatch said.
SBATCH_ERROR = re.compile(r"The error message was '(.*?)'\.$", re.DOTALL | re.MULTILINE)
# Refusals after which the same job may be taken: a controller that starts anew, a limit on jobs.
PASSING_REFUSAL = re.compile(
    r"unable to contact slurm controller|socket timed out|connection refused|zero bytes were"
    r"|QOSMaxSubmitJob|AssocMaxSubmitJob|MaxSubmitJob|too many jobs|temporarily unable",
    re.IGNORECASE,
)
# Seconds after which a node that does not answer is given up by Slurm (SlurmdTimeout's default).
PATIENCE = 300
# Seconds after which it is asked again.
ASK_AGAIN = 10
# The end of a log is enough, and a log may be long.
TAIL_BYTES = 20_000


@dataclass(frozen=True)
class JobRecord:
    """A Slurm job that ended.

    number:        its id; empty if it was not submitted
    state:         TIMEOUT, NODE_FAIL ...; empty if Slurm does not say
    node:          where it ran; empty if it did not start
    memory:        what it asked for, as Slurm writes it
    time_limit:    likewise
    out_of_memory: whether it, or a process of it, was killed for memory
    log:           path of what it printed
    last_line:     the last of that; of a job that was not submitted, what sbatch said
    """

    number: str = ""
    state: str = ""
    node: str = ""
    memory: str = ""
    time_limit: str = ""
    out_of_memory: bool = False
    log: str = ""
    last_line: str = ""


def job_record(number, log=None, message=None):
    """The JobRecord of a job that ended a moment ago.

    number:  its id, or None if it was not submitted
    log:     path of what it printed, if there is one
    message: what Snakemake's executor says of it
    """
    if number is None:
        found = SBATCH_ERROR.search(message or "")
        return JobRecord(last_line=" ".join((found[1] if found else message or "").split()))
    log = "" if log is None else str(log)
    tail = _tail(log)
    said = _fields(number)
    state = said.get("JobState", "")
    return JobRecord(
        number=number,
        state=state,
        node=_known(said.get("NodeList")) or _known(said.get("BatchHost")),
        memory=_memory(said),
        time_limit=said.get("TimeLimit", ""),
        out_of_memory=state == "OUT_OF_MEMORY" or bool(OUT_OF_MEMORY.search(tail)),
        log=log,
        last_line=next((line for line in reversed(tail.splitlines()) if line.strip()), "").strip(),
    )


def is_given_up(number, patience=PATIENCE):
    """Whether Slurm no longer counts a job among those that run.

    A job that Slurm has forgotten is none that runs. While Slurm does not answer (its controller
    starts anew, or this node is cut off from it and may have been given up), this waits, for
    ``patience`` seconds; then the job counts as given up.
    """
    deadline = time.monotonic() + patience
    while True:
        said, complaint = _show_job(number)
        if "JobState" in said:
            return said["JobState"] not in ("RUNNING", "CONFIGURING")
        left = deadline - time.monotonic()
        if "invalid job id" in complaint.lower() or left <= 0:
            return True
        time.sleep(min(ASK_AGAIN, left))


class LostJobs:
    """Which jobs Slurm has not named for so long that they must have ended unseen."""

    def __init__(self, patience=60):
        self.patience, self._missing_since = patience, {}

    def among(self, numbers, named, now):
        """The lost ones.

        numbers: of the jobs that were asked for; named: those that Slurm named in an answer
        now:     seconds on any clock that only goes forward
        """
        missing = set(numbers) - set(named)
        self._missing_since = {each: self._missing_since.get(each, now) for each in missing}
        return {each for each, since in self._missing_since.items() if now - since > self.patience}


def is_refused_for_now(message):
    """Whether sbatch refused a job for a reason that passes: its controller, a limit of jobs."""
    return bool(PASSING_REFUSAL.search(message or ""))


def _fields(number):
    """What scontrol says of a job, by name; nothing where it does not answer."""
    return _show_job(number)[0]


def _show_job(number):
    """What scontrol says of a job, by name, and what it complains of."""
    try:
        done = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", number],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, str(error)
    # Values may hold spaces (comments do); the names that are looked up are not in those.
    return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", done.stdout)), done.stderr


def _known(text):
    return "" if text in (None, "(null)", "None") else text


def _memory(said):
    found = re.search(r"\bmem=(\w+)", said.get("TRES", "") or said.get("ReqTRES", ""))
    return found[1] if found else _known(said.get("MinMemoryNode"))


def _tail(log):
    try:
        with open(log, "rb", opener=files_only) as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except (OSError, InputError):
        return ""


def span(names):
    """Names in short, fit for a file's name and a comment: the first and the last one."""
    first, last = (
        re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:80] for name in (min(names), max(names))
    )
    return first if len(names) == 1 else f"{first}..{last}"

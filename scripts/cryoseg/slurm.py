"""What Slurm knows of a job."""

import re
import subprocess
from dataclasses import dataclass
from datetime import datetime

# How Slurm and the kernel say in a job's log that they killed for memory; the state of the job is
# OUT_OF_MEMORY only where control groups watch it.
OUT_OF_MEMORY = re.compile(r"oom[-_ ]kill|out of memory|exceeded memory limit", re.IGNORECASE)
# How Snakemake's executor quotes what sbatch said.
SBATCH_ERROR = re.compile(r"The error message was '(.*?)'\.$", re.DOTALL | re.MULTILINE)
# The end of a log is enough, and a log may be long.
TAIL_BYTES = 20_000


@dataclass(frozen=True)
class JobRecord:
    """A Slurm job that ended.

    number:        its id; empty if it was not submitted
    state:         TIMEOUT, NODE_FAIL ...; empty if Slurm does not say
    node:          where it ran; empty if it did not start
    started:       seconds since 1970, or None
    memory:        what it asked for, as Slurm writes it
    time_limit:    likewise
    out_of_memory: whether it, or a process of it, was killed for memory
    log:           path of what it printed
    last_line:     the last of that; of a job that was not submitted, what sbatch said
    """

    number: str = ""
    state: str = ""
    node: str = ""
    started: float | None = None
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
        started=_seconds(said.get("StartTime")),
        memory=_memory(said),
        time_limit=said.get("TimeLimit", ""),
        out_of_memory=state == "OUT_OF_MEMORY" or bool(OUT_OF_MEMORY.search(tail)),
        log=log,
        last_line=next((line for line in reversed(tail.splitlines()) if line.strip()), "").strip(),
    )


def is_given_up(number):
    """Whether Slurm knows the job and does not count it among those that run any more."""
    return _fields(number).get("JobState", "RUNNING") not in ("RUNNING", "CONFIGURING")


def _fields(number):
    """What scontrol says of a job, by name; nothing where it does not answer."""
    try:
        done = subprocess.run(
            ["scontrol", "--oneliner", "show", "job", number],
            capture_output=True,
            text=True,
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    # Values may hold spaces (comments do); the names that are looked up are not in those.
    return dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", done.stdout))


def _known(text):
    return "" if text in (None, "(null)", "None") else text


def _seconds(text):
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError):
        return None


def _memory(said):
    found = re.search(r"\bmem=(\w+)", said.get("TRES", "") or said.get("ReqTRES", ""))
    return found[1] if found else _known(said.get("MinMemoryNode"))


def _tail(log):
    try:
        with open(log, "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def span(names):
    """Names in short, fit for a file's name and a comment: the first and the last one."""
    first, last = (
        re.sub(r"[^\w.-]", "_", name, flags=re.ASCII)[:80] for name in (min(names), max(names))
    )
    return first if len(names) == 1 else f"{first}..{last}"

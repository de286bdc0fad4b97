"""The end of a run in which jobs failed: which ones, where, and why."""

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from cryoseg.errors import InputError, brief, printable
from cryoseg.folders import (
    all_behind,
    disk_is_full,
    not_writable,
    refusal,
    some,
    unwritable,
)
from cryoseg.host_memory import MORE, REFUSED
from cryoseg.joblog import STOPPED
from cryoseg.slurm import JobRecord
from cryoseg.small_files import files_only
from cryoseg.table_lines import check_replaceable, table_line
from cryoseg.volumes import stamp_of_status, written_aside

COLUMNS = ("rule", "tomogram", "kind", "reason", "node", "log", "slurm_job", "slurm_log")
# What Slurm's words for the end of a job mean here.
KINDS = {
    "OUT_OF_MEMORY": "out of memory",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "NODE_FAIL": "node failure",
    "BOOT_FAIL": "node failure",
    "CANCELLED": "cancelled",
    "PREEMPTED": "cancelled",
}
# What the interpreter says of a crash that has a usual reason.
CRASHES = {
    "Fatal Python error: Bus error": "a file that it read was cut short or written anew meanwhile, "
    "or its disk is gone or full; see that nothing writes to its inputs, then give the same "
    "command again"
}


@dataclass(frozen=True)
class Failure:
    """A job that failed.

    log:    path of the log that its script wrote; empty for a target, which has no script
    slurm:  what Slurm says of the cluster job that it was last in, or None for a local job
    said:   why its run could not begin or end it, where that is known
    before: stamp_of_log of the log when its run last began it: of an earlier run, or another try
    """

    rule: str
    tomogram: str | None
    log: str
    slurm: JobRecord | None = None
    said: str | None = None
    before: tuple | None = None


def failure_lines(failures):
    """Lines for the end of a run: each failed job and its reason."""
    if not failures:
        return []
    count = "1 job failed" if len(failures) == 1 else f"{len(failures)} jobs failed"
    lines = [f"{count}:"]
    for failure in sorted(failures, key=_order):
        tomogram = f" {failure.tomogram}" if failure.tomogram else ""
        place = f" on {failure.slurm.node}" if failure.slurm and failure.slurm.node else ""
        lines.append(f"  {failure.rule}{tomogram}{place}: {explain(failure)[1]}")
        if failure.log:
            lines.append(f"    log: {failure.log}")
        if failure.slurm and failure.slurm.log:
            lines.append(f"    Slurm's log: {failure.slurm.log}")
    return lines


def write_failures(path, failures):
    """Write a table (tab-separated, with a heading) of what failed.

    Raises InputError where another file lies at ``path``.
    """
    check_replaceable(path, COLUMNS)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with written_aside(path) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        file.write(table_line(COLUMNS))
        for failure in sorted(failures, key=_order):
            kind, reason = explain(failure)
            record = failure.slurm or JobRecord()
            where = (record.node, failure.log, record.number, record.log)
            values = (failure.rule, failure.tomogram or "", kind, reason, *where)
            file.write(table_line(values))


def _order(failure):
    return failure.rule, failure.tomogram or ""


def explain(failure):
    """(kind, sentence) of a failure.

    kind: "input error", "out of memory", "timeout", "node failure", "cancelled", "not submitted"
          or "error"
    """
    record = failure.slurm
    lines = _lines(failure.log, failure.before)
    errors = [line.removeprefix("error: ") for line in lines or () if line.startswith("error: ")]
    if errors:
        return "input error", errors[-1]
    if failure.said:
        return "error", failure.said
    # Before tracebacks: at a full disk, libraries print some that they ignore, and then crash.
    if crashes := [line for line in lines or () if line.startswith("Fatal Python error: ")]:
        return "error", CRASHES.get(crashes[-1], f"it crashed: {crashes[-1]}")
    if any(line.startswith("Traceback (most recent call last)") for line in lines or ()):
        return _of_exception(lines[-1]), lines[-1]
    if record is not None and not record.number:
        return (
            "not submitted",
            f"Slurm did not take the job: {record.last_line or 'it said nothing'}",
        )
    kind = record and record.out_of_memory and "out of memory"
    kind = kind or (record and KINDS.get(record.state))
    if kind:
        return kind, f"{kind}{_asked(kind, record)}{_last(lines)}"
    if lines and STOPPED in lines[-1]:
        return "cancelled", f"it was told to end{_last(lines)}; give the same command again"
    # The C library ends a process that it has no memory for, as where a thread first needs its own.
    if lines and REFUSED.search(lines[-1]):
        return "out of memory", f"out of memory: {lines[-1]}; {MORE}"
    if lines is None and record is not None and record.last_line:
        return "error", f"it ended before its step began; Slurm's log ends: {record.last_line}"
    if not lines and (full := disk_is_full(Path(failure.log).parent)):
        return "error", full
    if lines is None and (why := _why_no_log(failure.log)):
        return "error", why
    if lines is None:
        return "error", "it left no log; see what Snakemake printed above"
    return (
        "error",
        f"it ended without a word, killed perhaps for lack of memory or time{_last(lines)}",
    )


def why_not_begun(inputs, outputs, error):
    """Why a job could not begin, as a sentence that says what to do.

    inputs, outputs: paths of the files that it is to read and to write
    error:           exception that its beginning ended in
    """
    gone = [path for path in inputs if not os.path.exists(path)]
    if gone:
        what = "is" if len(gone) == 1 else "are"
        return (
            f"{printable(some(gone))} {what} gone since the run began; bring back what is missing, "
            "then give the same command again"
        )
    for each in all_behind(error):  # Snakemake's own, where it cannot make a folder
        if isinstance(each, OSError) and (said := refusal(each)):
            return said
    fixed = [path for path in outputs if os.path.exists(path) and not os.access(path, os.W_OK)]
    return not_writable(fixed[0], errno.EACCES) if fixed else brief(error)


def stamp_of_log(path):
    """What is another value once a job has begun to write its log; None where there is none."""
    folder, name = os.path.split(path)
    try:
        # Not asked for by its name: the network's file systems remember for a while that it was not
        # there, and its job may have failed by then.
        if name not in os.listdir(folder or "."):
            return None
        with open(path, "rb", opener=files_only) as file:
            return stamp_of_status(os.fstat(file.fileno()))
    except (OSError, InputError):
        return None


def _lines(log, before):
    """Lines of a log that are not empty; None if there is none, or only the one from ``before``.

    before: its stamp_of_log when the job was to begin
    """
    try:
        with open(log, encoding="utf-8", errors="replace", opener=files_only) as file:
            # Of what is open, as a folder of the network may tell an older state of a path.
            if stamp_of_status(os.fstat(file.fileno())) == before:
                return None
            return [line.strip() for line in file if line.strip()]
    except (OSError, InputError):
        return None


def _why_no_log(path):
    """Why a job could not write its log, as a sentence, or None."""
    if os.path.exists(path):
        return None if os.access(path, os.W_OK) else not_writable(path, errno.EACCES)
    why = path and unwritable(os.path.dirname(path) or ".")
    return f"{path}: {why}" if why else None


def _of_exception(line):
    # Of joblog; torch.OutOfMemoryError, numpy's _ArrayMemoryError
    lacking = ("out of memory", "MemoryError")
    return "out of memory" if line.partition(":")[0].endswith(lacking) else "error"


def _asked(kind, record):
    """What a cluster job had asked for, where that was too little."""
    if kind == "out of memory" and record.memory:
        return f" (the cluster job had asked for {record.memory})"
    if kind == "timeout" and record.time_limit:
        return f" (the cluster job had asked for {record.time_limit})"
    return ""


def _last(lines):
    return f"; the last line of its log: {lines[-1]}" if lines else ""


def names_input_error(log, before=None):
    """Whether a log says what the user must mend, so that another try would fail alike.

    before: its stamp_of_log when the job was to begin
    """
    return any(line.startswith("error: ") for line in _lines(log, before) or ())

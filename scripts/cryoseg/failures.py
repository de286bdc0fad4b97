"""The end of a run: which jobs failed, and why; what the others warned of."""

import re

WARNING = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING (.*)")
MOST_WARNINGS = 20


def failure_lines(jobs):
    """Lines for the end of a run: each failed job and the reason that its log gives.

    jobs: (rule, tomogram or None, path of the log) of each job that failed
    """
    if not jobs:
        return []
    count = "1 job failed" if len(jobs) == 1 else f"{len(jobs)} jobs failed"
    lines = [f"{count}:"]
    for rule, tomogram, log in sorted(jobs, key=str):
        lines.append(f"  {rule}{f' {tomogram}' if tomogram else ''}: {failure_reason(log)}")
        lines.append(f"    log: {log}")
    return lines


def names_input_error(log):
    """Whether a log says what the user must mend, so that another try would fail alike."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return any(line.startswith("error: ") for line in file)
    except OSError:
        return False


def failure_reason(log):
    """The sentence after ``error:`` in a log file, or else its last line."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            lines = [line.strip() for line in file if line.strip()]
    except OSError:
        return "it left no log; see what Snakemake printed above"
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if errors:
        return errors[-1]
    if any(line.startswith("Traceback (most recent call last)") for line in lines):
        return lines[-1]
    last = f"; the last line of its log: {lines[-1]}" if lines else ""
    return f"it ended without a word, killed perhaps for lack of memory or time{last}"


def warning_lines(logs):
    """Lines for the end of a run: what its jobs warned of, each once, and where the rest stands.

    logs: paths of the logs of the jobs that ran
    """
    found = {}
    for log in logs:
        for warning in _warnings_in(log):
            found.setdefault(warning, log)
    if not found:
        return []
    count = "1 warning" if len(found) == 1 else f"{len(found)} warnings"
    lines = [f"{count}:", *(f"  {warning}" for warning in list(found)[:MOST_WARNINGS])]
    if len(found) > MOST_WARNINGS:
        more = list(found.values())[MOST_WARNINGS]
        lines.append(f"  ... and {len(found) - MOST_WARNINGS} more, the next one in {more}")
    return lines


def _warnings_in(log):
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return [match[1] for line in file if (match := WARNING.match(line))]
    except OSError:  # a job without a log
        return []

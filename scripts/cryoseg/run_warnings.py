"""What the jobs of a run warned of, for its end."""

import re

from cryoseg.errors import InputError
from cryoseg.folders import some
from cryoseg.small_files import files_only

WARNING = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING (.*)")
# How an error begins that stops its tomogram alone, and is a warning to the job that found it.
ERROR = "error: "
MOST_WARNINGS = 20


def warning_lines(logs):
    """Lines for the end of a run: what its jobs found, each once, errors first; where the rest is.

    logs: {path of a job's log: the table in which the job wrote all of that, or None}
    """
    found = {}
    for log, table in logs.items():
        for warning in warnings_in(log):
            # What a check warned of is told once more by the step that tabulates it.
            if table or warning not in found:
                found[warning] = table or log
    if not found:
        return []
    ordered = sorted(found, key=lambda warning: not warning.startswith(ERROR))
    errors = sum(warning.startswith(ERROR) for warning in ordered)
    counts = ((errors, "error"), (len(ordered) - errors, "warning"))
    heading = ", ".join(f"{n} {what}{'s' * (n != 1)}" for n, what in counts if n)
    lines = [f"{heading}:", *(f"  {warning}" for warning in ordered[:MOST_WARNINGS])]
    if rest := ordered[MOST_WARNINGS:]:
        places = some(sorted({found[warning] for warning in rest}), most=3)
        lines.append(f"  ... and {len(rest)} more in {places}")
    return lines


def warnings_in(log):
    """What the log of a job says as a warning, in order; nothing where there is no log."""
    try:
        with open(log, encoding="utf-8", errors="replace", opener=files_only) as file:
            return [match[1] for line in file if (match := WARNING.match(line))]
    except (OSError, InputError):  # a job without a log
        return []

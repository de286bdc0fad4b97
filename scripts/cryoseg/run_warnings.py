"""What the jobs of a run warned of, for its end."""

import re

WARNING = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING (.*)")
MOST_WARNINGS = 20


def warning_lines(logs):
    """Lines for the end of a run: what its jobs warned of, each once, and where the rest stands.

    logs: paths of the logs of the jobs that ran
    """
    found = {}
    for log in logs:
        for warning in warnings_in(log):
            found.setdefault(warning, log)
    if not found:
        return []
    count = "1 warning" if len(found) == 1 else f"{len(found)} warnings"
    lines = [f"{count}:", *(f"  {warning}" for warning in list(found)[:MOST_WARNINGS])]
    if len(found) > MOST_WARNINGS:
        more = list(found.values())[MOST_WARNINGS]
        lines.append(f"  ... and {len(found) - MOST_WARNINGS} more, the next one in {more}")
    return lines


def warnings_in(log):
    """What the log of a job says as a warning, in order; nothing where there is no log."""
    try:
        with open(log, encoding="utf-8", errors="replace") as file:
            return [match[1] for line in file if (match := WARNING.match(line))]
    except OSError:  # a job without a log
        return []

"""The end of a run in which jobs failed: which ones, and why."""


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

"""Estimates of a run as a table, for programs and for the terminal."""

import csv

from cryoseg.estimates import seconds_together, wall_of_run

DEVICES = (1, 4, 16)
TARGETS = ("all", "overview")
TOGETHER = "(together)"
COLUMNS = (
    *("step", "target", "done", "jobs", "job_seconds", "gpus_per_job", "gpu_hours"),
    *(f"wall_seconds_{n}" for n in DEVICES),
    *("bytes_written", "largest_job_mb", "guess", "basis"),
)
NOTHING_MISSING = "nothing is missing; snakemake -n tells whether something has changed"


def walls_of(estimates, machine):
    """Seconds by the number of devices, a mapping, of each step by its name, and of each target.

    A step's are those of its jobs alone, a target's those of a whole run. Found once, since
    schedules of some ten thousand jobs take seconds.
    """
    steps = {
        each.step: {n: seconds_together([each], machine, n) for n in DEVICES} for each in estimates
    }
    runs = {
        target: {n: wall_of_run(_needed(estimates, target), machine, n) for n in DEVICES}
        for target in TARGETS
    }
    return steps, runs


def write_estimates(path, estimates, walls):
    """Write a table (tab-separated, with a heading): seconds, bytes, MB.

    walls: as walls_of returns them
    Two rows named (together) follow those of the steps, of the whole run for the targets "all" and
    "overview", which includes the former.
    """
    steps, runs = walls
    rows = [_as_row(each, steps[each.step]) for each in estimates]
    for target in TARGETS:
        rows.append(_row_of_sums(_needed(estimates, target), target, runs[target]))
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def _as_row(each, walls):
    return {
        "step": each.step,
        "target": each.target,
        "done": each.done,
        "jobs": each.jobs,
        "job_seconds": f"{sum(each.seconds):.1f}",
        "gpus_per_job": each.gpus,
        "gpu_hours": f"{each.gpu_hours:.4f}",
        **{f"wall_seconds_{n}": f"{wall:.1f}" for n, wall in walls.items()},
        "bytes_written": round(each.bytes_written),
        "largest_job_mb": each.memory_mb,
        "guess": "yes" if each.guess else "no",
        "basis": each.basis,
    }


def _needed(estimates, target):
    """Estimates of what a target needs; the overview needs all."""
    return [each for each in estimates if target in ("overview", each.target)]


def _row_of_sums(needed, target, walls):
    return {
        "step": TOGETHER,
        "target": target,
        "done": sum(each.done for each in needed),
        "jobs": sum(each.jobs for each in needed),
        "job_seconds": f"{sum(sum(each.seconds) for each in needed):.1f}",
        "gpus_per_job": "",
        "gpu_hours": f"{sum(each.gpu_hours for each in needed):.4f}",
        **{f"wall_seconds_{n}": f"{wall:.1f}" for n, wall in walls.items()},
        "bytes_written": round(sum(each.bytes_written for each in needed)),
        "largest_job_mb": max((each.memory_mb for each in needed), default=0),
        "guess": "yes" if any(each.guess for each in needed) else "no",
        "basis": "jobs beside each other where there is room for them",
    }


def estimate_lines(estimates, walls):
    """Lines for the terminal: a table of what is to be done, its sums, and what it goes by.

    walls: as walls_of returns them
    """
    steps, runs = walls
    waiting = [each for each in estimates if each.jobs]
    wanted = _needed(waiting, "all")
    done = [] if wanted else [NOTHING_MISSING]
    if not waiting:
        return done
    heading = ("step", "jobs", "on", "GPU-hours", *(f"wall, {n}" for n in DEVICES))
    rows = [(*heading, "disk", "memory")]
    for each in wanted:
        rows.append(_line(each, steps[each.step]))
    if wanted:
        rows.append(_sums("together", wanted, runs["all"]))
    if more := [each for each in waiting if each.target != "all"]:
        rows += [_line(each, steps[each.step]) for each in more]
        rows.append(_sums("with overview", waiting, runs["overview"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    notes = {}
    for each in waiting:
        notes.setdefault(each.basis, []).append(each.step)
    return [
        *done,
        *lines,
        "wall, N: with N GPUs, each with the processors of this machine; where there is no GPU, "
        "with N such machines. Of a step: its jobs alone; together: jobs of several steps beside "
        "each other where there is room. memory: of the largest job.",
        "* a guess",
        *(f"{', '.join(names)}: {basis}" for basis, names in notes.items()),
    ]


def _line(each, walls):
    walls = [_time(walls[n]) for n in DEVICES]
    on, hours = ("GPU", f"{each.gpu_hours:.2g}") if each.gpus else ("CPU", "-")
    size = _bytes(each.bytes_written), _bytes(each.memory_mb * 1e6)
    return (each.step + " *" * each.guess, str(each.jobs), on, hours, *walls, *size)


def _sums(name, waiting, walls):
    walls = [_time(walls[n]) for n in DEVICES]
    hours = f"{sum(each.gpu_hours for each in waiting):.2g}"
    disk = _bytes(sum(each.bytes_written for each in waiting))
    memory = _bytes(max(each.memory_mb for each in waiting) * 1e6)
    return (name, str(sum(each.jobs for each in waiting)), "", hours, *walls, disk, memory)


def _time(seconds):
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _bytes(number):
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.0f} kB"

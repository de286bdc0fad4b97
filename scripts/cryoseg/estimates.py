"""What a run would take before it is started: jobs, time, disk and memory of each step.

Times are those of jobs of the same step that have run here, which Snakemake and the records keep;
for score_voxels also those of a calibration. Where there is neither, rates of another machine stand
in, and the row says that it is a guess.
"""

import csv
import json
import os
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from statistics import fmean, median

import numpy as np
import yaml

from cryoseg.errors import InputError
from cryoseg.job_resources import CPU_MINUTES, GPU_MINUTES, USUAL_VOXELS, header_shape
from cryoseg.provenance import canonical, read_record

DEVICES = (1, 4, 16)
USUAL_SHAPE = (464, 928, 928)  # of a tomogram whose header is nowhere; see USUAL_VOXELS
# Seconds that a job takes before its first voxel: interpreter, libraries, opening files.
START_SECONDS = {"score_voxels": 6.0, "inspect_model": 3.0, "train_model": 10.0}
OTHER_START_SECONDS = 1.0
# Guesses. Seconds per million voxels, from 200 x 512 x 512 on one core of an Intel Xeon (Sapphire
# Rapids), files included.
SECONDS_PER_MEGAVOXEL = {
    "simulate_tomogram": 2.0,
    "scale_tomogram": 0.07,
    "label_voxels": 0.1,
    "measure_distances": 0.1,
    "cut_patches": 0.1,
}
OTHER_SECONDS_PER_MEGAVOXEL = 0.1
# Bytes that are written per voxel, compressed where files are.
BYTES_PER_VOXEL = {
    "simulate_tomogram": 6.0,
    "scale_tomogram": 4.0,
    "score_voxels": 2.0,
    "label_voxels": 0.05,
    "measure_distances": 0.15,
    "cut_patches": 4.0,
}
OTHER_BYTES_PER_VOXEL = 1.0
# Where the tiles of a network that is not there yet cannot be planned.
USUAL_COMPUTED = 1.5
GUESS = "guess: rates of another machine; they are measured when a first tomogram has run"
GUESS_OF_SCORES = "guess: the longest that a job asks for; `snakemake calibrate` measures it"


@dataclass(frozen=True)
class Pace:
    """Seconds of a job: ``start`` + ``each`` for each unit of its work; basis says where from."""

    start: float
    each: float
    basis: str
    guess: bool = False

    def seconds(self, work):
        return self.start + self.each * work


@dataclass
class Estimate:
    """What is still to be done in a step.

    seconds: of each job; None where that is unknown
    gpus:    that each job takes
    at_once: jobs of this step beside each other for each device
    bytes_written, memory_mb: of all jobs together, of the largest job
    """

    step: str
    done: int = 0
    jobs: int = 0
    seconds: list[float] | None = field(default_factory=list)
    gpus: int = 0
    at_once: int = 1
    bytes_written: float = 0.0
    memory_mb: int = 0
    basis: str = ""
    guess: bool = False

    @property
    def gpu_hours(self):
        return None if self.seconds is None else self.gpus * sum(self.seconds) / 3600

    def wall_seconds(self, devices):
        """With so many devices, each with the processors of this machine; None if unknown."""
        if self.seconds is None:
            return None
        longest = max(self.seconds, default=0)
        return max(longest, sum(self.seconds) / (devices * self.at_once))


def kind_of(step):
    """The step's name without that of its entry: score_voxels of semantic_score_voxels."""
    return "_".join(step.name.split("_")[-2:])


def find_shapes(steps):
    """Step to (Z, Y, X) of its tomogram: by a header, or by what it is made of; None if unknown."""
    made_by = {path: step for step in steps for path in paths(step.outputs)}
    shapes = {}

    def shape_of(step):
        if id(step) not in shapes:
            shapes[id(step)] = None
            shapes[id(step)] = _given_shape(step) or next(_shapes_near(step), None)
        return shapes[id(step)]

    def _shapes_near(step):
        # An average has a size of its own.
        sources = {name: value for name, value in step.inputs.items() if name != "averages"}
        for path in sorted(
            paths(sources), key=lambda path: path not in sources.get("tomogram", ())
        ):
            try:
                yield header_shape(path)
            except (OSError, ValueError):
                if path in made_by and (shape := shape_of(made_by[path])):
                    yield shape

    for step in steps:
        if step.tomogram is not None:
            shape_of(step)
    return shapes


def _given_shape(step):
    shape = step.settings.get("settings", {})
    return tuple(shape["shape"]) if kind_of(step) == "simulate_tomogram" else None


def estimate_run(steps, plan_computed, cores, has_gpu):
    """Estimate what is still to be done.

    steps:         list of cryoseg.steps.Step with their resources, done or not
    plan_computed: (step, shape, memory in bytes or None) -> voxels that go through the network,
                   halos included, or None where the network is not there yet
    cores:         processors for the jobs of one device
    has_gpu:       whether a stage whose device is auto will find a GPU
    Returns a list of Estimate, in the order in which steps first wait for none of the others.
    """
    steps = list(steps)
    shapes = find_shapes(steps)
    by_rule = {}
    for step in in_order(steps):
        by_rule.setdefault(step.name, []).append(step)
    return [
        _estimate(members, shapes, plan_computed, cores, has_gpu) for members in by_rule.values()
    ]


def in_order(steps):
    """Steps, each after those that make its inputs."""
    made_by = {path: step for step in steps for path in paths(step.outputs)}
    ordered, seen = [], set()

    def add(step):
        if id(step) in seen:
            return
        seen.add(id(step))
        for path in paths(step.inputs):
            if path in made_by:
                add(made_by[path])
        ordered.append(step)

    for step in steps:
        add(step)
    return ordered


def _estimate(members, shapes, plan_computed, cores, has_gpu):
    done, waiting = [], []
    for step in members:
        there = all(map(os.path.exists, paths(step.outputs)))
        (done if there else waiting).append(step)
    first = members[0]
    found = Estimate(first.name, len(done), len(waiting))
    found.gpus = int(first.resources.get("gpu") or 0)
    if first.resources.get("device") == "auto" and not has_gpu:
        found.gpus = 0
    threads = min(int(first.resources.get("_cores") or 1), cores)
    found.at_once = 1 if found.gpus else max(1, cores // threads)
    found.memory_mb = max((int(step.resources.get("mem_mb") or 0) for step in waiting), default=0)
    if not waiting:
        found.basis = "done"
        return found
    found.bytes_written = _bytes_written(done, waiting, shapes)
    if kind_of(first) == "train_model":
        _estimate_training(found, waiting)
        return found
    if kind_of(first) == "score_voxels":
        pace, work = _pace_of_scores(done, waiting, shapes, plan_computed, found.gpus)
    else:
        work = {id(step): voxels_of(step, shapes) for step in members}
        pace = _measured_pace(done, work) or _guessed_pace(kind_of(first))
    found.seconds = [pace.seconds(work[id(step)]) for step in waiting]
    unknown = sum(step.tomogram is not None and not shapes[id(step)] for step in waiting)
    found.basis, found.guess = pace.basis, pace.guess or bool(unknown)
    if unknown:
        found.basis += f"; the size of {unknown} tomograms is a guess too, 464 x 928 x 928"
    return found


def voxels_of(step, shapes):
    """Voxels of a step's tomogram; 0 of a step that is not of one tomogram."""
    if step.tomogram is None:
        return 0
    shape = shapes[id(step)]
    return prod(shape) if shape else USUAL_VOXELS


def _guessed_pace(kind):
    each = SECONDS_PER_MEGAVOXEL.get(kind, OTHER_SECONDS_PER_MEGAVOXEL) / 1e6
    return Pace(START_SECONDS.get(kind, OTHER_START_SECONDS), each, GUESS, guess=True)


def _measured_pace(done, work):
    """Pace of the jobs that have run, or None."""
    points = [
        (work[id(step)], seconds) for step in done if (seconds := benchmark_seconds(step.benchmark))
    ]
    if not points:
        return None
    start, each = fit(points, START_SECONDS.get(kind_of(done[0]), OTHER_START_SECONDS))
    return Pace(start, each, f"measured: {_count(len(points), 'job')}")


def benchmark_seconds(path):
    """Seconds that a job took, from the table that Snakemake wrote; None if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        return float(rows[-1]["s"])
    except (OSError, TypeError, ValueError, KeyError, IndexError):  # none, or cut short
        return None


def fit(points, usual_start):
    """(start, each) of seconds = start + each * work.

    points: (work, seconds). Of jobs that are all about as large nothing tells start and work apart:
    they are taken to need ``usual_start``, if that is less than what they took.
    """
    work, seconds = np.array(points, float).T
    if work.max() == 0:
        return fmean(seconds), 0.0
    if len(points) > 1 and work.min() > 0 and work.max() > 2 * work.min():
        each, start = np.polyfit(work, seconds, 1)
        if each >= 0 and start >= 0:
            return float(start), float(each)
    start = min(usual_start, 0.9 * seconds.min())
    return float(start), float((seconds.sum() - start * len(seconds)) / work.sum())


def _pace_of_scores(done, waiting, shapes, plan_computed, gpus):
    """Pace of score_voxels, and the voxels that each job sends through the network, by step."""
    runs = [(step, run) for step in done if (run := _measured_scores(step))]
    calibration = _calibration(waiting[0])
    memory = None
    if runs:
        memory = median(run["tile_memory"] for _, run in runs)
    elif calibration:
        memory = calibration["tile_memory"]
    planned = {}

    def plan(step):
        shape = shapes[id(step)] or USUAL_SHAPE
        if shape not in planned:
            planned[shape] = plan_computed(step, shape, memory)
        return planned[shape] or USUAL_COMPUTED * prod(shape)

    share, note = 1.0, ""
    if "mask" in waiting[0].inputs:
        shares = [run["computed"] / plan(step) for step, run in runs if shapes[id(step)]]
        if shares:
            share = fmean(shares)
            note = f"; masks leave {share:.0%} to compute, as in those"
        else:
            note = "; masks are taken to exclude nothing, so it is too much rather than too little"
    work = {id(step): plan(step) * share for step in waiting}
    if None in planned.values():
        note += "; the model is not there yet, so its tiles are a guess"
    if points := [
        (took["computed"], s) for step, took in runs if (s := benchmark_seconds(step.benchmark))
    ]:
        start, each = fit(points, START_SECONDS["score_voxels"])
        device = Counter(run["device"] for _, run in runs).most_common(1)[0][0]
        basis = f"measured: {_count(len(points), 'job')} on {device}{note}"
        return Pace(start, each, basis, None in planned.values()), work
    if calibration:
        each = 1 / calibration["voxels_per_second"]
        basis = f"measured by calibrate on {calibration['device']}{note}"
        start = calibration["start_seconds"] + _begin_seconds(waiting[0], calibration)
        return Pace(start, each, basis, None in planned.values()), work
    minutes = GPU_MINUTES if gpus else CPU_MINUTES
    pace = Pace(START_SECONDS["score_voxels"], 60 * minutes / 1e6, GUESS_OF_SCORES + note, True)
    return pace, work


def _measured_scores(step):
    (scores,) = paths(step.outputs)
    try:
        return (read_record(scores) or {}).get("measured")
    except InputError:  # damaged, which verify reports
        return None


def _calibration(step):
    """What calibrate measured, if that was with the model and the settings of now; else None."""
    (scores,) = paths(step.outputs)
    place = Path(scores).with_name("calibration.json")
    try:
        record = read_record(place) or {"settings": None}
        if canonical(record["settings"]) != canonical(step.settings):
            return None
        measured = [each["sha256"] for each in record["inputs"] if each["name"] == "checkpoint"]
        model = json.loads(place.with_name("model.json").read_text())
        return json.loads(place.read_text()) if measured == [model["sha256"]] else None
    except (FileNotFoundError, InputError):
        return None


def _begin_seconds(step, calibration):
    """Seconds before a job's script begins its work: what calibrate took beside its own work."""
    took = benchmark_seconds(Path(step.benchmark).parents[1] / "calibrate.tsv")
    usual = START_SECONDS["inspect_model"]
    return usual if took is None else max(took - calibration["seconds"], 0)


def _estimate_training(found, waiting):
    (step,) = waiting
    (checkpoint,) = paths(step.outputs)
    log_dir, config = Path(checkpoint).parents[1], step.settings["settings"]["config"]
    epochs = config["hyper_parameters"]["max_epochs"]
    rows = _epochs_done(log_dir, config)
    if not rows:
        found.seconds, found.guess = None, True
        found.basis = f"unknown until the first of at most {epochs} epochs has ended"
        return
    passed, seconds = int(rows[-1]["epoch"]), float(rows[-1]["seconds"])
    found.seconds = [START_SECONDS["train_model"] + (epochs - passed) * seconds / passed]
    found.basis = f"measured: {_count(passed, 'epoch')} of at most {epochs}"


def _epochs_done(log_dir, config):
    """Rows of metrics.csv, if they are of a training with this configuration."""
    try:
        settings = yaml.safe_load((log_dir / "settings.yaml").read_text())
        if canonical(settings["config"]) != canonical(config):
            return []
        with open(log_dir / "metrics.csv", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def _bytes_written(done, waiting, shapes):
    """Bytes of the outputs of jobs to come, by those that are there, or by the usual ones."""
    voxels = sum(voxels_of(step, shapes) for step in done)
    written = sum(os.path.getsize(path) for step in done for path in paths(step.outputs))
    if voxels:
        each = written / voxels
    else:
        each = BYTES_PER_VOXEL.get(kind_of(waiting[0]), OTHER_BYTES_PER_VOXEL)
        each += _usual_extra(waiting[0])
    return each * sum(voxels_of(step, shapes) for step in waiting)


def _usual_extra(step):
    """Bytes per voxel of what a stage writes only if it is asked to."""
    extra = 1.0 if "mrc" in step.outputs else 0.0
    settings = step.settings.get("settings")
    if isinstance(settings, dict) and settings.get("save_internal_files"):
        extra += 8.0 * _channels(step)
    return extra


def _channels(step):
    """Channels of a stage's network, where it was looked at; else two."""
    for path in step.inputs.get("model", ()):
        if os.path.exists(path):
            return json.loads(Path(path).read_text())["out_channels"]
    return 2


def write_estimates(path, estimates):
    """Write a table (tab-separated, with a heading): seconds, bytes, MB; empty where unknown."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = None
        for row in map(_as_row, estimates):
            if table is None:
                table = csv.DictWriter(file, row, delimiter="\t", lineterminator="\n")
                table.writeheader()
            table.writerow(row)


def _as_row(each):
    walls = {f"wall_seconds_{n}": _number(each.wall_seconds(n), 1) for n in DEVICES}
    return {
        "step": each.step,
        "done": each.done,
        "jobs": each.jobs,
        "job_seconds": "" if each.seconds is None else _number(sum(each.seconds), 1),
        "gpus_per_job": each.gpus,
        "gpu_hours": _number(each.gpu_hours, 4),
        **walls,
        "bytes_written": round(each.bytes_written),
        "largest_job_mb": each.memory_mb,
        "guess": "yes" if each.guess else "no",
        "basis": each.basis,
    }


def estimate_lines(estimates):
    """Lines for the terminal: a table of what is to be done, its sum, and what it goes by."""
    waiting = [each for each in estimates if each.jobs]
    if not waiting:
        return ["nothing is missing; snakemake -n tells whether something has changed"]
    heading = ("step", "jobs", "on", "GPU-hours", *(f"wall, {n}" for n in DEVICES))
    rows = [(*heading, "disk", "memory")]
    for each in waiting:
        walls = [_time(each.wall_seconds(devices)) for devices in DEVICES]
        on, hours = ("GPU", _hours(each.gpu_hours)) if each.gpus else ("CPU", "-")
        mark = " *" if each.guess else ""
        size = _bytes(each.bytes_written), _bytes(each.memory_mb * 1e6)
        rows.append((each.step + mark, str(each.jobs), on, hours, *walls, *size))
    rows.append(_sums(waiting))
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
        *lines,
        "wall, N: with N GPUs, each with the processors of this machine; where there is no GPU, "
        "with N such machines. One step after the other. memory: of the largest job.",
        "* a guess",
        *(f"{', '.join(names)}: {basis}" for basis, names in notes.items()),
    ]


def _sums(waiting):
    known = [each for each in waiting if each.seconds is not None]
    more = "+" if len(known) < len(waiting) else ""
    walls = [_time(sum(each.wall_seconds(n) for each in known)) + more for n in DEVICES]
    hours = _hours(sum(each.gpu_hours for each in known)) + more
    disk = _bytes(sum(each.bytes_written for each in waiting))
    memory = _bytes(max(each.memory_mb for each in waiting) * 1e6)
    return ("together", str(sum(each.jobs for each in waiting)), "", hours, *walls, disk, memory)


def paths(files):
    """All paths of a mapping of lists of them."""
    return [path for each in files.values() for path in each]


def _count(number, what):
    return f"{number} {what}" + "s" * (number != 1)


def _number(value, digits):
    return "" if value is None else f"{value:.{digits}f}"


def _hours(value):
    return "unknown" if value is None else f"{value:.2g}"


def _time(seconds):
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _bytes(number):
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number / 1e3:.0f} kB"

"""What a run would take before it is started: jobs, time, disk and memory of each step.

Times are those of jobs of the same step that have run here, which Snakemake and the records keep,
or else of jobs that do the same for another entry; for score_voxels and train_model also those of
a calibration. Where there is none of these, rates of another machine stand in, and the row says
that it is a guess.
"""

import math
import os
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from statistics import fmean, median

from cryoseg.calibrations import begin_seconds, scoring_calibration, training_calibration
from cryoseg.errors import InputError
from cryoseg.job_resources import USUAL_VOXELS, header_shape
from cryoseg.paces import (
    START_SECONDS,
    Pace,
    benchmark_seconds,
    count_of,
    fit,
    guessed_pace,
    kind_of,
    measured_pace,
)
from cryoseg.provenance import read_record
from cryoseg.schedule import Job, wall_seconds
from cryoseg.small_files import read_json
from cryoseg.steps import Step
from cryoseg.training_estimates import training_estimate

USUAL_SHAPE = (464, 928, 928)  # of a tomogram whose header is nowhere; see USUAL_VOXELS
# Bytes that are written per voxel, compressed where files are.
BYTES_PER_VOXEL = {
    "simulate_tomogram": 6.0,
    "scale_tomogram": 4.0,
    "score_voxels": 2.0,
    "label_voxels": 0.05,
    "measure_distances": 0.15,
    "cut_patches": 4.0,
}
OTHER_BYTES_PER_VOXEL = 0.01
# Of a network that is not there yet: what the halos of its tiles add, and its operations for a
# voxel, which are those of CryoSiam's default network.
USUAL_COMPUTED, USUAL_OPERATIONS = 1.5, 4.0e6
# Guesses, of the operations of convolutions that are done in a second, by a GPU and by a core: the
# networks of config/demo.yaml in bf16 attained 54e9 and 120e9 on a core of an Intel Xeon (Sapphire
# Rapids), CryoSiam's default network in float32 80e9. Nothing was measured on a GPU.
GPU_OPERATIONS, CORE_OPERATIONS = 1e13, 9e10
GUESS_OF_SCORES = "guess: operations at the rate of another machine; `snakemake calibrate` measures"
# What Snakemake takes to read the configuration and find the jobs, and around each job: to choose
# it, to start it and to write down that it is done. By the wall time of runs of 7 and of 14 jobs on
# two idle cores, less that of the jobs.
SNAKEMAKE_SECONDS, JOB_SECONDS = 2.0, 0.1


@dataclass(frozen=True)
class Machine:
    """What a device comes with.

    cores:     processors for the jobs of one device
    has_gpu:   whether a stage whose device is auto will find a GPU
    memory_mb: that jobs may book together
    """

    cores: int
    has_gpu: bool = False
    memory_mb: float = math.inf


@dataclass
class Estimate:
    """What is still to be done in a step.

    target:  "all", or "overview" for a step that nothing but the overview needs
    done:    jobs whose files are there
    waiting: cryoseg.steps.Step of the other jobs; seconds: of each
    gpus:    that each job takes
    bytes_written, memory_mb: of all jobs together, of the largest job
    """

    step: str
    target: str = "all"
    done: int = 0
    waiting: list[Step] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    gpus: int = 0
    bytes_written: float = 0.0
    memory_mb: int = 0
    basis: str = ""
    guess: bool = False

    @property
    def jobs(self):
        return len(self.waiting)

    @property
    def gpu_hours(self):
        return self.gpus * sum(self.seconds) / 3600


def estimate_run(steps, targets, networks, machine):
    """Estimate what is still to be done.

    steps:    list of cryoseg.steps.Step with their resources, done or not
    targets:  files; steps that none of them needs are there for the overview
    networks: has scoring(step, training, shape, memory in bytes or None) -> (voxels that go through
              the network, halos included, and operations that these take), or None where neither
              model nor training is known; and pass_operations(training) -> operations for a voxel,
              or None; training: the Step that makes the model, or None
    machine:  Machine
    Returns a list of Estimate, in the order in which steps first wait for none of the others.
    """
    steps = list(steps)
    run = _Run(steps, networks, machine)
    wanted = {id(step) for step in _behind(targets, run.made_by)}
    by_rule = {}
    for step in in_order(steps):
        by_rule.setdefault(step.name, []).append(step)
    return [
        run.estimate(members, "all" if id(members[0]) in wanted else "overview")
        for members in by_rule.values()
    ]


def seconds_together(estimates, machine, devices):
    """Seconds of all jobs of some estimates, on so many devices with a Machine's processors each.

    Jobs wait for what makes their inputs, and start when there is room for them.
    """
    waiting = [
        (step, seconds)
        for each in estimates
        for step, seconds in zip(each.waiting, each.seconds, strict=True)
    ]
    ordered = in_order([step for step, _ in waiting])
    seconds_of = {id(step): seconds for step, seconds in waiting}
    made_by = _makers(ordered)
    places = {id(step): place for place, step in enumerate(ordered)}
    jobs = []
    for step in ordered:
        before = {places[id(made_by[path])] for path in paths(step.inputs) if path in made_by}
        asked, seconds = step.resources, seconds_of[id(step)] + JOB_SECONDS
        cores, gpus = min(int(asked.get("_cores") or 1), machine.cores), int(asked.get("gpu") or 0)
        # Where there is no GPU, too, jobs that want one wait for each other.
        jobs.append(Job(seconds, cores, gpus, int(asked.get("mem_mb") or 0), tuple(before)))
    return wall_seconds(jobs, devices * machine.cores, devices, devices * machine.memory_mb)


def wall_of_run(estimates, machine, devices):
    """Seconds of a run that does what some estimates are of, Snakemake's own included."""
    return SNAKEMAKE_SECONDS + seconds_together(estimates, machine, devices)


def find_shapes(steps):
    """Step to (Z, Y, X) of its tomogram: by a header, or by what it is made of; None if unknown."""
    made_by = _makers(steps)
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


def _makers(steps):
    """Step by each of the files that it makes."""
    return {path: step for step in steps for path in paths(step.outputs)}


def in_order(steps):
    """Steps, each after those that make its inputs."""
    made_by = _makers(steps)
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


def _behind(targets, made_by):
    """Steps that files are made by, and those that make what these read."""
    found, files = {}, list(targets)
    while files:
        step = made_by.get(files.pop())
        if step is not None and id(step) not in found:
            found[id(step)] = step
            files += paths(step.inputs)
    return list(found.values())


class _Run:
    """All steps of a run, and what is known of them together."""

    def __init__(self, steps, networks, machine):
        self.networks, self.machine = networks, machine
        self.made_by, self.shapes = _makers(steps), find_shapes(steps)
        self.done, self.by_kind = set(), {}
        for step in steps:
            if all(map(os.path.exists, paths(step.outputs))):
                self.done.add(id(step))
                self.by_kind.setdefault(kind_of(step), []).append(step)

    def estimate(self, members, target):
        """Estimate of the steps of one rule."""
        waiting = [step for step in members if id(step) not in self.done]
        done = [step for step in members if id(step) in self.done]
        first = members[0]
        found = Estimate(first.name, target, len(done), waiting, gpus=self._gpus(first))
        if not waiting:
            found.basis = "done"
            return found
        found.memory_mb = max(int(step.resources.get("mem_mb") or 0) for step in waiting)
        found.bytes_written = _bytes_written(done, waiting, self.shapes)
        if kind_of(first) == "train_model":
            shapes = [self._shape_behind(path) for path in first.inputs["patches"]]
            seconds, found.basis, found.guess = training_estimate(
                first, shapes, self._pass_seconds(first)
            )
            found.seconds = [seconds]
            return found
        if kind_of(first) == "score_voxels":
            pace, work = self._scores(done, waiting)
        else:
            pace, work = self._pace(members, done)
        found.seconds = [pace.seconds(work[id(step)]) for step in waiting]
        unknown = sum(step.tomogram is not None and not self.shapes[id(step)] for step in waiting)
        found.basis, found.guess = pace.basis, pace.guess or bool(unknown)
        if unknown:
            found.basis += f"; the size of {unknown} tomograms is a guess too, 464 x 928 x 928"
        return found

    def _gpus(self, step):
        asked = step.resources
        if asked.get("device") == "auto" and not self.machine.has_gpu:
            return 0
        return int(asked.get("gpu") or 0)

    def _rate(self, step):
        """Operations a second that the device of a step is guessed to do."""
        if self._gpus(step):
            return GPU_OPERATIONS
        return CORE_OPERATIONS * min(int(step.resources.get("_cores") or 1), self.machine.cores)

    def _pass_seconds(self, step):
        return (self.networks.pass_operations(step) or USUAL_OPERATIONS) / self._rate(step)

    def _shape_behind(self, path):
        step = self.made_by.get(path)
        return (step and self.shapes.get(id(step))) or USUAL_SHAPE

    def _pace(self, members, done):
        """Pace of a step that goes by voxels, and the voxels of each job, by step."""
        alike = self.by_kind.get(kind_of(members[0]), [])
        work = {id(step): voxels_of(step, self.shapes) for step in [*members, *alike]}
        names = ", ".join(sorted({step.name for step in alike}))
        measured = measured_pace(done, work) or measured_pace(alike, work, f" of {names}")
        return measured or guessed_pace(members[0]), work

    def _scores(self, done, waiting):
        """Pace of score_voxels, and the work that its voxels are for the network, by step."""
        runs = [(step, run) for step in done if (run := _measured_scores(step))]
        calibration = scoring_calibration(waiting[0])
        training = self.made_by.get(waiting[0].inputs["checkpoint"][0])
        memory = None
        if runs:
            memory = median(run["tile_memory"] for _, run in runs)
        elif calibration:
            memory = calibration["tile_memory"]
        planned, unknown = {}, set()

        def plan(step):
            shape = self.shapes[id(step)] or USUAL_SHAPE
            if shape not in planned:
                found = self.networks.scoring(step, training, shape, memory)
                if found is None:
                    unknown.add(shape)
                    computed = USUAL_COMPUTED * prod(shape)
                    found = computed, USUAL_OPERATIONS * computed
                planned[shape] = found
            return planned[shape]

        share, note = _share_of_masks(waiting[0], runs, self.shapes, plan)
        voxels = {id(step): plan(step)[0] * share for step in waiting}
        operations = {id(step): plan(step)[1] * share for step in waiting}
        if unknown:
            note += "; the model is not there yet, so its tiles are a guess"
        if points := [
            (run["computed"], s) for step, run in runs if (s := benchmark_seconds(step.benchmark))
        ]:
            start, each = fit(points, START_SECONDS["score_voxels"])
            device = Counter(run["device"] for _, run in runs).most_common(1)[0][0]
            basis = f"measured: {count_of(len(points), 'job')} on {device}{note}"
            return Pace(start, each, basis, bool(unknown)), voxels
        if calibration:
            table = Path(waiting[0].benchmark).parents[1] / "calibrate.tsv"
            start = calibration["start_seconds"] + begin_seconds(table, calibration)
            basis = f"measured by calibrate on {calibration['device']}{note}"
            each = 1 / calibration["voxels_per_second"]
            return Pace(start, each, basis, bool(unknown)), voxels
        start = START_SECONDS["score_voxels"]
        if training and (calibration := training_calibration(training)):
            basis = f"measured by calibrate of its training on {calibration['device']}{note}"
            each = 1 / calibration["scoring_operations_per_second"]
            return Pace(start, each, basis, bool(unknown)), operations
        return Pace(start, 1 / self._rate(waiting[0]), GUESS_OF_SCORES + note, True), operations


def _share_of_masks(step, runs, shapes, plan):
    """(what masks leave of the voxels that a stage computes, a note that says so)."""
    if "mask" not in step.inputs:
        return 1.0, ""
    shares = [run["computed"] / plan(each)[0] for each, run in runs if shapes[id(each)]]
    if shares:
        share = fmean(shares)
        return share, f"; masks leave {share:.0%} to compute, as in those"
    return 1.0, "; masks are taken to exclude nothing, so it is too much rather than too little"


def voxels_of(step, shapes):
    """Voxels of a step's tomogram; 0 of a step that is not of one tomogram, or reads none."""
    if step.tomogram is None or "_admit_to_" in step.name:
        return 0
    shape = shapes[id(step)]
    return prod(shape) if shape else USUAL_VOXELS


def _measured_scores(step):
    (scores,) = paths(step.outputs)
    try:
        return (read_record(scores) or {}).get("measured")
    except InputError:  # damaged, which verify reports
        return None


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
            return read_json(path)["out_channels"]
    return 2


def paths(files):
    """All paths of a mapping of lists of them."""
    return [path for each in files.values() for path in each]

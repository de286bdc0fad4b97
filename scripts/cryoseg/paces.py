"""How long jobs take: by jobs that have run, or by rates of another machine, which are a guess."""

import csv
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from cryoseg.small_files import files_only

# Guesses, in seconds of one core of an Intel Xeon (Sapphire Rapids). START is what a job takes
# before its first voxel, for interpreter, libraries and opening files: the processor time of
# importing its script, jobs for 64 x 160 x 160 voxels on an idle machine, and what calibrate found
# of networks there. SECONDS for each million voxels come from the processor time of the functions
# in scripts/ for simulated tomograms of 64 x 160 x 160 and 100 x 256 x 256, those of labels and
# evaluations from the benchmarks in tests/benchmarks/, with 200 x 512 x 512; files are included.
START_SECONDS = {
    "simulate_tomogram": 0.5,
    "label_voxels": 0.6,
    "score_voxels": 4.0,
    "inspect_model": 2.2,
    "train_model": 8.0,
    "draw_prediction": 1.6,
    "draw_training": 0.9,
    "evaluate_labels": 1.1,
    "summarise_evaluation": 1.2,
    "try_sizes": 1.3,
    "choose_sizes": 1.4,
}
OTHER_START_SECONDS = 0.3
SECONDS_PER_MEGAVOXEL = {
    "simulate_tomogram": 0.15,
    "scale_tomogram": 0.04,
    "check_tomogram": 0.02,
    "label_voxels": 0.03,
    "draw_prediction": 0.1,
    "measure_distances": 0.1,
    "cut_patches": 0.07,
    "evaluate_labels": 0.08,
    "try_thresholds": 0.04,
    "try_sizes": 0.09,
    # Admissions read a few lines.
    "to_predict": 0.0,
    "to_evaluate": 0.0,
    "to_train": 0.0,
}
OTHER_SECONDS_PER_MEGAVOXEL = 0.05
GUESS = "guess: rates of another machine; they are measured when a first tomogram has run"


@dataclass(frozen=True)
class Pace:
    """Seconds of a job: ``start`` + ``each`` for each unit of its work; basis says where from."""

    start: float
    each: float
    basis: str
    guess: bool = False

    def seconds(self, work):
        return self.start + self.each * work


def kind_of(step):
    """The step's name without that of its entry: score_voxels of semantic_score_voxels."""
    return "_".join(step.name.split("_")[-2:])


def usual_start(step):
    """Seconds that such a job takes before its first voxel."""
    return START_SECONDS.get(kind_of(step), OTHER_START_SECONDS)


def guessed_pace(step):
    """Pace of a step that has not run, by voxels."""
    each = SECONDS_PER_MEGAVOXEL.get(kind_of(step), OTHER_SECONDS_PER_MEGAVOXEL) / 1e6
    return Pace(usual_start(step), each, GUESS, guess=True)


def measured_pace(done, work, note=""):
    """Pace of the jobs that have run, or None.

    done: steps of one kind; work: of each, by the id of the step
    """
    points = [
        (work[id(step)], seconds) for step in done if (seconds := benchmark_seconds(step.benchmark))
    ]
    if not points:
        return None
    start, each = fit(points, usual_start(done[0]))
    return Pace(start, each, f"measured: {count_of(len(points), 'job')}{note}")


def benchmark_seconds(path):
    """Seconds that a job took, from the table that Snakemake wrote; None if there is none."""
    try:
        with open(path, encoding="utf-8", opener=files_only) as file:
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


def count_of(number, what):
    """A number of things: 1 job, 2 jobs."""
    return f"{number} {what}" + "s" * (number != 1)

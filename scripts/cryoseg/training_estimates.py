"""How long a training would take, before its first epoch has ended and after it."""

import csv
import math
import os
from functools import cache
from math import prod
from pathlib import Path

import yaml

from cryoseg.calibrations import begin_seconds, training_calibration
from cryoseg.errors import InputError
from cryoseg.paces import START_SECONDS
from cryoseg.patches import PatchFile, patch_corners
from cryoseg.provenance import canonical
from cryoseg.small_files import files_only, read_text
from cryoseg.splits import split_tomograms

# A step of a training takes as long as so many passes of the network over its patches: 3.5 and 3.6
# by the two networks of config/demo.yaml, on the core that the other guesses are of.
PASSES = 3.6
# To write last.ckpt and metrics.csv, at the end of each epoch.
EPOCH_SECONDS = 0.3


def training_estimate(step, shapes, pass_seconds):
    """(seconds, what they go by, whether they are a guess) of a training that is not done.

    step:         the cryoseg.steps.Step
    shapes:       of the tomograms, in the order of the step's patch files
    pass_seconds: guess of one pass of the network over a voxel
    """
    (checkpoint,) = step.outputs["checkpoint"]
    folder, config = Path(checkpoint).parents[1], step.settings["settings"]["config"]
    learning, start = config["hyper_parameters"], START_SECONDS["train_model"]
    epochs = learning["max_epochs"]
    if rows := _epochs_done(folder, config):
        passed, seconds = int(rows[-1]["epoch"]), float(rows[-1]["seconds"])
        basis = f"measured: {passed} of at most {epochs} epochs"
        return start + (epochs - passed) * seconds / passed, basis, False
    calibration = training_calibration(step)
    if calibration:
        each, validation = calibration["step_seconds"], calibration["validation_seconds"]
        table = Path(step.benchmark).with_name("calibrate_training.tsv")
        start += begin_seconds(table, calibration) - START_SECONDS["inspect_model"]
        basis = f"measured by calibrate on {calibration['device']}"
    else:
        voxels = prod(config["parameters"]["data"]["patch_size"]) * learning["batch_size"]
        validation = pass_seconds * voxels
        each = PASSES * validation
        basis = "guess: operations of the network at the rate of another machine; `snakemake "
        basis += "calibrate` measures it, or its first epoch"
    steps, validations, all_cut = _batches(step, config, shapes)
    checks = epochs // learning["val_interval"] + (epochs % learning["val_interval"] > 0)
    seconds = start + epochs * (steps * each + EPOCH_SECONDS) + checks * validations * validation
    basis += f"; at most {epochs} epochs of {steps} steps"
    if not all_cut and config["parameters"]["data"]["remove_only_background"]:
        basis += ", with the patches without labels, as they are not cut yet"
    return seconds, basis, calibration is None


def _epochs_done(log_dir, config):
    """Rows of metrics.csv, if they are of a training with this configuration."""
    try:
        settings = yaml.safe_load(read_text(log_dir / "settings.yaml"))
        if canonical(settings["config"]) != canonical(config):
            return []
        with open(log_dir / "metrics.csv", encoding="utf-8", opener=files_only) as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []


def _batches(step, config, shapes):
    """(batches of an epoch, batches of a validation, whether all patches are cut already)."""
    data, ending = config["parameters"]["data"], config["file_extension"]
    files = [*config["train_files"], *(config["val_files"] or [])]
    names = sorted({file.removesuffix(ending) for file in files})
    counts, all_cut = {}, True
    for name, path, shape in zip(names, step.inputs["patches"], shapes, strict=True):
        counts[name] = _patches_cut(path)
        if counts[name] is None:
            all_cut = False
            geometry = tuple(shape), tuple(data["patch_size"]), data["patch_overlap"]
            counts[name] = _patches_to_cut(*geometry)
    val_names, ratio = config["val_files"], config["validation_ratio"]
    if len(names) == 1 and not val_names:  # divided by region
        (count,) = counts.values()
        parts = (1 - ratio) * count, ratio * count
    else:
        val_names = val_names and [file.removesuffix(ending) for file in val_names]
        split = split_tomograms(names, val_names, ratio, config["seed"])
        parts = (sum(counts[name] for name in part) for part in split)
    together = config["hyper_parameters"]["batch_size"] * _processes(step.resources)
    train, validation = (math.ceil(part / together) for part in parts)
    return train, validation, all_cut


def _patches_cut(path):
    """How many patches a file has; None where it is not there, or damaged."""
    try:
        return len(PatchFile(path)) if os.path.exists(path) else None
    except InputError:
        return None


@cache
def _patches_to_cut(shape, patch_size, overlap):
    try:
        return len(patch_corners("", shape, patch_size, overlap))
    except InputError:  # larger than the tomogram, which its check will find
        return 0


def _processes(asked):
    """How many processes train together, by the resources of the job."""
    devices = str(asked.get("gpu_devices") or 1)
    listed = [each for each in devices.split(",") if each]
    return (len(listed) if "," in devices else int(devices)) * int(asked.get("nodes") or 1)

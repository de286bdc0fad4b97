"""Estimate what a run would take: jobs, time, disk and memory of each step that is to be done."""

import math
import os
from copy import deepcopy
from functools import cache
from math import prod
from pathlib import Path

import torch

from cryoseg.checkpoints import load_network
from cryoseg.errors import InputError
from cryoseg.estimate_table import COLUMNS, estimate_lines, walls_of, write_estimates
from cryoseg.estimates import Machine, estimate_run
from cryoseg.fine_tuning import starting_network
from cryoseg.inference import plan_volume
from cryoseg.joblog import log_to, logger, say
from cryoseg.scoring import Scorer
from cryoseg.table_lines import check_replaceable
from cryoseg.volumes import written_aside

# Memory for a tile where neither a job nor a calibration has told it, in bytes.
USUAL_TILE_MEMORY = 12e9


def write_plan(steps, targets, table, *, cores=None, memory_mb=None, elsewhere=False):
    """Write a table (TSV) of what steps would take, and print it.

    steps:     list of cryoseg.steps.Step with resources, done or not
    targets:   files; what none of them needs is for the overview
    cores:     processors that jobs here may use together; None for all
    memory_mb: that they may book together; None for any
    elsewhere: jobs are sent to other machines, which have a GPU where a stage asks for one
    Raises InputError where another file lies at ``table``.
    """
    check_replaceable(table, COLUMNS)  # before all is estimated
    machine = Machine(
        cores or os.cpu_count(),
        elsewhere or torch.cuda.is_available(),
        math.inf if elsewhere or memory_mb is None else memory_mb,
    )
    estimates = estimate_run(steps, targets, Networks(), machine)
    walls = walls_of(estimates, machine)
    with written_aside(table) as aside:
        write_estimates(aside, estimates, walls)
    say([*estimate_lines(estimates, walls), f"table: {table}"])


class Networks:
    """What the networks of stages and trainings will have to compute."""

    def scoring(self, step, training, shape, memory):
        """(voxels, operations) that a tomogram of ``shape`` is for a stage's network, with halos.

        training: the step that makes the model, or None; it tells the network until then
        memory:   bytes for a tile, or None
        Returns None where nothing tells the network yet.
        """
        settings, asked = step.settings["settings"], step.resources
        dtype = torch.float32 if settings["precision"] == "fp32" else torch.bfloat16
        try:
            network = _network_of(step.inputs["checkpoint"][0], training)
            if network is None:
                return None
            scorer = _scorer_of(network, bool(settings["save_internal_files"]), dtype)
            size = asked["tile_size"]
            tile = None if size == "auto" else tuple(int(edge) for edge in size.split(","))
            if memory is None:
                given = asked["memory_gb"]
                memory = USUAL_TILE_MEMORY if given == "auto" else float(given) * 1e9
            _, tiles = plan_volume(scorer, shape, int(memory), tile_size=tile)
        except InputError as error:
            logger.warning("%s", error)
            return None
        per_box, per_centre, _ = scorer.per_voxel()
        boxes = sum(prod(tile.shape) for tile in tiles)
        centres = sum(prod(last - first for first, last in tile.kept) for tile in tiles)
        return boxes, per_box * boxes + per_centre * centres

    def pass_operations(self, training):
        """Operations for a voxel in one pass of the network that a training trains, or None."""
        try:
            network = _network_to_train(training)
        except InputError as error:
            logger.warning("%s", error)
            return None
        if network is None:
            return None
        config = training.settings["settings"]["config"]
        distances = config["parameters"]["network"]["distance_prediction"]
        per_box, per_centre, _ = _scorer_of(network, bool(distances), torch.float32).per_voxel()
        return per_box + per_centre


def _network_of(checkpoint, training):
    if Path(checkpoint).exists():
        return _network_there(checkpoint)
    return None if training is None else _network_to_train(training)


@cache
def _network_there(checkpoint):
    return load_network(checkpoint)


_to_train = {}


def _network_to_train(training):
    """The network that a training begins with; None where its pretrained one is not there yet."""
    (pretrained,) = training.inputs.get("pretrained", [None])
    if pretrained is not None and not Path(pretrained).exists():
        return None
    key = training.name
    if key not in _to_train:
        _to_train[key], _ = starting_network(training.settings["settings"]["config"], pretrained)
    return _to_train[key]


@cache
def _scorer_of(network, keep_all, dtype):
    """A network as score_voxels uses it, to ask what tiles would take."""
    return Scorer(deepcopy(network).eval(), "cpu", dtype, keep_all, keep_all)


if __name__ == "__main__":
    with log_to(snakemake.log[0]):
        write_plan(**snakemake.params)

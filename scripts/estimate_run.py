"""Estimate what a run would take: jobs, time, disk and memory of each step that is to be done."""

import os
from functools import cache
from math import prod
from pathlib import Path

import torch

from cryoseg.checkpoints import load_network
from cryoseg.errors import InputError
from cryoseg.estimates import estimate_lines, estimate_run, write_estimates
from cryoseg.inference import plan_volume
from cryoseg.joblog import log_to, logger, say
from cryoseg.scoring import Scorer
from cryoseg.volumes import written_aside

# Memory for a tile where neither a job nor a calibration has told it, in bytes.
USUAL_TILE_MEMORY = 12e9


def write_plan(steps, table, *, cores=None, elsewhere=False):
    """Write a table (TSV) of what steps would take, and print it.

    steps:     list of cryoseg.steps.Step with resources, done or not
    cores:     processors that jobs here may use together; None for all
    elsewhere: jobs are sent to other machines, which have a GPU where a stage asks for one
    """
    has_gpu = elsewhere or torch.cuda.is_available()
    estimates = estimate_run(steps, plan_computed, cores or os.cpu_count(), has_gpu)
    with written_aside(table) as aside:
        write_estimates(aside, estimates)
    say([*estimate_lines(estimates), f"table: {table}"])


def plan_computed(step, shape, memory):
    """Voxels that go through a stage's network for a tomogram of ``shape``, halos included.

    memory: bytes for a tile, or None. Returns None where the checkpoint is not there yet.
    """
    (checkpoint,) = step.inputs["checkpoint"]
    if not Path(checkpoint).exists():
        return None
    settings, asked = step.settings["settings"], step.resources
    try:
        keep_all, full = settings["save_internal_files"], settings["precision"] == "fp32"
        scorer = scorer_of(checkpoint, bool(keep_all), torch.float32 if full else torch.bfloat16)
        size = asked["tile_size"]
        tile = None if size == "auto" else tuple(int(edge) for edge in size.split(","))
        if memory is None:
            given = asked["memory_gb"]
            memory = USUAL_TILE_MEMORY if given == "auto" else float(given) * 1e9
        _, tiles = plan_volume(scorer, shape, int(memory), tile_size=tile)
    except InputError as error:
        logger.warning("%s", error)
        return None
    return sum(prod(tile.shape) for tile in tiles)


@cache
def scorer_of(checkpoint, keep_all, dtype):
    """The network of a checkpoint as score_voxels uses it, to ask what tiles would take."""
    return Scorer(load_network(checkpoint), "cpu", dtype, keep_all, keep_all)


if __name__ == "__main__":
    with log_to(snakemake.log[0]):
        write_plan(**snakemake.params)

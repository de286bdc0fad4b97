"""Measure how fast a stage's checkpoint scores on this machine, for plans of runs to come."""

import json
import tempfile
import time
from pathlib import Path

import numpy as np

from cryoseg.joblog import log_to, logger
from cryoseg.provenance import recorded
from cryoseg.volumes import write_mrc, written_aside
from score_voxels import measured, score_voxels

# Made-up tomograms of growing size: two are timed at least, others while there is time.
SHAPES = ((32, 64, 64), (64, 128, 128), (128, 256, 256), (256, 512, 512))
MOST_SECONDS = 60


def calibrate(checkpoint, model, calibration, *, settings, **how):
    """Write, as JSON, what score_voxels takes: to start, and for each voxel that it computes.

    model:    what inspect_model wrote of the checkpoint
    settings: of score_voxels
    how:      what only changes how fast it goes, as of score_voxels
    """
    low, high = settings["data"]["min"], settings["data"]["max"]
    runs, begun = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        tomogram, scores = Path(folder, "made_up.mrc"), Path(folder, "scores.h5")
        for shape in SHAPES:
            if len(runs) > 1 and not time_for(shape, runs, time.monotonic() - begun):
                break
            grey = np.random.default_rng(0).uniform(low, high, shape).astype(np.float32)
            write_mrc(tomogram, grey, voxel_size=10)
            summary = score_voxels(tomogram, checkpoint, model, scores, settings=settings, **how)
            runs.append(measured(summary) | {"wanted": int(np.prod(shape))})
    # Two runs of the same process: what was set up for the first one (a GPU's libraries, the
    # allocator's memory) stays for the second, and is part of what a job takes to start.
    first, last = runs[0], runs[-1]
    rate = (last["computed"] - runs[-2]["computed"]) / max(
        last["seconds"] - runs[-2]["seconds"], 1e-3
    )
    found = {
        "voxels_per_second": rate,
        "start_seconds": max(first["seconds"] - first["computed"] / rate, 0),
        # What the job took beside this, by Snakemake's table, is what any job takes to begin.
        "seconds": time.monotonic() - begun,
        "device": last["device"],
        "precision": last["precision"],
        "tile_memory": last["tile_memory"],
        "runs": runs,
    }
    logger.info(
        "%s: %.0f voxels/s on %s in %s, %.1f s to start",
        *(checkpoint, rate, found["device"], found["precision"], found["start_seconds"]),
    )
    with written_aside(calibration) as aside:
        aside.write_text(json.dumps(found, indent=1) + "\n")


def time_for(shape, runs, passed):
    """Whether a run of this shape would end within MOST_SECONDS, going by the last one."""
    expected = runs[-1]["seconds"] * np.prod(shape) / runs[-1]["wanted"]
    return passed + expected < MOST_SECONDS


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        names = ("mem_mb", "attempt", "device", "memory_gb", "tile_size", "batch_size")
        how = {name: snakemake.resources[name] for name in names}
        files = {**snakemake.input, **snakemake.output}
        calibrate(**files, **snakemake.params, **how, threads=snakemake.threads)

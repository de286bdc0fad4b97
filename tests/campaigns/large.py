"""Many tiny tomograms through two stages, and a very large one through one job.

    PYTHONPATH=tests:scripts python tests/campaigns/large.py many [--tomograms 200] [--cores 2]
    PYTHONPATH=tests:scripts python tests/campaigns/large.py volume [--shape 1000,1400,1400]

many: what a job takes beside its own work is told by comparing the time of the run, times the
cores, with the processor time of the jobs and with what the imports of their scripts take. It
fails above stated limits, which hold for a machine that nobody else uses.
volume: a sparse file, scored on the CPU by a network of few channels; boxes where tiles meet, and
at the volume's faces and corners, must be scored as if the network saw them in one pass, and memory
must stay near what tiles may take.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (the scores' codec)
import numpy as np
import torch

from conftest import REPOSITORY
from cryoseg.checkpoints import load_network
from cryoseg.inference import plan_volume
from cryoseg.scoring import Scorer
from cryoseg.volumes import open_volume
from networks import random_network
from pressure import MOST_STEPS, STEPS
from test_workflow import RAW, Lab, fill

sys.path.append(str(REPOSITORY / "tests" / "benchmarks"))
from memory import peak_of

# Edge of the boxes of a volume that are scored once more; half of it is a multiple of any stride.
EDGE = 32
# What libraries and the blocks that are read and written may take beside tiles.
LIBRARIES_GB = 1.5
# The fastest network of all that were tried; it is the volume that is to be large.
NARROW = {
    "num_filters": (2, 2, 2, 2), "fpn_channels": 2, "dense_dim": 2, "filters": (2, 2),
    "dim": 2, "pred_dim": 2, "dense_pred_dim": 2, "no_max_pool": False,
}  # fmt: skip
# Two stages score and label; what is in common is done once, and each model inspected once.
JOBS_OF_A_TOMOGRAM, JOBS_OF_MODELS = 7, 2
# Seconds that a job may take beyond its imports, as a mean; seconds of a processor beyond them,
# with what snakemake takes for it; and seconds of a core beside it. Each is at least twice what
# `many --tomograms 6` took on two cores that nobody else used: 0.0 to 0.1, and 0.6 and 0.8 with
# PyTorch; 0.36; 0.97.
MOST_BEYOND_IMPORTS = {
    "scale_tomogram": 0.3, "check_tomogram": 0.3, "admit_tomogram": 0.3, "inspect_model": 1.2,
    "score_voxels": 1.5, "label_voxels": 0.3,
}  # fmt: skip
MOST_OF_A_PROCESSOR, MOST_BESIDE = 0.7, 2.0


def processor_seconds():
    """Of all processes that ended below this one."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def import_seconds(script):
    """Processor time of an interpreter that imports a script and does nothing."""
    before = processor_seconds()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    subprocess.run([sys.executable, "-c", f"import {script}"], env=environment, check=True)
    return processor_seconds() - before


def tiny_tomograms(folder, count):
    """A Lab of two stages with so many tomograms of 24 x 32 x 40 voxels, nothing done yet."""
    lab = fill(Lab(Path(folder) / "lab"))
    for path in (lab.folder / RAW).iterdir():
        path.unlink()
    for number in range(count):
        lab.write_tomogram(f"TS_{number:04}", number)
    return lab


def run_time(lab, *arguments):
    """(seconds, processor seconds) of a command of snakemake with all its jobs."""
    before, started = processor_seconds(), time.monotonic()
    lab.run(*arguments)
    return time.monotonic() - started, processor_seconds() - before


def benchmarks(lab, step):
    """Seconds that each job of a step took, by Snakemake."""
    name = step.replace("admit_tomogram", "admit_to_*")
    top = lab.folder / "benchmarks"
    files = [*top.glob(f"*/{name}/*.tsv"), *top.glob(f"*/{name}.tsv")]
    return [float(path.read_text().splitlines()[-1].split("\t")[0]) for path in files]


def many(tomograms, cores):
    """Run two stages on so many tiny tomograms; print the time of each kind of job.

    Raises AssertionError where a job takes more beside its work than is promised.
    """
    with tempfile.TemporaryDirectory() as folder:
        lab = tiny_tomograms(folder, tomograms)
        planning, planned = run_time(lab, "-n")
        wall, used = run_time(lab, "--cores", str(cores))
        print(f"{tomograms} tomograms, {cores} cores: {wall:.0f} s, {used:.0f} s of processors")
        print(f"a plan: {planning:.1f} s, {planned:.1f} s of processors")
        print("step              jobs  seconds  processor seconds of imports")
        jobs = in_jobs = in_imports = 0
        slow = []
        for step, most in MOST_BEYOND_IMPORTS.items():
            seconds, imports = benchmarks(lab, step), import_seconds(step)
            mean = np.mean(seconds)
            print(f"{step:16} {len(seconds):5} {mean:8.2f} {imports:29.2f}", flush=True)
            jobs, in_jobs = jobs + len(seconds), in_jobs + sum(seconds)
            in_imports += len(seconds) * imports
            if mean - imports > most:
                slow.append(f"{step}: {mean - imports:.2f} s beyond its imports")
        beyond = (used - planned - in_imports) / jobs
        beside = (wall * cores - in_jobs) / jobs
        print(f"{jobs} jobs; of each, {beyond:.2f} s of a processor beyond the imports;")
        print(f"beside them, {beside:.2f} s a job of a core: snakemake, and waiting")
        if beyond > MOST_OF_A_PROCESSOR:
            slow.append(f"{beyond:.2f} s of a processor for each job beyond its imports")
        if beside > MOST_BESIDE:
            slow.append(f"{beside:.2f} s of a core beside each job")
        expected = tomograms * JOBS_OF_A_TOMOGRAM + JOBS_OF_MODELS
        assert jobs == expected, "not every job was done, or timed"
        assert not lab.plan()
        assert not slow, "; ".join(slow)


def volume(shape, memory_gb=4.0):
    """Score one sparse volume; print time, memory, and how boxes of it differ from one pass.

    memory_gb: of tiles
    Raises AssertionError where that is more than rounding, or memory more than may be.
    """
    grid, tiles = planned_tiles(shape, memory_gb)
    boxes = telling_boxes(grid, tiles)
    started, found = time.monotonic(), {}
    peak, used, computed, granted = peak_of(
        shape, channels=2, memory_gb=memory_gb, sizes=NARROW,
        fill=lambda voxels: fill_around(voxels, grid, boxes.values()),
        look=lambda folder: found.update(
            (name, steps_in_a_box(folder, grid, box)) for name, box in boxes.items()
        ),
    )  # fmt: skip
    size = " x ".join(map(str, shape))
    print(f"{size}: {time.monotonic() - started:.0f} s, peak {peak / 1e9:.2f} GB, {used} tiles")
    print(f"{computed / np.prod(shape):.2f} voxels computed for each")
    for name, steps in found.items():
        print(f"{steps} of {STEPS} steps from one pass {name}")
    assert (used, granted) == (len(tiles), int(memory_gb * 1e9)), "other tiles: too little is free"
    assert max(found.values()) <= MOST_STEPS
    most = (memory_gb + LIBRARIES_GB) * 1e9
    if 4 * np.prod(shape) > most:  # else, to hold all of it would not be seen
        assert peak <= most, "memory grows with the volume"
    return used


def planned_tiles(shape, memory_gb):
    """The grid and the tiles in which a volume of this shape will be scored."""
    scorer = Scorer(random_network(out_channels=2, **NARROW))
    return plan_volume(scorer, shape, int(memory_gb * 1e9))


def telling_boxes(grid, tiles):
    """Boxes where scores would differ if tiles were not cut as they must be: {where: its starts}.

    Their edges are EDGE. Raises AssertionError where tiles meet along no axis.
    """
    inner = [sorted({tile.centre[axis][0] for tile in tiles} - {0}) for axis in range(3)]
    seams = [starts[len(starts) // 2] if starts else None for starts in inner]
    assert any(seams), "one tile holds all of it"
    ends = [size - EDGE for size in grid.padded]
    # Half of a box before a seam, or in the middle where there is none along an axis.
    across = [
        min(max((seam or size // 2 // step * step) - EDGE // 2, 0), end)
        for seam, size, step, end in zip(seams, grid.padded, grid.stride, ends, strict=True)
    ]
    axis = max(axis for axis, seam in enumerate(seams) if seam)
    at_face = [across[n] if n == axis else 0 for n in range(3)]
    return {
        "where tiles meet": across,
        "where tiles meet at two faces": at_face,
        "in the first corner": [0, 0, 0],
        "in the last corner": ends,
    }


def around(grid, starts):
    """Slices of all that the network sees of a box, whole blocks, beyond the far faces too."""
    return tuple(
        slice(max(0, start - before), min(size, start + EDGE + after))
        for start, size, (before, after) in zip(starts, grid.padded, grid.halo, strict=True)
    )


def fill_around(voxels, grid, boxes):
    """Write noise around boxes, so that no place there looks like another."""
    random = np.random.default_rng(0)
    for starts in boxes:
        there = around(grid, starts)
        voxels[there] = random.random(voxels[there].shape, dtype=np.float32)


def steps_in_a_box(folder, grid, starts):
    """By how many 65,535ths scores differ from those of one pass over a box.

    The box is read with all around it that the network sees from within, so that it has no border
    but the volume's own.
    """
    network, tomogram = load_network(folder / "model.ckpt"), open_volume(folder / "tomogram.mrc")
    wide = around(grid, starts)
    inside = [
        (start - part.start, start - part.start + EDGE)
        for start, part in zip(starts, wide, strict=True)
    ]
    there = np.asarray(tomogram[wide], dtype=np.float32)
    voxels = np.zeros([part.stop - part.start for part in wide], np.float32)
    voxels[tuple(map(slice, there.shape))] = there
    with torch.inference_mode():
        logits, _ = network(torch.from_numpy(voxels)[None, None], inside)
        wanted = logits[0].softmax(0).numpy()
    with h5py.File(folder / "scores.h5") as file:
        assert file["probability"].shape == tomogram.shape
        box = tuple(slice(start, start + EDGE) for start in starts)
        found, winner = file["probability"][box].astype(int), file["winner"][box]
    wanted = wanted[(..., *map(slice, found.shape))]  # what is in the volume
    second, first = np.sort(wanted, axis=0)[-2:]
    clear = first - second > 2 * MOST_STEPS / STEPS
    assert (winner == wanted.argmax(0))[clear].all(), "another class wins"
    return int(np.abs(found - np.rint(first * STEPS)).max())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("many", "volume"))
    parser.add_argument("--tomograms", type=int, default=200)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--shape", default="1000,1400,1400")
    options = parser.parse_args()
    if options.what == "many":
        many(options.tomograms, options.cores)
    else:
        volume(tuple(int(edge) for edge in options.shape.split(",")))


if __name__ == "__main__":
    main()

"""Many tiny tomograms through two stages, and a very large one through one job.

    PYTHONPATH=tests:scripts python tests/campaigns/large.py many [--tomograms 200] [--cores 2]
    PYTHONPATH=tests:scripts python tests/campaigns/large.py volume [--shape 1000,1400,1400]

many: what a job takes beside its own work is told by comparing the time of the run, times the
cores, with the processor time of the jobs and with what the imports of their scripts take.
volume: a sparse file, scored on the CPU by a network of few channels; a box around its middle must
be scored as if it were all there is, and memory must stay near what tiles may take.
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
from cryoseg.tiling import measure_halo
from cryoseg.volumes import open_volume
from pressure import MOST_STEPS, STEPS
from test_workflow import RAW, Lab, fill

sys.path.append(str(REPOSITORY / "tests" / "benchmarks"))
from memory import peak_of

# Edge of the box in the middle of a volume that is scored once more, a multiple of any stride.
MIDDLE = 32
# What libraries and the blocks that are read and written may take beside tiles.
LIBRARIES_GB = 1.5
# The fastest network of all that were tried; it is the volume that is to be large.
NARROW = {
    "num_filters": (2, 2, 2, 2), "fpn_channels": 2, "dense_dim": 2, "filters": (2, 2),
    "dim": 2, "pred_dim": 2, "dense_pred_dim": 2, "no_max_pool": False,
}  # fmt: skip
JOBS = ("scale_tomogram", "check_tomogram", "admit_tomogram", "score_voxels", "label_voxels")


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


def many(tomograms, cores):
    """Run two stages on so many tiny tomograms; print the time of each kind of job."""
    with tempfile.TemporaryDirectory() as folder:
        lab = fill(Lab(Path(folder) / "lab"))
        for path in (lab.folder / RAW).iterdir():
            path.unlink()
        for number in range(tomograms):
            lab.write_tomogram(f"TS_{number:04}", number)
        before, started = processor_seconds(), time.monotonic()
        lab.run("--cores", str(cores))
        wall, used = time.monotonic() - started, processor_seconds() - before
        print(f"{tomograms} tomograms, {cores} cores: {wall:.0f} s, {used:.0f} s of processors")
        print("step              jobs  seconds  processor seconds  of these, imports")
        jobs = in_jobs = 0
        for step in JOBS:
            files = (lab.folder / "benchmarks").glob(
                f"*/{step.replace('admit_tomogram', 'admit_to_*')}/*.tsv"
            )
            rows = [path.read_text().splitlines()[-1].split("\t") for path in files]
            seconds = np.mean([float(row[0]) for row in rows])
            # NA where a job was over before Snakemake looked.
            cpu = np.mean([float(row[-1]) for row in rows if row[-1] != "NA"])
            jobs, in_jobs = jobs + len(rows), in_jobs + len(rows) * seconds
            print(f"{step:16} {len(rows):5} {seconds:8.2f} {cpu:18.2f}", end=" ")
            print(f"{import_seconds(step):18.2f}", flush=True)
        beside = (wall * cores - in_jobs) / jobs
        print(f"{jobs} jobs; beside them, {beside:.2f} s a job of a core: snakemake, and waiting")
        assert not lab.plan()


def volume(shape, memory_gb=4.0):
    """Score one sparse volume; print time, memory, and how the middle differs from one pass.

    memory_gb: of tiles
    Raises AssertionError where that is more than rounding, or memory more than may be.
    """
    started, found = time.monotonic(), []
    peak, tiles, computed = peak_of(
        shape, channels=2, memory_gb=memory_gb, sizes=NARROW, fill=fill_the_middle,
        look=lambda folder: found.append(steps_in_the_middle(folder)),
    )  # fmt: skip
    size = " x ".join(map(str, shape))
    print(f"{size}: {time.monotonic() - started:.0f} s, peak {peak / 1e9:.2f} GB, {tiles} tiles")
    print(f"{computed / np.prod(shape):.2f} voxels computed for each")
    print(f"{found[0]} of {STEPS} steps from one pass in the middle")
    assert found[0] <= MOST_STEPS
    assert peak <= (memory_gb + LIBRARIES_GB) * 1e9, "memory grows with the volume"
    return tiles


def fill_the_middle(voxels):
    """Write noise around the middle, so that no place there looks like another."""
    around = tuple(slice(max(0, size // 2 - MIDDLE), size // 2 + MIDDLE) for size in voxels.shape)
    noise = np.random.default_rng(0).random(voxels[around].shape, dtype=np.float32)
    voxels[around] = noise


def steps_in_the_middle(folder):
    """By how many 65,535ths scores differ from those of one pass over a box in the middle.

    The box is read with all around it that the network sees from within, so that it has no border.
    """
    network = load_network(folder / "model.ckpt")
    tomogram, stride = open_volume(folder / "tomogram.mrc"), network.sizes.stride
    before, after = measure_halo(network.sizes)
    starts = [size // 2 // stride * stride - MIDDLE // 2 for size in tomogram.shape]
    wide = tuple(
        slice(max(0, start - before), min(size, start + MIDDLE + after))
        for start, size in zip(starts, tomogram.shape, strict=True)
    )
    inside = [
        (start - part.start, start - part.start + MIDDLE)
        for start, part in zip(starts, wide, strict=True)
    ]
    with torch.inference_mode():
        voxels = torch.from_numpy(np.ascontiguousarray(tomogram[wide], dtype=np.float32))
        logits, _ = network(voxels[None, None], inside)
        wanted = logits[0].softmax(0).numpy()
    with h5py.File(folder / "scores.h5") as file:
        assert file["probability"].shape == tomogram.shape
        box = tuple(slice(start, start + MIDDLE) for start in starts)
        found, winner = file["probability"][box].astype(int), file["winner"][box]
    second, first = np.sort(wanted, axis=0)[-2:]
    clear = first - second > 2 * MOST_STEPS / STEPS
    assert (winner == wanted.argmax(0))[clear].all(), "another class wins in the middle"
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

"""Many tiny tomograms through two stages, and a very large one through one job.

    PYTHONPATH=tests:scripts python tests/campaigns/large.py many [--tomograms 200] [--cores 2]
    PYTHONPATH=tests:scripts python tests/campaigns/large.py volume [--shape 1000,1400,1400]

many: what a job takes beside its own work is told by comparing the time of the run, times the
cores, with the processor time of the jobs and with what the imports of their scripts take.
volume: a sparse file, scored on the CPU by a network of few channels.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from conftest import REPOSITORY
from test_workflow import RAW, Lab, fill

sys.path.append(str(REPOSITORY / "tests" / "benchmarks"))
from memory import peak_of

# The fastest network of all that were tried; it is the volume that is to be large.
NARROW = {
    "num_filters": (2, 2, 2, 2), "fpn_channels": 2, "dense_dim": 2, "filters": (2, 2),
    "dim": 2, "pred_dim": 2, "dense_pred_dim": 2, "no_max_pool": False,
}  # fmt: skip
STEPS = ("scale_tomogram", "check_tomogram", "admit_tomogram", "score_voxels", "label_voxels")


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
        for step in STEPS:
            files = (lab.folder / "benchmarks").glob(
                f"*/{step.replace('admit_tomogram', 'admit_to_*')}/*.tsv"
            )
            rows = [path.read_text().splitlines()[-1].split("\t") for path in files]
            seconds = np.mean([float(row[0]) for row in rows])
            # NA where a job was over before Snakemake looked.
            cpu = np.mean([float(row[-1]) for row in rows if row[-1] != "NA"])
            print(f"{step:16} {len(rows):5} {seconds:8.2f} {cpu:18.2f}", end=" ")
            print(f"{import_seconds(step):18.2f}", flush=True)
        assert not lab.plan()


def volume(shape):
    """Score one sparse volume; print time and memory."""
    started = time.monotonic()
    peak, tiles, computed = peak_of(shape, channels=2, memory_gb=4.0, sizes=NARROW)
    size = " x ".join(map(str, shape))
    print(f"{size}: {time.monotonic() - started:.0f} s, peak {peak / 1e9:.2f} GB, {tiles} tiles")
    print(f"{computed / np.prod(shape):.2f} voxels computed for each")


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

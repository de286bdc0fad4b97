"""Score a tomogram within less and less memory: smaller tiles, the same scores, or a number.

    PYTHONPATH=tests:scripts python tests/campaigns/pressure.py

The limit is on the address space of the process (ulimit -v), above what it has when its libraries
are loaded. Limited "late", the process is limited after it has chosen its tiles, so that it
finds out by an allocation that fails. All threads allocate from one arena: each of its own takes
128 MB of addresses, which hides what is measured.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from conftest import REPOSITORY
from cryoseg.volumes import write_mrc
from networks import random_network
from test_checkpoints import checkpoint_of

SHAPE = (48, 128, 128)
NAMES = ("tomogram.mrc", "model.ckpt", "model.json", "scores.h5")

ONE_CASE = """
import json, logging, resource, sys
import psutil, torch
import score_voxels as job
from cryoseg.errors import InputError
from cryoseg.footprint import peak_bytes
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
folder, extra, late = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "late"
torch.set_num_threads(1)
# Libraries that are loaded at the first use, and the arenas of the threads that read and write.
torch.nn.functional.conv3d(torch.ones(1, 1, 9, 9, 9), torch.ones(1, 1, 3, 3, 3))
def limit(*given, **named):
    if extra:
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + extra, resource.RLIM_INFINITY))
choose = job.tile_memory
def choose_then_limit(*given):
    chosen = choose(*given)
    limit()
    return chosen
if late:
    job.tile_memory = choose_then_limit
else:
    limit()
settings = {"data": {"min": 0, "max": 1, "mean": 0, "std": 1}, "precision": "fp32",
            "save_internal_files": False}
files = [f"{folder}/{name}" for name in ("tomogram.mrc", "model.ckpt", "model.json")]
try:
    summary = job.score_voxels(*files, sys.argv[4], settings=settings, device="cpu", threads=1)
    print(json.dumps({"tiles": summary.tiles, "memory": summary.tile_memory}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


def prepare(folder):
    """Write a tomogram and a model into a folder."""
    grey = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    write_mrc(folder / "tomogram.mrc", grey, voxel_size=10.0)
    checkpoint_of(random_network(num_filters=(8, 8, 8, 8), filters=(16, 16)), folder / "model.ckpt")
    (folder / "model.json").write_text(json.dumps({"sha256": "of no importance here"}))


def score(folder, megabytes, when="early", output="scores.h5"):
    """Score within so many megabytes more than the libraries take, 0 for no limit.

    Returns {tiles, memory} or {error}, and what was logged.
    """
    paths = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]
    one_thread = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    run = subprocess.run(
        [sys.executable, "-c", ONE_CASE, folder, str(megabytes * 10**6), when, folder / output],
        env=os.environ | {"PYTHONPATH": ":".join(paths)} | one_thread,
        capture_output=True,
        text=True,
    )
    lines = run.stdout.splitlines()
    assert lines, run.stderr[-3000:]
    return json.loads(lines[-1]), run.stderr


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for when in ("early", "late"):
            for megabytes in (0, 900, 500, 350, 300, 200):
                try:
                    found, _ = score(Path(folder), megabytes, when)
                except AssertionError as error:
                    found = {"died": str(error)[-300:]}
                print(f"{when:6} {megabytes:5} MB  {found}", flush=True)


if __name__ == "__main__":
    main()

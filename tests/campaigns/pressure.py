"""Score a tomogram within less and less memory: smaller tiles, the same scores, or a number.

    PYTHONPATH=tests:scripts python tests/campaigns/pressure.py

The limit is on the address space of the process (ulimit -v) or on the memory of a control group, as
clusters and containers set one, above what there is when the libraries are loaded. Limited "late",
the process is limited after it has chosen its tiles, so that it finds out by an allocation that
fails; in a control group it is killed then, which is for the next try to mend.
All threads allocate from one arena: each of its own takes 128 MB of addresses, which hides what is
measured.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (the scores' codec)
import numpy as np

from conftest import REPOSITORY
from cryoseg.volumes import write_mrc
from networks import random_network
from test_checkpoints import checkpoint_of

SHAPE = (48, 128, 128)
# Of a probability, as scores keep it, and how many of them rounding in other tiles may make.
STEPS, MOST_STEPS = 65535, 2
NAMES = ("tomogram.mrc", "model.ckpt", "model.json", "scores.h5")

ONE_CASE = """
import json, logging, resource, sys
import psutil, torch
import score_voxels as job
from cryoseg.errors import InputError
from cryoseg.footprint import peak_bytes
logging.basicConfig(level=logging.INFO, stream=sys.stderr)
folder, extra, late = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "late"
group = sys.argv[6:]  # its files for what is used and what is granted
torch.set_num_threads(1)
# Libraries that are loaded at the first use, and the arenas of the threads that read and write.
torch.nn.functional.conv3d(torch.ones(1, 1, 9, 9, 9), torch.ones(1, 1, 3, 3, 3))
def limit(*given, **named):
    if extra and group:
        used = int(open(group[0]).read())
        open(group[1], "w").write(str(used + extra))
    elif extra:
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
            "save_internal_files": sys.argv[5] == "internal"}
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


# Of control groups, version 1 and 2: where they are, and the files for what is used and granted.
GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.usage_in_bytes", "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.current", "memory.max"),
)


@contextmanager
def memory_group():
    """A new control group: its folder and its files for what is used and what is granted.

    None where this user can make none.
    """
    for top, used, granted in GROUPS:
        folder = top / f"cryoseg-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        try:
            if (folder / granted).exists():
                yield folder, str(folder / used), str(folder / granted)
                return
        finally:
            folder.rmdir()
    yield None


def score(folder, megabytes, when="early", output="scores.h5", group=None, internal=False):
    """Score within so many megabytes more than the libraries take, 0 for no limit.

    group:    a new control group to limit, as memory_group gives it; None for the address space
    internal: whether to keep the probabilities of all classes
    Returns {tiles, memory}, {error} or {killed}, and what was logged.
    """
    join = None if group is None else (lambda: (group[0] / "cgroup.procs").write_text("0"))
    paths = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]
    one_thread = {"OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            ONE_CASE,
            folder,
            str(megabytes * 10**6),
            when,
            folder / output,
            "internal" if internal else "small",
            *(group or ())[1:],
        ],
        env=os.environ | {"PYTHONPATH": ":".join(paths)} | one_thread,
        capture_output=True,
        text=True,
        preexec_fn=join,
    )
    if run.returncode == -signal.SIGKILL:
        return {"killed": "out of memory"}, run.stderr
    lines = run.stdout.splitlines()
    assert lines, run.stderr[-3000:]
    return json.loads(lines[-1]), run.stderr


def most_steps(found, wanted):
    """By how many 65,535ths probabilities differ between two files of scores of other tiles.

    wanted: path of the one with the probabilities of all classes
    Raises AssertionError where another class wins by more than rounding allows.
    """
    with h5py.File(found) as found, h5py.File(wanted) as wanted:
        steps = np.abs(found["probability"][:].astype(int) - wanted["probability"][:])
        differ = found["winner"][:] != wanted["winner"][:]
        second, first = np.sort(wanted["probs"][:], axis=0)[-2:]
    margin = float((first - second)[differ].max(initial=0))
    assert margin <= 2 * MOST_STEPS / STEPS, f"another class wins where the margin is {margin:.2g}"
    return int(steps.max())


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    finds = 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        score(Path(folder), 0, output="unlimited.h5", internal=True)
        for when in ("early", "late"):
            for megabytes in (0, 900, 500, 350, 300, 200):
                finds += not show("ulimit", when, megabytes, folder, None)
        for when in ("early", "late"):
            for megabytes in (900, 500, 350, 300, 250, 200, 100, 50):
                with memory_group() as group:
                    if group:
                        finds += not show("control group", when, megabytes, folder, group)
    print(f"{finds} finds")
    sys.exit(bool(finds))


def show(kind, when, megabytes, folder, group):
    """Print what comes of one limit; whether that is as promised."""
    folder = Path(folder)
    try:
        found, _ = score(folder, megabytes, when, group=group)
        if "tiles" in found:
            found["differ by"] = most_steps(folder / "scores.h5", folder / "unlimited.h5")
    except AssertionError as error:
        found = {"died": str(error)[-300:]}
    print(f"{kind:13} {when:6} {megabytes:5} MB  {found}", flush=True)
    if "tiles" in found:
        return found["differ by"] <= MOST_STEPS
    # In a control group the system kills what finds out late, which is for the next try.
    return "needs" in found.get("error", "") or ("killed" in found and group is not None)


if __name__ == "__main__":
    main()

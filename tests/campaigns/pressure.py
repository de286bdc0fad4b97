"""Score a tomogram within less and less memory: smaller tiles, the same scores, or a number.

    PYTHONPATH=tests:scripts python tests/campaigns/pressure.py [--without-groups]

The limit is on the address space of the process (ulimit -v) or on the memory of a control group, as
clusters and containers set one, above what there is when the libraries are loaded. Limited "late",
the process is limited after it has chosen its tiles, so that it finds out by an allocation that
fails; in a control group it is killed then, which is for the next try to mend. A limit that is
there before tiles are chosen never kills. In the end smaller tiles, and an error with a number,
must have been seen under each kind of limit; where no control group can be made, which may need
root, the campaign fails, unless it is told to do without.
All threads allocate from one arena: each of its own takes 128 MB of addresses, which hides what is
measured.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext
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


# Limits, in MB beyond what the libraries take; 0 is none.
MEGABYTES = {
    "ulimit": (0, 900, 500, 400, 350, 325, 300, 275, 250, 200),
    "control group": (900, 500, 350, 300, 250, 200, 100, 50),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--without-groups", action="store_true", help="limit by ulimit alone")
    options = parser.parse_args()
    with memory_group() as group:
        kinds = ["ulimit", "control group"] if group else ["ulimit"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        score(Path(folder), 0, output="unlimited.h5", internal=True)
        for kind in kinds:
            for when in ("early", "late"):
                rows += [show(kind, when, each, Path(folder)) for each in MEGABYTES[kind]]
    lacking = not_shown(rows, kinds)
    if "control group" not in kinds:
        print("no control group can be made here: half of the limits were not tried")
        if not options.without_groups:
            lacking.append("what happens in a control group (--without-groups does without)")
    for each in lacking:
        print(f"not shown: {each}")
    finds = sum(not as_promised(*row) for row in rows)
    print(f"{len(rows)} limits, {finds} finds")
    sys.exit(bool(finds or lacking))


def show(kind, when, megabytes, folder):
    """Print what comes of one limit; returns (kind, when, that)."""
    try:
        with memory_group() if kind == "control group" else nullcontext() as group:
            found, _ = score(folder, megabytes, when, group=group)
        if "tiles" in found:
            found["differ by"] = most_steps(folder / "scores.h5", folder / "unlimited.h5")
    except AssertionError as error:
        found = {"died": str(error)[-300:]}
    print(f"{kind:13} {when:6} {megabytes:5} MB  {found}", flush=True)
    return kind, when, found


def as_promised(kind, when, found):
    """Whether what came of a limit is as promised."""
    if "tiles" in found:
        return found["differ by"] <= MOST_STEPS
    # What finds out late in a control group is killed by the system, which is for the next try. A
    # limit that it can ask for before it chooses tiles is to be heeded.
    killed_late = "killed" in found and (kind, when) == ("control group", "late")
    return killed_late or says_what_is_needed(found)


def says_what_is_needed(found):
    """Whether a limit ended in an error that says how much memory is needed."""
    return re.search(r"needs [\d.]+ [MG]B", found.get("error", "")) is not None


def not_shown(rows, kinds):
    """What none of the rows of show tells that they are to tell, as a list of sentences."""
    places = {(kind, "early") for kind in kinds} | {("ulimit", "late")}
    lacking = []
    for place in sorted(places):
        found = [found for *where, found in rows if tuple(where) == place]
        if not any(each.get("tiles", 0) > 1 for each in found):
            lacking.append(f"that tiles shrink within a limit by {' '.join(place)}")
        if not any(map(says_what_is_needed, found)):
            lacking.append(f"an error with what is needed, by {' '.join(place)}")
    return lacking


if __name__ == "__main__":
    main()

"""Peak memory of score_voxels for small and large tomograms, few and many classes, on the CPU.

    python tests/benchmarks/memory.py [--memory-gb 1.0] [--quick]

Each case is a process of its own. The tomograms are sparse files: a few voxels differ from 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
PATHS = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]
sys.path.extend(PATHS)

SHAPES = [(100, 100, 100), (400, 800, 800), (500, 1000, 1000)]
QUICK_SHAPES = [(100, 100, 100), (120, 240, 240), (150, 300, 300)]
TINY = {"num_filters": (4, 4, 4, 4), "fpn_channels": 8, "dense_dim": 8, "filters": (8, 8)}

ONE_CASE = """
import json, sys
import torch
from score_voxels import score_voxels
from cryoseg.devices import peak_memory
from cryoseg.volumes import open_volume
how = json.loads(sys.argv[2])
settings = {"data": {"min": 0, "max": 1, "mean": 0, "std": 1}, "precision": "fp32",
            "save_internal_files": False}
names = "tomogram.mrc", "model.ckpt", "model.json", "scores.h5"
files = [f"{sys.argv[1]}/{name}" for name in names]
summary = score_voxels(*files, settings=settings, device="cpu", **how)
peak = peak_memory(torch.device("cpu"))
print(json.dumps([peak, summary.tiles, summary.computed, summary.tile_memory]))
"""


def peak_of(shape, channels, memory_gb, sizes=TINY, fill=None, look=None, box=None, **how):
    """Score a sparse tomogram of this shape.

    sizes: of the network
    fill:  is called with the voxels, of which few should be filled
    look:  is called in the end with the folder that holds tomogram.mrc, model.ckpt and scores.h5
    box:   slices; a mask leaves nothing beside it, None for no mask
    how:   more for score_voxels
    Returns (peak bytes, tiles, voxels computed, bytes that a tile might take).
    """
    from networks import random_network
    from test_checkpoints import checkpoint_of

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        with mrcfile.new_mmap(folder / "tomogram.mrc", shape, mrc_mode=2) as mrc:
            mrc.data[shape[0] // 2, ::50, ::50] = 1
            if fill:
                fill(mrc.data)
        if box:
            with mrcfile.new_mmap(folder / "mask.mrc", shape, mrc_mode=0) as mrc:
                mrc.data[box] = 1
            how["mask"] = str(folder / "mask.mrc")
        checkpoint_of(random_network(out_channels=channels, **sizes), folder / "model.ckpt")
        (folder / "model.json").write_text(json.dumps({"sha256": "of no importance here"}))
        how["memory_gb"] = memory_gb
        run = subprocess.run(
            [sys.executable, "-c", ONE_CASE, str(folder), json.dumps(how)],
            env={"PYTHONPATH": ":".join(PATHS)}, stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
        if look:
            look(folder)
    return json.loads(run.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory-gb", type=float, default=1.0)
    parser.add_argument("--quick", action="store_true", help="volumes of seconds, not minutes")
    options = parser.parse_args()
    print(f"tile memory {options.memory_gb} GB")
    print("volume         classes  peak GB  tiles  computed/wanted  seconds")
    for channels in (2, 100):
        for shape in QUICK_SHAPES if options.quick else SHAPES:
            started = time.perf_counter()
            peak, tiles, computed, _ = peak_of(shape, channels, options.memory_gb)
            seconds = time.perf_counter() - started
            name = "x".join(map(str, shape))
            share = computed / np.prod(shape)
            print(f"{name:14} {channels:7}  {peak / 1e9:7.2f}  {tiles:5}", end="  ")
            print(f"{share:15.2f}  {seconds:7.1f}", flush=True)


if __name__ == "__main__":
    main()

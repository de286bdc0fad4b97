"""How fast a stage scores a tomogram, next to CryoSiam's way of doing it on the same machine.

    python tests/benchmarks/prediction.py [--device cuda] [--precision bf16] [--network full]

CryoSiam's way: cubes of 64 voxels that overlap by half, both heads, float32, channels first, in a
process of its own that keeps PyTorch's own settings. A sample of its cubes is timed in turn with
our runs and scaled to their number, so the ratio holds on any machine, whatever else it is doing.
Ours is the whole of score_voxels: reading, checking, scoring, writing.
"""

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.extend([str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")])

from cryoseg import devices  # noqa: E402
from cryoseg.devices import choose_device  # noqa: E402
from cryoseg.scoring import Scorer  # noqa: E402
from cryoseg.volumes import write_mrc  # noqa: E402
from networks import random_network  # noqa: E402
from score_voxels import score_voxels  # noqa: E402
from test_checkpoints import checkpoint_of  # noqa: E402

NETWORKS = {
    "mid": {"num_filters": (16, 32, 64, 128), "fpn_channels": 32, "dense_dim": 32},
    "full": {"num_filters": (64, 128, 256, 512), "fpn_channels": 128, "dense_dim": 64},
}
# Patches that CryoSiam forwards, and the share of its volume that the mask covers.
CASES = [((64, 128, 128), 32, None), ((64, 128, 128), 32, 0.34),
         ((128, 256, 256), 256, None), ((128, 256, 256), 256, 0.35)]  # fmt: skip
CUBE, CUBES_AT_ONCE, SAMPLES = 64, 2, 3


def main():
    options = parse_arguments()
    cryosiam = CryoSiam(options)
    # As in a job, before the first tensor is made; not before the process of CryoSiam's way has
    # started, which would take it over.
    devices.prepare_arithmetic()
    device = choose_device(options.device)
    dtype = devices.choose_dtype(options.precision, device)
    network = random_network(out_channels=7, filters=(32, 64), **NETWORKS[options.network])
    per_box, per_centre, _ = Scorer(network, dtype=dtype).per_voxel()
    network = random_network(out_channels=7, filters=(32, 64), **NETWORKS[options.network])
    rate = convolution_rate(device, dtype)
    print(f"{device} {dtype}, {torch.get_num_threads()} threads, ", end="")
    print(f"convolution rate {rate / 1e9:.0f} GFLOP/s, network {options.network}")
    print("volume       mask  seconds    wanted  computed tiles peak GB of rate CryoSiam s ratio")
    with tempfile.TemporaryDirectory() as folder:
        for shape, cubes, share in CASES[: options.cases]:
            run = prepare(Path(folder), shape, share, network, options)
            ours, theirs = [], []
            for _ in range(options.repeats):
                theirs.append(cryosiam.seconds_per_cube())
                forget_peak(device)
                started = time.perf_counter()
                summary = run()
                ours.append(time.perf_counter() - started)
                peak = devices.peak_memory(device)
            seconds, cube = statistics.median(ours), statistics.median(theirs)
            work = per_box * summary.computed + per_centre * summary.centres
            ratio = statistics.median(t * cubes / s for s, t in zip(ours, theirs, strict=True))
            volume = "x".join(map(str, shape))
            print(f"{volume:12} {share or 'none':>4}  {seconds:7.2f}  {summary.wanted:8}", end="  ")
            print(f"{summary.computed:8} {summary.tiles:5} {peak / 1e9:7.2f}", end=" ")
            print(f"{work / seconds / rate:7.2f} {cubes * cube:10.1f} {ratio:5.1f}", flush=True)
    cryosiam.stop()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "fp32", "bf16", "fp16"])
    parser.add_argument("--network", default="mid", choices=NETWORKS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", type=int, default=len(CASES), help="only the first N rows")
    return parser.parse_args()


def prepare(folder, shape, share, network, options):
    """Write the files of one case; returns a function that scores them once."""
    rng = np.random.default_rng(0)
    tomogram, mask = folder / "tomogram.mrc", None
    write_mrc(tomogram, rng.random(shape, dtype=np.float32), voxel_size=10.0)
    if share is not None:
        thickness = round(share * shape[0])
        mask = folder / "mask.mrc"
        slab = np.zeros(shape, np.uint8)
        slab[(shape[0] - thickness) // 2 :][:thickness] = 1
        write_mrc(mask, slab, voxel_size=10.0)
    checkpoint = checkpoint_of(network, folder / "model.ckpt")
    (folder / "model.json").write_text(json.dumps({"sha256": "of no importance here"}))
    settings = {
        "data": {"min": 0, "max": 1, "mean": 0, "std": 1},
        "precision": options.precision,
        "save_internal_files": False,
    }
    files = tomogram, checkpoint, folder / "model.json", folder / "scores.h5", mask
    memory = {"mem_mb": devices.free_host_memory() / 1e6, "device": options.device}
    return lambda: score_voxels(*files, settings=settings, **memory)


class CryoSiam:
    """Times cubes as CryoSiam forwards them, in a process of its own."""

    def __init__(self, options):
        context = multiprocessing.get_context("spawn")
        self.pipe, far_end = context.Pipe()
        arguments = far_end, options.network, options.device
        context.Process(target=answer_with_seconds, args=arguments, daemon=True).start()

    def stop(self):
        self.pipe.send("stop")

    def seconds_per_cube(self):
        self.pipe.send("go")
        return self.pipe.recv()


def answer_with_seconds(pipe, network_name, device_name):
    device = choose_device(device_name)
    network = random_network(out_channels=7, filters=(32, 64), **NETWORKS[network_name]).to(device)
    cubes = torch.rand(CUBES_AT_ONCE, 1, CUBE, CUBE, CUBE, device=device)

    def forward():
        with torch.no_grad():
            logits, _ = network(cubes, distances=True)
            logits.softmax(dim=1).cpu()

    forward()
    while pipe.recv() == "go":
        times = [seconds_of(forward, device) for _ in range(SAMPLES)]
        pipe.send(statistics.median(times) / CUBES_AT_ONCE)


def forget_peak(device):
    """Make peak_memory count from now on."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def convolution_rate(device, dtype, edge=64, channels=64):
    """Operations per second of a 3^3 convolution, 64 channels to 64; the best of five."""
    layout = {"memory_format": torch.channels_last_3d}
    x = torch.rand(1, channels, edge, edge, edge, device=device, dtype=dtype).contiguous(**layout)
    weight = torch.rand(channels, channels, 3, 3, 3, device=device, dtype=dtype).contiguous(
        **layout
    )

    def convolve():
        with torch.no_grad():
            torch.nn.functional.conv3d(x, weight, padding=1)

    convolve()
    work = 2 * channels**2 * 27 * edge**3
    return work / min(seconds_of(convolve, device) for _ in range(5))


def seconds_of(function, device):
    """Wall-clock seconds until the device has done what the function asks of it."""
    started = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()

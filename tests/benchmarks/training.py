"""How fast patches come through the input pipeline, and how long a step of training takes.

python tests/benchmarks/training.py [edge of a patch ...] prints, for 7 classes and the transforms
of CryoSiam's example (zoom, rotation, flips, one intensity transform): patches per second from the
patch file to what the losses take, seconds per patch of each part on one processor, and seconds
per step of a small network. CryoSiam's own pipeline gave 18.0 patches of 64^3 and 1.56 of 128^3 per
second on two processors.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "scripts")]

from cryoseg.augmentation import augment_image, derive_distances, resample  # noqa: E402
from cryoseg.fine_tuning import starting_network  # noqa: E402
from cryoseg.losses import scaled_distance  # noqa: E402
from cryoseg.patches import PatchFile  # noqa: E402
from cryoseg.training import SegmentationTraining  # noqa: E402
from cryoseg.training_data import EpochOrder, collate, training_loader  # noqa: E402
from cryoseg.training_run import make_datasets  # noqa: E402
from training_jobs import configuration, patch_file  # noqa: E402

CRYOSIAM = {64: 18.0, 128: 1.56}
CLASSES = 7
TRANSFORMS = {
    "low_pass_sigma_range": [0.1, 0.6], "high_pass_sigma_range": [0.1, 0.2],
    "high_pass_sigma2_range": [4, 6], "noise_sigma_range": [0.01, 0.05],
    "zoom": [0.8, 1.2], "rotate": [3.14, 3.14, 3.14], "flip": True,
}  # fmt: skip
SMALL = {"num_filters": [8, 16, 32, 64], "fpn_channels": 16, "dim": 64, "pred_dim": 16}


def balls(shape, rng):
    """Labels of about 6 % of the voxels: balls of six classes."""
    labels = np.zeros(shape, np.uint8)
    for _ in range(labels.size // 35_000):
        radius = rng.integers(5, 11)
        centre = [rng.integers(radius, size - radius) for size in shape]
        box = tuple(slice(c - radius, c + radius) for c in centre)
        offsets = np.ogrid[tuple(slice(-radius, radius) for _ in range(3))]
        labels[box][sum(o**2 for o in offsets) < radius**2] = rng.integers(1, CLASSES)
    return labels


def measure(edge, folder, seconds=20.0):
    """Print the figures for patches with this edge."""
    rng = np.random.default_rng(0)
    shape = (edge, 3 * edge // 2, 2 * edge)
    labels = balls(shape, rng)
    image = np.clip(labels / 9 + rng.normal(0.3, 0.1, shape), 0, 1).astype(np.float32)
    path = patch_file(folder, f"edge{edge}", image, labels, CLASSES, (edge,) * 3)
    config = configuration(CLASSES, TRANSFORMS, {"dense_dim": 16, "filters": [16, 16]}, SMALL)
    file = PatchFile(path)
    dataset, _ = make_datasets([file], [(0, n) for n in range(len(file))], [], config)
    network, backbone = starting_network(config)
    module = SegmentationTraining(network, config, backbone)
    threads = torch.get_num_threads()

    rates = [rate(dataset, module, workers, seconds / 2) for workers in (0, 1)]
    best = max(rates)
    ratio = f"{best / CRYOSIAM[edge]:5.1f}x CryoSiam's" if edge in CRYOSIAM else ""
    print(f"{edge}^3: {best:6.1f} patches/s with {threads} threads  {ratio}")

    torch.set_num_threads(1)
    # On a machine that does other work too, this says more.
    request = next(k for k in range(100) if dataset[0, k, 0].drawn.resampled)
    batch = collate([dataset[0, request, 0]])
    images, squares = batch.images, derive_distances(batch.labels, CLASSES)[0]
    for name, work in {
        "read": lambda: dataset[0, request, 0],
        "resample": lambda: resample(images, batch.labels, batch.draws),
        "intensities": lambda: augment_image(images, batch.draws),
        "distances from labels": lambda: derive_distances(batch.labels, CLASSES),
        "scale distances": lambda: scaled_distance(squares),
    }.items():
        print(f"  {name:24}{1000 * seconds_of(work):8.1f} ms on one processor")
    torch.set_num_threads(threads)
    if edge <= 64:
        print(f"  {'a step, batch of 3':24}{1000 * step_seconds(module, dataset):8.0f} ms")


def rate(dataset, module, workers, seconds):
    """Patches per second, with this many processes that read."""
    order = EpochOrder(len(dataset), 3, 0)
    loader = training_loader(dataset, order, workers)
    module.prepare(next(iter(loader)))
    patches, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        for batch in loader:
            module.prepare(batch)
            patches += len(batch)
    return patches / (time.monotonic() - started)


def seconds_of(work, repeats=5):
    work()
    started = time.process_time()
    for _ in range(repeats):
        work()
    return (time.process_time() - started) / repeats


def step_seconds(module, dataset, repeats=3):
    """Wall time of forward, losses, backward and optimiser, in bf16, of a small network."""
    batch = collate([dataset[0, n, n % len(dataset)] for n in range(3)])
    images, labels, target, known = module.prepare(batch)
    module.network.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(module.network.parameters())

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            logits, raw = module.network(images, distances=True)
        losses = module.losses(logits, raw, labels, target, known)
        sum(total / count for total, count in losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    started = time.monotonic()
    for _ in range(repeats):
        step()
    return (time.monotonic() - started) / repeats


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        for size in map(int, sys.argv[1:] or (64, 128)):
            measure(size, Path(temporary))

"""How fast patches come through the input pipeline, and how long a step of training takes.

python tests/benchmarks/training.py [edge of a patch ...] prints, for 7 classes and the transforms
of CryoSiam's example (zoom, rotation, flips, one intensity transform): patches per second from the
patch file to what the losses take, next to those of CryoSiam's way in the same run, on all
processors; seconds per patch of each part on one processor; and seconds per step of a small
network.

CryoSiam's way is emulated with MONAI, whose transforms it uses: image, labels and a distance
channel for each class are read from files of each patch, zoomed, rotated and flipped one after
another, then one intensity transform and the scaling of the distances, by two reading processes in
batches of three. The parts cost about what they cost in CryoSiam itself (0.104 s for a patch of
64^3 and 1.19 s for one of 128^3 on one processor of an AMD EPYC).
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import mrcfile
import numpy as np
import torch
from edt import edt
from monai import transforms as monai
from scipy.ndimage import gaussian_filter
from torch.utils.data import DataLoader, Dataset

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "scripts")]

from cryoseg.augmentation import augment_image, derive_distances, resample  # noqa: E402
from cryoseg.devices import keep_freed_memory  # noqa: E402
from cryoseg.fine_tuning import starting_network  # noqa: E402
from cryoseg.losses import scaled_distance  # noqa: E402
from cryoseg.patches import PatchFile  # noqa: E402
from cryoseg.training import SegmentationTraining  # noqa: E402
from cryoseg.training_data import EpochOrder, collate, training_loader  # noqa: E402
from cryoseg.training_run import make_datasets  # noqa: E402
from training_jobs import configuration, patch_file  # noqa: E402

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


class CryosiamPatches(Dataset):
    """Patches in files of their own, and what CryoSiam does to them."""

    KEYS = ("image", "labels", "distances")

    def __init__(self, folder, file, number=8):
        self.folder, self.number = folder, number
        for n in range(number):
            labels = file.labels(n % len(file))
            for name, volume in (("image", file.image(n % len(file))), ("labels", labels)):
                with mrcfile.new(folder / f"{n}_{name}.mrc", overwrite=True) as mrc:
                    mrc.set_data(np.asarray(volume, np.float32))
            signed = [edt(labels == c) - edt(labels != c) for c in range(CLASSES)]
            np.savez_compressed(folder / f"{n}_distances.npz", np.float32(signed))
        self.transform = cryosiam_transforms(self.KEYS)

    def __len__(self):
        return 10**6

    def __getitem__(self, item):
        n = item % self.number
        sample = {"distances": np.load(self.folder / f"{n}_distances.npz")["arr_0"]}
        for name in ("image", "labels"):
            with mrcfile.open(self.folder / f"{n}_{name}.mrc", permissive=True) as mrc:
                sample[name] = np.array(mrc.data)[None]
        return self.transform({name: torch.from_numpy(v) for name, v in sample.items()})


def cryosiam_transforms(keys):
    """Transforms of CryoSiam's example, with its probabilities and interpolations."""

    rng = np.random.default_rng()

    def blurred(volume, low, high):
        return gaussian_filter(volume, (0, *[rng.uniform(low, high)] * 3))

    def of_image(change):
        return monai.Lambdad(
            "image", lambda image: torch.from_numpy(change(np.asarray(image)).astype(np.float32))
        )

    def noisy(image):
        return image + rng.normal(0, rng.uniform(*TRANSFORMS["noise_sigma_range"]), image.shape)

    turn = {f"range_{axis}": angle for axis, angle in zip("xyz", TRANSFORMS["rotate"], strict=True)}
    low, high = TRANSFORMS["zoom"]
    return monai.Compose([
        monai.RandZoomd(keys, 0.8, low, high, ("trilinear", "area", "trilinear"), "constant"),
        monai.RandRotated(keys, prob=0.8, mode="bilinear", padding_mode="zeros", **turn),
        *(monai.RandFlipd(keys, prob=0.8, spatial_axis=axis) for axis in range(3)),
        monai.OneOf([
            of_image(lambda image: blurred(image, *TRANSFORMS["low_pass_sigma_range"])),
            of_image(lambda image: blurred(image, *TRANSFORMS["high_pass_sigma_range"])
                     - blurred(image, *TRANSFORMS["high_pass_sigma2_range"])),
            of_image(noisy),
            of_image(lambda image: image),
        ]),
        monai.ScaleIntensityRanged("distances", -5, 5, -1, 1, clip=True),
    ])  # fmt: skip


def measure(edge, folder, seconds=10.0, repeats=3):
    """Print the figures for patches with this edge."""
    rng = np.random.default_rng(0)
    shape = (edge, 3 * edge // 2, 2 * edge)
    labels = balls(shape, rng)
    image = np.clip(labels / 9 + rng.normal(0.3, 0.1, shape), 0, 1).astype(np.float32)
    path = patch_file(folder, f"edge{edge}", image, labels, CLASSES, (edge,) * 3)
    config = configuration(CLASSES, TRANSFORMS, {"dense_dim": 16, "filters": [16, 16]}, SMALL)
    file = PatchFile(path)
    network, backbone = starting_network(config)
    module = SegmentationTraining(network, config, backbone)
    threads = torch.get_num_threads()

    torch.set_num_threads(1)  # of this process; those that read have one each
    cryosiam = DataLoader(CryosiamPatches(folder, file), batch_size=3, num_workers=2)
    many = [(0, n % len(file)) for n in range(10**5)]
    dataset, _ = make_datasets([file], many, [], config)
    order = EpochOrder(len(dataset), 3, 0)
    loader = training_loader(dataset, order, threads, augmentation=module.augmentation)
    rates = [(rate(loader, module.prepare, seconds), rate(cryosiam, len, seconds))
             for _ in range(repeats)]  # fmt: skip
    ours, theirs = (statistics.median(way) for way in zip(*rates, strict=True))
    ratio = statistics.median(a / b for a, b in rates)
    reading = rate(training_loader(dataset, order, threads), len, seconds)
    print(f"{edge}^3: {ours:.1f} patches/s on {threads} processors, CryoSiam's way {theirs:.2f}, "
          f"{ratio:.1f} times as many; read for a GPU, which augments itself: {reading:.0f}, "
          f"{reading / theirs:.0f} times as many")  # fmt: skip
    # On a machine that does other work too, this says more.
    draws = (dataset[0, k, 0].drawn for k in range(1000))
    request = next(k for k, drawn in enumerate(draws) if drawn.resampled and drawn.high_pass)
    batch = collate([dataset[0, request, 0]])
    images, squares = batch.images, derive_distances(batch.labels, CLASSES)
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


def rate(loader, finish, seconds):
    """Patches per second that a loader gives, once it has begun."""
    batches = iter(loader)
    for _ in range(4):  # what was read ahead while nobody asked
        finish(next(batches))
    patches, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        batch = next(batches)
        finish(batch)
        patches += len(batch["image"] if isinstance(batch, dict) else batch)
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
    images, labels, target = module.prepare(batch)
    module.network.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.AdamW(module.network.parameters())

    def step():
        with torch.autocast("cpu", torch.bfloat16):
            logits, raw = module.network(images, distances=True)
        losses = module.losses(logits, raw, labels, target)
        sum(total / count for total, count in losses.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    started = time.monotonic()
    for _ in range(repeats):
        step()
    return (time.monotonic() - started) / repeats


if __name__ == "__main__":
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as temporary:
        for size in map(int, sys.argv[1:] or (64, 128)):
            measure(size, Path(temporary))

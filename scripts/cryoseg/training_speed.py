"""How fast a network trains and scores here, measured on made-up patches."""

import time
from copy import deepcopy
from math import prod
from statistics import median

import numpy as np
import torch

from cryoseg.augmentation import Draw, draw
from cryoseg.scoring import REFERENCE_TILE, Scorer
from cryoseg.training import OPTIMIZERS
from cryoseg.training_data import Batch
from cryoseg.training_run import transforms_of

MOST_RUNS, MOST_SECONDS = 6, 15


def training_seconds(module, device, dtype):
    """(seconds of a training step, seconds of a validation step), each of one batch.

    module: SegmentationTraining, which is trained a little
    Augmentation is included, reading is not: it goes on beside the network.
    """
    config, learning = module.hparams["config"], module.learning
    module.to(device)
    module.network.to(memory_format=torch.channels_last_3d)
    weights = [each for each in module.network.parameters() if each.requires_grad]
    optimizer = OPTIMIZERS[learning["optimizer"]](weights, learning["lr"])
    rng = np.random.default_rng(0)

    def losses(transforms):
        images, labels, target = module.prepare(made_up_batch(module, transforms, rng).to(device))
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits, raw = module.network(images, distances=module.use_distances)
            return module.losses(logits, raw, labels, target).values()

    def step():
        optimizer.zero_grad()
        sum(total / count for total, count in losses(transforms_of(config))).backward()
        optimizer.step()

    def validate():
        with torch.no_grad():
            losses(None)

    trained = usual_seconds(step, device)
    module.eval()
    return trained, usual_seconds(validate, device)


def made_up_batch(module, transforms, rng):
    """A Batch of noise as a training reads it; transforms: None in a validation."""
    shape, count = module.data["patch_size"], module.learning["batch_size"]
    low, high = module.data["min"], module.data["max"]
    images = rng.uniform(low, high, (count, 1, *shape)).astype(np.float32)
    labels = rng.integers(module.classes, size=(count, *shape), dtype=np.uint8)
    drawn = [draw(transforms, rng) if transforms else Draw() for _ in range(count)]
    known = [n for n in range(count) if module.use_distances and not drawn[n].resampled]
    squares = (module.channels, *shape)
    return Batch(
        [f"made up {n}" for n in range(count)],
        torch.from_numpy(images),
        torch.from_numpy(labels),
        drawn,
        {n: torch.from_numpy(rng.integers(-99, 99, squares, dtype=np.int8)) for n in known},
    )


def scoring_operations(network, device, dtype):
    """Operations a second that a network attains where it scores a tile of about 96^3 voxels."""
    scorer = Scorer(deepcopy(network).eval(), device, dtype)
    stride = scorer.sizes.stride
    shape = (-(-REFERENCE_TILE // stride) * stride,) * 3
    tile = np.random.default_rng(0).random((1, *shape), np.float32)
    per_box, per_centre, _ = scorer.per_voxel()
    kept = tuple((0, edge) for edge in shape)
    seconds = usual_seconds(lambda: scorer(tile, kept), torch.device(device))
    return (per_box + per_centre) * prod(shape) / seconds


def usual_seconds(function, device):
    """Median of the seconds that function() takes, after a first time, which sets things up."""
    taken = []
    while len(taken) < 2 or (len(taken) < MOST_RUNS and sum(taken) < MOST_SECONDS):
        begun = time.monotonic()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.monotonic() - begun)
    return median(taken[1:])

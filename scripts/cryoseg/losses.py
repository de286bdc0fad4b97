"""Losses of a segmentation network: cross-entropy, generalised Dice, distances; 255 is ignored.

Each loss is given as a sum and what it is to be divided by, so that the parts of a batch, on
several processes, add up to the very loss of the whole batch.
"""

from functools import cache

import torch
from torch.nn import functional as F

from cryoseg.distances import UNKNOWN
from cryoseg.labels import IGNORED

DISTANCE_REACH = 5  # voxels; distances beyond count as this far
# Pairs of distances that a processor scales at a time, by what its cache holds.
PAIRS_AT_ONCE = 2**15
# What keeps the Dice of a patch without any class defined.
SMOOTHING = 1e-5


def cross_entropy(logits, labels):
    """Cross-entropy of the classes, binary where there is one channel.

    logits: (N, C, Z, Y, X), before softmax or sigmoid
    labels: (N, Z, Y, X), uint8, classes 0 to C - 1 (0 and 1 for one channel) or 255
    Returns (sum over the voxels that are not ignored, their number).
    """
    logits = logits.float()
    known = labels != IGNORED
    if logits.shape[1] == 1:
        target = torch.where(known, labels, 0).to(logits.dtype)
        voxelwise = F.binary_cross_entropy_with_logits(logits[:, 0], target, reduction="none")
        return torch.where(known, voxelwise, 0).sum(), known.sum()
    total = F.cross_entropy(logits, labels.long(), ignore_index=IGNORED, reduction="sum")
    return total, known.sum()


def generalised_dice(logits, labels):
    """Generalised Dice loss of each patch: classes weighted by one over their squared volume.

    logits, labels: as for cross_entropy
    A class that a patch lacks gets the largest weight among those that it has. Patches of which
    every voxel is ignored do not count.
    Returns (sum over the patches, their number).
    """
    logits = logits.float()
    channels = logits.shape[1]
    known = labels != IGNORED
    if channels == 1:
        predicted = torch.sigmoid(logits) * known[:, None]
        target = (labels == 1)[:, None].to(predicted.dtype)
    else:
        predicted = torch.softmax(logits, 1) * known[:, None]
        classes = torch.arange(channels, device=labels.device, dtype=labels.dtype)
        target = (labels[:, None] == classes[:, None, None, None]).to(predicted.dtype)
    axes = (2, 3, 4)
    volume = target.sum(axes)
    weight = torch.where(volume > 0, 1 / volume.clamp(min=1) ** 2, 0)
    weight = torch.where(volume > 0, weight, weight.amax(1, keepdim=True))
    overlap = ((predicted * target).sum(axes) * weight).sum(1)
    both = ((predicted.sum(axes) + volume) * weight).sum(1)
    losses = 1 - (2 * overlap + SMOOTHING) / (both + SMOOTHING)
    counts = known.flatten(1).any(1)
    return torch.where(counts, losses, 0).sum(), counts.sum()


def distance_error(raw, target):
    """Squared error of the distances, tanh of the network's raw output against the target.

    raw, target: (N, C, Z, Y, X); the target in [-1, 1], NaN where unknown, see scaled_distance
    Returns (sum over the known values, their number).
    """
    known = ~target.isnan()
    # Not after the difference: the gradient of what is NaN is NaN, wanted or not.
    squared = (torch.tanh(raw.float()) - torch.where(known, target, 0)) ** 2
    return torch.where(known, squared, 0).sum(), known.sum()


def scaled_distance(signed_squared):
    """Distance target in [-1, 1]: clip(distance, -5, 5) / 5, positive inside of the object.

    signed_squared: int8 tensor, squared distances in voxels with their sign, -25 to 25; -128 where
                    the distance is unknown, and the target NaN
    """
    device = signed_squared.device
    squares = signed_squared.flatten()
    odd = len(squares) % 2
    pairs = F.pad(squares, (0, odd)).view(torch.uint16)
    scaled = torch.empty(len(squares) + odd, device=device)
    pairs_at_once = len(pairs) if scaled.is_cuda else PAIRS_AT_ONCE
    targets = scaled.view(torch.float64).split(pairs_at_once)
    table = _scaled_pairs(device)
    for pair, target in zip(pairs.split(pairs_at_once), targets, strict=True):
        torch.index_select(table, 0, pair.int(), out=target)
    return scaled[: len(squares)].view(signed_squared.shape)


@cache
def _scaled_pairs(device):
    """Scaled distances of each two neighbours in memory, 16 bits of squares to 64 of distances.

    Roots of that many numbers would take longer than all other work on distances, and to look up
    each alone twice as long.
    """
    squares = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.int8).float()
    scaled = torch.sign(squares) * torch.sqrt(squares.abs()) / DISTANCE_REACH
    scaled[squares == UNKNOWN] = torch.nan
    return scaled.view(torch.float64).to(device)

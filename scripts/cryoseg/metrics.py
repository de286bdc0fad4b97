"""How well labels agree: Dice and intersection over union of each class."""

import torch

from cryoseg.labels import IGNORED


def confusion(predicted, labels, classes):
    """Count the voxels of each true class (row) that were given each class (column).

    predicted, labels: tensors of one shape, whole numbers; voxels labelled 255 do not count
    Returns int64, classes x classes.
    """
    known = labels != IGNORED
    pairs = labels[known].long() * classes + predicted[known].long()
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


def dice_and_iou(counts):
    """Dice and intersection over union of each class; NaN for one that is nowhere.

    counts: what confusion gives; returns two float64 tensors of ``classes`` values
    """
    counts = counts.double()
    both = counts.diagonal()
    total = counts.sum(0) + counts.sum(1)
    return 2 * both / total, both / (total - both)

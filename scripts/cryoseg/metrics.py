"""How well labels agree: Dice and intersection over union of each class."""

import numpy as np

from cryoseg.errors import InputError
from cryoseg.labels import IGNORED
from cryoseg.volumes import slabs


def confusion(predicted, labels, classes):
    """Count the voxels of each true class (row) that were given each class (column).

    predicted, labels: tensors of one shape, whole numbers; voxels labelled 255 do not count
    Returns int64, classes x classes.
    """
    known = labels != IGNORED
    pairs = labels[known].long() * classes + predicted[known].long()
    return pairs.bincount(minlength=classes**2).view(classes, classes)


def count_pairs(predicted, labels, classes):
    """As confusion, of volumes on disk: (Z, Y, X) whole numbers, read in slabs; returns an array.

    Raises InputError for a label that is none of the classes.
    """
    counts = np.zeros((classes, classes), np.int64)
    for piece in slabs(predicted.shape, 8):
        true, found = (np.asarray(volume[piece]).ravel() for volume in (labels, predicted))
        # Byte files hold 255 as -1.
        known = true.astype(np.uint8) != IGNORED
        true, found = true[known].astype(np.int64), found[known].astype(np.int64)
        for values in (true, found):
            if values.size and not 0 <= values.min() <= values.max() < classes:
                raise InputError(
                    f"labels go from {values.min()} to {values.max()}; "
                    f"they must be 0 to {classes - 1}, or 255 for what does not count"
                )
        counts += np.bincount(true * classes + found, minlength=classes**2).reshape(counts.shape)
    return counts


def dice_and_iou(counts):
    """Dice and intersection over union of each class; NaN for one that is nowhere.

    counts: array, classes x classes, of what confusion or count_pairs gives; returns two float64
    arrays of ``classes`` values
    """
    both = counts.diagonal()
    total = counts.sum(0) + counts.sum(1)
    with np.errstate(invalid="ignore"):
        return 2 * both / total, both / (total - both)

"""How well labels agree: voxels of each class that are common, and what follows from them."""

import numpy as np

from cryoseg.labels import IGNORED
from cryoseg.volumes import slabs

# All labels that are stored, 255 (ignored) included.
VALUES = 256
# A pair of labels is counted as a number of eight bytes.
COUNT_BYTES = 10


def confusion(predicted, labels, classes):
    """Count the voxels of each true class (row) that were given each class (column).

    predicted, labels: tensors of one shape, whole numbers; voxels labelled 255 do not count
    Returns int64, classes x classes.
    """
    known = labels != IGNORED
    pairs = labels[known].long() * classes + predicted[known].long()
    return pairs.bincount(minlength=classes**2).view(classes, classes)


def dice_and_iou(counts):
    """Dice and intersection over union of each class; NaN for one that is nowhere.

    counts: array, classes x classes, of what confusion or count_pairs gives; returns two float64
    arrays of ``classes`` values
    """
    both = counts.diagonal()
    total = counts.sum(0) + counts.sum(1)
    with np.errstate(invalid="ignore"):
        return 2 * both / total, both / (total - both)


class TrueLabels:
    """True labels of one tomogram, 255 where a voxel does not count; sliced along Z, uint8.

    true: (Z, Y, X), labels 0 to 254, or 255 for one that nobody knows; uint8 where it is sliced
    mask: (Z, Y, X), sliced by three slices; where it is 0, voxels do not count
    """

    def __init__(self, true, mask=None):
        self.shape = tuple(true.shape)
        self._true, self._mask = true, mask

    def __getitem__(self, sections):
        true = self._true[sections]
        if self._mask is None:
            return true
        return np.where(self._mask[sections, :, :] != 0, true, np.uint8(IGNORED))


class Compared:
    """True and predicted labels of one tomogram, side by side.

    A slice along Z gives two uint8 arrays of those sections: the true labels, 255 for a voxel that
    does not count, and the predicted ones.

    true, mask: as of TrueLabels; found: (Z, Y, X), uint8 where it is sliced
    """

    def __init__(self, true, found, mask=None):
        self.shape = tuple(true.shape)
        self._true, self._found = TrueLabels(true, mask), found

    def __getitem__(self, sections):
        return self._true[sections], self._found[sections]


def count_pairs(compared):
    """Count the voxels of each true label (row) that were given each label (column).

    compared: Compared; returns int64, 256 x 256, with nothing in the last row: voxels that do not
    count.
    """
    counts = np.zeros((VALUES, VALUES), np.int64)
    for piece in slabs(compared.shape, COUNT_BYTES):
        true, found = compared[piece]
        pairs = true.astype(np.uint16) << 8
        pairs |= found
        counts += np.bincount(pairs.ravel(), minlength=VALUES**2).reshape(counts.shape)
    counts[IGNORED] = 0
    return counts


def ratio(part, whole):
    """part / whole as float; NaN where there is nothing of it."""
    return float(part) / float(whole) if whole else np.nan


def voxel_measures(true, found, common):
    """Dice, IoU, precision and recall of a class from counts of voxels: a dict.

    true, found: voxels of the class in the true and in the predicted labels; common: in both
    Where a measure is of nothing, as the precision of a class that was found nowhere, it is NaN.
    """
    return {
        "dice": ratio(2 * common, true + found),
        "iou": ratio(common, true + found - common),
        "precision": ratio(common, found),
        "recall": ratio(common, true),
    }

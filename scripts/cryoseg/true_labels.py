"""True labels on disk, and what their classes are called."""

from cryoseg.errors import InputError
from cryoseg.labels import IGNORED, ClassLabels, class_name
from cryoseg.metrics import TrueLabels
from cryoseg.volumes import open_mask


def open_any_labels(path):
    """Labels of whatever classes, 0 to 254 and 255, to slice along Z: uint8."""
    return ClassLabels(path, IGNORED)


def open_true_labels(name, scores, shape, truth, mask=None):
    """metrics.TrueLabels of a tomogram.

    name: of the tomogram; scores: file of its scores, of that shape (Z, Y, X)
    truth, mask: files of true labels and of a mask
    Raises InputError where the labels have another shape.
    """
    true = open_any_labels(truth)
    if true.shape != tuple(shape):
        raise InputError(
            f"{name}: true labels {truth} are {_text(true.shape)}, the scores {scores} are "
            f"{_text(shape)}; they must match"
        )
    return TrueLabels(true, open_mask(mask, tuple(shape)) if mask else None)


def _text(shape):
    return " x ".join(map(str, shape))


def with_class_names(table, settings):
    """A table with a column label, and after it a column of what the classes are called.

    settings: {class_names: of labels 1, 2, ... or None}
    """
    names = [class_name(int(label), settings["class_names"]) for label in table["label"]]
    table = table.copy()
    table.insert(table.columns.get_loc("label") + 1, "class", names)
    return table

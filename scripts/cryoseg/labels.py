"""Labels that a network is trained on: whole numbers 0 to C - 1, and 255 for what nobody knows."""

import numpy as np

from cryoseg.errors import InputError
from cryoseg.findings import ERROR, Finding
from cryoseg.volumes import open_labels, open_volume

# Counts in no loss, no metric, no choice of patches.
IGNORED = 255


def class_name(label, class_names=None):
    """What a label, from 1 on, is called; class_names: of labels 1, 2, ..., or None."""
    names = class_names or []
    return names[label - 1] if label <= len(names) else f"class {label}"


class ClassLabels:
    """Labels of a network's classes, checked and made uint8 where they are sliced.

    Slices (one along Z, or three) give 0 to C - 1 and 255; any other value in them raises
    InputError.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, path, out_channels):
        """path: MRC, or HDF5 with a dataset `labels`
        out_channels: of the network; with 1, labels are 0 for background and 1 for the object
        """
        is_hdf5 = str(path).endswith((".h5", ".hdf5"))
        self._stored = open_labels(path) if is_hdf5 else open_volume(path)
        self._classes = max(2, out_channels)
        self._path = path
        self.shape = tuple(self._stored.shape)
        self.voxel_size = getattr(self._stored, "voxel_size", (0.0, 0.0, 0.0))

    def __getitem__(self, box):
        values = self._stored[box]
        if values.dtype == np.int8:  # many programs write unsigned bytes as MRC mode 0
            values = values.view(np.uint8)
        wrong = values >= self._classes
        wrong &= values != IGNORED
        if values.dtype.kind != "u":
            wrong |= values < 0
        if values.dtype.kind == "f":
            wrong |= values != np.rint(values)  # NaN too
        if wrong.any():
            self._refuse(values[wrong])
        return values.astype(np.uint8, copy=False)

    def _refuse(self, values):
        raise InputError(
            str(wrong_labels(self._path, values.size, np.unique(values), self._classes))
        )


def wrong_labels(path, voxels, values, classes):
    """The Finding that so many voxels of a file have labels, ``values``, that are no classes."""
    found = ", ".join(f"{value:g}" for value in values[:5])
    return Finding(
        ERROR,
        f"{path}: {voxels} voxels have label {found}",
        f"labels must be 0 to {classes - 1}, or 255 to be ignored: check "
        "parameters.network.out_channels, or choose labels with labels_folder_for_filtering and "
        "selected_labels",
    )

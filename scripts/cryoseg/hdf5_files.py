"""HDF5 files, some of them from strangers: plain numbers that lie in the file itself.

What is called a dataset there may be a link into another file, or a view of the bytes of others.
None is followed: who names a file of labels does not ask for those to be read.
"""

import json
import math
from contextlib import contextmanager
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers the filters of our own files
import numpy as np

from cryoseg.errors import InputError, brief, quoted

# The largest detectors give 4096 x 4096 pixels; HDF5 lets a file of 2 kB claim 2^64 voxels.
MOST_VOXELS, LONGEST_AXIS = 2**36, 2**15
# A chunk is read whole, whatever is asked of it.
MOST_CHUNK_BYTES = 2**31


def open_hdf5(path, remedy="copy it anew", **cache):
    """Open an HDF5 file for reading: an h5py.File. Raises InputError where there is none.

    remedy: what to do where it is of another kind, or damaged; cache: arguments of h5py.File
    """
    if not Path(path).is_file():  # a pipe would be waited for
        raise InputError(f"{path}: there is no such file; check the folder and the name")
    with damage_named(path, "no HDF5 file can be read here", remedy):
        return h5py.File(path, "r", **cache)


@contextmanager
def damage_named(path, what="it cannot be read", remedy="copy it anew"):
    """Tell of whatever goes wrong in reading as of a damaged file; h5py tells in many ways."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{path}: {what} ({brief(error)}); {remedy}") from error


class StoredArray:
    """Numbers in an HDF5 file, read where they are sliced.

    dataset: h5py.Dataset; path: of the file, for messages
    below:   all values must be below it, if it is given
    """

    def __init__(self, path, dataset, below=None):
        self.shape, self.dtype, self.ndim = dataset.shape, dataset.dtype, dataset.ndim
        self.file = dataset.file
        self._path, self._dataset, self._below = path, dataset, below

    def __getitem__(self, box):
        with damage_named(self._path):
            values = self._dataset[box]
        if self._below is not None and np.max(values, initial=0) >= self._below:
            raise InputError(
                f"{self._path}: {brief(self._dataset.name)} holds {np.max(values)}, it must be "
                f"below {self._below}; delete the file, so that it is made anew"
            )
        return values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[()], dtype)


def volume_in(file, path, name, axes=3, below=None):
    """A StoredArray: the dataset ``name`` of an open file, of so many axes and real numbers.

    Returns None where the file has nothing of that name. Raises InputError for what is no dataset
    of the file itself, or has no size that a volume can have.
    """
    with damage_named(path):
        dataset = _own_dataset(file, path, name)
        if dataset is None:
            return None
        if dataset.dtype.kind not in "biuf":
            raise InputError(
                f"{path}: dataset {name} is of type {brief(dataset.dtype)}; it must be of whole or "
                "real numbers"
            )
        if dataset.ndim != axes:
            axis_names = "z, y, x" if axes == 3 else "channel, z, y, x"
            raise InputError(
                f"{path}: dataset {name} has {dataset.ndim} axes; it must have {axis_names}"
            )
        size = " x ".join(map(str, dataset.shape))
        if not 1 <= math.prod(dataset.shape) <= MOST_VOXELS or max(dataset.shape) > LONGEST_AXIS:
            raise InputError(
                f"{path}: dataset {name} is said to be {size}; no tomogram is, make the file anew"
            )
        chunk = math.prod(dataset.chunks or ()) * dataset.dtype.itemsize
        if chunk > MOST_CHUNK_BYTES:
            raise InputError(
                f"{path}: dataset {name} is stored in chunks of {chunk} bytes, which take as much "
                "memory; store it in smaller ones"
            )
        return StoredArray(path, dataset, below)


def table_in(file, path, name, columns=None):
    """An array: the whole of dataset ``name`` of an open file, of whole numbers, two axes.

    columns: how many there must be, if that is known
    Raises InputError where that is not what the file holds.
    """
    with damage_named(path):
        dataset = _own_dataset(file, path, name)
        if dataset is None or dataset.ndim != 2 or dataset.dtype.kind not in "iu":
            raise InputError(f"{path}: there is no table {name}; delete the file")
        if dataset.id.get_storage_size() < dataset.size * dataset.dtype.itemsize:
            raise InputError(f"{path}: {name} is larger than what is stored of it; delete the file")
        if columns not in (None, dataset.shape[1]):
            raise InputError(
                f"{path}: {name} has {dataset.shape[1]} columns, not {columns}; delete the file"
            )
        return dataset[()]


def _own_dataset(file, path, name):
    """The dataset of that name in the file itself, or None."""
    link = file.get(name, getlink=True) if _has(file, name) else None
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise InputError(f"{path}: {name} is a link, which is not followed; write the data there")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        return None
    if dataset.is_virtual or dataset.external:
        raise InputError(
            f"{path}: {name} lies in other files, which are not read; write the data there"
        )
    if dataset.shape is None:
        raise InputError(f"{path}: {name} is empty; make the file anew")
    settings = dataset.id.get_create_plist()
    for number in range(settings.get_nfilters()):
        code, _, _, filter_name = settings.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                f"{path}: {name} is packed by filter {code} ({brief(filter_name)}), which is not "
                "known here; store it with gzip"
            )
    return dataset


def _has(file, name):
    """Whether the file has a link of that name; ``name in file`` would follow it."""
    return file.id.links.exists(name.encode())


def numbers_at(file, path, name, count, finite=True):
    """Attribute ``name`` of an open file: a tuple of so many numbers."""
    found = _attribute(file, path, name)
    numbers = np.asarray(found) if isinstance(found, (np.ndarray, np.generic, int, float)) else None
    good = numbers is not None and numbers.dtype.kind in "iuf" and numbers.size == count
    if not good or (finite and not np.isfinite(numbers).all()):
        what = "a finite number" if count == 1 else f"{count} finite numbers"
        raise InputError(
            f"{path}: attribute {name} is {quoted(found)}; it must be {what}: delete the file, so "
            "that it is made anew"
        )
    return tuple(numbers.ravel().tolist())


def text_at(file, path, name):
    """Attribute ``name`` of an open file: text."""
    found = _attribute(file, path, name)
    if not isinstance(found, str) or found != found.encode(errors="replace").decode():
        raise InputError(
            f"{path}: attribute {name} is {quoted(found)}; it must be text: delete the file, so "
            "that it is made anew"
        )
    return found


def mapping_at(file, path, name):
    """Attribute ``name`` of an open file, a mapping as JSON: its text."""
    text = text_at(file, path, name)
    try:
        good = isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        good = False
    if not good:
        raise InputError(
            f"{path}: attribute {name} is {quoted(text)}; it must be a mapping as JSON: delete the "
            "file, so that it is made anew"
        )
    return text


def _attribute(file, path, name):
    with damage_named(path):
        return file.attrs.get(name)

"""Patches of a tomogram in one file, in which overlapping patches share their voxels.

The file has the tomogram's extent and a table of corners: each chunk that any patch touches is
stored once, all others are not stored at all.
"""

import os
from itertools import pairwise, product
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from cryoseg.errors import InputError
from cryoseg.hdf5_files import numbers_at, open_hdf5, table_in, text_at, volume_in
from cryoseg.joblog import progress
from cryoseg.volumes import slabs

# Half the edge of a common patch: a patch that lies askew to the chunks reads little in vain.
CHUNK = 32
# Measured on a noisy tomogram and its distances: read at more than 1 GB/s and written at 0.4 to
# 0.7, twice as fast as with Zstandard, and runs of one integer take next to no space either way.
INTENSITIES = hdf5plugin.Bitshuffle(cname="lz4")
INTEGERS = hdf5plugin.LZ4()
REMEDY = "delete the file, so that the patches are cut anew"
# Every chunk is written once and read whole, so HDF5 has nothing to remember.
NO_CACHE = {"rdcc_nbytes": 0}


def patch_corners(name, shape, patch_size, overlap):
    """Lowest corners of patches that cover a volume: (N, 3) integers, z y x.

    name:       of the tomogram, for messages
    shape:      z, y, x of the volume
    patch_size: z, y, x of a patch
    overlap:    fraction of a patch, below 1, that it shares with the next one

    The last patch of each axis ends where the volume ends. Raises InputError for a patch that is
    larger than the volume.
    """
    if any(size < edge for size, edge in zip(shape, patch_size, strict=True)):
        raise InputError(
            f"{name}: the tomogram is {text_of(shape)}, patches are {text_of(patch_size)}; a patch "
            "must fit in: make parameters.data.patch_size smaller, or leave this tomogram out"
        )
    starts = [_starts(size, edge, overlap) for size, edge in zip(shape, patch_size, strict=True)]
    return np.array(list(product(*starts)), dtype=np.int64)


def text_of(shape):
    """A shape as messages give it."""
    return " x ".join(map(str, shape))


def _starts(size, edge, overlap):
    step = max(1, round(edge * (1 - overlap)))
    starts = list(range(0, size - edge + 1, step))
    return starts if starts[-1] == size - edge else [*starts, size - edge]


def count_labels(labels, corners, patch_size, classes):
    """Voxels of each label in each patch: (N, classes) integers; what is ignored counts nowhere.

    labels:  ClassLabels or array (Z, Y, X) uint8, read slab by slab
    corners: (N, 3); patch_size: z, y, x
    classes: labels 0 to classes - 1 are counted

    The edges of all patches cut the volume into cells. Each voxel is counted once, in its cell,
    and running sums over the cells give the patches, however many of these overlap.
    """
    starts = corners.T
    stops = starts + np.reshape(patch_size, (3, 1))
    edges = [np.unique([*low, *high]) for low, high in zip(starts, stops, strict=True)]
    sums = np.zeros((*map(len, edges), classes), np.int64)
    for z, (first, last) in enumerate(pairwise(edges[0])):
        for part in slabs((last - first, *labels.shape[1:]), 1):
            slab = labels[first + part.start : first + part.stop]
            for (y, rows), (x, columns) in product(*(enumerate(pairwise(e)) for e in edges[1:])):
                cell = slab[:, slice(*rows), slice(*columns)]
                found = np.bincount(cell.ravel(), minlength=classes)
                sums[z + 1, y + 1, x + 1] += found[:classes]
    for axis in range(3):
        np.cumsum(sums, axis=axis, out=sums)
    low, high = (
        [np.searchsorted(edge, ends) for edge, ends in zip(edges, side, strict=True)]
        for side in (starts, stops)
    )
    counts = np.zeros((len(corners), classes), np.int64)
    for chosen in product((0, 1), repeat=3):
        corner = tuple((low, high)[end][axis] for axis, end in enumerate(chosen))
        counts += (-1) ** (3 - sum(chosen)) * sums[corner]
    return counts


class PatchWriter:
    """Writes a patch file: the table of patches first, then volume after volume.

    path:         HDF5 file to write
    name:         of the tomogram
    shape:        z, y, x of the tomogram
    patch_size:   z, y, x
    corners:      (N, 3), z y x
    label_counts: (N, out_channels), see PatchFile
    attributes:   text, numbers or sequences of numbers
    """

    def __init__(self, path, name, shape, patch_size, corners, label_counts, attributes):
        self._file = h5py.File(path, "w", **NO_CACHE)
        self._file["corners"] = np.asarray(corners, np.int32)
        self._file["label_counts"] = np.asarray(label_counts, np.int64)
        self._file.attrs.update(attributes | {"tomogram": name, "patch_size": patch_size})
        self._file.attrs["shape"] = shape
        self._chunk = tuple(min(CHUNK, size) for size in shape)
        self._touched = _touched_chunks(shape, self._chunk, patch_size, corners)

    def write(self, dataset, volume, codec, fill=0):
        """Store what patches touch of a volume.

        dataset: its name in the file
        volume:  (Z, Y, X) or (C, Z, Y, X), read where it is sliced
        codec:   INTENSITIES or INTEGERS
        fill:    chunks that hold nothing but this value take no space
        """
        channels = volume.shape[:-3]
        stored = self._file.create_dataset(
            dataset,
            shape=volume.shape,
            dtype=np.dtype(volume.dtype).newbyteorder("<"),
            chunks=(*(1 for _ in channels), *self._chunk),
            fillvalue=fill,
            **codec,
        )
        lead = [tuple(slice(n, n + 1) for n in at) for at in np.ndindex(channels)]
        for z in progress(np.flatnonzero(self._touched.any((1, 2))), what=f"layers of {dataset}"):
            layer = slice(z * self._chunk[0], (z + 1) * self._chunk[0])
            for channel in lead:
                slab = volume[(*channel, layer, slice(None), slice(None))]
                for y, x in np.argwhere(self._touched[z]):
                    box = tuple(
                        slice(at * edge, (at + 1) * edge)
                        for at, edge in zip((y, x), self._chunk[1:], strict=True)
                    )
                    chunk = slab[(..., *box)]
                    if (chunk != fill).any():
                        stored[(*channel, layer, *box)] = chunk

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


def _touched_chunks(shape, chunk, patch_size, corners):
    """Which chunks of the grid hold a voxel of any patch: booleans, chunks along z, y, x."""
    touched = np.zeros([-(-size // edge) for size, edge in zip(shape, chunk, strict=True)], bool)
    first = np.asarray(corners) // chunk
    last = (np.asarray(corners) + patch_size - 1) // chunk
    for low, high in zip(first, last, strict=True):
        touched[tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))] = True
    return touched


class PatchFile:
    """The patches of one tomogram, read one by one.

    The file is opened at the first read, and anew in each process that reads, so that an object
    may be handed to workers however these were started.

    path, name:   of the file, of the tomogram
    shape:        z, y, x of the tomogram
    patch_size:   z, y, x
    voxel_size:   (z, y, x) in Angstrom, as the header has it
    out_channels: channels of the distances; 1 stands for the object alone
    corners:      (N, 3) integers, z y x, lowest voxel of each patch
    label_counts: (N, out_channels) voxels of each class in each patch; with one channel, those
                  of the object (label 1). What is ignored (255) is in none.
    lowest, highest: intensities of the whole tomogram
    has_noisy:    whether there is a noisy version of the tomogram
    """

    def __init__(self, path):
        """Read the table of patches. Raises InputError where ``path`` is no patch file."""
        self.path = Path(path)
        self._handle, self._process = None, None
        with open_hdf5(path, REMEDY) as file:
            self._read_table(file)

    def _read_table(self, file):
        given = file, self.path
        self.corners = table_in(*given, "corners", 3).astype(np.int64)
        self.label_counts = table_in(*given, "label_counts")
        self.out_channels = self.label_counts.shape[1]
        self.name = text_at(*given, "tomogram")
        self.shape = tuple(map(int, numbers_at(*given, "shape", 3)))
        self.patch_size = tuple(map(int, numbers_at(*given, "patch_size", 3)))
        self.voxel_size = tuple(map(float, numbers_at(*given, "voxel_size", 3, finite=False)))
        self.lowest, self.highest = map(float, numbers_at(*given, "intensities", 2))
        self.has_noisy = self._volumes(file)["noisy"] is not None
        fits = len(self.corners) == len(self.label_counts) and min(self.patch_size) > 0
        within = (self.corners >= 0).all() and (self.corners <= self._last_corner()).all()
        if not fits or not within:
            raise InputError(
                f"{self.path}: the patches do not fit the tomogram of {text_of(self.shape)}; "
                "delete the file, so that they are cut anew"
            )

    def _last_corner(self):
        return np.subtract(self.shape, self.patch_size)

    def _volumes(self, file):
        """{name: StoredArray, or None} of the volumes of an open file, their sizes checked."""
        found = {}
        for name, axes in (("image", 3), ("noisy", 3), ("labels", 3), ("distances", 4)):
            stored = found[name] = volume_in(file, self.path, name, axes)
            if stored is None and name != "noisy":
                raise InputError(
                    f"{self.path}: there are no {name}; delete the file, so that they are cut anew"
                )
            channels = () if axes == 3 else (self.out_channels,)
            if stored is not None and stored.shape != (*channels, *self.shape):
                raise InputError(
                    f"{self.path}: the {name} are {text_of(stored.shape)}, not "
                    f"{text_of((*channels, *self.shape))}; delete the file, so that they are cut "
                    "anew"
                )
        return found

    def __len__(self):
        return len(self.corners)

    def image(self, n):
        """Intensities of patch n as in the tomogram: (Z, Y, X) float32."""
        return self._read("image", n).astype(np.float32, copy=False)

    def noisy(self, n):
        """Intensities of patch n in the noisy version: (Z, Y, X) float32, or None without one."""
        return self._read("noisy", n).astype(np.float32, copy=False) if self.has_noisy else None

    def labels(self, n):
        """Labels of patch n: (Z, Y, X) uint8."""
        return self._read("labels", n)

    def distances(self, n):
        """Signed squared distances of patch n: (C, Z, Y, X) int8, see cryoseg.distances."""
        return self._read("distances", n)

    def _read(self, dataset, n):
        corner = self.corners[n]
        box = tuple(
            slice(int(start), int(start) + edge)
            for start, edge in zip(corner, self.patch_size, strict=True)
        )
        return self._stored[dataset][(..., *box)]

    @property
    def _stored(self):
        # A file that was opened before a fork shares its position with the other process.
        if self._handle is None or self._process != os.getpid():
            self._handle = self._volumes(open_hdf5(self.path, REMEDY, **NO_CACHE))
            self._process = os.getpid()
        return self._handle

    def __getstate__(self):
        return self.__dict__ | {"_handle": None, "_process": None}

"""Signed distances to the boundary of each class, kept as exact integers.

On a grid of voxels a squared distance is a whole number, and training tells apart no more than
five voxels, so the signed square fits eight bits: -25 to 25, positive inside. Where it depends on
what an ignored voxel is, -128 is kept instead.
"""

from itertools import product
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np

from cryoseg.errors import InputError
from cryoseg.hdf5_files import open_hdf5, volume_in
from cryoseg.joblog import logger, progress
from cryoseg.labels import IGNORED

# Voxels; what is farther from a boundary looks the same.
REACH = 5
FAR = REACH**2
# Stands for what an ignored voxel could change.
UNKNOWN = -128
# With their halos, blocks of this edge stay in a processor's cache.
BLOCK = 64


def class_labels(out_channels):
    """The label that each channel of a network stands for; one channel stands for label 1."""
    return range(out_channels) if out_channels > 1 else range(1, 2)


def signed_squared_distances(labels, out_channels):
    """Signed squared distance of each voxel to the boundary of each class: (C, Z, Y, X) int8.

    labels:       (Z, Y, X) uint8, 0 to C - 1, or 255 for ignored
    out_channels: C; with 1 the distances are those of the object (label 1), with more those of
                  every class, background included

    Inside a class, the squared distance in voxels to the nearest voxel outside it; outside, minus
    that to the nearest one inside; at most 25 either way. Ignored voxels may be of any class: where
    one is nearer than the boundary, the distance is -128, unknown. The volume's faces are no
    boundary: an object that they cut goes on.
    """
    distances = np.full((out_channels, *labels.shape), -FAR, np.int8)
    # Of every label that is there: what lies inside one lies outside all others.
    channels = {label: channel for channel, label in enumerate(class_labels(out_channels))}
    inside = np.full(labels.shape, FAR, np.uint8)
    masks = {label: labels == label for label in np.flatnonzero(np.bincount(labels.ravel()))}
    for label, mask in masks.items():
        if label == IGNORED:
            continue
        box = _where_it_matters(mask)
        outside = _squares_to(mask[box])
        np.minimum(inside[box], outside, out=inside[box], where=~mask[box])
        if label in channels:
            np.negative(
                outside, out=distances[channels[label]][box], dtype=np.int8, casting="unsafe"
            )
    for label, channel in channels.items():
        if label in masks:
            np.copyto(distances[channel], inside, where=masks[label], casting="unsafe")
    if IGNORED in masks:
        box = _within_reach(masks[IGNORED])
        to_unknown = _squares_to(masks[IGNORED][box])
        for near in distances[(slice(None), *box)]:
            near[to_unknown < np.abs(near)] = UNKNOWN
    return distances


def _squares_to(mask):
    """Squared distance to the nearest voxel of a mask (Z, Y, X), 25 at most: uint8.

    The squares add up over the axes, so the smallest sum is found axis by axis; steps of five
    voxels need not be tried. On a few bytes this is several times as fast as exact transforms
    for any distance.
    """
    squares = np.where(mask, np.uint8(0), np.uint8(FAR))
    for axis in range(3):
        nearest = squares.copy()
        for step in range(1, min(REACH, squares.shape[axis])):
            behind, ahead = [slice(None)] * 3, [slice(None)] * 3
            behind[axis], ahead[axis] = slice(None, -step), slice(step, None)
            farther = squares + np.uint8(step**2)
            for here, there in ((behind, ahead), (ahead, behind)):
                target = nearest[tuple(here)]
                np.minimum(target, farther[tuple(there)], out=target)
        squares = nearest
    return squares


def _where_it_matters(mask):
    """The box of all within reach of a mask and of what is outside it, as slices.

    Elsewhere voxels are far from the mask, or deep inside it.
    """
    return tuple(
        slice(max(one.start, other.start), min(one.stop, other.stop))
        for one, other in zip(_within_reach(mask), _within_reach(~mask), strict=True)
    )


def _within_reach(mask):
    """The box around a mask and all within reach of it, as slices."""
    box = []
    for axis in range(3):
        across = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask.any(axis=across))
        first, last = (found[0], found[-1]) if found.size else (mask.shape[axis] + REACH, -REACH)
        box.append(slice(max(0, first - REACH), max(0, last + 1 + REACH)))
    return tuple(box)


def distance_blocks(labels, out_channels):
    """Yield (box, distances) block by block, as of signed_squared_distances for the whole volume.

    labels: (Z, Y, X) uint8, read where it is sliced
    box:    three slices; distances: (C, Z, Y, X) int8 of that box

    A halo as wide as distances reach makes the blocks exact, and memory does not grow with the
    number of sections. Blocks that are far from every class but one are quick.
    """
    starts = [range(0, size, BLOCK) for size in labels.shape]
    for z in progress(starts[0], what="layers"):
        first = max(0, z - REACH)
        layer = labels[first : z + BLOCK + REACH]
        for y, x in product(*starts[1:]):
            near = tuple(slice(max(0, at - REACH), at + BLOCK + REACH) for at in (y, x))
            distances = signed_squared_distances(layer[(slice(None), *near)], out_channels)
            inner = tuple(
                slice(at - max(0, at - REACH), min(at + BLOCK, size) - max(0, at - REACH))
                for at, size in zip((z, y, x), labels.shape, strict=True)
            )
            box = tuple(
                slice(at, min(at + BLOCK, size))
                for at, size in zip((z, y, x), labels.shape, strict=True)
            )
            yield box, distances[(..., *inner)]


REMEDY = "delete the file, so that the distances are measured anew"


def write_distances(path, labels, out_channels, attributes):
    """Write the distances of a volume of labels (Z, Y, X) as HDF5: dataset `distances`, int8.

    attributes: text, numbers or sequences of numbers
    """
    with h5py.File(path, "w", rdcc_nbytes=0) as file:
        file.attrs.update(attributes)
        stored = file.create_dataset(
            "distances",
            shape=(out_channels, *labels.shape),
            dtype=np.int8,
            chunks=(1, *(min(BLOCK, size) for size in labels.shape)),
            fillvalue=-FAR,
            **hdf5plugin.LZ4(),
        )
        learnable, unknown = np.zeros((2, out_channels), bool)
        for box, distances in distance_blocks(labels, out_channels):
            for channel, values in enumerate(distances):
                if (values != -FAR).any():
                    stored[(channel, *box)] = values
                    learnable[channel] |= ((values > -FAR) & (values < FAR)).any()
                    unknown[channel] |= (values == UNKNOWN).any()
    for channel in np.flatnonzero(unknown & ~learnable):
        logger.warning(
            "%s: ignored voxels (255) leave no distance to a boundary of label %d, so there is "
            "nothing to learn of it; make ignore_rim narrower, or set distance_prediction to false",
            Path(path).name.removesuffix("_distances.h5").lstrip("."),
            class_labels(out_channels)[channel],
        )


def open_distances(path, shape, out_channels):
    """Open what write_distances wrote of labels of ``shape`` (Z, Y, X): a dataset to slice.

    Raises InputError where that is not what the file holds.
    """
    stored = volume_in(open_hdf5(path, REMEDY, rdcc_nbytes=0), path, "distances", axes=4)
    if stored is None:
        raise InputError(f"{path}: no distances can be read here; {REMEDY}")
    if stored.shape != (out_channels, *shape):
        raise InputError(
            f"{path}: the distances are {' x '.join(map(str, stored.shape))}, they must be "
            f"{' x '.join(map(str, (out_channels, *shape)))}; delete the file, so that they are "
            "measured anew"
        )
    return stored

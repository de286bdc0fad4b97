"""Signed distances to the boundary of each class, kept as exact integers.

On a grid of voxels a squared distance is a whole number, and training tells apart no more than
five voxels, so the signed square fits eight bits: -25 to 25, positive inside.
"""

from itertools import product

import edt
import h5py
import hdf5plugin
import numpy as np

from cryoseg.errors import InputError
from cryoseg.joblog import progress

# Voxels; what is farther from a boundary looks the same.
REACH = 5
FAR = REACH**2
# With their halos, blocks of this edge stay in a processor's cache. Two chunks of a patch file.
BLOCK = 64
CHUNK = 32


def clipped_distance(signed_squared):
    """Distance in units of five voxels, -1 to 1 as float32, from what is stored (int8)."""
    distance = np.sqrt(np.abs(signed_squared, dtype=np.float32))
    return np.sign(signed_squared) * (distance / np.float32(REACH))


def class_labels(out_channels):
    """The label that each channel of a network stands for; one channel stands for label 1."""
    return range(out_channels) if out_channels > 1 else range(1, 2)


def signed_squared_distances(labels, out_channels):
    """Signed squared distance of each voxel to the boundary of each class: (C, Z, Y, X) int8.

    labels:       (Z, Y, X) uint8, 0 to C - 1, or 255 for ignored
    out_channels: C; with 1 the distances are those of the object (label 1), with more those of
                  every class, background included

    Inside a class, the squared distance in voxels to the nearest voxel outside it; outside, minus
    that to the nearest one inside; at most 25 either way. Ignored voxels are outside every class.
    The volume's faces are no boundary: an object that they cut goes on.
    """
    distances = np.full((out_channels, *labels.shape), -FAR, np.int8)
    # Each label's distance to all others in one go; 255 wraps around to what has none.
    inside = _squared_distances(labels + np.uint8(1))
    for channel, label in enumerate(class_labels(out_channels)):
        mask = labels == label
        if mask.any():
            box = _surroundings(mask)
            outside = _squared_distances((~mask[box]).view(np.uint8))
            distances[channel][box] = np.where(mask[box], inside[box], -outside)
    return distances


def _squared_distances(regions):
    """Squared distance to the nearest voxel of another region, 0 in region 0; at most 25, int8."""
    squares = edt.edtsq(np.ascontiguousarray(regions))
    return np.minimum(squares, FAR, out=squares).astype(np.int8)


def _surroundings(mask):
    """The smallest box that holds a mask and what lies within reach of it, as slices."""
    box = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        box.append(slice(max(0, found[0] - REACH), found[-1] + 1 + REACH))
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


def write_distances(path, labels, out_channels, attributes):
    """Write the distances of a volume of labels (Z, Y, X) as HDF5: dataset `distances`, int8.

    attributes: text, numbers or sequences of numbers
    """
    with h5py.File(path, "w", libver=("earliest", "v110"), rdcc_nbytes=0) as file:
        file.attrs.update(attributes)
        stored = file.create_dataset(
            "distances",
            shape=(out_channels, *labels.shape),
            dtype=np.int8,
            chunks=(1, *(min(CHUNK, size) for size in labels.shape)),
            fillvalue=-FAR,
            **hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE),
        )
        for box, distances in distance_blocks(labels, out_channels):
            for channel, values in enumerate(distances):
                if (values != -FAR).any():
                    stored[(channel, *box)] = values


def open_distances(path, shape, out_channels):
    """Open what write_distances wrote of labels of ``shape`` (Z, Y, X): a dataset to slice.

    Raises InputError where that is not what the file holds.
    """
    try:
        stored = h5py.File(path, "r", rdcc_nbytes=0)["distances"]
    except (OSError, KeyError) as error:
        raise InputError(
            f"{path}: no distances can be read here ({error}); delete the file, so that they are "
            "measured anew"
        ) from error
    if stored.shape != (out_channels, *shape):
        raise InputError(
            f"{path}: the distances are {' x '.join(map(str, stored.shape))}, they must be "
            f"{' x '.join(map(str, (out_channels, *shape)))}; delete the file, so that they are "
            "measured anew"
        )
    return stored

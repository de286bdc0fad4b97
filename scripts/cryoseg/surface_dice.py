"""Surface Dice: how much of the surfaces of true and predicted objects lie close to each other.

S. Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck
anatomy for radiotherapy, arXiv:1809.04430 (2018): the surface elements of each that lie within a
tolerance of the other's surface, divided by all surface elements of both. As in MONAI's
compute_surface_dice, an element is a voxel of the object with one of its six neighbours outside,
each counts once, and distances are those between middles of voxels, in nm.
"""

from itertools import product

import numpy as np

from cryoseg.drawing import TOLERANCE, distance_from
from cryoseg.labels import IGNORED
from cryoseg.metrics import VALUES, ratio

# Edges of the blocks that are worked on, z, y, x: with their halos they fit a processor's cache.
BLOCK = (64, 128, 128)
# Voxels around an element that are looked at one by one, before distances are measured.
MOST_OFFSETS = 500
COUNTS = ("true", "true_close", "found", "found_close")


def surface_dice(counts):
    """Surface Dice of what surface_counts counted of a class; NaN where there is no surface."""
    true, true_close, found, found_close = counts
    return ratio(true_close + found_close, true + found)


def surface_counts(compared, tolerance, voxel_size):
    """Count the surface elements of each class, and those close to the other surface.

    compared:   metrics.Compared
    tolerance:  in the unit of voxel_size (z, y, x); a distance of just that is close
    Returns (256, 4) int64: by label the elements of the true surface, those of them within the
    tolerance of the predicted surface, and the same of the predicted surface.

    Voxels that do not count, and the volume's faces, are no boundary: an object that they cut goes
    on. An element within the tolerance of a voxel that does not count is left out, since its
    counterpart may lie there.
    """
    offsets = ball(tolerance, voxel_size)
    halo = offsets.max(axis=0) + 1  # the neighbours that make a voxel a surface
    counts = np.zeros((VALUES, len(COUNTS)), np.int64)
    starts = [range(0, size, edge) for size, edge in zip(compared.shape, BLOCK, strict=True)]
    for z in starts[0]:
        first = max(0, z - halo[0])
        true, found = compared[slice(first, z + BLOCK[0] + halo[0])]
        for y, x in product(*starts[1:]):
            near, inner = _around((z, y, x), halo, compared.shape)
            near = (slice(None), *near[1:])
            _count_block(counts, true[near], found[near], inner, offsets, tolerance, voxel_size)
    return counts


def _around(corner, halo, shape):
    """Slices of a block with its halo within the volume, and of the block within these."""
    near, inner = [], []
    for at, edge, width, size in zip(corner, BLOCK, halo, shape, strict=True):
        first = max(0, at - width)
        near.append(slice(first, min(at + edge + width, size)))
        inner.append(slice(at - first, min(at + edge, size) - first))
    return near, tuple(inner)


def _count_block(counts, true, found, inner, offsets, tolerance, voxel_size):
    counted = true != IGNORED
    surfaces = [_surface(labels, counted) for labels in (true, found)]
    if not any(surface.any() for surface in surfaces):
        return
    own = np.zeros(true.shape, bool)
    own[inner] = True
    if not counted.all():
        own &= distance_from(~counted, voxel_size) > tolerance * (1 + TOLERANCE)
    # Room for all offsets, so that places in memory can be added.
    room = [(width, width) for width in np.abs(offsets).max(axis=0)]
    padded = [np.pad(surface, room) for surface in surfaces]
    places, own = offsets @ (np.array(padded[0].strides)), np.pad(own, room)
    for column, (one, other) in enumerate((padded, padded[::-1])):
        elements = np.flatnonzero(np.where(own, one, 0))
        labels = one.ravel()[elements]
        counts[:, 2 * column] += np.bincount(labels, minlength=VALUES)
        counts[:, 2 * column + 1] += np.bincount(labels, minlength=VALUES)
        far = _far(elements, labels, other, places, tolerance, voxel_size)
        counts[:, 2 * column + 1] -= np.bincount(one.ravel()[far], minlength=VALUES)


def _surface(labels, counted):
    """The labels of voxels with one of six neighbours of another label, 0 elsewhere.

    Of voxels that count only.
    """
    beside = np.zeros(labels.shape, bool)
    for axis in range(3):
        low = tuple(slice(None, -1) if each == axis else slice(None) for each in range(3))
        high = tuple(slice(1, None) if each == axis else slice(None) for each in range(3))
        differ = (labels[low] != labels[high]) & counted[low] & counted[high]
        beside[low] |= differ
        beside[high] |= differ
    return labels * beside


def ball(radius, voxel_size):
    """Offsets (n, 3), z, y, x in voxels, of all voxels within a radius, the nearest first."""
    steps = [int(radius * (1 + TOLERANCE) / size) for size in voxel_size]
    offsets = np.stack(np.indices([2 * step + 1 for step in steps]), axis=-1).reshape(-1, 3)
    offsets -= steps
    squares = ((offsets * voxel_size) ** 2).sum(axis=1)
    order = np.argsort(squares, kind="stable")
    return offsets[order[squares[order] <= (radius * (1 + TOLERANCE)) ** 2]]


def _far(elements, labels, other, places, tolerance, voxel_size):
    """Those of the elements that have no voxel of the other surface within the tolerance.

    elements: places in memory of voxels with these labels; other: the other surface, a block
    places:   what to add to get to each voxel of the ball, the nearest first
    """
    surface = other.ravel()
    for place in places[:MOST_OFFSETS]:
        apart = surface[elements + place] != labels
        elements, labels = elements[apart], labels[apart]
        if not elements.size:
            return elements
    if len(places) <= MOST_OFFSETS:
        return elements
    # Few are left as a rule, and most of them lie nowhere near.
    apart = np.ones(len(elements), bool)
    for label in np.unique(labels):
        inside = other == label
        if inside.any():
            own = labels == label
            distances = distance_from(inside, voxel_size).ravel()[elements[own]]
            apart[own] = distances > tolerance * (1 + TOLERANCE)
    return elements[apart]

"""Clean a lamella mask: specks gone, holes filled, bumps cut off, flat faces left where they are.

All of it happens on a grid of blocks of 2 x 2 x 2 voxels, an eighth of the work. A block's value
is the share of its voxels in the mask, so interpolating between the blocks finds flat faces
again to the voxel.
"""

import cc3d
import numpy as np

BLOCK = 2
# Blocks are kept as bytes: INSIDE for a block of the mask, LEVEL where its surface runs.
# Small enough that interpolation stays within sixteen bits.
INSIDE, LEVEL = 200, 100
# The share of flipped voxels from which on the vote is as wide as it gets. Below, as many blocks
# stay right without it, and a narrower vote rounds corners less.
FULL_VOTE_SPECKLE = 0.1
# Less dense than this is no lamella with holes but specks in a heap.
LEAST_DENSITY = 2 / 3
# A component of fewer blocks is a speck: a ball of radius 5 has 524 voxels.
SMALLEST_LAMELLA = 524 // BLOCK**3
# What sticks out and is narrower than a disc of this radius goes. Balls of noise up to 5 voxels
# in radius do, and a right angle loses 0.2 radius^2 = 14 voxels in a slice.
BUMP_RADIUS = 8
# The disc must pass through the mask itself: at most this share of its median length in y and x.
LARGEST_SHARE = 1 / 3


def clean(mask):
    """Largest component of a mask, without specks, holes and bumps.

    mask: (Z, Y, X) bool; the volume's border is no face, beyond it the mask goes on
    Returns a bool array of the same shape, empty if nothing in the mask is larger than noise.

    Each block takes the vote of its surroundings, wider with more salt and pepper, and belongs to
    the mask if it is denser than halfway between the typical densities inside and outside: so
    neither holes nor specks, however unequal, move a face. Holes within a slice of the largest
    component are then filled. Last comes a morphological opening with a disc in y and x: a bump
    or a bridge narrower than the disc goes, and a flat face of any tilt stays.
    """
    blocks = _largest_component(_vote(_block_shares(mask)))
    _fill_holes(blocks)
    blocks = _largest_component(_open(blocks, _disc_radius(blocks)))
    return _refine(blocks, mask.shape)


def _block_shares(mask):
    """Share of each block's voxels in the mask: float32, shape halved and rounded up."""
    sums = mask.view(np.uint8)
    for axis in range(3):
        first, second = sums[_along(axis, slice(0, None, 2))], sums[_along(axis, slice(1, None, 2))]
        complete = _along(axis, slice(0, second.shape[axis]))
        sums = first.copy()
        sums[complete] += second
        # The last layer of an odd size stands for its mirror image too.
        sums[_along(axis, slice(second.shape[axis], None))] *= 2
    return sums * np.float32(1 / BLOCK**3)


def _vote(shares):
    """Blocks as bytes: 0 at the typical density outside the mask, INSIDE at that inside."""
    voted = _blur(shares, 1)
    inside, outside = _typical_densities(voted)
    weight = min(1, max(outside, 1 - inside) / FULL_VOTE_SPECKLE)
    if weight < 1:
        voted = _blur(shares, weight)
        inside, outside = _typical_densities(voted)
    voted -= np.float32(outside)
    voted *= np.float32(INSIDE / (inside - outside))
    return np.rint(np.clip(voted, 0, INSIDE, out=voted), out=voted).astype(np.uint8)


def _blur(shares, weight):
    """Mix each block with its neighbours by (weight / 4, 1 - weight / 2, weight / 4) per axis.

    At the volume's border the shares are continued in a straight line, which comes to no mixing
    along that axis; a mirror image there would bend oblique faces.
    """
    blurred = shares
    for axis in range(3):
        inner = _along(axis, slice(1, -1))
        before, after = (
            blurred[_along(axis, slice(None, -2))],
            blurred[_along(axis, slice(2, None))],
        )
        mixed = blurred.copy()
        mixed[inner] *= np.float32(1 - weight / 2)
        mixed[inner] += np.float32(weight / 4) * before
        mixed[inner] += np.float32(weight / 4) * after
        blurred = mixed
    return blurred


def _typical_densities(shares):
    """Medians of the shares inside and outside the mask, whose border lies halfway between."""
    sample = shares.ravel()[:: max(1, shares.size // 1_000_000)]
    inside, outside = 1.0, 0.0
    for _ in range(3):  # changes little after the first
        is_inside = sample >= (inside + outside) / 2
        if is_inside.any():
            inside = max(LEAST_DENSITY, float(np.median(sample[is_inside])))
        if not is_inside.all():
            outside = float(np.median(sample[~is_inside]))
    return inside, outside


def _largest_component(blocks):
    """Blocks without the components of the mask but the largest, and without that if a speck."""
    components, count = cc3d.connected_components(blocks >= LEVEL, connectivity=6, return_N=True)
    if count == 0:
        return blocks
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    stays = (sizes == 0) | (sizes == sizes.max()) & (sizes >= SMALLEST_LAMELLA)
    return np.where(stays[components], blocks, 0)


def _fill_holes(blocks):
    """Fill, in place, what within a z-slice does not reach the slice's border."""
    for section in blocks:
        gaps, count = cc3d.connected_components(section < LEVEL, connectivity=4, return_N=True)
        is_hole = np.ones(count + 1, bool)
        is_hole[0] = False
        for edge in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
            is_hole[edge] = False
        section[is_hole[gaps]] = INSIDE


def _disc_radius(blocks):
    """Radius of the opening's disc in blocks."""
    widest = BUMP_RADIUS / BLOCK
    for axis in (1, 2):
        lengths = np.count_nonzero(blocks >= LEVEL, axis=axis)
        if lengths.any():
            widest = min(widest, LARGEST_SHARE * np.median(lengths[lengths > 0]))
    return round(float(widest))


def _open(blocks, radius):
    """Grey-value opening of each z-slice with an octagon of this radius, in blocks."""
    for extreme in (np.minimum, np.maximum):
        for step in range(radius):
            across, along = _extreme(blocks, 2, extreme), _extreme(blocks, 1, extreme)
            # A diamond and a square in turn grow into an octagon.
            blocks = _extreme(across, 1, extreme) if step % 2 else extreme(across, along)
    return blocks


def _extreme(blocks, axis, extreme):
    """Minimum or maximum of each block and its two neighbours along an axis."""
    before, after = _neighbours(blocks, axis)
    return extreme(extreme(blocks, before), after)


def _refine(blocks, shape):
    """Mask of the voxels where the linearly interpolated blocks reach LEVEL."""
    mask = np.empty(shape, bool)
    blocks = blocks.astype(np.int16)
    for z in range(shape[0]):
        near, far = z // 2, z // 2 + (1 if z % 2 else -1)
        section = _weigh(blocks[near], _beyond(blocks, far))
        for axis in (0, 1):
            section = _double(section, axis, shape[axis + 1])
        np.greater_equal(section, LEVEL * 4**3, out=mask[z])
    return mask


def _weigh(near, far):
    """Four times the value a quarter of the way from one block's centre to the next's."""
    return 3 * near + far


def _beyond(blocks, index):
    """Layer of blocks along Z; outside the volume the straight continuation."""
    last = len(blocks) - 1
    if 0 <= index <= last or last == 0:
        return blocks[min(max(index, 0), last)]
    edge, inner = (0, 1) if index < 0 else (last, last - 1)
    return 2 * blocks[edge] - blocks[inner]


def _double(section, axis, size):
    """Interpolate along one axis of a section from blocks to voxels, four times as large values."""
    layers = np.moveaxis(section, axis, 0)
    ends = [_beyond(layers, -1)[None], layers, _beyond(layers, len(layers))[None]]
    extended = np.concatenate(ends)
    doubled = np.empty((2 * len(layers), layers.shape[1]), np.int16)
    doubled[0::2] = _weigh(layers, extended[:-2])
    doubled[1::2] = _weigh(layers, extended[2:])
    return np.moveaxis(doubled[:size], 0, axis)


def _neighbours(blocks, axis):
    """The block before and the block after each along an axis; mirrored at the borders."""
    first, last = _along(axis, slice(None, 1)), _along(axis, slice(-1, None))
    but_last, but_first = _along(axis, slice(None, -1)), _along(axis, slice(1, None))
    before = np.concatenate([blocks[first], blocks[but_last]], axis)
    after = np.concatenate([blocks[but_first], blocks[last]], axis)
    return before, after


def _along(axis, part):
    """Index of a part of an axis of a volume."""
    return (slice(None),) * axis + (part,)

"""Tiles: boxes of a volume that go through the network one by one and give what one pass would.

A tile has a centre, which is kept, and a halo around it, which is computed and thrown away. The
halo is as wide as the receptive field, so a cut never reaches the centre; where a tile ends at
the volume's own face, the network's zero padding there is that of the whole-volume pass.
"""

from dataclasses import dataclass, replace
from itertools import pairwise, product
from math import prod

import numpy as np
import torch
from torch import nn

from cryoseg.errors import InputError
from cryoseg.network import SegmentationNetwork

LARGEST_REACH = 1024  # voxels; a network that sees further has no receptive field to speak of
CANDIDATES = 48  # tilings whose true cost inside a mask is worked out


@dataclass(frozen=True)
class Tile:
    """What is kept (centre) and what the network sees (box): (start, stop) in z, y, x."""

    centre: tuple[tuple[int, int], ...]
    box: tuple[tuple[int, int], ...]

    @property
    def shape(self):
        """Voxels of the box along z, y, x."""
        return tuple(stop - start for start, stop in self.box)

    @property
    def kept(self):
        """The centre in the coordinates of the box."""
        return tuple(
            (start - low, stop - low)
            for (start, stop), (low, _) in zip(self.centre, self.box, strict=True)
        )


@dataclass(frozen=True)
class Grid:
    """How a volume may be cut: what the network asks of tiles.

    shape:  of the volume, z, y, x
    stride: voxels that the edges of tiles are multiples of, per axis
    halo:   voxels that a centre needs before and after it, per axis, multiples of the stride
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    halo: tuple[tuple[int, int], ...]

    @property
    def blocks(self):
        """Blocks of one stride along each axis; the last may reach beyond the volume."""
        return tuple(-(-size // step) for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def padded(self):
        """The volume's shape, enlarged at the far end to whole blocks."""
        return tuple(n * step for n, step in zip(self.blocks, self.stride, strict=True))

    def tile(self, blocks):
        """The tile whose centre is a box of blocks, (start, stop) per axis."""
        centre, box = [], []
        for (start, stop), step, (low, high), size in zip(
            blocks, self.stride, self.halo, self.padded, strict=True
        ):
            centre.append((start * step, stop * step))
            box.append((max(start * step - low, 0), min(stop * step + high, size)))
        return Tile(tuple(centre), tuple(box))


def measure_halo(sizes):
    """Voxels before and after an aligned block of output that it depends on, along one axis.

    Measured, not derived: planes of ones go through a copy of the network with one channel in
    each layer and positive weights only, in which nothing cancels and no ReLU is closed, so every
    output that depends on a plane at all changes. The plane is put at each place that it can have
    relative to the stride. Kernels are cubes, so the copy has two dimensions whatever the network.

    sizes: Architecture of the network. Returns (before, after), multiples of the stride.
    Raises InputError if dependence does not end within LARGEST_REACH voxels.
    """
    probe = _probe(sizes)
    stride, reach = sizes.stride, 64
    while reach <= LARGEST_REACH:
        middle = -(-reach // stride) * stride
        planes = torch.zeros(stride, 1, 2 * middle + stride, stride, dtype=torch.float64)
        for phase in range(stride):
            planes[phase, 0, middle + phase] = 1
        with torch.no_grad():
            response = probe(planes)[0].amax(dim=(1, 3)) > 0
        if not (response[:, :stride].any() or response[:, -stride:].any()):
            return _block_reach(response.numpy(), middle, stride)
        reach *= 2
    raise InputError(
        f"the network sees further than {LARGEST_REACH} voxels, so tomograms cannot be cut into "
        "tiles for it; use a smaller model"
    )


def _probe(sizes):
    one = {"spatial_dims": 2} | {
        name: 1 for name in ("in_channels", "out_channels", "fpn_channels", "dim", "pred_dim")
    }
    one |= {"dense_dim": 1, "dense_pred_dim": 1, "num_filters": (1,) * 4, "filters": (1, 1)}
    network = SegmentationNetwork(replace(sizes, **one)).eval().double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1)
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                # averages, so that deep networks neither overflow nor vanish
                module.weight.fill_(1 / module.weight[0].numel())
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                module.bias.zero_()
    return network


def _block_reach(response, middle, stride):
    """response: (phase, position) whether an output there saw the plane at middle + phase."""
    before = after = 0
    for phase, seen in enumerate(response):
        plane = middle + phase
        first, last = np.flatnonzero(seen)[[0, -1]]
        before = max(before, last // stride * stride - plane)
        after = max(after, plane - (first // stride * stride + stride - 1))
    return tuple(int(-(-reach // stride) * stride) for reach in (before, after))


def occupied_blocks(mask, grid, slab=64):
    """Blocks of one stride that hold at least one voxel of a mask.

    mask: anything that can be sliced like an array of the grid's shape; read slab by slab
    Returns a bool array of grid.blocks.
    """
    occupied = np.zeros(grid.blocks, bool)
    rows = max(slab // grid.stride[0], 1)
    for block in range(0, grid.blocks[0], rows):
        start = block * grid.stride[0]
        part = np.asarray(mask[start : start + rows * grid.stride[0], :, :]) != 0
        for axis, step in enumerate(grid.stride):
            part = np.logical_or.reduceat(part, np.arange(0, part.shape[axis], step), axis=axis)
        occupied[block : block + len(part)] = part
    return occupied


def plan_tiles(grid, cost, fits, occupied=None, tile_size=None):
    """Cut a volume into the tiles that cost least among those that fit into memory.

    grid:      Grid of the volume and network
    cost:      (voxels of boxes, voxels of centres) -> work, in any unit, arrays or numbers
    fits:      Tile -> bool; assumed to hold for a tile if it holds for a larger one
    occupied:  bool array of grid.blocks; only these are kept, tiles are cut down to what they hold
    tile_size: z, y, x voxels of the centres instead of a choice; rounded up to the stride
    Returns a list of tiles, empty if nothing is occupied. Raises MemoryError if even tiles of one
    block do not fit.
    """
    if occupied is None:
        occupied = np.ones(grid.blocks, bool)
    extent = _extent(occupied)
    if extent is None:
        return []
    if tile_size is not None:
        sizes = [-(-size // step) for size, step in zip(tile_size, grid.stride, strict=True)]
        return _cut(grid, extent, sizes, occupied)
    best, best_cost = None, np.inf
    for sizes in _feasible_sizes(grid, extent, cost, fits):
        tiles = _cut(grid, extent, sizes, occupied)
        total = sum(cost(prod(tile.shape), voxels_of(tile.centre)) for tile in tiles)
        if total < best_cost:
            best, best_cost = tiles, total
    if best is None:
        raise MemoryError("not even the smallest tile fits into the memory given")
    return best


def voxels_of(box):
    """How many voxels a box, (start, stop) per axis, holds."""
    return prod(stop - start for start, stop in box)


def _extent(occupied):
    """Smallest box, (start, stop) per axis, around all that is True; None if nothing is."""
    if not occupied.any():
        return None
    box = []
    for axis in range(occupied.ndim):
        others = tuple(other for other in range(occupied.ndim) if other != axis)
        indices = np.flatnonzero(occupied.any(axis=others))
        box.append((int(indices[0]), int(indices[-1]) + 1))
    return box


def _feasible_sizes(grid, extent, cost, fits):
    """Sizes of centres, in blocks, that fit; the CANDIDATES that cost least without a mask."""
    lengths = [stop - start for start, stop in extent]
    options = [sorted({-(-n // count) for count in range(1, n + 1)}) for n in lengths]
    boxes, centres = [], []  # per axis: sum of the tiles' lengths for each option
    for axis, sizes in enumerate(options):
        cuts = [_cut_axis(extent[axis], size) for size in sizes]
        low, high = grid.halo[axis]
        step, end = grid.stride[axis], grid.padded[axis]
        boxes.append(np.array([
            sum(min(b * step + high, end) - max(a * step - low, 0) for a, b in cut) for cut in cuts
        ], float))  # fmt: skip
        centres.append(np.array([step * sum(b - a for a, b in cut) for cut in cuts], float))
    total = cost(_outer(boxes), _outer(centres))
    found, known = 0, []  # tiles that fit
    for index in np.argsort(total, axis=None, kind="stable"):
        places = np.unravel_index(index, total.shape)
        sizes = [sizes[place] for sizes, place in zip(options, places, strict=True)]
        tile = _largest_tile(grid, extent, sizes)
        # Asking takes some milliseconds each.
        if not any(_within(tile, larger) for larger in known):
            if not fits(tile):
                continue
            known.append(tile)
        yield sizes
        found += 1
        if found == CANDIDATES:
            return


def _within(tile, larger):
    """Whether a tile has, along each axis, the other's extents or both box and centre smaller."""
    pairs = zip(tile.shape, tile.kept, larger.shape, larger.kept, strict=True)
    return all(
        (box, kept) == (other_box, other)
        or (box <= other_box and kept[1] - kept[0] < other[1] - other[0])
        for box, kept, other_box, other in pairs
    )


def _outer(factors):
    z, y, x = factors
    return z[:, None, None] * y[None, :, None] * x[None, None, :]


def _cut_axis(extent, size):
    """Cut (start, stop) into as few pieces of at most `size` as can be, as equal as can be."""
    start, stop = extent
    count = -(-(stop - start) // size)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(pairwise(edges))


def _largest_tile(grid, extent, sizes):
    tiles = []
    for axis, size in enumerate(sizes):
        cuts = _cut_axis(extent[axis], size)
        step, (low, high), end = grid.stride[axis], grid.halo[axis], grid.padded[axis]
        spans = [(max(a * step - low, 0), min(b * step + high, end)) for a, b in cuts]
        largest = max(range(len(cuts)), key=lambda i: spans[i][1] - spans[i][0])
        tiles.append((tuple(step * edge for edge in cuts[largest]), spans[largest]))
    return Tile(tuple(centre for centre, _ in tiles), tuple(box for _, box in tiles))


def _cut(grid, extent, sizes, occupied):
    """The tiles of these sizes that hold something, cut down to what they hold."""
    cuts = [_cut_axis(axis_extent, size) for axis_extent, size in zip(extent, sizes, strict=True)]
    tiles = []
    for boxes in product(*cuts):
        held = _extent(occupied[tuple(slice(a, b) for a, b in boxes)])
        if held is not None:
            shifted = zip(boxes, held, strict=True)
            tiles.append(grid.tile([(start + a, start + b) for (start, _), (a, b) in shifted]))
    return tiles


def halves(tile, grid):
    """Cut a tile's centre in two along its longest axis; None if it is one block already."""
    lengths = [
        (stop - start) // step for (start, stop), step in zip(tile.centre, grid.stride, strict=True)
    ]
    axis = int(np.argmax(lengths))
    if lengths[axis] < 2:
        return None
    blocks = [
        (start // step, stop // step)
        for (start, stop), step in zip(tile.centre, grid.stride, strict=True)
    ]
    start, stop = blocks[axis]
    middle = (start + stop) // 2
    parts = ((start, middle), (middle, stop))
    return [grid.tile([*blocks[:axis], part, *blocks[axis + 1 :]]) for part in parts]

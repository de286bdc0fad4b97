"""Tiles cover a volume once, with halos as wide as the network's receptive field."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoseg.network import Architecture
from cryoseg.tiling import Grid, halves, measure_halo, occupied_blocks, plan_tiles
from networks import KINDS, SMALL, random_network

SHAPES = st.tuples(*[st.integers(1, 60)] * 3)


def always(tile):
    return True


def voxels(boxes, centres):
    return boxes


def grid_of(shape, stride=8, halo=(16, 8)):
    return Grid(shape, (stride,) * 3, (halo,) * 3)


@pytest.mark.parametrize(
    ("sizes", "halo"),
    [  # the unrounded reaches were measured on CryoSiam's own modules: 28 and 21, 43, 72
        ({}, (32, 24)),
        ({"block_type": "basic"}, (48, 40)),
        ({"num_layers": (3, 4, 6, 3)}, (72, 64)),
        ({"spatial_dims": 2}, (32, 24)),
    ],
)
def test_halo_of_known_networks(sizes, halo):
    assert measure_halo(Architecture(out_channels=7, **sizes)) == halo


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_beyond_the_halo_has_no_effect(kind):
    """Bit for bit, on the network itself: its own weights, not the positive ones of the probe."""
    network = random_network(**KINDS[kind])
    before, after = measure_halo(network.sizes)
    stride, dims = network.sizes.stride, network.sizes.spatial_dims
    length = before + stride + after + 4 * stride
    x = torch.rand(1, 1, length, *(stride,) * (dims - 1))
    start = before + 2 * stride
    far = x.clone()
    far[:, :, : start - before] += 1
    far[:, :, start + stride + after :] += 1
    block = (..., slice(start, start + stride), *[slice(None)] * (dims - 1))
    with torch.no_grad():
        before_change, after_change = network(x)[0], network(far)[0]
    assert torch.equal(before_change[block], after_change[block])
    assert not torch.equal(before_change, after_change)


@given(SHAPES, st.tuples(*[st.integers(1, 40)] * 3))
def test_tiles_keep_every_voxel_once(shape, tile_size):
    grid = grid_of(shape)
    count = np.zeros(grid.padded, int)
    for tile in plan_tiles(grid, voxels, always, tile_size=tile_size):
        count[tuple(slice(a, b) for a, b in tile.centre)] += 1
        for (a, b), (low, high), size in zip(tile.centre, tile.box, grid.padded, strict=True):
            assert low == max(a - 16, 0)
            assert high == min(b + 8, size)
            assert low % 8 == high % 8 == 0
    assert (count == 1).all()


@given(SHAPES, st.floats(0, 0.3), st.integers(0, 2**32 - 1), st.integers(8, 40))
def test_tiles_hold_every_voxel_of_a_mask_and_no_empty_block_at_their_ends(
    shape, share, seed, size
):
    grid = grid_of(shape)
    mask = np.random.default_rng(seed).random(shape) < share**2
    occupied = occupied_blocks(mask, grid)
    kept = np.zeros(grid.padded, bool)
    for tile in plan_tiles(grid, voxels, always, occupied, (size,) * 3):
        place = tuple(slice(a, b) for a, b in tile.centre)
        assert not kept[place].any()
        kept[place] = True
        for axis in range(3):
            ends = np.moveaxis(mask[place], axis, 0)
            assert ends[:8].any()
            assert ends[-8:].any() or shape[axis] % 8
    assert not (mask & ~kept[tuple(slice(n) for n in shape)]).any()


def test_an_empty_mask_needs_no_tile():
    grid = grid_of((30, 30, 30))
    assert plan_tiles(grid, voxels, always, np.zeros(grid.blocks, bool)) == []


@given(SHAPES, st.integers(10, 60))
@settings(max_examples=50)
def test_the_planned_tiles_fit_and_no_tile_size_that_fits_computes_fewer_voxels(shape, edge):
    grid, limit = grid_of(shape), edge**3 + 40**3

    def fits(tile):
        return np.prod(tile.shape) <= limit

    tiles = plan_tiles(grid, voxels, fits)
    assert all(fits(tile) for tile in tiles)
    best = sum(np.prod(tile.shape) for tile in tiles)
    for size in np.ndindex(*(min(n, 4) for n in grid.blocks)):
        tile_size = [8 * (blocks + 1) for blocks in size]
        others = plan_tiles(grid, voxels, fits, tile_size=tile_size)
        if all(fits(tile) for tile in others):
            assert best <= sum(np.prod(tile.shape) for tile in others)


def test_memory_too_small_for_any_tile_is_an_error():
    with pytest.raises(MemoryError):
        plan_tiles(grid_of((30, 30, 30)), voxels, lambda tile: False)


def test_everything_in_one_tile_when_it_fits():
    (tile,) = plan_tiles(grid_of((50, 60, 70)), voxels, always)
    assert tile.box == tile.centre == ((0, 56), (0, 64), (0, 72))


def test_targets_of_computed_per_wanted_voxels():
    """464 x 960 x 928 with the full-size network in bf16: at most 2 with 80 GB, 3.5 with 16 GB."""
    from cryoseg.inference import plan_volume
    from cryoseg.scoring import Scorer

    shape = (464, 960, 928)
    sizes = {"num_filters": (64, 128, 256, 512), "fpn_channels": 128, "dense_dim": 64}
    network = random_network(out_channels=7, **{**SMALL, **sizes, "filters": (32, 64)})
    scorer = Scorer(network, dtype=torch.bfloat16)
    for memory, target in ((80e9, 2.0), (16e9, 3.5)):
        _, tiles = plan_volume(scorer, shape, memory)
        assert sum(np.prod(tile.shape) for tile in tiles) / np.prod(shape) <= target


def test_halving_a_tile_keeps_its_centre():
    grid = grid_of((50, 60, 70))
    (tile,) = plan_tiles(grid, voxels, always)
    first, second = halves(tile, grid)
    assert first.centre[2] == (0, 32)
    assert second.centre[2] == (32, 72)
    assert first.centre[:2] == second.centre[:2] == tile.centre[:2]
    assert halves(grid.tile([(1, 2)] * 3), grid) is None

"""Scores of a whole volume, tile by tile, equal to one pass of the network over all of it."""

import gc
import logging
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from cryoseg.devices import peak_memory
from cryoseg.errors import InputError
from cryoseg.tiling import halves, occupied_blocks, plan_tiles, voxels_of

log = logging.getLogger("cryoseg")

# What convolution libraries take beside the tensors, measured: see tests/benchmarks/prediction.py
WORKSPACE = 1.15


@dataclass
class Summary:
    """What scoring a volume took.

    halo:     voxels before and after a centre, per axis
    wanted:   voxels that were asked for: all, or those inside the mask
    computed: voxels that went through the network, halos and padding included
    centres:  voxels of the tiles' centres, what of that was kept
    tiles:    tiles that went through
    seconds, device, precision: of all that score_voxels does, and what it was done on
    tile_memory, peak:          bytes that a tile might take, and that were held at most
    """

    halo: tuple[tuple[int, int], ...]
    wanted: int = 0
    computed: int = 0
    centres: int = 0
    tiles: int = 0
    seconds: float = 0.0
    device: str = ""
    precision: str = ""
    tile_memory: int = 0
    peak: int = 0


def plan_volume(scorer, shape, memory, mask=None, tile_size=None):
    """Choose the tiles for a volume.

    shape:  z, y, x; memory: bytes for a tile's activations; mask: array-like of the shape, 0 is
    outside, or None; tile_size: z, y, x of the centres instead of a choice
    Returns (grid, tiles). Raises InputError if not even the smallest tile fits.
    """
    grid = scorer.grid(shape)
    occupied = None if mask is None else occupied_blocks(mask, grid)
    per_box, per_centre, least_bytes = scorer.per_voxel()

    def cost(boxes, centres):
        return per_box * boxes + per_centre * centres

    def fits(tile):
        if prod(tile.shape) * least_bytes > memory:
            return False
        return scorer.peak_bytes(tile) * WORKSPACE <= memory

    try:
        tiles = plan_tiles(grid, cost, fits, occupied, tile_size)
        return grid, tiles if tile_size is None else _fitting(tiles, grid, fits, memory)
    except MemoryError as error:
        smallest = grid.tile([(n // 2, n // 2 + 1) for n in grid.blocks])
        needed = scorer.peak_bytes(smallest) * WORKSPACE
        raise InputError(
            f"the smallest tile that this network allows, {smallest.shape} voxels, needs "
            f"{needed / 1e6:.0f} MB, and memory_gb, the job's mem_mb and what is free leave "
            f"{memory / 1e6:.0f} MB (half of it in a retry); raise the smallest of them"
        ) from error


def _fitting(tiles, grid, fits, memory):
    """Tiles of a size that was asked for, cut in two where they do not fit into memory."""
    fitting, waiting = [], deque(tiles)
    while waiting:
        tile = waiting.popleft()
        if fits(tile):
            fitting.append(tile)
        elif parts := halves(tile, grid):
            waiting.extendleft(reversed(parts))
        else:
            raise MemoryError("not even the smallest tile fits into the memory given")
    if len(fitting) > len(tiles):
        log.warning(
            "tiles of the tile_size asked for need more than the %.2f GB given; "
            "they are cut smaller, and the scores stay the same", memory / 1e9,
        )  # fmt: skip
    return fitting


def score_volume(
    volume, write, scorer, memory, normalise, mask=None, tile_size=None, batch_size=1, follow=None
):
    """Score a volume tile by tile; reading, computing and writing overlap.

    volume:     array-like (Z, Y, X), sliced box by box, so it may be a memory map
    write:      called, from one thread, as write(box, scores): (start, stop) per axis, and arrays
                as Scorer returns them, without the batch axis and 0 outside the mask
    memory:     bytes for a tile's activations
    normalise:  Normalisation
    mask:       array-like (Z, Y, X), 0 is outside; tiles without a voxel of it are not computed
    tile_size:  z, y, x of the centres instead of a choice by memory
    batch_size: at most so many tiles of equal shape go through the network together
    follow:     called as follow(steps, total=...), yields what it is given; to show progress
    Returns a Summary. If a tile does not fit into memory after all, it and those after it are cut
    in two, which changes no score. Raises InputError if that ends at tiles of one block.
    """
    grid, tiles = plan_volume(scorer, volume.shape, memory, mask, tile_size)
    queue = _Queue(tiles, grid, scorer, memory, batch_size)
    summary = Summary(halo=grid.halo)
    steps = _score_tiles(queue, volume, write, scorer, normalise, mask, summary)
    for _ in steps if follow is None else follow(steps, total=len(tiles)):
        pass
    return summary


def _score_tiles(queue, volume, write, scorer, normalise, mask, summary):
    """Yield each tile when it is computed; adds to the summary."""
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        writing = writer.submit(int)  # 0 voxels so far
        ahead = _read_ahead(queue, reader, volume, normalise)
        while ahead is not None:
            batch, reading = ahead
            voxels = reading.result()
            ahead = _read_ahead(queue, reader, volume, normalise)
            scores = _score_or_none(scorer, voxels, batch[0].kept)
            if scores is None:
                queue.give_back(batch, ahead[0] if ahead else [])
                queue.shrink(batch)
                ahead = _read_ahead(queue, reader, volume, normalise)
                continue
            summary.computed += voxels.size
            summary.centres += sum(voxels_of(tile.centre) for tile in batch)
            summary.tiles += len(batch)
            summary.wanted += writing.result()
            writing = writer.submit(_write_batch, batch, scores, volume.shape, mask, write)
            yield from batch
        summary.wanted += writing.result()


def _read_ahead(queue, reader, volume, normalise):
    """Take the next batch and begin to read it; None when there is none."""
    batch = queue.next_batch()
    return (batch, reader.submit(_read_batch, batch, volume, normalise)) if batch else None


def _read_batch(batch, volume, normalise):
    """Normalised voxels (N, Z, Y, X) of tiles; zeros beyond the volume's far faces."""
    voxels = np.zeros((len(batch), *batch[0].shape), np.float32)
    for tile, target in zip(batch, voxels, strict=True):
        inside = _clipped(tile.box, volume.shape)
        shape = tuple(stop - start for start, stop in inside)
        values = normalise(np.asarray(volume[_slices(inside)]))
        target[tuple(slice(0, size) for size in shape)] = values
    return voxels


def _write_batch(batch, scores, shape, mask, write):
    """Hand over what lies in the volume and in the mask; returns the voxels that were asked for."""
    wanted = 0
    for number, tile in enumerate(batch):
        box = _clipped(tile.centre, shape)
        size = tuple(slice(0, stop - start) for start, stop in box)
        kept = {name: values[number][(..., *size)] for name, values in scores.items()}
        if mask is None:
            wanted += prod(stop - start for start, stop in box)
        else:
            asked = np.asarray(mask[_slices(box)]) != 0
            wanted += int(np.count_nonzero(asked))
            kept = {name: values * asked for name, values in kept.items()}
        write(box, kept)
    return wanted


def _slices(box):
    return tuple(slice(start, stop) for start, stop in box)


def _clipped(box, shape):
    return tuple((start, min(stop, size)) for (start, stop), size in zip(box, shape, strict=True))


def _score_or_none(scorer, voxels, kept):
    """The scores, or None if they do not fit into memory."""
    try:
        return scorer(voxels, kept)
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        text = str(error).lower()
        known = (
            "out of memory",
            "can't allocate memory",
            "alloc_failed",
            "could not create a primitive",
        )
        if not isinstance(error, MemoryError) and not any(words in text for words in known):
            raise
        log.warning(
            "out of memory: %s", str(error).splitlines()[0] if str(error) else "host memory"
        )
    # Reached after the exception is gone, and with it the tensors that its traceback held.
    gc.collect()
    if scorer.device.type == "cuda":
        torch.cuda.empty_cache()
    return None


class _Queue:
    """Tiles still to be scored, handed out in batches, cut smaller when memory runs out."""

    def __init__(self, tiles, grid, scorer, memory, batch_size):
        self.tiles, self.grid = deque(tiles), grid
        self.largest = None  # voxels of a batch that still may be tried
        self.batch_size, self.memory, self.scorer = batch_size, memory, scorer

    def next_batch(self):
        """The next tiles of one shape, in order; an empty list at the end."""
        if not self.tiles:
            return []
        self._fit_first()
        first = self.tiles.popleft()
        batch = [first]
        while len(batch) < self.batch_size and self.tiles and self._joins(batch):
            batch.append(self.tiles.popleft())
        return batch

    def give_back(self, *batches):
        """Put batches that were handed out back to the front, in their order."""
        for batch in reversed(batches):
            self.tiles.extendleft(reversed(batch))

    def shrink(self, failed):
        """Hand out nothing as large as this batch again."""
        self.largest = len(failed) * prod(failed[0].shape) - 1
        log.warning("going on with tiles of fewer than %d voxels; the scores stay the same",
                    self.largest + 1)  # fmt: skip

    def _joins(self, batch):
        tile, count = self.tiles[0], len(batch) + 1
        if (tile.shape, tile.kept) != (batch[0].shape, batch[0].kept):
            return False
        if self.largest is not None and count * prod(tile.shape) > self.largest:
            return False
        return count * self.scorer.peak_bytes(tile) * WORKSPACE <= self.memory

    def _fit_first(self):
        while self.largest is not None and prod(self.tiles[0].shape) > self.largest:
            tile = self.tiles.popleft()
            parts = halves(tile, self.grid)
            if parts is None:
                needed = self.scorer.peak_bytes(tile) * WORKSPACE
                raise InputError(
                    f"out of memory with the smallest tile that this network allows, {tile.shape} "
                    f"voxels, which needs {needed / 1e9:.2f} GB beside the "
                    f"{peak_memory(self.scorer.device) / 1e9:.2f} GB that the job has held: give "
                    "the job more"
                )
            self.tiles.extendleft(reversed(parts))

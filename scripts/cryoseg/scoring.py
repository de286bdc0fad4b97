"""A network made ready to score tiles: on a device, at a precision, with nothing superfluous."""

from copy import deepcopy
from dataclasses import dataclass
from math import prod

import numpy as np
import torch

from cryoseg.errors import InputError
from cryoseg.footprint import count_flops, peak_bytes
from cryoseg.network import fold_norms
from cryoseg.scores import PROBABILITY_STEPS
from cryoseg.tiling import Grid, Tile, measure_halo

REFERENCE_TILE = 96  # voxels a side, about; where work per voxel is measured


@dataclass(frozen=True)
class Normalisation:
    """How grey values become the network's input: clip to lowest..highest, then standardise."""

    lowest: float = 0.0
    highest: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    def __call__(self, values):
        """values: array of any real type; returns float32, (clipped to [0, 1] - mean) / std."""
        scaled = values.astype(np.float32)
        scaled -= self.lowest
        scaled /= self.highest - self.lowest
        np.clip(scaled, 0, 1, out=scaled)
        scaled -= self.mean
        scaled /= self.std
        return scaled


class Scorer:
    """A network made ready to score tiles on one device at one precision.

    network:       SegmentationNetwork, in evaluation mode; taken over and changed
    device, dtype: where and in which floating-point type it computes
    probabilities: return all channels' probabilities too
    distances:     return the distance head's raw output too
    runners_up:    return the classes after the winner too
    """

    def __init__(
        self,
        network,
        device="cpu",
        dtype=torch.float32,
        probabilities=False,
        distances=False,
        runners_up=False,
    ):
        self.sizes = network.sizes
        self.device, self.dtype = torch.device(device), dtype
        self.probabilities, self.distances = probabilities, distances
        self.runners_up = runners_up and self.sizes.out_channels > 2
        self.flat = self.sizes.spatial_dims == 2
        layout = torch.channels_last if self.flat else torch.channels_last_3d
        self.network = fold_norms(network).to(self.device, dtype).to(memory_format=layout)
        # The same network without its numbers: tells what a tile would take.
        self._shadow = deepcopy(self.network).to("meta")
        self._peaks = {}

    def grid(self, shape):
        """How a volume of this shape may be cut for this network."""
        halo, stride = measure_halo(self.sizes), self.sizes.stride
        if self.flat:  # slices know nothing of each other
            return Grid(tuple(shape), (1, stride, stride), ((0, 0), halo, halo))
        return Grid(tuple(shape), (stride,) * 3, (halo,) * 3)

    def __call__(self, batch, kept):
        """Score a batch of tiles.

        batch: (N, Z, Y, X) float32 array of normalised voxels, sizes multiples of the stride
        kept:  (start, stop) per axis, the centre inside the tile
        Returns dataset names to arrays: `probability` uint16 (N, z, y, x); with several channels
        `winner` uint8; if asked for `probs` and `distances`, float32 (N, channels, z, y, x), and
        `runner_up` uint8 and `runner_up_probability` uint16 (N, channels - 2, z, y, x).
        """
        tiles = torch.from_numpy(batch).to(self.device)
        with torch.inference_mode():
            scores = self._score(self.network, tiles, kept)
            if not torch.isfinite(scores["probability"]).all():
                raise InputError(
                    f"the network's output overflows in {self.dtype}; set precision: fp32"
                )
            return {name: _stored(name, values.cpu()) for name, values in scores.items()}

    def _score(self, network, tiles, kept):
        images, box = tiles[:, None].to(self.dtype), kept
        if self.flat:
            (first, last), *box = kept
            images = tiles[:, first:last].flatten(0, 1)[:, None].to(self.dtype)
        outputs = network(images, box, self.distances)
        del images
        logits, distances = (
            None if output is None else self._unfold(output, len(tiles)).float()
            for output in outputs
        )
        del outputs
        scores = {} if distances is None else {"distances": distances}
        return scores | self._probabilities(logits)

    def _unfold(self, output, count):
        """Slices that went through a 2D network as a batch become volumes again."""
        return output.unflatten(0, (count, -1)).transpose(1, 2) if self.flat else output

    def _probabilities(self, logits):
        """logits: (N, channels, z, y, x) float32, overwritten."""
        if self.sizes.out_channels == 1:
            probs = logits.sigmoid_()
            scores = {"probability": probs[:, 0]}
        else:
            largest, winner = logits.max(dim=1, keepdim=True)
            exponentials = logits.sub_(largest).exp_()
            sums = exponentials.sum(dim=1, keepdim=True)
            scores = {
                "winner": winner[:, 0].to(torch.uint8),
                "probability": sums[:, 0].reciprocal(),
            }
            all_wanted = self.probabilities or self.runners_up
            probs = exponentials.div_(sums) if all_wanted else None
            if self.runners_up:
                scores |= _runners_up(probs, winner)
        return scores | ({"probs": probs} if self.probabilities else {})

    def peak_bytes(self, tile):
        """Bytes of all tensors that live at once while a tile is scored, weights not counted."""
        key = tile.shape, tile.kept
        if key not in self._peaks:
            self._peaks[key] = peak_bytes(
                lambda tiles: self._score(self._shadow, tiles, tile.kept),
                torch.empty(1, *tile.shape, device="meta"),
            )
        return self._peaks[key]

    def per_voxel(self):
        """What a voxel takes: operations per voxel of a tile's box and per voxel of its centre, and
        bytes per voxel of its box, at least.
        """
        stride = self.sizes.stride
        edge = -(-REFERENCE_TILE // stride) * stride
        shape = (stride if self.flat else edge, edge, edge)
        volume, half, tenth = prod(shape), edge // 2, edge // 10
        tiles = torch.empty(1, *shape, device="meta")

        def flops(width):
            kept = (*((0, size) for size in shape[:2]), (half, half + width))
            return count_flops(lambda x: self._score(self._shadow, x, kept), tiles)

        # the heads' rims are the same for both widths
        per_centre = (flops(half // 2 + tenth) - flops(tenth)) / (volume * (half // 2) / edge)
        per_box = (flops(tenth) - per_centre * volume * tenth / edge) / volume
        thin = Tile(((0, stride),) * 3, tuple((0, size) for size in shape))
        return per_box, per_centre, self.peak_bytes(thin) / volume


def _runners_up(probs, winner):
    """The classes after the winner down to the background, most probable first, and these numbers.

    probs: (N, channels, z, y, x); winner: (N, 1, z, y, x)
    Returns datasets (N, channels - 2, z, y, x), 0 from the background on. More there cannot be:
    of all channels one is the winner and one the background.
    """
    # The winner is taken out first: where classes are equally probable, it stays the same one.
    others = probs.scatter(1, winner, -1.0)
    ordered, classes = others.sort(dim=1, descending=True, stable=True)
    ordered, classes = ordered[:, :-2], classes[:, :-2]
    known = ((classes != 0).cumprod(1) * (winner != 0)).bool()
    return {
        "runner_up": (classes * known).to(torch.uint8),
        "runner_up_probability": ordered * known,
    }


def _stored(name, values):
    """Tensor on the CPU -> array as it is stored."""
    if not name.endswith("probability"):
        return values.numpy()
    return np.rint(values.numpy() * np.float32(PROBABILITY_STEPS)).astype(np.uint16)

"""Augmentation on the device that trains: one resampling for image, labels and distances.

What happens to a sample is drawn first, from a generator of its own (draw), so that it depends on
neither the worker that reads it nor the process that trains with it. What was drawn is then
applied to a whole batch (augment).
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from cryoseg.labels import IGNORED
from cryoseg.losses import DISTANCE_REACH

# Probabilities of CryoSiam's transforms, and of its noisy input.
PROBABILITY = 0.8
NOISY_SHARE = 1 / 3
# Widths, in voxels, over which an elastic deformation is smooth.
ELASTIC_SIGMA = (5.0, 10.0)
# The largest squared distance that is told apart.
FAR = DISTANCE_REACH**2


@dataclass(frozen=True)
class Transforms:
    """What may happen to a patch; the names, units and defaults of a training configuration.

    Ranges are (lowest, highest) or None for never: sigmas in voxels, the noise's in units of the
    scaled intensity, zoom as a factor, rotate as the largest angle in radians around each axis,
    elastic as the magnitude by which smoothed random vectors are multiplied.
    """

    low_pass_sigma_range: tuple[float, float] | None = None
    high_pass_sigma_range: tuple[float, float] | None = None
    high_pass_sigma2_range: tuple[float, float] | None = None
    noise_sigma_range: tuple[float, float] | None = None
    combine_transforms: bool = False
    use_noisy_input: bool = False
    scale_intensity_factors: tuple[float, float] | None = None
    elastic: tuple[float, float] | None = None
    zoom: tuple[float, float] | None = None
    rotate: tuple[float, float, float] | None = None
    flip: bool = False

    @property
    def intensity_choices(self):
        """What one is chosen from for each sample; each is a set of transforms."""
        ranges = {
            "low pass": self.low_pass_sigma_range,
            "high pass": self.high_pass_sigma_range and self.high_pass_sigma2_range,
            "noise": self.noise_sigma_range,
        }
        single = [frozenset([name]) for name, limits in ranges.items() if limits]
        together = [frozenset().union(*single)] if self.combine_transforms and single else []
        return [*single, *together, frozenset()]


@dataclass(frozen=True)
class Draw:
    """What was drawn for one sample; None or 0 where a transform is left out."""

    seed: int = 0  # of the noise and the elastic deformation
    noisy: bool = False  # the second, noisy tomogram stands in for the image
    low_pass: float = 0.0
    high_pass: tuple[float, float] | None = None
    noise: float = 0.0
    scale: float = 1.0
    flips: tuple[bool, bool, bool] = (False, False, False)
    zoom: float = 1.0
    angles: tuple[float, float, float] | None = None
    elastic: tuple[float, float] | None = None  # width in voxels, magnitude

    @property
    def resampled(self):
        """Whether voxels come to lie between those of the patch that was read."""
        return self.zoom != 1.0 or self.angles is not None or self.elastic is not None


def draw(transforms, rng):
    """Draw what happens to one sample; rng: numpy.random.Generator."""

    def happens(wanted):
        return bool(wanted) and rng.random() < PROBABILITY

    def within(limits):
        return float(rng.uniform(*limits))

    chosen = {"seed": int(rng.integers(2**31))}
    if transforms.use_noisy_input and rng.random() < NOISY_SHARE:
        chosen["noisy"] = True
    else:
        choices = transforms.intensity_choices
        choice = choices[rng.integers(len(choices))]
        if "low pass" in choice:
            chosen["low_pass"] = within(transforms.low_pass_sigma_range)
        if "high pass" in choice:
            ranges = transforms.high_pass_sigma_range, transforms.high_pass_sigma2_range
            chosen["high_pass"] = tuple(within(limits) for limits in ranges)
        if "noise" in choice:
            chosen["noise"] = within(transforms.noise_sigma_range)
    if happens(transforms.scale_intensity_factors):
        chosen["scale"] = 1 + within(transforms.scale_intensity_factors)
    if happens(transforms.elastic):
        chosen["elastic"] = (within(ELASTIC_SIGMA), within(transforms.elastic))
    if happens(transforms.zoom):
        chosen["zoom"] = within(transforms.zoom)
    if happens(transforms.rotate):
        chosen["angles"] = tuple(within((-limit, limit)) for limit in transforms.rotate)
    chosen["flips"] = tuple(happens(transforms.flip) for _ in range(3))
    return Draw(**chosen)


def augment_image(images, draws):
    """Filter, add noise to and scale the intensities of a batch.

    images: (N, 1, Z, Y, X), float32, 0 to 1
    draws:  N times Draw
    Returns a tensor of the same shape. A high-passed image gets the mean that it had, so that
    it stays among the intensities that networks see in tomograms.
    """
    out = images.clone()
    blurred = [n for n, d in enumerate(draws) if d.low_pass]
    if blurred:
        out[blurred] = smooth(out[blurred], [draws[n].low_pass for n in blurred])
    sharpened = [n for n, d in enumerate(draws) if d.high_pass]
    if sharpened:
        some = out[sharpened]
        fine, coarse = (smooth(some, [draws[n].high_pass[i] for n in sharpened]) for i in (0, 1))
        band = fine - coarse
        axes = (1, 2, 3, 4)
        out[sharpened] = band - band.mean(axes, keepdim=True) + some.mean(axes, keepdim=True)
    for n, d in enumerate(draws):
        if d.noise:
            rng = torch.Generator(out.device).manual_seed(d.seed)
            out[n] += d.noise * torch.randn(out[n].shape, generator=rng, device=out.device)
        if d.scale != 1.0:
            out[n] *= d.scale
    return out


def smooth(volumes, sigmas):
    """Gaussian filter, each sample of a batch (N, C, Z, Y, X) with a sigma of its own, in voxels.

    The filter is a matrix for each axis, whose rows sum to 1 at the edges as well; a product of
    matrices is what every device does best.
    """
    sigma = torch.as_tensor(sigmas, dtype=volumes.dtype, device=volumes.device)[:, None, None]
    along_z, along_y, along_x = (_filter_matrix(size, sigma) for size in volumes.shape[2:])
    smoothed = volumes @ along_x.transpose(1, 2)[:, None, None]
    smoothed = along_y[:, None, None] @ smoothed
    flat = smoothed.flatten(3)
    return (along_z[:, None] @ flat).view_as(volumes)


def _filter_matrix(size, sigma):
    place = torch.arange(size, dtype=sigma.dtype, device=sigma.device)
    weights = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma**2))
    # Denormal numbers make a product ten times slower.
    weights = torch.where(weights > 1e-12, weights, 0)
    return weights / weights.sum(2, keepdim=True)


def resample(images, labels, draws):
    """Zoom, rotate, flip and deform images and labels of a batch, with one resampling.

    images: (N, C, Z, Y, X) float; labels: (N, Z, Y, X) uint8; draws: N times Draw
    Returns (images, interpolated linearly, 0 outside of the patch; labels, those of the nearest
    voxel, 255 outside).
    """
    grid = _source_grids(labels.shape[1:], draws, images.device)
    moved = F.grid_sample(images, grid, mode="bilinear", align_corners=False)
    # One more, so that the 0 that stands for outside is no label; small integers are exact.
    shifted = labels[:, None].to(images.dtype) + 1
    nearest = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)[:, 0]
    # What is -1 now becomes 255 as a byte.
    return moved, (nearest.to(torch.int16) - 1).to(torch.uint8)


def _source_grids(shape, draws, device):
    """Where voxels come from, (N, Z, Y, X, 3), as grid_sample wants it: x first, edges at +-1."""
    size = torch.tensor(shape, dtype=torch.float32)
    matrices = torch.stack([_source_matrix(chosen) for chosen in draws])
    # From voxels to units of half an edge, from z, y, x to x, y, z.
    matrices = (matrices * size / size[:, None]).flip(1, 2)
    affine = torch.cat([matrices, torch.zeros(len(draws), 3, 1)], dim=2).to(device)
    grids = F.affine_grid(affine, [len(draws), 1, *shape], align_corners=False)
    for grid, chosen in zip(grids, draws, strict=True):
        if chosen.elastic is not None:
            shifts = _deformation(shape, chosen, device).flip(0)
            grid += shifts.movedim(0, -1) * (2 / size.flip(0)).to(device)
    return grids


def _source_matrix(chosen):
    """From a voxel of the augmented patch to that of the patch it comes from (z, y, x)."""
    matrix = np.diag([-1.0 if flip else 1.0 for flip in chosen.flips])
    for axis, angle in enumerate(chosen.angles or ()):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[first, first] = turn[second, second] = np.cos(angle)
        turn[first, second], turn[second, first] = -np.sin(angle), np.sin(angle)
        matrix = turn @ matrix
    return torch.tensor(matrix / chosen.zoom, dtype=torch.float32)


def _deformation(shape, chosen, device):
    """Smooth random shifts in voxels, (3, Z, Y, X)."""
    width, magnitude = chosen.elastic
    rng = torch.Generator(device).manual_seed(chosen.seed)
    random = torch.rand((1, 3, *shape), generator=rng, device=device) * 2 - 1
    return magnitude * smooth(random, [width])[0]


def flip(volume, flips):
    """Mirror a tensor (..., Z, Y, X) along the axes whose entry in ``flips`` is true."""
    axes = [axis for axis, wanted in zip((-3, -2, -1), flips, strict=True) if wanted]
    return torch.flip(volume, axes) if axes else volume


def squared_distances(wanted):
    """Squared distance in voxels to the nearest True voxel, at most 25.

    wanted: (N, Z, Y, X) bool; returns uint8 of the same shape
    """
    squares = (~wanted).to(torch.uint8) * FAR
    for axis in (1, 2, 3):
        length, rim = squares.shape[axis], DISTANCE_REACH - 1
        edges = [0] * 6
        edges[2 * (3 - axis) : 2 * (3 - axis) + 2] = rim, rim
        wide = F.pad(squares, edges, value=FAR)
        # A step of 5 voxels alone makes the largest square, so 4 to each side are enough.
        for step in range(1, rim + 1):
            before, after = (wide.narrow(axis, rim + s, length) for s in (-step, step))
            squares = torch.minimum(squares, torch.minimum(before, after) + step**2)
    return squares


def derive_distances(labels, channels):
    """Signed squared distances of every class from the labels, and where they are certain.

    labels:   (N, Z, Y, X) uint8, 255 where the class is not known
    channels: classes; for one channel the distances are those of the object, labels 1
    Returns (int8, N x channels x Z x Y x X, -25 to 25 and positive inside; bool of the same
    shape: whether nothing beyond the patch or of unknown class could be nearer).
    """
    classes = [0, 1] if channels == 1 else list(range(channels))
    counts = torch.bincount(labels.flatten(), minlength=IGNORED + 1).tolist()
    masks = {c: labels == c for c in classes if counts[c]}
    to_class = {c: squared_distances(mask) for c, mask in masks.items()}
    to_unknown = _squares_to_the_unknown(labels, counts[IGNORED] > 0)
    shape = (len(labels), channels, *labels.shape[1:])
    distances = torch.full(shape, -FAR, dtype=torch.int8, device=labels.device)
    certain = (to_unknown == FAR)[:, None].repeat(1, channels, 1, 1, 1)
    # Voxels of a class have their boundary at the nearest voxel of any other.
    other = _second_smallest(to_class.values(), labels)
    for c, mask in masks.items():
        if channels == 1 and c == 0:
            continue
        channel = 0 if channels == 1 else c
        outside = to_class[c]  # 0 inside
        inside = other * mask
        distances[:, channel] = inside.to(torch.int8) - outside.to(torch.int8)
        certain[:, channel] = to_unknown >= outside + inside
    return distances, certain


def _second_smallest(squares, labels):
    """Second smallest of several uint8 tensors shaped as labels, voxel by voxel; 25 at most."""
    smallest = second = torch.full_like(labels, FAR)
    for each in squares:
        second = torch.minimum(second, torch.maximum(smallest, each))
        smallest = torch.minimum(smallest, each)
    return second


def _squares_to_the_unknown(labels, some_ignored):
    """Squared distance to the nearest ignored voxel or to what lies beyond the patch."""
    far = torch.full_like(labels, FAR)
    squares = squared_distances(labels == IGNORED) if some_ignored else far
    for axis, size in zip((1, 2, 3), labels.shape[1:], strict=True):
        place = torch.arange(size, device=labels.device)
        steps = torch.minimum(place, size - 1 - place) + 1
        beyond = (steps**2).clamp(max=FAR).to(torch.uint8)
        squares = torch.minimum(squares, beyond.view([-1 if a == axis else 1 for a in range(4)]))
    return squares


def augment(images, labels, stored, draws, channels):
    """Augment a batch: image, labels and distance targets move together.

    images:   (N, 1, Z, Y, X) float32, 0 to 1
    labels:   (N, Z, Y, X) uint8
    stored:   {n: int8 (channels, Z, Y, X)}, signed squared distances of the samples that are not
              resampled; None where no distances are wanted
    draws:    N times Draw
    channels: of the network
    Returns images, labels, signed squared distances (N, channels, Z, Y, X) int8, and where those
    are true (bool, same shape); the last two are None where no distances are wanted.
    """
    images, labels = augment_image(images, draws), labels.clone()
    moved = [n for n, chosen in enumerate(draws) if chosen.resampled]
    if moved:
        some = resample(images[moved], labels[moved], [draws[n] for n in moved])
        images[moved], labels[moved] = some
    for n, chosen in enumerate(draws):
        if not chosen.resampled:
            images[n] = flip(images[n], chosen.flips)
            labels[n] = flip(labels[n], chosen.flips)
    if stored is None:
        return images, labels, None, None
    shape = (len(labels), channels, *labels.shape[1:])
    distances = torch.empty(shape, dtype=torch.int8, device=labels.device)
    known = (labels != IGNORED)[:, None].repeat(1, channels, 1, 1, 1)
    for n, exact in stored.items():
        distances[n] = flip(exact, draws[n].flips)
    if moved:
        distances[moved], known[moved] = derive_distances(labels[moved], channels)
    return images, labels, distances, known

"""Augmentation on the device that trains: one resampling for image, labels and distances.

What happens to a sample is drawn first, from a generator of its own (draw), so that it depends on
neither the worker that reads it nor the process that trains with it. What was drawn is then
applied to a whole batch (augment).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from cryoseg.distances import UNKNOWN
from cryoseg.labels import IGNORED
from cryoseg.losses import DISTANCE_REACH

# Probability of each of CryoSiam's transforms, except that one of those of intensities is chosen.
PROBABILITY = 0.8
# Widths, in voxels, over which an elastic deformation is smooth.
ELASTIC_SIGMA = (5.0, 10.0)
# The largest squared distance that is told apart, and voxels to the farthest that is nearer.
FAR, REACHED = DISTANCE_REACH**2, DISTANCE_REACH - 1
UNKNOWN_BYTE = UNKNOWN % 256
# Voxels that a processor works on at a time, by what its cache holds.
RESAMPLED_AT_ONCE, DERIVED_AT_ONCE = 2**15, 2**18


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
        """What one is chosen from for each sample, nothing among it; each a set of transforms."""
        ranges = {
            "low pass": self.low_pass_sigma_range,
            "high pass": self.high_pass_sigma_range and self.high_pass_sigma2_range,
            "noise": self.noise_sigma_range,
        }
        choices = [frozenset([name]) for name, limits in ranges.items() if limits]
        if self.combine_transforms and choices:
            choices = [frozenset().union(*choices)]
        if self.use_noisy_input:
            choices.append(frozenset(["noisy"]))
        return [*choices, frozenset()]


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

    choices = transforms.intensity_choices
    choice = choices[rng.integers(len(choices))]
    chosen = {"seed": int(rng.integers(2**31)), "noisy": "noisy" in choice}
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
    # No width at all would make 0 / 0; this little changes nothing.
    weights = torch.exp(-((place[:, None] - place) ** 2) / (2 * sigma.clamp(min=1e-3) ** 2))
    # Denormal numbers make a product ten times slower.
    weights = torch.where(weights > 1e-12, weights, 0)
    return weights / weights.sum(2, keepdim=True)


def resample(images, labels, draws):
    """Zoom, rotate, flip and deform images and labels of a batch, with one resampling.

    images: (N, 1, Z, Y, X) float; labels: (N, Z, Y, X) uint8; draws: N times Draw
    Returns (images, interpolated linearly, 0 outside of the patch; labels, those of the nearest
    voxel, 255 outside). In PyTorch's grid_sample, on a processor, the same takes twice as long.
    """
    moved, nearest = torch.empty_like(images), torch.empty_like(labels)
    shape = labels.shape[1:]
    for n, chosen in enumerate(draws):
        image, classes = _with_rim(images[n, 0], 0), _with_rim(labels[n], IGNORED)
        source = _Source(shape, chosen, labels.device)
        for slab in slabs(shape, RESAMPLED_AT_ONCE, labels.device):
            places = source.places(slab)
            nearest[n, slab] = _nearest(classes, places)
            moved[n, 0, slab] = _interpolate(image, places)
    return moved, nearest


def slabs(shape, voxels, device):
    """Slices of the first axis that make up a volume; on a GPU, one of all.

    A processor works several times as fast on what its cache holds, ``voxels`` at a time.
    """
    thickness = shape[0] if device.type != "cpu" else max(1, voxels // (shape[1] * shape[2]))
    return [slice(z, min(z + thickness, shape[0])) for z in range(0, shape[0], thickness)]


def _with_rim(volume, outside):
    """A volume with a voxel of what lies outside before it, and two behind it.

    Places outside come to lie there, and the voxels that follow them too.
    """
    return F.pad(volume, (1, 2) * 3, value=outside)


class _Source:
    """Where the voxels of an augmented patch come from."""

    def __init__(self, shape, chosen, device):
        self.shape = shape
        self.matrix = _source_matrix(chosen).to(device)
        middles = [(size - 1) / 2 for size in shape]
        self.z, y, x = (
            torch.arange(size, dtype=torch.float32, device=device) - middle
            for size, middle in zip(shape, middles, strict=True)
        )
        self.planes = [
            row[1] * y[:, None] + row[2] * x + (middle + 1)
            for row, middle in zip(self.matrix, middles, strict=True)
        ]
        self.shifts = None if chosen.elastic is None else _deformation(shape, chosen, device)

    def places(self, slab):
        """Places z, y and x of a slab's voxels in the patch with a rim, each (n, Y, X) float32."""
        found = []
        for axis, size in enumerate(self.shape):
            place = self.planes[axis] + (self.z[slab] * self.matrix[axis, 0])[:, None, None]
            if self.shifts is not None:
                place += self.shifts[axis, slab]
            found.append(place.clamp_(0, size + 1))
        return found


def _interpolate(volume, places):
    """Values of a volume (Z, Y, X) between its voxels, linearly; uses up the places."""
    low = [place.floor() for place in places]
    share_z, share_y, share_x = (place.sub_(v) for place, v in zip(places, low, strict=True))
    index, values = _index(volume, low), volume.flatten()
    along_z, along_y, _ = volume.stride()

    def corner(step):
        return values[step:].index_select(0, index).view(share_x.shape)

    def in_row(step):
        return corner(step).lerp_(corner(step + 1), share_x)

    def in_plane(step):
        return in_row(step).lerp_(in_row(step + along_y), share_y)

    return in_plane(0).lerp_(in_plane(along_z), share_z)


def _nearest(volume, places):
    """Values of the voxels of a volume (Z, Y, X) that are nearest to places."""
    index = _index(volume, [place.round() for place in places])
    return volume.flatten().index_select(0, index).view(places[0].shape)


def _index(volume, voxels):
    """Places in memory of voxels of a volume; voxels: z, y and x, whole numbers as float32."""
    along_z, along_y, _ = volume.stride()
    z, y, x = (voxel.to(torch.int32) for voxel in voxels)
    return torch.add(x, y, alpha=along_y).add_(z, alpha=along_z).flatten()


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


def derive_distances(labels, channels):
    """Signed squared distances of every class from the labels.

    labels:   (N, Z, Y, X) uint8, 255 where the class is not known
    channels: classes; for one channel the distances are those of the object, labels 1
    Returns int8 (N, channels, Z, Y, X): -25 to 25, positive inside, and -128 where something
    beyond the patch or of unknown class could be nearer.
    """
    shape = (len(labels), channels, *labels.shape[1:])
    distances = torch.empty(shape, dtype=torch.int8, device=labels.device)
    # What lies beyond the patch is not known.
    wide = F.pad(labels, (REACHED,) * 6, value=IGNORED)
    for slab in slabs(labels.shape[1:], DERIVED_AT_ONCE, labels.device):
        around = wide[:, slab.start : slab.stop + 2 * REACHED]
        _derive_slab(around.contiguous(), distances[:, :, slab])
    return distances


def _derive_slab(labels, distances):
    """Fill in what derive_distances returns, from labels four voxels wider to each side.

    Voxels stay in one row, rims and all, since processors are slow with short rows and with
    comparisons of bytes.
    """
    channels = distances.shape[1]
    steps, row = labels.stride()[1:], labels.flatten()
    classes = range(max(2, channels))
    # 0 in voxels of a class, 1 in others.
    others = {c: (row ^ c).clamp_(max=1) for c in (*classes, IGNORED)}
    absent = torch.stack([others[c].view(-1, steps[0]).amin(1) for c in classes]).cpu().numpy()
    to_unknown = squared_distances(others[IGNORED], steps)
    to_class = {
        c: _squares_around(others[c], steps, np.flatnonzero(absent[c] == 0))
        for c in classes
        if not absent[c].all()
    }
    # Voxels of a class, at 0 from it, have their boundary at the nearest voxel of any other.
    boundary = _second_smallest(to_class.values(), to_unknown)
    far = torch.full_like(to_unknown, FAR)
    far_away = _signed(far, far, to_unknown)
    for channel in range(channels):
        signed = far_away.clone()
        if near := to_class.get(1 if channels == 1 else channel):
            place, squares = near
            signed[place] = _signed(squares, boundary[place], to_unknown[place])
        distances[:, channel] = _without_rims(signed.view(torch.int8), labels)


def _squares_around(others, steps, planes):
    """squared_distances where the zeros lie in these planes, but not of what is far from them.

    Returns a slice of what squared_distances returns, and what is in it; all else is FAR.
    """
    # A voxel's square comes out this much before the voxel.
    ahead = REACHED * sum(steps)
    margin = REACHED + math.ceil(ahead / steps[0])
    first = max(0, int(planes[0]) - margin) * steps[0]
    last = min(len(others), (int(planes[-1]) + 1 + margin) * steps[0])
    squares = squared_distances(others[first:last], steps)
    return slice(first, first + len(squares)), squares


def _signed(outside, boundary, to_unknown):
    """Signed squares as bytes: distances of an object, those of its voxels from their boundary.

    outside: squared distances to the object, 0 in its own voxels, where ``boundary`` counts
    """
    inside = boundary & outside.clamp(max=1).sub_(1)  # 1 - 1 keeps no bit, 0 - 1 keeps all
    signed, either = inside - outside, inside + outside  # one of both is 0
    # 1 where the unknown is nearer; less 1, that keeps no bit there and all elsewhere.
    unknown = either.sub_(torch.minimum(either, to_unknown)).clamp_(max=1)
    signed &= unknown - 1
    return signed.bitwise_or_(unknown.mul_(UNKNOWN_BYTE))


def squared_distances(others, steps):
    """Squared distance in voxels to the nearest 0, at most 25, for voxels in a row.

    others: (M,) uint8, 0 or 1
    steps:  from a voxel to the next along each axis
    Returns uint8 of all but the voxels that have fewer than four others to each side, along every
    axis; a fifth one would be as good as none. Near the ends of lines it is not right.
    """
    squares = others.neg() & FAR  # -1 has all bits
    for step in steps:
        length = len(squares) - 2 * REACHED * step
        nearest = squares.narrow(0, REACHED * step, length)
        for away in range(1, REACHED + 1):
            before, after = (
                squares.narrow(0, (REACHED + side) * step, length) for side in (-away, away)
            )
            beside = torch.minimum(before, after).add_(away**2)
            nearest = torch.minimum(nearest, beside, out=beside)
        squares = nearest
    return squares


def _without_rims(row, wide):
    """View of what squared_distances made of ``wide`` as a batch of volumes without their rims."""
    shape = [size - 2 * REACHED for size in wide.shape[1:]]
    return row.as_strided((len(wide), *shape), wide.stride())


def _second_smallest(ranges, like):
    """Second smallest of several uint8 tensors, voxel by voxel, each (slice, what is in it).

    25 where a tensor says nothing, and at most.
    """
    smallest, second = torch.full_like(like, FAR), torch.full_like(like, FAR)
    for place, squares in ranges:
        first, following = smallest[place], second[place]
        torch.minimum(following, torch.maximum(first, squares), out=following)
        torch.minimum(first, squares, out=first)
    return second


def augment(images, labels, stored, draws, channels):
    """Augment a batch: image, labels and distance targets move together.

    images:   (N, 1, Z, Y, X) float32, 0 to 1
    labels:   (N, Z, Y, X) uint8
    stored:   {n: int8 (channels, Z, Y, X)}, signed squared distances of the samples that are not
              resampled, -128 where unknown; None where no distances are wanted
    draws:    N times Draw
    channels: of the network
    Returns images, labels, and signed squared distances (N, channels, Z, Y, X) int8, -128 where
    unknown, or None where no distances are wanted.
    """
    images = augment_image(images, draws)
    if all(chosen.resampled for chosen in draws):
        images, labels = resample(images, labels, draws)
        return images, labels, None if stored is None else derive_distances(labels, channels)
    labels = labels.clone()
    moved = [n for n, chosen in enumerate(draws) if chosen.resampled]
    if moved:
        some = resample(images[moved], labels[moved], [draws[n] for n in moved])
        images[moved], labels[moved] = some
    for n, chosen in enumerate(draws):
        if not chosen.resampled:
            images[n] = flip(images[n], chosen.flips)
            labels[n] = flip(labels[n], chosen.flips)
    if stored is None:
        return images, labels, None
    shape = (len(labels), channels, *labels.shape[1:])
    distances = torch.empty(shape, dtype=torch.int8, device=labels.device)
    for n, exact in stored.items():
        distances[n] = flip(exact, draws[n].flips)
    if moved:
        distances[moved] = derive_distances(labels[moved], channels)
    return images, labels, distances

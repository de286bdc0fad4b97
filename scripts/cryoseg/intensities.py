"""Intensities of a tomogram: exact percentiles and scaling to [0, 1] in little memory."""

import numpy as np

from cryoseg.errors import InputError
from cryoseg.volumes import slabs

# Counting needs about this much memory per voxel: sort keys and the 8-byte indices of bincount.
COUNTING_BYTES = 16
# Sort keys are counted by 16 bits at a time: 65,536 counters, and float32 takes two passes.
DIGIT_BITS = 16


def intensity_range(volume, lower, upper):
    """Intensities below which ``lower`` and ``upper`` per cent of the voxels of a Volume lie.

    lower, upper: 0 <= lower < upper <= 100; 0 and 100 are the volume's minimum and maximum
    Raises InputError where the volume has NaN or infinite voxels, or nothing to scale.
    """
    if not 0 <= lower < upper <= 100:
        raise InputError(
            f"lower_end_percentage is {lower}, upper_end_percentage {upper}; "
            "they must be within 0 to 100, the lower below the upper"
        )
    low, high = percentiles(volume, (lower, upper))
    if low == high:
        raise InputError(
            f"{volume.path}: percentiles {lower} and {upper} are both {low:g}, so there is nothing "
            "to scale; check that the file is a tomogram, or widen the percentages"
        )
    return low, high


def percentiles(volume, percentages):
    """Percentiles of a Volume, as numpy.percentile with linear interpolation gives them.

    They are exact whatever the intensities, and take one pass over integers and float16, two
    over float32; memory does not grow with the volume.
    Raises InputError for NaN or infinite voxels.
    """
    places = [percentage / 100 * (volume.data.size - 1) for percentage in percentages]
    floors = [int(place) for place in places]
    neighbours = sorted({rank for floor in floors for rank in (floor, floor + 1)})
    ranks = [min(rank, volume.data.size - 1) for rank in neighbours]
    ordered = dict(zip(neighbours, _order_statistics(volume, ranks), strict=True))
    return [
        ordered[floor] + (ordered[floor + 1] - ordered[floor]) * (place - floor)
        for place, floor in zip(places, floors, strict=True)
    ]


def _order_statistics(volume, ranks):
    """The values that would stand at ``ranks`` if all voxels were sorted, as Python floats."""
    dtype = volume.dtype
    shift = max(0, 8 * dtype.itemsize - DIGIT_BITS)
    counts = _count_digits(volume, shift)
    if dtype.kind == "f":
        _check_finite(volume, counts, dtype, shift)
    digits, rests = _locate(counts, ranks)
    if not shift:
        return [float(value) for value in _values(digits, dtype)]
    keys = []
    lower_counts = _count_digits(volume, 0, shift, sorted(set(digits)))
    for digit, rest in zip(digits, rests, strict=True):
        (lower_digit,), _ = _locate(lower_counts[digit], [rest])
        keys.append(digit << shift | lower_digit)
    return [float(value) for value in _values(keys, dtype)]


def _locate(counts, ranks):
    """For each rank the counter that it falls into, and its rank within that counter."""
    ends = np.cumsum(counts)
    digits = [int(np.searchsorted(ends, rank, side="right")) for rank in ranks]
    rests = [int(rank - (ends[d] - counts[d])) for rank, d in zip(ranks, digits, strict=True)]
    return digits, rests


def _count_digits(volume, shift, upper_shift=None, uppers=None):
    """How often each 16-bit digit ``key >> shift`` occurs: an array with a count per digit.

    With ``uppers``: a dict of such arrays, counting only keys whose ``key >> upper_shift`` it is.
    """
    length = 1 << DIGIT_BITS
    counts = {upper: np.zeros(length, np.int64) for upper in (uppers or [None])}
    for piece in slabs(volume.shape, COUNTING_BYTES):
        keys = _sort_keys(volume[piece]).ravel()
        for upper, count in counts.items():
            chosen = keys if upper is None else keys[keys >> upper_shift == upper]
            digits = (chosen >> shift).astype(np.uint16)  # keeps the lower 16 bits of what is left
            count += np.bincount(digits, minlength=length)
    return counts if uppers else counts[None]


def _sort_keys(values):
    """Unsigned integers of the same size and in the same order as ``values``.

    The bits of a float sort as an integer once the sign bit is flipped, and all other bits of
    negative numbers too (M. Herf, Radix Tricks, 2001).
    """
    unsigned = np.dtype(f"u{values.itemsize}")
    top = unsigned.type(1 << (8 * values.itemsize - 1))
    bits = values.view(unsigned)
    if values.dtype.kind == "f":
        return np.where(bits & top, ~bits, bits | top)
    return bits ^ top if values.dtype.kind == "i" else bits


def _values(keys, dtype):
    """The inverse of _sort_keys."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    top = unsigned.type(1 << (8 * dtype.itemsize - 1))
    keys = np.array(keys, unsigned)
    if dtype.kind == "f":
        keys = np.where(keys & top, keys ^ top, ~keys)
    elif dtype.kind == "i":
        keys = keys ^ top
    return keys.view(dtype)


def _check_finite(volume, counts, dtype, shift):
    """Raise InputError where a counted digit belongs to NaN or an infinity."""
    infinities = np.array([-np.inf, np.inf], dtype)
    first, last = (int(key) >> shift for key in _sort_keys(infinities))
    if not counts[: first + 1].any() and not counts[last:].any():
        return
    nan, infinite = 0, 0
    for piece in slabs(volume.shape):
        voxels = volume[piece]
        nan += int(np.isnan(voxels).sum())
        infinite += int(np.isinf(voxels).sum())
    raise InputError(
        f"{volume.path}: {nan} voxels are NaN and {infinite} infinite of {volume.data.size}; "
        "all must be finite numbers; reconstruct the tomogram anew, or replace those voxels"
    )


class ScaledVolume:
    """A Volume whose sections are scaled to [0, 1] (float32) where they are sliced.

    low, high: intensities that become 0 and 1; what lies outside is clipped
    invert:    the other way round, so that dark protein becomes white
    """

    dtype = np.dtype(np.float32)

    def __init__(self, volume, low, high, invert):
        self.shape = volume.shape
        self._volume = volume
        self._low, self._high = low, high
        self._invert = invert

    def __getitem__(self, sections):
        # In float64: float32 has too few digits for a small range far from 0.
        values = self._volume[sections].astype(np.float64)
        np.clip(values, self._low, self._high, out=values)
        values -= self._low
        values /= self._high - self._low
        if self._invert:
            np.subtract(1, values, out=values)
        return values.astype(np.float32)

"""Intensities of a tomogram: statistics, exact percentiles, scaling to [0, 1], in little memory."""

from dataclasses import dataclass, field

import numpy as np

from cryoseg.errors import InputError
from cryoseg.volumes import slabs

# Counting needs about this much memory per voxel: sort keys and the 8-byte indices of bincount.
COUNTING_BYTES = 16
# Sort keys are counted by 16 bits at a time: 65,536 counters, and float32 takes two passes.
DIGIT_BITS = 16
# Protein is smaller than these squares of a section are wide, and noise is averaged out in them.
GRAIN = 4
# About so many sections tell what a volume's intensities are like.
SAMPLED_SECTIONS = 64


@dataclass
class Statistics:
    """What the voxels of a volume are like; None where no voxel is finite.

    lowest, highest:   of the finite voxels
    percentiles:       {percentage: intensity} of the finite voxels, exact
    nan, infinite:     how many voxels are
    outside:           for each range asked about, how many finite voxels lie below or above it
    constant_sections: sections along Z that hold one value
    skewness:          of means over squares of GRAIN voxels; below 0 where rarer matter is dark
    squares:           how many of these were not padding, nor had a voxel that is not finite
    """

    voxels: int
    outside: list[int]
    lowest: float | None = None
    highest: float | None = None
    percentiles: dict[float, float | None] = field(default_factory=dict)
    nan: int = 0
    infinite: int = 0
    constant_sections: int = 0
    skewness: float | None = None
    squares: int = 0


def statistics(volume, percentages, ranges=()):
    """Statistics of a Volume, whatever it holds; two passes over float32, one over other types.

    percentages: each 0 to 100; ranges: (lowest, highest) pairs to count the voxels outside of
    """
    found = Statistics(volume.data.size, [0] * len(ranges))
    dtype = volume.dtype
    shift = max(0, 8 * dtype.itemsize - DIGIT_BITS)
    raw, grains = np.zeros(1 << DIGIT_BITS, np.int64), []
    step = -(-volume.shape[0] // SAMPLED_SECTIONS)
    for piece in slabs(volume.shape, COUNTING_BYTES):
        values = volume[piece]
        raw += np.bincount(_upper_bits(values, shift).ravel(), minlength=len(raw))
        _survey(values, ranges, found)
        grains.append(_grains(values[-piece.start % step :: step]))
    counts = _in_order(raw, dtype)
    if dtype.kind == "f":
        first, last = (int(key) >> shift for key in _sort_keys(np.array([-np.inf, np.inf], dtype)))
        counts[: first + 1] = counts[last:] = 0
    finite = int(counts.sum())
    if finite:
        places = [percentage / 100 * (finite - 1) for percentage in percentages]
        values = _interpolated(volume, counts, shift, places)
        found.percentiles = dict(zip(percentages, values, strict=True))
        means = np.concatenate(grains)
        found.skewness, found.squares = _skewness(means), means.size
    else:
        found.percentiles = dict.fromkeys(percentages)
    return found


def _survey(values, ranges, found):
    """Add what can be seen in one slab, without order, to the Statistics."""
    flat = values.reshape(len(values), -1)
    lows, highs = flat.min(axis=1), flat.max(axis=1)
    found.constant_sections += int(np.count_nonzero(lows == highs))
    low, high = float(lows.min()), float(highs.max())
    if not np.isfinite(low) or not np.isfinite(high):  # a NaN anywhere is the minimum
        nan = int(np.count_nonzero(np.isnan(values)))
        values = values[np.isfinite(values)]
        found.nan += nan
        found.infinite += flat.size - values.size - nan
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
    found.lowest = low if found.lowest is None else min(low, found.lowest)
    found.highest = high if found.highest is None else max(high, found.highest)
    for index, (lowest, highest) in enumerate(ranges):
        if low < lowest:
            found.outside[index] += int(np.count_nonzero(values < lowest))
        if high > highest:
            found.outside[index] += int(np.count_nonzero(values > highest))


def _upper_bits(values, shift):
    """The upper 16 bits of each value, or all of a smaller one, as they lie in memory."""
    bits = values.view(f"u{values.itemsize}")
    return (bits >> shift).astype(np.uint16) if shift else bits


def _in_order(raw, dtype):
    """Counts by upper bits, as counts by the digits of sort keys."""
    bits = np.arange(1 << min(DIGIT_BITS, 8 * dtype.itemsize))
    # Flipping bits makes sort keys, so the upper bits of a type flip as those of a shorter one do.
    small = np.dtype(f"{dtype.kind}{min(2, dtype.itemsize)}")
    counts = np.zeros_like(raw)
    counts[_sort_keys(bits.astype(f"u{small.itemsize}").view(small))] = raw[: len(bits)]
    return counts


def _grains(values):
    """Means of a slab over squares of GRAIN voxels within sections, padding left out.

    Of padding are squares with a row or a column that has one value; of what was measured, noise
    lets hardly any have that. Means that are not finite are left out, too.
    """
    depth, height, width = values.shape
    rows, columns = height // GRAIN, width // GRAIN
    if not rows or not columns:
        return np.zeros(0, np.float32)
    values = values[:, : rows * GRAIN, : columns * GRAIN]
    padding = _flat(values, 2).reshape(depth, rows, GRAIN, columns).any(axis=2)
    padding |= _flat(values, 1).reshape(depth, rows, columns, GRAIN).any(axis=3)
    squares = values.astype(np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        # Of the rows first, where the memory is contiguous.
        squares = squares.reshape(depth, rows, GRAIN, -1).sum(axis=2)
        means = squares.reshape(depth, rows, columns, GRAIN).sum(axis=3) / GRAIN**2
    return means[np.isfinite(means) & ~padding]


def _flat(values, axis):
    """Where GRAIN voxels in a row along an axis have one value; that axis is shorter by GRAIN."""
    first, *others = (
        values[(slice(None),) * axis + (slice(start, None, GRAIN),)] for start in range(GRAIN)
    )
    flat = first == others[0]
    for other in others[1:]:
        flat &= first == other
    return flat


def _skewness(values):
    """Third standardised moment, of what lies within percentiles 0.1 to 99.9; None without spread.

    Beyond lie gold beads, hot pixels and edges, of which few would outweigh all else.
    """
    if values.size < 2:
        return None
    low, high = np.percentile(values, (0.1, 99.9))
    centred = np.clip(values, low, high).astype(np.float64)
    centred -= centred.mean()
    variance = np.mean(centred**2)
    if not variance > 0 or not np.isfinite(variance):
        return None
    return float(np.mean(centred**3) / variance**1.5)


def _interpolated(volume, counts, shift, places):
    """Values at ``places`` between ranks, linearly; the others as of _values_at."""
    floors, last = [int(place) for place in places], int(counts.sum()) - 1
    neighbours = sorted({rank for floor in floors for rank in (floor, floor + 1)})
    ranks = [min(rank, last) for rank in neighbours]
    values = _values_at(volume, counts, shift, ranks)
    ordered = dict(zip(neighbours, values, strict=True))
    return [
        ordered[floor] + (ordered[floor + 1] - ordered[floor]) * (place - floor)
        for place, floor in zip(places, floors, strict=True)
    ]


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
    dtype = volume.dtype
    shift = max(0, 8 * dtype.itemsize - DIGIT_BITS)
    counts = _count_digits(volume, shift)
    if dtype.kind == "f":
        _check_finite(volume, counts, dtype, shift)
    places = [percentage / 100 * (volume.data.size - 1) for percentage in percentages]
    return _interpolated(volume, counts, shift, places)


def _values_at(volume, counts, shift, ranks):
    """The values that would stand at ``ranks`` if all voxels were sorted, as Python floats.

    counts: of the upper digits of their keys (see _count_digits), of the voxels to be sorted
    """
    dtype = volume.dtype
    digits, rests = _locate(counts, ranks)
    if not shift:
        return [float(value) for value in _values(digits, dtype)]
    keys = []
    lower_counts = _count_lower_digits(volume, shift, sorted(set(digits)))
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


def _count_digits(volume, shift):
    """How often each upper digit ``key >> shift`` of 16 bits occurs: an array with a count each."""
    raw = np.zeros(1 << DIGIT_BITS, np.int64)
    for piece in slabs(volume.shape, COUNTING_BYTES):
        raw += np.bincount(_upper_bits(volume[piece], shift).ravel(), minlength=len(raw))
    return _in_order(raw, volume.dtype)


def _count_lower_digits(volume, shift, uppers):
    """The same of the lower digits, for each of the upper ones: {upper: array}."""
    length = 1 << DIGIT_BITS
    counts = {upper: np.zeros(length, np.int64) for upper in uppers}
    # Few voxels have one of these upper digits; only their keys are worked out.
    wanted = np.zeros(length, bool)
    wanted[_values(np.array(uppers) << shift, volume.dtype).view(np.uint32) >> shift] = True
    for piece in slabs(volume.shape, COUNTING_BYTES):
        values = volume[piece]
        keys = _sort_keys(values[wanted[_upper_bits(values, shift)]])
        for upper, count in counts.items():
            digits = keys[keys >> shift == upper].astype(np.uint16)  # keeps the lower 16 bits
            count += np.bincount(digits, minlength=length)
    return counts


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

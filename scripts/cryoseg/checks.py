"""What must hold of a tomogram before the network is given it."""

import logging
from dataclasses import dataclass

import numpy as np

from cryoseg.errors import InputError
from cryoseg.volumes import slabs

log = logging.getLogger("cryoseg")

# A volume scaled by percentiles has next to nothing outside; one that was never scaled, half.
WARN_OUTSIDE, REFUSE_OUTSIDE = 0.01, 0.5
# A volume that fills less of the range than this was probably scaled for another one.
WARN_NARROW = 0.05


@dataclass
class Intensities:
    """What one reading of a volume's voxels tells."""

    lowest: float
    highest: float
    not_finite: int
    outside: int  # voxels below or above the range asked about
    voxels: int


def survey(volume, lowest, highest):
    """Read a volume once, slab by slab, and count what is wrong with it.

    volume: array-like (Z, Y, X) of a real type; lowest, highest: the range to count against
    Returns Intensities; its lowest and highest are those of the finite voxels.
    """
    found = Intensities(np.inf, -np.inf, 0, 0, int(np.prod(volume.shape)))
    for slab in slabs(volume.shape):
        values = np.asarray(volume[slab])
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            found.not_finite += int(values.size - np.count_nonzero(finite))
            values = values[finite] if not finite.all() else values
        if values.size:
            found.lowest = min(found.lowest, float(values.min()))
            found.highest = max(found.highest, float(values.max()))
        if found.lowest < lowest or found.highest > highest:
            found.outside += int(np.count_nonzero(values < lowest))
            found.outside += int(np.count_nonzero(values > highest))
    return found


def check_intensities(name, volume, lowest=-np.inf, highest=np.inf):
    """Raise InputError if a network cannot be given a tomogram; log a warning if it is doubtful.

    name: what messages call it; lowest, highest: the stage's parameters.data.min and max
    Returns its Intensities.
    """
    found = survey(volume, lowest, highest)
    if found.not_finite:
        raise InputError(
            f"{name}: {found.not_finite} of {found.voxels} voxels are NaN or infinite; every voxel "
            "must be a number: reconstruct or copy the tomogram anew"
        )
    if found.lowest == found.highest:
        raise InputError(
            f"{name}: every voxel is {found.lowest:g}; a tomogram must have contrast: "
            "reconstruct or copy it anew"
        )
    share = found.outside / found.voxels
    text = (
        f"{name}: {share:.1%} of the voxels lie outside parameters.data.min..max = "
        f"{lowest:g}..{highest:g}, the tomogram spans {found.lowest:g}..{found.highest:g}"
    )
    if share > REFUSE_OUTSIDE:
        raise InputError(
            f"{text}; scale it first (a scale: entry in config.yaml) or set min and max"
        )
    if share > WARN_OUTSIDE:
        log.warning("%s; these are clipped", text)
    if np.isfinite(highest - lowest) and _spanned(found, lowest, highest) < WARN_NARROW:
        log.warning(
            "%s: the tomogram spans %g..%g, next to nothing of parameters.data.min..max = %g..%g; "
            "are min and max those of these tomograms?",
            name, found.lowest, found.highest, lowest, highest,
        )  # fmt: skip
    return found


def _spanned(found, lowest, highest):
    """Share of the range that a volume's intensities span."""
    return (min(found.highest, highest) - max(found.lowest, lowest)) / (highest - lowest)


def check_alike(name, tomogram, what, other):
    """Raise InputError unless what belongs to a tomogram has its shape; warn of other voxel sizes.

    name: of the tomogram; what: of the other volume, with its verb, e.g. "labels are"
    A voxel size of 0 is unknown.
    """
    if other.shape != tomogram.shape:
        raise InputError(
            f"{name}: {what} {_text(other.shape)}, tomogram is {_text(tomogram.shape)}; they must "
            "match"
        )
    sizes = np.array([tomogram.voxel_size, other.voxel_size])
    if sizes.all() and not np.allclose(*sizes, rtol=0.01):
        log.warning(
            "%s: %s of voxels of %s Angstrom, tomogram is of %s; taken for the same voxels",
            name, what, _text(sizes[1]), _text(sizes[0]),
        )  # fmt: skip


def _text(numbers):
    return " x ".join(f"{number:g}" for number in numbers)

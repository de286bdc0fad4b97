"""What must hold of a tomogram before the network is given it."""

from dataclasses import dataclass

import numpy as np

from cryoseg.findings import ERROR, WARNING, Finding, raise_or_warn
from cryoseg.volumes import is_known_size, slabs

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
    raise_or_warn(judge_intensities(name, found, lowest, highest))
    return found


def judge_intensities(name, found, lowest, highest):
    """Findings about the Intensities of a tomogram; the arguments as of check_intensities."""
    if found.not_finite:
        sentence = f"{name}: {found.not_finite} of {found.voxels} voxels are NaN or infinite"
        remedy = "every voxel must be a number: reconstruct or copy the tomogram anew"
        return [Finding(ERROR, sentence, remedy)]
    if found.lowest == found.highest:
        sentence = f"{name}: every voxel is {found.lowest:g}"
        remedy = "a tomogram must have contrast: reconstruct or copy it anew"
        return [Finding(ERROR, sentence, remedy)]
    share = found.outside / found.voxels
    text = (
        f"{name}: {share:.1%} of the voxels lie outside parameters.data.min..max = "
        f"{lowest:g}..{highest:g}, the tomogram spans {found.lowest:g}..{found.highest:g}"
    )
    if share > REFUSE_OUTSIDE:
        remedy = "scale it first (a scale: entry in config.yaml) or set min and max"
        return [Finding(ERROR, text, remedy)]
    findings = []
    if share > WARN_OUTSIDE:
        findings.append(Finding(WARNING, text, "these are clipped"))
    if np.isfinite(highest - lowest) and _spanned(found, lowest, highest) < WARN_NARROW:
        sentence = (
            f"{name}: the tomogram spans {found.lowest:g}..{found.highest:g}, next to nothing of "
            f"parameters.data.min..max = {lowest:g}..{highest:g}"
        )
        findings.append(Finding(WARNING, sentence, "are min and max those of these tomograms?"))
    return findings


def _spanned(found, lowest, highest):
    """Share of the range that a volume's intensities span."""
    return (min(found.highest, highest) - max(found.lowest, lowest)) / (highest - lowest)


def check_alike(name, tomogram, what, other):
    """Raise InputError unless what belongs to a tomogram has its shape; warn of other voxel sizes.

    name: of the tomogram; what: of the other volume, with its verb, e.g. "labels are"
    A voxel size that is unknown differs from none.
    """
    raise_or_warn(judge_alike(name, tomogram, what, other))


def judge_alike(name, tomogram, what, other):
    """Findings about a volume that belongs to a tomogram; the arguments as of check_alike."""
    if tuple(other.shape) != tuple(tomogram.shape):
        sentence = f"{name}: {what} {_text(other.shape)}, tomogram is {_text(tomogram.shape)}"
        return [Finding(ERROR, sentence, "they must match")]
    sizes = (tomogram.voxel_size, other.voxel_size)
    if not all(map(is_known_size, sizes)) or np.allclose(*sizes, rtol=0.01):
        return []
    sentence = (
        f"{name}: {what} of voxels of {_text(sizes[1])} Angstrom, tomogram is of {_text(sizes[0])}"
    )
    return [Finding(WARNING, sentence, "taken for the same voxels")]


def _text(numbers):
    return " x ".join(f"{number:g}" for number in numbers)

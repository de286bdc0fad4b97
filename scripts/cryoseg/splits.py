"""Which tomograms a network is trained on, and which, held back, it is validated on."""

import hashlib
from pathlib import Path

import numpy as np

from cryoseg.errors import InputError, brief
from cryoseg.joblog import logger
from cryoseg.patches import text_of
from cryoseg.small_files import files_only, read_json

NEWEST_MODEL = "model_best.ckpt"
PARTS = ("train", "validation")
# Share of the training patches that a gap beside the validation patches may cost.
LARGEST_LOSS = 0.5


def split_tomograms(names, val_names=None, validation_ratio=0.0, seed=0):
    """Split tomograms into those to train on and those to validate on: two sorted lists of names.

    names:            of all tomograms, compared as a whole: TS_1 and TS_1_dup are two tomograms
    val_names:        those to validate on; the others are trained on
    validation_ratio: without val_names, the share that is held back: one tomogram at least if it
                      is above 0, all but one at most
    seed:             another seed holds back others

    The order of the names does not matter, and where a tomogram is added, at most one other
    changes sides. One tomogram alone is never held back: split_corners splits it by region.
    Raises InputError for unknown val_names, and where nothing is left to train on.
    """
    names = sorted(set(names))
    if val_names is None:
        val_names = _held_back(names, validation_ratio, seed)
    unknown = sorted(set(val_names) - set(names))
    if unknown:
        raise InputError(
            f"val_files has {', '.join(unknown)}, and there are patches of {', '.join(names)} only"
        )
    train = sorted(set(names) - set(val_names))
    if not train:
        raise InputError(
            f"val_files has all {len(names)} tomograms, so none is left to train on; leave one out"
        )
    return train, sorted(set(val_names))


def _held_back(names, ratio, seed):
    """The ``ratio`` of the names that come first in an order that each name has by itself."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())
    wanted = max(1, round(ratio * len(names))) if ratio > 0 else 0
    return ranked[: min(wanted, max(0, len(names) - 1))]


def split_behind(checkpoint):
    """Which tomograms a model was trained and validated on: {"train": names, "validation": names}.

    Told by split.json, which a training writes beside the folder of its models, where the
    checkpoint is that training's newest model, under either of its names; else {}. So it is, with
    a warning, where a file of that name is no training's.
    """
    checkpoint = Path(checkpoint)
    told, newest = checkpoint.parent.parent / "split.json", checkpoint.parent / NEWEST_MODEL
    if not told.is_file() or not newest.exists():
        return {}
    if checkpoint.name != NEWEST_MODEL and _content(checkpoint) != _content(newest):
        return {}
    try:
        split = read_json(told)
    except (OSError, InputError) as error:
        why = brief(str(error).removeprefix(f"{told}: "))
        logger.warning("%s: is left out of account (%s)", told, why)
        return {}
    parts = [split.get(part) if isinstance(split, dict) else None for part in PARTS]
    if not all(isinstance(part, dict) for part in parts):
        logger.warning(
            "%s: is left out of account, as it does not say what a model was trained on", told
        )
        return {}
    return {part: sorted(names) for part, names in zip(PARTS, parts, strict=True)}


def _content(path):
    with open(path, "rb", opener=files_only) as file:
        return hashlib.file_digest(file, "sha256").digest()


def part_of(split, name):
    """What a tomogram was to a model: "train", "validation", or "-" for neither or unknown.

    split: as split_behind returns it. A tomogram that was divided by region was trained on.
    """
    return next((part for part in PARTS if name in split.get(part, ())), "-")


def split_corners(corners, patch_size, shape, validation_ratio):
    """Split the patches of one tomogram by region: indices to train on, indices to validate on.

    corners:          (N, 3) z y x, lowest voxel of each patch; patch_size: z, y, x
    shape:            z, y, x of the tomogram
    validation_ratio: share of the patches, about, to validate on; 0 for none

    A plane across the longest axis (the next, where it has no room) parts the regions, and the
    validation patches lie beyond it. No voxel is in patches of both; patches in a gap between are
    left out. The gap is a patch wide, or half a patch or nothing where it would cost more than
    half of the training patches. Raises InputError for a tomogram that cannot be split.
    """
    corners = np.asarray(corners)
    if validation_ratio == 0:
        return np.arange(len(corners)), np.arange(0)
    for axis in sorted(range(3), key=lambda axis: -shape[axis]):
        found = _split_along(corners[:, axis], patch_size[axis], validation_ratio)
        if found is not None:
            return found
    raise InputError(
        f"there is one tomogram, {text_of(shape)} voxels, and its {len(corners)} patches of "
        f"{text_of(patch_size)} all overlap, so none can be held back for validation; make "
        "parameters.data.patch_size smaller, add a tomogram, or set validation_ratio to 0"
    )


def _split_along(starts, edge, ratio):
    """Indices of both sides where patches at ``starts`` are split along one axis, or None."""
    planes = [start for start in np.unique(starts) if (starts + edge <= start).any()]
    if not planes:
        return None
    plane = min(planes, key=lambda start: abs((starts >= start).mean() - ratio))
    without_gap = np.count_nonzero(starts + edge <= plane)
    for gap in (edge, edge // 2, 0):
        train = np.flatnonzero(starts + edge + gap <= plane)
        if len(train) >= (1 - LARGEST_LOSS) * without_gap:
            break
    if gap < edge:
        logger.warning(
            "the one tomogram is small: patches to validate with begin %d voxels from those to "
            "train with, and not a patch of %d away", gap, edge,
        )  # fmt: skip
    return train, np.flatnonzero(starts >= plane)

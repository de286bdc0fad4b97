"""Volumes of labels: checked, filtered, translated, merged, with a rim around the objects."""

import logging

import numpy as np

from cryoseg.drawing import TOLERANCE, Drawing, distance_from
from cryoseg.errors import InputError
from cryoseg.joblog import progress
from cryoseg.label_making import LARGEST_LABEL, drawing_order
from cryoseg.labels import IGNORED
from cryoseg.volumes import slabs

log = logging.getLogger("cryoseg")

# Labels that are looked at take a few times their own bytes on the way.
WORK_BYTES = 16
# Sections at a time where distances are measured; with less, most of the work goes into the halo.
FEWEST_SECTIONS = 32


def count_values(volume):
    """How often each whole number occurs in a volume of labels: {value: count}.

    volume: a Volume; signed bytes are read as unsigned ones, as most programs write them
    Raises InputError for values that are no whole numbers from 0 to 65535.
    """
    counts = np.zeros(65536, np.int64)
    for piece in slabs(volume.shape, WORK_BYTES):
        values = _unsigned(volume[piece])
        _check_whole(volume.path, values)
        found = np.bincount(values.astype(np.int64).ravel())
        counts[: len(found)] += found
    return {int(value): int(counts[value]) for value in np.flatnonzero(counts)}


def _unsigned(values):
    return values.view(np.uint8) if values.dtype == np.int8 else values


def _check_whole(path, values):
    low, high = values.min(), values.max()
    if values.dtype.kind == "f":
        wrong = int(np.count_nonzero(~(values == np.rint(values))))
        if wrong or not np.isfinite(low + high):
            raise InputError(
                f"{path}: {max(wrong, 1)} voxels hold no whole number (values are {low:g} to "
                f"{high:g}); labels must be whole numbers: resample them by nearest neighbour"
            )
    if low < 0 or high > 65535:
        raise InputError(
            f"{path}: labels are {low:g} to {high:g}; they must be from 0 to 65535: correct them"
        )


def new_labels(path, counts, selected, relabel=False):
    """What becomes of each label of a volume: {label: new label}; all others become 0.

    counts:   {label: voxels} of the volume; path: what messages call it
    selected: one label, which becomes 1; a list, whose labels stay as they are, or with
              ``relabel`` become 1, 2 ... in the order of the list; or None, and all stay
    255 stays 255, ignored, unless it is selected itself.
    Raises InputError for labels that cannot be kept as they are. Selected labels that occur
    nowhere are logged as a warning.
    """
    ignored = {IGNORED: IGNORED} if IGNORED in counts else {}
    if selected is None:
        if relabel:
            raise InputError("relabel is true, and selected_labels names none; give it a list")
        chosen = {label: label for label in counts if label not in (0, IGNORED)}
    elif isinstance(selected, int):
        chosen = {selected: 1}
    else:
        chosen = {label: n if relabel else label for n, label in enumerate(selected, start=1)}
    _check_chosen(path, chosen)
    if selected is not None:
        _warn_of_missing(path, chosen, counts)
    return ignored | chosen


def _check_chosen(path, chosen):
    if any(label < 1 for label in chosen):
        raise InputError(
            f"selected_labels has {min(chosen)}; labels to select are 1 or more, 0 is background"
        )
    large = sorted(new for new in chosen.values() if new > LARGEST_LABEL)
    if large:
        raise InputError(
            f"{path}: label {large[0]} cannot be kept as it is, the largest one is "
            f"{LARGEST_LABEL} (255 is for voxels to be ignored); select labels, with "
            "relabel: true, which numbers them 1, 2 ..."
        )


def _warn_of_missing(path, chosen, counts):
    missing = sorted(set(chosen) - set(counts))
    if missing:
        there = ", ".join(str(label) for label in counts if label)
        log.warning(
            "%s: selected label%s %s occur%s nowhere; there are %s",
            path, "s" * (len(missing) > 1), ", ".join(map(str, missing)),
            "s" * (len(missing) == 1), there or "no labels at all",
        )  # fmt: skip


class FilteredLabels:
    """Labels of a volume (Volume), translated where they are sliced along Z, as uint8.

    new: {label: new label}; all others become 0
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, volume, new):
        self.shape = volume.shape
        self._volume = volume
        self._table = np.zeros(65536, np.uint8)
        for label, value in new.items():
            self._table[label] = value

    def __getitem__(self, sections):
        return self._table[_unsigned(self._volume[sections]).astype(np.uint16)]


def check_alike(volumes):
    """Raise InputError unless the Volumes have one shape; warn where voxel sizes differ."""
    first = volumes[0]
    for other in volumes[1:]:
        if other.shape != first.shape:
            raise InputError(
                f"{other.path} is {' x '.join(map(str, other.shape))}, {first.path} is "
                f"{' x '.join(map(str, first.shape))}; they must match"
            )
        if not np.allclose(other.voxel_size, first.voxel_size, rtol=1e-3):
            log.warning(
                "%s has voxels of %s Angstrom, %s of %s; the second is taken",
                other.path, other.voxel_size, first.path, first.voxel_size,
            )  # fmt: skip


def merge_masks(masks, priority=None, rim=0.0, voxel_size=(1, 1, 1), ignoring=()):
    """One volume of labels (Z, Y, X) uint8 out of a mask for each label.

    masks:    {label: Volume}, all of one shape; see mask_parts for what counts as inside
    priority: labels, the most important one first, which wins where masks overlap; those it
              does not name come after these, smaller ones first
    ignoring: labels in whose masks 255 always is ignored; in another mask that holds nothing but
              0 and 255, it marks the object
    rim:      width of a rim around all objects that is ignored, in the unit of voxel_size
    Overlaps are logged.
    """
    shape = next(iter(masks.values())).shape
    drawing = Drawing(np.zeros(shape, np.uint8))
    for label in progress(drawing_order(masks, priority), what="masks"):
        volume = masks[label]
        ignores = label in ignoring or _ignores(volume)
        for piece in slabs(shape, WORK_BYTES):
            inside, ignored = mask_parts(volume[piece], ignores)
            drawing.add((piece,), inside, ignored, label)
    if drawing.contested:
        log.info("%d voxels lay in more than one mask", drawing.contested)
    if rim:
        add_rim(drawing.labels, rim, voxel_size)
    return drawing.labels


def _ignores(volume):
    """Whether 255 in a mask means ignored: only where another value marks the object."""
    has_255 = False
    for piece in slabs(volume.shape, WORK_BYTES):
        values = _unsigned(volume[piece])
        has_255 |= bool((values == IGNORED).any())
        if mask_parts(values, ignores=True)[0].any():
            return True
    if has_255:
        log.info("%s: the mask is 0 and 255, so 255 marks the object", volume.path)
    return not has_255


def mask_parts(values, ignores):
    """Which voxels of a mask lie inside, and which are ignored: two boolean arrays.

    Inside is a whole number other than 0, or a real number of at least 0.5; 255 is ignored
    where ``ignores``.
    """
    values = _unsigned(values)
    inside = values >= 0.5 if values.dtype.kind == "f" else values != 0
    if not ignores:
        return inside, None
    ignored = values == IGNORED
    return inside & ~ignored, ignored


def add_rim(labels, width, voxel_size):
    """Set to 255 what is background and within ``width`` of an object, in place, slab by slab.

    labels: (Z, Y, X) uint8; width and voxel_size (z, y, x) in one unit
    """
    halo = int(width / voxel_size[0]) + 1
    depth = max(FEWEST_SECTIONS, 4 * halo)
    found = []
    for start in range(0, len(labels), depth):
        piece = slice(start, min(start + depth, len(labels)))
        first = max(0, start - halo)
        part = labels[first : piece.stop + halo]
        objects = (part != 0) & (part != IGNORED)
        if not objects.any():
            continue
        near = distance_from(objects, voxel_size) <= width * (1 + TOLERANCE)
        found.append((piece, np.packbits(near[start - first :][: piece.stop - start])))
    # Only now: what is written into one slab is read as the halo of the next.
    for piece, packed in found:
        here = labels[piece]
        near = np.unpackbits(packed, count=here.size).reshape(here.shape).astype(bool)
        here[near & (here == 0)] = IGNORED

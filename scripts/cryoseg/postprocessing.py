"""From scores to labels: thresholds, sizes of components, clean-up of a lamella mask."""

import logging
from collections.abc import Mapping

import cc3d
import numpy as np

from cryoseg.errors import InputError
from cryoseg.hulls import fill_slices, fill_volume
from cryoseg.lamella import clean
from cryoseg.scores import CHUNK, PROBABILITY_STEPS
from cryoseg.volumes import slabs

logger = logging.getLogger(__name__)

# A label with more of the voxels than this is hardly meant.
FULL = 0.99
DEFAULT_THRESHOLD, DEFAULT_THRESHOLD_CLASSES = 0.9, 0.1
# Voxels that share a corner belong together, as CryoSiam has it.
CONNECTIVITY = 26


def label_scores(name, scores, mask, settings):
    """Labels of a tomogram from its scores, and what they were made with.

    name:     of the tomogram, for the log
    scores:   as in threshold_scores, and `attrs["channels"]` of the network
    mask:     as in threshold_scores
    settings: {threshold, postprocessing, 3d_postprocessing, postprocessing_sizes, ...}; threshold
              None means 0.9 for one channel, 0.1 for several
    Returns the labels, (Z, Y, X) uint8, and the settings with the threshold used.
    """
    channels = int(scores.attrs["channels"])
    _check(name, channels, settings)
    sizes = size_per_label(settings["postprocessing_sizes"], channels)
    threshold = settings["threshold"]
    if threshold is None:
        threshold = DEFAULT_THRESHOLD if channels == 1 else DEFAULT_THRESHOLD_CLASSES
    labels, largest = threshold_scores(scores, threshold, mask)
    if scores.attrs.get("scored_voxels", 1) == 0:
        logger.warning("%s: the mask is empty, so all labels are 0", name)
    elif not labels.any():
        logger.warning(
            "%s: no voxel gets a label at threshold %g, all are 0; the largest probability is %.3f",
            name, threshold, largest,
        )  # fmt: skip
    _log_removed(name, sizes, remove_small(labels, sizes))
    if settings["postprocessing"] and labels.any():
        mask_found = clean_lamella(name, labels.view(bool), settings["3d_postprocessing"])
        labels = mask_found.view(np.uint8)
        apply_mask(labels, mask)
    _log_shares(name, labels, max(channels, 2))
    return labels, settings | {"threshold": threshold}


def _log_shares(name, labels, classes):
    """Say how many voxels each label has; warn where one label has all but none of them."""
    voxels = np.bincount(labels.ravel(), minlength=classes)
    shares = ", ".join(f"{label}: {n / labels.size:.2%}" for label, n in enumerate(voxels))
    logger.info("%s: share of the voxels with label %s", name, shares)
    largest = int(voxels[1:].argmax()) + 1
    if voxels[largest] > FULL * labels.size:
        logger.warning(
            "%s: label %d has %.1f %% of the voxels; does this model belong to these tomograms?",
            name, largest, 100 * voxels[largest] / labels.size,
        )  # fmt: skip


def _check(name, channels, settings):
    """Refuse a clean-up that the model cannot have."""
    if settings["postprocessing"] and channels > 1:
        raise InputError(
            f"{name}: postprocessing cleans the mask of a one-channel model, this model has "
            f"{channels} channels; set postprocessing to false, use postprocessing_sizes instead"
        )
    if settings["3d_postprocessing"] and not settings["postprocessing"]:
        logger.warning("%s: 3d_postprocessing has no effect without postprocessing", name)


def threshold_scores(scores, threshold, mask=None):
    """Labels where the probability reaches the threshold, 0 elsewhere.

    scores:    holds `probability` (Z, Y, X) uint16 in steps of 1/65535 and, if the model has
               several channels, `winner` (Z, Y, X) uint8; arrays or HDF5 datasets, read in slabs
    threshold: of the probability, 0 to 1; reached at equality
    mask:      (Z, Y, X), anything to slice with 0 where no label may be; None for no mask
    Returns the labels, (Z, Y, X) uint8 (1 for a one-channel model), and the largest probability.
    """
    probability, winner = scores["probability"], scores.get("winner")
    labels = np.zeros(probability.shape, np.uint8)
    # Rounded as the probabilities are, so none that reaches the threshold is lost.
    lowest = int(np.rint(threshold * PROBABILITY_STEPS))
    largest = 0
    for piece in _layers(labels.shape):
        values = probability[piece]
        np.greater_equal(values, lowest, out=labels[piece].view(bool))
        foreground = True
        if winner is not None:
            classes = winner[piece]
            labels[piece] *= classes
            foreground = classes != 0
        largest = max(largest, int(np.max(values, where=foreground, initial=0)))
    apply_mask(labels, mask)
    return labels, largest / PROBABILITY_STEPS


def apply_mask(labels, mask):
    """Set labels outside the mask to 0, in place. mask: as in threshold_scores"""
    if mask is not None:
        for piece in _layers(labels.shape):
            labels[piece][mask[piece, :, :] == 0] = 0


def _layers(shape):
    """Slices along Z, as deep as the chunks of scores: each chunk is unpacked once."""
    return (slice(start, min(start + CHUNK[0], shape[0])) for start in range(0, shape[0], CHUNK[0]))


def size_per_label(sizes, channels):
    """Which components `postprocessing_sizes` removes, for every label.

    sizes:    a list with one entry per foreground class starts at label 1, one with an entry per
              channel of the network at label 0, a mapping is by label; None removes nothing
    channels: of the network; one channel has the labels 0 and 1
    Returns an int array: components of the label of at most that many voxels go, -1 keeps all.
    """
    labels = max(channels, 2)
    if sizes is None:
        sizes = {}
    elif not isinstance(sizes, Mapping):
        sizes = dict(enumerate(sizes, start=_first_label(len(sizes), channels)))
        if sizes.pop(0, -1) > 0:
            logger.warning("postprocessing_sizes: label 0 is background; its size has no effect")
    known = {str(label): label for label in range(1, labels)}
    per_label = np.full(labels, -1)
    for label, size in sizes.items():
        if str(label) not in known:
            raise InputError(
                f"postprocessing_sizes names label {label}; the model has labels 1 to {labels - 1}"
            )
        if not isinstance(size, int) or size < -1:
            raise InputError(
                f"postprocessing_sizes has {size!r} for label {label}; "
                "it must be a whole number of voxels, or -1 to keep all components"
            )
        per_label[known[str(label)]] = size
    return per_label


def _first_label(entries, channels):
    """Label that a list of so many sizes starts with."""
    foreground = max(channels, 2) - 1
    if entries == foreground:
        return 1
    if entries == channels:
        return 0
    ways = [f"{foreground} entries starting at label 1", "a mapping of labels such as {1: 5000}"]
    if channels > 1:
        ways.insert(1, f"{channels} entries starting at label 0")
    raise InputError(
        f"postprocessing_sizes has {entries} entries; the model has {channels} channels, "
        f"so give {' or '.join(ways)}"
    )


def remove_small(labels, sizes):
    """Set components of at most a given size to 0, in place.

    labels: (Z, Y, X) uint8
    sizes:  largest size to remove for each label, in voxels, from size_per_label
    Returns for every label that has such a size how many components and how many voxels went.
    """
    filtered = np.flatnonzero(sizes > 0)
    if not filtered.size:
        return {}
    table = np.zeros(256, np.uint8)
    table[filtered] = filtered
    concerned = table[labels]
    components, count = cc3d.connected_components(
        concerned, connectivity=CONNECTIVITY, return_N=True
    )
    voxels, label_of = _measure(components, concerned, count)
    small = voxels <= sizes[label_of]
    for piece in slabs(labels.shape, components.itemsize):
        inside = np.flatnonzero(concerned[piece] != 0)
        np.put(labels[piece], inside[small[np.take(components[piece], inside)]], 0)
    return {
        int(label): (int(np.count_nonzero(gone)), int(voxels[gone].sum()))
        for label in filtered
        for gone in [small & (label_of == label)]
    }


def _measure(components, labels, count):
    """Number of voxels of components 1 to count, and their labels; entry 0 is empty."""
    voxels = np.zeros(count + 1, np.int64)
    label_of = np.zeros(count + 1, np.uint8)
    for piece in slabs(labels.shape, components.itemsize):
        # Bytes are searched faster than the components, and few voxels have a label.
        inside = np.flatnonzero(labels[piece] != 0)
        numbers = np.take(components[piece], inside)
        voxels += np.bincount(numbers, minlength=count + 1)
        label_of[numbers] = np.take(labels[piece], inside)
    return voxels, label_of


def _log_removed(name, sizes, removed):
    """Say which label got which size, and what went."""
    for label, size in enumerate(sizes):
        if label in removed:
            logger.info(
                "%s: label %d: %d components of at most %d voxels removed, %d voxels in all",
                name, label, removed[label][0], size, removed[label][1],
            )  # fmt: skip
        elif label > 0 and np.any(sizes > 0):
            logger.info("%s: label %d: components of all sizes kept", name, label)


def clean_lamella(name, mask, hull_in_3d=False):
    """Clean a lamella mask and take its convex hull.

    name:       of the tomogram, for the log
    mask:       (Z, Y, X) bool
    hull_in_3d: one hull of the whole, not one of each z-slice
    Returns a bool array. Specks, holes and bumps go, the largest component stays (see
    lamella.clean), and a slice where it has no voxel is empty. The hull is that of the voxels'
    centres; slices that fill less than a quarter of it are no solid sections of a lamella: they
    stay as they are, or do not count in 3D. A hull in 3D rests on the outermost voxels of a whole
    face, so what noise leaves there, up to two voxels, thickens it more than hulls of slices.
    """
    mask = clean(mask)
    if not mask.any():
        logger.warning("%s: only specks reach the threshold; the mask is empty", name)
    sparse = fill_volume(mask) if hull_in_3d else fill_slices(mask)
    if sparse:
        what = "do not count for the hull in 3D" if hull_in_3d else "stay as they are"
        logger.info("%s: %d slices fill less than a quarter of their hull: they %s",
                    name, sparse, what)  # fmt: skip
    return mask

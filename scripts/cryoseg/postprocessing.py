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
    settings: {threshold (see threshold_per_label), postprocessing, 3d_postprocessing,
              postprocessing_sizes, ...}
    Returns the labels, (Z, Y, X) uint8, and the settings with the threshold used.
    """
    channels = int(scores.attrs["channels"])
    _check(name, channels, settings)
    sizes = size_per_label(settings["postprocessing_sizes"], channels)
    thresholds = threshold_per_label(settings["threshold"], channels)
    labels, largest = threshold_scores(scores, thresholds, mask)
    used = used_thresholds(thresholds)
    if scores.attrs.get("scored_voxels", 1) == 0:
        logger.warning("%s: the mask is empty, so all labels are 0", name)
    elif not labels.any():
        logger.warning(
            "%s: no voxel gets a label at threshold %s, all are 0; the largest probability is %.3f",
            name, used, largest,
        )  # fmt: skip
    _log_removed(name, sizes, remove_small(labels, sizes))
    if settings["postprocessing"] and labels.any():
        mask_found = clean_lamella(name, labels.view(bool), settings["3d_postprocessing"])
        labels = mask_found.view(np.uint8)
        apply_mask(labels, mask)
    _log_shares(name, labels, max(channels, 2))
    return labels, settings | {"threshold": used}


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


def threshold_scores(scores, thresholds, mask=None):
    """Labels where the probability reaches the threshold, 0 elsewhere.

    scores:     holds `probability` (Z, Y, X) uint16 in steps of 1/65535 and, if the model has
                several channels, `winner` (Z, Y, X) uint8, and where thresholds differ the
                `runner_up` and `runner_up_probability` (see cryoseg.scores); arrays or HDF5
                datasets, read in slabs
    thresholds: of the probability, 0 to 1, reached at equality: one, or an array by label
    mask:       (Z, Y, X), anything to slice with 0 where no label may be; None for no mask
    Returns the labels, (Z, Y, X) uint8 (1 for a one-channel model), and the largest probability.

    Probabilities below their class's threshold become 0, then the largest wins; the background
    has no threshold. Raises InputError where thresholds differ and there is no runner_up.
    """
    probability, winner = scores["probability"], scores.get("winner")
    labels = np.zeros(probability.shape, np.uint8)
    lowest = stored_thresholds(thresholds)
    others = None if winner is None or np.ptp(lowest) == 0 else _runners_up(scores)
    largest = 0
    for piece in _layers(labels.shape):
        values = probability[piece]
        if winner is None:
            foreground = True
            np.greater_equal(values, lowest[1], out=labels[piece].view(bool))
        else:
            classes = winner[piece]
            foreground = classes != 0
            reached = values >= (lowest[1] if others is None else lowest[classes])
            np.multiply(classes, reached, out=labels[piece])
            if others is not None:
                _label_runners_up(labels[piece], foreground & ~reached, piece, others, lowest)
        largest = max(largest, int(np.max(values, where=foreground, initial=0)))
    apply_mask(labels, mask)
    return labels, largest / PROBABILITY_STEPS


def stored_thresholds(thresholds):
    """Thresholds by label, (256,), as probabilities are stored: one for all, or an array by label.

    Rounded as the probabilities are, so none that reaches the threshold is lost.
    """
    steps = np.rint(np.asarray(thresholds, float) * PROBABILITY_STEPS).astype(np.uint16)
    if steps.ndim == 0:
        return np.full(256, steps)
    lowest = np.full(256, steps[1])  # the background has none, and other labels do not occur
    lowest[1 : len(steps)] = steps[1:]
    return lowest


def _runners_up(scores):
    """The datasets (ranks, Z, Y, X) of the classes after the winner, and their probabilities."""
    found = scores.get("runner_up"), scores.get("runner_up_probability")
    if any(each is None for each in found):
        raise InputError(
            f"{getattr(scores, 'filename', 'the scores')}: only the winning class was kept, and "
            "thresholds that differ need those after it too; delete the file, so that they are "
            "computed anew"
        )
    return found


def _label_runners_up(labels, waiting, piece, others, lowest):
    """Label voxels whose winner failed by the next class that reaches its threshold, in place.

    labels, waiting: (z, Y, X) of this piece, waiting where the background is not reached yet
    """
    for rank in range(others[0].shape[0]):
        if not waiting.any():
            return
        classes, values = (dataset[rank, piece] for dataset in others)
        waiting &= classes != 0
        reached = waiting & (values >= lowest[classes])
        np.copyto(labels, classes, where=reached)
        waiting &= ~reached


def apply_mask(labels, mask):
    """Set labels outside the mask to 0, in place. mask: as in threshold_scores"""
    if mask is not None:
        for piece in _layers(labels.shape):
            labels[piece][mask[piece, :, :] == 0] = 0


def _layers(shape):
    """Slices along Z, as deep as the chunks of scores: each chunk is unpacked once."""
    return (slice(start, min(start + CHUNK[0], shape[0])) for start in range(0, shape[0], CHUNK[0]))


def threshold_per_label(threshold, channels):
    """The threshold of every label: a float array, 0 for label 0, which has none.

    threshold: one number for all; a list with one entry per foreground class, which starts at label
               1, or per channel of the network, which starts at label 0; a mapping by label, with
               the default for labels that it does not name; None is the default: 0.9 for one
               channel, 0.1 for several
    channels:  of the network; one channel has the labels 0 and 1
    """
    default = DEFAULT_THRESHOLD if channels == 1 else DEFAULT_THRESHOLD_CLASSES
    if threshold is None:
        threshold = default
    per_label = np.full(max(channels, 2), default)
    if isinstance(threshold, (int, float)):
        per_label[:] = threshold
    else:
        for label, value in _by_label("threshold", threshold, channels).items():
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise InputError(
                    f"threshold has {value!r} for label {label}; it must be a number from 0 to 1"
                )
            per_label[label] = value
    per_label[0] = 0
    return per_label


def used_thresholds(thresholds):
    """Thresholds by label as a stage file has them: one number, or a mapping where they differ."""
    found = {label: float(value) for label, value in enumerate(thresholds) if label}
    return found if len(set(found.values())) > 1 else found[1]


def _by_label(key, values, channels):
    """A list or a mapping of a stage file as {label: value}, background left out.

    key: what messages call it. Raises InputError for labels that the model does not have.
    """
    labels = max(channels, 2)
    if not isinstance(values, Mapping):
        values = dict(enumerate(values, start=_first_label(key, len(values), channels)))
        if values.pop(0, -1) > 0:
            logger.warning("%s: label 0 is background; its entry has no effect", key)
    known = {str(label): label for label in range(1, labels)}
    for label in values:
        if str(label) not in known:
            raise InputError(f"{key} names label {label}; the model has labels 1 to {labels - 1}")
    return {known[str(label)]: value for label, value in values.items()}


def size_per_label(sizes, channels):
    """Which components `postprocessing_sizes` removes, for every label.

    sizes:    a list with one entry per foreground class starts at label 1, one with an entry per
              channel of the network at label 0, a mapping is by label; None removes nothing
    channels: of the network; one channel has the labels 0 and 1
    Returns an int array: components of the label of at most that many voxels go, -1 keeps all.
    """
    per_label = np.full(max(channels, 2), -1)
    sizes = {} if sizes is None else sizes
    for label, size in _by_label("postprocessing_sizes", sizes, channels).items():
        if not isinstance(size, int) or size < -1:
            raise InputError(
                f"postprocessing_sizes has {size!r} for label {label}; "
                "it must be a whole number of voxels, or -1 to keep all components"
            )
        per_label[label] = size
    return per_label


def _first_label(key, entries, channels):
    """Label that a list of so many entries starts with."""
    foreground = max(channels, 2) - 1
    if entries == foreground:
        return 1
    if entries == channels:
        return 0
    example = "{1: 5000}" if key == "postprocessing_sizes" else "{1: 0.5}"
    ways = [f"{foreground} entries starting at label 1", f"a mapping of labels such as {example}"]
    if channels > 1:
        ways.insert(1, f"{channels} entries starting at label 0")
    raise InputError(
        f"{key} has {entries} entries; the model has {channels} channels, "
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

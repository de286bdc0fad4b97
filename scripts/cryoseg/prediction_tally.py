"""What there is of each class in a prediction, counted in one pass over its files."""

from dataclasses import dataclass

import numpy as np

from cryoseg.scores import PROBABILITY_STEPS
from cryoseg.volumes import slabs

# Of the histogram of probabilities: a bin is 1024 of the 65536 steps that they are stored in.
BINS = 64
BIN_STEPS = (PROBABILITY_STEPS + 1) // BINS
LABELS = 256


@dataclass(frozen=True, eq=False)
class PredictionTally:
    """Counts of a prediction; labels are 1 to 255, and what is at place 0 is background.

    voxels:      (256,) voxels of each label
    probability: (256,) mean probability of each label's voxels; NaN where there are none, and
                 everywhere without scores
    histogram:   (256, BINS) voxels by the class that won and by its probability, from 0 to 1,
                 before any threshold; voxels that were not computed are left out; zeros without
                 scores
    foreground:  (Z,) voxels of any label in each section
    inside:      voxels of the mask, None without one
    """

    voxels: np.ndarray
    probability: np.ndarray
    histogram: np.ndarray
    foreground: np.ndarray
    inside: int | None

    @property
    def richest(self):
        """The section with most foreground, None where there is none."""
        return int(self.foreground.argmax()) if self.foreground.any() else None


def count_prediction(labels, scores=None, mask=None):
    """Count a prediction slab by slab; returns a PredictionTally.

    labels: (Z, Y, X) whole numbers from 0 to 255, to be sliced
    scores: datasets `probability` and, of a network with several classes, `winner`, and
            `runner_up` and `runner_up_probability` where they are kept; see scores.py
    mask:   (Z, Y, X), to be sliced with three slices; 0 is outside
    """
    voxels, sums = np.zeros(LABELS, np.int64), np.zeros(LABELS)
    histogram = np.zeros(LABELS * BINS, np.int64)
    foreground, inside = np.zeros(labels.shape[0], np.int64), 0
    for piece in slabs(labels.shape, 8):
        found = np.asarray(labels[piece]).astype(np.uint8, copy=False)
        voxels += np.bincount(found.ravel(), minlength=LABELS)
        foreground[piece] = np.count_nonzero(found, axis=(1, 2))
        if mask is not None:
            inside += np.count_nonzero(mask[piece, :, :])
        if scores is None:
            continue
        steps = scores["probability"][piece]
        computed = steps > 0
        winner = scores["winner"][piece][computed].astype(np.intp) if "winner" in scores else 1
        bins = winner * BINS + steps[computed] // BIN_STEPS
        histogram += np.bincount(bins, minlength=LABELS * BINS)
        labelled = found > 0
        steps = _steps_of_labels(found, scores, piece, steps, labelled)
        sums += np.bincount(found[labelled], weights=steps[labelled], minlength=LABELS)
    with np.errstate(invalid="ignore"):
        probability = sums / PROBABILITY_STEPS / np.where(voxels > 0, voxels, np.nan)
    probability[0] = np.nan
    if scores is None:
        probability[:] = np.nan
    return PredictionTally(
        voxels=voxels,
        probability=probability,
        histogram=histogram.reshape(LABELS, BINS),
        foreground=foreground,
        inside=int(inside) if mask is not None else None,
    )


def _steps_of_labels(found, scores, piece, steps, labelled):
    """Stored probabilities of the classes that voxels got, which need not be the winners.

    found, steps, labelled: labels of a piece, the winners' probabilities, where there is a label
    """
    if "runner_up" not in scores:
        return steps
    steps = steps.copy()
    waiting = labelled & (scores["winner"][piece] != found)
    for rank in range(scores["runner_up"].shape[0]):
        if not waiting.any():
            break
        here = waiting & (scores["runner_up"][rank, piece] == found)
        steps[here] = scores["runner_up_probability"][rank, piece][here]
        waiting &= ~here
    return steps

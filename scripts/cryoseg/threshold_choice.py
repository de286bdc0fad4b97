"""Thresholds and sizes of components with the largest mean Dice over tomograms with true labels.

For each class, voxels are counted at all thresholds at once, with the other classes at the
thresholds that the stage has now; then, with the chosen thresholds, at all sizes up to which
components are removed. What is chosen class by class need not be better all together, since what
one class leaves another may take; so both are compared at the end.
"""

import cc3d
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cryoseg.figures import class_colour
from cryoseg.labels import IGNORED
from cryoseg.metrics import Compared, count_pairs
from cryoseg.postprocessing import CONNECTIVITY, remove_small, stored_thresholds
from cryoseg.scores import CHUNK, PROBABILITY_STEPS
from cryoseg.summaries import ALL_CLASSES
from cryoseg.volumes import slabs

THRESHOLDS = np.arange(1, 100) / 100
# Ten for each power of ten; -1 keeps all.
SIZES = np.unique([-1, *np.rint(10 ** np.arange(0, 7.05, 0.1)).astype(int)])
SAME_DICE = 1e-9  # as near as two means count as equal
COUNTS = ("true_voxels", "found_voxels", "common_voxels")


def count_at_thresholds(scores, true, now):
    """Count the voxels of each class at each threshold, the others being as they are now.

    scores: as of postprocessing.threshold_scores
    true:   metrics.TrueLabels
    now:    thresholds by label, as of postprocessing.threshold_per_label
    Returns a DataFrame: label, threshold, true_voxels, found_voxels, common_voxels, now (whether
    this is the threshold that the class has now).
    """
    labels = len(now)
    grids = [np.union1d(THRESHOLDS, now[label : label + 1]) for label in range(labels)]
    # How many of its class's thresholds each stored probability reaches.
    reached = np.stack([_reached(grid, len(THRESHOLDS) + 1) for grid in grids])
    bins = len(THRESHOLDS) + 2
    found, common = np.zeros((2, labels, bins), np.int64)
    true_voxels = np.zeros(256, np.int64)
    lowest = stored_thresholds(now)
    for start in range(0, true.shape[0], CHUNK[0]):
        piece = slice(start, min(start + CHUNK[0], true.shape[0]))
        truth = true[piece].ravel()
        true_voxels += np.bincount(truth, minlength=256)
        places = np.flatnonzero(truth != IGNORED)
        for classes, probability in _ranks(scores, piece):
            if not places.size:
                break
            classes, probability = classes.ravel()[places], probability.ravel()[places]
            there = classes != 0  # from the background on, nothing can win
            places, classes, probability = places[there], classes[there], probability[there]
            cells = classes.astype(np.intp) * bins + reached[classes, probability]
            found += np.bincount(cells, minlength=found.size).reshape(found.shape)
            own = cells[truth[places] == classes]
            common += np.bincount(own, minlength=found.size).reshape(found.shape)
            places = places[probability < lowest[classes]]
    rows = []
    for label in range(1, labels):
        for number, threshold in enumerate(grids[label], start=1):
            voxels = true_voxels[label], found[label, number:].sum(), common[label, number:].sum()
            rows.append((label, threshold, *voxels, bool(threshold == now[label])))
    return pd.DataFrame(rows, columns=["label", "threshold", *COUNTS, "now"])


def _reached(grid, most):
    steps = np.rint(grid[:most] * PROBABILITY_STEPS)
    return np.searchsorted(steps, np.arange(PROBABILITY_STEPS + 1), side="right").astype(np.uint8)


def _ranks(scores, piece):
    """(classes, probabilities) of a piece: the winner's, then those of the classes after it."""
    probability, winner = scores["probability"][piece], scores.get("winner")
    yield np.ones_like(probability, np.uint8) if winner is None else winner[piece], probability
    others, values = scores.get("runner_up"), scores.get("runner_up_probability")
    for rank in range(0 if others is None else others.shape[0]):
        yield others[rank, piece], values[rank, piece]


def count_at_sizes(labels, true, now):
    """Count the voxels of each class that stay where small components are removed.

    labels: (Z, Y, X) uint8, before any is removed
    true:   metrics.TrueLabels
    now:    sizes by label, as of postprocessing.size_per_label
    Returns a DataFrame as count_at_thresholds does, with size for threshold.
    """
    components, count = cc3d.connected_components(labels, connectivity=CONNECTIVITY, return_N=True)
    sizes, found, common = np.zeros((3, count + 1), np.int64)
    label_of = np.zeros(count + 1, np.uint8)
    true_voxels = np.zeros(256, np.int64)
    for piece in slabs(labels.shape, 16):
        truth, here, numbers = (each[piece].ravel() for each in (true, labels, components))
        true_voxels += np.bincount(truth, minlength=256)
        label_of[numbers] = here
        sizes += np.bincount(numbers, minlength=count + 1)
        found += np.bincount(numbers[truth != IGNORED], minlength=count + 1)
        common += np.bincount(numbers[truth == here], minlength=count + 1)
    rows = []
    for label in range(1, len(now)):
        own = np.flatnonzero(label_of == label)
        for size in np.union1d(SIZES, now[label : label + 1]):
            kept = own[sizes[own] > size]
            voxels = true_voxels[label], found[kept].sum(), common[kept].sum()
            rows.append((label, size, *voxels, bool(size == now[label])))
    return pd.DataFrame(rows, columns=["label", "size", *COUNTS, "now"])


def count_at_present(labels, true, now):
    """Count the voxels of each class that stay at the sizes of now; these are removed in place.

    labels, true, now: as of count_at_sizes; returns what it does, of these sizes alone
    """
    remove_small(labels, now)
    pairs = count_pairs(Compared(true, labels))
    rows = [
        (label, now[label], pairs[label].sum(), pairs[:, label].sum(), pairs[label, label], True)
        for label in range(1, len(now))
    ]
    return pd.DataFrame(rows, columns=["label", "size", *COUNTS, "now"])


def mean_dice(table, value):
    """Mean Dice over tomograms for each class and value: a DataFrame, by label and value.

    table: rows of all tomograms, as count_at_... returns them; value: "threshold" or "size"
    Returns label, value, tomograms, dice, false_voxels_elsewhere, now, chosen. Means are over the
    same tomograms at each value: those with the class among their true labels. What is found in
    the others is summed up in false_voxels_elsewhere. Chosen is the value of the largest mean, of
    equal ones that with the fewest false voxels elsewhere, and of these the middle one for
    thresholds, the smallest for sizes. A class that no tomogram has, or that is found in none of
    those that have it, keeps its value.
    """
    there = table["true_voxels"] > 0
    total = table["true_voxels"] + table["found_voxels"]
    counted = table.assign(
        dice=(2 * table["common_voxels"] / total).where(there),
        elsewhere=table["found_voxels"].mask(there, 0),
        label=table["label"].astype(int),
    )
    means = counted.groupby(["label", value], as_index=False).agg(
        tomograms=("dice", "count"),
        dice=("dice", "mean"),
        false_voxels_elsewhere=("elsewhere", "sum"),
        now=("now", "all"),
    )
    chosen = [_best(rows, value) for _, rows in means.groupby("label")]
    return means.assign(chosen=means.index.isin(chosen))


def _best(rows, value):
    """Index of the row to choose."""
    if not rows["dice"].max() > 0:
        return rows.index[rows["now"]][0]
    rows = rows[np.isclose(rows["dice"], rows["dice"].max(), rtol=0, atol=SAME_DICE)]
    false = rows["false_voxels_elsewhere"]
    best = rows.index[false == false.min()]
    return best[(len(best) - 1) // 2 if value == "threshold" else 0]


def chosen_values(table, value):
    """{label: value} of the rows that are chosen."""
    rows = table[table["chosen"]]
    return {int(label): each for label, each in zip(rows["label"], rows[value], strict=True)}


def compare_together(counted, thresholds, sizes):
    """Mean Dice of each class with all present values, and with all chosen ones together.

    counted:    rows of all tomograms with the present thresholds, as count_at_present returns them
    thresholds: of mean_dice, with a column class
    sizes:      of mean_dice, of labels with the chosen thresholds: removing components of one class
                changes no other, so what stands at the chosen sizes is what they give together
    Returns a DataFrame: values ("now" or "chosen"), label, class, threshold, size, tomograms, dice,
    false_voxels_elsewhere, written; the mean of classes last of each. Written are the chosen values
    if their mean of classes is larger, or as large with fewer false voxels elsewhere; else the
    present ones.
    """
    thresholds = thresholds.astype({"label": int})
    parts = {}
    for values, means in (("now", mean_dice(counted, "size")), ("chosen", sizes)):
        own = thresholds.loc[thresholds[values], ["label", "class", "threshold"]]
        kept = ["label", "size", "tomograms", "dice", "false_voxels_elsewhere"]
        rows = own.merge(means.loc[means[values], kept], on="label")
        mean = {"dice": rows["dice"].mean(), kept[-1]: rows[kept[-1]].sum()}
        parts[values] = pd.concat([rows, pd.DataFrame([ALL_CLASSES | mean])], ignore_index=True)
    better = _is_better(parts["chosen"].iloc[-1], parts["now"].iloc[-1])
    table = pd.concat(parts, names=["values"]).reset_index("values")
    table["written"] = table["values"] == ("chosen" if better else "now")
    return table.astype({"size": "Int64", "tomograms": "Int64", "false_voxels_elsewhere": int})


def _is_better(one, other):
    """Whether one mean of classes is better than another."""
    if abs(one["dice"] - other["dice"]) > SAME_DICE:
        return bool(one["dice"] > other["dice"])
    return bool(one["false_voxels_elsewhere"] < other["false_voxels_elsewhere"])


def with_chosen(stage, thresholds, sizes):
    """A stage's configuration with the chosen values.

    thresholds, sizes: {label: value}
    """
    network = {"threshold": thresholds, "postprocessing_sizes": sizes}
    parameters = stage["parameters"] | {"network": stage["parameters"]["network"] | network}
    return stage | {"parameters": parameters}


def with_nothing_to_choose(stage):
    """A stage's configuration that chooses no thresholds."""
    return stage | {"evaluate": stage["evaluate"] | {"choose_thresholds": False}}


def draw_choice(thresholds, sizes, written=True):
    """Draw mean Dice against threshold and size of removed components, the chosen ones marked.

    thresholds, sizes: of mean_dice, with a column class
    written:           whether the chosen ones are what is written
    Returns a matplotlib Figure.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, table, value in zip(
        figure.subplots(1, 2, sharey=True), (thresholds, sizes), ("threshold", "size"), strict=True
    ):
        for (label, name), rows in table.groupby(["label", "class"], sort=False):
            kept, chosen = rows[rows[value] >= 0], rows[rows["chosen"]]
            place = chosen[value].clip(lower=0.5)  # all kept: left of the smallest size
            axes.plot(kept[value], kept["dice"], color=class_colour(label), label=name)
            axes.plot(place, chosen["dice"], "o", color=class_colour(label))
        axes.grid(alpha=0.3)
    left, right = figure.axes
    left.set(xlabel="threshold", ylabel="mean Dice over tomograms", ylim=(0, 1), xlim=(0, 1))
    right.set(xlabel="components of at most so many voxels removed", xscale="log")
    meaning = "chosen" if written else "best alone, not written"
    left.legend(title=f"point: {meaning}", fontsize="small")
    return figure

"""Evaluations of several tomograms, summed up: means with intervals, and two models compared."""

import numpy as np
import pandas as pd

from cryoseg.metrics import voxel_measures
from cryoseg.objects import object_measures

LEVEL = 0.95
RESAMPLES = 10_000
BATCH = 1000  # resamples that are in memory together
SEED = 0
# With fewer pairs, even differences of one sign do not reach the usual 0.05 in a signed-rank test.
FEWEST_PAIRS = 6
# Numbers of a class, and the measures that follow from their sums over tomograms.
VOXELS = ("true_voxels", "found_voxels", "common_voxels")
OBJECTS = ("true_objects", "found_objects", "matched_objects")
VOLUMES = ("true_volume_nm3", "found_volume_nm3")
VOXEL_MEASURES = ("dice", "iou", "precision", "recall")
OBJECT_MEASURES = ("object_recall", "object_precision", "object_f1", "object_f4")
# What the mean of several classes is taken of, and compared; and all that is summed up.
SCORES = (*VOXEL_MEASURES, "surface_dice", *OBJECT_MEASURES)
MEASURES = (*SCORES[:5], *VOLUMES, *OBJECT_MEASURES)
COLUMNS = (
    *("tomogram", "stage", "split", "label", "class", *VOXELS, *SCORES[:5]),
    *(*VOLUMES, *OBJECTS, *OBJECT_MEASURES),
)
ALL_CLASSES = {"label": "mean", "class": "mean of classes"}
OTHER = " of other"  # ends the columns of the second of two tables that are compared


def mean_interval(values):
    """Bootstrap interval (95 %) of a mean: (low, high), NaN with fewer than two values.

    values: (n,) of n tomograms, which are drawn anew 10,000 times, always the same ones.
    The expanded percentile interval of T. Hesterberg, The American Statistician 69, 371 (2015):
    its quantiles lie farther out, as those of Student's t do, since percentiles of means of few
    values lie too close together.
    """
    from scipy.stats import norm, t

    values = np.asarray(values, float)
    count = len(values)
    if count < 2:
        return np.nan, np.nan
    rng = np.random.default_rng(SEED)
    means = np.concatenate(
        [
            values[rng.integers(count, size=(BATCH, count))].mean(axis=1)
            for _ in range(RESAMPLES // BATCH)
        ]
    )
    out = norm.cdf(np.sqrt(count / (count - 1)) * t.ppf((1 - LEVEL) / 2, count - 1))
    low, high = np.quantile(means, (out, 1 - out))
    return float(low), float(high)


def signed_rank_p(differences):
    """Two-sided p of Wilcoxon's signed-rank test of pairs; NaN with fewer than six."""
    from scipy.stats import wilcoxon

    differences = np.asarray(differences, float)
    if len(differences) < FEWEST_PAIRS:
        return np.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def with_mean_of_classes(table):
    """A table of evaluations, and for each tomogram a row with the means of its classes.

    The mean of a measure is over the classes where it is of something, if there is but one, too.
    """
    scores = [column for column in table if column.removesuffix(OTHER) in SCORES]
    means = table.groupby("tomogram", as_index=False, sort=False)[scores].mean()
    return pd.concat([table, means.assign(**ALL_CLASSES)], ignore_index=True)


def summarise(table):
    """Sum up the evaluations of one stage: a row for each class and measure.

    table: DataFrame with COLUMNS
    Returns a DataFrame: label, class, measure, tomograms, trained_on (how many of these the model
    was trained on), mean, low, high, pooled. A tomogram counts where the measure is of something:
    not where the class is in neither volume. low and high bound the mean (mean_interval); pooled is
    the measure of the sums over all tomograms.
    """
    seen = trained_on(table)
    rows = []
    for key, measured in _by_class(with_mean_of_classes(table)):
        pooled = _pooled(measured)
        for measure in MEASURES:
            values = measured[measure].dropna()
            if len(values):
                low, high = mean_interval(values)
                mean = {"mean": values.mean(), "low": low, "high": high}
                about = key | {"measure": measure, "tomograms": len(values)}
                about["trained_on"] = int(measured.loc[values.index, "tomogram"].isin(seen).sum())
                rows.append(about | mean | {"pooled": pooled.get(measure, np.nan)})
    columns = ["label", "class", "measure", "tomograms", "trained_on", "mean", "low", "high"]
    return pd.DataFrame(rows, columns=[*columns, "pooled"])


def trained_on(table):
    """Sorted names of the tomograms of a table of evaluations that their model was trained on."""
    return sorted(set(table.loc[table["split"] == "train", "tomogram"]))


def with_those_left_out(table, reasons):
    """A table of summarise or compare, with a row for each tomogram that no number counts.

    reasons: {tomogram: why it could not be evaluated}; these are two columns at the end, which are
             empty in other rows. Without any the table stays as it is.
    """
    if not reasons:
        return table
    rows = pd.DataFrame({"not_evaluated": list(reasons), "reason": list(reasons.values())})
    columns = [*table.columns, *rows.columns]
    return pd.concat([table, rows], ignore_index=True)[columns]


def compare(table, other):
    """Compare the evaluations of two stages over the tomograms that both predicted.

    table, other: DataFrames with COLUMNS
    Returns a DataFrame: label, class, measure, tomograms, mean, other_mean, difference (of the
    first from the second), low, high, p_value. Both means of classes are of the same classes, see
    _counted_alike.
    """
    pairs = table.merge(other, on=["tomogram", "label", "class"], suffixes=("", OTHER))
    pairs = with_mean_of_classes(_counted_alike(pairs))
    rows = []
    for key, paired in _by_class(pairs):
        for measure in SCORES:
            both = paired[[measure, measure + OTHER]].dropna().to_numpy(float)
            if not len(both):
                continue
            differences = both[:, 0] - both[:, 1]
            low, high = mean_interval(differences)
            means = both.mean(axis=0)
            rows.append(
                key
                | {"measure": measure, "tomograms": len(both)}
                | {"mean": means[0], "other_mean": means[1], "difference": differences.mean()}
                | {"low": low, "high": high, "p_value": signed_rank_p(differences)}
            )
    columns = ["label", "class", "measure", "tomograms", "mean", "other_mean", "difference"]
    return pd.DataFrame(rows, columns=[*columns, "low", "high", "p_value"])


def _counted_alike(pairs):
    """Pairs of evaluations in which a measure is of something in both of a pair, or in neither.

    A stage that rightly finds nothing of a class has a measure of nothing; where the other stage
    has one of something, of what it found in error, it is 1: without that, the error would lower
    no mean that is compared. Other measures of nothing, as the precision of a class that one stage
    misses, leave the class out for both.
    """
    pairs = pairs.copy()
    for measure in SCORES:
        true, found, _ = OBJECTS if measure in OBJECT_MEASURES else VOXELS
        known = {end: pairs[measure + end].notna() for end in ("", OTHER)}
        for own, others in (("", OTHER), (OTHER, "")):
            right = (pairs[true + own] == 0) & (pairs[found + own] == 0)
            pairs.loc[right & known[others], measure + own] = 1.0
        both = [measure, measure + OTHER]
        pairs.loc[pairs[both].isna().any(axis=1), both] = np.nan
    return pairs


def _by_class(table):
    """(label and class, its rows) by label, the mean of classes last; no volumes of nothing."""
    table = table.copy()
    for suffix in ("", OTHER):
        if f"dice{suffix}" in table:
            volumes = [name + suffix for name in VOLUMES]
            table[volumes] = table[volumes].where(table[f"dice{suffix}"].notna())
    groups = {key: rows for key, rows in table.groupby(["label", "class"], sort=False)}
    for label, name in sorted(groups, key=lambda key: (not key[0].isdecimal(), len(key[0]), key)):
        yield {"label": label, "class": name}, groups[label, name]


def _pooled(rows):
    """Measures of the sums of a class over tomograms; none of the mean of classes."""
    if rows["label"].iloc[0] == ALL_CLASSES["label"]:
        return {}
    voxels = rows[list(VOXELS)].sum()
    measures = voxel_measures(*voxels)
    objects = rows[list(OBJECTS)].dropna()
    if len(objects):
        measures |= object_measures(*objects.sum())
    return measures

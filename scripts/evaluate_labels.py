"""Compare what was predicted for a tomogram with its true labels."""

from pathlib import Path

import numpy as np

from cryoseg.errors import InputError
from cryoseg.joblog import log_to, logger
from cryoseg.metrics import count_pairs, dice_and_iou
from cryoseg.provenance import recorded
from cryoseg.volumes import as_list, open_labels, written_aside

COLUMNS = ("tomogram", "stage", "label", "class", "true_voxels", "found_voxels", "dice", "iou")


def evaluate_labels(predictions, truths, table, *, settings):
    """Write a table (TSV) of Dice and intersection over union, a row for each stage and class.

    predictions, truths: a file (HDF5 or MRC) for each stage; 255 in the truth does not count
    settings: {stages: names, class_names: for each stage the names of labels 1, 2, ...}
    """
    tomogram, rows = Path(table).stem, []
    stages, names = settings["stages"], settings["class_names"]
    for stage, found, truth, classes in zip(
        stages, as_list(predictions), as_list(truths), names, strict=True
    ):
        rows += [(tomogram, stage, *row) for row in _compare(found, truth, classes)]
    with written_aside(table) as aside:
        aside.write_text("".join("\t".join(map(str, row)) + "\n" for row in (COLUMNS, *rows)))
    for _, stage, _, name, _, _, dice, iou in rows:
        logger.info("%s: %s, %s: Dice %s, IoU %s", tomogram, stage, name, dice, iou)


def _compare(found, truth, classes):
    """(label, name, true voxels, found voxels, Dice, IoU) of each class, and of their mean."""
    predicted, true = open_labels(found), open_labels(truth)
    if tuple(predicted.shape) != tuple(true.shape):
        raise InputError(
            f"{found}: labels are {tuple(predicted.shape)}, those of {truth} are "
            f"{tuple(true.shape)}; they must match"
        )
    counts = count_pairs(predicted, true, len(classes) + 1)
    dice, iou = dice_and_iou(counts)
    for label, name in enumerate(classes, start=1):
        voxels = int(counts[label].sum()), int(counts[:, label].sum())
        yield label, name, *voxels, f"{dice[label]:.4f}", f"{iou[label]:.4f}"
    if len(classes) > 1:
        voxels = int(counts[1:].sum()), int(counts[:, 1:].sum())
        there = np.isfinite(dice[1:])  # of a class in neither volume nothing can be said
        name = "mean" if there.all() else f"mean of {np.count_nonzero(there)}"
        means = (values[1:][there].mean() if there.any() else np.nan for values in (dice, iou))
        yield "-", name, *voxels, *(f"{mean:.4f}" for mean in means)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        evaluate_labels(**snakemake.input, **snakemake.output, **snakemake.params)

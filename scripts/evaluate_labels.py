"""Compare what was predicted for a tomogram with its true labels."""

from dataclasses import replace
from itertools import zip_longest
from operator import itemgetter
from pathlib import Path

import numpy as np
import pandas as pd

from cryoseg.checks import check_alike
from cryoseg.errors import InputError
from cryoseg.evaluation import measure_classes, measure_objects, measures_of_nothing
from cryoseg.joblog import log_to, logger
from cryoseg.metrics import Compared
from cryoseg.provenance import recorded
from cryoseg.small_files import read_json
from cryoseg.splits import part_of
from cryoseg.steps import files_read
from cryoseg.summaries import COLUMNS, OBJECTS
from cryoseg.tables import write_table
from cryoseg.true_labels import open_any_labels
from cryoseg.volumes import as_list, is_known_size, open_label_volume, open_mask

# Voxels; around each voxel of a surface all others as near as that are looked at: a million.
MOST_TOLERANCE = 64


def evaluate_labels(
    predicted, truth, table, mask=None, positions=(), compared=(), models=(), *, settings
):
    """Write a table (TSV) of measures, a row for each class, the same of each file; see README.

    predicted: labels to evaluate, HDF5 or MRC
    truth:     true labels; 255 does not count
    mask:      file with the mask outside which nothing counts, if any
    positions: files of true positions of particles, if any
    compared:  a list of at most one other file of predicted labels, which gets rows of its own
    models:    what inspect_model wrote of the models of the stages; none where they are unknown
    settings:  {tolerance_nm, class_names, stages: names of what is evaluated and compared,
               particles: what measure_objects wants, or None}
    """
    name = Path(table).name.removesuffix("_evaluation.tsv")
    files = [predicted, *as_list(compared)]
    measured = [
        _evaluate(name, found, truth, mask, as_list(positions), settings) for found in files
    ]
    # An earlier version wrote no split.
    splits = [read_json(model).get("split", {}) for model in as_list(models)]
    parts = [part_of(split, name) for split in splits]
    labels = {row["label"] for own, _ in measured for row in own}
    rows = []
    for stage, (own, voxel_size), part in zip_longest(
        settings["stages"][: len(measured)], measured, parts[: len(measured)], fillvalue="-"
    ):
        others = labels - {row["label"] for row in own}
        own = own + measures_of_nothing(others, voxel_size, settings["class_names"])
        own.sort(key=itemgetter("label"))
        rows += [{"tomogram": name, "stage": stage, "split": part} | row for row in own]
    found = pd.DataFrame(rows, columns=COLUMNS)
    write_table(table, found.astype(dict.fromkeys(OBJECTS, "Int64")))
    for row in rows:
        logger.info(
            "%s: %s, %s: Dice %.4f, surface Dice %.4f",
            name, row["stage"], row["class"], row["dice"], row["surface_dice"],
        )  # fmt: skip


def _evaluate(name, found, truth, mask, positions, settings):
    """Rows of one file of predicted labels, by label; and the voxel size."""
    volume, true = open_label_volume(found), open_any_labels(truth)
    check_alike(f"{name}: {found}", volume, f"true labels {truth} are", true)
    inside = open_mask(mask, volume.shape) if mask else None
    compared = Compared(true, open_any_labels(found), inside)
    voxel_size = volume.voxel_size if is_known_size(volume.voxel_size) else true.voxel_size
    if not is_known_size(voxel_size):
        logger.warning(
            "%s: neither %s nor %s has a voxel size, so there are no volumes and no surface Dice; "
            "write it into the tomogram's header",
            name, found, truth,
        )  # fmt: skip
    elif max(voxel_size) / 10 > settings["tolerance_nm"]:
        logger.warning(
            "%s: voxels of %g nm are larger than tolerance_nm %g, so that surface Dice counts "
            "surfaces that coincide; raise tolerance_nm",
            name, max(voxel_size) / 10, settings["tolerance_nm"],
        )  # fmt: skip
    elif settings["tolerance_nm"] > MOST_TOLERANCE * min(voxel_size) / 10:
        raise InputError(
            f"{found}: tolerance_nm {settings['tolerance_nm']:g} is more than {MOST_TOLERANCE} of "
            f"its voxels of {min(voxel_size) / 10:g} nm; lower tolerance_nm, or correct the voxel "
            "size in the tomogram's header and make the file anew"
        )
    objects = {}
    if settings["particles"]:
        placed = replace(volume, voxel_size=voxel_size)
        objects = measure_objects(compared, placed, name, positions, settings["particles"])
    rows = measure_classes(
        compared, voxel_size, settings["tolerance_nm"], settings["class_names"], objects
    )
    if is_known_size(voxel_size):
        _warn_of_no_surface(name, found, rows, settings["tolerance_nm"])
    return [row | objects.get(row["label"], {}) for row in rows], voxel_size


def _warn_of_no_surface(name, found, rows, tolerance_nm):
    """Warn of classes that have voxels and no surface Dice."""
    lacking = [
        row["class"]
        for row in rows
        if row["true_voxels"] + row["found_voxels"] and np.isnan(row["surface_dice"])
    ]
    if lacking:
        logger.warning(
            "%s: %s: no surface Dice of %s, which have no surface farther than tolerance_nm %g "
            "from voxels that do not count; lower tolerance_nm, or take a thicker mask",
            name, found, ", ".join(lacking), tolerance_nm,
        )  # fmt: skip


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        evaluate_labels(**files_read(snakemake.input), **snakemake.output, **snakemake.params)

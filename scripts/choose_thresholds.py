"""Choose the threshold of each class by its mean Dice over tomograms."""

from cryoseg.folders import some
from cryoseg.joblog import log_to, logger
from cryoseg.provenance import recorded
from cryoseg.small_files import read_json
from cryoseg.splits import part_of
from cryoseg.tables import read_tables, write_table
from cryoseg.threshold_choice import mean_dice
from cryoseg.true_labels import with_class_names
from cryoseg.volumes import as_list


def choose_thresholds(tables, model, chosen, *, settings):
    """Write mean Dice at each threshold as TSV, with the chosen threshold of each class.

    tables:   what try_thresholds wrote of each tomogram
    model:    what inspect_model wrote of the stage's model
    settings: {class_names}
    """
    counted = read_tables(as_list(tables))
    split = read_json(model).get("split", {})  # an earlier version wrote none
    warn_of_training(split, sorted(set(counted["tomogram"])))
    table = with_class_names(mean_dice(counted, "threshold"), settings)
    write_table(chosen, table)
    for label, rows in table.groupby("label"):
        best, now = rows[rows["chosen"]].iloc[0], rows[rows["now"]].iloc[0]
        if not best["tomograms"] or not best["dice"] > 0:
            logger.warning(
                "label %d (%s): no tomogram tells which threshold is best; it stays at %g",
                label, best["class"], now["threshold"],
            )  # fmt: skip
        logger.info(
            "label %d (%s): threshold %g with a mean Dice of %.4f over %d tomograms; now %g, %.4f",
            label, best["class"], best["threshold"], best["dice"], best["tomograms"],
            now["threshold"], now["dice"],
        )  # fmt: skip


def warn_of_training(split, names):
    """Warn where thresholds are chosen by tomograms that the model was trained on."""
    if seen := [name for name in names if part_of(split, name) == "train"]:
        logger.warning(
            "thresholds are chosen by %d tomograms, and the model was trained on %d of them (%s), "
            "where it is surer than elsewhere; lay true labels of others alone into labels_folder",
            len(names), len(seen), some(seen),
        )  # fmt: skip


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        choose_thresholds(**snakemake.input, **snakemake.output, **snakemake.params)

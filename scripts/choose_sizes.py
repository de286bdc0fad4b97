"""Choose which small components of each class go, and write a configuration to predict with."""

import numpy as np
import yaml

from cryoseg.joblog import log_to, logger
from cryoseg.provenance import recorded
from cryoseg.tables import read_table, read_tables, write_table
from cryoseg.threshold_choice import (
    chosen_values,
    compare_together,
    draw_choice,
    mean_dice,
    with_chosen,
    with_nothing_to_choose,
)
from cryoseg.training_figures import save_figure
from cryoseg.true_labels import with_class_names
from cryoseg.volumes import as_list, written_aside

HEADING = """\
# Written by cryoseg: thresholds and postprocessing_sizes with the largest mean Dice over {count}
# tomograms with true labels; thresholds.tsv, sizes.tsv and thresholds.png beside it show the
# curves, choice.tsv what they give together. Name this file in config.yaml instead of the stage's
# own. How good it is, only other tomograms tell.
"""
KEPT = """\
# Written by cryoseg: threshold and postprocessing_sizes are as before, since by {count} tomograms
# with true labels the best of each class are together no better; see choice.tsv beside it.
"""


def choose_sizes(tables, thresholds, chosen, choice, picture, configuration, *, settings):
    """Write mean Dice at each size as TSV, both curves as PNG, and the stage's file as it could be.

    tables:     what try_sizes wrote of each tomogram
    thresholds: what choose_thresholds wrote
    choice:     a table (TSV) of what the present and the chosen values give together
    settings:   {class_names, stage: the stage's configuration}
    """
    counted = read_tables(as_list(tables))
    present = counted["thresholds"] == "now"
    sizes = with_class_names(mean_dice(counted[~present], "size"), settings)
    curves = read_table(thresholds)
    together = compare_together(counted[present], curves, sizes)
    write_table(chosen, sizes)
    write_table(choice, together)
    better = is_better(together)
    save_figure(picture, draw_choice(curves, sizes, better))
    heading, stage = KEPT, with_nothing_to_choose(settings["stage"])
    if better:
        by_label = chosen_values(curves, "threshold"), chosen_values(sizes, "size")
        heading = HEADING
        stage = with_chosen(
            stage,
            {label: float(value) for label, value in by_label[0].items()},
            {label: int(value) for label, value in by_label[1].items()},
        )
    with written_aside(configuration) as aside:
        text = yaml.safe_dump(stage, sort_keys=False, allow_unicode=True)
        aside.write_text(
            heading.format(count=counted["tomogram"].nunique()) + text, encoding="utf-8"
        )
    report(sizes, together)


def is_better(together):
    """Whether the chosen values are written."""
    return bool(together.loc[together["values"] == "chosen", "written"].all())


def report(sizes, together):
    """Log what was chosen; warn where it is together no better than the present values."""
    for label, rows in sizes.groupby("label"):
        best, kept = rows[rows["chosen"]].iloc[0], rows[rows["size"] == -1].iloc[0]
        logger.info(
            "label %d (%s): size %d with a mean Dice of %.4f; with all components %.4f",
            label, best["class"], best["size"], best["dice"], kept["dice"],
        )  # fmt: skip
    now, best = (rows for _, rows in together.groupby("values", sort=False))
    means = best["dice"].iloc[-1], now["dice"].iloc[-1]
    columns = ["label", "threshold", "size"]
    if is_better(together) or np.array_equal(now[columns][:-1], best[columns][:-1]):
        logger.info("mean Dice of classes: %.4f with what is chosen, %.4f with what is now", *means)
        return
    logger.warning(
        "the chosen thresholds and sizes together give a mean Dice of classes of %.4f, the present "
        "ones %.4f; the present ones are kept (see choice.tsv)",
        *means,
    )  # fmt: skip


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        choose_sizes(**snakemake.input, **snakemake.output, **snakemake.params)

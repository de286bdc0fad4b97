"""Choose which small components of each class go, and write a configuration to predict with."""

import yaml

from cryoseg.joblog import log_to, logger
from cryoseg.provenance import recorded
from cryoseg.tables import read_table, read_tables, write_table
from cryoseg.threshold_choice import chosen_values, draw_choice, mean_dice, with_chosen
from cryoseg.training_figures import save_figure
from cryoseg.true_labels import with_class_names
from cryoseg.volumes import as_list, written_aside

HEADING = """\
# Written by cryoseg: thresholds and postprocessing_sizes with the largest mean Dice over {count}
# tomograms with true labels; thresholds.tsv, sizes.tsv and thresholds.png beside it show the
# curves. Name this file in config.yaml instead of the stage's own. How good it is, only other
# tomograms tell.
"""


def choose_sizes(tables, thresholds, chosen, picture, configuration, *, settings):
    """Write mean Dice at each size as TSV, both curves as PNG, and the stage's file as it could be.

    tables:     what try_sizes wrote of each tomogram
    thresholds: what choose_thresholds wrote
    settings:   {class_names, stage: the stage's configuration}
    """
    counted = read_tables(as_list(tables))
    sizes = with_class_names(mean_dice(counted, "size"), settings)
    curves = read_table(thresholds)
    write_table(chosen, sizes)
    save_figure(picture, draw_choice(curves, sizes))
    by_label = chosen_values(curves, "threshold"), chosen_values(sizes, "size")
    stage = with_chosen(
        settings["stage"],
        {label: float(value) for label, value in by_label[0].items()},
        {label: int(value) for label, value in by_label[1].items()},
    )
    with written_aside(configuration) as aside:
        text = yaml.safe_dump(stage, sort_keys=False, allow_unicode=True)
        aside.write_text(
            HEADING.format(count=counted["tomogram"].nunique()) + text, encoding="utf-8"
        )
    for label, rows in sizes.groupby("label"):
        best, kept = rows[rows["chosen"]].iloc[0], rows[rows["size"] == -1].iloc[0]
        logger.info(
            "label %d (%s): size %d with a mean Dice of %.4f; with all components %.4f",
            label, best["class"], best["size"], best["dice"], kept["dice"],
        )  # fmt: skip


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        choose_sizes(**snakemake.input, **snakemake.output, **snakemake.params)

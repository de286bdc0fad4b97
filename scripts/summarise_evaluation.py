"""Sum up the evaluations of all tomograms of a stage, and compare it with another one."""

from pathlib import Path

from cryoseg.folders import some
from cryoseg.joblog import log_to, logger
from cryoseg.provenance import recorded
from cryoseg.summaries import COLUMNS, compare, summarise, trained_on, with_those_left_out
from cryoseg.tables import read_tables, write_page, write_table
from cryoseg.unmade import read_unmade, sort_out
from cryoseg.volumes import as_list


def summarise_evaluation(
    tables, summary, summary_page, comparison=None, comparison_page=None, *, settings, unmade
):
    """Write means with intervals over tomograms, and if asked for, a comparison.

    tables:   what evaluate_labels wrote of each tomogram
    settings: {stages: names of what is evaluated and compared,
               no_files: {tomogram: what is there instead of its file}}
    unmade:   list of the tables that could not be made, see cryoseg.unmade
    Each table is written as TSV and as a web page.
    """
    made, lacking = sort_out(as_list(tables), unmade)
    table = read_tables(made, COLUMNS)
    left_out = settings["no_files"] | {
        Path(file).name.removesuffix("_evaluation.tsv"): why.reason for file, why in lacking.items()
    }
    stage, *other = settings["stages"]
    for each, rows in table.groupby("stage"):
        warn_of_training(each, rows)
    found = summarise(table[table["stage"] == stage])
    for name, reason in left_out.items():
        logger.info("%s: not evaluated: %s", name, reason)
    write_table(summary, with_those_left_out(found, left_out))
    write_page(summary_page, f"Evaluation of {stage}", with_those_left_out(found, left_out))
    for row in found[found["measure"] == "dice"].itertuples():
        logger.info(
            "%s: %s: mean Dice of %d tomograms %.4f", stage, row[2], row.tomograms, row.mean
        )
    if comparison:
        pairs = compare(table[table["stage"] == stage], table[table["stage"] == other[0]])
        names = {"stage": stage, "compared_with": other[0]}
        pairs = pairs.assign(**names)[[*names, *pairs.columns]]
        pairs = with_those_left_out(pairs, left_out)
        write_table(comparison, pairs)
        write_page(comparison_page, f"{stage} compared with {other[0]}", pairs)


def warn_of_training(stage, table):
    """Warn where means are over tomograms that the model was trained on."""
    if seen := trained_on(table):
        logger.warning(
            "%s: its model was trained on %d of the %d tomograms that its means are over (%s), "
            "where it is surer than elsewhere; lay true labels of others alone into labels_folder",
            stage, len(seen), table["tomogram"].nunique(), some(seen),
        )  # fmt: skip


if __name__ == "__main__":
    with (
        log_to(snakemake.log[0]),
        recorded(snakemake, absent=read_unmade(snakemake.params.unmade)),
    ):
        summarise_evaluation(**snakemake.input, **snakemake.output, **snakemake.params)

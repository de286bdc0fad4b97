"""Write one page of all predicted tomograms, and the same as a table."""

import os
from pathlib import Path

from cryoseg.joblog import log_to, logger
from cryoseg.overview import WHAT_STANDS_OUT, made_with_table, overview_table
from cryoseg.provenance import recorded
from cryoseg.small_files import read_json
from cryoseg.table_lines import table_line
from cryoseg.table_page import address, details, table_page
from cryoseg.unmade import read_unmade, sort_out
from cryoseg.volumes import as_list, written_aside


def write_overview(summaries, page, table, *, settings, unmade):
    """Write overview.html and overview.tsv.

    summaries: JSON files that draw_prediction wrote, FOLDER/pictures/summaries/NAME.json; the
               figure of NAME lies one folder up, NAME.png
    settings:  {stages: {FOLDER: name of the stage that predicts into it},
                no_files: {stage: {tomogram: what is there instead of its file}}}
    unmade:    list of those that could not be made, see cryoseg.unmade
    """
    made, lacking = sort_out(as_list(summaries), unmade)
    files = [Path(path) for path in made]
    found = [read_json(path) for path in files]
    folder = Path(page).parent
    figures = [path.parents[1] / f"{path.stem}.png" for path in files]
    links = [address(os.path.relpath(figure, folder)) for figure in figures]
    failures = list(_failures(lacking, settings))
    columns, rows = overview_table(found, links, failures)
    with written_aside(table) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        _write_table(file, columns[1:], rows)
    more = "".join(
        details(f"{stage}: {_tomograms(count)} made with", said)
        for stage, count, said in made_with_table(found)
    )
    with written_aside(page) as aside:
        text = table_page("Predicted tomograms", columns, rows, WHAT_STANDS_OUT, more)
        aside.write_text(text, encoding="utf-8")
    logger.info(
        "%s: %d rows, %d of which stand out, %d of these not predicted", page, len(rows),
        sum(bool(row["outlying"]["items"]) for row in rows), len(failures),
    )  # fmt: skip


def _failures(lacking, settings):
    """(tomogram, stage, sentence) of the tomograms that have no summary."""
    for path, why in lacking.items():
        file = Path(path)
        what = "drawn" if why.step.endswith("_draw_prediction") else "predicted"
        stage = settings["stages"][str(file.parents[2])]
        yield file.name.removesuffix(".json"), stage, f"not {what}: {why.reason}"
    for stage, lost in settings["no_files"].items():
        for tomogram, what in lost.items():
            yield tomogram, stage, f"not predicted: {what}"


def _tomograms(count):
    return "1 tomogram" if count == 1 else f"{count} tomograms"


def _write_table(file, columns, rows):
    names = (", ".join(filter(None, (each["name"], each.get("unit")))) for each in columns)
    file.write(table_line(names))
    for row in rows:
        values = (row.get(column["key"]) for column in columns)
        texts = ("; ".join(v["items"]) if isinstance(v, dict) else v for v in values)
        file.write(table_line(texts))


if __name__ == "__main__":
    with (
        log_to(snakemake.log[0]),
        recorded(snakemake, absent=read_unmade(snakemake.params.unmade)),
    ):
        write_overview(**snakemake.input, **snakemake.output, **snakemake.params)

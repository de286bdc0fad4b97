"""Gather the checks of a folder of tomograms into a table, a row for each."""

from pathlib import Path

from cryoseg import run_warnings
from cryoseg.errors import GoneError
from cryoseg.findings import ERROR, WARNING, Finding, finding_of
from cryoseg.folders import file_names
from cryoseg.joblog import log_to, logger
from cryoseg.name_checks import companion_name_findings, tomogram_name_findings
from cryoseg.provenance import recorded
from cryoseg.small_files import read_json
from cryoseg.table_lines import table_line
from cryoseg.table_page import plain_table_page
from cryoseg.unmade import read_unmade, sort_out
from cryoseg.volumes import as_list, written_aside

ABOUT_FOLDER = "(folder)"


def tabulate_checks(findings, table, page, *, settings, unmade):
    """Write a table: measured values, numbers of errors and warnings, and the sentences.

    It is written as TSV and as a web page.

    findings: what check_tomogram wrote of each tomogram
    settings: {folders: the arguments of name_findings; what it finds stands in the first row,
              readers: {name of a demand: what it stops, in words}}
    unmade:   list of the findings that could not be made, see cryoseg.unmade
    """
    made, lacking = sort_out(as_list(findings), unmade)
    of_names = _told(list(name_findings(**settings["folders"])))
    rows = [_row({"tomogram": ABOUT_FOLDER}, of_names)]
    for file in made:
        content = read_json(file)
        found = [Finding(**each) for each in content["findings"]]
        found = _told([_with_what_it_stops(each, settings["readers"]) for each in found])
        rows.append(_row(content["values"], found))
    for file, why in lacking.items():  # which the run's end names by itself
        name = Path(file).name.removesuffix(".json")
        rows.append(_row({"tomogram": name}, [finding_of(ERROR, f"not checked: {why.reason}")]))
    rows[1:] = sorted(rows[1:], key=lambda row: row["tomogram"])
    columns = dict.fromkeys(column for row in rows[1:] + rows[:1] for column in row)
    with written_aside(table) as aside, open(aside, "w", encoding="utf-8", newline="") as file:
        file.write(table_line(columns))
        file.writelines(table_line(map(row.get, columns)) for row in rows)
    with written_aside(page) as aside:
        text = plain_table_page(f"Checks of {Path(table).stem}", list(columns), rows)
        aside.write_text(text, encoding="utf-8")
    logger.info(
        "%d tomograms: %d with errors, %d with warnings; see %s", len(rows) - 1,
        sum(row["errors"] > 0 for row in rows[1:]), sum(row["warnings"] > 0 for row in rows[1:]),
        table,
    )  # fmt: skip


def name_findings(names, tomograms, companions):
    """Findings about the names of files.

    names:      of all tomograms in the folder
    tomograms:  (folder, extension) of the files on disk, which may be what the tomograms are scaled
                from; None where a step writes these
    companions: (folder, ending, "labels" or "masks") of each folder beside them
    """
    if tomograms is not None:
        folder, extension = tomograms
        yield from tomogram_name_findings(folder, _names_in(folder), extension)
    for folder, ending, what in companions:
        yield from companion_name_findings(folder, _names_in(folder), ending, names, what)


def _names_in(folder):
    try:
        return file_names(folder)
    except FileNotFoundError as error:  # the configuration was checked when it was there
        raise GoneError(folder) from error


def _with_what_it_stops(finding, readers):
    """A finding that says itself what it stops, where that is not all that reads the tomogram."""
    if not finding.stops:
        return finding
    stopped = sorted({each for name in finding.stops for each in readers.get(name, [name])})
    return finding_of(finding.level, f"{finding} (this stops {', '.join(stopped)})")


def _told(findings):
    """Findings, which are told in the log, errors as well, for the run's end."""
    for finding in findings:
        logger.warning("%s%s", run_warnings.ERROR * (finding.level == ERROR), finding)
    return findings


def _row(values, findings):
    levels = [finding.level for finding in findings]
    return values | {
        "errors": levels.count(ERROR),
        "warnings": levels.count(WARNING),
        "findings": " | ".join(f"{finding.level}: {finding}" for finding in findings),
    }


if __name__ == "__main__":
    with (
        log_to(snakemake.log[0]),
        recorded(snakemake, absent=read_unmade(snakemake.params.unmade)),
    ):
        tabulate_checks(**snakemake.input, **snakemake.output, **snakemake.params)

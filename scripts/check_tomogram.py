"""Check a tomogram, and the labels or masks that belong to it, before any job that takes long."""

import json
import math
from dataclasses import asdict
from pathlib import Path

from cryoseg import tomogram_checks
from cryoseg.joblog import log_to, logger
from cryoseg.provenance import recorded
from cryoseg.volumes import as_list, written_aside


def check_tomogram(tomogram, findings, companions=(), positions=(), *, settings):
    """Write what a tomogram is like and what is wrong with it, as JSON; nothing that is ends it.

    tomogram:   its file; none where something else is there
    companions: masks and labels, in the order in which settings name their demands
    positions:  files of positions, in the order of settings
    settings:   {demands: see cryoseg.tomogram_checks, companions: names of demands,
                positions: [{files: how many, settings, and of an evaluation, demand: its name}]},
                or {demands, no_file: what is there instead of the tomogram's file}
    """
    name = Path(findings).name.removesuffix(".json")
    if "no_file" in settings:
        check = tomogram_checks.check_of_no_file(name, settings["no_file"])
    else:
        files, wanted_by = iter(as_list(positions)), settings["companions"]
        check = tomogram_checks.check_tomogram(
            tomogram,
            name,
            settings["demands"],
            dict(zip(wanted_by, as_list(companions), strict=True)),
            [
                ([next(files) for _ in range(each["files"])], each["settings"], each.get("demand"))
                for each in settings["positions"]
            ],
        )
    for finding in check.findings:
        # Warnings are repeated at the end of the run; what an error stops is named there by itself.
        tell = logger.error if finding.level == "error" else logger.warning
        tell("%s", finding)
    values = {name: _plain(value) for name, value in check.values.items()}
    content = {"values": values, "findings": [asdict(finding) for finding in check.findings]}
    with written_aside(findings) as aside:
        aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _plain(value):
    """A value as JSON knows it, which has no NaN and no infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        check_tomogram(**snakemake.input, **snakemake.output, **snakemake.params)

"""Admit a tomogram to what its check found nothing against: predictions, trainings, an evaluation.

A step of its own, so that it fails for one tomogram alone, before any GPU is asked for.
"""

import json
from pathlib import Path

from cryoseg.errors import InputError
from cryoseg.findings import ERROR, Finding
from cryoseg.joblog import log_to
from cryoseg.provenance import recorded


def admit_tomogram(findings, admitted, *, settings):
    """Write an empty file, or raise InputError with what is wrong.

    findings: what check_tomogram wrote
    settings: {section: predict, train, or evaluate_ and the name of a stage}
    """
    content = json.loads(Path(findings).read_text(encoding="utf-8"))
    if settings["section"] in content["stopped"]:
        found = [Finding(**each) for each in content["findings"]]
        errors = [str(finding) for finding in found if finding.level == ERROR]
        more = f" (and {len(errors) - 1} more, see {findings})" if errors[1:] else ""
        raise InputError(errors[0] + more)
    Path(admitted).touch()


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        admit_tomogram(**snakemake.input, **snakemake.output, **snakemake.params)

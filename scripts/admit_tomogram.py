"""Admit a tomogram to what its check found nothing against: stages, trainings, an evaluation.

A step of its own, so that it fails for one tomogram alone, before any GPU is asked for.
"""

from cryoseg.errors import InputError
from cryoseg.findings import Finding
from cryoseg.joblog import log_to
from cryoseg.provenance import recorded
from cryoseg.small_files import read_json
from cryoseg.volumes import as_list, written_aside


def admit_tomogram(findings, admitted, *, settings):
    """Write empty files, one for each entry that is admitted to, or raise InputError.

    findings: what check_tomogram wrote
    settings: {demands: names of those of which an error may stop none}
    """
    content = read_json(findings)
    found = [Finding(**each) for each in content["findings"]]
    errors = [str(finding) for finding in found if finding.stops_any(settings["demands"])]
    if errors:
        more = f" (and {len(errors) - 1} more, see {findings})" if errors[1:] else ""
        raise InputError(errors[0] + more)
    for file in as_list(admitted):
        with written_aside(file) as aside:
            aside.touch()


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        admit_tomogram(**snakemake.input, **snakemake.output, **snakemake.params)

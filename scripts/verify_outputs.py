"""List the outputs whose recorded input, checkpoint or settings no longer match, and why."""

from functools import partial

from cryoseg.errors import InputError
from cryoseg.joblog import log_to, progress, say
from cryoseg.table_lines import check_replaceable
from cryoseg.verification import COLUMNS, advice, finding_lines, verify, write_findings
from cryoseg.volumes import written_aside


def verify_outputs(steps, table):
    """Write a table (TSV) of all outputs, and print what does not match.

    steps: list of cryoseg.steps.Step, what the configuration asks for now
    Raises InputError where something does not match, or where another file lies at ``table``.
    """
    check_replaceable(table, COLUMNS)  # before all is read
    findings = verify(steps, partial(progress, what="files"))
    with written_aside(table) as aside:
        write_findings(aside, findings)
    say(finding_lines(findings))
    wrong = sum(not each.harmless for each in findings)
    if wrong:
        raise InputError(
            f"{wrong} of {len(findings)} outputs do not match what is there now; {table} says why. "
            f"{advice(findings)}"
        )


if __name__ == "__main__":
    with log_to(snakemake.log[0]):
        verify_outputs(**snakemake.params)

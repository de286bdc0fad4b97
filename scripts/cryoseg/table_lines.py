"""Lines of tables in text files, whatever is written into them."""

import csv
import io
from pathlib import Path

from cryoseg.errors import InputError, brief


def table_line(values):
    """One line of a TSV file, with its end; values: None stands for nothing.

    Values with a tab, a quote or an end of a line in them are quoted. Of these, csv quotes a
    carriage return only where lines end in one.
    """
    text = io.StringIO()
    csv.writer(text, delimiter="\t", lineterminator="\r\n").writerow(values)
    return text.getvalue().removesuffix("\r\n") + "\n"


def check_replaceable(path, columns):
    """Raise InputError where what lies at a path is no table of ours, and would be lost.

    columns: names in the heading, which tell our tables; a file that is empty holds nothing to lose
    For tables that Snakemake does not know as outputs.
    """
    path, heading = Path(path), table_line(columns).encode()
    if path.is_file():  # a pipe would be waited for
        try:
            with open(path, "rb") as file:
                begins = file.read(len(heading))
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}), so nothing tells whether it may be "
                "replaced; move it away"
            ) from error
        if begins in (heading, b""):
            return
        found = f'it begins with "{brief(begins.splitlines()[0].decode(errors="replace"))}"'
    elif path.exists() or path.is_symlink():
        found = "it is no file"
    else:
        return
    raise InputError(
        f"{path}: is no table that cryoseg wrote ({found}), and would be replaced; give it another "
        "name, or move it, and ask once more"
    )

"""Tables as TSV files and as web pages.

TSV: a line of column names, tabs between, nothing where there is no value.
"""

import csv

import pandas as pd

from cryoseg.table_page import plain_table_page
from cryoseg.volumes import written_aside

# Read as text whatever they look like: a tomogram may be called 001 or NA.
TEXT = {name: str for name in ("tomogram", "stage", "label", "class", "measure")}


def write_table(path, table):
    """Write a pandas DataFrame; the file gets its name when it is complete."""
    # A carriage return ends a line where tables are read, and is not quoted unless all texts are.
    returns = any(
        "\r" in str(text) for text in table.select_dtypes(exclude="number").to_numpy().flat
    )
    with written_aside(path) as aside:
        table.to_csv(
            aside, sep="\t", index=False, float_format="%.6g", lineterminator="\n",
            quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL,
        )  # fmt: skip


def write_page(path, title, table):
    """Write a pandas DataFrame as a web page; the file gets its name when it is complete."""
    with written_aside(path) as aside:
        page = plain_table_page(title, list(table), table.to_dict("records"))
        aside.write_text(page, encoding="utf-8")


def read_table(path):
    """Read what write_table wrote: a pandas DataFrame."""
    return pd.read_csv(path, sep="\t", dtype=TEXT, keep_default_na=False, na_values=[""])


def read_tables(paths, columns=()):
    """Read several tables and put them below each other; of none, a table with these columns."""
    if not paths:
        return pd.DataFrame({name: pd.Series(dtype=TEXT.get(name, float)) for name in columns})
    return pd.concat([read_table(path) for path in paths], ignore_index=True)

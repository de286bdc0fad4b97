"""Tables hold what was written into them, whatever tomograms are called."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cryoseg.table_lines import table_line
from cryoseg.tables import read_table, write_table
from fuzzing import ODD_NAMES
from train_model import write_split

NAMES = [*ODD_NAMES, "a\rb", "\r\n", "NA", "nan", "001", "=1+1"]


def test_names_come_back_as_they_were(tmp_path):
    values = [None if number % 3 else number / 7 for number in range(len(NAMES))]
    for names in (NAMES, [name for name in NAMES if "\r" not in name]):
        table = pd.DataFrame({"tomogram": names, "value": values[: len(names)]})
        write_table(tmp_path / "table.tsv", table)
        found = read_table(tmp_path / "table.tsv")
        assert list(found["tomogram"]) == names
        np.testing.assert_allclose(found["value"], table["value"].astype(float), rtol=1e-5)


def test_lines_of_other_tables_come_back_as_they_were(tmp_path):
    rows = [(name, number) for number, name in enumerate(NAMES)]
    with open(tmp_path / "table.tsv", "w", encoding="utf-8", newline="") as file:
        file.writelines(map(table_line, [("tomogram", "number"), *rows]))
    found = read_table(tmp_path / "table.tsv")
    assert list(found.itertuples(index=False, name=None)) == rows


@pytest.mark.parametrize("name", ["plain", "a\tb", "a\nb", "a\rb", 'a"b'])
def test_the_split_of_a_training_names_each_tomogram(name, tmp_path):
    files = [SimpleNamespace(name="TS_1"), SimpleNamespace(name=name)]
    parts = [np.array([[0, 0], [0, 1], [1, 0]]), np.array([[1, 1], [1, 2]])]
    write_split(tmp_path, files, parts)
    rows = read_table(tmp_path / "split.tsv").to_dict("records")
    assert [(row["tomogram"], row["part"], row["patches"]) for row in rows] == [
        ("TS_1", "train", 2),
        (name, "train", 1),
        (name, "validation", 2),
    ]
    assert json.loads((tmp_path / "split.json").read_text())["validation"] == {name: [1, 2]}

"""Tables hold what was written into them, whatever tomograms are called."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from cryoseg.errors import InputError
from cryoseg.failures import Failure, write_failures
from cryoseg.table_lines import check_replaceable, table_line
from cryoseg.tables import read_table, write_table
from estimate_run import write_plan
from fuzzing import ODD_NAMES
from train_model import write_split
from verify_outputs import verify_outputs

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


OTHERS = {"notes": b"mine\n\x80", "table": b"output\tstep\nmine\t1\n", "end": b"\n", "odd": b"\0"}
WRITERS = {
    "verify.tsv": lambda path: verify_outputs([], path),
    "plan.tsv": lambda path: write_plan([], [], path),
    "failures.tsv": lambda path: write_failures(path, [Failure("step", "TS_1", "no.log")]),
}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("name", WRITERS)
def test_tables_that_are_no_outputs_of_rules_replace_none_but_their_own(name, content, tmp_path):
    path = tmp_path / name
    for _ in range(2):
        WRITERS[name](path)
    ours = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(InputError, match="is no table that cryoseg wrote"):
        WRITERS[name](path)
    assert path.read_bytes() == content
    path.write_bytes(b"")  # which holds nothing that could be lost
    WRITERS[name](path)
    assert path.read_bytes() == ours


def test_what_is_no_file_is_no_table(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for path in tmp_path.iterdir():
        with pytest.raises(InputError, match=f"{path.name}: is no table .* .it is no file"):
            check_replaceable(path, ["a"])
    check_replaceable(tmp_path / "absent", ["a"])

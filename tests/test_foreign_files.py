"""What cryoseg did not make is not replaced: which files those are, and what a run says of them."""

import json
import os
import shutil
import time

import h5py
import mrcfile
import numpy as np
import pytest

from cryoseg import foreign_files
from cryoseg.foreign_files import (
    changed_since,
    has_dated_copy,
    has_time,
    is_signed,
    recorded_or_not,
    refusal,
)
from cryoseg.provenance import record_path, sha256
from test_workflow import RAW, Lab, fill


def put(path, content=b"somebody's"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def test_what_is_there_without_a_record_is_found(tmp_path):
    ours, theirs, absent = (str(tmp_path / f"a/{name}.mrc") for name in ("ours", "theirs", "none"))
    for path in (ours, theirs):
        put(tmp_path / path)
    put(record_path(ours))
    link = tmp_path / "b" / "link.mrc"
    link.parent.mkdir()
    link.symlink_to("nowhere")
    outputs = [ours, absent, theirs, str(link), str(tmp_path / "c" / "folder" / "x.h5")]
    assert recorded_or_not(outputs) == ([ours], [theirs, str(link)])


def test_paths_are_found_as_they_are_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "here.mrc")
    put(tmp_path / "b" / "there.mrc")
    assert recorded_or_not(["here.mrc", "b/there.mrc"]) == ([], ["b/there.mrc", "here.mrc"])
    put(tmp_path / "provenance" / "here.mrc.json")
    assert recorded_or_not(["here.mrc"]) == (["here.mrc"], [])


def made(path, content=b"made by a job", hashed=True):
    """A file with its record, made an hour ago; returns its path as text."""
    put(path, content)
    output = {"name": "x", "path": f"spelled/otherwise/{path.name}"}
    if hashed:
        output |= {"part": "content", "sha256": sha256(path)}
    record = {"date": "today", "inputs": [], "outputs": [output], "settings": {}}
    put(record_path(path), json.dumps(record).encode())
    for each in (path, record_path(path)):
        set_back(each, 3600)
    return str(path)


def set_back(path, seconds):
    now = time.time()
    os.utime(path, (now - seconds, now - seconds))


@pytest.mark.parametrize("age", [0, 10**6])
def test_what_was_changed_or_replaced_since_it_was_made_is_no_longer_ours(tmp_path, age):
    paths = [made(tmp_path / f"{name}.h5") for name in ("same", "touched", "corrected")]
    put(tmp_path / "corrected.h5", b"corrected by hand")
    for path in paths[1:]:
        set_back(path, age)
    assert changed_since(paths) == paths[2:]


def test_of_what_is_not_hashed_only_what_says_that_it_is_ours_is(tmp_path):
    header = bytes(208) + b"MAP " + bytes(12) + b"Written by cryoseg 1.0" + bytes(2000)
    signed = made(tmp_path / "signed.mrc", header, hashed=False)
    other = made(tmp_path / "other.mrc", header, hashed=False)
    put(tmp_path / "other.mrc", header.replace(b"cryoseg", b"another"))
    os.utime(signed)
    assert changed_since([signed, other]) == [other]


def test_a_folder_that_was_copied_without_its_times_is_not_read_as_a_whole(tmp_path, monkeypatch):
    paths = [made(tmp_path / f"{number}.h5") for number in range(5)]
    for path in paths:
        put(tmp_path / path, b"corrected by hand")
    monkeypatch.setattr(foreign_files, "MOST_READ", 3)
    assert changed_since(paths) == paths[:3]


def test_a_killed_jobs_file_says_itself_whose_it_is(tmp_path):
    from cryoseg.volumes import write_mrc

    volume = np.zeros((4, 4, 4), np.float32)
    write_mrc(tmp_path / "ours.mrc", volume, voxel_size=10)
    with mrcfile.new(tmp_path / "theirs.mrc") as mrc:
        mrc.set_data(volume)
    for name in ("ours", "theirs"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["labels"] = volume
            if name == "ours":
                file.attrs["versions"] = '{"cryoseg": "1.0", "python": "3.11"}'
        assert is_signed(str(tmp_path / f"{name}.h5")) == (name == "ours")
        assert is_signed(str(tmp_path / f"{name}.mrc")) == (name == "ours")
    assert is_signed(put(tmp_path / "table.tsv"))  # which has no room for that
    assert not is_signed(put(tmp_path / "damaged.h5", (tmp_path / "ours.h5").read_bytes()[:100]))
    assert not is_signed(put(tmp_path / "model_best.ckpt"))
    os.mkfifo(tmp_path / "pipe.mrc")
    assert not is_signed(str(tmp_path / "pipe.mrc"))


def test_a_model_is_ours_if_it_is_there_under_its_date_and_hash_too(tmp_path):
    model = tmp_path / "model_best.ckpt"
    put(model)
    put(tmp_path / "model_best-20260101-000000-01234567.ckpt")
    assert not has_dated_copy(model)
    put(tmp_path / f"model_best-20260101-000000-{sha256(model)[:8]}.ckpt")
    assert has_dated_copy(model)
    assert is_signed(str(model))


def test_times_of_change_are_compared_as_copies_keep_them(tmp_path):
    put(tmp_path / "a")
    os.utime(tmp_path / "a", (1000.9, 1000.9))
    assert has_time(tmp_path / "a", 1000)
    assert not has_time(tmp_path / "a", 1010)
    assert not has_time(tmp_path / "none", 1000)


def test_the_first_few_are_named_and_how_many_there_are():
    said = refusal([f"predictions/TS_{number}\n_preds.h5" for number in range(7)], ["a.mrc"], {})
    assert said.startswith("8 files of others where this run would write; nothing was started.")
    assert "TS_4\\n_preds.h5 and 2 more" in said
    assert "TS_5" not in said
    assert "changed after cryoseg had made this file: a.mrc" in said
    assert "move them to another folder" in said


# A run


@pytest.fixture
def lab(tmp_path):
    """Two stages and three tomograms, nothing done yet."""
    return fill(Lab(tmp_path))


def contents(lab):
    """Content of each file that a run might replace."""
    folders = ("scaled", "predictions")
    found = (path for folder in folders for path in (lab.folder / folder).rglob("*"))
    return {path: path.read_bytes() for path in found if path.is_file()}


def test_predictions_and_tomograms_of_others_are_never_replaced(lab):
    """As CryoSiam leaves predictions, with the same names; newer than all that they are made of."""
    predictions = lab.folder / "predictions" / "lamella"
    predictions.mkdir(parents=True)
    with h5py.File(predictions / "TS_1_preds.h5", "w") as file:
        file["labels"] = np.ones((24, 32, 40), np.uint8)
    (lab.folder / "scaled").mkdir()
    shutil.copy(lab.folder / RAW / "TS_10.mrc", lab.folder / "scaled")
    os.utime(lab.folder / "scaled" / "TS_10.mrc", (1000, 1000))  # older than the raw one
    before = contents(lab)
    for dry in (["-n"], []):
        shown = lab.run(*dry, fails=True)
        assert "2 files of others where this run would write; nothing was started" in shown
        assert "these 2 files: predictions/lamella/TS_1_preds.h5, scaled/TS_10.mrc\n" in shown
        assert "Traceback" not in shown
        assert contents(lab) == before
    assert "2 files of others" in lab.run("--delete-all-output", fails=True)
    assert contents(lab) == before
    lab.run("scaled/TS_1.mrc")  # which the mistake does not concern


def test_what_a_killed_run_left_needs_no_hand(lab):
    scaled, state = lab.folder / "scaled" / "TS_1.mrc", lab.folder / ".snakemake"
    lab.run("scaled/TS_1.mrc")
    lab.write_tomogram("TS_1", seed=9)
    planned = {("raw_scale_tomogram", "TS_1")}
    shutil.rmtree(scaled.parent / "provenance")  # Snakemake knows what it made, too
    assert lab.plan("scaled/TS_1.mrc") == planned
    # As a kill leaves it between the end of the file and that of the job: a mark, and no notes.
    for note in (state / "metadata").iterdir():
        note.rename(state / "incomplete" / note.name)
    assert lab.plan("scaled/TS_1.mrc") == planned
    with mrcfile.open(scaled, "r+") as mrc:
        mrc.header.label = b""  # somebody's own, put there meanwhile
    assert "1 file of others" in lab.run("-n", "scaled/TS_1.mrc", fails=True)

"""A disk that is full, a folder that may not be written or is gone: said, and nothing is lost."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

import lost_folder
from conftest import REPOSITORY
from cryoseg.errors import InputError
from cryoseg.volumes import write_mrc, written_aside
from full_disk import SENTENCE, campaign, enlarge, small_disk
from test_kill import TARGETS
from test_shared_folders import ANNA, READ_ALL, SharedLab
from test_workflow import NAMES, Lab, fill

# As a process of its own, since HDF5 holds on to a file that it could not complete.
WRITE_HDF5 = """
import sys, h5py, numpy as np
from cryoseg.errors import InputError
from cryoseg.volumes import written_aside
try:
    with written_aside(sys.argv[1]) as aside, h5py.File(aside, "w") as file:
        values = file.create_dataset("values", (40, 50, 60), np.float32, chunks=(10, 50, 60))
        for start in range(0, 40, 10):
            values[start : start + 10] = np.random.default_rng(0).random((10, 50, 60))
except InputError as error:
    print(error, flush=True)
"""
WRITE_TEXT = """
import sys
from cryoseg.errors import InputError
from cryoseg.volumes import written_aside
try:
    with written_aside(sys.argv[1]) as aside:
        aside.write_text("complete")
except InputError as error:
    print(error, flush=True)
"""


# Chunks that are written when a dataset is closed, which tells of no error.
WRITE_SCORES = """
import sys, numpy as np
from cryoseg.errors import InputError
from cryoseg.scores import ScoresWriter
from cryoseg.volumes import written_aside
shape, random = (64, 128, 128), np.random.default_rng(0)
try:
    with written_aside(sys.argv[1]) as aside, ScoresWriter(aside, shape, 5, {}) as writer:
        for start in range(0, 64, 16):
            some = {"probability": random.integers(0, 65535, (16, 128, 128)).astype(np.uint16)}
            some["winner"] = random.integers(0, 5, (16, 128, 128)).astype(np.uint8)
            writer.write(((start, start + 16), (0, 128), (0, 128)), some)
except InputError as error:
    print(error, flush=True)
"""
WRITE_AS = """
import sys, h5py, torch
from cryoseg.errors import InputError
from cryoseg.volumes import written_aside
try:
    with written_aside(sys.argv[1]) as aside:
        h5py.File(aside, "w").close() if "h5" in aside.suffix else torch.save(1, aside)
except InputError as error:
    print(error, flush=True)
"""


def run_python(code, path, *before):
    """Run code in a process; returns what it prints."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY / "scripts")}
    command = [*before, sys.executable, "-c", code, str(path)]
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True).stdout


def write_volume(path):
    write_mrc(path, np.ones((40, 50, 60), np.float32))


def write_checkpoint(path):
    with written_aside(path) as aside:
        torch.save(torch.zeros(200_000), aside)


def write_text(path):
    with written_aside(path) as aside:
        aside.write_text("x" * 400_000)


@pytest.mark.root
@pytest.mark.parametrize(
    ("write", "needed"),
    [
        (write_volume, "481024 bytes are needed, 303104 are free"),
        (write_checkpoint, "more than [0-9]+ bytes are needed"),
        (write_text, "more than 303104 bytes are needed"),
    ],
)
def test_a_full_disk_is_said_with_path_and_bytes_and_nothing_half_written_stays(
    write, needed, tmp_path
):
    with small_disk(tmp_path / "disk", 300) as disk:
        (disk / "file.ckpt").write_text("as before")
        with pytest.raises(
            InputError, match=f"{disk}/file.ckpt: no space is left in {disk}: {needed}"
        ):
            write(disk / "file.ckpt")
        assert [path.name for path in disk.iterdir()] == ["file.ckpt"]
        assert (disk / "file.ckpt").read_text() == "as before"
        enlarge(disk, 1000)
        write(disk / "file.ckpt")


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EDQUOT, "Disk quota exceeded"),
     OSError(f"Unable to write (errno = {errno.EDQUOT}, error message = 'Disk quota exceeded')")],
)  # fmt: skip
def test_a_quota_that_is_used_up_is_no_full_disk(error, tmp_path):
    def write():
        with written_aside(tmp_path / "a.h5") as aside:
            aside.write_text("begun")
            raise error

    with pytest.raises(InputError, match=r"a.h5: your quota is used up in .*: more than 5 bytes"):
        write()
    assert not list(tmp_path.iterdir())


@pytest.mark.root
def test_a_full_disk_is_known_from_what_hdf5_says(tmp_path):
    with small_disk(tmp_path / "disk", 300) as disk:
        said = run_python(WRITE_HDF5, disk / "file.h5")
        assert f"{disk}/file.h5: no space is left in {disk}: more than" in said
        assert not list(disk.iterdir())
        enlarge(disk, 1000)
        assert run_python(WRITE_HDF5, disk / "file.h5") == ""


@pytest.mark.root
@pytest.mark.parametrize("kilobytes", [1200, 1800, 2500])
def test_scores_that_a_full_disk_does_not_take_whole_get_no_name(kilobytes, tmp_path):
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        assert "no space is left" in run_python(WRITE_SCORES, disk / "scores.h5")
        assert not list(disk.iterdir())


@pytest.mark.root
@pytest.mark.parametrize("name", ["file.h5", "file.ckpt"])
def test_a_folder_that_may_not_be_written_is_named_whatever_is_written(name, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    become = ("setpriv", "--reuid=4711", "--regid=100", "--clear-groups", *READ_ALL)
    assert f"{folder}/{name}: cannot be written" in run_python(WRITE_AS, folder / name, *become)
    gone = tmp_path / "gone" / name
    assert f"{gone}: its folder is gone" in run_python(WRITE_AS, gone)


@pytest.mark.root
def test_a_run_whose_whole_folder_is_full_goes_on_after_space_is_made(tmp_path):
    undisturbed = fill(Lab(tmp_path / "undisturbed"))
    for name in ("lamella", "semantic"):  # large, and not used here
        (undisturbed.folder / f"{name}.ckpt").write_bytes(b"a checkpoint")
    with small_disk(tmp_path / "disk", 600) as disk:
        lab = Lab(disk / "lab")
        shutil.copytree(undisturbed.folder, lab.folder, dirs_exist_ok=True)
        shown = lab.run("--", "scale", fails=True)
        _, summary = shown.split("failed:")
        assert "no space is left in scaled: 123904 bytes are needed" in summary
        assert "Traceback" not in shown
        assert "Trying to restart" not in shown
        assert not [path for path in lab.folder.rglob(".*-*") if path.is_file()]
        enlarge(disk, 5000)
        lab.run("--", "scale")
        undisturbed.run("--", "scale")
        for name in NAMES:
            made = [each.folder / "scaled" / f"{name}.mrc" for each in (lab, undisturbed)]
            assert made[0].read_bytes() == made[1].read_bytes()


@pytest.mark.root
@pytest.mark.slow
def test_a_disk_that_becomes_full_at_any_moment_is_said_and_what_was_done_counts():
    happened, finds = campaign(rounds=2, seed=1, targets=TARGETS)
    assert not finds
    assert any(SENTENCE.search(each) for each in happened)


@pytest.mark.root
@pytest.mark.slow
def test_a_folder_that_becomes_read_only_in_a_run_is_named_and_what_was_done_counts():
    happened, finds = lost_folder.campaign(rounds=1, seed=31, targets=TARGETS)
    assert not finds
    assert lost_folder.SENTENCE.search(happened[0])


@pytest.mark.root
@pytest.mark.parametrize("used", [False, True])
def test_a_run_in_a_folder_without_a_free_byte_says_so_before_anything_else(used, tmp_path):
    with small_disk(tmp_path / "disk", 5000) as disk:
        lab = fill(Lab(disk / "lab"))
        if used:
            lab.run("--", f"scaled/{NAMES[0]}.mrc")
        with contextlib.suppress(OSError), open(disk / "filler", "wb") as filler:
            while True:
                filler.write(bytes(512))
        shown = lab.run("--", "scale", fails=True)
        assert f"{lab.folder}: no space is left" in shown
        assert "make space, then give the same command again" in shown
        assert "InputError" not in shown
        (disk / "filler").unlink()
        lab.run("--", "scale")


@pytest.mark.root
@pytest.mark.parametrize("own", [".snakemake", "logs"])
def test_a_run_in_a_folder_with_notes_of_somebody_else_says_whose_right_it_needs(own, tmp_path):
    lab = fill(SharedLab(tmp_path / "lab"))
    lab.share()
    (lab.folder / own).mkdir(mode=0o755)
    shown = lab.run_as(ANNA, "--", "scale", fails=True)
    assert f"{own}: cannot be written: you may not write into" in shown
    assert "chmod -R g+w" in shown
    assert "Traceback" not in shown


@pytest.mark.root
def test_a_folder_that_may_not_be_written_is_named(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o555)
    become = ("setpriv", "--reuid=4711", "--regid=100", "--clear-groups", *READ_ALL)
    said = run_python(WRITE_TEXT, folder / "file", *become)
    assert f"{folder}/file: cannot be written (Permission denied); see to it that you may" in said
    with small_disk(tmp_path / "disk", 300) as disk:
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        said = run_python(WRITE_TEXT, disk / "file")
        assert f"{disk}/file: cannot be written (Read-only file system)" in said


def remove_and_write(path):
    with written_aside(path) as aside:
        shutil.rmtree(path.parent)
        aside.write_text("x")


def write_and_remove(path):
    with written_aside(path) as aside:
        aside.write_text("x")
        shutil.rmtree(path.parent)


@pytest.mark.parametrize("write", [remove_and_write, write_and_remove])
def test_a_folder_that_vanishes_is_named(write, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(InputError, match=f"{folder}/file: its folder is gone; bring it back"):
        write(folder / "file")
    assert not folder.exists()

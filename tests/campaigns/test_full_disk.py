"""A disk that is full, a folder that may not be written or is gone: said, and nothing is lost."""

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
import pytest
import torch

import lost_folder
from conftest import REPOSITORY
from cryoseg.errors import InputError
from cryoseg.volumes import write_mrc, written_aside
from full_disk import SENTENCE, campaign, enlarge, failed_steps, judged, small_disk
from kill import WITHOUT_TRAINING, FoundError, play
from test_kill import TARGETS
from test_shared_folders import ANNA, READ_ALL, SharedLab
from test_workflow import NAMES, RAW, Lab, fill
from tracebacks import tracebacks

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


@pytest.mark.root
def test_a_disk_without_a_free_byte_needs_a_block(tmp_path):
    with small_disk(tmp_path / "disk", 100) as disk:
        with open(disk / "others", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(4096)):
                pass
        with pytest.raises(InputError, match="at least 4096 bytes are needed, 0 are free") as said:
            write_text(disk / "file.txt")
    assert SENTENCE.search(str(said.value))


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
@pytest.mark.parametrize(
    ("way", "seed", "targets"),
    [(lost_folder.READ_ONLY, 31, TARGETS), (lost_folder.AWAY, 32, WITHOUT_TRAINING)],
)
def test_a_folder_that_is_lost_in_a_run_is_named_and_what_was_done_counts(
    way, seed, targets, monkeypatch
):
    monkeypatch.setattr(lost_folder, "LOSSES", [(way, "scaled")])
    happened, finds = lost_folder.campaign(rounds=1, seed=seed, targets=targets)
    assert not finds
    assert f"scaled {way}" in happened[0]
    assert lost_folder.SENTENCE.search(happened[0])


def test_a_working_folder_that_gets_another_name_in_a_run_keeps_no_lock(tmp_path):
    lab, renamed = fill(Lab(tmp_path / "lab")), tmp_path / "renamed"
    command = lab.command("--cores", "1", "--", "scale")
    run = subprocess.Popen(command, cwd=lab.folder, stderr=subprocess.PIPE, text=True)
    while run.poll() is None and not (lab.folder / "scaled" / f"{NAMES[0]}.mrc").exists():
        time.sleep(0.01)
    lab.folder.rename(renamed)
    shown = run.communicate()[1]
    # A job that was on its way reads a copy of its script by the old name.
    assert run.returncode == 0 or "what Snakemake keeps there is gone" in shown
    Lab(renamed).run("scale")


SUMMARY = """
2 jobs failed:
  raw_scale_tomogram TS_1: it ended without a word, killed perhaps
    log: logs/a.log
  raw_scale_tomogram TS_10: no space is left in /x: 5 bytes are needed, 3 are free; make space
    log: logs/b.log
"""
SNAKEMAKES_TRACEBACK = """PermissionError in file "/x/rules/scheduling.smk", line 176:
[Errno 13] Permission denied: '.snakemake/owners/a.json'
  File "/x/contextlib.py", line 158, in __exit__
"""


def test_the_reason_of_each_tomogram_is_judged():
    assert len(failed_steps(SUMMARY)) == 2
    with pytest.raises(FoundError, match=r"these say something else: .*TS_1: it ended without"):
        judged(SUMMARY)
    good = SUMMARY.replace(
        "it ended without a word, killed perhaps",
        "no space is left in /x: 9 bytes are needed, 3 are free",
    )
    assert [each.split(":")[0] for each in judged(good)] == [
        "raw_scale_tomogram TS_1", "raw_scale_tomogram TS_10"
    ]  # fmt: skip
    for traceback in (SNAKEMAKES_TRACEBACK, "Traceback (most recent call last):\n"):
        with pytest.raises(FoundError, match="there is a traceback"):
            judged(good + traceback)
    gone = SUMMARY.replace(
        "it ended without a word, killed perhaps", "labels/a.mrc is gone"
    ).replace(
        "no space is left in /x: 5 bytes are needed, 3 are free", "/x/labels cannot be written"
    )
    assert len(lost_folder.judged(gone, "labels")) == 2
    with pytest.raises(FoundError, match="there is a traceback"):
        lost_folder.judged(gone + SNAKEMAKES_TRACEBACK, "labels")
    for said, name in ((SUMMARY, "labels"), (gone, "scaled"), (gone, "label")):
        with pytest.raises(FoundError, match="does not say what is gone"):
            lost_folder.judged(said, name)
    refused = f"1 mistake {lost_folder.NOT_STARTED}\n  a.yaml: data_folder is scaled, which "
    assert lost_folder.judged(f"{refused}does not exist\n", "scaled")
    with pytest.raises(FoundError, match="does not say what is gone"):
        lost_folder.judged(f"{refused}is odd\n", "scaled")


def meanwhile(lab, act, *arguments):
    """Do something as soon as a run has begun its first job; returns what the run prints."""
    with subprocess.Popen(
        lab.command("--cores", "1", *arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, cwd=lab.folder,
    ) as run:  # fmt: skip
        while "rule raw_scale_tomogram" not in run.stdout.readline():
            assert run.poll() is None
        act()
        return run.communicate(timeout=300)[0]


@pytest.mark.root
def test_an_empty_folder_that_may_not_be_removed_does_not_cost_the_list_of_what_failed(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    folder = lab.folder / "scaled"
    with lost_folder.own_mount(folder):
        shown = meanwhile(lab, lambda: lost_folder.forbid_writing(folder), "scaled/TS_1.mrc")
    (step,) = lost_folder.judged(shown, "scaled")
    assert step.startswith("raw_scale_tomogram TS_1: ")


def test_an_empty_folder_of_inputs_stays(tmp_path):
    """Snakemake removes it; somebody keeps it for what is to come."""
    lab = fill(Lab(tmp_path / "lab"))
    tomograms = [*(lab.folder / RAW).iterdir()]
    shown = meanwhile(lab, lambda: [each.unlink() for each in tomograms], "scale")
    assert "is gone since the run began" in shown
    assert (lab.folder / RAW).is_dir()


@pytest.mark.root
def test_what_was_on_a_small_disk_is_kept_for_a_find(tmp_path, monkeypatch):
    def found(folder, number):
        with small_disk(folder / "lab", 1000) as disk:
            (disk / "a.h5").write_text("cut short")
            raise FoundError("a.h5 is not whole")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "top").mkdir()
    _, finds = play(found, 1, 0, tmp_path / "top", keep=True)
    assert finds == ["round 0: a.h5 is not whole"]
    (kept,) = tmp_path.glob("found_*/0/lab/a.h5")
    assert kept.read_text() == "cut short"
    assert not list((tmp_path / "top").iterdir())


def test_jobs_that_a_lost_folder_does_not_concern_must_have_been_done():
    def job(inputs, outputs):
        return lost_folder.Job(frozenset(inputs.split()), frozenset(outputs.split()))

    scale = {name: job(f"raw/{name}", f"scaled/{name}") for name in "ab"}
    score = {name: job(f"scaled/{name} model", f"predictions/{name}") for name in "ab"}
    look, table = job("model.ckpt", "model"), job("predictions/a predictions/b", "table")
    jobs = {*scale.values(), *score.values(), look, table}
    others = lost_folder.other_jobs
    assert others(jobs, "elsewhere", set()) == jobs
    assert others(jobs, "raw", set()) == {look}
    assert others(jobs, "raw", {"scaled/a"}) == {look, score["a"]}
    assert others(jobs, "raw", {"scaled/a", "scaled/b"}) == jobs - set(scale.values())
    assert others(jobs, "predictions", set()) == {look, *scale.values()}
    assert others(jobs, "scaled", {"scaled/a", "scaled/b", "model"}) == set()


def test_a_target_whose_files_are_gone_in_the_end_is_among_what_failed(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    command = lab.command("--cores", "1", "--", "scale")
    run = subprocess.Popen(command, cwd=lab.folder, stderr=subprocess.PIPE, text=True)
    scaled = [lab.folder / "scaled" / f"{name}.mrc" for name in NAMES]
    while run.poll() is None and sum(path.exists() for path in scaled) < len(scaled) - 1:
        time.sleep(0.01)
    # The one that has been noted for certain; the job of another would be tried again.
    min((path for path in scaled if path.exists()), key=os.path.getmtime).unlink()
    shown = run.communicate()[1]
    assert re.search(r"^1 job failed:\n  scale: scaled/.* is gone since the run began", shown, re.M)
    assert not tracebacks(shown)
    lab.run("scale")


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

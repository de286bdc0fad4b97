"""The small form of kill.py: ten rounds of the steps that take a second each."""

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import psutil
import pytest
import torch

import kill
from cryoseg.process_identity import identity_of
from cryoseg.run_owners import noted, owners, this_run, write_note
from cryoseg.volumes import write_mrc
from kill import (
    FoundError,
    KilledLab,
    Watch,
    WritesInPlace,
    campaign,
    check_end,
    copied,
    finish,
    left_over,
)
from kill import fill as fill_whole
from networks import random_network
from same_outputs import MODEL, differences
from test_checkpoints import checkpoint_of
from test_workflow import RAW, Lab, fill

TARGETS = ("scaled/TS_1.mrc", "scaled/TS_10.mrc")


@pytest.mark.slow
@pytest.mark.parametrize("changed", [False, True])
def test_whatever_is_killed_the_same_command_again_gives_the_same_files(changed):
    struck, finds = campaign(rounds=5, seed=1, targets=TARGETS, most=1, changed=changed)
    assert not finds
    assert len(struck) >= 2


def test_what_differs_from_an_undisturbed_run_is_seen(tmp_path):
    for folder in ("one", "other"):
        (tmp_path / folder / "scaled").mkdir(parents=True)
        (tmp_path / folder / "predictions" / "semantic").mkdir(parents=True)
        write_mrc(
            tmp_path / folder / "scaled" / "TS.mrc", np.zeros((4, 4, 4), np.uint8), voxel_size=10.0
        )
        with h5py.File(tmp_path / folder / "predictions/semantic/TS_preds.h5", "w") as file:
            file["labels"] = np.zeros((4, 4, 4))
            file.attrs["checkpoint_sha256"] = {"one": 64 * "a", "other": 64 * "b"}[folder]
        (tmp_path / folder / "overview.tsv").write_text(f"tomogram\tscoring, s\nTS\t{folder}\n")
    assert not list(differences(tmp_path / "other", tmp_path / "one"))
    with h5py.File(tmp_path / "other/predictions/semantic/TS_preds.h5", "a") as file:
        file["labels"][0, 0, 0] = 1
    (tmp_path / "other/overview.tsv").write_text("tomogram\tscoring, s\nTS_2\tother\n")
    (tmp_path / "other/scaled/TS.mrc").unlink()
    (tmp_path / "other/scaled/TS_2.mrc").write_bytes(b"")
    assert list(differences(tmp_path / "other", tmp_path / "one")) == [
        "scaled/TS.mrc is missing",
        "scaled/TS_2.mrc is left",
        "overview.tsv differs",
        "predictions/semantic/TS_preds.h5 differs",
    ]


def test_another_type_of_labels_and_another_origin_of_a_mask_are_seen(tmp_path):
    for folder, kind, origin in (("one", np.uint8, 0), ("other", np.int16, 5)):
        below = tmp_path / folder / "predictions" / "semantic"
        below.mkdir(parents=True)
        with h5py.File(below / "TS_preds.h5", "w") as file:
            file["labels"] = np.zeros((4, 4, 4), kind)
        with mrcfile.new(below / "TS_mask.mrc", np.zeros((4, 4, 4), np.int8)) as mrc:
            mrc.header.origin.x = origin
            mrc.header.label[0] = f"model SHA-256 {str(origin) * 40}"
    found = differences(tmp_path / "other", tmp_path / "one")
    assert [Path(each).name for each in found] == ["TS_mask.mrc differs", "TS_preds.h5 differs"]


def test_a_campaign_that_kills_little_fails():
    hits = [("snakemake", "SIGKILL"), (kill.TRAINER, "SIGTERM")]
    assert kill.shows_nothing(20, hits * 10, kill.WHOLE) is None
    assert "19 kills in 20 rounds" in kill.shows_nothing(20, [hits[0]] * 19, kill.WHOLE)
    assert "0 kills of the trainer" in kill.shows_nothing(20, [hits[0]] * 20, kill.WHOLE)
    assert kill.shows_nothing(20, [hits[0]] * 20, kill.WITHOUT_TRAINING) is None


def test_weights_that_differ_in_the_last_bit_are_seen(tmp_path):
    for folder, step in (("one", 0.0), ("other", 1e-7)):
        path = tmp_path / folder / MODEL
        path.parent.mkdir(parents=True)
        torch.manual_seed(0)
        network = random_network()
        with torch.no_grad():
            next(network.parameters()).view(-1)[0].add_(step)
        checkpoint_of(network, path, epoch=folder)
    assert not list(differences(tmp_path / "one", tmp_path / "one"))
    assert list(differences(tmp_path / "other", tmp_path / "one")) == [f"{MODEL} differs"]


def test_a_record_that_is_not_of_its_file_is_seen(tmp_path):
    inputs = fill_whole(tmp_path / "inputs").folder
    lab = KilledLab(copied(inputs, tmp_path / "lab"), TARGETS)
    with Watch(lab.folder) as watch:
        finish(lab)
    reference = copied(lab.folder, tmp_path / "reference")
    record = lab.folder / "scaled" / "provenance" / "TS_1.mrc.json"
    text = record.read_text()
    for number in re.findall("[0-9a-f]{64}", text):
        record.write_text(text.replace(number, number[::-1]))
        with pytest.raises(FoundError, match="not what the records say"):
            check_end(lab, watch, reference)
        (lab.folder / "verify.tsv").unlink()  # which no undisturbed run leaves


def test_a_file_that_is_cut_short_under_its_final_name_is_seen(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    (lab.folder / "table.json").write_text("{}")
    (lab.folder / "page.html").write_text("<html></html>\n")
    with Watch(lab.folder) as watch:
        pass
    assert not watch.damaged
    path = lab.folder / RAW / "TS_1.mrc"
    path.write_bytes(path.read_bytes()[:-100])
    (lab.folder / "table.json").write_text("{")
    (lab.folder / "page.html").write_text("<html></html")
    watch.look()
    damaged = {line.split(":")[0] for line in watch.damaged}
    assert damaged == {"table.json", "page.html", f"{RAW}/TS_1.mrc"}


def test_a_file_that_is_written_under_its_final_name_is_seen_however_short_that_takes(tmp_path):
    with Watch(tmp_path) as watch:
        (tmp_path / "scaled").mkdir()
        while tmp_path / "scaled" not in watch._writes._folders.values():
            time.sleep(0.01)
        (tmp_path / "scaled" / ".aside").write_text("whole")
        (tmp_path / "scaled" / ".aside").rename(tmp_path / "scaled" / "b.json")
        (tmp_path / "scaled" / "a.json").write_text("{}")
        (tmp_path / "scaled" / "a.json").unlink()
    assert [line for line in watch.damaged if "in place" in line] == [
        f"{tmp_path}/scaled/a.json: written in place"
    ]


class WithoutWatches:
    """A system whose watches are used up after some; or one where the folder is gone by then."""

    def __init__(self, system, number):
        self.inotify_init1, self.number = system.inotify_init1, number

    def inotify_add_watch(self, *arguments):
        ctypes.set_errno(self.number)
        return -1


@pytest.mark.parametrize(
    ("number", "finds"),
    [(errno.ENOSPC, ["{}: cannot be watched (No space left on device)"]), (errno.ENOENT, [])],
)
def test_a_folder_that_cannot_be_watched_is_a_find(number, finds, tmp_path, monkeypatch):
    monkeypatch.setattr("kill.SYSTEM", WithoutWatches(kill.SYSTEM, number))
    writes = WritesInPlace(tmp_path)
    writes.close()
    assert sorted(writes.found) == [each.format(tmp_path) for each in finds]


# Loaded by each interpreter before anything else: kills the first that begins a script of a rule.
KILLS_THE_FIRST = """
import os, signal, sys
if any("scripts/tmp" in word for word in sys.orig_argv) and not os.path.exists("was killed"):
    open("was killed", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_job_that_is_killed_before_it_can_say_a_word_does_not_fail_for_an_earlier_reason(
    tmp_path, monkeypatch
):
    lab = fill(Lab(tmp_path / "lab"))
    lab.run("scaled/TS_1.mrc")
    (log,) = (lab.folder / "logs").rglob("TS_1.log")
    log.write_text("error: an earlier reason, for which another try would fail alike\n")
    (lab.folder / "scaled" / "TS_1.mrc").unlink()
    (tmp_path / "sitecustomize.py").write_text(KILLS_THE_FIRST)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    assert "an earlier reason" not in lab.run("scaled/TS_1.mrc")
    assert (lab.folder / "was killed").exists()
    assert (lab.folder / "scaled" / "TS_1.mrc").exists()


def test_after_ctrl_c_the_same_command_goes_on(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    run = subprocess.Popen(
        lab.command("--cores", "1", "--", "scale"),
        cwd=lab.folder,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group that gets the terminal's signals
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while run.poll() is None and not list(lab.folder.glob("logs/raw/scale_tomogram/*.log")):
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGINT)
    shown = run.communicate()[1]
    assert run.returncode
    assert "ended early; the same command, given again, goes on from there" in shown
    assert not left_over(lab)
    lab.run("scale")


def locked_by(lab, process):
    """Lock a Lab as a run with the number of a process would, and note whose the lock is."""
    locks = lab.folder / ".snakemake" / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    (locks / "0.output.lock").write_text("scaled/TS_1.mrc\n")
    return replace(this_run(elsewhere=False), process=identity_of(process))


def test_the_lock_of_a_run_that_lives_is_respected_and_that_of_a_dead_one_taken_off(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        owner = locked_by(lab, other.pid)
        note = lab.folder / ".snakemake" / "owners"
        with noted(owner, note):
            assert list(owners(note).values()) == [owner]
            for arguments in (["scaled/TS_1.mrc"], ["--unlock"]):
                shown = lab.run(*arguments, fails=True)
                assert f"Another snakemake works in this folder: process {other.pid} on" in shown
                assert "Wait for its end, or end it; then give the same command again." in shown
                assert "Traceback" not in shown
                assert "--unlock argument" not in shown
            other.send_signal(signal.SIGKILL)
            other.wait()
            assert owner.is_dead
            assert "The lock that a killed run left is taken off." in lab.run("scaled/TS_1.mrc")
    assert not owners(note)


def test_a_run_that_ends_leaves_the_lock_of_one_that_lives(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    notes = lab.folder / ".snakemake" / "owners"
    with (
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other,
        noted(locked_by(lab, other.pid), notes),
    ):
        lab.run("scaled/TS_10.mrc")  # another target
        assert "Another snakemake works in this folder" in lab.run("scaled/TS_1.mrc", fails=True)
        other.send_signal(signal.SIGKILL)
        other.wait()
        lab.run("scaled/TS_10.mrc")
        lab.run("scaled/TS_1.mrc")


def test_the_lock_of_a_dead_run_is_taken_off_beside_one_that_lives(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    notes, locks = (lab.folder / ".snakemake" / name for name in ("owners", "locks"))
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as other:
        dead = replace(locked_by(lab, other.pid), locks=("0.output.lock",))
        other.kill()
    living = this_run(elsewhere=False)
    (locks / "1.output.lock").write_text("scaled/TS_10.mrc\n")
    write_note(dead, notes)
    with noted(replace(living, locks=("1.output.lock",)), notes):
        assert "The lock that a killed run left is taken off." in lab.run("scaled/TS_1.mrc")
        assert [path.name for path in locks.iterdir()] == ["1.output.lock"]
        assert list(owners(notes).values()) == [replace(living, locks=("1.output.lock",))]
        assert "Another snakemake works in this folder" in lab.run("scaled/TS_10.mrc", fails=True)


def test_a_lock_without_a_note_and_one_of_jobs_elsewhere_are_left_to_people(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    owner = locked_by(lab, psutil.Process().pid)
    assert "cannot be locked" in lab.run("scaled/TS_1.mrc", fails=True)
    assert not owner.is_dead
    gone = replace(owner.process, began=1)  # another process has its number by now
    assert replace(owner, process=gone).is_dead
    assert not replace(owner, process=gone, elsewhere=True).is_dead
    for change in ({"host": "another"}, {"machine": "another"}, {"namespace": "pid:[1]"}):
        assert not replace(owner, process=replace(gone, **change)).is_dead


def test_a_lock_of_nobody_known_stays_beside_that_of_a_dead_run(tmp_path):
    """As of another workflow in the same folder."""
    lab = fill(Lab(tmp_path / "lab"))
    notes, locks = (lab.folder / ".snakemake" / name for name in ("owners", "locks"))
    dead = locked_by(lab, psutil.Process().pid)
    dead = replace(dead, process=replace(dead.process, began=1), locks=("1.output.lock",))
    (locks / "1.output.lock").write_text("scaled/TS_10.mrc\n")
    write_note(dead, notes)
    assert "cannot be locked" in lab.run("scaled/TS_1.mrc", fails=True)
    assert [path.name for path in locks.iterdir()] == ["0.output.lock"]


def test_a_name_that_a_living_run_has_taken_again_is_its_own(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    notes = lab.folder / ".snakemake" / "owners"
    living = replace(locked_by(lab, psutil.Process().pid), locks=("0.output.lock",))
    dead = replace(living.process, number=living.process.number + 1, began=1)
    write_note(replace(living, process=dead), notes)
    with noted(living, notes):
        assert "Another snakemake works in this folder" in lab.run("scaled/TS_1.mrc", fails=True)


def test_unlock_forgets_whose_the_locks_were(tmp_path):
    lab = fill(Lab(tmp_path / "lab"))
    notes = lab.folder / ".snakemake" / "owners"
    owner = locked_by(lab, psutil.Process().pid)
    write_note(replace(owner, process=replace(owner.process, host="another")), notes)
    shown = lab.run("scaled/TS_1.mrc", fails=True)
    assert "Another snakemake works in this folder" in shown
    assert (
        "if it was killed, and none of its jobs runs any more, give `snakemake --unlock`" in shown
    )
    lab.run("--unlock")
    assert not owners(notes)
    lab.run("scaled/TS_1.mrc")

"""What cryoseg did not make is not replaced: which files those are, and what a run says of them."""

import errno
import json
import os
import shutil
import signal
import subprocess
import time
from base64 import urlsafe_b64encode
from contextlib import contextmanager, suppress

import h5py
import mrcfile
import numpy as np
import psutil
import pytest

from conftest import REPOSITORY
from cryoseg import foreign_files, provenance
from cryoseg.errors import ChangedError, InputError
from cryoseg.foreign_files import (
    MOST_READ,
    changed_since,
    has_dated_copy,
    has_time,
    is_signed,
    recorded_or_not,
    recorded_or_not_of_a_job,
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
    for look in (recorded_or_not, recorded_or_not_of_a_job):
        assert look(outputs) == ([ours], [theirs, str(link)])


def test_paths_are_found_as_they_are_spelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "here.mrc")
    put(tmp_path / "b" / "there.mrc")
    for look in (recorded_or_not, recorded_or_not_of_a_job):
        assert look(["here.mrc", "b/there.mrc"]) == ([], ["b/there.mrc", "here.mrc"])
    put(tmp_path / "provenance" / "here.mrc.json")
    for look in (recorded_or_not, recorded_or_not_of_a_job):
        assert look(["here.mrc"]) == (["here.mrc"], [])


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


def never(path):
    """Nobody has noted when a file was made."""
    return []


@pytest.mark.parametrize("age", [0, 3599.5, 3601, 10**6])
@pytest.mark.parametrize("noted", [True, False])
def test_what_was_changed_or_replaced_since_it_was_made_is_no_longer_ours(tmp_path, age, noted):
    """Whenever that was: within the second too, or with an older date, as of a file moved there."""
    paths = [made(tmp_path / f"{name}.h5") for name in ("same", "touched", "corrected")]
    times = {path: [os.stat(path).st_mtime] for path in paths} if noted else {}
    put(tmp_path / "corrected.h5", b"corrected by hand")
    for path in paths[1:]:
        set_back(path, age)
    assert changed_since(paths, lambda path: times.get(path, [])) == paths[2:]


@pytest.mark.parametrize("noted", [True, False])
def test_what_is_being_changed_or_has_a_damaged_record_is_not_taken_for_ours(
    tmp_path, monkeypatch, noted
):
    paths = [made(tmp_path / f"{name}.tsv") for name in ("written", "damaged")]
    record_path(paths[1]).write_text("no record")

    def change(path):
        raise ChangedError(path)

    monkeypatch.setattr(provenance, "sha256", change)
    changed = changed_since(paths, lambda path: [1000.0] if noted else [])
    # Without a note of another time, a file's own word stands for a record that is damaged.
    assert changed == (paths if noted else paths[:1])


def test_what_has_the_noted_time_is_not_read(tmp_path, monkeypatch):
    path = made(tmp_path / "large.h5")
    monkeypatch.setattr(provenance, "sha256", None)
    assert changed_since([path], lambda path: [5.0, os.stat(path).st_mtime]) == []


def test_of_what_is_not_hashed_only_what_says_that_it_is_ours_is(tmp_path):
    header = bytes(208) + b"MAP " + bytes(12) + b"Written by cryoseg 1.0" + bytes(2000)
    signed = made(tmp_path / "signed.mrc", header, hashed=False)
    other = made(tmp_path / "other.mrc", header, hashed=False)
    put(tmp_path / "other.mrc", header.replace(b"cryoseg", b"another"))
    os.utime(signed)
    assert changed_since([signed, other], never) == [other]
    # Programs that write into a volume leave the word in its header.
    assert changed_since([signed], lambda path: [1000.0]) == [signed]


def test_a_folder_that_was_copied_without_its_times_is_not_read_as_a_whole(tmp_path, monkeypatch):
    paths = [made(tmp_path / f"{number}.h5") for number in range(5)]
    for path in paths:
        put(tmp_path / path, b"corrected by hand")
    put(tmp_path / paths[1], bytes(60))  # too much, but the next ones are not
    assert changed_since(paths, never, most=52) == [paths[0], *paths[2:4]]
    monkeypatch.setattr(foreign_files, "MOST_FILES", 2)
    assert changed_since(paths, never, most=1000) == paths[:2]
    assert changed_since(paths, never) == paths


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(errno.EACCES, "Permission denied", folder)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputError, match=r"a/: cannot be listed \(Permission denied\)"):
        recorded_or_not(["a/x.mrc"])


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
    shutil.copy(tmp_path / "theirs.mrc", tmp_path / "theirs.rec")
    assert not is_signed(str(tmp_path / "theirs.rec"))
    for name in ("text.h5", "text.mrc"):
        assert not is_signed(put(tmp_path / name))
        assert not is_signed(put(tmp_path / f"empty_{name}", b""))


def test_a_model_is_ours_if_it_is_there_under_its_date_and_hash_too(tmp_path):
    model = tmp_path / "model_best.ckpt"
    put(model)
    put(tmp_path / "model_best-20260101-000000-01234567.ckpt")
    assert not has_dated_copy(model)
    put(tmp_path / f"model_best-20260101-000000-{sha256(model)[:8]}.ckpt")
    assert has_dated_copy(model)
    assert is_signed(str(model))


def test_times_of_change_are_compared_as_notes_keep_them(tmp_path):
    put(tmp_path / "a")
    os.utime(tmp_path / "a", (1000.9, 1000.9))
    assert has_time(tmp_path / "a", [5.0, 1000.90001])
    assert not has_time(tmp_path / "a", [1000.0, 1001.0])
    assert not has_time(tmp_path / "a", [])
    assert not has_time(tmp_path / "none", [1000.9])


@pytest.mark.parametrize(("count", "more"), [(7, []), (20, []), (27, ["and 7 more"])])
def test_up_to_twenty_of_a_kind_are_named_and_how_many_there_are(count, more):
    paths = [f"predictions/TS_{number}\n_preds.h5" for number in range(count)]
    lines = refusal(paths, ["a.mrc"], {}).splitlines()
    heading = f"{count + 1} files of others where this run would write; nothing was started."
    assert lines[:2] == [heading, f"  no record says that cryoseg made these {count} files:"]
    named = [path.replace("\n", "\\n") for path in paths[:20]]
    assert lines[2:-2] == [f"    {each}" for each in (*named, *more)]
    assert lines[-2] == "  changed after cryoseg had made this file: a.mrc"
    assert "move them to another folder" in lines[-1]


def test_a_name_without_end_does_not_fill_the_terminal():
    assert len(refusal(["a/" * 10**6], [], {})) < 2000


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
        assert contents(lab) == before
    assert "2 files of others" in lab.run("--delete-all-output", fails=True)
    assert contents(lab) == before
    lab.run("scaled/TS_1.mrc")  # which the mistake does not concern


def test_what_snakemake_noted_is_ours_without_a_record_what_it_marked_is_not(lab):
    """An output has its record before its name; what has none is an older one, or not ours."""
    scaled, state = lab.folder / "scaled" / "TS_1.mrc", lab.folder / ".snakemake"
    lab.run("scaled/TS_1.mrc")
    lab.write_tomogram("TS_1", seed=9)
    shutil.rmtree(scaled.parent / "provenance")
    assert lab.plan("scaled/TS_1.mrc") == {("raw_scale_tomogram", "TS_1")}
    for note in (state / "metadata").iterdir():
        note.rename(state / "incomplete" / note.name)
    assert "1 file of others" in lab.run("-n", "scaled/TS_1.mrc", fails=True)


def test_predictions_of_others_do_not_pass_for_ours_where_nothing_is_to_be_done(tmp_path):
    """A stage that needs no scaling, and CryoSiam's predictions, the newest of all files."""
    lab = Lab(tmp_path)
    lab.write_tomogram("TS_1")
    lab.write_config(predict={"lamella": "config/lamella.yaml"})
    lab.write_stage("lamella", data_folder=RAW)
    shutil.copy(REPOSITORY / "tests" / "data" / "lamella.ckpt", lab.folder)
    predictions = lab.folder / "predictions" / "lamella"
    predictions.mkdir(parents=True)
    with h5py.File(predictions / "TS_1_preds.h5", "w") as file:
        file["labels"] = np.ones((24, 32, 40), np.uint8)
    target = "predictions/lamella/TS_1_preds.h5"
    assert f"cryoseg made this file: {target}" in lab.run("-n", target, fails=True)
    # Its own word is enough for what is not replaced, where records and notes are lost.
    with h5py.File(predictions / "TS_1_preds.h5", "a") as file:
        file.attrs["versions"] = '{"cryoseg": "1.0"}'
    assert "Nothing to be done" in lab.run("-n", target)


LABELS = "predictions/lamella/TS_1_preds.h5", "predictions/lamella/TS_10_preds.h5"


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A lab in which the first stage's labels are made, not to be changed."""
    lab = fill(Lab(tmp_path_factory.mktemp("done") / "lab"))
    lab.run("--", *LABELS)
    return lab.folder


@pytest.fixture
def finished(done, tmp_path):
    """A copy of it, with all times."""
    subprocess.run(["cp", "-a", done, tmp_path / "lab"], check=True)
    return Lab(tmp_path / "lab")


def correct(labels):
    with h5py.File(labels, "r+") as file:
        file["labels"][3:9] = 7


def test_what_was_corrected_by_hand_is_not_replaced_however_it_was_copied(finished, tmp_path):
    """The very second after the run; and in a copy whose times say nothing."""
    for name in LABELS:  # as if done just now
        for path in (finished.folder / name, record_path(finished.folder / name)):
            os.utime(path)
    correct(finished.folder / LABELS[0])
    finished.write_stage("lamella", parameters__network__threshold=0.3)
    subprocess.run(["cp", "-r", finished.folder, tmp_path / "copy"], check=True)
    for lab in (finished, Lab(tmp_path / "copy")):
        before = (lab.folder / LABELS[0]).read_bytes()
        shown = lab.run("--", *LABELS, fails=True)
        assert f"changed after cryoseg had made this file: {LABELS[0]}" in shown
        assert (lab.folder / LABELS[0]).read_bytes() == before
        shutil.rmtree(lab.folder / ".snakemake")  # with what is noted there
        again = ("-n", "-R", "lamella_label_voxels", "--")
        assert LABELS[0] in lab.run(*again, *LABELS, fails=True)
        lab.run(*again, LABELS[1])


def test_a_tomogram_that_was_edited_in_place_is_not_replaced(finished):
    with mrcfile.open(finished.folder / "scaled" / "TS_1.mrc", "r+") as mrc:
        mrc.data[:] = 0.5
    finished.write_tomogram("TS_1", seed=9)
    shown = finished.run("scaled/TS_1.mrc", fails=True)
    assert "changed after cryoseg had made this file: scaled/TS_1.mrc" in shown


@pytest.mark.parametrize("in_place_of_the_log", [None, os.mkdir, os.mkfifo])
def test_what_is_corrected_before_its_job_begins_is_not_replaced(in_place_of_the_log, finished):
    """A run may last for days after its plan, and its log not be written by then."""
    finished.write_stage("lamella", parameters__network__threshold=0.3)
    old = {name: (finished.folder / name).stat().st_ino for name in LABELS}
    logs = [finished.folder / f"logs/lamella/label_voxels/{name}.log" for name in ("TS_1", "TS_10")]
    for log in logs:
        log.unlink()
    command = finished.command("--cores", "1", "--", *LABELS)
    run = subprocess.Popen(
        command, cwd=finished.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    while run.poll() is None and not any(log.exists() for log in logs):
        time.sleep(0.01)
    (other,) = [name for name, log in zip(LABELS, logs, strict=True) if not log.exists()]
    correct(finished.folder / other)
    (log,) = [log for log in logs if not log.exists()]
    if in_place_of_the_log:
        in_place_of_the_log(log)
    before = (finished.folder / other).read_bytes()
    shown = run.communicate(timeout=300)[0]
    assert (finished.folder / other).read_bytes() == before
    assert run.returncode
    assert f"{other}: put there or changed by others since cryoseg made it" in shown
    (done,) = {*LABELS} - {other}
    assert (finished.folder / done).stat().st_ino != old[done]
    again = finished.run("--", *LABELS, fails=True)
    assert f"changed after cryoseg had made this file: {other}" in again
    if in_place_of_the_log:
        log.rmdir() if log.is_dir() else log.unlink()
    (finished.folder / other).unlink()
    finished.run("--", *LABELS)


def interrupted(lab, *outputs):
    """Leave what a run leaves that is killed when its jobs have written all: marks, old notes."""
    notes, before, began = lab.folder / ".snakemake", lab.folder / "before", time.time()
    shutil.copytree(notes / "metadata", before)
    lab.run("--", *outputs)
    for note in (notes / "metadata").iterdir():
        if note.read_bytes() != (before / note.name).read_bytes():
            mark = shutil.copyfile(note, notes / "incomplete" / note.name)
            os.utime(mark, (began, began))
    assert any((notes / "incomplete").iterdir())
    shutil.rmtree(notes / "metadata")
    before.rename(notes / "metadata")


@pytest.mark.parametrize("output", ["scaled/TS_1.mrc", LABELS[0]])
def test_what_was_made_anew_by_a_run_that_was_killed_then_needs_no_hand(output, finished):
    finished.write_tomogram("TS_1", seed=9)
    finished.write_stage("lamella", parameters__network__threshold=0.3)
    if output != "scaled/TS_1.mrc":
        finished.run("scaled/TS_1.mrc")
    interrupted(finished, output)
    finished.run("--", *LABELS)


@pytest.mark.parametrize("copy", ["cp -r", "tar", "touch"])
def test_a_project_whose_times_are_lost_is_made_anew_as_ever(copy, finished, tmp_path):
    commands = {
        "cp -r": "cp -r lab copy",
        "tar": "mkdir copy && tar -C lab -c . | tar -C copy -x",  # whole seconds
        "touch": "cp -a lab copy && find copy/scaled copy/predictions -type f -exec touch {} +",
    }
    subprocess.run(commands[copy], shell=True, check=True, cwd=tmp_path)
    lab = Lab(tmp_path / "copy")
    entry = {"input_path": RAW, "output_path": "scaled"}
    lab.write_config(
        scale={"raw": entry | {"invert": True}},
        predict={name: f"config/{name}.yaml" for name in ("lamella", "semantic")},
    )
    planned = lab.run("-n", "--", "scaled/TS_1.mrc", LABELS[0])
    assert "raw_scale_tomogram" in planned
    assert "changed after cryoseg" not in planned


def test_touch_lets_no_corrected_labels_pass_for_made(finished):
    correct(finished.folder / LABELS[0])
    before = (finished.folder / LABELS[0]).read_bytes()
    finished.write_stage("lamella", parameters__network__threshold=0.3)
    shown = finished.run("--touch", "--", *LABELS, fails=True)
    assert f"changed after cryoseg had made this file: {LABELS[0]}" in shown
    finished.write_stage("lamella", parameters__network__threshold=0.4)
    finished.run("--", *LABELS, fails=True)
    assert (finished.folder / LABELS[0]).read_bytes() == before
    finished.run("--touch", "--", LABELS[1])
    assert "Nothing to be done" in finished.run("-n", "--", LABELS[1])


def test_touch_lets_no_corrected_file_pass_that_is_too_large_to_be_read_in_other_plans(finished):
    correct(finished.folder / LABELS[0])
    os.truncate(finished.folder / LABELS[0], int(MOST_READ) + 10**6)  # a hole, no more bytes
    finished.write_stage("lamella", parameters__network__threshold=0.3)
    shown = finished.run("--touch", "--", *LABELS, fails=True)
    assert f"changed after cryoseg had made this file: {LABELS[0]}" in shown


def test_a_corrected_file_that_is_put_back_after_its_job_was_killed_is_kept(finished):
    """It says that cryoseg made it, and there is the mark of a job that makes it."""
    labels = finished.folder / LABELS[0]
    correct(labels)
    record_path(labels).unlink()
    state = finished.folder / ".snakemake"
    for note in (state / "metadata").iterdir():
        shutil.copyfile(note, state / "incomplete" / note.name)
        note.unlink()
    shown = finished.run("-n", "--", LABELS[0], fails=True)
    assert f"no record says that cryoseg made this file: {LABELS[0]}" in shown


@pytest.mark.parametrize("content", [b"", b"somebody's", b"\x89HDF\r\n\x1a\n"])
def test_what_is_no_file_of_its_kind_does_not_pass_for_ours(content, finished):
    put(finished.folder / LABELS[0], content)
    record_path(finished.folder / LABELS[0]).unlink()
    shutil.rmtree(finished.folder / ".snakemake")
    shown = finished.run("-n", "--", LABELS[0], fails=True)
    assert f"no record says that cryoseg made this file: {LABELS[0]}" in shown


def test_what_is_made_of_a_file_that_was_changed_is_told(finished):
    correct(finished.folder / LABELS[0])
    shown = finished.run("-n", "predictions/semantic/TS_1_preds.h5")
    assert f"changed after cryoseg had made it: {LABELS[0]}; what is made of it now" in shown
    assert "changed after" not in finished.run("-n", "predictions/semantic/TS_10_preds.h5")


# While a job runs


@contextmanager
def held(run, script):
    """Hold the processes of a run that work in a script, once there are any; as on a busy node."""
    processes, deadline = [], time.monotonic() + 120
    while not processes:
        assert run.poll() is None, "the script was never started"
        assert time.monotonic() < deadline
        with suppress(psutil.Error):
            for each in psutil.Process(run.pid).children(recursive=True):
                if any(script in part for part in each.cmdline()):
                    processes.append(each)
        time.sleep(0.005)
    for each in processes:
        each.suspend()
    try:
        yield
    finally:
        for each in processes:
            each.resume()


def begun(lab, *targets):
    """A run that is on its way, one job at a time."""
    return subprocess.Popen(
        lab.command("--cores", "1", "--latency-wait", "60", "--", *targets),
        cwd=lab.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def test_what_others_put_there_while_a_job_runs_is_not_replaced(finished):
    labels = finished.folder / LABELS[0]
    finished.write_stage("lamella", parameters__network__threshold=0.3)
    run = begun(finished, LABELS[0])
    with held(run, "label_voxels"):
        assert not labels.exists()
        put(labels)
    shown = run.communicate(timeout=300)[0]
    assert run.returncode
    assert f"{LABELS[0]}: put there by others while this job ran" in shown
    assert labels.read_bytes() == b"somebody's"
    again = finished.run("--", LABELS[0], fails=True)
    assert "1 file of others where this run would write" in again
    labels.unlink()
    finished.run("--", LABELS[0])


@pytest.mark.parametrize("moved", [False, True])
def test_labels_corrected_before_the_run_has_noticed_that_they_are_done_are_kept(moved, finished):
    """It may look at its jobs minutes later, and at those of a group once all have ended."""
    labels = finished.folder / LABELS[0]
    finished.write_stage("lamella", parameters__network__threshold=0.3)
    run = begun(finished, LABELS[0])
    with held(run, "label_voxels"):
        os.kill(run.pid, signal.SIGSTOP)
    deadline = time.monotonic() + 120
    while not labels.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    place = labels.rename(labels.parent / "theirs.h5") if moved else labels
    correct(place)
    corrected = place.read_bytes()
    os.kill(run.pid, signal.SIGCONT)
    if moved:
        assert any("Waiting at most 60 seconds" in line for line in run.stdout)
        place.rename(labels)
    shown = run.communicate(timeout=300)[0]
    assert run.returncode == 0, shown
    assert f"changed after cryoseg had made it: {LABELS[0]}" in shown
    assert finished.plan(LABELS[0]) == set()
    finished.write_stage("lamella", parameters__network__threshold=0.4)
    again = finished.run("--", LABELS[0], fails=True)
    assert f"changed after cryoseg had made this file: {LABELS[0]}" in again
    assert labels.read_bytes() == corrected


@pytest.mark.parametrize("reason", ["corrected labels", "damaged scores"])
def test_a_job_elsewhere_that_fails_does_not_pass_for_done(reason, finished):
    """A member of a group of jobs on a cluster, as its snakemake there is started."""
    finished.write_stage("lamella", parameters__network__threshold=0.3)
    labels, scores = finished.folder / LABELS[0], "predictions/lamella/scores/TS_1_scores.h5"
    name = urlsafe_b64encode(LABELS[0].encode()).decode()
    mark = finished.folder / ".snakemake" / "incomplete" / name
    mark.write_text('{"external_jobid": "17"}')  # as the main process leaves it
    if reason == "corrected labels":
        correct(labels)
        corrected = labels.read_bytes()
    else:
        (finished.folder / scores).write_bytes(b"damaged")
    shown = finished.run(
        *("--mode", "remote", "--executor", "local", "--cores", "1", "--nolock", "--force"),
        *("--ignore-incomplete", "--allowed-rules", "lamella_label_voxels"),
        *("--target-jobs", "lamella_label_voxels:tomogram=TS_1"),
        fails=True,
    )
    if reason == "corrected labels":
        assert f"{LABELS[0]}: put there or changed by others" in shown
        assert labels.read_bytes() == corrected
    else:
        assert scores in shown
    assert mark.exists()

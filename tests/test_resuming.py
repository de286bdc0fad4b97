"""What a training finds in its folder of models: its own is gone on from, all else is kept."""

import os
import re

import pytest
import torch

from cryoseg.errors import InputError
from cryoseg.resuming import Start, find_start, hand_over
from cryoseg.training_records import AT_BEGINNING, BY_EPOCH, Records
from cryoseg.volumes import written_aside

A = {"settings": {"lr": 0.1}, "files": [["TS_1_patches.h5", 7, 1]], "processes": 1}
B = A | {"settings": {"lr": 0.2}}


def write(path, run, number, **state):
    """A checkpoint of a training, told from others by a number; returns its content."""
    about = {"run": run, "best_loss": 1.0, "best_epoch": 1, "finished": False} | state
    return save(path, {"callbacks": {"Checkpoints": about}, "number": number})


def save(path, content):
    with written_aside(path) as aside:  # as a training writes
        torch.save(content, aside)
    return path.read_bytes()


def contents(folder, pattern="*"):
    return [path.read_bytes() for path in sorted(folder.glob(pattern)) if path.is_file()]


def test_another_trainings_last_is_kept_without_a_best_beside_it(tmp_path):
    last = write(tmp_path / "last.ckpt", A, 1)
    assert find_start(tmp_path, B, continue_training=False) == Start()
    write(tmp_path / "last.ckpt", B, 2)
    assert contents(tmp_path, "last-*.ckpt") == [last]


def test_killed_while_it_keeps_what_was_left_it_keeps_the_rest_the_next_time(tmp_path, monkeypatch):
    left = [write(tmp_path / f"{name}.ckpt", A, name) for name in ("last", "best_so_far")]
    replace = os.replace

    def killed(*paths):
        raise KeyboardInterrupt

    for cut in (killed, replace, replace):
        monkeypatch.setattr(os, "replace", cut)
        try:
            find_start(tmp_path, B, continue_training=False)
        except KeyboardInterrupt:
            assert cut is killed
    assert contents(tmp_path, "last-*.ckpt") == left[:1]
    assert contents(tmp_path, "best_so_far-*.ckpt") == left[1:]


@pytest.mark.parametrize("continue_training", [False, True])
def test_a_best_of_another_training_is_kept_where_there_is_no_last(tmp_path, continue_training):
    best = write(tmp_path / "best_so_far.ckpt", A, 1)
    assert find_start(tmp_path, B, continue_training) == Start()
    assert not (tmp_path / "best_so_far.ckpt").exists()
    assert contents(tmp_path) == [best]


def test_a_best_of_its_own_stays_where_there_is_no_last(tmp_path):
    write(tmp_path / "best_so_far.ckpt", A, 1)
    assert find_start(tmp_path, A, continue_training=False) == Start()
    assert [path.name for path in tmp_path.iterdir()] == ["best_so_far.ckpt"]


def test_what_a_finished_training_left_is_kept_too(tmp_path):
    last = write(tmp_path / "last.ckpt", A, 1, finished=True)
    find_start(tmp_path, B, continue_training=False)
    write(tmp_path / "last.ckpt", B, 2)
    assert contents(tmp_path, "last-*.ckpt") == [last]


def test_weights_are_taken_from_a_last_that_stays(tmp_path):
    last = write(tmp_path / "last.ckpt", A, 1)
    best = write(tmp_path / "best_so_far.ckpt", A, 2)
    for _ in range(2):  # killed before its own first last.ckpt
        start = find_start(tmp_path, B, continue_training=True)
        assert start == Start(weights=start.weights)
    write(tmp_path / "last.ckpt", B, 3)
    assert start.weights.read_bytes() == last
    assert contents(tmp_path, "*-*.ckpt") == [best, last]


def test_a_training_that_another_interrupted_goes_on_with_its_best(tmp_path):
    last = write(tmp_path / "last.ckpt", A, 1)
    best = write(tmp_path / "best_so_far.ckpt", A, 2)
    find_start(tmp_path, B, continue_training=False)
    others = write(tmp_path / "best_so_far.ckpt", B, 3)  # killed before its first last.ckpt
    assert find_start(tmp_path, A, continue_training=False) == Start(last=tmp_path / "last.ckpt")
    assert (tmp_path / "last.ckpt").read_bytes() == last
    assert (tmp_path / "best_so_far.ckpt").read_bytes() == best
    assert contents(tmp_path, "best_so_far-*.ckpt") == [others]


def test_a_finished_training_hands_over_its_own_model_alone(tmp_path):
    model = tmp_path / "model_best.ckpt"
    own = write(tmp_path / "best_so_far.ckpt", A, 1)
    write(tmp_path / "last.ckpt", A, 2, finished=True)
    hand_over(tmp_path, model, A)
    write(tmp_path / "best_so_far.ckpt", B, 3)
    find_start(tmp_path, B, continue_training=False)
    others = write(tmp_path / "best_so_far.ckpt", B, 4)  # killed before its first last.ckpt
    newer = write(tmp_path / "model_best-29990101-000000-00000000.ckpt", B, 5)
    model.unlink()
    assert find_start(tmp_path, A, continue_training=False).finished
    kept = hand_over(tmp_path, model, A)
    assert kept.read_bytes() == model.read_bytes() == own
    assert {others, newer} < set(contents(tmp_path))


def test_a_training_without_a_model_does_not_hand_over_anothers(tmp_path):
    model = tmp_path / "model_best.ckpt"
    write(tmp_path / "best_so_far.ckpt", B, 1)
    write(tmp_path / "model_best-20250101-000000-00000000.ckpt", B, 2)
    before = contents(tmp_path)
    with pytest.raises(InputError, match="no validation loss was a number, or it was removed"):
        hand_over(tmp_path, model, A)
    assert contents(tmp_path) == before


def test_killed_while_a_model_is_handed_over_it_is_handed_over_once(tmp_path):
    """Its dated name comes first, so that a model_best.ckpt of ours always has one."""
    best = write(tmp_path / "best_so_far.ckpt", A, 1)
    write(tmp_path / "last.ckpt", A, 2, finished=True)
    (tmp_path / "model_best.ckpt").mkdir()
    with pytest.raises(InputError, match="put there by others"):  # for a kill before the copy
        hand_over(tmp_path, tmp_path / "model_best.ckpt", A)
    (tmp_path / "model_best.ckpt").rmdir()
    hand_over(tmp_path, tmp_path / "model_best.ckpt", A)
    assert contents(tmp_path, "model_best*.ckpt") == [best, best]


def test_a_model_of_others_that_came_while_training_is_not_replaced(tmp_path):
    best = write(tmp_path / "best_so_far.ckpt", A, 1)
    write(tmp_path / "last.ckpt", A, 2, finished=True)
    theirs = write(tmp_path / "model_best.ckpt", B, 3)
    for _ in range(2):
        with pytest.raises(InputError, match=r"model_best\.ckpt: put there by others"):
            hand_over(tmp_path, tmp_path / "model_best.ckpt", A)
        assert (tmp_path / "model_best.ckpt").read_bytes() == theirs
    (tmp_path / "model_best.ckpt").unlink()
    hand_over(tmp_path, tmp_path / "model_best.ckpt", A)
    assert contents(tmp_path, "model_best*.ckpt") == [best, best]


@pytest.mark.parametrize("continue_training", [False, True])
@pytest.mark.parametrize(
    "state",
    [
        "no mapping",
        {},
        {"finished": True, "best_loss": 1.0, "best_epoch": 1},
        {"run": A, "best_loss": 1.0, "best_epoch": 1},
        {"run": "A", "finished": True, "best_loss": 1.0, "best_epoch": 1},
        {"run": A | {"settings": 1}, "finished": True, "best_loss": 1.0, "best_epoch": 1},
        {"run": A, "finished": "yes", "best_loss": 1.0, "best_epoch": 1},
        {"run": A, "finished": True},
    ],
    ids=str,
)
def test_a_state_that_is_not_ours_is_anothers(tmp_path, state, continue_training, caplog):
    last = save(tmp_path / "last.ckpt", {"callbacks": {"Checkpoints": state}})
    start = find_start(tmp_path, A, continue_training)
    assert start == Start(weights=start.weights)
    assert (start.weights is not None) == continue_training
    assert "last.ckpt is of no training of cryoseg" in caplog.text
    assert contents(tmp_path, "last-*.ckpt") == [last]


@pytest.mark.parametrize("name", ["last", "best_so_far"])
def test_what_is_no_checkpoint_is_kept(tmp_path, name, caplog):
    (tmp_path / f"{name}.ckpt").write_bytes(b"notes of somebody")
    assert find_start(tmp_path, A, continue_training=False) == Start()
    assert contents(tmp_path, f"{name}-*.ckpt") == [b"notes of somebody"]
    assert "not a checkpoint" in caplog.text


def test_settings_that_differ_are_named(tmp_path, caplog):
    odd = A | {"settings": {"lr": 0.1, 3: 4}}  # whoever wrote it
    write(tmp_path / "last.ckpt", odd, 1)
    find_start(tmp_path, B, continue_training=False)
    assert "is of a training with other settings (3, lr): this one starts anew" in caplog.text
    assert "what was left there is kept as last-" in caplog.text


def test_without_hard_links_a_last_is_copied(tmp_path, monkeypatch):
    def refused(*paths):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    last = write(tmp_path / "last.ckpt", A, 1)
    find_start(tmp_path, B, continue_training=False)
    assert contents(tmp_path, "last*.ckpt") == [last, last]


# What tells of a training, beside its models


@pytest.fixture
def log_dir(tmp_path):
    """A folder for a training's records, and one, begun/, with those that it begins with."""
    for folder in ("log/model", "begun"):
        (tmp_path / folder).mkdir(parents=True)
    for name in AT_BEGINNING:
        (tmp_path / "begun" / name).write_text(f"our {name}")
    return tmp_path / "log"


def begin(log_dir, run=A, goes_on=False):
    Records(log_dir, run).begin(log_dir.parent / "begun", goes_on)


def end_epoch(log_dir, text, run=A):
    for name in BY_EPOCH:
        with Records(log_dir, run).written(name) as aside:
            aside.write_text(text)


def in_log_dir(log_dir):
    return {path.name: path.read_text() for path in log_dir.iterdir() if path.is_file()}


OURS = {name: f"our {name}" for name in AT_BEGINNING}


def test_all_that_lies_under_a_records_name_is_kept_under_its_date_and_hash(log_dir, caplog):
    theirs = {name: f"somebody's {name}" for name in (*AT_BEGINNING, *BY_EPOCH)}
    for name, text in theirs.items():
        (log_dir / name).write_text(text)
        os.utime(log_dir / name, (1000, 1000))
    begin(log_dir)
    found = in_log_dir(log_dir)
    assert {name: found.pop(name) for name in OURS} == OURS
    assert sorted(found.values()) == sorted(theirs.values())
    for name, text in found.items():
        assert re.fullmatch(r"\w+-19700101-\d{6}-[0-9a-f]{8}\.\w+", name)
        assert name.split("-")[0] in text
        assert name in caplog.text
    begin(log_dir)
    assert in_log_dir(log_dir) == found | OURS  # what this training left is its own


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_training_that_was_killed_knows_its_own_records(log_dir, goes_on):
    """Goes_on: from a last.ckpt; else the kill came before the first one, and it begins anew."""
    begin(log_dir)
    end_epoch(log_dir, "1")
    if goes_on:
        (log_dir / "model" / "last.ckpt").touch()
        end_epoch(log_dir, "2")
    before = in_log_dir(log_dir)
    begin(log_dir, goes_on=goes_on)
    assert in_log_dir(log_dir) == before
    (log_dir / "metrics.csv").write_text("corrected by hand")
    begin(log_dir, goes_on=goes_on)
    found = in_log_dir(log_dir)
    assert "metrics.csv" not in found  # until its next epoch
    assert len(found) == len(before)
    assert "corrected by hand" in found.values()


def test_killed_before_a_table_has_its_name_the_one_before_is_its_own(log_dir, monkeypatch):
    begin(log_dir)
    end_epoch(log_dir, "1")
    before = in_log_dir(log_dir)
    replace = os.replace

    def killed(source, target):
        if target.name == "metrics.csv":
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        end_epoch(log_dir, "2")
    monkeypatch.undo()
    begin(log_dir, goes_on=True)
    assert in_log_dir(log_dir) == before


def test_records_of_a_training_that_another_interrupted_are_kept_both_times(log_dir):
    (log_dir / "model" / "last.ckpt").touch()
    begin(log_dir, A)
    end_epoch(log_dir, "of A", A)
    begin(log_dir, B)
    end_epoch(log_dir, "of B", B)
    begin(log_dir, A, goes_on=True)
    found = list(in_log_dir(log_dir).values())
    assert (found.count("of A"), found.count("of B")) == (2, 2)
    assert not (log_dir / "metrics.csv").exists()


@pytest.mark.parametrize("how", ["ended", "last.ckpt removed"])
def test_records_of_an_earlier_training_of_the_same_kind_are_kept(log_dir, how):
    begin(log_dir)
    (log_dir / "model" / "last.ckpt").touch()
    end_epoch(log_dir, "earlier")
    (log_dir / "model" / "last.ckpt").unlink()
    if how == "ended":
        Records(log_dir, A).end()
        assert list((log_dir / "model").iterdir()) == []
    begin(log_dir)
    assert list(in_log_dir(log_dir).values()).count("earlier") == 2
    assert not (log_dir / "metrics.csv").exists()


@pytest.mark.parametrize("text", ["mine", "[]", "{}", '{"run": 1, "saved": 0, "files": {"a": 1}}'])
def test_somebodys_file_in_the_place_of_the_hashes_is_kept_too(log_dir, text):
    (log_dir / "model" / "records.json").write_text(text)
    begin(log_dir)
    (kept,) = (log_dir / "model").glob("records-*.json")
    assert kept.read_text() == text
    end_epoch(log_dir, "1")
    Records(log_dir, A).end()
    assert list((log_dir / "model").iterdir()) == [kept]


def test_a_records_second_name_is_never_that_of_another_file(log_dir):
    for number in range(3):
        (log_dir / "metrics.csv").write_text("the same")
        os.utime(log_dir / "metrics.csv", (1000, 1000))
        begin(log_dir)
        assert list(in_log_dir(log_dir).values()).count("the same") == number + 1


def test_what_is_no_file_is_kept_too(log_dir):
    (log_dir / "curves.png").mkdir()
    (log_dir / "split.tsv").symlink_to("nowhere")
    os.mkfifo(log_dir / "settings.yaml")
    begin(log_dir)
    kept = {path.name.split("-")[0]: path for path in log_dir.iterdir() if "-" in path.name}
    assert kept["curves"].is_dir()
    assert kept["split"].readlink().name == "nowhere"
    assert kept["settings"].is_fifo()


def test_killed_while_records_are_kept_the_rest_is_kept_the_next_time(log_dir, monkeypatch):
    theirs = {name: f"somebody's {name}" for name in (*AT_BEGINNING, *BY_EPOCH)}
    for name, text in theirs.items():
        (log_dir / name).write_text(text)
    rename, renamed = os.rename, []

    def killed_after_one(*paths):
        if renamed:
            raise KeyboardInterrupt
        renamed.append(paths)
        rename(*paths)

    monkeypatch.setattr(os, "rename", killed_after_one)
    for _ in range(len(theirs) - 1):
        renamed.clear()
        with pytest.raises(KeyboardInterrupt):
            begin(log_dir)
        assert set(in_log_dir(log_dir).values()) == set(theirs.values())  # nothing is written
    renamed.clear()
    begin(log_dir)
    assert set(in_log_dir(log_dir).values()) == {*theirs.values(), *OURS.values()}

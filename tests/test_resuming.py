"""What a training finds in its folder of models: its own is gone on from, all else is kept."""

import os

import pytest
import torch

from cryoseg.errors import InputError
from cryoseg.resuming import Start, find_start, hand_over
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
    with pytest.raises(OSError, match="directory"):  # stands for a kill before the copy
        hand_over(tmp_path, tmp_path / "model_best.ckpt", A)
    (tmp_path / "model_best.ckpt").rmdir()
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

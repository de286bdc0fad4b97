"""Nothing that is trained on is validated on."""

import json

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cryoseg.errors import InputError
from cryoseg.patches import patch_corners
from cryoseg.splits import part_of, split_behind, split_corners, split_tomograms

# Names that begin alike, as tomograms of one session do.
NAMES = st.lists(st.text("TS_1.0", min_size=1, max_size=6), min_size=1, max_size=30, unique=True)
RATIOS = st.floats(0, 1)


@given(names=NAMES, ratio=RATIOS, seed=st.integers(0, 9))
def test_every_tomogram_is_on_one_side_and_one_is_left_to_train_on(names, ratio, seed):
    train, val = split_tomograms(names, None, ratio, seed)
    assert sorted([*train, *val]) == sorted(names)
    assert train
    assert bool(val) == (ratio > 0 and len(names) > 1)


@given(names=NAMES, ratio=RATIOS, data=st.data())
def test_the_split_does_not_depend_on_the_order_of_names(names, ratio, data):
    other = data.draw(st.permutations(names))
    assert split_tomograms(names, None, ratio, 3) == split_tomograms(other, None, ratio, 3)


@given(names=NAMES, ratio=RATIOS, new=st.text("new", min_size=3))
def test_a_new_tomogram_moves_one_of_the_others_at_most(names, ratio, new):
    _, before = split_tomograms(names, None, ratio, 0)
    _, after = split_tomograms([*names, new], None, ratio, 0)
    assert len(set(before) ^ (set(after) - {new})) <= 1


def test_another_seed_holds_back_other_tomograms():
    names = [f"TS_{number}" for number in range(40)]
    splits = [split_tomograms(names, None, 0.2, seed)[1] for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]
    assert [len(val) for val in splits] == [8, 8, 8]


def test_names_are_compared_as_a_whole():
    names = ["TS_1", "TS_1_dup", "TS_10", "TS_2"]
    assert split_tomograms(names, ["TS_1"]) == (["TS_10", "TS_1_dup", "TS_2"], ["TS_1"])


def test_names_to_validate_on_that_cannot_be_are_told():
    with pytest.raises(InputError, match="val_files has TS_3"):
        split_tomograms(["TS_1", "TS_2"], ["TS_2", "TS_3"])
    with pytest.raises(InputError, match="none is left to train on"):
        split_tomograms(["TS_1", "TS_2"], ["TS_2", "TS_1"])


@st.composite
def tomograms_of_patches(draw):
    """Shape, patch size and corners of a tomogram, some of its patches left out."""
    size = tuple(draw(st.integers(1, 12)) for _ in range(3))
    shape = tuple(edge + draw(st.integers(0, 50)) for edge in size)
    corners = patch_corners("t", shape, size, draw(st.sampled_from([0, 0.3, 0.5, 0.8])))
    assume(len(corners) < 3000)
    kept = draw(st.integers(0, 2**32))
    return shape, size, corners[np.random.default_rng(kept).random(len(corners)) < 0.7]


@given(tomogram=tomograms_of_patches(), ratio=st.floats(0.05, 0.95))
def test_no_voxel_of_one_tomogram_is_on_both_sides(tomogram, ratio):
    shape, size, corners = tomogram
    try:
        train, val = split_corners(corners, size, shape, ratio)
    except InputError:
        low, high = (corners.min(0), corners.max(0)) if len(corners) else (0, np.zeros(3))
        assert (high - low < size).all(), "patches that lie apart along an axis can be split"
        return
    owners = np.zeros(shape, np.uint8)
    for mark, chosen in ((1, train), (2, val)):
        assert len(chosen)
        for corner in corners[chosen]:
            owners[tuple(slice(c, c + e) for c, e in zip(corner, size, strict=True))] |= mark
    assert owners.max() <= 2


def test_the_regions_lie_a_patch_apart_along_the_longest_axis():
    shape, size = (32, 64, 320), (32, 32, 32)
    corners = patch_corners("t", shape, size, 0.5)
    train, val = split_corners(corners, size, shape, 0.2)
    assert corners[val, 2].min() - (corners[train, 2].max() + 32) == 32
    assert len(val) / len(corners) == pytest.approx(0.2, abs=0.05)


def test_a_small_tomogram_is_split_without_a_gap():
    corners = patch_corners("t", (32, 32, 64), (32, 32, 32), 0.5)
    train, val = split_corners(corners, (32, 32, 32), (32, 32, 64), 0.1)
    assert (train.tolist(), val.tolist()) == ([0], [2])


def test_nothing_is_held_back_where_nothing_is_asked():
    corners = patch_corners("t", (32, 32, 64), (32, 32, 32), 0.5)
    train, val = split_corners(corners, (32, 32, 32), (32, 32, 64), 0)
    assert (len(train), len(val)) == (3, 0)


def finished_training(folder):
    """What a training leaves of its newest model, and of one before it."""
    (folder / "model").mkdir(parents=True)
    newest = folder / "model" / "model_best.ckpt"
    newest.write_bytes(b"new")
    (folder / "model" / "model_best-20260101-000000-abc.ckpt").write_bytes(b"new")
    (folder / "model" / "model_best-20250101-000000-def.ckpt").write_bytes(b"old")
    split = {"train": {"TS_2": [0, 1], "TS_1": [0]}, "validation": {"TS_3": [0], "TS_1": [5]}}
    (folder / "split.json").write_text(json.dumps(split))
    return newest


def test_a_model_tells_which_tomograms_it_was_trained_on(tmp_path):
    newest = finished_training(tmp_path / "log")
    split = split_behind(newest)
    assert split == {"train": ["TS_1", "TS_2"], "validation": ["TS_1", "TS_3"]}
    parts = [part_of(split, name) for name in ("TS_1", "TS_2", "TS_3", "TS_4")]
    assert parts == ["train", "train", "validation", "-"]
    assert split_behind(newest.with_name("model_best-20260101-000000-abc.ckpt")) == split


@pytest.mark.parametrize(
    "text",
    ["[]", "{", "{}", "3000", '{"train": ["TS_1"], "validation": 1}', 99999 * "[", "\xff"],
    ids=["list", "torn", "empty", "number", "lists", "deep", "Latin-1"],
)
def test_a_file_that_is_called_as_the_split_and_is_none_is_left_out_with_a_warning(
    text, tmp_path, caplog
):
    newest = finished_training(tmp_path / "log")
    (tmp_path / "log" / "split.json").write_bytes(text.encode("latin-1"))
    assert split_behind(newest) == {}
    (warning,) = caplog.messages
    assert warning.startswith(f"{tmp_path}/log/split.json: is left out of account")
    assert len(warning) < 1000


def test_of_another_model_nobody_knows_what_it_was_trained_on(tmp_path):
    newest = finished_training(tmp_path / "log")
    assert split_behind(newest.with_name("model_best-20250101-000000-def.ckpt")) == {}
    (tmp_path / "model.ckpt").write_bytes(b"new")
    assert split_behind(tmp_path / "model.ckpt") == {}
    assert part_of({}, "TS_1") == "-"

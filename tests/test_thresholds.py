"""Thresholds by class: what they mean, what the scores keep for them, and how they are chosen."""

from functools import cache

import h5py
import hdf5plugin  # noqa: F401  (the scores' codec)
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from choose_sizes import choose_sizes
from choose_thresholds import choose_thresholds
from cryoseg.errors import InputError
from cryoseg.inference import score_volume
from cryoseg.metrics import TrueLabels
from cryoseg.postprocessing import (
    remove_small,
    threshold_per_label,
    threshold_scores,
    used_thresholds,
)
from cryoseg.scores import PROBABILITY_STEPS, ScoresWriter
from cryoseg.scoring import Normalisation, Scorer
from cryoseg.tables import read_table
from cryoseg.threshold_choice import (
    THRESHOLDS,
    chosen_values,
    count_at_present,
    count_at_sizes,
    count_at_thresholds,
    mean_dice,
)
from cryoseg.volumes import write_mrc
from networks import random_network
from try_sizes import try_sizes
from try_thresholds import try_thresholds

SHAPE = (9, 11, 10)
# What scores tell of the tomogram and the model that they are of.
ABOUT = {
    "checkpoint_sha256": 64 * "0", "voxel_size": (10.0,) * 3, "origin": (0.0,) * 3,
    "nstart": (0,) * 3, "settings": {}, "versions": {},
}  # fmt: skip


@cache
def scorer_of(classes):
    return Scorer(random_network(out_channels=classes), runners_up=True, probabilities=True)


def scored(classes, seed=0, gain=1.0):
    """Probabilities (C, Z, Y, X) of a random network's head, and the scores kept of them."""
    torch.manual_seed(seed)
    logits = gain * torch.randn(1, classes, *SHAPE)
    scores = {name: values[0] for name, values in scorer_of(classes)._probabilities(logits).items()}
    probs = scores.pop("probs").numpy()
    kept = {name: values.numpy() for name, values in scores.items()}
    for name in ("probability", "runner_up_probability"):
        kept[name] = np.rint(kept[name] * np.float32(PROBABILITY_STEPS)).astype(np.uint16)
    return probs, kept


def zeroed(probs, thresholds):
    """What CryoSiam documents: probabilities below the threshold are 0, then the largest wins."""
    stored = np.rint(probs * np.float32(PROBABILITY_STEPS))
    lowest = np.rint(np.asarray(thresholds) * PROBABILITY_STEPS).reshape(-1, 1, 1, 1)
    return np.where(stored >= lowest, probs, 0).argmax(axis=0)


@given(
    classes=st.integers(3, 7),
    seed=st.integers(0, 1000),
    gain=st.sampled_from([0.3, 1.0, 4.0]),
    data=st.data(),
)
def test_thresholds_by_class_zero_what_is_below_and_take_the_largest(classes, seed, gain, data):
    probs, kept = scored(classes, seed, gain)
    numbers = st.floats(0, 1) | st.floats(0, 0.4)
    thresholds = [0, *data.draw(st.lists(numbers, min_size=classes - 1, max_size=classes - 1))]
    labels, _ = threshold_scores(kept, np.array(thresholds))
    np.testing.assert_array_equal(labels, zeroed(probs, thresholds))


def test_a_class_that_fails_its_threshold_leaves_the_voxel_to_the_next():
    kept = {
        "winner": np.array([[[1, 1, 1]]], np.uint8),
        "probability": np.rint(np.full((1, 1, 3), 0.5) * PROBABILITY_STEPS),
        "runner_up": np.array([[[[2, 2, 0]]]], np.uint8),
        "runner_up_probability": np.rint(np.array([[[[0.3, 0.1, 0]]]]) * PROBABILITY_STEPS),
    }
    assert threshold_scores(kept, np.array([0, 0.6, 0.2]))[0].tolist() == [[[2, 0, 0]]]
    assert threshold_scores(kept, np.array([0, 0.5, 0.2]))[0].tolist() == [[[1, 1, 1]]]


def test_one_threshold_for_all_needs_the_winner_only():
    probs, kept = scored(5)
    alone = {name: kept[name] for name in ("winner", "probability")}
    labels, _ = threshold_scores(alone, np.array([0, 0.3, 0.3, 0.3, 0.3]))
    np.testing.assert_array_equal(labels, zeroed(probs, [0.3] * 5))
    np.testing.assert_array_equal(labels, threshold_scores(alone, 0.3)[0])
    with pytest.raises(InputError, match="only the winning class was kept"):
        threshold_scores(alone, np.array([0, 0.3, 0.3, 0.3, 0.4]))


@pytest.mark.parametrize(
    ("given_as", "channels", "wanted"),
    [
        (None, 1, [0, 0.9]),
        (None, 3, [0, 0.1, 0.1]),
        (0.4, 3, [0, 0.4, 0.4]),
        ([0.7], 1, [0, 0.7]),
        ([0.2, 0.3], 3, [0, 0.2, 0.3]),
        ([0, 0.2, 0.3], 3, [0, 0.2, 0.3]),
        ({"2": 0.3}, 3, [0, 0.1, 0.3]),
    ],
)
def test_a_threshold_is_one_for_all_or_by_label(given_as, channels, wanted):
    assert threshold_per_label(given_as, channels).tolist() == wanted


@pytest.mark.parametrize(
    ("given_as", "complaint"),
    [
        ([0.1], "threshold has 1 entries; the model has 3 channels"),
        ({3: 0.1}, "threshold names label 3; the model has labels 1 to 2"),
        ({1: 1.1}, "threshold has 1.1 for label 1; it must be a number from 0 to 1"),
    ],
)
def test_thresholds_that_fit_no_label_are_refused(given_as, complaint):
    with pytest.raises(InputError, match=complaint):
        threshold_per_label(given_as, 3)


def test_thresholds_are_written_down_as_one_where_they_are():
    assert used_thresholds(np.array([0, 0.2, 0.2])) == 0.2
    assert used_thresholds(np.array([0, 0.2, 0.3])) == {1: 0.2, 2: 0.3}


@pytest.mark.parametrize("tile_size", [None, (8, 8, 16)])
def test_runners_up_are_kept_in_the_file_and_nothing_else_changes(tmp_path, tile_size):
    volume = np.random.default_rng(0).random((20, 18, 30), dtype=np.float32)
    mask = np.zeros(volume.shape, np.uint8)
    mask[4:15] = 1
    found = {}
    for wanted in (False, True):
        scorer = Scorer(random_network(out_channels=5), runners_up=wanted)
        path = tmp_path / f"{wanted}.h5"
        with ScoresWriter(path, volume.shape, 5, ABOUT, runners_up=wanted) as writer:
            score_volume(
                volume, writer.write, scorer, 1e12, Normalisation(), mask, tile_size=tile_size
            )
        with h5py.File(path) as file:
            found[wanted] = {name: file[name][:] for name in file}
    assert sorted(found[False]) == ["probability", "winner"]
    for name in found[False]:
        np.testing.assert_array_equal(found[True][name], found[False][name])
    assert found[True]["runner_up"].shape == (3, *volume.shape)
    assert found[True]["runner_up"].any()
    assert not found[True]["runner_up"][:, mask == 0].any()


# Choosing


def truth_of(probs, seed=1):
    """True labels that have something to do with what the network says; some are ignored."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(0, 0.1, probs.shape)
    true = (probs + noise).argmax(axis=0).astype(np.uint8)
    return np.where(rng.random(true.shape) < 0.1, np.uint8(255), true)


def dice(labels, true, label):
    counted = true != 255
    one, other = (labels == label) & counted, true == label
    return 2 * np.count_nonzero(one & other) / max(1, one.sum() + other.sum())


def dice_of(row):
    return 2 * row.common_voxels / max(1, row.true_voxels + row.found_voxels)


@pytest.mark.parametrize("now", [[0, 0.1, 0.1, 0.1], [0, 0.45, 0.333, 0.2]])
def test_voxels_are_counted_at_each_threshold_as_if_it_were_set(now):
    now = np.array(now)
    probs, kept = scored(4, gain=1.5)
    true = truth_of(probs)
    table = count_at_thresholds(kept, TrueLabels(true), now)
    assert len(table) == sum(99 + (value not in THRESHOLDS) for value in now[1:])
    for row in table.itertuples():
        thresholds = now.copy()
        thresholds[row.label] = row.threshold
        labels, _ = threshold_scores(kept, thresholds)
        assert row.found_voxels == np.count_nonzero((labels == row.label) & (true != 255))
        assert dice_of(row) == pytest.approx(dice(labels, true, row.label))
        assert row.now == (row.threshold == now[row.label])


def test_one_channel_has_thresholds_too():
    probability = np.random.default_rng(0).integers(0, 65536, SHAPE).astype(np.uint16)
    true = (probability > 0.7 * PROBABILITY_STEPS).astype(np.uint8)
    counted = count_at_thresholds(
        {"probability": probability}, TrueLabels(true), np.array([0, 0.9])
    )
    best = mean_dice(counted.assign(tomogram="TS_1"), "threshold")
    assert chosen_values(best, "threshold") == {1: 0.7}
    assert best["dice"].max() == 1


def test_voxels_are_counted_at_each_size_as_if_it_were_set():
    rng = np.random.default_rng(3)
    labels = (rng.integers(1, 4, SHAPE) * (rng.random(SHAPE) < 0.12)).astype(np.uint8)
    true = np.where(rng.random(SHAPE) < 0.2, rng.integers(0, 4, SHAPE), labels).astype(np.uint8)
    true[:2] = 255
    table = count_at_sizes(labels, TrueLabels(true), np.array([-1, -1, 11, 2]))
    assert table["found_voxels"].nunique() > 10
    for row in table.itertuples():
        sizes = np.full(4, -1)
        sizes[row.label] = row.size
        left = labels.copy()
        remove_small(left, sizes)
        assert dice_of(row) == pytest.approx(dice(left, true, row.label))


def counted(label, values, found, common, true, now, tomogram="TS_1"):
    columns = {"threshold": values, "found_voxels": found, "common_voxels": common}
    table = pd.DataFrame(columns).assign(true_voxels=true, label=label, tomogram=tomogram)
    return table.assign(now=table["threshold"] == now)


def test_the_threshold_of_the_largest_mean_dice_is_chosen():
    values = [0.1, 0.2, 0.3, 0.4, 0.5]
    table = pd.concat(
        [
            counted(1, values, [20, 10, 10, 10, 0], [10, 10, 10, 10, 0], 10, now=0.1),
            counted(1, values, [10, 10, 10, 10, 0], [4, 5, 5, 5, 0], 10, now=0.1, tomogram="b"),
            # In no tomogram: nothing tells what is better.
            counted(2, values, [5, 4, 3, 2, 1], [0] * 5, 0, now=0.2),
            # What is found where the class is not decides nothing, not even a single voxel.
            counted(3, values, [5, 5, 1, 0, 0], [0] * 5, 0, now=0.2),
            counted(3, values, [9, 9, 9, 5, 0], [8, 8, 9, 5, 0], 10, now=0.2, tomogram="b"),
        ]
    )
    means = mean_dice(table, "threshold")
    assert chosen_values(means, "threshold") == {1: 0.3, 2: 0.2, 3: 0.3}
    of_three = means[means["label"] == 3].set_index("threshold")
    assert of_three["tomograms"].tolist() == [1] * 5
    assert of_three["dice"][0.3] == pytest.approx(18 / 19)
    assert of_three["false_voxels_elsewhere"].tolist() == [5, 5, 1, 0, 0]


def test_of_equally_good_thresholds_that_with_fewest_false_voxels_elsewhere_is_chosen():
    values = [0.1, 0.2, 0.3, 0.4]
    table = pd.concat(
        [
            counted(1, values, [8, 8, 8, 5], [8, 8, 8, 5], 10, now=0.1),
            counted(1, values, [9, 9, 2, 0], [0] * 4, 0, now=0.1, tomogram="b"),
        ]
    )
    assert chosen_values(mean_dice(table, "threshold"), "threshold") == {1: 0.3}


def test_of_equally_good_sizes_the_smallest_is_chosen():
    table = counted(1, [-1, 1, 2, 3], [10, 8, 8, 5], [6, 6, 6, 4], 8, now=-1)
    means = mean_dice(table.rename(columns={"threshold": "size"}), "size")
    assert chosen_values(means, "size") == {1: 1}


TRUE = np.repeat([0, 1, 2], [100, 100, 10]).astype(np.uint8).reshape(1, 1, -1)


def competing():
    """Scores of TRUE where class 2 takes what class 1 leaves, from a threshold of 0.5 on."""
    runs = [100, 100, 10]

    def of(values, dtype=np.uint16):
        return np.repeat(values, runs).astype(dtype).reshape(1, 1, -1)

    steps = PROBABILITY_STEPS
    return {
        "winner": of([1, 1, 2], np.uint8),
        "probability": of(np.rint(np.array([0.5, 0.9, 0.35]) * steps)),
        "runner_up": of([2, 0, 0], np.uint8)[None],
        "runner_up_probability": of(np.rint(np.array([0.4, 0, 0]) * steps))[None],
    }


@pytest.fixture
def choice(tmp_path):
    """Chooses thresholds and sizes by scores of TRUE: the table of the choice, and the stage."""

    def choose(scores, threshold):
        with ScoresWriter(tmp_path / "s.h5", TRUE.shape, 3, ABOUT, runners_up=True) as writer:
            writer.write([(0, size) for size in TRUE.shape], scores)
        write_mrc(tmp_path / "true.mrc", TRUE, voxel_size=10.0)
        (tmp_path / "model.json").write_text("{}")
        source, curve = (tmp_path / "s.h5", tmp_path / "true.mrc"), tmp_path / "thresholds.tsv"
        tables = [tmp_path / f"TS_1_{step}.tsv" for step in ("thresholds", "sizes")]
        network = {"threshold": threshold, "postprocessing_sizes": None}
        stage = {"parameters": {"network": network}, "evaluate": {"choose_thresholds": True}}
        names = {"class_names": None}
        try_thresholds(*source, tables[0], settings=network)
        choose_thresholds(tables[0], tmp_path / "model.json", curve, settings=names)
        try_sizes(*source, curve, tables[1], settings=network)
        written = [tmp_path / name for name in ("sizes.tsv", "choice.tsv", "t.png", "stage.yaml")]
        choose_sizes(tables[1], curve, *written, settings=names | {"stage": stage})
        table = read_table(written[1]).set_index(["values", "label"])
        return table, yaml.safe_load(written[3].read_text())

    return choose


def test_values_that_are_together_worse_than_the_present_ones_are_not_written(choice, caplog):
    scores = competing()
    table, stage = choice(scores, 0.1)
    for values in ("now", "chosen"):
        rows = table.loc[values]
        labels, _ = threshold_scores(scores, np.array([0, *rows["threshold"][:2]]))
        wanted = [dice(labels, TRUE, label) for label in (1, 2)]
        assert rows["dice"].tolist() == pytest.approx([*wanted, np.mean(wanted)], abs=1e-5)
    assert table.loc[("now", "mean"), "dice"] == pytest.approx(0.833, abs=1e-3)
    assert table.loc[("chosen", "mean"), "dice"] == pytest.approx(0.583, abs=1e-3)
    assert table["written"].tolist() == [True] * 3 + [False] * 3
    assert stage["parameters"]["network"]["threshold"] == 0.1
    assert stage["evaluate"]["choose_thresholds"] is False
    assert "0.5833, the present ones 0.8333; the present ones are kept" in caplog.text


def test_values_that_are_together_better_are_written(choice, caplog):
    scores = competing() | {"runner_up": np.zeros((1, *TRUE.shape), np.uint8)}
    table, stage = choice(scores, 0.1)
    assert table.loc[("chosen", "mean"), "dice"] == 1 > table.loc[("now", "mean"), "dice"]
    network = stage["parameters"]["network"]
    assert list(network["threshold"].values()) == table.loc["chosen", "threshold"][:2].tolist()
    assert stage["evaluate"]["choose_thresholds"] is False
    assert "are kept" not in caplog.text


def test_what_stays_at_the_present_sizes_is_what_counting_at_all_sizes_says():
    rng = np.random.default_rng(3)
    labels = (rng.integers(1, 4, SHAPE) * (rng.random(SHAPE) < 0.12)).astype(np.uint8)
    true = rng.integers(0, 4, SHAPE, dtype=np.uint8)
    true[:2] = 255
    sizes = np.array([-1, -1, 5, 2])
    every = count_at_sizes(labels, TrueLabels(true), sizes)
    wanted = every[every["now"]].reset_index(drop=True)
    present = count_at_present(labels, TrueLabels(true), sizes)
    pd.testing.assert_frame_equal(present, wanted, check_dtype=False)

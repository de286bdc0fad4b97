"""Thresholds by class: what they mean, what the scores keep for them, and how they are chosen."""

from functools import cache

import h5py
import hdf5plugin  # noqa: F401  (the scores' codec)
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cryoseg.errors import InputError
from cryoseg.inference import score_volume
from cryoseg.postprocessing import threshold_per_label, threshold_scores, used_thresholds
from cryoseg.scores import PROBABILITY_STEPS, ScoresWriter
from cryoseg.scoring import Normalisation, Scorer
from networks import random_network

SHAPE = (9, 11, 10)


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
        with ScoresWriter(path, volume.shape, 5, {}, runners_up=wanted) as writer:
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

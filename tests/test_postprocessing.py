"""From scores to labels: thresholds, masks and sizes of components."""

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from cryoseg.errors import InputError
from cryoseg.postprocessing import apply_mask, remove_small, size_per_label, threshold_scores
from cryoseg.scores import PROBABILITY_STEPS

volumes = arrays(
    np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=7), elements=st.integers(0, 4)
)


def stored(probabilities):
    return np.rint(np.asarray(probabilities, float) * PROBABILITY_STEPS).astype(np.uint16)


def row(*values, dtype=np.uint8):
    """A volume of one row."""
    return np.array([[values]], dtype)


def filter_class_by_class(labels, sizes):
    """The size filter, one class at a time with SciPy."""
    kept = labels.copy()
    for label, size in enumerate(sizes):
        if label > 0:
            components, _ = ndimage.label(labels == label, np.ones((3, 3, 3)))
            voxels = np.bincount(components.ravel())
            kept[(labels == label) & (voxels[components] <= size)] = 0
    return kept


@given(volumes, arrays(int, 5, elements=st.sampled_from([-1, 0, 1, 2, 5, 20])))
@settings(deadline=None)
def test_small_components_go_as_class_by_class(labels, sizes):
    wanted = filter_class_by_class(labels, sizes)
    remove_small(labels, sizes)
    np.testing.assert_array_equal(labels, wanted)


@given(volumes)
@settings(deadline=None)
def test_what_went_is_counted(labels):
    sizes = np.array([-1, 3, -1, 100, 1])
    before = labels.copy()
    removed = remove_small(labels, sizes)
    assert sorted(removed) == [1, 3, 4]
    for label, (components, voxels) in removed.items():
        gone = (before == label) & (labels == 0)
        assert voxels == np.count_nonzero(gone)
        assert components == ndimage.label(gone, np.ones((3, 3, 3)))[1]


def test_a_component_of_exactly_that_size_goes_and_a_larger_one_stays():
    labels = row(2, 2, 2, 0, 2, 2, 2, 2)
    remove_small(labels, size_per_label({2: 3}, 3))
    np.testing.assert_array_equal(labels, row(0, 0, 0, 0, 2, 2, 2, 2))


def test_voxels_that_share_a_corner_are_one_component():
    labels = np.zeros((3, 3, 3), np.uint8)
    labels[range(3), range(3), range(3)] = 1
    remove_small(labels, size_per_label([2], 2))
    assert labels.sum() == 3


def test_neighbours_of_another_class_do_not_help():
    labels = row(1, 2, 1, 2)
    remove_small(labels, size_per_label([1, -1], 3))
    np.testing.assert_array_equal(labels, row(0, 2, 0, 2))


def test_the_size_filter_gives_what_cryosiam_gives(compat):
    sizes = size_per_label([-1, 60, 20, 8, 15], channels=5)
    for before, after in [
        ("semantic/tomo_b_preds.h5", "semantic_post/tomo_b_preds.h5"),
        ("semantic/tomo_d_preds_labels_only.h5", "semantic_post/tomo_d_preds.h5"),
    ]:
        with h5py.File(compat / "pred" / before) as given_, h5py.File(compat / "pred" / after) as w:
            labels, wanted = given_["labels"][:].astype(np.uint8), w["labels"][:]
        assert (labels != wanted).any()
        remove_small(labels, sizes)
        np.testing.assert_array_equal(labels, wanted)


@pytest.mark.parametrize(("sizes", "channels", "wanted"), [
    (None, 6, [-1, -1, -1, -1, -1, -1]),
    ([-1, 5000, -1, -1, -1], 6, [-1, -1, 5000, -1, -1, -1]),
    ([-1, 60, 20, 8, 15], 5, [-1, 60, 20, 8, 15]),
    ({2: 5000}, 6, [-1, -1, 5000, -1, -1, -1]),
    ({"2": 5000, 1: 7}, 3, [-1, 7, 5000]),
    ({}, 3, [-1, -1, -1]),
    ([300], 1, [-1, 300]),
    ({1: 300}, 1, [-1, 300]),
])  # fmt: skip
def test_which_label_gets_which_size(sizes, channels, wanted):
    assert size_per_label(sizes, channels).tolist() == wanted


@pytest.mark.parametrize(("sizes", "channels", "complaint"), [
    ([-1, 5000], 6, "has 2 entries; the model has 6 channels, so give 5 entries starting at label "
                    "1 or 6 entries starting at label 0 or a mapping of labels"),
    ([1, 2, 3, 4, 5, 6, 7], 6, "has 7 entries"),
    ([], 3, "has 0 entries"),
    ([-1, 300], 1, "so give 1 entries starting at label 1 or a mapping"),
    ({6: 10}, 6, "names label 6; the model has labels 1 to 5"),
    ({0: 10}, 6, "names label 0; the model has labels 1 to 5"),
    ({2: -5}, 6, "has -5 for label 2; it must be a whole number of voxels, or -1"),
    ({2: 1.5}, 6, "has 1.5 for label 2"),
])  # fmt: skip
def test_sizes_that_fit_no_label_are_refused(sizes, channels, complaint):
    with pytest.raises(InputError, match=complaint):
        size_per_label(sizes, channels)


def test_a_size_for_the_background_is_told_to_have_no_effect(caplog):
    assert size_per_label([50, -1, -1], 3).tolist() == [-1, -1, -1]
    assert "label 0 is background; its entry has no effect" in caplog.text


def test_one_channel_gives_label_1_from_the_threshold_on():
    labels, largest = threshold_scores({"probability": stored([[[0, 0.7, 0.9, 0.95]]])}, 0.9)
    np.testing.assert_array_equal(labels, row(0, 0, 1, 1))
    assert largest == pytest.approx(0.95, abs=1e-5)


@given(st.floats(0, 1, width=32))
def test_a_probability_equal_to_the_threshold_reaches_it(threshold):
    labels, _ = threshold_scores({"probability": stored([[[threshold]]])}, threshold)
    assert labels.all()


def test_several_channels_give_the_winner_where_it_reaches_the_threshold():
    scores = {"probability": stored([[[0.3, 0.5, 0.6, 1]]]), "winner": row(3, 2, 0, 4)}
    np.testing.assert_array_equal(threshold_scores(scores, 0.5)[0], row(0, 2, 0, 4))


@given(arrays(float, (4, 1, 1, 6), elements=st.floats(0, 1, width=16)), st.sampled_from([0.1, 0.5]))
def test_the_winner_is_what_zeroing_and_taking_the_largest_gives(probabilities, threshold):
    kept = np.where(probabilities >= threshold, probabilities, 0)
    scores = {
        "probability": stored(probabilities.max(axis=0)),
        "winner": probabilities.argmax(axis=0).astype(np.uint8),
    }
    np.testing.assert_array_equal(threshold_scores(scores, threshold)[0], kept.argmax(axis=0))


def test_outside_the_mask_all_labels_are_0():
    scores = {"probability": stored(np.ones((70, 3, 4)))}
    mask = np.zeros((70, 3, 4), np.uint8)
    mask[40:, 1] = 1
    labels, _ = threshold_scores(scores, 0.9, mask)
    np.testing.assert_array_equal(labels, mask)


def test_without_a_mask_labels_stay():
    labels = row(1, 2, 3)
    apply_mask(labels, None)
    np.testing.assert_array_equal(labels, row(1, 2, 3))

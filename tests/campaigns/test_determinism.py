"""The same inputs give the same files, whoever works and in whatever order."""

import h5py
import numpy as np
import pytest

from cryoseg.volumes import write_mrc
from determinism import (
    MARGIN,
    PROBABILITIES_ALIKE,
    beyond_rounding,
    compare,
    differences,
    margins,
    rounding_told,
)


@pytest.mark.slow
def test_order_hash_seed_workers_and_tiles_change_no_file_but_by_rounding(tmp_path):
    assert compare(tmp_path, ("first", "other")) == []
    print(rounding_told(tmp_path))


def test_another_byte_is_seen(tmp_path):
    for name, value in (("one", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        write_mrc(tmp_path / name / "a_scaled.mrc", np.full((4, 4, 4), value, np.float32))
    found = differences(tmp_path / "one", tmp_path / "other", same_tiles=True)
    assert next(found) == "a_scaled.mrc: other bytes"


def test_the_margin_is_that_to_the_next_class_or_to_the_threshold():
    probabilities = np.array([[0.5, 0.4, 0.1], [0.5, 0.31, 0.19]]).T.reshape(3, 1, 1, 2)
    assert margins(probabilities, 0.1).ravel() == pytest.approx([0.1, 0.19])
    assert margins(probabilities, 0.45).ravel() == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize(("margin", "finds"), [(0.9 * MARGIN, 0), (1.1 * MARGIN, 1)])
def test_one_label_that_differs_is_seen_where_the_margin_is_above_the_tolerance(
    margin, finds, tmp_path
):
    """Among 125,000: a share of the voxels would hide it."""
    for name, between in (("one", margin), ("other", -0.1 * PROBABILITIES_ALIKE)):
        (tmp_path / name).mkdir()
        probabilities = np.zeros((3, 50, 50, 50))
        probabilities[0] = 1
        probabilities[:, 4, 5, 6] = 0.5 + between / 2, 0.5 - between / 2, 0
        with h5py.File(tmp_path / name / "a_scores.h5", "w") as file:
            file["probs"] = probabilities
        with h5py.File(tmp_path / name / "a_preds.h5", "w") as file:
            file["labels"] = probabilities.argmax(0)
    found = list(beyond_rounding(tmp_path / "one", tmp_path / "other", same_tiles=False))
    assert len([each for each in found if "labels differ where the margin is" in each]) == finds
    found = list(beyond_rounding(tmp_path / "one", tmp_path / "other", same_tiles=True))
    assert len(found) == 2  # the probability, and the label

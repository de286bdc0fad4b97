"""Distances are exact, whatever the blocks that they are measured in."""

import h5py
import mrcfile
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from cryoseg import distances
from cryoseg.distances import (
    UNKNOWN,
    distance_blocks,
    open_distances,
    signed_squared_distances,
)
from cryoseg.errors import InputError
from cryoseg.losses import scaled_distance
from measure_distances import measure_distances


def exact(labels, label):
    """Signed squared distance to the boundary of a label, by SciPy."""
    mask = labels == label

    def squares(inside):
        if inside.all():
            return np.full(labels.shape, np.inf)
        return np.rint(ndimage.distance_transform_edt(inside) ** 2)

    return np.clip(np.where(mask, squares(mask), -squares(~mask)), -25, 25)


@st.composite
def labelled_volumes(draw, values):
    """Boxes of labels in a small volume."""
    shape = tuple(draw(st.integers(1, 24)) for _ in range(3))
    labels = np.full(shape, draw(st.sampled_from(values)), np.uint8)
    for _ in range(draw(st.integers(0, 5))):
        low = [draw(st.integers(0, size - 1)) for size in shape]
        box = tuple(slice(start, start + draw(st.integers(1, 14))) for start in low)
        labels[box] = draw(st.sampled_from(values))
    return labels


@given(labelled_volumes([0, 1, 2]))
def test_distances_of_every_class_are_exact_up_to_five_voxels(labels):
    found = signed_squared_distances(labels, 4)
    assert found.dtype == np.int8
    for label in range(4):
        np.testing.assert_array_equal(found[label], exact(labels, label))


@given(labelled_volumes([0, 1]))
def test_one_channel_stands_for_the_object_and_not_the_background(labels):
    np.testing.assert_array_equal(signed_squared_distances(labels, 1)[0], exact(labels, 1))


@given(labelled_volumes([0, 1, 2, 255]), st.integers(0, 10_000))
def test_whatever_an_ignored_voxel_is_no_known_distance_changes(labels, seed):
    found = signed_squared_distances(labels, 3)
    ignored = labels == 255
    if ignored.all():
        assert (found == UNKNOWN).all()
        return
    rng = np.random.default_rng(seed)
    for fill in (0, 1, 2, rng.integers(0, 3, labels.shape)):
        known_labels = np.where(ignored, fill, labels)
        for label in range(3):
            known = found[label] != UNKNOWN
            np.testing.assert_array_equal(found[label][known], exact(known_labels, label)[known])
    assert (found[:, ignored] == UNKNOWN).all()
    if ignored.any():
        far = ndimage.distance_transform_edt(~ignored) >= 5
        assert (found[:, far] != UNKNOWN).all()


@given(labelled_volumes([0, 1, 2, 255]), st.integers(1, 9))
@settings(max_examples=50)
def test_blocks_of_any_size_give_the_distances_of_the_whole(labels, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "BLOCK", block)
        joined = np.full((3, *labels.shape), 99, np.int8)
        for box, values in distance_blocks(labels, 3):
            joined[(slice(None), *box)] = values
    np.testing.assert_array_equal(joined, signed_squared_distances(labels, 3))


def test_the_faces_of_the_volume_are_no_boundary():
    labels = np.ones((6, 6, 20), np.uint8)
    labels[:, :, 10:] = 0
    expected = [25] * 6 + [16, 9, 4, 1] + [-1, -4, -9, -16] + [-25] * 6
    assert (signed_squared_distances(labels, 1)[0] == expected).all()


@given(arrays.arrays(np.int8, 20, elements=st.integers(-25, 25)))
def test_training_sees_distances_from_minus_one_to_one(stored):
    expected = np.clip(np.sign(stored) * np.sqrt(np.abs(stored.astype(float))), -5, 5) / 5
    found = scaled_distance(torch.tensor(stored))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, atol=1e-7)


@pytest.mark.parametrize(
    ("labels", "stage", "channels"),
    [("gt/labels/tomo_b.mrc", "semantic", 5), ("work/lamella/labels/tomo_b.mrc", "lamella", 1)],
)
def test_distances_are_cryosiams_away_from_the_faces(compat, tmp_path, labels, stage, channels):
    measure_distances(
        compat / labels, tmp_path / "tomo_b_distances.h5", settings={"out_channels": channels}
    )
    theirs = np.load(compat / "work" / stage / "distances" / "tomo_b.npz")["data"]
    if channels == 1:  # theirs is the distance of the background
        theirs = -theirs
    with h5py.File(tmp_path / "tomo_b_distances.h5") as file:
        ours = 5 * scaled_distance(torch.tensor(file["distances"][:])).numpy()
    inner = (slice(None), *(slice(5, -5) for _ in range(3)))
    np.testing.assert_allclose(ours[inner], np.clip(theirs, -5, 5)[inner], atol=1e-6)


@pytest.mark.parametrize(("rim", "warned"), [(1, False), (6, True)])
def test_a_rim_that_leaves_no_distance_is_warned_of(rim, warned, tmp_path, caplog):
    labels = np.zeros((40, 40, 40), np.uint8)
    distance = np.sqrt(sum((axis - 20) ** 2 for axis in np.indices(labels.shape)))
    labels[distance < 8 + rim] = 255
    labels[distance < 8] = 1
    labels[:8, :8, :8] = 0 if warned else 1  # another object, whose boundary is known
    file = tmp_path / "t_distances.h5"
    measure_distances(write_labels(tmp_path / "t.mrc", labels), file, settings={"out_channels": 1})
    message = "t: ignored voxels (255) leave no distance to a boundary of label 1"
    assert (message in caplog.text) == warned


def write_labels(path, labels):
    with mrcfile.new(path) as mrc:
        mrc.set_data(labels)
        mrc.voxel_size = 10
    return path


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32])
def test_labels_of_any_type_give_the_same_file(tmp_path, dtype):
    labels = np.zeros((20, 30, 70), np.uint8)
    labels[5:15, 8:20, 60:] = 2
    labels[5:15, 8:20, 40:60] = 1
    labels[0] = 255
    stored = labels.view(np.int8) if dtype is np.int8 else labels.astype(dtype)
    file = tmp_path / "t_distances.h5"
    measure_distances(write_labels(tmp_path / "t.mrc", stored), file, settings={"out_channels": 3})
    found = open_distances(file, labels.shape, 3)
    np.testing.assert_array_equal(found, signed_squared_distances(labels, 3))
    assert tuple(found.file.attrs["voxel_size"]) == (10, 10, 10)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile's, of NaN
@pytest.mark.parametrize("value", [3, -2, 0.5, np.nan, 254])
def test_labels_of_no_class_are_an_error_that_names_them(tmp_path, value):
    labels = np.zeros((4, 5, 6), np.float32)
    labels[1, 2, 3] = value
    file = write_labels(tmp_path / "t.mrc", labels)
    with pytest.raises(InputError, match=rf"t\.mrc: 1 voxels have label {value:g}; .* 0 to 2"):
        measure_distances(file, tmp_path / "t_distances.h5", settings={"out_channels": 3})
    assert list(tmp_path.iterdir()) == [file]


def test_distances_of_other_labels_are_not_taken(tmp_path):
    labels = write_labels(tmp_path / "t.mrc", np.zeros((8, 8, 8), np.int8))
    measure_distances(labels, tmp_path / "t_distances.h5", settings={"out_channels": 3})
    for shape, channels in (((8, 8, 9), 3), ((8, 8, 8), 2)):
        with pytest.raises(InputError, match="3 x 8 x 8 x 8, they must be"):
            open_distances(tmp_path / "t_distances.h5", shape, channels)
    with pytest.raises(InputError, match="measured anew"):
        open_distances(labels, (8, 8, 8), 3)

"""A patch is what a slice of the volume is, and patches reach everything."""

import json
import multiprocessing
import pickle

import h5py
import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoseg.distances import signed_squared_distances
from cryoseg.errors import InputError
from cryoseg.patches import (
    INTEGERS,
    INTENSITIES,
    PatchFile,
    PatchWriter,
    count_labels,
    patch_corners,
)
from cut_patches import cut_patches
from measure_distances import measure_distances

OVERLAPS = st.sampled_from([0, 0.25, 0.5, 0.75, 0.9])


def box_of(corner, patch_size):
    return tuple(slice(start, start + edge) for start, edge in zip(corner, patch_size, strict=True))


@st.composite
def volumes_and_patches(draw, largest=40):
    """A shape, and the size of patches that fit in."""
    size = tuple(draw(st.integers(1, 16)) for _ in range(3))
    return tuple(edge + draw(st.integers(0, largest - 16)) for edge in size), size


@given(volumes_and_patches(), st.sampled_from([0, 0.25, 0.5, 0.75]))
def test_every_voxel_is_in_a_patch_and_every_patch_in_the_volume(case, overlap):
    shape, size = case
    corners = patch_corners("t", shape, size, overlap)
    covered = np.zeros(shape, bool)
    for corner in corners:
        assert (corner >= 0).all()
        assert (corner + size <= shape).all()
        covered[box_of(corner, size)] = True
    assert covered.all()
    assert len(np.unique(corners, axis=0)) == len(corners)


def test_the_far_edge_has_a_patch_of_its_own():
    corners = patch_corners("t", (40, 64, 70), (32, 32, 32), 0.5)
    starts = [np.unique(corners[:, axis]).tolist() for axis in range(3)]
    assert starts == [[0, 8], [0, 16, 32], [0, 16, 32, 38]]


def test_a_patch_that_does_not_fit_is_an_error_that_names_the_tomogram():
    with pytest.raises(InputError, match="TS_03: the tomogram is 40 x 64 x 64, patches are 64"):
        patch_corners("TS_03", (40, 64, 64), (64, 64, 64), 0.5)


@given(volumes_and_patches(), OVERLAPS, st.integers(0, 2**32))
@settings(max_examples=50)
def test_labels_are_counted_in_every_patch_but_not_where_they_are_ignored(case, overlap, seed):
    shape, size = case
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.array([0, 0, 1, 2, 255], np.uint8), shape)
    corners = patch_corners("t", shape, size, overlap)
    corners = corners[rng.random(len(corners)) < 0.6][:200]
    expected = [
        np.bincount(labels[box_of(corner, size)].ravel(), minlength=3)[:3] for corner in corners
    ]
    found = count_labels(labels, corners, size, 3)
    np.testing.assert_array_equal(found, np.reshape(expected, (-1, 3)))


@given(volumes_and_patches(largest=80), OVERLAPS, st.integers(0, 2**32), st.sampled_from("bhHef"))
@settings(max_examples=30)
def test_reading_a_patch_equals_slicing_the_volume(tmp_path_factory, case, overlap, seed, kind):
    shape, size = case
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 100, shape).astype(kind)
    labels = rng.integers(0, 3, shape, np.uint8)
    distances = rng.integers(-25, 26, (3, *shape), np.int8)
    corners = patch_corners("t", shape, size, overlap)
    corners = corners[rng.permutation(len(corners))[:20]]
    path = tmp_path_factory.mktemp("patches") / "t_patches.h5"
    about = {"voxel_size": (1, 2, 3), "intensities": (0, 99)}
    counts = np.zeros((len(corners), 3), int)
    with PatchWriter(path, "t", shape, size, corners, counts, about) as writer:
        writer.write("image", image, INTENSITIES)
        writer.write("labels", labels, INTEGERS)
        writer.write("distances", distances, INTEGERS, fill=-25)
    patches = PatchFile(path)
    assert len(patches) == len(corners)
    for number, corner in enumerate(corners):
        box = box_of(corner, size)
        np.testing.assert_array_equal(patches.image(number), image[box].astype(np.float32))
        np.testing.assert_array_equal(patches.labels(number), labels[box])
        np.testing.assert_array_equal(patches.distances(number), distances[(..., *box)])
        assert patches.noisy(number) is None
    assert patches.image(0).dtype == np.float32


# The job


SETTINGS = {
    "patch_size": [16, 16, 16],
    "patch_overlap": 0.5,
    "remove_only_background": False,
    "min": 0,
    "max": 1,
    "out_channels": 3,
}


@pytest.fixture
def files(tmp_path):
    """A tomogram, its labels with two objects and an ignored rim, their distances."""
    rng = np.random.default_rng(0)
    volumes = {
        "tomogram": rng.random((24, 90, 100), dtype=np.float32),
        "labels": np.zeros((24, 90, 100), np.int8),
        "noisy": rng.integers(-128, 128, (24, 90, 100), dtype=np.int8),
    }
    volumes["labels"][5:15, 5:12, 5:12] = 1
    volumes["labels"][20:, 80:, 90:] = 2
    volumes["labels"][20:, 78:80, 90:] = -1
    for name, data in volumes.items():
        with mrcfile.new(tmp_path / f"{name}.mrc") as mrc:
            mrc.set_data(data)
            mrc.voxel_size = 10
    volumes["labels"] = volumes["labels"].view(np.uint8)
    measure(tmp_path, 3)
    return volumes


def measure(folder, channels):
    files = folder / "labels.mrc", folder / "t_distances.h5"
    measure_distances(*files, settings={"out_channels": channels})


def cut(folder, noisy=None, **changed):
    names = "tomogram.mrc", "labels.mrc", "t_distances.h5", "TS_1_patches.h5"
    cut_patches(*(folder / name for name in names), noisy, settings=SETTINGS | changed)
    return PatchFile(folder / "TS_1_patches.h5")


def test_a_patch_file_tells_all_that_training_asks(tmp_path, files):
    patches = cut(tmp_path, tmp_path / "noisy.mrc", min=-128, max=127)
    assert (patches.name, patches.shape) == ("TS_1", (24, 90, 100))
    assert (patches.patch_size, patches.out_channels) == ((16, 16, 16), 3)
    assert patches.voxel_size == (10, 10, 10)
    assert (patches.lowest, patches.highest) == (
        files["tomogram"].min(), files["tomogram"].max(),
    )  # fmt: skip
    assert patches.has_noisy
    distances = signed_squared_distances(files["labels"], 3)
    for number, corner in enumerate(patches.corners):
        box = box_of(corner, (16, 16, 16))
        np.testing.assert_array_equal(patches.image(number), files["tomogram"][box])
        np.testing.assert_array_equal(patches.noisy(number), files["noisy"][box].astype(float))
        np.testing.assert_array_equal(patches.labels(number), files["labels"][box])
        np.testing.assert_array_equal(patches.distances(number), distances[(..., *box)])
        counts = np.bincount(files["labels"][box].ravel(), minlength=3)[:3]
        assert patches.label_counts[number].tolist() == counts.tolist()


def test_only_patches_with_an_object_are_kept_where_asked(tmp_path, files):
    every, kept = cut(tmp_path), cut(tmp_path, remove_only_background=True)
    holds = every.label_counts[:, 1:].any(axis=1)
    np.testing.assert_array_equal(kept.corners, every.corners[holds])
    assert 0 < len(kept) < len(every)


def test_chunks_that_no_patch_touches_are_not_stored(tmp_path, files):
    chunks = []
    for only_objects in (False, True):
        cut(tmp_path, remove_only_background=only_objects)
        with h5py.File(tmp_path / "TS_1_patches.h5") as file:
            chunks.append(file["image"].id.get_num_chunks())
    # Of the grid of 1 x 3 x 4: one around the first object, two along x around the other.
    assert chunks == [12, 3]


def test_voxels_that_are_ignored_are_no_object(tmp_path, files, caplog):
    labels = np.zeros((24, 90, 100), np.uint8)
    labels[:, :, 50:] = 255
    with mrcfile.new(tmp_path / "labels.mrc", overwrite=True) as mrc:
        mrc.set_data(labels.view(np.int8))
    measure(tmp_path, 3)
    assert len(cut(tmp_path, remove_only_background=True)) == 0
    assert "no voxel has a label of 1 or more" in caplog.text


def test_one_channel_counts_the_object(tmp_path, files):
    labels = (files["labels"] == 1).astype(np.int8)
    with mrcfile.new(tmp_path / "labels.mrc", overwrite=True) as mrc:
        mrc.set_data(labels)
    measure(tmp_path, 1)
    patches = cut(tmp_path, out_channels=1)
    assert patches.label_counts.shape == (len(patches), 1)
    assert patches.distances(0).shape == (1, 16, 16, 16)
    for number, corner in enumerate(patches.corners):
        assert patches.label_counts[number, 0] == labels[box_of(corner, (16, 16, 16))].sum()


def test_labels_may_be_predictions(tmp_path, files):
    from_mrc = cut(tmp_path)
    expected = [from_mrc.labels(number) for number in range(len(from_mrc))]
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        file.create_dataset("labels", data=files["labels"], compression="gzip")
    names = "tomogram.mrc", "labels.h5", "t_distances.h5", "h5_patches.h5"
    cut_patches(*(tmp_path / name for name in names), settings=SETTINGS)
    patches = PatchFile(tmp_path / "h5_patches.h5")
    for number, labels in enumerate(expected):
        np.testing.assert_array_equal(patches.labels(number), labels)


def read_first(patches):
    return patches.image(0)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_patch_file_can_be_handed_to_workers_after_it_was_read(tmp_path, files, method):
    patches = cut(tmp_path)
    here = patches.image(0)
    with multiprocessing.get_context(method).Pool(2) as pool:
        for there in pool.map(read_first, [patches, patches]):
            np.testing.assert_array_equal(there, here)
    assert "h5py" not in repr(pickle.loads(pickle.dumps(patches)).__dict__)


def write_volume(path, data, voxel_size=10):
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        mrc.voxel_size = voxel_size


def test_volumes_that_do_not_belong_together_are_an_error(tmp_path, files):
    noisy = tmp_path / "noisy.mrc"
    write_volume(noisy, files["noisy"][:, :, 1:])
    with pytest.raises(InputError, match="TS_1: noisy tomogram is 24 x 90 x 99, tomogram is"):
        cut(tmp_path, noisy)
    write_volume(tmp_path / "labels.mrc", files["labels"][1:].view(np.int8))
    with pytest.raises(InputError, match="TS_1: labels are 23 x 90 x 100, tomogram is 24 x 90"):
        cut(tmp_path)
    assert not (tmp_path / "TS_1_patches.h5").exists()


def test_a_tomogram_that_was_not_scaled_is_an_error(tmp_path, files):
    """Not one that a GPU is booked to find: of this, training would see black and white."""
    write_volume(tmp_path / "tomogram.mrc", 600 * files["tomogram"] - 300)
    with pytest.raises(InputError, match=r"9\d.\d% of the voxels lie outside .*min..max = 0..1"):
        cut(tmp_path)
    cut(tmp_path, min=-300, max=300)


def test_other_voxel_sizes_are_warned_of(tmp_path, files, caplog):
    write_volume(tmp_path / "labels.mrc", files["labels"].view(np.int8), voxel_size=20)
    cut(tmp_path)
    assert "TS_1: labels are of voxels of 20 x 20 x 20 Angstrom" in caplog.text


def test_patches_are_cryosiams_and_more(compat, tmp_path):
    names = "scaled/tomo_a.mrc", "gt/labels/tomo_a.mrc"
    tomogram, labels = (compat / name for name in names)
    distances, cut_file = tmp_path / "tomo_a_distances.h5", tmp_path / "tomo_a_patches.h5"
    how = SETTINGS | {"patch_size": [32, 32, 32], "out_channels": 5}
    measure_distances(labels, distances, settings={"out_channels": 5})
    cut_patches(tomogram, labels, distances, cut_file, settings=how)
    patches = PatchFile(cut_file)
    files = ["tomo_a_z{}_y{}_x{}.mrc".format(*corner) for corner in patches.corners]
    theirs = json.loads((compat / "patches_list.json").read_text())["semantic"]["image"]
    assert {name for name in theirs if name.startswith("tomo_a_")} < set(files)

    number, folder = files.index("tomo_a_z16_y16_x16.mrc"), compat / "work/semantic/patches"
    for kind, ours in (("image", patches.image(number)), ("labels", patches.labels(number))):
        np.testing.assert_array_equal(ours, mrcfile.read(folder / kind / files[number]))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # mrcfile's, of such voxels
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_intensities_that_are_no_numbers_are_an_error(tmp_path, files, value):
    files["tomogram"][3, 4, 5] = value
    write_volume(tmp_path / "tomogram.mrc", files["tomogram"])
    with pytest.raises(InputError, match="1 of 216000 voxels are NaN or infinite"):
        cut(tmp_path)


def test_a_file_that_holds_no_patches_is_an_error(tmp_path, files):
    for name in ("t_distances.h5", "labels.mrc", "missing_patches.h5"):
        with pytest.raises(InputError, match=r"no HDF5 file can be read|no such file|no table"):
            PatchFile(tmp_path / name)

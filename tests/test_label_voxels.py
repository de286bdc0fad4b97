"""label_voxels: from a scores file to the files that people open."""

import json
import logging

import h5py
import mrcfile
import numpy as np
import pytest

from cryoseg.errors import InputError
from cryoseg.scores import PROBABILITY_STEPS, ScoresWriter
from cryoseg.volumes import Volume, write_mrc
from label_voxels import label_voxels

SHAPE = (40, 36, 44)
PLACE = {"voxel_size": (9.0, 10.0, 11.0), "origin": (1.5, -2.0, 3.0), "nstart": (4, 5, -6)}
SETTINGS = {
    "threshold": None,
    "postprocessing": False,
    "3d_postprocessing": False,
    "postprocessing_sizes": None,
    "save_internal_files": False,
}

SCORED = {"data": {"min": 0, "max": 1, "mean": 0, "std": 1}}


class Files:
    """A tomogram, its scores and what is made of them, in one folder."""

    def __init__(self, folder):
        self.folder = folder
        self.tomogram = folder / "TS_01.mrc"
        self.scores = folder / "TS_01_scores.h5"
        self.labels = folder / "TS_01_preds.h5"
        grey = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
        write_mrc(self.tomogram, grey, like=Volume(grey, path=self.tomogram, **PLACE))

    def write_scores(self, probability, winner=None, channels=1, **internal):
        attributes = PLACE | {
            "tomogram_file": "TS_01.mrc",
            "checkpoint_sha256": "c0ffee",
            "settings": {"precision": "float32"} | SCORED,
            "versions": {"torch": "2.13.0"},
        }
        values = {"probability": np.rint(probability * PROBABILITY_STEPS).astype(np.uint16)}
        if winner is not None:
            values["winner"] = winner
        keep = {"probabilities": "probs" in internal, "distances": "distances" in internal}
        with ScoresWriter(self.scores, SHAPE, channels, attributes, **keep) as writer:
            writer.write([(0, size) for size in SHAPE], values | internal)

    def label(self, mask=None, mrc=None, **changed):
        settings = SETTINGS | changed
        files = self.scores, self.tomogram, self.labels, mask, mrc
        label_voxels(*files, settings=settings, scored=SCORED)
        with h5py.File(self.labels) as file:
            return file["labels"][:]


def test_a_label_that_fills_the_volume_is_a_warning(files, caplog):
    files.write_scores(np.ones(SHAPE))
    assert files.label().all()
    assert "label 1 has 100.0 % of the voxels" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("checkpoint_sha256", "ä", "is no hash"),
        ("checkpoint_sha256", None, "it must be text"),
        ("settings", "[1]", "must be a mapping as JSON"),
        ("channels", 2, "there is no dataset winner"),
        ("channels", 1e9, "channels is 1000000000"),
        ("origin", "here", "must be 3 finite numbers"),
    ],
)
def test_scores_with_other_attributes_are_refused(name, value, says, files):
    files.write_scores(np.ones(SHAPE))
    with h5py.File(files.scores, "a") as file:
        del file.attrs[name]
        if value is not None:
            file.attrs[name] = value
    with pytest.raises(InputError, match=says) as error:
        files.label()
    assert str(files.scores) in str(error.value)


def test_scores_of_other_settings_are_refused(files):
    files.write_scores(np.ones(SHAPE))
    other = {"data": SCORED["data"] | {"max": 120}}
    with pytest.raises(InputError, match=r"computed with parameters.data .* delete them"):
        label_voxels(
            files.scores, files.tomogram, files.labels, settings=dict(SETTINGS), scored=other
        )


@pytest.fixture
def files(tmp_path):
    return Files(tmp_path)


def slab(first, last):
    mask = np.zeros(SHAPE, np.uint8)
    mask[first:last] = 1
    return mask


@pytest.fixture
def lamella(files):
    """A slab at z 10 to 29 with holes and specks, at a probability of 0.95."""
    noise = np.random.default_rng(1).random(SHAPE) < 0.05
    files.write_scores((slab(10, 30) ^ noise) * 0.95)
    return files


@pytest.fixture
def classes(files):
    """Three classes: a large and a small block of class 1, one of class 2, less probable."""
    winner = np.zeros(SHAPE, np.uint8)
    winner[5:15, 5:15, 5:15] = 1
    winner[30, 30, 30:33] = 1
    winner[20:25, 5:15, 5:15] = 2
    files.write_scores(np.where(winner == 2, 0.4, 0.8), winner, channels=3)
    return files, winner


def test_a_lamella_mask_without_clean_up_is_the_threshold(lamella):
    noisy = slab(10, 30) ^ (np.random.default_rng(1).random(SHAPE) < 0.05)
    np.testing.assert_array_equal(lamella.label(), noisy)
    assert not lamella.label(threshold=0.96).any()


@pytest.mark.parametrize("in_3d", [False, True])
def test_a_lamella_mask_is_cleaned(lamella, in_3d):
    labels = lamella.label(postprocessing=True, **{"3d_postprocessing": in_3d})
    np.testing.assert_array_equal(labels, slab(10, 30))


def test_thresholds_default_to_09_for_one_channel_and_01_for_several(files):
    files.write_scores(np.full(SHAPE, 0.89))
    assert not files.label().any()
    files.write_scores(np.full(SHAPE, 0.9))
    assert files.label().all()
    for probability, wanted in ((0.09, 0), (0.1, 2)):
        files.write_scores(np.full(SHAPE, probability), np.full(SHAPE, 2, np.uint8), channels=3)
        assert (files.label() == wanted).all()


@pytest.mark.parametrize("in_3d", [False, True])
def test_nothing_above_the_threshold_gives_an_empty_mask_and_a_warning(files, in_3d, caplog):
    files.write_scores(np.full(SHAPE, 0.42))
    assert not files.label(postprocessing=True, **{"3d_postprocessing": in_3d}).any()
    assert "TS_01: no voxel gets a label at threshold 0.9" in caplog.text
    assert "the largest probability is 0.420" in caplog.text


def test_classes_are_the_winners_that_reach_the_threshold(classes):
    files, winner = classes
    np.testing.assert_array_equal(files.label(), winner)
    np.testing.assert_array_equal(files.label(threshold=0.5), np.where(winner == 2, 0, winner))


@pytest.mark.parametrize("sizes", [[5, -1], [-1, 5, -1], {1: 5}])
def test_small_components_are_removed_and_the_log_says_which(classes, sizes, caplog):
    files, winner = classes
    caplog.set_level(logging.INFO)
    labels = files.label(postprocessing_sizes=sizes)
    winner[30] = 0
    np.testing.assert_array_equal(labels, winner)
    assert "label 1: 1 components of at most 5 voxels removed, 3 voxels in all" in caplog.text
    assert "label 2: components of all sizes kept" in caplog.text


def test_sizes_apply_to_the_mask_of_a_one_channel_model_before_it_is_cleaned(lamella):
    noisy = lamella.label()
    filtered = lamella.label(postprocessing_sizes=[50])
    assert 0 < filtered.sum() < noisy.sum()
    np.testing.assert_array_equal(filtered[12:28], noisy[12:28])
    assert not lamella.label(postprocessing_sizes=[10**6], postprocessing=True).any()


def test_the_clean_up_of_a_lamella_is_refused_for_several_classes(classes):
    files, _ = classes
    with pytest.raises(InputError, match="TS_01: postprocessing cleans the mask of a one-channel"):
        files.label(postprocessing=True)
    assert not files.labels.exists()


def test_a_hull_in_3d_without_clean_up_is_told_to_have_no_effect(lamella, caplog):
    lamella.label(**{"3d_postprocessing": True})
    assert "3d_postprocessing has no effect without postprocessing" in caplog.text


@pytest.mark.parametrize("postprocessing", [False, True])
def test_outside_the_mask_there_are_no_labels(lamella, postprocessing):
    mask = slab(0, 40)
    mask[:, :, 20:] = 0
    write_mrc(lamella.folder / "mask.mrc", mask)
    labels = lamella.label(lamella.folder / "mask.mrc", postprocessing=postprocessing)
    assert labels[20, :, :20].any()
    assert not labels[:, :, 20:].any()


def test_a_mask_of_another_size_is_resized(lamella, caplog):
    small = np.zeros((20, 18, 22), np.uint8)
    small[:, :, :11] = 1
    with h5py.File(lamella.folder / "mask_preds.h5", "w") as file:
        file["labels"] = small
    labels = lamella.label(lamella.folder / "mask_preds.h5", postprocessing=True)
    assert labels[20, :, :22].all()
    assert not labels[:, :, 22:].any()
    assert "resized by nearest neighbour" in caplog.text


def test_labels_are_bytes_that_any_hdf5_reader_opens(lamella):
    lamella.label()
    with h5py.File(lamella.labels) as file:
        assert list(file) == ["labels"]
        labels = file["labels"]
        assert (labels.dtype, labels.shape, labels.compression) == (np.uint8, SHAPE, "gzip")


def test_attributes_say_where_the_labels_lie_and_how_they_were_made(lamella):
    lamella.label(postprocessing=True)
    with h5py.File(lamella.labels) as file:
        attributes = dict(file.attrs)
    for name, value in PLACE.items():
        assert tuple(attributes[name]) == value
    assert attributes["tomogram"] == "TS_01"
    assert attributes["checkpoint_sha256"] == "c0ffee"
    settings = json.loads(attributes["settings"])
    assert settings["score_voxels"] == {"precision": "float32"} | SCORED
    assert settings["label_voxels"] == SETTINGS | {"postprocessing": True, "threshold": 0.9}
    versions = json.loads(attributes["versions"])
    assert versions["score_voxels"] == {"torch": "2.13.0"}
    assert "cryoseg" in versions["label_voxels"]


def test_internal_files_are_copied_as_they_are(files):
    rng = np.random.default_rng(2)
    internal = {name: rng.random((1, *SHAPE), np.float32) for name in ("probs", "distances")}
    files.write_scores(internal["probs"][0], **internal)
    files.label(save_internal_files=True)
    with h5py.File(files.labels) as file, h5py.File(files.scores) as scores:
        for name, values in internal.items():
            np.testing.assert_array_equal(file[name][:], values)
            assert file[name].chunks == scores[name].chunks


def test_internal_files_that_the_scores_lack_are_an_error_that_leaves_nothing(lamella):
    with pytest.raises(InputError, match="no dataset probs nor distances, which save_internal_fil"):
        lamella.label(save_internal_files=True)
    assert sorted(path.name for path in lamella.folder.iterdir()) == [
        "TS_01.mrc", "TS_01_scores.h5",
    ]  # fmt: skip


def test_the_mrc_file_lies_on_the_tomogram(classes):
    files, winner = classes
    path = files.folder / "TS_01_preds.mrc"
    files.label(mrc=path)
    with mrcfile.open(path) as found, mrcfile.open(files.tomogram) as tomogram:
        np.testing.assert_array_equal(found.data, winner)
        assert found.header.mode == 0
        assert found.voxel_size == tomogram.voxel_size
        assert found.header.origin == tomogram.header.origin
        assert found.nstart == tomogram.nstart


def test_scores_of_another_tomogram_are_refused(lamella):
    write_mrc(lamella.tomogram, np.zeros((40, 36, 45), np.int8))
    with pytest.raises(InputError, match=r"the scores are \(40, 36, 44\), .* is \(40, 36, 45\)"):
        lamella.label()


def test_a_second_run_replaces_the_first(lamella):
    assert lamella.label().any()
    assert not lamella.label(threshold=1).any()

"""The picture shows the right sections, to scale, in the right colours, and reads nothing else."""

import json
import subprocess
import sys

import matplotlib.image
import numpy as np
import pytest

from conftest import REPOSITORY
from cryoseg.errors import InputError
from cryoseg.figures import (
    Charts,
    class_colour,
    draw_sections,
    draw_thumbnail,
    jpeg_bytes,
    read_sections,
    scale_bar_length,
)
from cryoseg.postprocessing import threshold_scores
from cryoseg.prediction_summary import charts_of, threshold_of
from cryoseg.prediction_tally import count_prediction
from cryoseg.predictions import both_steps, write_predictions
from cryoseg.scores import PROBABILITY_STEPS, ScoresWriter, open_scores
from cryoseg.training_figures import draw_split
from cryoseg.volumes import open_labels, write_mrc
from draw_prediction import draw_prediction
from draw_training import draw_training

SHAPE = (20, 30, 40)


@pytest.fixture
def volumes():
    """A tomogram whose voxels all differ, a lamella at z 4 to 9, and a cube of class 2 in it."""
    tomogram = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    mask = np.zeros(SHAPE, np.uint8)
    mask[4:9] = 1
    labels = np.zeros(SHAPE, np.uint8)
    labels[5:8, 13:18, 18:23] = 2
    return tomogram, mask, labels


class OnlySections:
    """A volume that refuses to give more than one section at a time."""

    def __init__(self, data):
        self.data, self.shape = data, data.shape

    def __getitem__(self, slices):
        assert min(len(range(*s.indices(n))) for s, n in zip(slices, SHAPE, strict=True)) == 1
        return self.data[slices]


def test_sections_meet_in_the_middle_of_the_lamella(volumes):
    tomogram, mask, labels = volumes
    xy, xz, yz = read_sections(tomogram, mask, labels, np.ones(3))
    np.testing.assert_array_equal(xy.tomogram, tomogram[6])
    np.testing.assert_array_equal(xz.tomogram, tomogram[:, 15])
    np.testing.assert_array_equal(yz.tomogram, tomogram[:, :, 20])
    np.testing.assert_array_equal(xz.mask, mask[:, 15])
    np.testing.assert_array_equal(yz.labels, labels[:, :, 20])
    assert ["z = 6" in xy.caption, "y = 15" in xz.caption, "x = 20" in yz.caption] == [True] * 3


def test_without_a_lamella_the_middle_of_the_volume_is_shown(volumes):
    tomogram, mask, labels = volumes
    xy, _, _ = read_sections(tomogram, np.zeros_like(mask), labels, np.ones(3))
    np.testing.assert_array_equal(xy.tomogram, tomogram[10])


def test_nothing_but_the_sections_is_read(volumes):
    draw_sections(*map(OnlySections, volumes), (10.0,) * 3, "TS_1")


@pytest.mark.parametrize("voxel_size", [(10.0, 10.0, 10.0), (40.0, 10.0, 20.0)])
def test_all_panels_have_one_scale_in_nm(voxel_size, volumes):
    figure = draw_sections(*volumes, voxel_size, "TS_1")
    depth, height, width = np.array(voxel_size) * SHAPE
    expected = [(height, width)] * 3 + [(depth, width)] * 3 + [(depth, height)] * 3
    inches = [panel.get_position().size * figure.get_size_inches() for panel in figure.axes]
    scales = [
        (h / height_nm, w / width_nm)
        for (w, h), (height_nm, width_nm) in zip(inches, expected, strict=True)
    ]
    np.testing.assert_allclose(scales, scales[0][0])


def test_classes_and_lamella_are_drawn_where_they_are(volumes):
    figure = draw_sections(*volumes, (10.0,) * 3, "TS_1")
    plain, lamella, classes = (panel.images[0].get_array() for panel in figure.axes[3:6])  # xz
    labelled = volumes[2][:, 15] == 2
    assert (plain[~labelled] == classes[~labelled]).all()
    mixed = 0.65 * np.array(class_colour(2)) + 0.35 * plain[labelled]
    np.testing.assert_allclose(classes[labelled], mixed, atol=1e-6)
    inside = volumes[1][:, 15] == 1
    np.testing.assert_array_equal(lamella[inside], plain[inside])
    bright = ~inside & (plain[..., 0] > 0)
    assert (lamella[bright] < plain[bright]).all()


@pytest.mark.parametrize(
    ("class_names", "entries"),
    [
        (None, ["lamella", "class 2"]),
        (["membrane", "ribosome", "actin"], ["lamella", "membrane", "ribosome", "actin"]),
        (["membrane"], ["lamella", "membrane", "class 2"]),
    ],
)
def test_legend_names_what_is_named_and_what_is_seen(class_names, entries, volumes):
    figure = draw_sections(*volumes, (10.0,) * 3, "TS_1", class_names)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == entries


def test_colours_of_18_classes_differ():
    assert len({class_colour(label) for label in range(1, 19)}) == 18


@pytest.mark.parametrize(
    ("width", "length"), [(160, 20), (39.9, 5), (40, 10), (4, 1), (3, 0.5), (1000, 200)]
)
def test_scale_bar_is_round_and_about_a_quarter(width, length):
    assert scale_bar_length(width) == pytest.approx(length)


@pytest.mark.parametrize(("voxel_size", "text"), [((20.0,) * 3, "20 nm"), ((0,) * 3, "10 voxels")])
def test_scale_bar_counts_voxels_where_their_size_is_unknown(voxel_size, text, volumes):
    figure = draw_sections(*volumes, voxel_size, "TS_1")
    assert figure.axes[0].texts[0].get_text() == text


@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks_can_be_drawn(value, volumes):
    tomogram, mask, labels = volumes
    figure = draw_sections(tomogram, np.full_like(mask, value), labels * 0, (10.0,) * 3, "TS_1")
    figure.canvas.draw()


# Counts and charts


@pytest.fixture
def predict(tmp_path, volumes):
    """Writes the files of a stage and returns arguments of draw_prediction."""

    def write(channels=3, label=2, **settings):
        tomogram, mask, labels = volumes
        labels = labels // 2 * np.uint8(label)
        write_mrc(tmp_path / "TS $1$ é.mrc", tomogram, voxel_size=20)
        write_mrc(tmp_path / "mask.mrc", mask)
        probability = np.where(labels > 0, np.uint16(52428), np.uint16(0))  # 0.8
        probability[4, :, 0] = 6554  # 0.1, of a class that did not reach the threshold
        found = {"probability": probability}
        if channels > 1:
            found["winner"] = np.maximum(labels, 1)
        attributes = {
            "voxel_size": (20.0,) * 3,
            "origin": (0.0,) * 3,
            "nstart": (0, 0, 0),
            "checkpoint_sha256": "ab",
            "settings": {"data": {}},
            "versions": {"torch": "2"},
        }
        with ScoresWriter(tmp_path / "scores.h5", SHAPE, channels, attributes) as writer:
            writer.write([(0, length) for length in SHAPE], found)
        with open_scores(tmp_path / "scores.h5") as scores:
            about = {
                "settings": both_steps(scores, "settings", {"threshold": 0.5}),
                "versions": both_steps(scores, "versions", {"cryoseg": "1"}),
            }
            write_predictions(tmp_path / "TS $1$ é_preds.h5", labels, scores, about)
        (tmp_path / "TS $1$ é.log").write_text(
            "2026-01-01 10:00:00 INFO all is well\n2026-01-01 10:00:01 WARNING TS: odd\n"
        )
        (tmp_path / "TS $1$ é.tsv").write_text("s\th:m:s\tmax_rss\n12.5\t0:00:12\t900\n")
        return {
            "tomogram": tmp_path / "TS $1$ é.mrc",
            "scores": tmp_path / "scores.h5",
            "labels": tmp_path / "TS $1$ é_preds.h5",
            "picture": tmp_path / "TS.png",
            "summary": tmp_path / "TS.json",
            "mask": tmp_path / "mask.mrc",
            "settings": {
                "stage": "semantic",
                "class_names": ["membrane", "ribosome"],
                "lamella": False,
                "logs": [tmp_path, tmp_path / "absent"],
                "benchmarks": tmp_path,
            }
            | settings,
        }

    return write


@pytest.fixture
def prediction(predict):
    """Of classes 1 and 2 within a mask."""
    return predict()


def test_a_prediction_is_counted(prediction, volumes):
    with open_scores(prediction["scores"]) as scores:
        tally = count_prediction(open_labels(prediction["labels"]), scores, volumes[1])
    assert tally.voxels[:3].tolist() == [20 * 30 * 40 - 75, 0, 75]
    assert tally.probability[2] == pytest.approx(0.8, abs=1e-4)
    assert np.isnan(tally.probability[:2]).all()
    assert tally.foreground.nonzero()[0].tolist() == [5, 6, 7]
    assert tally.richest == 5
    assert tally.inside == 5 * 30 * 40
    # By class, and by probability in steps of 1/64; what was not computed is left out.
    assert {
        tuple(map(int, at)): int(tally.histogram[tuple(at)]) for at in np.argwhere(tally.histogram)
    } == {
        (1, 6): 30,
        (2, 51): 75,
    }


def test_counting_slab_by_slab_changes_nothing(prediction, monkeypatch):
    def counted():
        with open_scores(prediction["scores"]) as scores:
            return count_prediction(open_labels(prediction["labels"]), scores)

    whole = counted()
    monkeypatch.setattr("cryoseg.volumes.SLAB_BYTES", 3 * 30 * 40 * 8)
    for name in ("voxels", "probability", "histogram", "foreground"):
        np.testing.assert_array_equal(getattr(counted(), name), getattr(whole, name))


def stored(probabilities):
    return np.rint(np.array(probabilities) * PROBABILITY_STEPS).astype(np.uint16)


def test_a_voxel_counts_with_the_probability_of_its_own_class():
    scores = {
        "winner": np.full((1, 1, 4), 1, np.uint8),
        "probability": stored([[[0.6, 0.6, 0.8, 0.6]]]),
        "runner_up": np.array([[[[2, 3, 2, 3]]], [[[0, 2, 0, 0]]]], np.uint8),
        "runner_up_probability": stored([[[[0.25, 0.22, 0.1, 0.3]]], [[[0, 0.21, 0, 0]]]]),
    }
    labels, _ = threshold_scores(scores, np.array([0, 0.7, 0.2, 0.5]))
    assert labels.tolist() == [[[2, 2, 1, 0]]]
    tally = count_prediction(labels, scores)
    np.testing.assert_allclose(tally.probability[:4], [np.nan, 0.8, 0.23, np.nan], atol=1e-4)


def test_labels_without_a_winner_are_of_one_class():
    probability = np.full((2, 3, 4), 65535, np.uint16)
    tally = count_prediction(np.ones((2, 3, 4), np.uint8), {"probability": probability})
    assert tally.histogram[1, -1] == 24
    assert tally.probability[1] == 1
    empty = count_prediction(np.zeros((2, 3, 4), np.uint8), {"probability": probability * 0})
    assert empty.richest is None
    assert not empty.histogram.any()


def test_picture_and_summary_are_written_from_files(prediction, tmp_path):
    draw_prediction(**prediction)
    picture = matplotlib.image.imread(tmp_path / "TS.png")
    assert picture.shape[1] > 1500
    assert np.ptp(picture[..., :3], axis=-1).max() > 0.3  # there is colour in it
    found = json.loads((tmp_path / "TS.json").read_text())
    lamella, membrane, ribosome = found["classes"]
    assert lamella["volume"] == pytest.approx(5 * 30 * 40 * 8)  # voxels of 2 nm
    assert lamella["part"] == pytest.approx(5 / 20)
    assert lamella["label"] is None
    assert membrane == {
        "label": 1,
        "name": "membrane",
        "voxels": 0,
        "volume": 0,
        "part": 0,
        "probability": None,
    }
    assert ribosome["part"] == pytest.approx(75 / (5 * 30 * 40))
    assert ribosome["probability"] == found["probability"] == pytest.approx(0.8, abs=1e-4)
    assert found["tomogram"] == "TS $1$ é"
    assert (found["shape"], found["voxel_size"]) == ([20, 30, 40], [20, 20, 20])
    assert (found["warnings"], found["seconds"]) == (["TS: odd"], 12.5)
    assert found["made_with"]["settings"]["label_voxels"] == {"threshold": 0.5}
    assert not list(tmp_path.glob(".*"))


def test_a_lamella_stage_gets_its_mask_outlined(predict, tmp_path):
    draw_prediction(**predict(channels=1, label=1, lamella=True, class_names=None))
    (lamella,) = json.loads((tmp_path / "TS.json").read_text())["classes"]
    assert (lamella["label"], lamella["name"], lamella["voxels"]) == (None, "lamella", 75)
    assert lamella["part"] == pytest.approx(75 / (20 * 30 * 40))  # of the tomogram


def test_a_stage_of_several_classes_is_no_lamella(predict, tmp_path):
    draw_prediction(**predict(lamella=True))
    classes = json.loads((tmp_path / "TS.json").read_text())["classes"]
    assert [each["name"] for each in classes] == ["lamella", "membrane", "ribosome"]


def test_without_mask_or_voxel_size_the_tomogram_is_the_whole(prediction, tmp_path, volumes):
    write_mrc(prediction["tomogram"], volumes[0])
    del prediction["mask"]
    draw_prediction(**prediction)
    found = json.loads((tmp_path / "TS.json").read_text())
    assert [each["name"] for each in found["classes"]] == ["membrane", "ribosome"]
    assert found["classes"][1]["part"] == pytest.approx(75 / (20 * 30 * 40))
    assert found["classes"][1]["volume"] is None
    assert found["voxel_size"] is None


def test_a_section_with_most_labels_is_added(volumes):
    sections = read_sections(*volumes, np.ones(3), richest=7)
    assert len(sections) == 4
    np.testing.assert_array_equal(sections[3].labels, volumes[2][7])
    assert "z = 7, most labels" in sections[3].caption
    assert len(read_sections(*volumes, np.ones(3), richest=6)) == 3  # it is there already


def test_what_there_is_not_is_not_drawn(volumes):
    tomogram, mask, labels = volumes
    for chosen, panels in (((mask, None), 2), ((None, labels), 2), ((None, None), 1)):
        figure = draw_sections(tomogram, *chosen, (10.0,) * 3, "TS_1")
        assert len(figure.axes) == 3 * panels


def test_charts_say_volume_share_and_threshold(volumes):
    counts = np.arange(64)
    charts = Charts(
        volumes=[("a $1$", "red", 1234567.0, 0.25), ("b", "blue", 0.0, 0.0)],
        whole="the lamella (4,938,268)", unit="nm³", histograms=[("b", "blue", counts)],
        thresholds=[("0.3", 0.3), ("red", 0.7)],
    )  # fmt: skip
    figure = draw_sections(*volumes, (10.0,) * 3, "TS_1", charts=charts)
    bars, lines = figure.axes[-2:]
    assert [text.get_text() for text in bars.texts] == ["1,234,567  (25 %)", "0  (0 %)"]
    assert [text.get_text() for text in bars.get_yticklabels()] == ["a $1$", "b"]
    assert [line.get_xdata()[0] for line in lines.lines] == [0.3, 0.7]
    np.testing.assert_array_equal(lines.patches[0].get_data().values[1:], counts[1:])
    figure.canvas.draw()


def test_thresholds_are_drawn_in_the_colours_of_their_classes():
    tally = count_prediction(np.ones((2, 3, 4), np.uint8))
    classes = [(1, "a", "red"), (2, "b", "blue")]
    assert charts_of(tally, classes, (10.0,) * 3, 0.1).thresholds == [("0.3", 0.1)]
    made_with = {"settings": {"label_voxels": {"threshold": {"1": 0.2, "2": 0.4}}}}
    charts = charts_of(tally, classes, (10.0,) * 3, threshold_of(made_with))
    assert charts.thresholds == [("red", 0.2), ("blue", 0.4)]


def test_a_thumbnail_is_small_and_coloured(volumes):
    image = draw_thumbnail(*volumes, (10.0,) * 3, 6)
    assert image.shape == (108, 144, 3)
    assert len(jpeg_bytes(image)) < 10_000
    middle = image[::-1][int(15.5 / 30 * 108), int(20.5 / 40 * 144)].astype(int)
    assert middle[0] > middle[2] + 30  # class 2 is orange
    outside = draw_thumbnail(*volumes, (10.0,) * 3, 15)
    assert outside.max() < 0.56 * 255  # beside the lamella it is dark


def test_labels_of_another_size_are_refused(prediction, tmp_path, volumes):
    write_mrc(prediction["tomogram"], volumes[0][1:])
    with pytest.raises(InputError, match=r"labels are \(20, 30, 40\).*is \(19, 30, 40\)"):
        draw_prediction(**prediction)
    assert not (tmp_path / "TS.png").exists()


# Trainings


def test_the_split_is_drawn_with_its_counts():
    figure = draw_split({"train": {"TS_1 $a$": 5, "TS_2": 3}, "validation": {"TS_2": 2}})
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["TS_1 $a$", "TS_2"]
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers]
    assert widths == [[5, 3], [0, 2]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "train: 2 tomograms, 8 patches",
        "validation: 1 tomogram, 2 patches",
    ]
    figure.canvas.draw()


def test_the_split_of_many_tomograms_sums_up_the_smallest():
    many = {f"TS_{n}": n for n in range(1, 101)}
    (axes,) = draw_split({"train": many, "validation": {}}).axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert len(names) == 61
    assert names[-1] == "40 others"
    assert axes.containers[0][-1].get_width() == sum(range(1, 41))


def test_pictures_of_a_training_are_kept_apart(tmp_path):
    log_dir, kept = tmp_path / "run", tmp_path / "run" / "pictures"
    (log_dir / "model").mkdir(parents=True)
    kept.mkdir()
    (log_dir / "curves.png").write_bytes(b"curves")
    (log_dir / "augmented_samples.png").write_bytes(b"samples")
    (log_dir / "split.json").write_text(json.dumps({"train": {"TS_1": [0, 1]}, "validation": {}}))
    checkpoint = log_dir / "model" / "model_best.ckpt"
    outputs = [kept / f"{name}.png" for name in ("curves", "samples", "split")]
    draw_training(checkpoint, *outputs)
    assert outputs[0].read_bytes() == b"curves"
    assert outputs[1].read_bytes() == b"samples"
    assert outputs[2].read_bytes().startswith(b"\x89PNG")
    (log_dir / "curves.png").unlink()
    with pytest.raises(InputError, match=r"curves\.png is missing, which the training wrote"):
        draw_training(checkpoint, *outputs)


def test_drawing_leaves_the_global_state_of_matplotlib_alone():
    program = "import sys, cryoseg.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY / "scripts", check=True)

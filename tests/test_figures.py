"""The picture shows the right sections, to scale, in the right colours, and reads nothing else."""

import subprocess
import sys

import h5py
import matplotlib.image
import numpy as np
import pytest

from conftest import REPOSITORY
from cryoseg.errors import InputError
from cryoseg.figures import class_colour, draw_sections, read_sections, scale_bar_length
from cryoseg.volumes import write_mrc
from draw_prediction import draw_prediction

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


def test_picture_is_written_from_files(tmp_path, volumes):
    tomogram, mask, labels = volumes
    folder = tmp_path / "pictures"
    folder.mkdir()
    write_mrc(tmp_path / "TS $1$ é.mrc", tomogram, voxel_size=10)
    write_mrc(tmp_path / "mask.mrc", mask[::2, ::2, ::2])
    with h5py.File(tmp_path / "preds.h5", "w") as file:
        file.create_dataset("labels", data=labels, chunks=(8, 8, 8))
    draw_prediction(
        tmp_path / "TS $1$ é.mrc",
        tmp_path / "mask.mrc",
        tmp_path / "preds.h5",
        folder / "TS.png",
        settings={"class_names": None},
    )
    picture = matplotlib.image.imread(folder / "TS.png")
    assert picture.shape[1] > 1500
    assert np.ptp(picture[..., :3], axis=-1).max() > 0.3  # there is colour in it
    assert [path.name for path in folder.iterdir()] == ["TS.png"]


def test_labels_of_another_size_are_refused(tmp_path, volumes):
    tomogram, mask, labels = volumes
    for name, data in {"TS_1": tomogram, "mask": mask, "labels": labels[1:]}.items():
        write_mrc(tmp_path / f"{name}.mrc", data)
    paths = [tmp_path / f"{name}.mrc" for name in ("TS_1", "mask", "labels")]
    with pytest.raises(InputError, match=r"labels are \(19, 30, 40\).*is \(20, 30, 40\)"):
        draw_prediction(*paths, tmp_path / "a.png", settings={"class_names": None})
    assert not (tmp_path / "a.png").exists()


def test_drawing_leaves_the_global_state_of_matplotlib_alone():
    program = "import sys, cryoseg.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY / "scripts", check=True)

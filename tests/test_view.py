"""A tomogram is shown in napari with what was predicted for it, where napari is installed."""

import importlib.util
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import h5py
import mrcfile
import numpy as np
import pytest
import yaml
from matplotlib.colors import to_rgb

from conftest import REPOSITORY
from cryoseg.configuration import read_configuration
from cryoseg.errors import InputError
from cryoseg.figures import LAMELLA_COLOUR, class_colour
from cryoseg.viewing import add_layers, find_layers, load_napari

SHAPE = (8, 10, 12)


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Two stages, one tomogram that has been predicted, one that has not."""
    monkeypatch.chdir(tmp_path)
    for stage in ("lamella", "semantic"):
        content = {
            "data_folder": "tomograms",
            "mask_folder": "predictions/lamella" if stage == "semantic" else None,
            "prediction_folder": f"predictions/{stage}",
            "trained_model": str(REPOSITORY / "tests" / "data" / f"{stage}.ckpt"),
            "parameters": {"data": {"min": 0, "max": 1}, "network": {"in_channels": 1}},
        }
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(content))
        (tmp_path / "predictions" / stage).mkdir(parents=True)
    entries = {"predict": {stage: f"{stage}.yaml" for stage in ("lamella", "semantic")}}
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "config.yaml").write_text(yaml.safe_dump(entries))
    (tmp_path / "tomograms").mkdir()
    for name in ("TS_1", "TS_2"):
        with mrcfile.new(tmp_path / "tomograms" / f"{name}.mrc") as mrc:
            mrc.set_data(np.random.default_rng(0).normal(size=SHAPE).astype(np.float32))
            mrc.voxel_size = 20
    labels = np.zeros(SHAPE, np.uint8)
    labels[2:6] = 1
    for stage, values in (("lamella", labels), ("semantic", labels * 3)):
        with h5py.File(tmp_path / "predictions" / stage / "TS_1_preds.h5", "w") as file:
            file["labels"] = values
            file.attrs["voxel_size"] = (20, 20, 20)
    stages, _ = read_configuration(entries)
    return stages


def test_masks_lie_on_the_tomogram_and_classes_on_them(lab):
    found = [(layer.kind, layer.name, layer.path) for layer in find_layers(lab, "TS_1")]
    assert found == [
        ("tomogram", "TS_1", "tomograms/TS_1.mrc"),
        ("mask", "lamella", "predictions/lamella/TS_1_preds.h5"),
        ("labels", "semantic", "predictions/semantic/TS_1_preds.h5"),
    ]


def test_what_is_not_predicted_yet_is_left_out(lab):
    assert [layer.kind for layer in find_layers(lab, "TS_2")] == ["tomogram"]


def test_a_name_that_is_nearly_right_is_told(lab):
    with pytest.raises(InputError, match=r"TS_I: no stage .* did you mean TS_[12]\?"):
        find_layers(lab, "TS_I")


def test_without_napari_a_sentence_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "napari", None)
    with pytest.raises(InputError, match=r"python -m pip install 'napari\[pyqt6\]'"):
        load_napari()


def test_the_script_names_the_files_or_says_what_is_wrong(lab):
    command = [sys.executable, str(REPOSITORY / "scripts" / "view_tomogram.py"), "TS_9"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("TS_9: no stage under predict has a tomogram of this name")


class RecordingViewer:
    """Keeps what would be shown."""

    def __init__(self):
        self.shown, self.scale_bar = {}, SimpleNamespace()

    def add_image(self, data, name, **settings):
        self.shown[name] = SimpleNamespace(data=data, **settings)
        return self.shown[name]

    add_labels = add_image


@pytest.fixture
def shown(monkeypatch):
    """What add_layers shows, without napari."""

    def show(layers):
        utils = SimpleNamespace(DirectLabelColormap=lambda color_dict: color_dict)
        monkeypatch.setattr("cryoseg.viewing.load_napari", lambda: SimpleNamespace(utils=utils))
        viewer = RecordingViewer()
        add_layers(viewer, layers)
        return viewer.shown

    return show


@pytest.mark.parametrize("shape", [SHAPE, (4, 5, 6)])
def test_a_mask_of_another_program_lies_on_the_tomogram(shape, lab, shown):
    values = np.zeros(shape, np.float32)
    values[: shape[0] // 2] = 0.7
    values[shape[0] // 2 :] = 0.3  # outside, as where tomograms are predicted
    with h5py.File("predictions/lamella/TS_1_preds.h5", "w") as file:
        file["labels"] = values  # and no voxel size
    mask = shown(find_layers(lab, "TS_1"))["lamella"]
    wanted = np.zeros(SHAPE, np.uint8)
    wanted[:4] = 1
    np.testing.assert_array_equal(mask.data, wanted)
    assert (mask.scale, mask.units) == ((2, 2, 2), "nm")


def test_labels_without_a_voxel_size_have_the_tomograms(lab, shown):
    with h5py.File("predictions/semantic/TS_1_preds.h5", "r+") as file:
        del file.attrs["voxel_size"]
    layers = shown(find_layers(lab, "TS_1"))
    assert {layer.scale for layer in layers.values()} == {(2, 2, 2)}


def test_labels_of_another_size_are_refused(lab, shown):
    with h5py.File("predictions/semantic/TS_1_preds.h5", "w") as file:
        file["labels"] = np.ones((4, 5, 6), np.uint8)
    with pytest.raises(InputError, match=r"labels are \(4, 5, 6\).* is \(8, 10, 12\) voxels"):
        shown(find_layers(lab, "TS_1"))


@pytest.fixture
def napari():
    """Skips the test where napari is not installed, unless CRYOSEG_REQUIRE_NAPARI is set."""
    if importlib.util.find_spec("napari") is None:
        skip_unless_required("napari is not installed; it is no dependency")


def skip_unless_required(reason):
    if os.environ.get("CRYOSEG_REQUIRE_NAPARI"):
        pytest.fail(f"CRYOSEG_REQUIRE_NAPARI is set, but {reason}")
    pytest.skip(reason)


# Runs the script as it is, but ends where napari would wait for its window to be closed.
SHOWN = """
import sys
import napari, view_tomogram
napari.run = lambda: print([layer.name for layer in napari.current_viewer().layers])
view_tomogram.main()
"""


def test_the_script_opens_a_window(lab, napari):
    """On a display in memory, which napari needs for OpenGL."""
    if not shutil.which("xvfb-run"):
        skip_unless_required("there is no xvfb-run (Debian's package xvfb)")
    scripts = str(REPOSITORY / "scripts")
    # Qt then needs none of the libraries with which windows are put on a display.
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "PYTHONPATH": scripts}
    command = ["xvfb-run", "-a", sys.executable, "-c", SHOWN, "TS_1"]
    for _ in range(3):  # on a busy machine, that display sometimes gives no OpenGL
        run = subprocess.run(command, env=environment, capture_output=True, text=True)
        if "Failed to create context" not in run.stderr:
            break
    assert run.returncode == 0, run.stderr
    *files, names = run.stdout.splitlines()
    assert files == [f"{layer.kind}: {layer.path}" for layer in find_layers(lab, "TS_1")]
    assert names == "['TS_1', 'lamella', 'semantic']"


def test_napari_shows_voxel_sizes_and_the_colours_of_the_pictures(lab, napari):
    """In napari's model of a viewer, which needs neither display nor OpenGL."""
    from napari.components import ViewerModel

    viewer = ViewerModel()
    add_layers(viewer, find_layers(lab, "TS_1"))
    image, mask, labels = viewer.layers
    assert image.data.shape == mask.data.shape == labels.data.shape == SHAPE
    for layer in viewer.layers:
        np.testing.assert_allclose(layer.scale, 2)
        assert {str(unit) for unit in layer.units} == {"nanometer"}
    np.testing.assert_allclose(mask.get_color(1)[:3], to_rgb(LAMELLA_COLOUR), atol=0.01)
    np.testing.assert_allclose(labels.get_color(3)[:3], class_colour(3), atol=0.01)
    assert set(np.unique(labels.data)) == {0, 3}
    assert mask.contour > 0
    assert viewer.scale_bar.visible

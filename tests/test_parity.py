"""What CryoSiam predicted is what score_voxels and label_voxels give."""

from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from cryoseg.volumes import open_volume, write_mrc
from inspect_model import inspect_model
from label_voxels import label_voxels
from score_voxels import score_voxels

# Beyond it CryoSiam's padding wraps around and spoils its own result.
SOUND = (slice(0, 100), slice(0, 100), slice(0, 132))


def predict(folder, tomogram, checkpoint, threshold, *, save_internal_files=True, **how):
    """Both steps of a stage on one tomogram; returns the paths of the files."""
    made = {"model": "model.json", "scores": "scores.h5", "labels": "preds.h5"}
    paths = SimpleNamespace(**{name: folder / file for name, file in made.items()})
    network = {"in_channels": 1, "spatial_dims": 3}
    inspect_model(checkpoint, paths.model, settings=network)
    scoring = {
        "data": {"min": 0, "max": 120, "mean": 0, "std": 1},
        "precision": how.pop("precision", "fp32"),
        "save_internal_files": save_internal_files,
    }
    score_voxels(tomogram, checkpoint, paths.model, paths.scores, settings=scoring, **how)
    labelling = {
        "threshold": threshold,
        "postprocessing": False,
        "3d_postprocessing": False,
        "postprocessing_sizes": None,
        "save_internal_files": save_internal_files,
    }
    label_voxels(paths.scores, tomogram, paths.labels, settings=labelling, scored=scoring)
    return paths


@pytest.mark.parametrize(
    ("model", "threshold", "tile_size"), [("lamella", 0.5, "auto"), ("semantic", 0.1, "64,64,80")]
)
def test_labels_and_probabilities_equal_cryosiams(model, threshold, tile_size, data, tmp_path):
    paths = predict(
        tmp_path, data / "exact.mrc", data / f"{model}.ckpt", threshold, tile_size=tile_size
    )
    expected = np.load(data / f"{model}.npz")
    with h5py.File(paths.labels) as found:
        assert (found["labels"][SOUND] == expected["labels"][SOUND]).all()
        probs = found["probs"][:, :100:3, :100:3, :132:3]
        assert found["distances"].shape == found["probs"].shape
    np.testing.assert_allclose(probs, expected["probs_sub"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("model", "threshold"), [("lamella", 0.5), ("semantic", 0.1)])
def test_labels_in_low_precision_are_nearly_all_the_same(model, threshold, data, tmp_path):
    """A small part of the tomogram: few CPUs multiply in bf16, and the others take long over it."""
    whole = open_volume(data / "exact.mrc")
    write_mrc(tmp_path / "part.mrc", whole[40:72, 40:88, 60:108], like=whole)
    labels = {}
    for precision in ("fp32", "bf16"):
        (tmp_path / precision).mkdir()
        paths = predict(
            tmp_path / precision,
            tmp_path / "part.mrc",
            data / f"{model}.ckpt",
            threshold,
            save_internal_files=False,
            precision=precision,
        )
        with h5py.File(paths.labels) as found:
            labels[precision] = found["labels"][...]
    assert (labels["fp32"] == labels["bf16"]).mean() >= 0.999

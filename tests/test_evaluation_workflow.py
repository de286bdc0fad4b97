"""Evaluations, comparisons and chosen thresholds as people ask for them; snakemake is run."""

import shutil

import h5py
import numpy as np
import pytest

from conftest import REPOSITORY
from cryoseg.tables import read_table
from cryoseg.volumes import write_mrc
from test_workflow import ODD, RAW, SHAPE, Lab, stage_file, steps

NAMES = ("TS_1", ODD)
EVALUATE = {
    "labels_folder": "labels",
    "class_names": ["membrane"],
    "compare_with": "other",
    "positions": "p.csv",
    "match_radius_nm": 4,
}


def true_labels(seed):
    labels = np.random.default_rng(seed).integers(0, 5, SHAPE, dtype=np.uint8)
    labels[:3] = 255
    return labels


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An evaluated stage of two tomograms with labels and one without."""
    lab = Lab(tmp_path_factory.mktemp("evaluated"))
    shutil.copy(REPOSITORY / "tests/data/semantic.ckpt", lab.folder / "semantic.ckpt")
    for folder in ("labels", "other"):
        (lab.folder / folder).mkdir()
    for seed, name in enumerate((*NAMES, "TS_2")):
        lab.write_tomogram(name, seed)
        if name in NAMES:
            write_mrc(lab.folder / "labels" / f"{name}.mrc", true_labels(seed), voxel_size=10.0)
    # What another program predicted, of one tomogram only.
    with h5py.File(lab.folder / "other" / "TS_1_preds.h5", "w") as file:
        file["labels"] = np.where(true_labels(0) == 255, 0, true_labels(0))
        file.attrs["voxel_size"] = (10.0, 10.0, 10.0)
    (lab.folder / "p.csv").write_text("tomo,z,y,x,semantic_class\nTS_1,12,16,20,2\n")
    write_stage(lab)
    lab.write_config(predict={"semantic": "config/semantic.yaml"})
    lab.run("evaluate")
    return lab


def write_stage(lab, evaluate=None, **changes):
    raw = {"data_folder": RAW, "mask_folder": None}
    raw |= {"parameters__data__min": -4, "parameters__data__max": 6}
    stage = stage_file("semantic", **raw | changes)
    lab.write_yaml("config/semantic.yaml", stage | {"evaluate": EVALUATE | (evaluate or {})})


@pytest.fixture
def lab(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    shutil.copytree(finished.folder, tmp_path / "lab", copy_function=shutil.copy2)
    return Lab(tmp_path / "lab")


def test_tomograms_with_labels_are_evaluated_and_summed_up(finished):
    folder = finished.folder / "predictions/semantic/evaluation"
    table = read_table(folder / "TS_1_evaluation.tsv")
    of_stage = table[table["stage"] == "semantic"].set_index("label")
    true, found = true_labels(0), finished.labels("semantic", "TS_1")
    for label in (1, 4):
        here, there = (true == label), (found == label) & (true != 255)
        dice = 2 * np.count_nonzero(here & there) / (here.sum() + there.sum())
        assert of_stage["dice"][str(label)] == pytest.approx(dice, abs=1e-5)
    assert of_stage["class"]["1"] == "membrane"
    assert of_stage["true_objects"]["2"] == 1
    summary = read_table(folder / "summary.tsv").set_index(["label", "measure"])
    assert summary["tomograms"]["1", "dice"] == 2
    assert not (folder / "TS_2_evaluation.tsv").exists()


def test_a_stage_is_compared_with_a_folder_of_predictions(finished):
    table = read_table(finished.folder / "predictions/semantic/evaluation/comparison.tsv")
    assert set(table["stage"]) == {"semantic"}
    assert set(table["compared_with"]) == {"other"}
    dice = table[table["measure"] == "dice"].set_index("label")
    assert (dice["tomograms"] == 1).all()
    assert (dice["other_mean"] == 1).all()
    assert (dice["difference"] < 0).all()


def test_another_tolerance_evaluates_again_and_predicts_nothing(lab):
    write_stage(lab, {"tolerance_nm": 4})
    tables = steps(["semantic_evaluate_labels"], NAMES)
    assert lab.plan("evaluate") == tables | {
        ("semantic_summarise_evaluation", None),
        ("evaluate", None),
    }

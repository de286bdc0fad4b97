"""Evaluations, comparisons and chosen thresholds as people ask for them; snakemake is run."""

import json
import shutil

import h5py
import numpy as np
import pytest
import yaml

from conftest import REPOSITORY
from cryoseg.tables import read_table
from cryoseg.volumes import write_mrc
from test_workflow import ODD, RAW, SHAPE, Lab, stage_file, steps

NAMES = ("TS_1", ODD)
EVALUATE = {
    "labels_folder": "labels",
    "compare_with": "other",
    "choose_thresholds": True,
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
    lab.run("evaluate", "thresholds")
    return lab


def write_stage(lab, evaluate=None, **changes):
    raw = {"data_folder": RAW, "mask_folder": None}
    raw |= {"parameters__data__min": -4, "parameters__data__max": 6}
    stage = stage_file("semantic", **raw | changes)
    stage |= {"class_names": ["membrane"], "evaluate": EVALUATE | (evaluate or {})}
    lab.write_yaml("config/semantic.yaml", stage)


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
    assert set(of_stage["split"]) == {"-"}
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


def test_wrong_true_labels_stop_the_evaluation_of_their_tomogram_alone(lab):
    """And neither its prediction nor that of another."""
    write_mrc(lab.folder / "labels" / "TS_1.mrc", true_labels(0)[:5], voxel_size=10.0)
    shown = lab.run("check")
    assert "true labels labels/TS_1.mrc are 5 x" in shown
    shown = lab.run("evaluate", "predict", fails=True)
    _, summary = shown.split("1 job failed:")
    assert "semantic_admit_to_evaluate TS_1: " in summary
    assert "true labels labels/TS_1.mrc are 5 x" in summary
    assert planned(lab) == set()


def planned(lab):
    """What a plan to predict does with the tomograms that were predicted before."""
    return {(rule, name) for rule, name in lab.plan("predict") if name in NAMES}


CHOSEN = "predictions/semantic/evaluation/config_with_thresholds.yaml"


def test_thresholds_are_chosen_and_written_as_a_stage_to_predict_with(finished):
    folder = finished.folder / "predictions/semantic/evaluation"
    table = read_table(folder / "thresholds.tsv")
    rows = table[table["chosen"]].set_index("label")
    best = table.groupby("label")["dice"].max()
    assert rows["dice"].to_dict() == pytest.approx(best.to_dict())
    assert (folder / "thresholds.png").read_bytes().startswith(b"\x89PNG")
    own, chosen = (
        yaml.safe_load((finished.folder / name).read_text())
        for name in ("config/semantic.yaml", CHOSEN)
    )
    network = chosen["parameters"]["network"]
    choice = read_table(folder / "choice.tsv").set_index("values")["dice"]
    assert choice["chosen"].iloc[-1] > choice["now"].iloc[-1]
    assert network["threshold"] == {int(k): v for k, v in rows["threshold"].to_dict().items()}
    assert sorted(network["postprocessing_sizes"]) == [1, 2, 3, 4]
    assert chosen["evaluate"]["choose_thresholds"] is False
    assert chosen["data_folder"] == own["data_folder"]


def test_the_chosen_thresholds_label_anew_without_a_gpu_job(lab):
    lab.write_config(predict={"semantic": CHOSEN})
    assert planned(lab) == steps(["semantic_label_voxels"], NAMES)
    lab.run("predictions/semantic/evaluation/TS_1_evaluation.tsv")
    written = (lab.folder / CHOSEN).read_text()
    stage = yaml.safe_load(written)
    with h5py.File(lab.folder / "predictions/semantic/TS_1_preds.h5") as file:
        used = json.loads(file.attrs["settings"])["label_voxels"]["postprocessing_sizes"]
    sizes = stage["parameters"]["network"]["postprocessing_sizes"]
    assert used == {str(label): size for label, size in sizes.items()}
    stage["parameters"]["network"]["threshold"] = [0.5, 0.1, 0.2, 0.3]
    lab.write_yaml("config/semantic.yaml", stage)
    lab.write_config(predict={"semantic": "config/semantic.yaml"})
    assert planned(lab) == steps(["semantic_label_voxels"], NAMES)
    assert (lab.folder / CHOSEN).read_text() == written


def test_scores_are_computed_once_more_where_classes_after_the_winner_are_not_kept(lab):
    write_stage(lab, {"choose_thresholds": False})
    assert planned(lab) == steps(["semantic_score_voxels", "semantic_label_voxels"], NAMES)

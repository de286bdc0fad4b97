"""Snakemake trains what must be trained and no more; it is run as people run it."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time

import h5py
import mrcfile
import numpy as np
import pytest
import yaml

from conftest import REPOSITORY
from test_checkpoints import NO_MODEL, hostile
from test_workflow import ODD, RAW, Lab, stage_file, steps

SHAPE = (20, 24, 28)
NAMES = ("TS_1", "TS_10", ODD)
SMALL = {
    "num_filters": [4, 4, 4, 4],
    "fpn_channels": 4,
    "dim": 4,
    "pred_dim": 4,
    "dense_pred_dim": 4,
}
MODEL = "runs/semantic/model/model_best.ckpt"
PATCH_STEPS = ("semantic_filter_labels", "semantic_measure_distances", "semantic_cut_patches")
PREDICT_STEPS = ("semantic_score_voxels", "semantic_label_voxels")
TRAIN = ("semantic_train_model", None)
INSPECT = ("semantic_inspect_model", None)


def training(**changes):
    """A training of a small network; changes are dotted keys, with __ for the dots."""
    entry = {
        "data_folder": "scaled",
        "labels_folder": "labels/kept",
        "labels_folder_for_filtering": "labels/truth",
        "selected_labels": [1, 2],
        "patches_folder": "patches",
        "temp_dir": "work",
        "log_dir": "runs/semantic",
        "val_files": ["TS_10.mrc"],
        "parameters": {
            "data": {"patch_size": [16, 16, 16], "patch_overlap": 0.5},
            "transforms": {"flip": True},
            "network": {"out_channels": 3, "dense_dim": 4, "filters": [4, 4]},
            "backbone": SMALL,
        },
        "hyper_parameters": {
            "batch_size": 8,
            "max_epochs": 1,
            "device": "cpu",
            "precision": "fp32",
            "num_workers": 0,
        },
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        block = entry
        for part in path:
            block = block[part]
        block[last] = value
    return entry


class TrainingLab(Lab):
    """A folder in which snakemake trains a model and predicts with it."""

    def write_training(self, **changes):
        self.write_yaml("config/train.yaml", training(**changes))

    def write_labels(self, name, seed=0):
        grid = np.indices(SHAPE).astype(np.float32)
        labels = np.zeros(SHAPE, np.uint8)
        for label, centre in ((1, (10, 8, 8)), (2, (10, 14, 18 - seed % 5)), (3, (4, 4, 22))):
            distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
            labels[distance < 5] = label
        noise = np.random.default_rng(seed).normal(size=SHAPE)
        for folder, volume in ((RAW, labels * 2 + noise), ("labels/truth", labels)):
            (self.folder / folder).mkdir(parents=True, exist_ok=True)
            with mrcfile.new(self.folder / folder / f"{name}.mrc", overwrite=True) as mrc:
                mrc.set_data(volume.astype(np.float32 if folder == RAW else np.int8))
                mrc.voxel_size = 10

    def plan(self, *arguments):
        """As Lab.plan, without the targets that have a name."""
        return super().plan(*arguments) - {("train", None), ("label", None)}


def fill(lab):
    """A scaling, a training and a stage that predicts with it; nothing done yet."""
    lab.write_config(
        scale={"raw": {"input_path": RAW, "output_path": "scaled", "invert": False}},
        train={"semantic": "config/train.yaml"},
        predict={"semantic": "config/semantic.yaml"},
    )
    lab.write_training()
    stage = stage_file("semantic", mask_folder=None, trained_model=f"./{MODEL}")
    lab.write_yaml("config/semantic.yaml", stage)
    for seed, name in enumerate(NAMES):
        lab.write_labels(name, seed)
    return lab


@pytest.fixture
def empty(tmp_path):
    return fill(TrainingLab(tmp_path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to be looked at, not to be changed."""
    lab = fill(TrainingLab(tmp_path_factory.mktemp("trained")))
    lab.output = lab.run()
    return lab


@pytest.fixture
def lab(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    folder = tmp_path / "lab"
    subprocess.run(["cp", "-a", finished.folder, folder], check=True)
    return TrainingLab(folder)


CHECK_STEPS = ("scaled_check_tomogram", "scaled_admit_to_train")
ADMIT = steps(["scaled_admit_to_predict"], NAMES)
PREPARE_STEPS = ("raw_scale_tomogram", *CHECK_STEPS, *PATCH_STEPS)
ON_MODEL = {INSPECT} | steps(PREDICT_STEPS, NAMES)
ALL_STEPS = steps(PREPARE_STEPS, NAMES) | {TRAIN} | ADMIT | ON_MODEL


# A plan


def test_a_plan_for_an_empty_disk_shows_every_step_and_predicts_after_training(empty):
    shown = empty.run("-n")
    assert empty.plan() == ALL_STEPS
    assert re.search(rf"rule {INSPECT[0]}:\n    input: {MODEL}\n", shown)
    assert empty.plan("train") == ALL_STEPS - ON_MODEL - ADMIT


def test_a_calibration_tells_a_plan_how_long_training_and_scoring_will_take(empty):
    empty.run("calibrate")
    found = json.loads((empty.folder / "runs" / "semantic" / "calibration.json").read_text())
    assert 0 < found["validation_seconds"] < 10
    assert 0 < found["step_seconds"] < 10
    assert found["scoring_operations_per_second"] > 0
    empty.run("plan")
    with open(empty.folder / "plan.tsv", encoding="utf-8") as file:
        rows = {row["step"]: row for row in csv.DictReader(file, delimiter="\t")}
    training, scores = rows["semantic_train_model"], rows["semantic_score_voxels"]
    assert (training["guess"], scores["guess"]) == ("no", "no")
    # Twelve patches of each of two tomograms, in batches of eight.
    assert training["basis"].startswith("measured by calibrate on cpu; at most 1 epochs of 3 steps")
    assert scores["basis"] == "measured by calibrate of its training on cpu"


def test_all_mistakes_of_a_training_are_listed_without_a_traceback(empty):
    empty.write_training(train_files=["TS_2.mrc"], selected_labels=[1, 7])
    (empty.folder / "config" / "semantic.yaml").write_text("data_folder: scaled\n")
    shown = empty.run("-n", fails=True)
    assert "train_files: TS_2.mrc is not among the files that scale.raw writes" in shown
    assert "set out_channels to 8, or use relabel: true" in shown
    assert "trained_model is missing" in shown


def test_a_pretrained_model_that_would_run_code_stops_its_training_and_runs_nothing(lab):
    canary = lab.folder / "canary"
    hostile("state_dict", lab.folder / "pretrained.ckpt", canary)
    entry = training(pretrained_model="pretrained.ckpt")
    del entry["parameters"]["backbone"]
    lab.write_yaml("config/train.yaml", entry)
    _, summary = lab.run("train", fails=True).split("1 job failed:")
    reason = f"semantic_train_model: pretrained.ckpt: {NO_MODEL['state_dict']}"
    assert summary.strip().startswith(reason)
    assert not canary.exists()


def test_a_training_asks_for_its_gpus_and_nodes(empty):
    empty.write_training(
        parameters__gpu_devices=[0, 1], parameters__nodes=2, hyper_parameters__device="cuda"
    )
    shown = empty.run("-n", "--resources", "gpu=4", "--", "train")
    for asked in ("tasks=4", "slurm_extra=--ntasks-per-node=2", "gres=gpu:2", "gpu=0, nodes=2",
                  "gpu_devices=0,1"):  # fmt: skip
        assert asked in shown


# A finished run


def test_a_model_is_trained_and_predicts(finished):
    log_dir = finished.folder / "runs" / "semantic"
    for name in ("model/model_best.ckpt", "model/last.ckpt", "metrics.csv", "split.json"):
        assert (log_dir / name).stat().st_size
    assert list((log_dir / "model").glob("model_best-*.ckpt"))
    for name in NAMES:
        assert finished.labels("semantic", name).shape == SHAPE
        with h5py.File(finished.folder / "patches" / f"{name}_patches.h5") as file:
            assert file
        assert (finished.folder / "logs/semantic/cut_patches" / f"{name}.log").exists()
    assert (finished.folder / "logs/semantic/train_model.log").exists()
    assert (finished.folder / "benchmarks/semantic/train_model.tsv").exists()


def test_a_second_run_has_nothing_to_do(finished):
    assert finished.plan() == set()


# What changed, and only that


@pytest.mark.parametrize(
    "change",
    [{"hyper_parameters__lr": 0.01}, {"parameters__transforms__flip": False}, {"val_files": None}],
)
def test_what_matters_to_the_training_alone_runs_only_the_training(lab, change):
    lab.write_training(**change)
    assert lab.plan() == {TRAIN} | ON_MODEL


def test_a_changed_tomogram_reruns_its_own_files_and_the_training(lab):
    with mrcfile.open(lab.folder / RAW / "TS_1.mrc", "r+") as mrc:
        mrc.data[:] += np.random.default_rng(9).normal(size=SHAPE).astype(np.float32)
    own = steps(["raw_scale_tomogram", *CHECK_STEPS, "semantic_cut_patches"], ["TS_1"])
    assert lab.plan("train") == own | {TRAIN}


def test_changed_labels_rerun_their_own_files_and_the_training(lab):
    with mrcfile.open(lab.folder / "labels" / "truth" / "TS_1.mrc", "r+") as mrc:
        mrc.data[0] = 1
    assert lab.plan("train") == steps([*CHECK_STEPS, *PATCH_STEPS], ["TS_1"]) | {TRAIN}


@pytest.mark.parametrize(
    "change",
    [{"parameters__data__patch_overlap": 0.25}, {"parameters__data__remove_only_background": True}],
)
def test_other_patches_are_cut_and_trained_on(lab, change):
    lab.write_training(**change)
    assert lab.plan("train") == steps(["semantic_cut_patches"], NAMES) | {TRAIN}


def test_other_selected_labels_rerun_everything_from_the_filter_on(lab):
    lab.write_training(selected_labels=[1])
    assert lab.plan("train") == steps([*CHECK_STEPS, *PATCH_STEPS], NAMES) | {TRAIN}


def test_a_new_tomogram_is_prepared_alone_and_trained_on(lab):
    lab.write_labels("TS_2")
    new = steps(PREPARE_STEPS, ["TS_2"])
    assert lab.plan("train") == new | {TRAIN}


def test_a_tomogram_that_is_left_out_is_only_left_out_of_the_training(lab):
    lab.write_training(train_files=["TS_1.mrc"])
    assert lab.plan("train") == {TRAIN}


def test_order_spelling_and_speed_rerun_nothing(lab):
    entry = training(
        continue_training=True,
        data_folder=f"{lab.folder}/./scaled/",
        prediction_folder="anywhere",
        parameters__gpu_devices=4,
        hyper_parameters__num_workers=2,
        hyper_parameters__cache_rate=1,
        hyper_parameters__device="auto",
    )
    entry["parameters"] = dict(reversed(entry["parameters"].items()))
    lab.write_yaml("config/train.yaml", dict(reversed(entry.items())))
    assert lab.plan() == set()


def test_a_deleted_model_is_brought_back(lab):
    (lab.folder / MODEL).unlink()
    assert lab.plan("train") == {TRAIN}


# What goes wrong


@pytest.mark.parametrize("seconds", [0, 10**6], ids=["newer than the labels", "older"])
def test_a_model_of_cryosiam_is_neither_replaced_nor_taken_for_the_trainings_own(lab, seconds):
    """It has the names of ours: model_best.ckpt and last.ckpt."""
    models = lab.folder / MODEL
    shutil.rmtree(models.parent)
    models.parent.mkdir()
    for name in ("model_best", "last"):
        path = models.with_name(f"{name}.ckpt")
        shutil.copy(REPOSITORY / "tests" / "data" / "semantic.ckpt", path)
        os.utime(path, 2 * (time.time() - seconds,))
    content = models.read_bytes()
    for arguments in (["-n", "train"], ["train"], ["-n", "predict"]):
        shown = lab.run(*arguments, fails=True)
        assert f"no record says that cryoseg made this file: {MODEL}" in shown
        assert "or name another log_dir for train.semantic" in shown
    assert models.read_bytes() == models.with_name("last.ckpt").read_bytes() == content
    assert len(list(models.parent.iterdir())) == 2


def test_a_label_that_the_network_has_no_class_for_is_named_before_the_training(lab):
    lab.write_training(selected_labels=None)
    shown = lab.run("train", fails=True)
    _, summary = shown.split("jobs failed:")
    assert re.search(r"scaled_admit_to_train TS_1: labels/truth/TS_1.mrc: .*label 3", summary)
    assert not [line for line in summary.splitlines() if "train_model" in line]


def test_a_training_that_is_killed_goes_on_where_it_was(lab):
    lab.write_training(hyper_parameters__max_epochs=4, hyper_parameters__checkpoint_minutes=0.001)
    last = lab.folder / "runs/semantic/model/last.ckpt"
    last.unlink()
    with subprocess.Popen(
        lab.command("train"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=lab.folder,
        start_new_session=True, text=True,
    ) as running:  # fmt: skip
        deadline = time.monotonic() + 60
        while not last.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(running.pid, signal.SIGKILL)
        running.stdout.read()
    assert last.exists()
    lab.run("train")
    assert "goes on" in (lab.folder / "logs/semantic/train_model.log").read_text()


# Labels from positions and masks


def test_labels_are_made_from_positions_and_masks_and_trained_on(empty):
    rows = ["tomo,centroid-0,centroid-1,centroid-2,semantic_class"]
    rows += [f"TS_{number},{z},10,12,2" for number in (1, 10) for z in (6, 14)]
    (empty.folder / "positions.csv").write_text("\n".join(rows) + "\n")
    shutil.copytree(empty.folder / "labels" / "truth", empty.folder / "labels" / "masks")
    files = ["TS_1.mrc", "TS_10.mrc"]
    spheres = {"kind": "particles", "tomograms": RAW, "positions": "positions.csv", "radius": 40}
    merge = {"kind": "merge", "folders": {2: "labels/spheres", 1: "labels/masks"}}
    with mrcfile.new(empty.folder / "average.mrc") as mrc:
        mrc.set_data(np.pad(np.ones((5, 5, 5), np.float32), 1))
        mrc.voxel_size = 10
    columns = "TomoName ClassNumber CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi"
    lines = ["data_particles", "", "loop_", *(f"_rln{column}" for column in columns.split())]
    lines += [f"TS_1 2 12 10 {z} 0 0 0" for z in (6, 14)]
    (empty.folder / "refined.star").write_text("\n".join(lines) + "\n")
    shapes = spheres | {"kind": "averages", "averages": "average.mrc", "threshold": 0.5}
    shapes["positions"] = "refined.star"
    del shapes["radius"]
    config = yaml.safe_load((empty.folder / "config" / "config.yaml").read_text())
    config["label"] = {
        "spheres": spheres | {"files": files, "output_path": "labels/spheres"},
        "shapes": shapes | {"files": ["TS_1.mrc"], "output_path": "labels/shapes"},
        "both": merge | {"files": files, "output_path": "labels/both"},
    }
    empty.write_config(**config)
    empty.write_training(
        labels_folder="labels/both",
        labels_folder_for_filtering=None,
        selected_labels=None,
        train_files=["TS_1.mrc"],
    )
    made = steps(["spheres_label_particles", "both_merge_labels"], ["TS_1", "TS_10"])
    assert empty.plan("label") == made | {("shapes_label_averages", "TS_1")}
    prepared = ["raw_scale_tomogram", *CHECK_STEPS, "semantic_measure_distances"]
    prepared += ["semantic_cut_patches"]
    wanted = made | steps(prepared, ["TS_1", "TS_10"]) | {TRAIN}
    assert empty.plan("train") == wanted
    empty.run("patches/TS_1_patches.h5", "labels/shapes/TS_1.mrc")
    with mrcfile.open(empty.folder / "labels/shapes/TS_1.mrc") as mrc:
        assert (mrc.data == 2).sum() == 2 * 5**3
    with mrcfile.open(empty.folder / "labels/both/TS_1.mrc") as mrc:
        assert set(np.unique(mrc.data)) == {0, 1, 2}
        assert mrc.voxel_size.x == 10

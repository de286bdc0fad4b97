"""Training and label entries are read as they were written, and every mistake is named."""

import json
import os
from pathlib import Path

import pytest
import yaml

from conftest import REPOSITORY
from cryoseg import job_resources, plan, schema_check
from cryoseg.configuration import read_configuration
from cryoseg.errors import InputError
from cryoseg.yaml_files import read_yaml
from test_configuration import HEADER, LAMELLA, SCALE, with_key

TRAINING = {
    "data_folder": "tomograms",
    "labels_folder": "labels",
    "patches_folder": "patches",
    "temp_dir": "work",
    "log_dir": "runs/one",
    "parameters": {"network": {"out_channels": 3}},
}
NAMES = ["TS_1", "TS_10", "x.mrc_13.28Apx"]
SPHERES = {
    "kind": "particles",
    "tomograms": "tomograms",
    "positions": "ribosomes.star",
    "radius": 120,
    "output_path": "spheres",
}
MERGE = {"kind": "merge", "folders": {2: "b", 1: "a"}, "output_path": "merged"}


class Lab:
    """A folder with three labelled tomograms, and configurations to be tried in it."""

    def __init__(self, folder):
        self.folder = folder
        for name in NAMES:
            for place in ("tomograms", "labels"):
                self.write(f"{place}/{name}.mrc", HEADER)
        for name in ("pretrained.ckpt", "lamella.ckpt", "ribosomes.star"):
            self.write(name, b"x")

    def write(self, name, content=b""):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def read(self, train=None, predict=None, on_disk=True, **sections):
        """Stages and notes of a configuration; trainings and stages are mappings or YAML text."""
        content = dict(sections)
        for section, entries in (("train", train), ("predict", predict)):
            content[section] = {}
            for name, entry in (entries or {}).items():
                text = entry if isinstance(entry, str) else yaml.safe_dump(entry, sort_keys=False)
                self.write(f"{section}_{name}.yaml", text.encode())
                content[section][name] = f"{section}_{name}.yaml"
        return read_configuration(content, on_disk=on_disk)

    def mistakes(self, **entries):
        """The lines about mistakes in such a configuration."""
        with pytest.raises(InputError) as caught:
            self.read(**entries)
        return [line.strip() for line in str(caught.value).splitlines()[1:]]

    def given(self, **changes):
        """What the rules of a training are given."""
        stages, _ = self.read(train={"one": TRAINING | changes})
        return plan.training(stages, "one")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Lab(tmp_path)


# What CryoSiam's documents say


DOCUMENTED = """
data_folder: 'tomograms'
labels_folder: 'labels'
noisy_data_folder: null
patches_folder: 'models/patches'
temp_dir: 'models'
log_dir: 'models'
prediction_folder: 'models/predictions'
pretrained_model: 'pretrained.ckpt'
file_extension: '.mrc'
train_files: [ 'TS_1.mrc', 'TS_10.mrc' ]

val_files: null
validation_ratio: 0.1

continue_training: False

labels_folder_for_filtering: null
selected_labels: null

parameters:
  nodes: 1
  gpu_devices: 8
  data:
    patch_size: [ 128, 128, 128 ]
    patch_overlap: 0.5
    remove_only_background: False
    min: 0
    max: 1
    mean: 0
    std: 1
  transforms:
    low_pass_sigma_range: [ 0.1, 0.6 ]
    high_pass_sigma_range: [ 0.1, 0.2 ]
    high_pass_sigma2_range: [ 4, 6 ]
    noise_sigma_range: [ 0.01, 0.05 ]
    combine_transforms: False
    use_noisy_input: False
    scale_intensity_factors: null
    elastic: null
    zoom: [ 0.8, 1.2 ]
    rotate: [ 3.14, 3.14, 3.14 ]
    flip: True
  network:
    in_channels: 1
    spatial_dims: 3
    out_channels: 7
    dense_dim: 64
    filters: [ 32, 64 ]
    kernel_size: 3
    padding: 1
    distance_prediction: True
    use_dice_loss: True
    unfreeze_decoder: True
    unfreeze_backbone: True

hyper_parameters:
  cache_rate: 0
  val_interval: 1
  batch_size: 3
  optimizer: 'adamw' # one of 'sgd', 'adam', 'adamw'
  lr: 0.001
  momentum: 0.9
  weight_decay: 0.00001
  max_epochs: 200
"""


def test_the_documented_example_is_read_with_its_values(lab):
    stages, notes = lab.read(train={"semantic": DOCUMENTED})
    assert notes == [
        "train_semantic.yaml: without effect here: prediction_folder "
        "(predictions are made by the entries under predict)"
    ]
    given = plan.training(stages, "semantic")
    assert given["cut"] == {
        "patch_size": [128, 128, 128],
        "patch_overlap": 0.5,
        "remove_only_background": False,
        "min": 0,
        "max": 1,
        "out_channels": 7,
    }
    config, documented = given["train"]["config"], yaml.safe_load(DOCUMENTED)
    for block in ("data", "transforms", "network"):
        own = config["parameters"][block]
        assert {key: own[key] for key in documented["parameters"][block]} == (
            documented["parameters"][block]
        )
    assert config["hyper_parameters"]["lr"] == 0.001
    assert config["parameters"]["backbone"] is None  # the checkpoint's
    assert given["speed"]["gpu"] == 8
    assert given["patches"] == [f"models/patches/{name}_patches.h5" for name in NAMES[:2]]
    assert given["paths"]["pretrained"] == "pretrained.ckpt"
    assert plan.targets(stages)["train"] == ["models/model/model_best.ckpt"]


def test_required_keys_alone_give_the_documented_defaults(lab):
    required = {key: TRAINING[key] for key in ("data_folder", "labels_folder", "patches_folder")}
    stages, _ = lab.read(train={"one": required | {"parameters": TRAINING["parameters"]}})
    entry = stages.train["one"]
    assert entry["file_extension"] == ".mrc"
    assert entry["validation_ratio"] == 0.1
    assert entry["hyper_parameters"]["batch_size"] == 10
    assert entry["parameters"]["network"]["filters"] == [32, 64]
    given = plan.training(stages, "one")
    assert given["paths"]["distances"] == "patches/distances"
    assert given["paths"]["models"] == "patches/model"
    backbone = given["train"]["config"]["parameters"]["backbone"]
    assert backbone["num_filters"] == [64, 128, 256, 512]


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("data_folder", "data_folder"),
        ("labels_folder", "labels_folder"),
        ("patches_folder", "patches_folder"),
        ("parameters", "parameters"),
    ],
)
def test_a_required_key_that_is_missing_is_named(lab, key, named):
    entry = {name: value for name, value in TRAINING.items() if name != key}
    (mistake,) = lab.mistakes(train={"one": entry})
    assert mistake.startswith(f"train_one.yaml: {named} is missing")


def test_the_number_of_classes_must_be_given(lab):
    (mistake,) = lab.mistakes(train={"one": TRAINING | {"parameters": {"network": {}}}})
    assert "parameters.network.out_channels is missing; it must be a whole number" in mistake


def test_files_that_cryosiam_was_trained_with_are_accepted_unchanged(compat, monkeypatch):
    monkeypatch.chdir(compat)
    for name in ("lamella", "semantic"):
        stages, _ = read_configuration({"train": {name: f"configs/{name}_train.yaml"}})
        assert stages.names_to_train(name) == ["tomo_a", "tomo_b", "tomo_c"]
    # Filtered labels keep their values, so that two of them need a network of four classes.
    with pytest.raises(InputError, match="set out_channels to 4, or use relabel: true"):
        read_configuration({"train": {"two": "configs/filter_2_3.yaml"}})


# Which tomograms


def test_all_tomograms_but_those_held_back_are_trained_on(lab):
    assert len(lab.given()["patches"]) == 3
    given = lab.given(test_files=["TS_1.mrc"])
    assert given["patches"] == [f"patches/{name}_patches.h5" for name in NAMES[1:]]


def test_tomograms_to_validate_on_are_cut_too_and_are_not_trained_on(lab):
    given = lab.given(val_files=["TS_10.mrc"])
    assert len(given["patches"]) == 3
    assert given["train"]["config"]["val_files"] == ["TS_10.mrc"]
    assert given["train"]["config"]["train_files"] == ["TS_1.mrc", "x.mrc_13.28Apx.mrc"]


def test_tomograms_that_no_step_needs_want_no_labels(lab):
    lab.write("tomograms/TS_2.mrc", HEADER)
    (mistake,) = lab.mistakes(train={"one": TRAINING})
    assert mistake == (
        "train_one.yaml: labels_folder: labels holds no NAME.mrc for TS_2; make these labels, or "
        "leave the tomograms out with train_files"
    )
    lab.given(train_files=["TS_1.mrc"])


def test_files_that_are_not_there_are_named(lab):
    entry = TRAINING | {"train_files": ["TS_1.mrc", "TS_01.mrc"], "val_files": ["TS_10"]}
    assert lab.mistakes(train={"one": entry}) == [
        "train_one.yaml: train_files: TS_01.mrc is not in tomograms; did you mean TS_1.mrc?",
        "train_one.yaml: val_files: TS_10 is not in tomograms; did you mean TS_10.mrc?",
    ]


def test_files_both_to_train_and_to_validate_on_are_a_mistake(lab):
    files = {"train_files": ["TS_1.mrc", "TS_10.mrc"], "val_files": ["TS_1.mrc"]}
    (mistake,) = lab.mistakes(train={"one": TRAINING | files})
    assert "TS_1.mrc: in train_files and in val_files" in mistake
    (mistake,) = lab.mistakes(train={"one": TRAINING | {"train_files": ["TS_1.mrc"] * 2}})
    assert "train_files: TS_1.mrc is listed 2 times" in mistake


def test_something_must_be_left_to_train_on(lab):
    files = [f"{name}.mrc" for name in NAMES]
    (mistake,) = lab.mistakes(train={"one": TRAINING | {"val_files": files}})
    assert "leave some to train on" in mistake


# Labels


def test_labels_are_found_by_the_ending_that_most_have(lab):
    for name in NAMES:
        lab.write(f"predicted/{name}_preds.h5")
    lab.write("predicted/TS_1.mrc")
    paths = lab.given(labels_folder="predicted")["paths"]
    assert (paths["labels"], paths["label_ending"]) == ("predicted", "_preds.h5")


def test_filtered_labels_are_written_to_the_labels_folder(lab):
    given = lab.given(
        labels_folder_for_filtering="labels", labels_folder="kept", selected_labels=[2, 1]
    )
    paths = given["paths"]
    assert (paths["unfiltered"], paths["unfiltered_ending"]) == ("labels", ".mrc")
    assert (paths["labels"], paths["label_ending"]) == ("kept", ".mrc")
    assert given["filter"] == {"selected_labels": [2, 1], "relabel": False}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"selected_labels": 1}, "selected_labels is 1, but labels_folder_for_filtering is empty"),
        ({"relabel": True}, "relabel is True, but labels_folder_for_filtering is empty"),
        (
            {"labels_folder_for_filtering": "./labels/"},
            "labels_folder_for_filtering ./labels/ is its labels_folder too",
        ),
        (
            {"labels_folder_for_filtering": "nowhere", "labels_folder": "kept"},
            "labels_folder_for_filtering is nowhere, which does not exist",
        ),
        (
            {
                "labels_folder_for_filtering": "labels",
                "labels_folder": "kept",
                "selected_labels": [1, 5],
            },
            "leads to the label 5, but a network with parameters.network.out_channels 3 has the "
            "classes 0 to 2; set out_channels to 6, or use relabel: true",
        ),
        ({"labels_folder": "tomograms"}, "labels_folder tomograms is data_folder too"),
        ({"labels_folder": "empty"}, "labels_folder is empty, which does not exist"),
    ],
)
def test_labels_that_do_not_fit_are_named(lab, changes, sentence):
    found = lab.mistakes(train={"one": TRAINING | changes})
    assert len(found) == 1
    assert sentence in found[0]


# Values that are wrong together


def test_patience_without_anything_to_validate_with_is_named(lab):
    entry = with_key(TRAINING | {"validation_ratio": 0}, "hyper_parameters.patience", 3)
    (mistake,) = lab.mistakes(train={"one": entry})
    assert "hyper_parameters.patience is set, but validation_ratio is 0" in mistake


def test_trainings_that_want_the_same_patches_share_them(lab):
    """Two learning rates, say; with other patches, folders of their own are needed."""
    other = with_key(TRAINING | {"log_dir": "other"}, "hyper_parameters.lr", 0.01)
    stages, _ = lab.read(train={"one": TRAINING, "two": other})
    assert [plan.training(stages, name)["prepares"] for name in ("one", "two")] == [True, False]
    other = with_key(other, "parameters.data.patch_overlap", 0.25)
    mistakes = "\n".join(lab.mistakes(train={"one": TRAINING, "two": other}))
    assert "are the same folder" in mistakes


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("parameters.data.min", 2, "parameters.data.min is 2 and max 1"),
        ("parameters.transforms.zoom", [1.2, 0.8], "zoom goes from 1.2 down to 0.8"),
        ("parameters.transforms.high_pass_sigma_range", [1, 2], "give both or neither"),
        ("parameters.transforms.use_noisy_input", True, "noisy_data_folder is empty"),
        ("parameters.network.unfreeze_backbone", False, "there is no pretrained_model"),
        ("pretrained_model", "none.ckpt", "pretrained_model none.ckpt does not exist"),
        ("validation_ratio", 1, "it must be a number from 0 to less than 1"),
        ("hyper_parameters.lr", "1e-4", "(YAML takes this for text; write 1.0e-4)"),
        ("parameters.gpu_devices", 0, "a whole number of at least 1"),
        ("parameters.network.kernel_size", 5, "changes the size of a patch; set padding to 2"),
        ("parameters.data.patch_size", [64, 64, 60], "its edges must be multiples of 8"),
        ("hyper_parameters.optimiser", "adam", "did you mean hyper_parameters.optimizer?"),
        ("parameters.network.spatial_dims", 2, "it must be one of 3"),
        ("parameters.data.patch_size", [4, 32, 32], "a whole number of at least 8"),
    ],
)
def test_a_wrong_value_is_named(lab, key, value, sentence):
    (mistake,) = lab.mistakes(train={"one": with_key(TRAINING, key, value)})
    assert mistake.startswith("train_one.yaml: ")
    assert sentence in mistake


def test_sizes_of_a_backbone_do_not_go_with_a_pretrained_one(lab):
    entry = with_key(TRAINING, "parameters.backbone", {"block_type": "basic"})
    given = plan.training(lab.read(train={"one": entry})[0], "one")
    assert given["train"]["config"]["parameters"]["backbone"]["block_type"] == "basic"
    (mistake,) = lab.mistakes(train={"one": entry | {"pretrained_model": "pretrained.ckpt"}})
    assert "leave out one of the two" in mistake


def test_noisy_tomograms_are_read_only_where_they_are_used(lab):
    lab.write("noisy/TS_1.rec", HEADER)
    entry = TRAINING | {"noisy_data_folder": "noisy"}
    assert plan.training(lab.read(train={"one": entry})[0], "one")["noisy"] is False
    used = with_key(entry, "parameters.transforms.use_noisy_input", True)
    (mistake,) = lab.mistakes(train={"one": used})
    assert "noisy holds no NAME.rec for TS_10, x.mrc_13.28Apx" in mistake
    given = plan.training(lab.read(train={"one": used | {"train_files": ["TS_1.mrc"]}})[0], "one")
    assert given["paths"]["noisy_ending"] == ".rec"


# What connects the steps


def test_trainings_that_would_share_a_folder_are_named(lab):
    found = lab.mistakes(train={"one": TRAINING, "two": TRAINING | {"temp_dir": "other"}})
    assert found == [
        "train.one.log_dir/model and train.two.log_dir/model are the same folder, runs/one/model; "
        "give each step its own",
        "train.one.patches_folder and train.two.patches_folder are the same folder, patches; "
        "give each step its own",
    ]


def test_a_stage_predicts_with_a_model_that_is_yet_to_be_trained(lab):
    stage = LAMELLA | {"trained_model": f"{lab.folder}/./runs/one/model/model_best.ckpt"}
    stages, _ = lab.read(train={"one": TRAINING}, predict={"one": stage})
    assert plan.prediction(stages, "one")["paths"]["checkpoint"] == "runs/one/model/model_best.ckpt"
    stage["trained_model"] = "runs/one/model/best.ckpt"
    (mistake,) = lab.mistakes(train={"one": TRAINING}, predict={"one": stage})
    assert mistake.endswith("does not exist; did you mean runs/one/model/model_best.ckpt?")


def test_a_training_goes_on_from_another(lab):
    second = {"patches_folder": "p2", "temp_dir": "t2", "log_dir": "runs/two"}
    second["pretrained_model"] = "runs/one/model/model_best.ckpt"
    stages, _ = lab.read(train={"one": TRAINING, "two": TRAINING | second})
    assert plan.training(stages, "two")["paths"]["pretrained"] == second["pretrained_model"]


def test_steps_that_wait_for_each_other_are_a_mistake(lab):
    for name in NAMES:
        lab.write(f"guess/{name}_preds.h5")
    stage = LAMELLA | {
        "prediction_folder": "guess",
        "trained_model": "runs/one/model/model_best.ckpt",
    }
    (mistake,) = lab.mistakes(
        train={"one": TRAINING | {"labels_folder": "guess"}}, predict={"a": stage}
    )
    assert "train.one needs predict.a needs train.one" in mistake or (
        "predict.a needs train.one needs predict.a" in mistake
    )


def test_labels_and_tomograms_of_other_steps_are_known_before_they_are_made(lab):
    entry = {"output_path": "sim", "number": 2, "shape": [16, 20, 24], "thickness_nm": 8}
    training = TRAINING | {"data_folder": "scaled", "labels_folder": "sim/labels"}
    stages, _ = lab.read(
        simulate={"trial": entry},
        scale={"raw": SCALE | {"input_path": "sim"}},
        train={"one": training},
    )
    given = plan.training(stages, "one")
    assert given["patches"] == ["patches/trial_1_patches.h5", "patches/trial_2_patches.h5"]
    assert job_resources.voxel_count(given["volume"], "trial_1") == 7680
    text = plan.targets(stages)["all"]
    assert text[-1] == "runs/one/model/model_best.ckpt"


def test_labels_that_another_step_does_not_make_are_named(lab):
    spheres = SPHERES | {"files": ["TS_1.mrc"], "output_path": "spheres"}
    training = TRAINING | {"labels_folder": "spheres"}
    (mistake,) = lab.mistakes(label={"ribosomes": spheres}, train={"one": training})
    assert "label.ribosomes makes no labels for TS_10, x.mrc_13.28Apx" in mistake
    lab.read(label={"ribosomes": SPHERES}, train={"one": training})


def test_what_is_no_folder_of_labels_cannot_be_trained_with(lab):
    lab.write("raw/TS_1.mrc", HEADER)
    found = lab.mistakes(
        scale={"raw": SCALE}, train={"one": TRAINING | {"labels_folder": "scaled"}}
    )
    sentence = "labels_folder scaled is where scale.raw writes; keep labels and tomograms apart"
    assert found[0] == f"train_one.yaml: {sentence}"


# What is a reason to train anew


def config_of(given):
    return json.dumps(given["train"]), given["patches"], given["cut"], given["paths"]


def test_order_spelling_and_what_changes_speed_only_are_no_reason_to_train_anew(lab):
    base = config_of(lab.given())
    reordered = dict(reversed(TRAINING.items())) | {"data_folder": f"{lab.folder}/./tomograms/"}
    stages, _ = lab.read(train={"one": reordered})
    assert config_of(plan.training(stages, "one")) == base
    for key, value in (
        ("parameters.gpu_devices", [0, 2]),
        ("parameters.nodes", 2),
        ("hyper_parameters.device", "cpu"),
        ("hyper_parameters.num_workers", 3),
        ("hyper_parameters.cache_rate", 0.5),
        ("hyper_parameters.checkpoint_minutes", 1),
        ("continue_training", True),
        ("prediction_folder", "elsewhere"),
        ("parameters.network.threshold", 0.3),
        ("train_files", [f"{name}.mrc" for name in reversed(NAMES)]),
        ("test_files", []),
    ):
        stages, _ = lab.read(train={"one": with_key(TRAINING, key, value)})
        assert config_of(plan.training(stages, "one")) == base, key


def test_what_changes_the_model_is_a_reason_to_train_anew(lab):
    base = lab.given()["train"]
    for key, value in (
        ("seed", 1),
        ("validation_ratio", 0.5),
        ("val_files", ["TS_1.mrc"]),
        ("hyper_parameters.lr", 0.1),
        ("hyper_parameters.precision", "bf16"),
        ("parameters.transforms.flip", True),
        ("parameters.backbone", {"dim": 8}),
    ):
        stages, _ = lab.read(train={"one": with_key(TRAINING, key, value)})
        assert plan.training(stages, "one")["train"] != base, key


@pytest.mark.parametrize(
    ("devices", "nodes", "device", "text", "gpus"),
    [
        (2, 1, "auto", 2, 2),
        ([0, 3], 2, "cuda", "0,3", 0),
        ([3], 1, "auto", "3,", 1),
        (2, 1, "cpu", 2, 0),
    ],
)
def test_devices_are_passed_as_text_and_whole_numbers(lab, devices, nodes, device, text, gpus):
    entry = with_key(TRAINING, "parameters.gpu_devices", devices)
    entry = with_key(with_key(entry, "parameters.nodes", nodes), "hyper_parameters.device", device)
    speed = plan.training(lab.read(train={"one": entry})[0], "one")["speed"]
    assert (speed["gpu_devices"], speed["gpu"], speed["nodes"]) == (text, gpus, nodes)
    assert all(isinstance(value, (int, str)) for value in speed.values())


def test_several_nodes_are_asked_for_by_node(lab):
    entry = with_key(with_key(TRAINING, "parameters.nodes", 2), "parameters.gpu_devices", 4)
    given = plan.training(lab.read(train={"one": entry})[0], "one")
    asked = {key: given["speed"][key] for key in ("mpi", "nodes", "tasks", "gres", "slurm_extra")}
    assert asked == {
        "mpi": "srun", "nodes": 2, "tasks": 8, "gres": "gpu:4",
        "slurm_extra": "--ntasks-per-node=4",
    }  # fmt: skip
    assert given["threads"] == 2  # of each process
    on_cpu = with_key(entry, "hyper_parameters.device", "cpu")
    given = plan.training(lab.read(train={"one": on_cpu})[0], "one")
    assert "gres" not in given["speed"]
    assert given["speed"]["tasks"] == 8


def test_memory_grows_with_batch_and_patch_and_with_each_attempt():
    job = {
        "batch_size": 2, "patch_size": [64, 64, 64], "patch_overlap": 0.5, "channels": 5,
        "device": "auto", "processes": 1, "cache_rate": 0,
    }  # fmt: skip

    def memory(attempt=1, **changed):
        return job_resources.train_memory(job | changed, lambda: 50_000_000, attempt)

    small = memory()
    assert small < memory(batch_size=8)
    assert small < memory(device="cpu")
    assert memory(2) == 2 * small
    # Each process has its own cache, and its share of the processors to read with.
    assert memory(cache_rate=0.5) > small + 2000
    assert memory(processes=4) > small + 2.9 * job_resources.TRAIN_BASE_MB
    assert memory(processes=4, cache_rate=1) - memory(processes=4) == pytest.approx(
        4 * (memory(cache_rate=1) - small), abs=4
    )


# Labels from positions and masks


def test_spheres_are_read_with_their_defaults(lab):
    stages, _ = lab.read(label={"ribosomes": SPHERES})
    given = plan.labelling(stages, "ribosomes")
    assert given["positions"] == ["ribosomes.star"]
    assert given["settings"] == {
        "labels_of_files": None,
        "per_tomogram": False,
        "labels": None,
        "radius": 120.0,
        "unit": "angstrom",
        "priority": None,
        "ignore_rim": 0.0,
        "coordinate_voxel_size": None,
        "name_suffix": "",
        "allow_empty": False,
    }
    assert plan.targets(stages)["label"] == [f"spheres/{name}.mrc" for name in NAMES]


def test_positions_by_label_come_in_the_order_of_the_labels(lab):
    lab.write("proteasomes.star")
    two = SPHERES | {
        "positions": {10: "ribosomes.star", 2: "proteasomes.star"},
        "radius": {10: 120, 2: 80.5},
    }
    given = plan.labelling(lab.read(label={"two": two})[0], "two")
    assert given["positions"] == ["proteasomes.star", "ribosomes.star"]
    assert given["settings"]["labels_of_files"] == [2, 10]
    assert list(given["settings"]["radius"].items()) == [(2, 80.5), (10, 120.0)]


def test_averages_are_files_of_their_own(lab):
    lab.write("average.mrc", HEADER)
    entry = {key: value for key, value in SPHERES.items() if key != "radius"}
    entry |= {"kind": "averages", "averages": "average.mrc", "threshold": 0.02}
    given = plan.labelling(lab.read(label={"shapes": entry})[0], "shapes")
    assert given["averages"] == ["average.mrc"]
    assert given["settings"]["labels_of_averages"] is None
    assert given["settings"]["threshold"] == 0.02
    (mistake,) = lab.mistakes(label={"shapes": entry | {"averages": "none.mrc"}})
    assert "label.shapes.averages: none.mrc does not exist" in mistake


def test_masks_of_each_class_are_merged(lab):
    for place in "ab":
        for name in NAMES:
            lab.write(f"{place}/{name}.mrc", HEADER)
    given = plan.labelling(lab.read(label={"merged": MERGE})[0], "merged")
    assert given["masks"] == ["a/{tomogram}.mrc", "b/{tomogram}.mrc"]
    assert given["settings"]["labels_of_masks"] == [1, 2]
    assert job_resources.voxel_count(given["volume"], "TS_1") == 6000
    lab.write("b/TS_2.mrc", HEADER)
    (mistake,) = lab.mistakes(label={"merged": MERGE})
    assert mistake == (
        "the configuration: label.merged.folders: a (label 1) holds no NAME.mrc for TS_2; "
        "add empty masks, or name in files what to merge"
    )
    lab.read(label={"merged": MERGE | {"files": ["TS_1.mrc"]}})


def test_labels_that_were_made_from_positions_are_merged(lab):
    for name in NAMES:
        lab.write(f"a/{name}.mrc", HEADER)
    merge = MERGE | {"folders": {1: "a", 2: "./spheres"}}
    stages, _ = lab.read(label={"ribosomes": SPHERES, "merged": merge})
    assert plan.labelling(stages, "merged")["masks"][1] == "spheres/{tomogram}.mrc"
    assert stages.names_to_label("merged") == NAMES


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "particle"}, "kind is 'particle'; it must be one of particles, averages, merge"),
        ({"kind": None}, "kind is empty; it must be one of particles, averages, merge"),
        ({"radius": -1}, "radius is -1; it must be a number above 0, or a mapping of labels"),
        ({"radius": {0: 1}}, "or a mapping of labels (1 to 254) to such numbers"),
        ({"raduis": 1}, "raduis is not a known key; did you mean radius?"),
        ({"positions": "none.star"}, "positions: none.star cannot be found"),
        ({"tomograms": "none"}, "tomograms is none, which does not exist"),
        ({"files": ["TS_2.mrc"]}, "files: TS_2.mrc is not in tomograms; did you mean TS_1.mrc?"),
        ({"output_path": "tomograms"}, "tomograms tomograms is its output_path too"),
        ({"labels": 2, "radius": {1: 9}}, "radius has no value for the label 2; add it"),
        ({"labels": 2, "priority": [3]}, "priority names 3; the labels are 2"),
        ({"priority": [3, 3]}, "priority names 3 more than once"),
        (
            {"positions": {1: "ribosomes.star"}, "labels": 1},
            "labels must be null where positions is a mapping",
        ),
        (
            {"positions": "{tomogram}.star"},
            "positions: TS_1.star, TS_10.star, x.mrc_13.28Apx.star cannot be found",
        ),
        ({"positions": "{tomo}.star"}, "holds {tomo}, which Snakemake takes for a variable"),
    ],
)
def test_a_mistake_in_a_label_entry_is_named(lab, changes, sentence):
    found = lab.mistakes(label={"ribosomes": SPHERES | changes})
    assert sentence in "\n".join(found)
    assert all(line.startswith("the configuration: label.ribosomes.") for line in found)


# The user's home


def test_the_home_of_the_user_is_put_in_for_a_tilde(lab, monkeypatch):
    monkeypatch.setenv("HOME", str(lab.folder))
    entry = TRAINING | {"data_folder": "~/tomograms", "log_dir": "~/runs/one"}
    base = config_of(lab.given())
    assert config_of(plan.training(lab.read(train={"one": entry})[0], "one")) == base
    lab.write("train_one.yaml", yaml.safe_dump(TRAINING).encode())
    stages, _ = read_configuration({"train": {"one": "~/train_one.yaml"}})
    assert stages.names_to_train("one") == NAMES
    positions = SPHERES | {"positions": {1: "~/ribosomes.star"}}
    stages, _ = lab.read(label={"a": positions})
    assert plan.labelling(stages, "a")["positions"] == ["ribosomes.star"]


def test_the_home_of_nobody_is_a_mistake(lab):
    entry = TRAINING | {"log_dir": "~no-such-user/runs"}
    (mistake,) = lab.mistakes(train={"one": entry})
    assert "log_dir/model ~no-such-user/runs/model begins with ~no-such-user" in mistake
    found = lab.mistakes(predict={"a": LAMELLA | {"data_folder": "~no-such-user/x"}})
    assert "which is nobody's home; write the path in full" in found[0]
    assert not os.path.exists("~no-such-user")


# Examples


def test_the_examples_are_complete_and_right(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    files = ("config/train_lamella.yaml", "config/train_semantic.yaml")
    train = {Path(file).stem: file for file in files}
    read_configuration({"train": train}, on_disk=False)
    texts = {file: Path(file).read_text() for file in files}
    rules = schema_check.schema("training")
    for keys, name in schema_check.all_keys(rules):
        own = rules
        for key in keys:
            own = own["properties"][key]
        if "x-no-effect" not in own:
            assert any(f"{name}:" in text for text in texts.values()), schema_check.dotted(keys)
    example = read_yaml("config/train_semantic.yaml")
    assert yaml.safe_load(DOCUMENTED).keys() - {"prediction_folder"} <= example.keys()


@pytest.mark.parametrize("section", ["label", "train"])
def test_the_examples_in_comments_are_right(section, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    text = Path("config/config.yaml").read_text()
    (block,) = (each for each in text.split("\n\n") if f"\n# {section}:" in each)
    lines = block[block.index(f"# {section}:") :].splitlines()
    content = yaml.safe_load("\n".join(line[2:] for line in lines))
    stages, _ = read_configuration(content, on_disk=False)
    assert len(getattr(stages, section)) == {"label": 3, "train": 2}[section]

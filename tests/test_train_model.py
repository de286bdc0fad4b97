"""A training from patches to a checkpoint, run for real on tiny volumes."""

import csv
import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
import yaml

from conftest import REPOSITORY
from cryoseg.checkpoints import architecture_of, load_network, read_callback_state, read_checkpoint
from cryoseg.errors import InputError
from cryoseg.fine_tuning import starting_network
from cryoseg.network import SegmentationNetwork
from cryoseg.patches import PatchFile
from cryoseg.processes import devices_of, own_command, start_processes
from cryoseg.resuming import describe_run
from cryoseg.training import SegmentationTraining
from cryoseg.training_records import AT_BEGINNING, BY_EPOCH
from cryoseg.training_run import transforms_of
from kill import WritesInPlace
from test_checkpoints import NO_MODEL, Runs, hostile, runs_in_other_loaders
from train_model import train_model, write_settings
from training_jobs import (
    ALL_TRANSFORMS,
    SECONDS_OF_A_SLOW_BATCH,
    configuration,
    patch_file,
    patch_files,
    validate_slowly,
    volumes,
)

# Jobs in processes of their own start from one that has imported everything.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["train_model", "tensorboard", "matplotlib.figure"])
# How often a training is killed; more than the suite has time for: CRYOSEG_KILLS=10.
KILLS = int(os.environ.get("CRYOSEG_KILLS", 3))
FINETUNED = {"dense_dim": 16, "filters": [32, 64]}


@pytest.fixture(scope="module")
def patches(tmp_path_factory):
    return patch_files(tmp_path_factory.mktemp("patches"))


@pytest.fixture(autouse=True)
def one_thread():
    """Networks this small are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def train(folder, patches, config=None, pretrained=None, **how):
    """Run the job; returns the path of the best model."""
    best = folder / "log" / "model" / "model_best.ckpt"
    settings = {"config": config or configuration()}
    how = {"device": "cpu", "num_workers": 0, "log_dir": folder / "log"} | how
    train_model(patches, best, pretrained, settings=settings, **how)
    return best


def rows_of(folder):
    with open(folder / "log" / "metrics.csv") as file:
        return [
            {name: float(value) if value else None for name, value in row.items()}
            for row in csv.DictReader(file)
        ]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, patches):
    """Folder of one complete training, with every kind of augmentation."""
    folder = tmp_path_factory.mktemp("trained")
    train(folder, patches, configuration(transforms=ALL_TRANSFORMS, max_epochs=3, val_interval=2))
    return folder


def test_a_training_leaves_all_that_is_promised(trained):
    log = trained / "log"
    model = log / "model"
    (kept,) = model.glob("model_best-*.ckpt")
    assert kept.read_bytes() == (model / "model_best.ckpt").read_bytes()
    assert sorted(p.name for p in model.iterdir()) == sorted(
        ["last.ckpt", "model_best.ckpt", kept.name]
    )
    assert list((log / "tensorboard").glob("run_1/events.*"))
    for picture in ("curves.png", "augmented_samples.png"):
        assert (log / picture).read_bytes().startswith(b"\x89PNG")
    used = yaml.safe_load((log / "settings.yaml").read_text())
    assert used["config"]["hyper_parameters"]["max_epochs"] == 3
    split = json.loads((log / "split.json").read_text())
    assert len(split["train"]) == 2
    assert len(split["validation"]) == 1
    assert not set(split["train"]) & set(split["validation"])
    assert "tomo_0\ttrain\t" in (log / "split.tsv").read_text() or "tomo_0" in split["validation"]


def test_the_table_has_losses_dice_and_iou_of_each_class(trained):
    rows = rows_of(trained)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[0]["val_loss"] is None  # validated every second epoch
    # and after the last one
    for row in rows[1:]:
        for name in ("dice_0", "dice_1", "dice_2", "iou_0", "iou_2", "val_distance_loss"):
            assert 0 <= row[name] <= 2
        assert row["val_loss"] == pytest.approx(row["val_labels_loss"] + row["val_distance_loss"])


def test_the_first_loss_is_that_of_the_losses_themselves(tmp_path, patches):
    """Validation loss and Dice of one epoch, worked out anew from the checkpoint."""
    from cryoseg.losses import cross_entropy, distance_error, generalised_dice, scaled_distance

    best = train(tmp_path, patches, configuration(max_epochs=1))
    split = json.loads((tmp_path / "log" / "split.json").read_text())["validation"]
    file = next(PatchFile(p) for p in patches if PatchFile(p).name in split)
    network = load_network(best)
    sums = torch.zeros(3, 2)
    for n in range(len(file)):
        labels = torch.tensor(file.labels(n))[None]
        logits, raw = network(torch.tensor(file.image(n)).clamp(0, 1)[None, None], distances=True)
        target = scaled_distance(torch.tensor(file.distances(n)))[None]
        parts = (cross_entropy(logits, labels), generalised_dice(logits, labels),
                 distance_error(raw, target))  # fmt: skip
        sums += torch.tensor(parts)
    expected = float((sums[:, 0] / sums[:, 1]).sum())
    assert rows_of(tmp_path)[0]["val_loss"] == pytest.approx(expected, abs=1e-5)


def missing_keys(theirs, ours, at=""):
    """Keys of nested dicts that the second lacks, or that hold another type there."""
    lacking = {f"{at}{key}" for key in theirs.keys() - ours.keys()}
    for key in theirs.keys() & ours.keys():
        if isinstance(theirs[key], dict):
            if not isinstance(ours[key], dict):
                lacking.add(f"{at}{key}")
            else:
                lacking |= missing_keys(theirs[key], ours[key], f"{at}{key}.")
    return lacking


def test_a_checkpoint_has_the_layout_of_cryosiams(tmp_path, compat):
    """Key by key: top level, names, shapes and types of the weights, hyper_parameters."""
    patches = patch_files(tmp_path / "patches", 2, out_channels=5)
    config = configuration(5, network=FINETUNED, max_epochs=1)
    config["parameters"]["backbone"] = None
    ours = train(tmp_path, patches, config, compat / "ckpt" / "dense_simsiam_pretrained_small.ckpt")
    theirs = compat / "ckpt" / "semantic_model_best.ckpt"
    (state, settings), (stored, stored_settings) = read_checkpoint(ours), read_checkpoint(theirs)
    assert {n: (v.shape, v.dtype) for n, v in state.items()} == {
        n: (v.shape, v.dtype) for n, v in stored.items()
    }
    assert settings.keys() == stored_settings.keys() == {"config", "backbone_config"}
    assert settings["backbone_config"] == stored_settings["backbone_config"]
    # Ours has keys of its own, such as precision; none of theirs is missing, at any depth.
    assert missing_keys(stored_settings["config"], settings["config"]) == set()
    content = torch.load(ours, weights_only=True)  # nothing in it but plain values and tensors
    assert content.keys() == {
        "epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks",
        "optimizer_states", "lr_schedulers", "hparams_name", "hyper_parameters",
    }  # fmt: skip
    assert content["hparams_name"] == "kwargs"
    # What theirs would build from its own settings computes with our weights what ours does.
    rebuilt = SegmentationNetwork(architecture_of(stored_settings, theirs))
    rebuilt.load_state_dict(state)
    image = torch.rand(1, 1, 16, 16, 16)
    expected, _ = load_network(ours)(image)
    assert torch.equal(rebuilt.eval()(image)[0], expected)


def test_a_pretrained_backbone_is_where_training_starts(tmp_path, compat):
    config = configuration(5, network=FINETUNED)
    path = compat / "ckpt" / "dense_simsiam_pretrained_small.ckpt"
    network, _ = starting_network(config, path)
    state, _ = read_checkpoint(path)
    for name, value in state.items():
        own = network.state_dict()[name.replace("_model.", "_model_backbone.", 1)]
        assert torch.equal(own, value)


def test_a_trained_model_is_a_start_too(trained):
    best = trained / "log" / "model" / "model_best.ckpt"
    network, _ = starting_network(configuration(3), best)
    assert torch.equal(
        network._model.semantic_head[0].weight, load_network(best)._model.semantic_head[0].weight
    )
    fewer, _ = starting_network(configuration(1), best)  # its own head, the model's backbone
    assert fewer._model.semantic_head[6].weight.shape[0] == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network": {"dense_dim": 8}}, "its dense_dim is 4, parameters.network.dense_dim is 8"),
        ({"network": {"spatial_dims": 2}}, "its spatial_dims is 3"),
    ],
)
def test_a_pretrained_model_of_other_sizes_is_refused(trained, change, says):
    with pytest.raises(InputError, match=says):
        starting_network(configuration(**change), trained / "log" / "model" / "model_best.ckpt")


def laughing(depth):
    """A list of ten times a list of ten times a list ..., in a few bytes of a pickle's memo."""
    found = [1]
    for _ in range(depth):
        found = [found] * 10
    return found


def with_settings(path, source, sizes=None, others=None):
    """A copy of a trained model whose backbone has other sizes or further settings."""
    content = torch.load(source, weights_only=True)
    backbone = content["hyper_parameters"]["backbone_config"]
    backbone["parameters"]["network"] |= sizes or {}
    content["hyper_parameters"]["backbone_config"] = backbone | (others or {})
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("num_layers", [10**9, 1, 1, 1], "weights do not fit .* for 1000000005 blocks"),
        ("dim", 2**62, "a network that cannot be"),
        ("dim", 9, "weights do not fit the network that hyper_parameters describe"),
        ("dense_dim", laughing(7), "no network has dense_dim = "),
        ("dense_dim", laughing(20), "no network has dense_dim = "),
        ("dense_dim", torch.ones(2), "no network has dense_dim = "),
        ("dense_dim", 10**5000, "its dense_dim is a number of 16610 bits"),
        ("dense_dim", np.int64(4), "no network has dense_dim = an object"),
        ("no_max_pool", torch.ones(2), "no network has no_max_pool = "),
    ],
    ids=["blocks", "bytes", "weights", "lists", "endless", "tensor", "digits", "numpy", "truth"],
)
def test_a_hostile_pretrained_model_is_refused_at_once(name, value, says, trained, tmp_path):
    best = trained / "log" / "model" / "model_best.ckpt"
    path = with_settings(tmp_path / "model.ckpt", best, {name: value})
    started = time.process_time()
    with pytest.raises(InputError, match=rf"model\.ckpt: .*{says}") as error:
        starting_network(configuration(), path)
    assert time.process_time() - started < 5
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(("kind", "says"), NO_MODEL.items(), ids=NO_MODEL)
def test_code_in_the_place_of_a_pretrained_model_is_refused_with_the_reason_and_does_not_run(
    kind, says, patches, tmp_path
):
    canary = tmp_path / "canary"
    path = hostile(kind, tmp_path / f"{kind}.ckpt", canary)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {says}"):
        train(tmp_path, patches, pretrained=path)
    assert not canary.exists()
    assert not (tmp_path / "log" / "settings.yaml").exists()
    assert runs_in_other_loaders(path, canary)


def test_code_beside_what_a_training_takes_of_a_pretrained_model_does_not_run(trained, tmp_path):
    canary = tmp_path / "canary"
    best = trained / "log" / "model" / "model_best.ckpt"
    content = torch.load(best, weights_only=True) | {"callbacks": {"x": Runs(canary)}}
    content["hyper_parameters"]["backbone_config"]["notes"] = [Runs(canary)]
    path = tmp_path / "model.ckpt"
    torch.save(content, path)
    _, backbone = starting_network(configuration(), path)
    assert backbone["notes"] == [None]
    write_settings(tmp_path, configuration(), backbone, path, [])
    assert not canary.exists()
    assert runs_in_other_loaders(path, canary)


def test_weights_of_a_pretrained_model_must_be_real_numbers(trained, tmp_path):
    content = torch.load(trained / "log" / "model" / "model_best.ckpt", weights_only=True)
    for name in ("_model_backbone.encoder.bn1.bias", "_model.semantic_head.0.bias"):
        weights = content["state_dict"][name]
        odd = content["state_dict"] | {name: weights.to(torch.complex64)}
        torch.save(content | {"state_dict": odd}, tmp_path / "model.ckpt")
        with pytest.raises(InputError, match=rf"{name} are of type torch.complex64"):
            starting_network(configuration(), tmp_path / "model.ckpt")


def test_settings_of_a_pretrained_model_become_plain_values(trained, tmp_path, caplog):
    odd = {
        "ordered": OrderedDict(a=torch.Size([1, 2])), "mean": np.float64(0.5), "kept": 1.5,
        "vast": 10**5000, "text": "\ud800", (1, 2): 3,
    }  # fmt: skip
    best = trained / "log" / "model" / "model_best.ckpt"
    path = with_settings(tmp_path / "model.ckpt", best, others={"data": odd})
    with caplog.at_level("WARNING"):
        network, backbone = starting_network(configuration(), path)
    plain = {"ordered": {"a": [1, 2]}, "mean": None, "kept": 1.5, "vast": None, "text": None}
    assert backbone["data"] == plain
    assert "data.mean" in caplog.text
    SegmentationTraining(network, configuration(), backbone)
    write_settings(tmp_path, configuration(), backbone, path, [])
    assert yaml.safe_load((tmp_path / "settings.yaml").read_text())["backbone_config"] == backbone


@pytest.mark.parametrize(
    "much", [laughing(20), 1000 * [10**4 * "x"], [10**7 * "x"]], ids=["lists", "texts", "text"]
)
def test_settings_of_a_pretrained_model_that_fill_a_disk_are_refused(much, trained, tmp_path):
    best = trained / "log" / "model" / "model_best.ckpt"
    path = with_settings(tmp_path / "model.ckpt", best, others={"notes": much})
    with pytest.raises(InputError, match=r"model\.ckpt: its settings hold more than"):
        starting_network(configuration(), path)


def test_what_is_frozen_keeps_weights_and_statistics(tmp_path, patches, trained):
    before = trained / "log" / "model" / "model_best.ckpt"
    config = configuration(network={"unfreeze_backbone": False}, max_epochs=1)
    old, new = (
        load_network(p).state_dict() for p in (before, train(tmp_path, patches, config, before))
    )
    encoder = [name for name in old if ".encoder." in name]
    assert any("running_mean" in name for name in encoder)
    assert all(torch.equal(old[name], new[name]) for name in encoder)
    for moved in ("decoder.layer4.weight", "projector.1.running_mean"):
        assert not torch.equal(old[f"_model_backbone.{moved}"], new[f"_model_backbone.{moved}"])


def test_freezing_random_weights_is_refused(tmp_path, patches):
    config = configuration(network={"unfreeze_decoder": False})
    with pytest.raises(InputError, match="unfreeze_decoder is false and pretrained_model is null"):
        train(tmp_path, patches, config)


def test_validation_sees_no_augmentation_and_training_does(patches):
    from cryoseg.training_run import make_datasets, split_patches

    config = configuration(transforms=ALL_TRANSFORMS)
    files = [PatchFile(path) for path in patches]
    training, validation = make_datasets(files, *split_patches(files, config), config)
    file, patch = validation.chosen[3]
    sample = validation[3]
    assert np.array_equal(sample.image[0], files[file].image(patch))
    assert np.array_equal(sample.distances, files[file].distances(patch))
    assert training[0, 0, 3].drawn != training[1, 0, 3].drawn  # another epoch
    assert training[0, 0, 3].drawn == training[0, 0, 3].drawn


def test_more_processes_than_patches_to_validate_with_are_refused(tmp_path):
    small = patch_file(tmp_path, "small", *volumes(1, shape=(16, 16, 16)))  # one patch
    paths = [*patch_files(tmp_path / "patches"), small]
    config = configuration(max_epochs=1) | {"val_files": ["small.mrc"]}
    says = "there are 1 patches to validate with, fewer than the 2 processes that train; set"
    with pytest.raises(InputError, match=says):
        train(tmp_path, paths, config, gpu_devices=2)
    assert not list((tmp_path / "log" / "model").iterdir())


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_patches(tmp_path):
    paths = patch_files(tmp_path / "patches")
    image, labels = volumes(7)
    image[5, 5, 5] = 1e38  # finite, as the steps before demand; not once it is standardised
    paths.append(patch_file(tmp_path / "patches", "tomo_bad", image, labels))
    config = configuration(max_epochs=1)
    config["val_files"] = ["tomo_0.mrc"]
    config["parameters"]["data"] |= {"max": 1, "std": 1e-38}
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step \d+ .*tomo_\w+ at z\d+"):
        train(tmp_path, paths, config)
    assert not (tmp_path / "log" / "model" / "model_best.ckpt").exists()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_sixteen_bits_train_alike(precision, tmp_path, patches):
    config = configuration(max_epochs=1, lr=0.001, precision=precision)
    state, _ = read_checkpoint(train(tmp_path / precision, patches, config))
    assert all(v.dtype in (torch.float32, torch.int64) for v in state.values())
    train(tmp_path / "fp32", patches, configuration(max_epochs=1, lr=0.001))
    (low,), (single,) = rows_of(tmp_path / precision), rows_of(tmp_path / "fp32")
    assert low["train_loss"] == pytest.approx(single["train_loss"], rel=0.02)


def test_training_stops_when_validation_no_longer_improves(tmp_path, patches):
    config = configuration(max_epochs=40, patience=1, lr=1e-12)  # so that nothing improves
    config["hyper_parameters"]["lr"] = 1e-30
    best = train(tmp_path, patches, config)
    assert best.exists()
    assert len(rows_of(tmp_path)) < 10


def test_patience_needs_something_to_validate_with(tmp_path, patches):
    config = configuration(patience=2) | {"validation_ratio": 0}
    with pytest.raises(InputError, match="patience is set and no tomogram is left"):
        train(tmp_path, patches, config)


def test_without_validation_the_last_model_is_the_best(tmp_path, patches):
    best = train(tmp_path, patches, configuration(max_epochs=2) | {"validation_ratio": 0})
    state, _ = read_checkpoint(best)
    last, _ = read_checkpoint(best.with_name("last.ckpt"))
    assert all(torch.equal(state[name], last[name]) for name in state)


class StubTrainer:
    """What configure_optimizers asks of a trainer."""

    estimated_stepping_batches = 660


def module_of(**learning):
    config = configuration(**learning)
    network, backbone = starting_network(config)
    module = SegmentationTraining(network, config, backbone)
    module.trainer = None
    return module


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_optimizers_are_those_that_are_named(name, kind, monkeypatch):
    module = module_of(optimizer=name, lr=0.004, weight_decay=1e-5)
    monkeypatch.setattr(type(module), "trainer", StubTrainer, raising=False)
    (optimizer,), _ = module.configure_optimizers()
    assert type(optimizer).__name__ == kind
    assert optimizer.param_groups[0]["weight_decay"] == 1e-5


def test_the_learning_rate_is_cryosiams(compat, monkeypatch):
    """Step 495 of 660 of the training that made the stored checkpoint."""
    module = module_of(lr=0.004)
    monkeypatch.setattr(type(module), "trainer", StubTrainer, raising=False)
    (optimizer,), ((schedule),) = module.configure_optimizers()
    for _ in range(495):
        optimizer.step()
        schedule["scheduler"].step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0011200110508597023)
    assert optimizer.param_groups[0]["betas"][0] == pytest.approx(0.9220000117285543)


def test_what_is_written_before_the_processes_start_gets_its_name_when_it_is_complete(
    tmp_path, patches, monkeypatch
):
    told = []

    def start(command, *arguments):
        told.append(json.loads(Path(command[-1]).read_text()))

    monkeypatch.setattr("train_model.start_processes", start)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "processes.json").write_text("somebody's")
    writes = WritesInPlace(tmp_path)
    with pytest.raises(InputError, match="this training is finished and its model is not there"):
        train(tmp_path, patches, gpu_devices=2)
    writes.read()
    writes.close()
    assert told[0]["folder"] == str(tmp_path / "log")
    (left,) = (tmp_path / "log").glob("processes*")
    assert left.read_text() == "somebody's"
    assert not writes.found


def test_a_second_run_trains_anew_and_the_first_model_is_kept(tmp_path, patches):
    first = train(tmp_path, patches).read_bytes()
    config = configuration(lr=0.02)
    best = train(tmp_path, patches, config)
    kept = [path.read_bytes() for path in best.parent.glob("model_best-*.ckpt")]
    assert len(kept) == 2
    assert first in kept
    assert best.read_bytes() != first


@pytest.mark.parametrize("continue_training", [False, True])
def test_a_finished_training_hands_its_model_over_again(continue_training, tmp_path, patches):
    """As when snakemake died before it could note the end, and deleted the output."""
    best = train(tmp_path, patches)
    content, rows = best.read_bytes(), rows_of(tmp_path)
    best.unlink()
    train(tmp_path, patches, continue_training=continue_training)
    assert best.read_bytes() == content
    assert rows_of(tmp_path) == rows


def test_what_an_unfinished_training_left_is_kept_when_another_begins(tmp_path, patches, caplog):
    models = train(tmp_path, patches).parent
    last = models / "last.ckpt"
    # As a kill before the end leaves them.
    unfinished = torch.load(last, weights_only=True)
    unfinished["callbacks"]["Checkpoints"]["finished"] = False
    torch.save(unfinished, last)
    shutil.copyfile(last, models / "best_so_far.ckpt")
    content = last.read_bytes()
    train(tmp_path, patches, configuration(lr=0.02))
    for name in ("last", "best_so_far"):
        (kept,) = models.glob(f"{name}-*.ckpt")
        assert kept.read_bytes() == content
        assert kept.name in caplog.text


RECORDS = (*AT_BEGINNING, *BY_EPOCH)


def kept_records(folder):
    """What is kept of others, or of earlier trainings, by the name that it had."""
    kept = {}
    for path in (folder / "log").iterdir():
        if match := re.fullmatch(r"(\w+)-\d{8}-\d{6}-[0-9a-f]{8}(\.\w+)", path.name):
            kept.setdefault("".join(match.groups()), []).append(path.read_bytes())
    return kept


def test_files_of_others_in_a_log_dir_are_kept(tmp_path, patches, caplog):
    (tmp_path / "log").mkdir()
    for name in RECORDS:
        (tmp_path / "log" / name).write_text("somebody's own")
    train(tmp_path, patches, configuration(max_epochs=1))
    assert kept_records(tmp_path) == {name: [b"somebody's own"] for name in RECORDS}
    assert f"what was left in {tmp_path}/log is kept as settings-" in caplog.text
    assert len(rows_of(tmp_path)) == 1


def test_records_of_an_earlier_training_are_kept(tmp_path, patches):
    config = configuration(transforms=ALL_TRANSFORMS, max_epochs=1)
    best = train(tmp_path, patches, config)
    first = {name: (tmp_path / "log" / name).read_bytes() for name in RECORDS}
    best.with_name("last.ckpt").unlink()
    train(tmp_path, patches, config)  # anew, as the README says
    # The rest is written as it was.
    assert kept_records(tmp_path) == {name: [first[name]] for name in BY_EPOCH}


def test_a_training_that_goes_on_keeps_its_own_records(tmp_path, patches, monkeypatch):
    def killed(*arguments):
        raise KeyboardInterrupt

    config = configuration(max_epochs=1)
    monkeypatch.setattr("train_model.hand_over", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, patches, config)
    last = tmp_path / "log" / "model" / "last.ckpt"
    unfinished = torch.load(last, weights_only=True)
    unfinished["callbacks"]["Checkpoints"]["finished"] = False
    torch.save(unfinished, last)
    before = {name: (tmp_path / "log" / name).read_bytes() for name in RECORDS}
    monkeypatch.undo()
    train(tmp_path, patches, config)
    assert {name: (tmp_path / "log" / name).read_bytes() for name in RECORDS} == before
    assert kept_records(tmp_path) == {}


def test_a_number_turns_patches_about_each_axis():
    transforms = transforms_of(configuration(transforms={"rotate": 3.14}))
    assert transforms.rotate == (3.14, 3.14, 3.14)


def test_a_training_without_any_object_is_an_error(tmp_path):
    image, labels = volumes(5)
    paths = [patch_file(tmp_path, f"tomo_{n}", image, labels * 0) for n in range(2)]
    with pytest.raises(InputError, match="no patch to train with holds a voxel with a label of 1"):
        train(tmp_path, paths)


def test_a_class_that_is_nowhere_is_warned_of(tmp_path, caplog):
    paths = patch_files(tmp_path / "patches", 2)  # labels 1 and 2
    image, labels = volumes(5, classes=2)
    only_one = [patch_file(tmp_path, f"one_{n}", image, labels) for n in range(2)]
    train(tmp_path / "both", paths, configuration(max_epochs=1))
    assert "the network cannot learn it" not in caplog.text
    train(tmp_path / "one", only_one, configuration(max_epochs=1))
    assert "no patch to train with holds label 2; the network cannot learn it" in caplog.text


def test_validation_is_not_given_up_in_silence(tmp_path, caplog):
    paths = patch_files(tmp_path / "patches", 2)
    image, labels = volumes(5)
    empty = patch_file(
        tmp_path / "patches", "tomo_empty", image, labels * 0, remove_only_background=True
    )
    config = configuration(max_epochs=1) | {"val_files": ["tomo_empty.mrc"]}
    with pytest.raises(InputError, match="no patch of tomo_empty, the val_files, holds an object"):
        train(tmp_path, [*paths, empty], config)
    config["val_files"] = ["tomo_1.mrc", "tomo_empty.mrc"]
    train(tmp_path, [*paths, empty], config)
    assert "tomo_empty: of val_files, but no patch holds an object" in caplog.text


def test_continue_training_with_other_settings_takes_the_weights(tmp_path, patches):
    best = train(tmp_path, patches)
    before, _ = read_checkpoint(best.with_name("last.ckpt"))
    train(tmp_path, patches, configuration(max_epochs=1, lr=1e-30), continue_training=True)
    after, _ = read_checkpoint(best.with_name("last.ckpt"))
    name = "_model.semantic_head.0.weight"
    torch.testing.assert_close(before[name], after[name])
    assert len(rows_of(tmp_path)) == 1


def run_job(folder, patches, config, environment, how):
    os.environ.update(environment)
    torch.set_num_threads(1)
    train(folder, patches, config, **how)


@pytest.fixture(autouse=True)
def no_process_outlives_its_test():
    """Or Python would wait for it in the end, after a test that failed."""
    yield
    for job in multiprocessing.active_children():
        job.kill()
        job.join()


def in_process(folder, patches, config, **how):
    job = PROCESSES.Process(target=run_job, args=(folder, patches, config, {}, how))
    job.start()
    return job


def same_ending(folder, expected):
    """Whether a training ended as another one did."""
    found, wanted = rows_of(folder), rows_of(expected)
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for name in ("train_loss", "val_loss", "lr", "dice_1"):
        ours, theirs = ([row[name] for row in rows] for rows in (found, wanted))
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_a_training_that_is_killed_at_any_moment_ends_as_if_it_never_was(tmp_path, patches):
    config = configuration(transforms=ALL_TRANSFORMS, max_epochs=3)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    train(undisturbed, patches, config)
    last = killed / "log" / "model" / "last.ckpt"
    rng = np.random.default_rng(0)
    seen = []
    for kill in range(KILLS):
        job = in_process(killed, patches, config, checkpoint_minutes=1e-9)  # after each step
        written = last.stat().st_mtime_ns if last.exists() else 0
        if kill % 3 == 2:  # anywhere, before it has begun perhaps
            time.sleep(rng.uniform(0, 2))
        else:
            while job.is_alive() and not (last.exists() and last.stat().st_mtime_ns > written):
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.5))
        job.kill()
        job.join()
        if last.exists():
            seen.append(torch.load(last, weights_only=True)["global_step"])  # never truncated
    assert seen == sorted(seen)
    train(killed, patches, config)
    same_ending(killed, undisturbed)
    content = torch.load(last, weights_only=True)
    assert content["global_step"] == rows_of(undisturbed)[-1]["step"]
    assert read_callback_state(last, "Checkpoints")["finished"]


def test_with_reading_processes_too_it_goes_on_with_the_patches_that_are_left(
    tmp_path, patches, monkeypatch
):
    """They read ahead before a trainer knows how far it was."""
    config, step, seen = configuration(max_epochs=1), SegmentationTraining.training_step, []

    def counted(module, batch, batch_idx):
        if len(seen) == 2:
            raise MemoryError
        seen.append(batch.names)
        return step(module, batch, batch_idx)

    monkeypatch.setattr(SegmentationTraining, "training_step", counted)
    with pytest.raises(MemoryError):
        train(tmp_path, patches, config, num_workers=1, checkpoint_minutes=1e-9)
    first, seen[:] = list(seen), [[]] * 3  # which does not fail again
    train(tmp_path, patches, config, num_workers=1)
    (row,) = rows_of(tmp_path)
    names = [name for names in first + seen for name in names]
    assert len(names) == len(set(names)) == row["step"] * config["hyper_parameters"]["batch_size"]


def test_killed_while_the_model_is_handed_over_nothing_is_lost(tmp_path, patches):
    config = configuration(max_epochs=1)
    best = train(tmp_path, patches, config)
    content = best.read_bytes()
    own = best.with_name("model_best-good.ckpt")
    own.write_bytes(b"of the user, no model of this training")
    rng = np.random.default_rng(0)
    for _ in range(KILLS):
        best.unlink(missing_ok=True)
        for kept in best.parent.glob("model_best-2*"):  # as before the hand-over
            os.replace(kept, best.with_name("best_so_far.ckpt"))
        job = in_process(tmp_path, patches, config)
        while job.is_alive() and not list(best.parent.glob(".*")):
            pass  # until something is written aside
        time.sleep(rng.uniform(0, 0.02))
        job.kill()
        job.join()
        assert not best.exists() or best.read_bytes() == content
    train(tmp_path, patches, config)
    assert best.read_bytes() == content
    assert [kept.read_bytes() for kept in best.parent.glob("model_best-2*")] == [content]
    assert own.exists()


@pytest.mark.parametrize("readers", [0, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_job_that_is_told_to_end_saves_its_last_step(number, readers, tmp_path, patches):
    """By Slurm, before SIGKILL, by Ctrl-C or with its terminal; what was trained is not lost.

    Its readers are told as well, and first.
    """
    config = configuration(max_epochs=500)
    how = {"num_workers": readers}
    job = PROCESSES.Process(target=run_job, args=(tmp_path, patches, config, {}, how))
    job.start()
    last = tmp_path / "log" / "model" / "last.ckpt"
    while not last.exists():
        assert job.is_alive()
        time.sleep(0.05)
    told = psutil.Process(job.pid).children()
    assert len(told) >= readers
    for each in told:
        each.send_signal(number)
    time.sleep(0.5)  # in which a trainer whose reader had died would have ended
    os.kill(job.pid, number)
    job.join(30)
    assert job.exitcode == 128 + number
    assert not any(each.is_running() for each in told)
    assert torch.load(last, weights_only=True)["global_step"] > 0
    assert not list(last.parent.glob(".*"))  # nothing half-written


def run_slowly(folder, patches, config):
    validate_slowly(folder)
    run_job(folder, patches, config, {}, {})


def number_of_validating(folder, rank, runs):
    """Number of the process of a rank, once it validates."""
    path = folder / f"validating-{rank}"
    while not (path.exists() and path.read_text()):
        assert runs()
        time.sleep(0.01)
    return int(path.read_text())


def rows_but_for_time(folder):
    return [{name: row[name] for name in row if name != "seconds"} for row in rows_of(folder)]


def test_a_trainer_that_is_told_to_end_does_so_within_a_validation_too(tmp_path, patches):
    """Nothing that was trained is lost, nothing handed over, and the validation is made up for."""
    config = configuration(max_epochs=2, val_interval=2)
    undisturbed, ended = tmp_path / "undisturbed", tmp_path / "ended"
    train(undisturbed, patches, config)
    models = ended / "log" / "model"
    ended.mkdir()
    for _ in range(2):  # the second goes on with the validation
        job = PROCESSES.Process(target=run_slowly, args=(ended, patches, config))
        job.start()
        number = number_of_validating(ended, 0, job.is_alive)
        os.kill(number, signal.SIGTERM)
        job.join(3 * SECONDS_OF_A_SLOW_BATCH)  # of six batches
        assert job.exitcode == 128 + signal.SIGTERM
        steps = torch.load(models / "last.ckpt", weights_only=True)["global_step"]
        assert steps == rows_of(undisturbed)[1]["step"]
        assert not read_callback_state(models / "last.ckpt", "Checkpoints")["finished"]
        assert sorted(path.name for path in models.iterdir()) == ["last.ckpt", "records.json"]
        (ended / "validating-0").unlink()
    best = train(ended, patches, config)
    assert rows_but_for_time(ended) == rows_but_for_time(undisturbed)
    state, expected = (
        read_checkpoint(folder / best.relative_to(ended))[0] for folder in (ended, undisturbed)
    )
    assert all(torch.equal(state[name], expected[name]) for name in expected)


# One of the processes of a training, validating slowly.
SLOW_PROCESS = """
import json, sys
from pathlib import Path
from cryoseg.joblog import logging_to_stderr
from training_jobs import validate_slowly
from train_model import train_process
with logging_to_stderr():
    job = json.loads(Path(sys.argv[1]).read_text())
    validate_slowly(Path(job["folder"]).parent)
    train_process(**job)
"""


def test_all_processes_of_a_training_end_where_one_is_told_to_within_a_validation(
    tmp_path, monkeypatch
):
    """Though they have 4 and 3 patches to validate with."""
    paths = [
        patch_file(tmp_path, f"tomo_{n}", *volumes(n, shape=(16, 16, length)))
        for n, length in enumerate((40, 64))
    ]
    config = configuration(max_epochs=1, batch_size=1) | {"val_files": ["tomo_1.mrc"]}
    job = job_of_two(tmp_path, paths, config)
    (tmp_path / "slow.py").write_text(SLOW_PROCESS)
    (tmp_path / "job.json").write_text(json.dumps(job))
    places = (REPOSITORY / "scripts", REPOSITORY / "tests")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    command = own_command(tmp_path / "slow.py", tmp_path / "job.json")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(start_processes, command, 2, 1)
        number = number_of_validating(tmp_path, 1, lambda: not running.done())
        os.kill(number, signal.SIGTERM)
        with pytest.raises(RuntimeError, match="status 143"):
            running.result(60)
    last = tmp_path / "log" / "model" / "last.ckpt"
    steps = torch.load(last, weights_only=True)["global_step"]
    assert not read_callback_state(last, "Checkpoints")["finished"]
    (tmp_path / "job.json").write_text(json.dumps(job | {"last": str(last)}))
    script = REPOSITORY / "scripts" / "train_model.py"
    start_processes(own_command(script, tmp_path / "job.json"), 2, 1)
    assert [row["step"] for row in rows_of(tmp_path)] == [steps]
    assert read_callback_state(last, "Checkpoints")["finished"]


def job_of_two(folder, patches, config):
    """What each of two processes of a training is told."""
    return {
        "patches": list(map(str, patches)), "pretrained": None, "config": config,
        "folder": str(folder / "log"), "run": describe_run(config, patches, None, 2), "last": None,
        "weights": None, "device": "cpu", "devices": 2, "nodes": 1, "cache_rate": 0.0,
        "workers": 0, "minutes": 10.0, "threads": 1,
    }  # fmt: skip


def test_two_processes_train_as_one_does(tmp_path, patches):
    """With gloo on a CPU: the same batch of all processes gives the same losses."""
    # Not AdamW, which makes whole steps out of the rounding of gradients that are zero; and small
    # steps, since large ones let rounding grow a thousandfold within five.
    how = {"transforms": ALL_TRANSFORMS, "optimizer": "sgd", "lr": 0.0001}
    one, two = tmp_path / "one", tmp_path / "two"
    train(one, patches, configuration(batch_size=4, **how))
    config = configuration(batch_size=2, **how)
    two.mkdir()
    arguments = two / "job.json"
    arguments.write_text(json.dumps(job_of_two(two, patches, config)))
    start_processes(own_command(REPOSITORY / "scripts" / "train_model.py", arguments), 2, 1)
    for ours, theirs in zip(rows_of(two), rows_of(one), strict=True):
        assert ours["step"] == theirs["step"]
        for name in (
            "train_loss",
            "train_labels_loss",
            "train_distance_loss",
            "val_loss",
            "dice_1",
        ):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)
    # Small steps: the weights themselves went the same way.
    first = starting_network(config)[0].state_dict()
    ours, theirs = (
        torch.cat([(state[name] - first[name]).flatten() for name in first if "weight" in name])
        for state, _ in (read_checkpoint(f / "log" / "model" / "last.ckpt") for f in (two, one))
    )
    assert theirs.norm() > 0
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize(
    ("given", "devices"), [(2, 2), ([0, 2], [0, 2]), ("2", 2), ("0,2", [0, 2]), ("2,", [2])]
)
def test_gpus_are_a_number_or_a_list(given, devices):
    assert devices_of(given) == devices

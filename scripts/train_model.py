"""Train a network on patches of annotated tomograms."""

import json
from pathlib import Path

import torch
import yaml

from cryoseg.checkpoints import checkpoint_sha256
from cryoseg.devices import choose_device, keep_single_precision
from cryoseg.fine_tuning import load_weights, starting_network
from cryoseg.joblog import log_to, logger
from cryoseg.patches import PatchFile
from cryoseg.resuming import describe_run, find_start, hand_over
from cryoseg.training import SegmentationTraining
from cryoseg.training_run import (
    check_patches,
    make_datasets,
    reading_processes,
    show_samples,
    split_patches,
    train,
)
from cryoseg.versions import versions
from cryoseg.volumes import written_aside


def train_model(
    patches,
    checkpoint,
    pretrained=None,
    *,
    settings,
    log_dir,
    continue_training=False,
    device="auto",
    gpu_devices=1,
    nodes=1,
    num_workers="auto",
    cache_rate=0,
    checkpoint_minutes=10,
    threads=None,
):
    """Write the best model of a training, and beside it what tells how it came about.

    patches:    patch files of all tomograms, those to validate with among them
    checkpoint: the model with the smallest validation loss, in the layout of CryoSiam's
    pretrained: checkpoint to start from; none to start from random weights
    settings:   {config: training configuration}; it becomes part of the checkpoint
    log_dir:    folder of model/last.ckpt, from which an interrupted training goes on, and of
                metrics.csv, curves.png, augmented_samples.png, settings.yaml, split.json,
                split.tsv and tensorboard/
    continue_training: go on from last.ckpt also where it is of other settings or patches
    The other arguments change where and how fast it goes.
    """
    keep_single_precision()
    if threads is not None:
        torch.set_num_threads(threads)
    config, folder = settings["config"], Path(log_dir)
    models = folder / "model"
    models.mkdir(parents=True, exist_ok=True)
    device = choose_device(device)
    files = [PatchFile(path) for path in patches]
    pretrained = pretrained or None
    network, backbone_config = starting_network(config, pretrained)
    check_patches(files, config, network.sizes)
    parts = split_patches(files, config)

    run = describe_run(config, patches, pretrained, processes=1)
    start = find_start(models, run, continue_training)
    if not start.finished:
        if start.weights:
            load_weights(network, start.weights)
        write_split(folder, files, parts)
        write_settings(folder, config, backbone_config, pretrained)
        datasets = make_datasets(files, *parts, config, float(cache_rate))
        module = SegmentationTraining(network, config, backbone_config)
        show_samples(folder / "augmented_samples.png", module, datasets[0])
        train(
            network, datasets, config, backbone_config, folder, run,
            start=start.last, device=device, workers=reading_processes(num_workers, threads),
            minutes=float(checkpoint_minutes),
        )  # fmt: skip
    kept = hand_over(models, checkpoint)
    logger.info("%s is the best model, kept as %s too", checkpoint, kept.name)


def write_split(folder, files, parts):
    """Write which patches train and which validate, as JSON and, one row per tomogram, as TSV."""
    split = {}
    for name, part in zip(("train", "validation"), parts, strict=True):
        split[name] = {
            file.name: [int(patch) for place, patch in part if place == number]
            for number, file in enumerate(files)
            if (part[:, 0] == number).any()
        }
    with written_aside(folder / "split.json") as aside:
        aside.write_text(json.dumps(split, indent=1))
    rows = [
        f"{name}\t{part}\t{len(numbers)}"
        for part, tomograms in split.items()
        for name, numbers in tomograms.items()
    ]
    with written_aside(folder / "split.tsv") as aside:
        aside.write_text("\n".join(["tomogram\tpart\tpatches", *rows]) + "\n")


def write_settings(folder, config, backbone_config, pretrained):
    """Write what the training was done with, as YAML."""
    used = {"config": config, "backbone_config": backbone_config}
    if pretrained:
        used["pretrained_sha256"] = checkpoint_sha256(pretrained)
    used["versions"] = versions("torch", "lightning")
    with written_aside(folder / "settings.yaml") as aside:
        aside.write_text(yaml.safe_dump(used, sort_keys=False, allow_unicode=True))


if __name__ == "__main__":
    with log_to(snakemake.log[0]):
        how = ("device", "gpu_devices", "nodes", "num_workers", "cache_rate", "checkpoint_minutes")
        resources = {name: snakemake.resources[name] for name in how}
        resources["threads"] = snakemake.threads
        train_model(**snakemake.input, **snakemake.output, **snakemake.params, **resources)

"""Train a network on patches of annotated tomograms."""

import hashlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
import yaml

from cryoseg.checkpoints import checkpoint_sha256
from cryoseg.devices import choose_device, choose_dtype, keep_freed_memory, keep_precision
from cryoseg.errors import InputError
from cryoseg.fine_tuning import load_weights, starting_network
from cryoseg.folders import refusal_named, unwritable
from cryoseg.joblog import log_to, logger, logging_to_stderr
from cryoseg.patches import PatchFile
from cryoseg.processes import check_devices, devices_of, own_command, start_processes
from cryoseg.provenance import recorded, sha256
from cryoseg.resuming import describe_run, find_start, hand_over
from cryoseg.tables import write_table
from cryoseg.training import SegmentationTraining
from cryoseg.training_records import Records
from cryoseg.training_run import (
    check_patches,
    check_shares,
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
                split.tsv and tensorboard/; what others left under these names is kept
    continue_training: go on from last.ckpt also where it is of other settings or patches
    The other arguments change where and how fast it goes.
    """
    keep_precision()
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    config, folder, pretrained = settings["config"], Path(log_dir), pretrained or None
    models = folder / "model"
    with refusal_named():
        models.mkdir(parents=True, exist_ok=True)
    events = str(folder / "tensorboard")
    if why := unwritable(events):  # TensorBoard's own error is a traceback
        raise InputError(f"{events}: {why}; see to it that you may")
    wanted, device = device, choose_device(device)
    devices, processes = check_devices(wanted, device, gpu_devices, nodes)
    files = [PatchFile(path) for path in patches]
    network, backbone_config = starting_network(config, pretrained)
    check_patches(files, config, network.sizes)
    parts = split_patches(files, config)
    check_shares(parts, processes)

    per_node = processes // int(nodes)
    if threads is not None and int(nodes) == 1:
        threads = max(1, threads // per_node)  # on several nodes, each process has these
    run = describe_run(config, patches, pretrained, processes)
    start, records = find_start(models, run, continue_training), Records(folder, run)
    if start.weights:
        load_weights(network, start.weights)
    if not start.finished:
        log_plan(config, files, parts, device, processes)
        placed = with_places(config, gpu_devices, nodes, cache_rate, continue_training)
        with TemporaryDirectory() as begun:
            write_split(Path(begun), files, parts)
            write_settings(Path(begun), config, backbone_config, pretrained, patches)
            dataset, _ = make_datasets(files, *parts, config)
            module = SegmentationTraining(network, placed, backbone_config)
            show_samples(Path(begun) / "augmented_samples.png", module, dataset)
            records.begin(begun, goes_on=start.last is not None)
        job = {
            "patches": list(map(str, patches)), "pretrained": pretrained and str(pretrained),
            "config": placed, "folder": str(folder), "run": run,
            "last": start.last and str(start.last),
            "weights": start.weights and str(start.weights),
            "device": device.type if processes > 1 else str(device), "devices": devices,
            "nodes": int(nodes), "cache_rate": float(cache_rate),
            "workers": reading_processes(num_workers, threads),
            "minutes": float(checkpoint_minutes), "threads": threads,
        }  # fmt: skip
        if processes == 1:
            train_process(**job)
        else:
            with told_to_processes(folder, job) as arguments:
                command = own_command(Path(__file__).resolve(), arguments)
                start_processes(command, per_node, int(nodes), threads, device.type == "cuda")
    kept = hand_over(models, checkpoint, run)
    records.end()
    logger.info("%s is the best model, kept as %s too", checkpoint, kept.name)


@contextmanager
def told_to_processes(folder, job):
    """Path of a file with the arguments of train_process, as long as its processes run.

    They may be on other nodes, so it lies in log_dir. No other file has a name with that hash.
    """
    text = json.dumps(job)
    path = folder / f"processes-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
    with written_aside(path) as aside:
        aside.write_text(text)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def with_places(config, gpu_devices, nodes, cache_rate, continue_training):
    """A training configuration with the keys that no result depends on.

    CryoSiam's checkpoints have them too, and what reads those may ask for them.
    """
    parameters, learning = config["parameters"], config["hyper_parameters"]
    return config | {
        "continue_training": bool(continue_training),
        "parameters": parameters | {"gpu_devices": devices_of(gpu_devices), "nodes": int(nodes)},
        "hyper_parameters": learning | {"cache_rate": float(cache_rate)},
    }


def log_plan(config, files, parts, device, processes):
    """Log what will train on what."""
    train_patches, validation = (
        f"{len(part)} patches of {len({place for place, _ in part})} tomograms" for part in parts
    )
    precision = str(choose_dtype(config["hyper_parameters"]["precision"], device))
    logger.info(
        "%s train and %s validate, of %d tomograms; %d process(es) on %s, %s",
        train_patches, validation, len(files), processes, device, precision.removeprefix("torch."),
    )  # fmt: skip


def train_process(
    *, patches, pretrained, config, folder, run, last, weights, device, devices, nodes,
    cache_rate, workers, minutes, threads,
):  # fmt: skip
    """Train as one of the processes of a training, or as its only one.

    The arguments are those of train_model, once they have been checked; ``last`` and ``weights``
    as in resuming.Start, ``devices`` those of each node.
    """
    keep_precision()
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    files = [PatchFile(path) for path in patches]
    network, backbone_config = starting_network(config, pretrained)
    if weights:
        load_weights(network, weights)
    datasets = make_datasets(files, *split_patches(files, config), config, cache_rate)
    train(
        network, datasets, config, backbone_config, folder, run,
        start=last, device=torch.device(device), devices=devices, nodes=nodes, workers=workers,
        minutes=minutes,
    )  # fmt: skip


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
        (name, part, len(numbers))
        for part, tomograms in split.items()
        for name, numbers in tomograms.items()
    ]
    write_table(folder / "split.tsv", pd.DataFrame(rows, columns=["tomogram", "part", "patches"]))


def write_settings(folder, config, backbone_config, pretrained, patches):
    """Write what the training was done with, as YAML."""
    used = {"config": config, "backbone_config": backbone_config}
    if pretrained:
        used["pretrained_sha256"] = checkpoint_sha256(pretrained)
    used["patches_sha256"] = {Path(path).name: sha256(path) for path in patches}
    used["versions"] = versions("torch", "lightning")
    with written_aside(folder / "settings.yaml") as aside:
        aside.write_text(yaml.safe_dump(used, sort_keys=False, allow_unicode=True))


def job_of_snakemake():
    """Run as the job of a rule."""
    # A model has its name from the moment that it has its dated one.
    with log_to(snakemake.log[0]), recorded(snakemake, waits=False):
        how = ("device", "gpu_devices", "nodes", "num_workers", "cache_rate", "checkpoint_minutes")
        resources = {name: snakemake.resources[name] for name in how}
        resources["threads"] = snakemake.threads
        train_model(**snakemake.input, **snakemake.output, **snakemake.params, **resources)


if __name__ == "__main__":
    if "snakemake" in globals():
        job_of_snakemake()
    else:  # started by such a job, once for each process
        with logging_to_stderr():
            train_process(**json.loads(Path(sys.argv[1]).read_text()))

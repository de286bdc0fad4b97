"""One training from patches to the best model: data, trainer, and what is written beside it."""

import logging
import warnings
from pathlib import Path

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment

from cryoseg.augmentation import Transforms
from cryoseg.checkpoints import steps_done
from cryoseg.devices import choose_dtype
from cryoseg.distances import class_labels
from cryoseg.errors import InputError
from cryoseg.joblog import logger
from cryoseg.splits import split_corners, split_tomograms
from cryoseg.training import SegmentationTraining
from cryoseg.training_callbacks import Checkpoints, History, WrittenAsideIO
from cryoseg.training_data import (
    EpochOrder,
    PatchDataset,
    collate,
    training_loader,
    validation_loader,
)
from cryoseg.training_figures import draw_samples, save_figure
from cryoseg.training_records import Records

SAMPLES_SHOWN = 8
MOST_READERS = 8
PRECISIONS = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


def reading_processes(asked, threads):
    """How many processes read patches: a number that was asked for, or "auto"."""
    if asked != "auto":
        return int(asked)
    return max(0, min(MOST_READERS, (threads or torch.get_num_threads()) - 1))


def transforms_of(config):
    """Transforms that a training configuration asks for."""
    given = config["parameters"]["transforms"]
    names = Transforms.__dataclass_fields__
    chosen = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in names}
    if isinstance(chosen["rotate"], int | float):  # the same about each axis
        chosen["rotate"] = (float(chosen["rotate"]),) * 3
    return Transforms(**chosen)


def make_datasets(files, train, validation, config, cache_rate=0.0):
    """Datasets of the two parts of a split.

    files: PatchFile objects; train, validation: (N, 2), file and patch of each sample
    """
    distances = config["parameters"]["network"]["distance_prediction"]
    transforms = transforms_of(config)
    return (
        PatchDataset(files, train, transforms, config["seed"], distances, cache_rate),
        PatchDataset(files, validation, None, config["seed"], distances, cache_rate),
    )


def split_patches(files, config):
    """Divide patches into those to train and those to validate with, by tomogram.

    files: PatchFile objects, in any order
    A single tomogram is divided by region, a patch apart.
    Returns two (N, 2) integer arrays: file and patch of each sample. Raises InputError where
    nothing is left to train with.
    """
    places = {file.name: place for place, file in enumerate(files) if len(file)}
    if not places:
        names = ", ".join(sorted(file.name for file in files))
        raise InputError(
            f"no patch is left to train with, of {names}; give more tomograms, or set "
            "remove_only_background to false"
        )
    ending, ratio = config["file_extension"], config["validation_ratio"]
    val_names = config["val_files"]
    if val_names is not None:
        val_names = _with_patches([name.removesuffix(ending) for name in val_names], places)
    if len(places) == 1 and not val_names:
        (place,) = places.values()
        file = files[place]
        parts = split_corners(file.corners, file.patch_size, file.shape, ratio)
        chosen = [[(place, int(patch)) for patch in part] for part in parts]
    else:
        parts = split_tomograms(sorted(places), val_names, ratio, config["seed"])
        chosen = [[(places[n], p) for n in part for p in range(len(files[places[n]]))]
                  for part in parts]  # fmt: skip
    parts = tuple(np.array(part, np.int64).reshape(-1, 2) for part in chosen)
    _check_classes(files, parts[0])
    return parts


def check_shares(parts, processes):
    """Raise InputError where a process would have no patch to validate with.

    parts: of split_patches; processes: of the training, on all nodes
    """
    there = len(parts[1])
    if 0 < there < processes:
        raise InputError(
            f"there are {there} patches to validate with, fewer than the {processes} processes "
            f"that train; set gpu_devices and nodes to at most {there} in all, or name more "
            "val_files or raise validation_ratio"
        )


def _check_classes(files, train):
    """Raise InputError where no patch to train with holds an object; warn of classes that miss."""
    counts = sum(files[place].label_counts[patch].astype(np.int64) for place, patch in train)
    labels = class_labels(len(counts))
    missing = [label for label, count in zip(labels, counts, strict=True) if label and not count]
    if len(missing) == sum(label > 0 for label in labels):
        raise InputError(
            "no patch to train with holds a voxel with a label of 1 or more, so there is nothing "
            "to learn; check the labels, and selected_labels if they are filtered"
        )
    if missing:
        logger.warning(
            "no patch to train with holds label %s; the network cannot learn it",
            ", ".join(map(str, missing)),
        )


def _with_patches(val_names, places):
    """Those of the tomograms to validate with that have patches; an InputError if none has."""
    kept = [name for name in val_names if name in places]
    if val_names and not kept:
        raise InputError(
            f"no patch of {', '.join(val_names)}, the val_files, holds an object, so there is "
            "nothing to validate with; name others, or set remove_only_background to false"
        )
    if lacking := sorted(set(val_names) - set(kept)):
        logger.warning("%s: of val_files, but no patch holds an object", ", ".join(lacking))
    return kept


def check_patches(files, config, sizes):
    """Raise InputError where patches do not fit the network."""
    wanted = config["parameters"]
    for file in files:
        if file.out_channels != sizes.out_channels:
            raise InputError(
                f"{file.name}: its patches were cut for {file.out_channels} out_channels, the "
                f"network has {sizes.out_channels}; cut them anew"
            )
        if any(edge % sizes.stride for edge in file.patch_size):
            raise InputError(
                f"parameters.data.patch_size is {list(file.patch_size)}; its edges must be "
                f"multiples of {sizes.stride}, the network's stride"
            )
        if wanted["transforms"]["use_noisy_input"] and not file.has_noisy:
            raise InputError(
                f"{file.name}: use_noisy_input is true and its patches have no noisy input; set "
                "noisy_data_folder, or use_noisy_input to false"
            )


def train(
    network, datasets, config, backbone_config, folder, run, *,
    start, device, devices=1, nodes=1, workers=0, minutes=10.0,
):  # fmt: skip
    """Train the network; model/last.ckpt and model/best_so_far.ckpt, records and curves remain.

    network:  SegmentationNetwork, trained in place
    datasets: training and validation PatchDataset; the second may be empty
    folder:   gets model/, metrics.csv, curves.png and tensorboard/
    run:      see resuming.describe_run; start: checkpoint to go on from, or None
    device:   torch.device; devices: how many processes on each node, or which GPUs
    nodes:    how many
    workers:  processes that read, for each that trains; minutes: between two last.ckpt
    """
    learning = config["hyper_parameters"]
    folder = Path(folder)
    (folder / "model").mkdir(parents=True, exist_ok=True)
    module = SegmentationTraining(network, config, backbone_config)
    validated = len(datasets[1]) > 0
    dtype = choose_dtype(learning["precision"], device)
    _quieten()
    trainer = lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index] if device.index is not None else devices,
        num_nodes=nodes,
        plugins=[WrittenAsideIO(), _launched_by(nodes)],
        precision=PRECISIONS[dtype],
        max_epochs=learning["max_epochs"],
        check_val_every_n_epoch=learning["val_interval"],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=_callbacks(folder, run, learning, minutes, validated),
        logger=TensorBoardLogger(folder / "tensorboard", None, events_folder(folder, start)),
        log_every_n_steps=10,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    # Reading processes are asked for patches before Lightning reads how far the training was.
    begun = steps_done(start) if start else 0
    order = EpochOrder(
        len(datasets[0]), learning["batch_size"], config["seed"],
        trainer.global_rank, trainer.world_size, lambda: max(begun, trainer.global_step),
    )  # fmt: skip
    on_gpu = device.type == "cuda"
    how = {"pin": on_gpu, "augmentation": None if on_gpu else module.augmentation}
    loaders = [training_loader(datasets[0], order, workers, **how)]
    if validated:
        rank, processes = trainer.global_rank, trainer.world_size
        loaders.append(
            validation_loader(datasets[1], learning["batch_size"], workers, rank, processes, **how)
        )
    # The layout in which devices compute 16-bit convolutions fastest.
    network.to(memory_format=torch.channels_last_3d)
    trainer.fit(module, *loaders, ckpt_path=start, weights_only=True)
    return trainer


def events_folder(folder, start):
    """Name of the folder of TensorBoard's events: a new one, unless the training goes on."""
    runs = [path.name for path in (Path(folder) / "tensorboard").glob("run_*")]
    numbers = [int(name[4:]) for name in runs if name[4:].isdecimal()]
    return f"run_{max(numbers, default=0 if not start else 1) + (not start)}"


def _launched_by(nodes):
    """Where a process finds its rank: with srun, or with whatever started it on this node."""
    if nodes > 1:
        # Whoever submitted the job decides whether it is requeued.
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def _callbacks(folder, run, learning, minutes, validated):
    callbacks = [
        History(Records(folder, run)),
        Checkpoints(folder / "model", run, minutes, without_validation=not validated),
    ]
    if learning["patience"] is not None:
        if not validated:
            raise InputError(
                "hyper_parameters.patience is set and no tomogram is left to validate with; set "
                "patience to null, or val_files or validation_ratio"
            )
        callbacks.append(EarlyStopping("val_loss", patience=learning["patience"], min_delta=0.0))
    return callbacks


def _quieten():
    """Leave out what Lightning says for those who write modules."""
    for package in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(package).setLevel(logging.WARNING)
    for text in (
        "does not have many workers", "smaller than the logging interval", "srun", "treespec",
        "dataloader is not resumable", "no `val_dataloader`", "sync_dist=True", "litlogger",
        "exists and is not empty", "lr_scheduler.step",
        "in eval mode at the start of training", "Grad strides do not match",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", f".*{text}.*")


def show_samples(path, module, dataset):
    """Draw what augmentation makes of some training patches, as the network will see it."""
    numbers = np.linspace(0, len(dataset) - 1, min(SAMPLES_SHOWN, len(dataset))).astype(int)
    batch = collate([dataset[0, place, int(n)] for place, n in enumerate(numbers)])
    images, labels, target = module.prepare(batch)
    shown = None
    if target is not None:
        # The first object's distances: of a foreground class, where there are several.
        channel = 0 if module.channels == 1 else 1
        shown = target[:, channel].numpy()
    save_figure(path, draw_samples(batch.names, images[:, 0].numpy(), labels.numpy(), shown))

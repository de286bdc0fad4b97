"""Small training jobs for tests: volumes, their patches, and a configuration."""

import os
import time

import numpy as np

from cryoseg.volumes import write_mrc
from cut_patches import cut_patches
from measure_distances import measure_distances

BACKBONE = {
    "block_type": "bottleneck", "num_layers": [1, 1, 1, 1], "num_filters": [2, 3, 4, 5],
    "fpn_channels": 4, "no_max_pool": True, "decoder_type": "fpn", "fpn_layers": 2,
    "add_fpn_later_conv": False, "include_levels_loss": False, "dim": 8, "pred_dim": 4,
    "dense_pred_dim": 4,
}  # fmt: skip
NO_TRANSFORMS = {
    "low_pass_sigma_range": None, "high_pass_sigma_range": None, "high_pass_sigma2_range": None,
    "noise_sigma_range": None, "combine_transforms": False, "use_noisy_input": False,
    "scale_intensity_factors": None, "elastic": None, "zoom": None, "rotate": None, "flip": False,
}  # fmt: skip
ALL_TRANSFORMS = {
    "low_pass_sigma_range": [0.1, 0.6], "high_pass_sigma_range": [0.1, 0.2],
    "high_pass_sigma2_range": [4, 6], "noise_sigma_range": [0.01, 0.05],
    "scale_intensity_factors": [-0.1, 0.1], "elastic": [50, 100], "zoom": [0.8, 1.2],
    "rotate": [3.14, 3.14, 3.14], "flip": True,
}  # fmt: skip
# In seconds, of a validation.
SECONDS_OF_A_SLOW_BATCH = 2


def configuration(out_channels=3, transforms=None, network=None, backbone=None, **learning):
    """A complete training configuration; what is given replaces the defaults of tests."""
    return {
        "data_folder": "scaled", "labels_folder": "labels", "noisy_data_folder": None,
        "patches_folder": "patches", "temp_dir": "temp", "log_dir": "log",
        "prediction_folder": None, "pretrained_model": None, "file_extension": ".mrc",
        "train_files": None, "val_files": None, "validation_ratio": 0.3,
        "labels_folder_for_filtering": None, "selected_labels": None, "seed": 0,
        "parameters": {
            "data": {"patch_size": [16, 16, 16], "patch_overlap": 0.5, "min": 0, "max": 1,
                     "remove_only_background": False, "mean": 0, "std": 1},
            "transforms": NO_TRANSFORMS | (transforms or {}),
            "network": {"in_channels": 1, "spatial_dims": 3, "out_channels": out_channels,
                        "dense_dim": 4, "filters": [4, 4], "kernel_size": 3, "padding": 1,
                        "distance_prediction": True, "use_dice_loss": True,
                        "unfreeze_decoder": True, "unfreeze_backbone": True} | (network or {}),
            "backbone": BACKBONE | (backbone or {}),
        },
        "hyper_parameters": {"batch_size": 2, "optimizer": "adamw", "lr": 0.01, "momentum": 0.9,
                             "weight_decay": 1e-5, "max_epochs": 2, "val_interval": 1,
                             "patience": None, "precision": "fp32"} | learning,
    }  # fmt: skip


def volumes(seed=0, shape=(24, 24, 32), classes=3):
    """A noisy image of boxes, in [0, 1], and their labels: brighter is a higher class."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for label in range(1, classes):
        for _ in range(3):
            low = [rng.integers(0, size - 8) for size in shape]
            labels[tuple(slice(at, at + 8) for at in low)] = label
    image = labels / classes + rng.normal(0.1, 0.03, shape)
    return np.clip(image, 0, 1).astype(np.float32), labels


def patch_file(
    folder, name, image, labels, out_channels=3, patch_size=(16, 16, 16), noisy=None,
    remove_only_background=False,
):  # fmt: skip
    """Take volumes through the steps before training; returns the patch file's path."""
    paths = {n: folder / f"{name}_{n}.mrc" for n in ("image", "labels", "noisy")}
    for kind, volume in {"image": image, "labels": labels, "noisy": noisy}.items():
        if volume is not None:
            write_mrc(paths[kind], volume, voxel_size=10)
    distances, patches = folder / f"{name}_distances.h5", folder / f"{name}_patches.h5"
    measure_distances(paths["labels"], distances, settings={"out_channels": out_channels})
    settings = {"patch_size": list(patch_size), "patch_overlap": 0.5, "out_channels": out_channels,
                "remove_only_background": remove_only_background, "min": 0, "max": 1}  # fmt: skip
    noisy_file = None if noisy is None else paths["noisy"]
    cut_patches(paths["image"], paths["labels"], distances, patches, noisy_file, settings=settings)
    return patches


def patch_files(folder, number=3, out_channels=3, **how):
    """Patch files of several small tomograms."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        patch_file(
            folder, f"tomo_{n}", *volumes(n, classes=max(2, out_channels)), out_channels, **how
        )
        for n in range(number)
    ]


def validate_slowly(folder):
    """Let each batch of a validation take its time; with each, a file "validating-RANK" is there.

    It holds the number of the process.
    """
    from cryoseg.training import SegmentationTraining  # which takes long to load

    step = SegmentationTraining.validation_step

    def validation_step(module, batch, batch_idx):
        (folder / f"validating-{module.global_rank}").write_text(str(os.getpid()))
        time.sleep(SECONDS_OF_A_SLOW_BATCH)
        return step(module, batch, batch_idx)

    SegmentationTraining.validation_step = validation_step

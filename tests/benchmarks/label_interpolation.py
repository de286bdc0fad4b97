"""What it costs to interpolate labels in augmentation, as CryoSiam does.

    python tests/benchmarks/label_interpolation.py [--epochs 8] [--seeds 1]

Trains the same small network on the same simulated tomograms twice, with zoom and rotation: once as
this project does it, once with labels that are interpolated linearly and cut down to integers.
Everything else is the same, down to the random numbers. Printed: Dice of each class on a tomogram
that neither has seen.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "scripts"))

from cryoseg import augmentation  # noqa: E402
from cryoseg.checkpoints import load_network  # noqa: E402
from cryoseg.labels import IGNORED  # noqa: E402
from cryoseg.metrics import confusion, dice_and_iou  # noqa: E402
from cryoseg.simulation import simulate  # noqa: E402
from cryoseg.volumes import write_mrc  # noqa: E402
from cut_patches import cut_patches  # noqa: E402
from measure_distances import measure_distances  # noqa: E402
from train_model import train_model  # noqa: E402

NEAREST = augmentation.resample
SHAPE, VOXEL_SIZE, UNSEEN = (64, 128, 128), 24.0, 900
CLASSES = ("background", "membrane", "large particle", "small particle", "filament")
CONFIG = {
    "file_extension": ".mrc", "train_files": None, "val_files": None, "validation_ratio": 0.0,
    "continue_training": False, "pretrained_model": None, "log_dir": "log",
    "parameters": {
        "data": {"patch_size": [32, 32, 32], "patch_overlap": 0.5, "remove_only_background": True,
                 "min": 0, "max": 1, "mean": 0, "std": 1},
        "transforms": {
            "low_pass_sigma_range": None, "high_pass_sigma_range": None,
            "high_pass_sigma2_range": None, "noise_sigma_range": [0.01, 0.05],
            "combine_transforms": False, "use_noisy_input": False,
            "scale_intensity_factors": None, "elastic": None, "zoom": [0.8, 1.2],
            "rotate": [3.14, 0.3, 0.3], "flip": True,
        },
        "network": {
            "in_channels": 1, "spatial_dims": 3, "out_channels": len(CLASSES), "dense_dim": 16,
            "filters": [16, 16], "kernel_size": 3, "padding": 1, "distance_prediction": False,
            "use_dice_loss": True, "unfreeze_backbone": True, "unfreeze_decoder": True,
        },
        "backbone": {
            "block_type": "bottleneck", "num_layers": [1, 1, 1, 1], "num_filters": [8, 16, 32, 64],
            "fpn_channels": 16, "no_max_pool": True, "decoder_type": "fpn", "fpn_layers": 2,
            "add_fpn_later_conv": False, "include_levels_loss": False, "dim": 64, "pred_dim": 32,
            "dense_pred_dim": 16,
        },
    },
    "hyper_parameters": {
        "val_interval": 1, "batch_size": 4, "optimizer": "adamw", "lr": 0.006, "momentum": 0.9,
        "weight_decay": 1e-5, "patience": None, "precision": "auto",
    },
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    print(f"{'labels':10} seed {' '.join(f'{name:>14}' for name in CLASSES[1:])}  mean")
    with tempfile.TemporaryDirectory() as folder:
        patches = prepare(Path(folder))
        for seed in range(options.seeds):
            for kind, resample in (("nearest", NEAREST), ("linear", interpolated)):
                augmentation.resample = resample
                checkpoint = fit(Path(folder), patches, f"{kind}_{seed}", seed, options.epochs)
                dice = judge(load_network(checkpoint))[1:]
                values = " ".join(f"{value:14.3f}" for value in dice)
                print(f"{kind:10} {seed:4} {values}  {np.nanmean(dice):.3f}", flush=True)


def specimen(seed):
    """A simulated tomogram, scaled and white on black, and its labels."""
    grey, labels, _ = simulate(
        SHAPE, VOXEL_SIZE, seed, thickness_nm=100, tilt_range=(-60, 60), noise=0.1, membranes=5,
        large_particles=35, small_particles=45, filaments=12,
    )  # fmt: skip
    low, high = np.percentile(grey, (0.1, 99.9))
    return 1 - np.clip((grey - low) / (high - low), 0, 1).astype(np.float32), labels


def prepare(folder):
    """Patch files of two tomograms."""
    data = CONFIG["parameters"]["data"]
    channels = {"out_channels": len(CLASSES)}
    keys = ("patch_size", "patch_overlap", "remove_only_background", "min", "max")
    files = []
    for seed in (1, 2):
        tomogram, labels, distances, patches = (
            folder / f"{seed}{end}"
            for end in (".mrc", "_labels.mrc", "_distances.h5", "_patches.h5")
        )
        for path, volume in zip((tomogram, labels), specimen(seed), strict=True):
            write_mrc(path, volume, voxel_size=VOXEL_SIZE)
        measure_distances(labels, distances, settings=channels)
        settings = {key: data[key] for key in keys} | channels
        cut_patches(tomogram, labels, distances, patches, settings=settings)
        files.append(patches)
    return files


def fit(folder, patches, name, seed, epochs):
    """Train once; returns the checkpoint."""
    learning = CONFIG["hyper_parameters"] | {"max_epochs": epochs}
    config = CONFIG | {"seed": seed, "hyper_parameters": learning}
    checkpoint = folder / name / "model" / "model_best.ckpt"
    how = {"log_dir": folder / name, "device": "cpu", "num_workers": 0}
    train_model(patches, checkpoint, settings={"config": config}, **how)
    return checkpoint


def interpolated(images, labels, draws):
    """As augmentation.resample, but labels are interpolated linearly and cut down to integers."""
    moved, nearest = NEAREST(images, labels, draws)
    between, _ = NEAREST(labels[:, None].float(), labels, draws)
    cut = between[:, 0].to(torch.uint8)
    return moved, torch.where(nearest == IGNORED, IGNORED, cut).to(torch.uint8)


def judge(network):
    """Dice of each class on the tomogram that was held back."""
    image, labels = specimen(UNSEEN)
    with torch.no_grad():
        logits, _ = network(torch.from_numpy(image)[None, None])
    found = logits[0].argmax(0)
    return dice_and_iou(confusion(found, torch.from_numpy(labels), len(CLASSES)).numpy())[0]


if __name__ == "__main__":
    main()

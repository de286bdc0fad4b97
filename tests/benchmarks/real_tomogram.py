"""Train on one part of a real tomogram, predict the rest: what the whole workflow is for.

    python tests/benchmarks/real_tomogram.py FOLDER [--epochs 20] [--keep WORK]

FOLDER holds NAME.mrc, NAME_lamella.mrc and NAME_ribosomes.csv (voxels, z y x), as the part of
EMPIAR-11658 does that the tests use. A lamella and a ribosome model are trained on y < 170 and
predict y >= 170. Printed: Dice of the lamella, and how many of the positions held back lie within
a ribosome's radius of one that was found, and how many of those that were found lie so near one
of the positions (more may be there than were published). Drawn: the prediction, as
WORK/predictions/ribosome/pictures/held_back.png.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import yaml
from scipy import ndimage, spatial

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "scripts"))

from cryoseg.volumes import open_volume, write_mrc  # noqa: E402

BORDER = 170  # y
STAGES = ("lamella", "ribosome")
RIBOSOME_RADIUS = 125.0  # Angstrom
BACKBONE = {
    "num_filters": [16, 32, 64, 128], "fpn_channels": 32, "dim": 64, "pred_dim": 32,
    "dense_pred_dim": 16,
}  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--keep", type=Path, help="folder to work in, which is kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = options.keep or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        name = cut(options.folder, work)
        configure(work, options)
        started = time.monotonic()
        run(work)
        print(f"{time.monotonic() - started:.0f} s for all steps", flush=True)
        judge(work, options.folder, name)


def cut(source, work):
    """Write the two parts of the tomogram, and the training part's lamella and positions."""
    (positions_file,) = source.glob("*_ribosomes.csv")
    name = positions_file.name.removesuffix("_ribosomes.csv")
    for folder in ("raw", "lamella"):
        (work / folder).mkdir(exist_ok=True)
    volume = open_volume(source / f"{name}.mrc")
    lamella = open_volume(source / f"{name}_lamella.mrc")
    write_mrc(work / "raw" / "known.mrc", volume[:, :BORDER], like=volume)
    write_mrc(work / "raw" / "held_back.mrc", volume[:, BORDER:], like=volume)
    write_mrc(work / "lamella" / "known.mrc", lamella[:, :BORDER], like=volume)
    with open(work / "ribosomes.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["centroid-0", "centroid-1", "centroid-2", "tomo", "semantic_class"])
        for z, y, x in positions(positions_file):
            if y < BORDER:
                rows.writerow([z, y, x, "known", 1])
    return name


def positions(file):
    """Published positions, (N, 3), z y x in voxels."""
    with open(file, newline="") as opened:
        rows = list(csv.DictReader(opened))
    return np.array([[float(row[f"centroid-{axis}"]) for axis in range(3)] for row in rows])


def configure(work, options):
    """Write the configuration of a lab that trains two models and predicts with them."""
    (work / "config").mkdir(exist_ok=True)
    entries = {
        "scale": {"raw": {"input_path": "raw", "output_path": "scaled", "invert": True}},
        "label": {
            "ribosomes": {
                "kind": "particles", "tomograms": "scaled", "files": ["known.mrc"],
                "positions": "ribosomes.csv", "radius": RIBOSOME_RADIUS, "ignore_rim": 45.0,
                "output_path": "ribosomes",
            }
        },
        "train": {each: f"config/train_{each}.yaml" for each in STAGES},
        "predict": {each: f"config/{each}.yaml" for each in STAGES},
    }  # fmt: skip
    write_yaml(work / "config" / "config.yaml", entries)
    for each, labels in (("lamella", "lamella"), ("ribosome", "ribosomes")):
        write_yaml(work / "config" / f"train_{each}.yaml", training(each, labels, options))
        write_yaml(work / "config" / f"{each}.yaml", prediction(each, options))


def training(name, labels, options):
    return {
        "data_folder": "scaled", "labels_folder": labels, "train_files": ["known.mrc"],
        "patches_folder": f"models/{name}/patches", "log_dir": f"models/{name}",
        "validation_ratio": 0.2,
        "parameters": {
            "nodes": 1, "gpu_devices": 1,
            "data": {"patch_size": [48, 48, 48], "patch_overlap": 0.25,
                     "remove_only_background": False},
            "transforms": {"low_pass_sigma_range": [0.1, 0.6], "noise_sigma_range": [0.01, 0.05],
                           "rotate": [3.14, 0.2, 0.2], "flip": True},
            "network": {"out_channels": 1, "dense_dim": 16, "filters": [16, 16],
                        "distance_prediction": True, "use_dice_loss": True},
            "backbone": BACKBONE,
        },
        "hyper_parameters": {"batch_size": 4, "lr": 0.004, "max_epochs": options.epochs,
                             "val_interval": 4, "device": options.device},
    }  # fmt: skip


def prediction(name, options):
    within = name == "ribosome"
    return {
        "data_folder": "scaled", "test_files": ["held_back.mrc"],
        "mask_folder": "predictions/lamella" if within else None,
        "prediction_folder": f"predictions/{name}",
        "trained_model": f"models/{name}/model/model_best.ckpt",
        "class_names": [name],
        "parameters": {
            "data": {"min": 0, "max": 1},
            "network": {"threshold": 0.5, "postprocessing": not within,
                        "3d_postprocessing": False},
        },
        "hyper_parameters": {"device": options.device},
    }  # fmt: skip


def write_yaml(path, content):
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def run(work):
    subprocess.run(
        [sys.executable, "-m", "snakemake", "--profile", str(REPOSITORY / "profiles" / "local"),
         "--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(work), "overview"],
        check=True,
    )  # fmt: skip


def judge(work, source, name):
    """Print what the models make of the part that they never saw."""
    lamella = open_volume(source / f"{name}_lamella.mrc")[:, BORDER:] > 0
    found = labels(work, "lamella") > 0
    overlap = 2 * np.count_nonzero(lamella & found) / (lamella.sum() + found.sum())
    print(f"lamella: Dice {overlap:.3f} on y >= {BORDER}")

    wanted = positions(next(source.glob("*_ribosomes.csv")))
    wanted = wanted[wanted[:, 1] >= BORDER] - [0, BORDER, 0]
    classes = labels(work, "ribosome")
    components, count = ndimage.label(classes == 1)
    centres = ndimage.center_of_mass(components > 0, components, range(1, count + 1))
    radius = RIBOSOME_RADIUS / open_volume(work / "raw" / "held_back.mrc").voxel_size[0]
    centres = np.reshape(centres, (-1, 3))
    distance, _ = spatial.cKDTree(centres).query(wanted)
    to_position, _ = spatial.cKDTree(wanted).query(centres)
    inside = classes[tuple(np.rint(wanted).astype(int).T)] == 1
    print(
        f"ribosomes: {count} components; of {len(wanted)} positions held back "
        f"{inside.sum()} lie inside one ({inside.mean():.0%}), "
        f"{(distance <= radius).sum()} within {radius:.1f} voxels of a centre "
        f"({(distance <= radius).mean():.0%}); {(to_position <= radius).mean():.0%} of the "
        f"components lie as near to a position; {np.mean(classes == 1):.2%} of the voxels"
    )


def labels(work, stage):
    with h5py.File(work / "predictions" / stage / "held_back_preds.h5") as file:
        return file["labels"][:]


if __name__ == "__main__":
    main()

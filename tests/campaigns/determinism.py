"""The same steps again, in other processes and under other conditions; the files are compared.

    PYTHONPATH=tests:scripts python tests/campaigns/determinism.py

Prepares tomograms, trains on them, scores with the model and labels. From one run to the next the
order of the tomograms, the hash seed, the processes that read patches, the tiles and the threads
that score differ. Then snakemake does the whole workflow of kill.py twice, with other jobs at once
and in another order.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (the scores' codec)
import numpy as np

import same_outputs
from conftest import REPOSITORY
from cryoseg.checkpoints import read_checkpoint
from kill import WHOLE, copied, fill
from test_training_workflow import TrainingLab

# Prepared alike in any order; trained alike with one thread, whoever reads the patches; scored
# alike but for rounding, in other tiles and by other threads.
CONDITIONS = {
    "first": {"order": [0, 1, 2], "hash_seed": 1, "workers": 0, "tile": "auto", "batch": 1,
              "threads": 1},
    "again": {"order": [0, 1, 2], "hash_seed": 1, "workers": 0, "tile": "auto", "batch": 1,
              "threads": 1},
    "other": {"order": [2, 0, 1], "hash_seed": 7, "workers": 2, "tile": "16,16,16", "batch": 3,
              "threads": 2},
}  # fmt: skip
# How many jobs at once, and who decides which comes first.
ORDERS = (("--cores", "2"), ("--cores", "3", "--scheduler", "greedy"))
# Probabilities of other tiles are those of one pass but for rounding, in single precision.
PROBABILITIES_ALIKE = 1e-5
# Both classes that a label is chosen from may differ so; with more between them, it stays.
MARGIN = 2 * PROBABILITIES_ALIKE
SCORE = {"data": {"min": 0, "max": 1, "mean": 0, "std": 1}, "precision": "fp32",
         "save_internal_files": True}  # fmt: skip
LABEL = {"threshold": 0.1, "postprocessing": False, "3d_postprocessing": False,
         "postprocessing_sizes": None, "save_internal_files": False}  # fmt: skip

CHAIN = """
import json, sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(1)
from cryoseg.volumes import write_mrc
from conftest import REPOSITORY
from determinism import LABEL, SCORE
from inspect_model import inspect_model
from label_voxels import label_voxels
from scale_tomogram import scale_tomogram
from score_voxels import score_voxels
from train_model import train_model
from training_jobs import ALL_TRANSFORMS, configuration, patch_file, volumes
if __name__ == "__main__":
    folder, how = Path(sys.argv[1]), json.loads(sys.argv[2])
    folder.mkdir()
    for n in how["order"]:
        patch_file(folder, f"tomo_{n}", *volumes(n))
        percentiles = {"lower_end_percentage": 1.0, "upper_end_percentage": 99.0, "invert": False}
        scale_tomogram(
            folder / f"tomo_{n}_image.mrc", folder / f"tomo_{n}_scaled.mrc", settings=percentiles
        )
    model, stored = folder / "log/model/model_best.ckpt", REPOSITORY / "tests/data/semantic.ckpt"
    train_model(
        [folder / f"tomo_{n}_patches.h5" for n in range(3)], model,
        settings={"config": configuration(transforms=ALL_TRANSFORMS)}, log_dir=folder / "log",
        device="cpu", num_workers=how["workers"],
    )
    # Other tiles give the small network the very same sums; to one of usual size, rounding shows.
    noisy = np.random.default_rng(0).random((32, 48, 64), np.float32)
    write_mrc(folder / "tomo_noisy_scaled.mrc", noisy, voxel_size=10)
    for n, model in {**dict.fromkeys(how["order"], model), "noisy": stored}.items():
        described = folder / f"{model.stem}.json"
        inspect_model(model, described, settings={"in_channels": 1, "spatial_dims": 3})
        tomogram, scores = folder / f"tomo_{n}_scaled.mrc", folder / f"tomo_{n}_scores.h5"
        score_voxels(
            tomogram, model, described, scores, settings=SCORE, device="cpu",
            threads=how["threads"], tile_size=how["tile"], batch_size=how["batch"],
        )
        label_voxels(
            scores, tomogram, folder / f"tomo_{n}_preds.h5", settings=LABEL, scored=SCORE
        )
"""


def run_chain(folder, how):
    """Run the chain in a process of its own."""
    below = ("scripts", "tests", "tests/campaigns")
    environment = {
        "PYTHONPATH": ":".join(str(REPOSITORY / name) for name in below),
        "PYTHONHASHSEED": str(how["hash_seed"]),
        "OMP_NUM_THREADS": "1",
    }
    # A file, as processes that read patches import what started them.
    script = folder.with_name("chain.py")
    script.write_text(CHAIN)
    run = subprocess.run(
        [sys.executable, script, folder, json.dumps(how)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]


def differences(one, other, same_tiles):
    """What differs between the folders of two chains, as sentences."""
    prepared = ("*_image.mrc", "*_labels.mrc", "*_scaled.mrc", "*_distances.h5", "*_patches.h5")
    stored = ("*_noisy_scores.h5", "*_noisy_preds.h5") if same_tiles else ()
    for pattern in (*prepared, *stored):
        for path in sorted(one.glob(pattern)):
            if path.read_bytes() != (other / path.name).read_bytes():
                yield f"{path.name}: other bytes"
    # By a model that was trained here, whose hash they name, and a checkpoint holds dates.
    for path in sorted(one.glob("*_[0-9]_scores.h5")) + sorted(one.glob("*_[0-9]_preds.h5")):
        if same_tiles and not same_outputs.holds_the_same(path, other / path.name):
            yield f"{path.name}: other contents"
    model = Path("log/model/model_best.ckpt")
    weights, others = (read_checkpoint(folder / model)[0] for folder in (one, other))
    for name in weights:
        if not (weights[name].numpy() == others[name].numpy()).all():
            yield f"{model}: {name}"
    yield from beyond_rounding(one, other, same_tiles)


def beyond_rounding(one, other, same_tiles):
    """What differs between the scores and labels of two chains by more than rounding allows."""
    for name, found in roundings(one, other).items():
        alike, margin = (0, -1) if same_tiles else (PROBABILITIES_ALIKE, MARGIN)
        if found.probabilities > alike:
            yield f"{name}: probabilities differ by {found.probabilities:.2g}"
        if found.margin > margin:
            yield f"{name}: labels differ where the margin is {found.margin:.2g}"


@dataclass(frozen=True)
class Rounding:
    """How the scores and labels of a tomogram differ between two chains.

    probabilities: the largest difference of any class in any voxel
    labels:        voxels whose label differs
    margin:        the largest of theirs, in either chain, see margins; -1 without any
    """

    probabilities: float
    labels: int
    margin: float


def roundings(one, other):
    """{name of a scores file: Rounding} between the folders of two chains."""
    return {path.name: _rounding(path, other / path.name) for path in one.glob("*_scores.h5")}


def _rounding(path, other):
    both = (path, other)
    probabilities = [_dataset(file, "probs") for file in both]
    labels = [
        _dataset(file.with_name(file.name.replace("_scores", "_preds")), "labels") for file in both
    ]
    unlike = labels[0] != labels[1]
    between = np.maximum(*(margins(each, LABEL["threshold"]) for each in probabilities))[unlike]
    return Rounding(
        float(np.abs(probabilities[0] - probabilities[1]).max()),
        int(unlike.sum()),
        float(between.max(initial=-1)),
    )


def _dataset(path, name):
    with h5py.File(path) as file:
        return file[name][...]


def margins(probabilities, threshold):
    """How far each voxel is from another label, in probability.

    probabilities: (C, Z, Y, X), C at least 2; threshold: below it, the most probable class is none
    """
    second, best = np.sort(probabilities.astype(np.float64), axis=0)[-2:]
    return np.minimum(best - second, np.abs(best - threshold))


def compare(folder, names=tuple(CONDITIONS)):
    """Run the chain under some of the conditions; returns what differs from the first."""
    for name in names:
        run_chain(folder / name, CONDITIONS[name])
    first, found = folder / names[0], []
    for name in names[1:]:
        same_tiles = all(
            CONDITIONS[name][key] == CONDITIONS[names[0]][key] for key in ("tile", "threads")
        )
        found += [f"{name}: {text}" for text in differences(first, folder / name, same_tiles)]
    return found


def rounding_told(folder):
    """A sentence about what compare found in a folder between the first and the other tiles."""
    found = roundings(folder / "first", folder / "other").values()
    largest = max(each.probabilities for each in found)
    voxels = sum(_dataset(path, "probability").size for path in folder.glob("first/*_scores.h5"))
    count, margin = sum(each.labels for each in found), max(each.margin for each in found)
    labels = f"{count} labels do, of margins up to {margin:.2g}" if count else "no label does"
    return (
        f"other tiles and threads, {voxels} voxels: probabilities differ by at most {largest:.2g} "
        f"(allowed: {PROBABILITIES_ALIKE}); {labels} (allowed: up to {MARGIN})"
    )


def compare_orders(folder):
    """Run the whole workflow in each of ORDERS; returns what differs from the first.

    Each job has as many threads in all of them: other threads add numbers in another order.
    """
    inputs = fill(folder / "inputs").folder
    for number, order in enumerate(ORDERS):
        lab = TrainingLab(copied(inputs, folder / str(number)))
        lab.run(*order, "--max-threads", "2", "--", *WHOLE)
    return [
        f"{' '.join(order)}: {text}"
        for number, order in enumerate(ORDERS)
        for text in same_outputs.differences(folder / str(number), folder / "0")
    ]


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(Path(folder))
        print(rounding_told(Path(folder)), flush=True)
        found += compare_orders(Path(folder, "whole"))
        files = len(same_outputs.outputs(Path(folder, "whole", "0")))
    orders = f"nor in {files} files between {', '.join(map(' '.join, ORDERS))}"
    print("\n".join(found) or f"no difference between {', '.join(CONDITIONS)}, {orders}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

"""Run each step that reads or makes volumes within just enough memory, and within too little.

    PYTHONPATH=tests:scripts python tests/campaigns/pressure_steps.py

Scoring chooses its tiles by what there is (see pressure.py); the other steps need what they need.
Of a tomogram of 200 x 300 x 300 voxels each is done without a limit first, which tells how many
addresses it takes. Then address space is limited (ulimit -v) to a little more than that, where the
same bytes must come out, and to less: there the same bytes come out, or one sentence says how much
memory is needed, nothing is half-written, and the job may be tried again. (Without the number where
the C library ends the process itself, as it does for a thread's own data.)

A training is limited from its beginning, or from the moment that it has left a checkpoint. Then it
is given again without a limit, and must end with the weights of one that nobody disturbed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from conftest import REPOSITORY
from cryoseg.checkpoints import read_checkpoint
from cryoseg.failures import Failure, explain, names_input_error
from cryoseg.scores import PROBABILITY_STEPS, ScoresWriter
from cryoseg.tables import write_table
from cryoseg.volumes import write_mrc
from measure_distances import measure_distances
from training_jobs import ALL_TRANSFORMS, configuration, patch_files

SHAPE = (200, 300, 300)
DATA = {"min": 0, "max": 1, "mean": 0, "std": 1}
TRAINING = {"section": "train", "min": 0, "max": 1, "out_channels": 3, "patch_size": [64, 64, 64]}
TRAINING |= {"filtered": False, "selected_labels": None, "relabel": False}
PATCHES = {"patch_size": [64, 64, 64], "patch_overlap": 0.25, "remove_only_background": False}
LABELLING = {"threshold": 0.2, "postprocessing": False, "3d_postprocessing": False}
LABELLING |= {"postprocessing_sizes": [50, 50], "save_internal_files": False}
LAMELLA = LABELLING | {"postprocessing": True, "postprocessing_sizes": None}
EVALUATION = {"tolerance_nm": 2.0, "class_names": None, "stages": ["a"], "particles": None}
PICTURE = {"stage": "a", "class_names": None, "lamella": False, "logs": [], "benchmarks": "none"}
PLACED = {"labels_of_files": None, "per_tomogram": True, "labels": None, "unit": "voxel"}
PLACED |= {"priority": [2, 1], "ignore_rim": 3, "coordinate_voxel_size": None, "name_suffix": ""}
PLACED |= {"allow_empty": False}
MERGED = {"labels_of_masks": [1, 2], "priority": [2, 1], "ignore_rim": 3, "unit": "voxel"}
MERGED |= {"ignoring": []}
OF_AVERAGES = {"labels_of_averages": None, "threshold": 0.5, "invert": False}
OF_AVERAGES |= {"average_voxel_size": None}
SIMULATION = {"shape": SHAPE, "voxel_size": 10.0, "seed": 1, "thickness_nm": 100, "noise": 0.1}
SIMULATION |= {"tilt_range": [-60, 60], "membranes": 2, "large_particles": 20, "filaments": 5}
SIMULATION |= {"small_particles": 20}
# As large as leaves something to be seen beside the libraries, which take a gigabyte.
LEARNING = {"max_epochs": 3, "batch_size": 4}
TRAINED = configuration(transforms=ALL_TRANSFORMS, **LEARNING)
# {step: its inputs, its outputs, its settings}; what stands before a comma is the script.
STEPS = {
    "scale_tomogram": (
        {"tomogram": "tomogram.mrc"},
        {"scaled": "scaled.mrc"},
        {"invert": True, "lower_end_percentage": 0.1, "upper_end_percentage": 99.9},
    ),
    "check_tomogram": (
        {"tomogram": "tomogram.mrc", "companions": ["labels.mrc"]},
        {"findings": "findings.json"},
        {"demands": {"a": TRAINING}, "companions": ["a"], "positions": []},
    ),
    "filter_labels": (
        {"labels": "labels.mrc"},
        {"filtered": "filtered.mrc"},
        {"selected_labels": [2], "relabel": False},
    ),
    "measure_distances": (
        {"labels": "labels.mrc"},
        {"distances": "new_distances.h5"},
        {"out_channels": 3},
    ),
    "cut_patches": (
        {"tomogram": "tomogram.mrc", "labels": "labels.mrc", "distances": "distances.h5"},
        {"patches": "tomogram_patches.h5"},
        PATCHES | {"out_channels": 3, "min": 0, "max": 1},
    ),
    "label_voxels": (
        {"tomogram": "tomogram.mrc", "scores": "scores.h5"},
        {"labels": "tomogram_preds.h5", "mrc": "tomogram_preds.mrc"},
        LABELLING,
    ),
    "label_voxels, lamella": (
        {"tomogram": "tomogram.mrc", "scores": "lamella.h5"},
        {"labels": "lamella_preds.h5"},
        LAMELLA,
    ),
    "evaluate_labels": (
        {"predicted": "found.h5", "truth": "labels.mrc"},
        {"table": "tomogram_evaluation.tsv"},
        EVALUATION,
    ),
    "draw_prediction": (
        {"tomogram": "tomogram.mrc", "scores": "scores.h5", "labels": "found.h5"},
        {"picture": "tomogram.png", "summary": "tomogram.json"},
        PICTURE,
    ),
    "simulate_tomogram": (
        {},
        {"tomogram": "made.mrc", "labels": "made_labels.mrc", "lamella": "made_lamella.mrc"},
        SIMULATION,
    ),
    "merge_labels": (
        {"masks": ["labels.mrc", "mask.mrc"]},
        {"labels": "merged.mrc"},
        MERGED,
    ),
    "label_particles": (
        {"tomogram": "tomogram.mrc", "positions": "positions.star"},
        {"labels": "spheres.mrc"},
        PLACED | {"radius": {1: 12, 2: 20}},
    ),
    "label_averages": (
        {"tomogram": "tomogram.mrc", "positions": "positions.star", "averages": "average.mrc"},
        {"labels": "shapes.mrc"},
        PLACED | OF_AVERAGES,
    ),
    "try_thresholds": (
        {"scores": "scores.h5", "truth": "labels.mrc"},
        {"table": "tomogram_thresholds.tsv"},
        {"threshold": 0.2},
    ),
    "try_sizes": (
        {"scores": "scores.h5", "truth": "labels.mrc", "thresholds": "thresholds.tsv"},
        {"table": "tomogram_sizes.tsv"},
        {"threshold": 0.2, "postprocessing_sizes": [50, 50]},
    ),
    "calibrate_training": ({}, {"calibration": "calibration.json"}, {"config": TRAINED}),
    "train_model": (
        {"patches": [f"tomo_{number}_patches.h5" for number in range(3)]},
        {"checkpoint": "log/model/model_best.ckpt"},
        {"config": TRAINED},
    ),
}
# What a step is given beside its files and settings.
ALSO = {
    "label_voxels": {"scored": {"data": DATA}},
    "calibrate_training": {"device": "cpu", "threads": 1},
    "train_model": {"device": "cpu", "threads": 1, "num_workers": 1, "checkpoint_minutes": 1e-4},
}
# Steps that measure how long something takes, which is another number each time.
MEASURING = ("calibrate_training",)
# {script of another rule: why it is not among the steps}
ELSEWHERE = {
    "score_voxels": "chooses its tiles by what there is, see pressure.py",
    "calibrate": "scores, as score_voxels does",
    "inspect_model": "reads a checkpoint",
    "admit_tomogram": "reads what a check wrote",
    "tabulate_checks": "reads what checks wrote",
    "summarise_evaluation": "reads tables",
    "choose_thresholds": "reads tables",
    "choose_sizes": "reads tables",
    "draw_training": "reads a checkpoint",
    "write_overview": "reads tables and pictures",
    "estimate_run": "reads tables",
    "verify_outputs": "reads files piece by piece, for their hashes",
}
# Of what a step takes without a limit.
SHARES = (1.2, 0.95, 0.7, 0.4, 0.1)
# What the C library says where it ends the process itself, without a word of how much it wanted.
ENDED_BY_LIBRARY = "cannot allocate memory for thread-local data: ABORT"
# What a training gets beside what it has when it has left a checkpoint.
LATE_BYTES = (0, 2_000_000, 20_000_000)
# What a training says where it goes on from its own checkpoint, the last one perhaps.
GOES_ON = ("the training goes on from", "is of a finished training")

# Limited at the beginning, or once the file ``late`` is there.
ONE_STEP = """
import importlib, json, os, resource, sys, threading, time
import psutil
from cryoseg.joblog import log_to
name, arguments, extra, late, log, peak = sys.argv[1:]
step = getattr(importlib.import_module(name), name)
def limit():
    while late and not os.path.exists(late):
        time.sleep(0.005)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + int(extra), resource.RLIM_INFINITY))
with log_to(log):
    used = psutil.Process().memory_info().vms
    if late:
        threading.Thread(target=limit, daemon=True).start()
    elif int(extra):
        limit()
    step(**json.loads(arguments))
    for line in open("/proc/self/status"):
        if line.startswith("VmPeak"):
            open(peak, "w").write(str(1024 * int(line.split()[1]) - used))
"""


def prepare(folder, shape=SHAPE):
    """Write what the steps read into a folder."""
    random = np.random.default_rng(0)
    grey = random.random(shape, dtype=np.float32)
    write_mrc(folder / "tomogram.mrc", grey, voxel_size=10.0)
    # Blocks of labels, and specks for the sizes of components.
    coarse = random.integers(0, 3, [-(-size // 25) for size in shape], np.uint8)
    labels = np.kron(coarse, np.ones((25, 25, 25), np.uint8))[tuple(map(slice, shape))]
    labels[random.random(shape, dtype=np.float32) < 0.001] = 1
    write_mrc(folder / "labels.mrc", labels, voxel_size=10.0)
    about = {"voxel_size": (10.0,) * 3, "origin": (0.0,) * 3, "nstart": (0,) * 3}
    about |= {"tomogram_file": "tomogram.mrc", "checkpoint_sha256": "of no importance here"}
    about |= {"settings": {"data": DATA}, "versions": {}, "inputs": {}}
    box = [(0, size) for size in shape]
    sure = (PROBABILITY_STEPS * grey).astype(np.uint16)
    with ScoresWriter(folder / "scores.h5", shape, 3, about) as writer:
        writer.write(box, {"probability": sure, "winner": np.roll(labels, 3, 1)})
    lamella = np.zeros(shape, np.uint16)
    lamella[shape[0] // 4 : -shape[0] // 4, 5:-5, 5:-5] = PROBABILITY_STEPS
    with ScoresWriter(folder / "lamella.h5", shape, 1, about) as writer:
        writer.write(box, {"probability": lamella})
    with h5py.File(folder / "found.h5", "w") as file:
        file.create_dataset("labels", data=np.roll(labels, 3, 1), compression="gzip")
        file.attrs.update({"voxel_size": (10.0,) * 3, "checkpoint_sha256": "none"})
        made_with = {"settings": {"label_voxels": {"threshold": 0.2}}, "inputs": {}, "versions": {}}
        file.attrs.update({name: json.dumps(value) for name, value in made_with.items()})
    measure_distances(folder / "labels.mrc", folder / "distances.h5", settings={"out_channels": 3})
    prepare_places(folder, labels)
    chosen = {"label": [1, 2], "threshold": [0.3, 0.3], "chosen": [True, True]}
    write_table(folder / "thresholds.tsv", pd.DataFrame(chosen))
    patch_files(folder)


def prepare_places(folder, labels):
    """Write what labels are made of: a mask, positions with angles, and an average."""
    write_mrc(folder / "mask.mrc", (labels == 1).astype(np.uint8), voxel_size=10.0)
    columns = ["CoordinateX", "CoordinateY", "CoordinateZ", "AngleRot", "AngleTilt", "AnglePsi"]
    names = "\n".join(f"_rln{name}" for name in [*columns, "ClassNumber"])
    places = np.random.default_rng(1).random((100, 6)) * [*labels.shape[::-1], 360, 180, 360]
    rows = "\n".join(
        f"{' '.join(f'{value:.2f}' for value in place)} {1 + number % 2}"
        for number, place in enumerate(places)
    )
    (folder / "positions.star").write_text(f"data_particles\n\nloop_\n{names}\n{rows}\n")
    shape = np.indices((48, 48, 48), np.float32) - 24
    bar = (np.abs(shape) < np.reshape([20, 8, 4], (3, 1, 1, 1))).all(0)
    write_mrc(folder / "average.mrc", bar.astype(np.float32), voxel_size=10.0)


def arguments_of(step, folder):
    """What a step is called with."""
    inputs, outputs, settings = STEPS[step]
    files = {}
    for name, file in (inputs | outputs).items():
        several = isinstance(file, list)
        files[name] = [f"{folder}/{each}" for each in file] if several else f"{folder}/{file}"
    return files | {"settings": settings} | ALSO.get(step.split(",")[0], {})


def start(step, arguments, log, peak, extra=0, late=""):
    """Do a step in a process of its own within so many bytes more than it has, 0 for no limit.

    late: path of a file; the limit is set when it is there
    Returns (exit status, what the end of a run would say of it). Raises AssertionError where it
    fails in a way in which it must not.
    """
    paths = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]
    few = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    given = [step.split(",")[0], json.dumps(arguments), str(extra), str(late), log, peak]
    done = subprocess.run(
        [sys.executable, "-c", ONE_STEP, *given],
        env=os.environ | {"PYTHONPATH": ":".join(paths)} | few,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return 0, ""
    kind, said = explain(Failure(step, None, str(log)))
    assert kind == "out of memory", (done.returncode, kind, said, log.read_text()[-3000:])
    assert not names_input_error(log), "it would not be tried again"
    return done.returncode, said


def run_step(step, folder, extra=0):
    """Do a step in a folder within so many bytes more than the libraries take, 0 for no limit.

    Returns (its outputs' bytes or None, what the end of a run would say of it, bytes it took or
    None). Raises AssertionError where it fails in a way in which it must not.
    """
    results = [folder / name for name in STEPS[step][1].values()]
    log, peak = folder / "step.log", folder / "peak"
    for old in (*results, log, peak):
        old.unlink(missing_ok=True)
    before = set(folder.iterdir())
    status, said = start(step, arguments_of(step, folder), log, peak, extra)
    if status == 0:
        made = [None if step in MEASURING else path.read_bytes() for path in results]
        return made, "", int(peak.read_text())
    assert not set(folder.iterdir()) - before - {log}, "something is left"
    return None, said, None


def says_how_much(said):
    """Whether a sentence tells how much memory is needed, where the process lived to know it."""
    return "MB" in said or ENDED_BY_LIBRARY in said


def squeeze(step, folder):
    """Yield (MB, sentence) of a step within more and less memory; AssertionError where it errs."""
    whole, _, needed = run_step(step, folder)
    yield round(needed / 1e6), "without a limit"
    for share in SHARES:
        found, said, _ = run_step(step, folder, int(share * needed))
        if found is not None:
            assert found == whole, "it is another result"
        assert found is not None or share < 1, said
        assert found is not None or says_how_much(said), said
        yield round(share * needed / 1e6), said or "the same"


def run_training(folder, place, extra=0, late=False):
    """Train by the patches in a folder; what the training leaves is in the folder ``place``.

    extra, late: as of start; late is whether the limit is set when there is a checkpoint
    Returns (the model's weights or None, sentence, bytes it took or None, log). Raises
    AssertionError where it fails in a way in which it must not, or leaves what is not whole.
    """
    place.mkdir(exist_ok=True)
    models, log, peak = place / "log" / "model", place / "step.log", place / "peak"
    arguments = arguments_of("train_model", folder)
    arguments |= {"checkpoint": f"{models}/model_best.ckpt", "log_dir": f"{place}/log"}
    status, said = start(
        "train_model", arguments, log, peak, extra, models / "last.ckpt" if late else ""
    )
    aside = [path.name for path in place.rglob("*") if path.name.startswith(".")]
    assert not aside, f"left: {', '.join(aside)}"
    for path in models.glob("*.ckpt"):
        read_checkpoint(path)
    logged = log.read_text()
    if status == 0:
        return read_checkpoint(models / "model_best.ckpt")[0], "", int(peak.read_text()), logged
    assert not (models / "model_best.ckpt").exists(), "a failed training left a model"
    return None, said, None, logged


def squeeze_training(folder):
    """As squeeze, for a training, which is given again without a limit where it failed."""
    whole, _, needed, _ = run_training(folder, folder / "undisturbed")
    yield round(needed / 1e6), "without a limit"
    limits = [(False, int(share * needed)) for share in SHARES]
    limits += [(True, extra) for extra in LATE_BYTES]
    for late, extra in limits:
        place = folder / f"{'late' if late else 'early'}_{extra}"
        found, said, _, _ = run_training(folder, place, extra, late)
        if found is None:
            assert late or extra < needed, said
            assert says_how_much(said), said
            goes_on = (place / "log" / "model" / "last.ckpt").exists()
            found, _, _, logged = run_training(folder, place)
            assert goes_on == any(each in logged for each in GOES_ON), "what was done is lost"
        else:
            goes_on = False
        assert same_weights(found, whole), "it is another model"
        when = "late, more: " if late else ""
        then = "; then it went on, to the same model" if goes_on else "; then the same model"
        yield round(extra / 1e6), f"{when}{said + then if said else 'the same'}"


def same_weights(ours, theirs):
    """Whether two models have the same weights to the bit."""
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name]) for name in ours
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=STEPS, help="one step")
    options = parser.parse_args()
    finds = limits = refused = 0
    chosen = [options.only] if options.only else list(STEPS)
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for step in chosen:
            tried = squeeze_training(Path(folder)) if step == "train_model" else None
            try:
                for megabytes, said in tried or squeeze(step, Path(folder)):
                    print(f"{step:22} {megabytes:5} MB  {said}", flush=True)
                    limits += said != "without a limit"
                    refused += "out of memory" in said
            except AssertionError as error:
                finds += 1
                print(f"{step:22} FOUND {error}", flush=True)
    print(f"{len(chosen)} steps, {limits} limits, refused at {refused} of them; {finds} finds")
    sys.exit(bool(finds))


if __name__ == "__main__":
    main()

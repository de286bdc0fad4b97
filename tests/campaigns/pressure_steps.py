"""Run each step that reads whole tomograms within just enough memory, and within too little.

    PYTHONPATH=tests:scripts python tests/campaigns/pressure_steps.py

Scoring chooses its tiles by what there is (see pressure.py); the other steps need what they need.
Of a tomogram of 200 x 300 x 300 voxels each is done without a limit first, which tells how many
addresses it takes. Then address space is limited (ulimit -v) to a little more than that, where the
same bytes must come out, and to less: there the same bytes come out, or one sentence says how much
memory is needed, nothing is half-written, and the job may be tried again.
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

from conftest import REPOSITORY
from cryoseg.failures import Failure, explain, names_input_error
from cryoseg.scores import PROBABILITY_STEPS, ScoresWriter
from cryoseg.volumes import write_mrc
from measure_distances import measure_distances

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
}
# Of what a step takes without a limit.
SHARES = (1.2, 0.95, 0.7, 0.4, 0.1)

ONE_STEP = """
import importlib, json, resource, sys
import psutil
from cryoseg.joblog import log_to
name, arguments, extra, log, peak = sys.argv[1:]
step = getattr(importlib.import_module(name), name)
with log_to(log):
    used = psutil.Process().memory_info().vms
    if int(extra):
        resource.setrlimit(resource.RLIMIT_AS, (used + int(extra), resource.RLIM_INFINITY))
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


def run_step(step, folder, extra=0):
    """Do a step in a folder within so many bytes more than the libraries take, 0 for no limit.

    Returns (its outputs' bytes or None, what the end of a run would say of it, bytes it took or
    None). Raises AssertionError where it fails in a way in which it must not.
    """
    inputs, outputs, settings = STEPS[step]
    arguments = {
        name: [str(folder / each) for each in file] if name == "companions" else f"{folder}/{file}"
        for name, file in (inputs | outputs).items()
    } | {"settings": settings}
    if step.startswith("label_voxels"):
        arguments["scored"] = {"data": DATA}
    results = [folder / name for name in outputs.values()]
    log, peak = folder / "step.log", folder / "peak"
    for old in (*results, log, peak):
        old.unlink(missing_ok=True)
    before = set(folder.iterdir())
    paths = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]
    few = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    given = [step.split(",")[0], json.dumps(arguments), str(extra), log, peak]
    done = subprocess.run(
        [sys.executable, "-c", ONE_STEP, *given],
        env=os.environ | {"PYTHONPATH": ":".join(paths)} | few,
        capture_output=True,
        text=True,
    )
    if done.returncode == 0:
        return [path.read_bytes() for path in results], "", int(peak.read_text())
    assert not set(folder.iterdir()) - before - {log}, "something is left"
    kind, said = explain(Failure(step, None, str(log)))
    assert kind == "out of memory", (done.returncode, kind, said, log.read_text()[-3000:])
    assert not names_input_error(log), "it would not be tried again"
    return None, said, None


def squeeze(step, folder):
    """Yield (MB, sentence) of a step within more and less memory; AssertionError where it errs."""
    whole, _, needed = run_step(step, folder)
    yield round(needed / 1e6), "without a limit"
    for share in SHARES:
        found, said, _ = run_step(step, folder, int(share * needed))
        if found is not None:
            assert found == whole, "it is another result"
        assert found is not None or share < 1, said
        assert found is not None or "MB" in said, said
        yield round(share * needed / 1e6), said or "the same"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=STEPS, help="one step")
    options = parser.parse_args()
    finds = 0
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        for step in [options.only] if options.only else STEPS:
            try:
                for megabytes, said in squeeze(step, Path(folder)):
                    print(f"{step:22} {megabytes:5} MB  {said}", flush=True)
            except AssertionError as error:
                finds += 1
                print(f"{step:22} FOUND {error}", flush=True)
    print(f"{finds} finds")
    sys.exit(bool(finds))


if __name__ == "__main__":
    main()

"""Print how long it takes to evaluate labels and to try thresholds and sizes, files included.

Labels of five classes, 200 x 512 x 512, that fill 45 % of the volume and touch everywhere: more
surface than tomograms have. `python tests/benchmarks/evaluation.py [z y x]`; processor seconds
beside those that pass, since other programs may be running.
"""

import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
from scipy.ndimage import gaussian_filter

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY / "scripts")]

from cryoseg.predictions import GZIP_LEVEL  # noqa: E402
from cryoseg.scores import OPEN_CHUNK, PROBABILITY_STEPS, ScoresWriter  # noqa: E402
from cryoseg.volumes import write_mrc  # noqa: E402
from evaluate_labels import evaluate_labels  # noqa: E402
from try_sizes import try_sizes  # noqa: E402
from try_thresholds import try_thresholds  # noqa: E402

CLASSES = 5
# What scores tell of the tomogram and the model that they are of.
ABOUT = {
    "checkpoint_sha256": 64 * "0", "voxel_size": (10.0,) * 3, "origin": (0.0,) * 3,
    "nstart": (0,) * 3, "settings": {}, "versions": {},
}  # fmt: skip


def labels_and_probability(shape, seed):
    """Labels that two seeds have in common in part, and a number for how sure they are."""
    labels, best = np.zeros(shape, np.uint8), np.full(shape, 1.2, np.float32)
    common, own = np.random.default_rng(0), np.random.default_rng(seed)
    for label in range(1, CLASSES + 1):
        noise = common.normal(size=shape).astype(np.float32)
        noise += 0.5 * own.normal(size=shape).astype(np.float32)
        noise = gaussian_filter(noise, 3)
        noise /= noise.std()
        labels[noise > best] = label
        np.maximum(best, noise, out=best)
    return labels, 1 - 0.9 / best


def write_files(folder, shape):
    true, _ = labels_and_probability(shape, 1)
    found, probability = labels_and_probability(shape, 2)
    write_mrc(folder / "true.mrc", true, voxel_size=10.0)
    with h5py.File(folder / "found.h5", "w") as file:
        file.create_dataset(
            "labels", data=found, chunks=OPEN_CHUNK, compression="gzip", compression_opts=GZIP_LEVEL
        )
        file.attrs["voxel_size"] = (10.0, 10.0, 10.0)
    with ScoresWriter(folder / "scores.h5", shape, CLASSES + 1, ABOUT, runners_up=True) as writer:
        stored = np.rint(probability * PROBABILITY_STEPS).astype(np.uint16)
        writer.write([(0, size) for size in shape], {"winner": found, "probability": stored})
    lines = ["label\tthreshold\tchosen"]
    lines += [f"{label}\t0.{label}\tTrue" for label in range(1, CLASSES + 1)]
    (folder / "thresholds.tsv").write_text("\n".join(lines) + "\n")


def main(shape):
    settings = {"tolerance_nm": 2.5, "class_names": None, "stages": ["a"], "particles": None}
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, shape)
        scores, true = folder / "scores.h5", folder / "true.mrc"
        steps = {
            "evaluate_labels": lambda: evaluate_labels(
                folder / "found.h5", true, folder / "a_evaluation.tsv", settings=settings
            ),
            "try_thresholds": lambda: try_thresholds(
                scores, true, folder / "a_thresholds.tsv", settings={"threshold": 0.1}
            ),
            "try_sizes": lambda: try_sizes(
                *(scores, true, folder / "thresholds.tsv", folder / "a_sizes.tsv"),
                settings={"threshold": 0.1, "postprocessing_sizes": None},
            ),
        }
        print("| step | seconds | of a processor |\n|---|---|---|")
        for step, run in steps.items():
            started, used = time.perf_counter(), time.process_time()
            run()
            passed, used = time.perf_counter() - started, time.process_time() - used
            print(f"| {step} | {passed:.1f} | {used:.1f} |")


if __name__ == "__main__":
    main(tuple(int(edge) for edge in sys.argv[1:4]) or (200, 512, 512))

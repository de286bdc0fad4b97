"""How fast scores become labels, next to general tools doing what CryoSiam's post-processing does.

    python tests/benchmarks/postprocessing.py [--shape 200 512 512] [--repeats 3]

The reference is SciPy and scikit-image: for a lamella a Gaussian of (10, 5, 5) voxels over the
probability, the threshold, the largest component, then the hull of each slice or of the volume
reduced by four; for classes, the components of each class with its own size. It has its input in
memory; ours is timed so too ("function") and as the whole of label_voxels, files included
("script"). Each run is a process of its own, in turn with the others; seconds are medians.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "scripts"))

CASES = ("lamella, by slice", "lamella, in 3D", "sizes of components")
WAYS = ("function", "script", "reference")
THRESHOLD = 0.9
SIZES = [-1, 5000, 200, 50, 100]
SIGMA = (10, 5, 5)


def main():
    options = parse_arguments()
    if options.way == "write":
        write_scores(Path(options.folder), tuple(options.shape))
        return
    if options.case is not None:
        print(json.dumps(measure(CASES[options.case], options.way, Path(options.folder))))
        return
    print("                      function          script       reference   times faster")
    print("step                   s     GB        s     GB        s     GB  function script")
    with tempfile.TemporaryDirectory() as folder:
        shape = [str(size) for size in options.shape]
        in_a_process("--way", "write", "--folder", folder, "--shape", *shape)
        for number, case in enumerate(CASES):
            runs = {way: [] for way in WAYS}
            for _ in range(options.repeats):
                for way in WAYS:
                    run = in_a_process("--case", str(number), "--way", way, "--folder", folder)
                    runs[way].append(json.loads(run))
            print_row(case, runs)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512))
    parser.add_argument("--repeats", type=int, default=3)
    for hidden in ("--way", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def print_row(case, runs):
    seconds = {way: statistics.median(run["seconds"] for run in runs[way]) for way in WAYS}
    memory = {way: max(run["gigabytes"] for run in runs[way]) for way in WAYS}
    numbers = "  ".join(f"{seconds[way]:6.2f} {memory[way]:6.2f}" for way in WAYS)
    ratios = "  ".join(f"{seconds['reference'] / seconds[way]:6.1f}" for way in WAYS[:2])
    print(f"{case:19} {numbers}  {ratios}", flush=True)


def in_a_process(*arguments):
    """Run this file with these arguments; returns what it prints."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def measure(case, way, folder):
    """Seconds of one run, and the peak memory of its process in GB."""
    task = {"function": functions, "script": script, "reference": references}[way](case, folder)
    start = time.monotonic()
    task()
    seconds = time.monotonic() - start
    return {
        "seconds": seconds,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def functions(case, folder):
    from cryoseg.postprocessing import clean_lamella, remove_small, size_per_label

    if case == CASES[2]:
        labels = read_labels(folder)
        return lambda: remove_small(labels, size_per_label(SIZES, len(SIZES)))
    mask = read_probability(folder) >= np.float32(THRESHOLD)
    return lambda: clean_lamella("benchmark", mask, hull_in_3d=case == CASES[1])


def script(case, folder):
    from label_voxels import label_voxels

    settings = {
        "threshold": None,
        "postprocessing": case != CASES[2],
        "3d_postprocessing": case == CASES[1],
        "postprocessing_sizes": SIZES if case == CASES[2] else None,
        "save_internal_files": False,
    }
    scores = folder / ("classes.h5" if case == CASES[2] else "lamella.h5")
    files = scores, folder / "tomogram.mrc", folder / "benchmark_preds.h5"
    return lambda: label_voxels(*files, settings=settings, scored={"data": {}})


def references(case, folder):
    from scipy import ndimage
    from skimage.measure import label
    from skimage.morphology import convex_hull_image
    from skimage.transform import pyramid_expand, pyramid_reduce

    def largest_component(probability):
        components = label(ndimage.gaussian_filter(probability, SIGMA) >= THRESHOLD)
        sizes = np.bincount(components.ravel())
        sizes[0] = 0
        return components == sizes.argmax()

    def by_slice():
        return np.stack([convex_hull_image(s) if s.any() else s for s in largest_component(given)])

    def in_3d():
        hull = convex_hull_image(pyramid_reduce(largest_component(given), downscale=4) > 0.5)
        return pyramid_expand(hull, upscale=4) > 0.5

    def sizes_of_components():
        for number, size in enumerate(SIZES):
            if size > 0:
                components = label(given == number)
                small = np.bincount(components.ravel()) <= size
                given[(given == number) & small[components]] = 0

    given = read_labels(folder) if case == CASES[2] else read_probability(folder)
    return dict(zip(CASES, (by_slice, in_3d, sizes_of_components), strict=True))[case]


def read_probability(folder):
    from cryoseg.scores import PROBABILITY_STEPS, open_scores

    with open_scores(folder / "lamella.h5") as scores:
        return scores["probability"][:] * np.float32(1 / PROBABILITY_STEPS)


def read_labels(folder):
    from cryoseg.scores import open_scores

    with open_scores(folder / "classes.h5") as scores:
        return scores["winner"][:]


def write_scores(folder, shape):
    """A tilted lamella with a soft, noisy rim and noise, and classes of many small pieces."""
    from scipy import ndimage

    from cryoseg.scores import PROBABILITY_STEPS, ScoresWriter
    from cryoseg.volumes import write_mrc

    rng = np.random.default_rng(0)
    z, y, x = (np.arange(size, dtype=np.float32) - size / 2 for size in shape)
    depth = shape[0] / 5 - np.abs(z[:, None, None] - 0.1 * x - 0.05 * y[:, None])
    noise = rng.standard_normal(shape, np.float32)
    likely = 1 / (1 + np.exp(-depth / 2 - noise - 2))
    # Pieces of a smooth random field, about 1100 per million voxels, split among four classes.
    field = ndimage.gaussian_filter(noise, 2)
    region = rng.integers(1, len(SIZES), [-(-size // 8) for size in shape], np.uint8)
    for axis in range(3):
        region = region.repeat(8, axis)
    region = region[tuple(slice(size) for size in shape)]
    winner = np.where(field > np.quantile(field[::4, ::4, ::4], 0.96), region, 0).astype(np.uint8)
    values = {"lamella": {"probability": np.rint(likely * PROBABILITY_STEPS).astype(np.uint16)}}
    certain = np.full(shape, PROBABILITY_STEPS, np.uint16)
    values["classes"] = {"probability": certain, "winner": winner}
    attributes = {"voxel_size": (10.0,) * 3, "origin": (0.0,) * 3, "nstart": (0,) * 3}
    attributes |= {"checkpoint_sha256": "", "settings": {"data": {}}, "versions": {}}
    for name, channels in (("lamella", 1), ("classes", len(SIZES))):
        with ScoresWriter(folder / f"{name}.h5", shape, channels, attributes) as writer:
            writer.write([(0, size) for size in shape], values[name])
    write_mrc(folder / "tomogram.mrc", np.zeros(shape, np.int8))


if __name__ == "__main__":
    main()

"""How fast a tomogram becomes patches, and what they take on disk, next to CryoSiam's way.

    python tests/benchmarks/preparation.py [--shape 200 512 512] [--patch 128] [--repeats 3]

Ours is measure_distances and cut_patches, files included. The reference does what CryoSiam does:
distances of every class with edt, all in one array of float64, stored in a compressed npz; then
each patch in three files, image and labels as MRC of float32, distances as compressed npz. Each
run is a process of its own, in turn with the others; seconds are medians. At last, patches of
both are read in random order, image, labels and distances.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import product
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.append(str(REPOSITORY / "scripts"))

CLASSES = 7
OVERLAP = 0.5
STEPS = ("distances", "patches", "reading")
WAYS = ("ours", "reference")
# Radius and number (per 50 million voxels) of the balls of each class from 2 on.
BALLS = {2: (12, 150), 3: (8, 150), 4: (6, 200), 5: (4, 300), 6: (3, 300)}
PATCHES_READ = 50


def main():
    options = parse_arguments()
    if options.way == "simulate":
        simulate(Path(options.folder), tuple(options.shape))
        return
    if options.way is not None:
        print(json.dumps(measure(options.step, options.way, Path(options.folder), options.patch)))
        return
    runs = {}
    with tempfile.TemporaryDirectory() as folder:
        common = ("--folder", folder, "--patch", str(options.patch))
        shape = [str(size) for size in options.shape]
        in_a_process("--way", "simulate", "--folder", folder, "--shape", *shape)
        for _ in range(options.repeats):
            for way, step in product(WAYS, STEPS):
                run = json.loads(in_a_process("--way", way, "--step", step, *common))
                runs.setdefault((way, step), []).append(run)
    print_table(runs)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", type=int, nargs=3, default=(200, 512, 512))
    parser.add_argument("--patch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    for hidden in ("--way", "--step", "--folder"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


def in_a_process(*arguments):
    """Run this file with these arguments; returns what it prints."""
    command = [sys.executable, __file__, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout


def print_table(runs):
    print("                       ours                 reference        ratio of")
    print("step            s    GB      MB         s    GB      MB    seconds  bytes")
    total = {way: [0.0, 0.0] for way in WAYS}
    for step in STEPS:
        row = {}
        for way in WAYS:
            found = runs[way, step]
            row[way] = [
                statistics.median(run["seconds"] for run in found),
                max(run["gigabytes"] for run in found),
                found[0]["megabytes"],
            ]
            if step != "reading":
                total[way] = [total[way][0] + row[way][0], total[way][1] + row[way][2]]
        print_row(step, row["ours"], row["reference"])
    print_row("both", *([total[way][0], None, total[way][1]] for way in WAYS))


def print_row(step, ours, reference):
    def numbers(seconds, gigabytes, megabytes):
        memory = "      " if gigabytes is None else f"{gigabytes:6.2f}"
        return f"{seconds:7.2f}{memory}{megabytes:8.0f}"

    bytes_ratio = f"{reference[2] / ours[2]:7.1f}" if ours[2] else ""
    ratios = f"{reference[0] / ours[0]:9.1f}{bytes_ratio}"
    print(f"{step:10}{numbers(*ours)}   {numbers(*reference)}  {ratios}", flush=True)


def simulate(folder, shape):
    """Write a noisy tomogram with two membranes and balls of several sizes, and its labels."""
    import mrcfile

    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.int8)
    z, y = np.ogrid[: shape[0], : shape[1]]
    height = np.abs(z - shape[0] / 2 - 10 * np.sin(y / 60))[..., None]
    labels[np.broadcast_to(np.abs(height - 0.31 * shape[0]) < 2, shape)] = 1
    for label, (radius, number) in BALLS.items():
        ball = (np.mgrid[[slice(-radius, radius + 1)] * 3] ** 2).sum(0) <= radius**2
        for _ in range(round(number * labels.size / 5e7)):
            low = [rng.integers(0, size - len(ball)) for size in shape]
            labels[tuple(slice(at, at + len(ball)) for at in low)][ball] = label
    image = rng.normal(0.5, 0.1, shape).astype(np.float32) + 0.1 * (labels > 0)
    for name, data in (("tomogram", np.clip(image, 0, 1, dtype=np.float32)), ("labels", labels)):
        with mrcfile.new(folder / f"{name}.mrc") as mrc:
            mrc.set_data(data)
            mrc.voxel_size = 10


def measure(step, way, folder, patch):
    """Seconds of one step, the peak memory of its process in GB, what it wrote in MB."""
    output = folder / way / step
    output.mkdir(parents=True, exist_ok=True)
    task = globals()[f"{way}_{step}"](folder, output, patch)
    start = time.monotonic()
    task()
    seconds = time.monotonic() - start
    written = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    return {
        "seconds": seconds,
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "megabytes": written / 1e6,
    }


def ours_distances(folder, output, patch):
    from measure_distances import measure_distances

    files = folder / "labels.mrc", output / "t_distances.h5"
    return lambda: measure_distances(*files, settings={"out_channels": CLASSES})


def ours_patches(folder, output, patch):
    from cut_patches import cut_patches

    settings = {
        "patch_size": [patch] * 3,
        "patch_overlap": OVERLAP,
        "remove_only_background": False,
        "min": 0,
        "max": 1,
        "out_channels": CLASSES,
    }
    distances = folder / "ours" / "distances" / "t_distances.h5"
    files = folder / "tomogram.mrc", folder / "labels.mrc", distances, output / "t_patches.h5"
    return lambda: cut_patches(*files, settings=settings)


def ours_reading(folder, output, patch):
    from cryoseg.patches import PatchFile

    patches = PatchFile(folder / "ours" / "patches" / "t_patches.h5")
    chosen = np.random.default_rng(0).integers(len(patches), size=PATCHES_READ)

    def read():
        for number in chosen:
            patches.image(number), patches.labels(number), patches.distances(number)

    return read


def reference_distances(folder, output, patch):
    import edt
    import mrcfile

    def task():
        labels = mrcfile.read(folder / "labels.mrc")
        distances = np.zeros((CLASSES, *labels.shape))
        for label in range(CLASSES):
            mask = labels == label
            distances[label] = edt.edt(mask, black_border=True)
            distances[label] -= edt.edt(~mask, black_border=True)
        np.savez_compressed(output / "t.npz", data=distances.astype(np.float32))

    return task


def reference_patches(folder, output, patch):
    import mrcfile

    def task():
        volumes = {
            "image": mrcfile.read(folder / "tomogram.mrc"),
            "labels": mrcfile.read(folder / "labels.mrc").astype(np.float32),
        }
        with np.load(folder / "reference" / "distances" / "t.npz") as file:
            distances = file["data"]
        for name in (*volumes, "distances"):
            (output / name).mkdir(exist_ok=True)
        step = round(patch * (1 - OVERLAP))
        starts = [range(0, size - patch + 1, step) for size in distances.shape[1:]]
        for corner in product(*starts):
            box = tuple(slice(start, start + patch) for start in corner)
            file = "t_z{}_y{}_x{}".format(*corner)
            for name, volume in volumes.items():
                mrcfile.write(output / name / f"{file}.mrc", volume[box], overwrite=True)
            np.savez_compressed(output / "distances" / file, data=distances[(..., *box)])

    return task


def reference_reading(folder, output, patch):
    import mrcfile

    patches = folder / "reference" / "patches"
    files = sorted(file.stem for file in (patches / "image").iterdir())
    chosen = np.random.default_rng(0).integers(len(files), size=PATCHES_READ)

    def read():
        for number in chosen:
            for name in ("image", "labels"):
                mrcfile.read(patches / name / f"{files[number]}.mrc")
            with np.load(patches / "distances" / f"{files[number]}.npz") as file:
                file["data"]

    return read


if __name__ == "__main__":
    main()

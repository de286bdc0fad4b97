"""How near `snakemake plan` comes to what a run then takes.

    python tests/benchmarks/plan.py [FOLDER] [--tomograms 3] [--shape 64 160 160]

Tomograms are simulated, then scaled, and predicted in two stages, by the models of tests/data, or
those of CryoSiam's outputs where CRYOSEG_COMPAT names them (see tests/test_parity.py). Planned are
the whole run after a calibration, and what is left of it after its first tomogram.
"""

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
STAGES = ("lamella", "semantic")


def main():
    options = parse_arguments()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="plan-"))
    prepare(folder, options)
    snakemake(folder, "simulate")
    snakemake(folder, "calibrate")
    print(compare(folder, "after a calibration", ["predictions/semantic/trial_1_preds.h5"]))
    print(compare(folder, "after the first tomogram", ["all"]))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="to work in; a new one without")
    parser.add_argument("--tomograms", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 160, 160])
    return parser.parse_args()


def prepare(folder, options):
    """Write the configuration, and copy the models."""
    compat = os.environ.get("CRYOSEG_COMPAT")
    models = Path(compat, "ckpt") if compat else REPOSITORY / "tests" / "data"
    ending = "_model_best.ckpt" if compat else ".ckpt"
    folder.mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        shutil.copyfile(models / f"{stage}{ending}", folder / f"{stage}.ckpt")
        write(
            folder / f"{stage}.yaml",
            {
                "data_folder": "scaled",
                "mask_folder": "predictions/lamella" if stage == "semantic" else None,
                "prediction_folder": f"predictions/{stage}",
                "trained_model": f"{stage}.ckpt",
                "parameters": {
                    "data": {"min": 0, "max": 1},
                    "network": {"in_channels": 1, "spatial_dims": 3, "threshold": 0.3},
                },
                "hyper_parameters": {"batch_size": 2},
            },
        )
    trial = {"output_path": "raw", "number": options.tomograms, "shape": options.shape}
    trial["thickness_nm"] = options.shape[0] / 2  # half the depth, at 10 A a voxel
    scaled = {"input_path": "raw", "output_path": "scaled", "invert": True}
    stages = {stage: f"{stage}.yaml" for stage in STAGES}
    config = {"simulate": {"trial": trial}, "scale": {"raw": scaled}, "predict": stages}
    write(folder / "config" / "config.yaml", config)


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(content))


def compare(folder, when, targets):
    """A line: what was planned for what is missing, and what making ``targets`` then took.

    Only the steps of what ``targets`` need are counted, each for as many jobs as ran.
    """
    snakemake(folder, "plan")
    planned = {row["step"]: row for row in read_table(folder / "plan.tsv")}
    before = set(benchmarks(folder))
    started = time.monotonic()
    snakemake(folder, *targets)
    wall = time.monotonic() - started
    seconds, expected, lines = 0.0, 0.0, []
    taken = {}
    for path in set(benchmarks(folder)) - before:
        step = "_".join(path.relative_to(folder / "benchmarks").parts[:2]).removesuffix(".tsv")
        taken.setdefault(step, []).append(float(read_table(path)[-1]["s"]))
    for step, each in sorted(taken.items()):
        row = planned[step]
        guess = len(each) * float(row["job_seconds"]) / int(row["jobs"])
        seconds, expected = seconds + sum(each), expected + guess
        lines.append(line(f"{step}, {len(each)}", guess, sum(each)))
    lines.append(line(f"together; wall {wall:.0f} s", expected, seconds))
    return "\n".join([f"{when}: planned, measured, ratio", *lines])


def line(what, planned, measured):
    return f"  {what:28} {planned:8.1f} s {measured:8.1f} s {planned / measured:6.2f}"


def benchmarks(folder):
    """Tables of what the jobs of a run took."""
    return [path for path in (folder / "benchmarks").rglob("*.tsv") if path.stem != "calibrate"]


def read_table(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def snakemake(folder, *targets):
    """Run it as people do; what it prints is shown where it fails."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--profile", str(REPOSITORY / "profiles" / "local"), "--directory", str(folder)]
    done = subprocess.run([*command, "--", *targets], capture_output=True, text=True, cwd=folder)
    if done.returncode:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()

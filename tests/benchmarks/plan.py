"""How near `snakemake plan` comes to what a run then takes.

    python tests/benchmarks/plan.py [FOLDER] [--tomograms 3] [--shape 64 160 160]
    python tests/benchmarks/plan.py [FOLDER] --demo

Tomograms are simulated, then scaled, and predicted in two stages, by the models of tests/data, or
those of CryoSiam's outputs where CRYOSEG_COMPAT names them (see tests/test_parity.py). Planned are
the whole run after a calibration, and what is left of it after its first tomogram. With --demo it
is the demo of config/demo.yaml, planned as it is, then after a calibration, and run once.

Times are those of a machine that does nothing else: where others work on it, what was measured an
hour before a run tells little about it.
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
WHOLE_RUN = "(together)"


def main():
    options = parse_arguments()
    folder = Path(options.folder or tempfile.mkdtemp(prefix="plan-"))
    folder.mkdir(parents=True, exist_ok=True)
    if options.demo:
        compare_demo(folder, options.cores)
        return
    prepare(folder, options)
    run = Run(folder, options.cores)
    run.snakemake("simulate")
    run.snakemake("calibrate")
    # Its first tomogram alone tells of part of the plan: of each step, by its jobs.
    planned = run.plan()
    print(
        compare("after a calibration", planned, run.taken("predictions/semantic/trial_1_preds.h5"))
    )
    planned = run.plan()
    print(compare("after the first tomogram", planned, run.taken("all"), "all"))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", help="to work in; a new one without")
    parser.add_argument("--demo", action="store_true", help="compare the plan of the demo")
    parser.add_argument("--tomograms", type=int, default=3)
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 160, 160])
    parser.add_argument("--cores", default="all", help="as of snakemake")
    return parser.parse_args()


def prepare(folder, options):
    """Write the configuration, and copy the models."""
    compat = os.environ.get("CRYOSEG_COMPAT")
    models = Path(compat, "ckpt") if compat else REPOSITORY / "tests" / "data"
    ending = "_model_best.ckpt" if compat else ".ckpt"
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


def compare_demo(folder, cores):
    """Print how near two plans of the demo come: one from nothing, and one after a calibration."""
    shutil.copytree(REPOSITORY / "config", folder / "config", dirs_exist_ok=True)
    run = Run(folder, cores, "--configfile", "config/demo.yaml")
    plans = {"from nothing": run.plan()}
    run.snakemake("calibrate")
    plans["after a calibration"] = run.plan()
    taken = run.taken("demo")
    for when, planned in plans.items():
        print(compare(f"demo, {when}", planned, taken, "overview"))


class Run:
    """Snakemake in a folder, as people run it."""

    def __init__(self, folder, cores, *options):
        self.folder, self.options = folder, ("--cores", cores, *options)

    def snakemake(self, *targets):
        """Run it; what it prints is shown where it fails."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
        command += ["--profile", str(REPOSITORY / "profiles" / "local")]
        command += ["--directory", str(self.folder), *self.options, "--", *targets]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        if done.returncode:
            sys.exit(done.stderr)

    def plan(self):
        """Rows of the plan of what is missing; those of the whole run are a list by themselves."""
        self.snakemake("plan")
        rows = read_table(self.folder / "plan.tsv")
        return {(row["step"], row["target"]) if row["step"] == WHOLE_RUN else row["step"]: row
                for row in rows}  # fmt: skip

    def taken(self, *targets):
        """(seconds until targets are made, {step: seconds of each of its jobs})."""
        before = set(self._benchmarks())
        started = time.monotonic()
        self.snakemake(*targets)
        wall, taken = time.monotonic() - started, {}
        for path in set(self._benchmarks()) - before:
            parts = path.relative_to(self.folder / "benchmarks").parts
            step = "_".join(parts[:2]).removesuffix(".tsv")
            if len(parts) == 1:
                step = path.stem
            taken.setdefault(step, []).append(float(read_table(path)[-1]["s"]))
        return wall, taken

    def _benchmarks(self):
        return (self.folder / "benchmarks").rglob("*.tsv")


def compare(when, planned, found, target=None):
    """Lines: what was planned of each step and what its jobs then took, and their ratio.

    target: of the plan that the run did to its end; without, only jobs are summed up
    """
    wall, taken = found
    seconds, expected, lines = 0.0, 0.0, []
    for step, each in sorted(taken.items()):
        row = planned[step]
        guess = len(each) * float(row["job_seconds"]) / int(row["jobs"])
        seconds, expected = seconds + sum(each), expected + guess
        lines.append(line(f"{step}, {len(each)}", guess, sum(each)))
    lines.append(line("jobs together", expected, seconds))
    if target:
        whole = float(planned[WHOLE_RUN, target]["wall_seconds_1"])
        lines.append(line("wall, the whole run", whole, wall))
    return "\n".join([f"{when}: planned, measured, ratio", *lines])


def line(what, planned, measured):
    return f"  {what:36} {planned:8.1f} s {measured:8.1f} s {planned / measured:6.2f}"


def read_table(path):
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


if __name__ == "__main__":
    main()

"""Snakemake does what must be done, all of it and no more; it is run as people run it."""

import contextlib
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import h5py
import mrcfile
import numpy as np
import psutil
import pytest
import yaml

from conftest import REPOSITORY
from cryoseg.provenance import read_record, record_path
from cryoseg.run_owners import one_at_a_time
from cryoseg.shared_folders import NOTES
from test_checkpoints import NO_MODEL, hostile
from tracebacks import printed, tracebacks

SHAPE = (24, 32, 40)
ODD = "-o 'd\"d é [1] {1} $(touch pwned) *\n%s.mrc_13.28Apx"
NAMES = ("TS_1", "TS_10", ODD)
RAW = "raw data [é]"
STAGES = ("lamella", "semantic")


def stage_file(name, **changes):
    """A CryoSiam configuration; changes are dotted keys, with __ for the dots."""
    stage = {
        "data_folder": "scaled",
        "mask_folder": "predictions/lamella" if name == "semantic" else None,
        "prediction_folder": f"predictions/{name}",
        "trained_model": f"{name}.ckpt",
        "save_original_file_extension": name == "semantic",
        "parameters": {
            "data": {"patch_size": [32, 32, 32], "min": 0, "max": 1},
            "network": {"in_channels": 1, "threshold": 0.2, "postprocessing": False},
        },
        "hyper_parameters": {"batch_size": 2, "device": "cpu", "precision": "fp32"},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        block = stage
        for part in path:
            block = block[part]
        block[last] = value
    return stage


class Lab:
    """A folder in which snakemake is run."""

    def __init__(self, folder):
        self.folder = folder
        (folder / "config").mkdir(parents=True, exist_ok=True)

    def write_config(self, **entries):
        self.write_yaml("config/config.yaml", entries)

    def write_stage(self, name, **changes):
        self.write_yaml(f"config/{name}.yaml", stage_file(name, **changes))

    def write_yaml(self, name, content):
        (self.folder / name).write_text(yaml.safe_dump(content, sort_keys=False))

    def write_tomogram(self, name, seed=0):
        grey = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
        grey[6:18] += 2
        (self.folder / RAW).mkdir(exist_ok=True)
        with mrcfile.new(self.folder / RAW / f"{name}.mrc", overwrite=True) as mrc:
            mrc.set_data(grey)
            mrc.voxel_size = 10

    def command(self, *arguments):
        return [
            *(sys.executable, "-m", "snakemake", "--profile", str(REPOSITORY / "profiles/local")),
            *("--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(self.folder)),
            *arguments,
        ]

    def run(self, *arguments, fails=False, seconds=None):
        """Run snakemake; returns all that it prints, in which no traceback may be.

        fails: whether it is to end with an error; seconds: that it may take at most, or None
        """
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            self.command(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            cwd=self.folder,
            timeout=seconds,
        )
        return printed(done.returncode, done.stdout, fails)

    def plan(self, *arguments):
        """Set of (rule, tomogram or None) that a dry run shows."""
        shown = self.run("-n", *arguments)
        jobs = re.findall(r"^rule (\w+):\n(.*?)^    resources: ", shown, re.DOTALL | re.MULTILINE)
        named = re.compile(r"^    wildcards: tomogram=(.*?)\n(?:    threads|\Z)", re.DOTALL | re.M)
        found = {(rule, (named.findall(job) or [None])[0]) for rule, job in jobs}
        assert ("Nothing to be done" in shown) == (not found)
        return found - {("all", None)}

    def labels(self, stage, name):
        with h5py.File(self.folder / "predictions" / stage / f"{name}_preds.h5") as file:
            return file["labels"][:]


def steps(rules, names):
    """All pairs of the rules and the names."""
    return {(rule, name) for rule in rules for name in names}


PREDICTION_STEPS = ("score_voxels", "label_voxels")
CHECK_STEPS = ["scaled_check_tomogram", "scaled_admit_to_predict"]
ADMISSIONS_APART = [f"scaled_admit_to_predict_{name}" for name in STAGES]
ALL_STEPS = [
    "raw_scale_tomogram",
    *CHECK_STEPS,
    *(f"{a}_{b}" for a in STAGES for b in PREDICTION_STEPS),
]


def fill(lab):
    """Two stages, three tomograms, nothing done yet."""
    scale = {"raw": {"input_path": RAW, "output_path": "scaled", "invert": False}}
    lab.write_config(scale=scale, predict={name: f"config/{name}.yaml" for name in STAGES})
    for name in STAGES:
        shutil.copy(REPOSITORY / "tests" / "data" / f"{name}.ckpt", lab.folder / f"{name}.ckpt")
        lab.write_stage(name)
    for seed, name in enumerate(NAMES):
        lab.write_tomogram(name, seed)
    return lab


@pytest.fixture
def empty(tmp_path):
    return fill(Lab(tmp_path))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, to be looked at, not to be changed."""
    lab = fill(Lab(tmp_path_factory.mktemp("finished")))
    lab.write_stage("semantic", hyper_parameters__tile_size=[8, 16, 16])
    one_each = [f"{stage}_score_voxels=1" for stage in STAGES]
    lab.output = lab.run("--set-threads", *one_each)
    return lab


@pytest.fixture
def lab(finished, tmp_path):
    """A copy of the finished run, to be changed."""
    folder = tmp_path / "lab"
    subprocess.run(["cp", "-a", finished.folder, folder], check=True)
    return Lab(folder)


# A plan


def test_a_plan_for_an_empty_disk_shows_every_step(empty):
    inspect = {("lamella_inspect_model", None), ("semantic_inspect_model", None)}
    assert empty.plan() == steps(ALL_STEPS, NAMES) | inspect


def test_a_plan_asks_for_memory_by_the_size_of_the_tomogram(empty):
    with open(empty.folder / RAW / "TS_1.mrc", "r+b") as file:
        file.write(struct.pack("<3i", 1000, 1000, 500))  # x, y, z of the header
    shown = empty.run("-n", "predictions/lamella/TS_1_preds.h5")
    assert "mem_mb=15000" in shown  # what a large tomogram's tile may take, and 3000
    shown = empty.run("-n", "predictions/lamella/TS_10_preds.h5")
    assert "mem_mb=3046" in shown


def test_all_mistakes_are_listed(empty):
    empty.write_stage("lamella", parameters__network__treshold=1, trained_model="none.ckpt")
    empty.write_stage("semantic", parameters__network__threshold="1e-1", data_folder="scald")
    shown = empty.run("-n", fails=True)
    assert "4 mistakes in the configuration; nothing was started." in shown
    assert "did you mean parameters.network.threshold?" in shown
    assert "write 1.0e-1" in shown
    assert "trained_model none.ckpt does not exist" in shown
    assert "data_folder is scald, which does not exist" in shown


def test_a_line_that_is_no_yaml_is_named(empty):
    (empty.folder / "config" / "config.yaml").write_text("predict:\n\tlamella: x.yaml\n")
    shown = empty.run("-n", fails=True)
    assert "config/config.yaml, line 2" in shown


def test_a_plan_waits_for_no_pipe_where_runs_keep_notes(lab):
    lab.write_stage("lamella", parameters__network__threshold=0.3)
    lab.write_stage("semantic", prediction_folder=str(lab.folder.parent / "shared"))
    made = lab.folder / "predictions" / "lamella" / "TS_1_preds.h5"
    record_path(made).unlink()
    places = [
        *(record_path(made), lab.folder.parent / "shared" / NOTES / "a.json"),
        lab.folder / ".snakemake" / "owners" / "a.json",
    ]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(place)
    shown = lab.run("-n", seconds=60)
    assert f"{places[1]}: it is a pipe or a device, not a file; remove it" in shown
    lab.run("--", str(made.relative_to(lab.folder)), seconds=60)
    assert read_record(made)


PROGRAM = "__use_yte__: true\nscale: \"?__import__('os').system('touch pwned')\"\n"


@pytest.mark.parametrize("options", [[], ["--configfile", "config/config.yaml"]], ids=" ".join)
def test_nothing_in_a_configuration_file_runs(empty, options):
    (empty.folder / "config" / "config.yaml").write_text(PROGRAM)
    shown = empty.run("-n", *options, fails=True)
    assert "config/config.yaml: holds __use_yte__" in shown
    assert not (empty.folder / "pwned").exists()


def test_notes_in_a_database_are_refused_as_ours_are_files(empty):
    shown = empty.run("-n", "--persistence-backend", "db", fails=True)
    assert "--persistence-backend db: cryoseg needs Snakemake's notes in files" in shown


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: 2024-13-01", "line 1, column 4: is not valid YAML: .*month"),
        (b"a: \xe9", "is not UTF-8 text"),
        (3000 * b"[", "nested too deeply"),
    ],
    ids=["month", "latin", "deep"],
)
def test_a_configuration_file_of_the_command_line_is_checked_before_it_is_read(
    empty, content, says
):
    (empty.folder / "other.yaml").write_bytes(content)
    shown = empty.run("-n", "--configfile", "other.yaml", fails=True)
    assert re.search(f"other.yaml[:,] .*{says}", shown)


def test_without_the_workflows_own_profile_a_program_is_still_an_error(empty):
    (empty.folder / "other.yaml").write_text("__use_yte__: true\n")
    shown = empty.run("-n", "--workflow-profile", "none", "--configfile", "other.yaml", fails=True)
    assert "other.yaml: holds __use_yte__" in shown


def test_a_configuration_file_of_the_command_line_stands_alone(empty):
    empty.write_yaml("other.yaml", {"predict": {"only": "config/lamella.yaml"}})
    empty.write_stage("lamella", data_folder=RAW)
    rules = empty.run("--configfile", "other.yaml", "--list-rules")
    assert "only_score_voxels" in rules
    assert "semantic" not in rules


@pytest.mark.parametrize("text", ["{}", "scale:\n", "unknown: 1\n"])
def test_a_configuration_file_without_anything_to_do_does_not_start_the_labs_own(empty, text):
    (empty.folder / "other.yaml").write_text(text)
    shown = empty.run("-n", "--configfile", "other.yaml", fails=True)
    assert "other.yaml: " in shown
    assert "names nothing to do" in shown
    assert "score_voxels" not in shown


def test_a_value_of_the_command_line_does_not_hide_the_configuration(empty):
    shown = empty.run("-n", "--config", "scale={raw: {input_path: x}}", fails=True)
    assert "output_path is missing" in shown  # scale alone, so config.yaml is not read
    shown = empty.run("-n", "--config", "thrshold=1", fails=True)
    assert "1 mistake in the configuration" in shown
    assert "thrshold is not a known key; known are simulate, scale, label, train, predict" in shown


def test_a_target_without_anything_to_make_is_an_error(empty):
    for dry in (["-n"], []):
        shown = empty.run(*dry, "--", "demo", fails=True)
        assert "the configuration names nothing for the target demo" in shown
    assert len(empty.plan()) == 23  # no lock was left behind


@pytest.mark.parametrize("name", ["TS_" + 30 * "0", 25 * "ab", 101 * "x"])
def test_a_name_with_many_repeats_is_a_name(empty, name):
    empty.write_tomogram(name)
    assert steps(ALL_STEPS, [name]) < empty.plan()
    empty.run(f"scaled/{name}.mrc")
    assert (empty.folder / "scaled" / f"{name}.mrc").exists()


def test_keys_without_effect_are_named(empty):
    shown = empty.run("-n")
    assert "config/lamella.yaml: without effect here: parameters.data.patch_size" in shown


@pytest.mark.slow
def test_a_plan_for_5000_tomograms_takes_seconds_not_minutes(tmp_path):
    lab = Lab(tmp_path)
    for name in STAGES:
        (tmp_path / f"{name}.ckpt").write_bytes(b"not looked into by a plan")
        lab.write_stage(name, data_folder="raw")
    lab.write_config(predict={name: f"config/{name}.yaml" for name in STAGES})
    (tmp_path / "raw").mkdir()
    header = struct.pack("<4i", 928, 928, 464, 2) + bytes(1008)
    for number in range(5000):
        (tmp_path / "raw" / f"TS_{number}.mrc").write_bytes(header)
    seconds = []
    for _ in range(2):  # the better of two, since other programs slow this one down
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert re.search(r"^total +30003$", lab.run("-n"), re.MULTILINE)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        seconds.append(used)
        if used < 30:
            break
    # 20 to 27 s on two cores with nothing else to do; beside other programs it takes longer.
    assert min(seconds) < 50


# A finished run


def test_all_tomograms_are_predicted_whatever_their_names(finished):
    for name in NAMES:
        for stage in STAGES:
            labels = finished.labels(stage, name)
            assert labels.shape == SHAPE
            assert labels.dtype == np.uint8
        with mrcfile.open(finished.folder / f"predictions/semantic/{name}_preds.mrc") as mrc:
            assert (mrc.data == labels).all()
            assert mrc.voxel_size.x == 10
        for log in ("raw/scale_tomogram", "lamella/score_voxels", "semantic/label_voxels"):
            assert (finished.folder / "logs" / log / f"{name}.log").exists()
            assert (finished.folder / "benchmarks" / log / f"{name}.tsv").exists()
    assert not list(finished.folder.rglob("pwned"))


def test_the_mask_of_one_stage_limits_the_next(finished):
    for name in NAMES:
        inside = finished.labels("lamella", name)
        assert not finished.labels("semantic", name)[inside == 0].any()


def test_nothing_is_left_half_written(finished):
    assert not [path for path in finished.folder.rglob(".*-*") if path.is_file()]


def test_a_second_run_has_nothing_to_do(finished):
    assert finished.plan() == set()
    assert "Nothing to be done" in finished.run()


# What changed, and only that


def test_a_new_tomogram_runs_alone(lab):
    lab.write_tomogram("TS_2")
    assert lab.plan() == steps(ALL_STEPS, ["TS_2"])


def test_corrected_masks_have_a_stage_of_their_own_beside_new_tomograms(lab):
    corrected = lab.folder / "corrected"
    corrected.mkdir()
    shutil.copy(lab.folder / "predictions/lamella/TS_1_preds.h5", corrected)
    by_hand = {"mask_folder": "corrected", "test_files": ["TS_1.mrc"]}
    by_hand |= {"prediction_folder": "predictions/by_hand"}
    lab.write_yaml("config/by_hand.yaml", stage_file("semantic") | by_hand)
    stages = {name: f"config/{name}.yaml" for name in (*STAGES, "by_hand")}
    config = yaml.safe_load((lab.folder / "config/config.yaml").read_text())
    lab.write_config(**(config | {"predict": stages}))
    lab.write_tomogram("TS_2")
    scored = {each for each in lab.plan() if each[0].endswith("_score_voxels")}
    new = {(f"{stage}_score_voxels", "TS_2") for stage in STAGES}
    assert scored == {*new, ("by_hand_score_voxels", "TS_1")}


def test_a_changed_tomogram_reruns_itself_and_what_depends_on_it(lab):
    lab.write_tomogram("TS_1", seed=7)
    assert lab.plan() == steps(ALL_STEPS, ["TS_1"])


def test_a_tomogram_that_is_left_out_reruns_nothing(lab):
    lab.write_stage("semantic", test_files=["TS_10.mrc"])
    assert lab.plan() == set()


@pytest.mark.parametrize(
    "change",
    [
        {"parameters__network__threshold": 0.3},
        {"parameters__network__postprocessing_sizes": {1: 10}},
        {"parameters__network__postprocessing_sizes": [5, -1, -1, -1]},
    ],
)
def test_a_semantic_threshold_or_size_costs_no_gpu_job(lab, change):
    lab.write_stage("semantic", **change)
    assert lab.plan() == steps(["semantic_label_voxels"], NAMES)


def test_labels_that_were_corrected_by_hand_are_not_replaced(lab):
    path = lab.folder / "predictions/semantic/TS_1_preds.h5"
    with h5py.File(path, "r+") as file:
        file["labels"][0] = 3
    os.utime(path, 2 * (time.time() + 10,))  # some time after the run
    assert lab.plan() == set()
    lab.write_stage("semantic", parameters__network__threshold=0.3)
    shown = lab.run("-n", fails=True)
    assert "changed after cryoseg had made this file: predictions/semantic/TS_1_preds.h5\n" in shown


def test_a_lamella_threshold_reruns_what_reads_the_mask_too(lab):
    lab.write_stage("lamella", parameters__network__threshold=0.3)
    rules = ["lamella_label_voxels", "semantic_score_voxels", "semantic_label_voxels"]
    assert lab.plan() == steps(rules, NAMES)


@pytest.mark.parametrize(
    ("change", "checks"),
    [
        # Demands that differ now: each stage admits for itself, and its admissions stay.
        ({"parameters__data__max": 2}, ["scaled_check_tomogram", *ADMISSIONS_APART]),
        ({"hyper_parameters__precision": "bf16"}, []),
    ],
)
def test_what_changes_the_scores_reruns_the_stage(lab, change, checks):
    lab.write_stage("semantic", **change)
    assert lab.plan() == steps([*checks, "semantic_score_voxels", "semantic_label_voxels"], NAMES)


def test_what_changes_only_the_speed_reruns_nothing(lab):
    lab.write_stage(
        "semantic",
        hyper_parameters__memory_gb=1.5,
        hyper_parameters__tile_size=None,
        hyper_parameters__batch_size=1,
        hyper_parameters__device="auto",
    )
    assert lab.plan() == set()


def test_what_is_written_differently_but_means_the_same_reruns_nothing(lab):
    stage = stage_file("semantic", parameters__data__max=1.0, parameters__data__mean=0)
    stage["parameters"] = dict(reversed(stage["parameters"].items()))
    stage["data_folder"] = f"{lab.folder}/./scaled/"
    stage["test_files"] = None
    stage["log_dir"] = "anywhere"
    lab.write_yaml("config/renamed.yaml", dict(reversed(stage.items())))
    config = yaml.safe_load((lab.folder / "config" / "config.yaml").read_text())
    config["predict"]["semantic"] = "config/renamed.yaml"
    lab.write_config(**dict(reversed(config.items())))
    assert lab.plan() == set()


def test_a_changed_checkpoint_reruns_its_stage_and_what_depends_on_it(lab):
    rules = ("inspect_model", "score_voxels", "label_voxels")
    shutil.copy(lab.folder / "lamella.ckpt", lab.folder / "semantic.ckpt")
    stage = {("semantic_inspect_model", None)} | steps(
        [f"semantic_{rule}" for rule in rules[1:]], NAMES
    )
    assert lab.plan() == stage
    shutil.copy(REPOSITORY / "tests" / "data" / "semantic.ckpt", lab.folder / "lamella.ckpt")
    rest = {("lamella_inspect_model", None)} | steps(
        [f"lamella_{rule}" for rule in rules[1:]], NAMES
    )
    assert lab.plan() == stage | rest


def test_scaling_by_other_percentiles_reruns_everything(lab):
    scale = {"raw": {"input_path": RAW, "output_path": "scaled", "upper_end_percentage": 99}}
    lab.write_config(scale=scale, predict={name: f"config/{name}.yaml" for name in STAGES})
    assert lab.plan() == steps(ALL_STEPS, NAMES)


@pytest.mark.parametrize("ending", [".h5", ".mrc"])
def test_deleting_an_output_brings_it_back(lab, ending):
    (lab.folder / f"predictions/semantic/TS_1_preds{ending}").unlink()
    assert lab.plan() == steps(["semantic_label_voxels"], ["TS_1"])
    before = (lab.folder / "predictions/semantic/TS_10_preds.h5").stat().st_mtime_ns
    lab.run()
    assert (lab.folder / f"predictions/semantic/TS_1_preds{ending}").exists()
    assert (lab.folder / "predictions/semantic/TS_10_preds.h5").stat().st_mtime_ns == before


# What goes wrong


def test_a_bad_tomogram_fails_alone_and_is_named_at_the_end(lab):
    lab.write_tomogram("TS_2")
    path = lab.folder / RAW / "TS_1.mrc"
    path.write_bytes(path.read_bytes()[:-100])
    shown = lab.run(fails=True)
    assert lab.labels("semantic", "TS_2").shape == SHAPE
    _, summary = shown.split("1 job failed:")
    line, log = summary.strip().splitlines()[:2]
    assert line.startswith(f"raw_scale_tomogram TS_1: {RAW}/TS_1.mrc: the file is truncated")
    assert log.strip() == "log: logs/raw/scale_tomogram/TS_1.log"


def test_a_model_that_would_run_code_stops_its_stage_and_runs_nothing(empty):
    canary = empty.folder / "canary"
    hostile("state_dict", empty.folder / "semantic.ckpt", canary)
    shown = empty.run(fails=True)
    _, summary = shown.split("1 job failed:")
    reason = f"semantic_inspect_model: semantic.ckpt: {NO_MODEL['state_dict']}"
    assert summary.strip().startswith(reason)
    assert not canary.exists()
    assert empty.labels("lamella", "TS_1").shape == SHAPE


def test_a_tomogram_that_is_gone_when_its_turn_comes_costs_its_own_job_alone(empty):
    (empty.folder / RAW / f"{ODD}.mrc").unlink()
    for name in ("TS_1", "TS_10"):
        log = empty.folder / f"logs/raw/scale_tomogram/{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("error: of an earlier run\n")
    run = subprocess.Popen(
        empty.command("--cores", "1", "--", "scale"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=empty.folder,
    )
    shown, gone = "", None
    for line in run.stdout:
        shown += line
        if not gone and line.startswith("    input: "):
            gone = "TS_10" if line.endswith("TS_1.mrc\n") else "TS_1"
            (empty.folder / RAW / f"{gone}.mrc").unlink()
    assert run.wait() == 1
    assert [path.stem for path in (empty.folder / "scaled").glob("*.mrc")] != [gone]
    _, summary = shown.split("1 job failed:")
    assert f"raw_scale_tomogram {gone}: {RAW}/{gone}.mrc is gone since the run began" in summary
    assert not tracebacks(shown)
    empty.write_tomogram(gone)
    empty.run("--", "scale")
    assert len([*(empty.folder / "scaled").glob("*.mrc")]) == 2


def test_scores_that_failed_after_a_change_are_computed_in_the_next_run(lab):
    lab.write_stage("semantic", parameters__data__max=3, hyper_parameters__device="cuda:7")
    shown = lab.run(fails=True)
    assert shown.count("device cuda:7 is asked for") >= 1
    assert "Trying to restart" not in shown
    lab.write_stage("semantic", parameters__data__max=3)
    assert steps(["semantic_score_voxels", "semantic_label_voxels"], NAMES) <= lab.plan()


def test_what_jobs_warned_of_stands_at_the_end_of_the_run(lab):
    lab.write_stage("semantic", parameters__network__threshold=1)
    shown = lab.run()
    _, warnings = shown.split(" warnings:")
    assert "TS_1: no voxel gets a label at threshold 1" in warnings


def test_a_number_of_classes_that_is_only_compared_reruns_nothing(lab):
    lab.write_stage("semantic", parameters__network__out_channels=5)
    assert lab.plan() == set()


def test_a_job_that_is_killed_is_tried_once_more_with_smaller_tiles(lab):
    for file in ("TS_1_preds.h5", "scores/TS_1_scores.h5"):
        (lab.folder / "predictions/semantic" / file).unlink()
    with subprocess.Popen(
        lab.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=lab.folder
    ) as run:
        kill_script(run.pid, "score_voxels.py")
        shown, _ = run.communicate()
    assert run.returncode == 0, shown
    assert "Trying to restart job" in shown
    tries = re.findall(r"rule semantic_score_voxels:\n(?: .*\n)*?.*mem_mb=(\d+)", shown)
    assert len(tries) == 2, shown
    assert int(tries[1]) == 2 * int(tries[0])
    scores = lab.folder / "predictions/semantic/scores"
    records = [read_record(scores / f"{name}_scores.h5") for name in ("TS_1", "TS_10")]
    again, once = (record["measured"] for record in records)
    assert again["tile_memory"] * 2 == pytest.approx(once["tile_memory"], rel=1e-6)
    assert lab.labels("semantic", "TS_1").shape == SHAPE
    assert lab.plan() == set()


def kill_script(snakemake, name):
    """Send SIGKILL to the process that runs a script for a snakemake, as soon as there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(snakemake).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if any(part.endswith(name) for part in child.cmdline()):
                    child.kill()
                    return
        time.sleep(0.02)
    raise AssertionError(f"{name} was never started")


def test_a_job_that_asks_for_more_memory_than_there_is_gets_all_there_is(empty):
    huge = ("--set-resources", "raw_scale_tomogram:mem_mb=1000000000")
    shown = empty.run(*huge, "--", "scaled/TS_1.mrc")
    booked = int(re.search(r"^    resources: .*mem_mb=(\d+)", shown, re.M)[1])
    assert booked <= psutil.virtual_memory().total / 1e6


def test_sizes_for_another_number_of_classes_are_refused_before_scoring(empty):
    empty.write_stage("semantic", parameters__network__postprocessing_sizes=[1, 2, 3])
    shown = empty.run("predictions/semantic/scores/TS_1_scores.h5", fails=True)
    assert "semantic.ckpt: postprocessing_sizes has 3 entries; the model has 5 channels" in shown
    assert "rule semantic_score_voxels" not in shown


def test_two_runs_at_once_do_not_disturb_each_other(lab):
    for file in ("TS_1_preds.h5", "scores/TS_1_scores.h5"):  # two jobs of some seconds
        (lab.folder / "predictions/semantic" / file).unlink()
    with subprocess.Popen(
        lab.command(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=lab.folder
    ) as first:
        locks = lab.folder / ".snakemake" / "locks"
        deadline = time.monotonic() + 300
        while not (locks.is_dir() and any(locks.iterdir())):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGSTOP)  # on a busy machine it might be done before the second
        try:
            second = lab.run(fails=True)
        finally:
            first.send_signal(signal.SIGCONT)
        assert "Another snakemake works in this folder" in second
        assert f"It is stopped (Ctrl-Z): let it go on (fg, or kill -CONT {first.pid})" in second
        shown, _ = first.communicate()
    assert first.returncode == 0, shown
    assert lab.labels("semantic", "TS_1").shape == SHAPE
    assert lab.plan() == set()


def test_a_run_does_not_wait_for_ever_for_one_that_is_stopped_as_it_begins(lab):
    with one_at_a_time(lab.folder / ".snakemake" / "owners"):
        shown = lab.run("-F", fails=True, seconds=120)
    assert "has not gone on for 30 s" in shown


def test_a_run_that_is_told_to_end_while_it_chooses_jobs_ends(lab):
    """Snakemake holds a lock then, for which the function that takes the signal waited for ever."""
    with subprocess.Popen(
        lab.command("-F"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        cwd=lab.folder,
    ) as run:  # fmt: skip
        solver, deadline = None, time.monotonic() + 300
        while solver is None:
            assert run.poll() is None, "no solver of the scheduler was ever seen"
            assert time.monotonic() < deadline
            for number in Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split():
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{number}/comm").read_text().strip() == "cbc":
                        os.kill(int(number), signal.SIGSTOP)
                        solver = int(number)
        run.terminate()
        time.sleep(1)  # in which it takes the signal, while the solver does not answer
        os.kill(solver, signal.SIGCONT)
        try:
            shown, _ = run.communicate(timeout=120)
        finally:
            run.kill()
    assert "Will exit after finishing currently running jobs" in shown
    lab.run()
    assert lab.plan() == set()


@pytest.mark.parametrize("how", ["removed", "notes removed", "renamed"])
def test_a_run_whose_working_folder_is_gone_ends_with_a_word(empty, how):
    """Snakemake fails in a thread then, unseen, and would wait for the job of that for ever."""
    notes, there = empty.folder / ".snakemake", empty
    with subprocess.Popen(
        empty.command("--cores", "1", "--", "scale"), stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, cwd=empty.folder,
    ) as run:  # fmt: skip
        line = ""
        while "rule raw_scale_tomogram" not in line:
            line = run.stdout.readline()
            assert line
        if how == "renamed":
            there = Lab(empty.folder.rename(empty.folder.with_name("renamed")))
        for _ in range(3):  # a job may write while it is removed
            shutil.rmtree(empty.folder if how == "removed" else notes, ignore_errors=True)
        try:
            shown, _ = run.communicate(timeout=120)
        finally:
            run.kill()
    assert not tracebacks(shown)
    if how == "removed":
        assert run.returncode == 1
        assert f"{empty.folder}: the working folder is gone since the run began" in shown
    else:  # which the jobs on their way alone read and write there
        assert run.returncode == 0 or f"{notes}: what Snakemake keeps there is gone" in shown
        there.run("scale")
        assert there.plan("scale") == set()


# Simulated tomograms


def test_simulated_tomograms_are_scaled_predicted_and_drawn(tmp_path):
    lab = Lab(tmp_path)
    few = {"membranes": 1, "large_particles": 1, "small_particles": 1, "filaments": 1}
    simulate = few | {"output_path": "demo", "shape": [24, 40, 40], "voxel_size": 24}
    lab.write_config(
        simulate={"trial": simulate | {"thickness_nm": 30}},
        scale={"trial": {"input_path": "demo", "output_path": "scaled", "invert": True}},
        predict={name: f"config/{name}.yaml" for name in STAGES},
    )
    for name in STAGES:
        shutil.copy(REPOSITORY / "tests" / "data" / f"{name}.ckpt", tmp_path / f"{name}.ckpt")
        lab.write_stage(name)
    lab.run("demo")
    picture = tmp_path / "predictions/semantic/pictures/trial_1.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert lab.labels("semantic", "trial_1").shape == (24, 40, 40)
    assert "Nothing to be done" in lab.run("-n")

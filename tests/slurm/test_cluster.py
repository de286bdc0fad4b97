"""The workflow on a real Slurm cluster of three nodes, started and stopped here."""

import csv
import os
import re
import shutil
import subprocess
import sys
import time

import psutil
import pytest

from slurm_cluster import OWNER, ClusterLab, left_by_a_killed_run
from test_workflow import ALL_STEPS, ODD, RAW, STAGES, Lab, fill, steps

BAD = "TS_2"
GOOD = ("TS_1", "TS_10", "TS_3", ODD)


def prepare(lab, names):
    """Two stages that want a GPU, nothing done yet."""
    fill(lab)
    for path in (lab.folder / RAW).iterdir():
        path.unlink()
    for seed, name in enumerate(names):
        lab.write_tomogram(name, seed)
    for stage in STAGES:
        lab.write_stage(stage, hyper_parameters__device="auto")
    return lab


def test_a_cluster_whose_tests_were_killed_is_told_from_one_in_use(tmp_path):
    link, folder = tmp_path / "slurm.conf", tmp_path / "slurm-test"
    link.symlink_to(folder / "etc/slurm.conf")
    assert left_by_a_killed_run(link) is None  # somebody's Slurm, of which nothing is known
    folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as tests:
        started = psutil.Process(tests.pid).create_time()
        (folder / OWNER).write_text(f"{tests.pid} {started!r}")
        assert left_by_a_killed_run(link) is None
        tests.kill()
    assert left_by_a_killed_run(link) == folder
    (folder / OWNER).write_text(f"{os.getpid()} {started - 3600!r}")  # its number is another's now
    assert left_by_a_killed_run(link) == folder
    link.unlink()
    link.write_text("ClusterName=theirs\n")
    assert left_by_a_killed_run(link) is None


@pytest.fixture(scope="module")
def finished(cluster, tmp_path_factory):
    """A run of five tomograms of which one is bad; to be looked at, not to be changed."""
    lab = prepare(ClusterLab(tmp_path_factory.mktemp("cluster"), cluster), sorted((*GOOD, BAD)))
    path = lab.folder / RAW / f"{BAD}.mrc"
    path.write_bytes(path.read_bytes()[:-100])
    started = time.time()
    lab.output = lab.run("all", "checks/scaled.tsv", fails=True)
    lab.jobs = cluster.jobs(started)
    return lab


@pytest.fixture
def lab(finished, tmp_path):
    """A copy of that run, to be changed."""
    folder = tmp_path / "lab"
    subprocess.run(["cp", "-a", finished.folder, folder], check=True)
    (folder / RAW / f"{BAD}.mrc").unlink()
    return ClusterLab(folder, finished.cluster)


def outputs(folder):
    """Contents of all files that a run writes, by their paths; not of records, which have dates."""
    files = [path for part in ("scaled", "predictions") for path in (folder / part).rglob("*.*")]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.is_file() and path.parent.name != "provenance"
    }


# A run


def test_one_bad_tomogram_costs_no_other_one_although_they_share_jobs(finished):
    for name in GOOD:
        for stage in STAGES:
            assert finished.labels(stage, name).any()
    assert {path.name for path in (finished.folder / "scaled").glob("*.mrc")} == {
        f"{name}.mrc" for name in GOOD
    }


def test_what_failed_is_named_with_rule_node_reason_and_log(finished):
    _, summary = finished.output.split("1 job failed:")
    line, log, slurm_log = summary.strip().splitlines()[:3]
    assert re.match(rf"raw_scale_tomogram {BAD} on node\d: {re.escape(RAW)}/{BAD}.mrc: the", line)
    assert "the file is truncated" in line
    assert log.strip() == f"log: logs/raw/scale_tomogram/{BAD}.log"
    assert os.path.exists(slurm_log.partition(": ")[2])
    with open(finished.folder / "logs" / "failures.tsv", newline="") as file:
        (row,) = csv.DictReader(file, delimiter="\t")
    assert (row["rule"], row["tomogram"]) == ("raw_scale_tomogram", BAD)
    assert (row["kind"], row["node"]) == ("input error", re.search(r"node\d", line)[0])


def test_a_step_that_gathers_what_there_is_runs_on_the_cluster_and_says_what_is_not(finished):
    with open(finished.folder / "checks" / "scaled.tsv", newline="") as file:
        found = {row["tomogram"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert found.keys() == {"(folder)", BAD, *GOOD}
    assert found[BAD]["findings"].startswith(f"error: not checked: {RAW}/{BAD}.mrc: the file is")
    assert any(job.rule.endswith("tabulate_checks") for job in finished.jobs)


def test_several_tomograms_share_a_job(finished):
    begun = [job for job in finished.jobs if "scale_tomogram" in job.rule]
    # Five in twos; the bad one is not tried again, since its log says what is wrong with it.
    assert len(begun) == 3
    for stage in STAGES:
        for step in ("score_voxels", "label_voxels"):
            assert len([job for job in finished.jobs if job.rule.endswith(f"{stage}_{step}")]) <= 3


def test_jobs_with_a_gpu_get_one_on_its_partition_and_others_none(finished):
    for job in finished.jobs:
        wants = "score_voxels" in job.rule
        assert (job.partition, job.gpus) == (("gpu", 1) if wants else ("cpu", 0))


def test_jobs_carry_rule_and_tomograms(finished):
    comments = {job.comment for job in finished.jobs}
    assert "rule_raw_cpu_scale_raw_scale_tomogram_wildcards_TS_10..TS_2" in comments
    assert "rule_lamella_cpu_label_lamella_label_voxels_wildcards_TS_3" in comments


def test_outputs_are_those_of_a_local_run_to_the_byte(finished, tmp_path):
    local = prepare(Lab(tmp_path), [])
    shutil.copytree(finished.folder / RAW, tmp_path / RAW, dirs_exist_ok=True)
    (tmp_path / RAW / f"{BAD}.mrc").unlink()
    local.run("--max-threads", "1")
    assert outputs(finished.folder) == outputs(tmp_path)


# What changed, and only that


def test_a_second_run_submits_only_what_failed(finished):
    assert finished.plan() == set(steps(ALL_STEPS, [BAD]))


def test_a_lower_threshold_submits_label_jobs_without_a_gpu_only(lab):
    lab.write_stage("semantic", hyper_parameters__device="auto", parameters__network__threshold=0.1)
    started = time.time()
    lab.run("--group-components", "cpu=4", "gpu=4")
    (job,) = lab.cluster.jobs(started)
    assert job.rule.endswith("semantic_label_voxels")
    assert (job.state, job.partition) == ("COMPLETED", "cpu")
    assert lab.plan() == set()

"""What snakemake makes of Slurm's answers, those of programs that stand in for Slurm's own.

A real cluster is in tests/slurm; it refuses, forgets and preempts nothing when asked to.
"""

import csv
import os
import stat
import subprocess
import sys
import time

import pytest

from conftest import REPOSITORY
from cryoseg.slurm import LostJobs, is_given_up
from test_workflow import NAMES, Lab, fill
from tracebacks import tracebacks

NAME = NAMES[0]
TARGET = f"scaled/{NAME}.mrc"
# What each program prints; a test replaces some of them.
PROGRAMS = {
    "sbatch": "cat > /dev/null; echo 4711",
    "squeue": "echo '4711|RUNNING'",
    "sacctmgr": "echo lab",
    "sshare": "echo lab",
    "scancel": "exit 0",
    "scontrol": 'case "$*" in *config*) echo "MinJobAge = 300 sec";; '
    "*) echo 'JobId=4711 JobState=PREEMPTED NodeList=node7';; esac",
    "sinfo": "exit 0",
}


class AnsweredLab(Lab):
    """A lab whose snakemake submits jobs to programs that only answer."""

    def write_programs(self, **programs):
        self.bin = self.folder / "bin"
        self.bin.mkdir(exist_ok=True)
        for name, script in (PROGRAMS | programs).items():
            path = self.bin / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, *arguments, seconds=120):
        """Run snakemake, which fails; returns all that it prints."""
        command = [
            *(sys.executable, "-m", "snakemake", "--profile", str(REPOSITORY / "profiles/slurm")),
            *("--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(self.folder)),
            *("--slurm-init-seconds-before-status-checks", "1", "--retries", "0"),
            *("--seconds-between-status-checks", "1", *arguments),
        ]
        done = subprocess.run(
            command,
            env=os.environ | {"PATH": f"{self.bin}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            cwd=self.folder,
            timeout=seconds,
        )
        assert done.returncode != 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def plan(self, *arguments):
        return Lab(self.folder).plan(*arguments)

    def failure(self):
        with open(self.folder / "logs" / "failures.tsv", newline="") as file:
            (row,) = csv.DictReader(file, delimiter="\t")
        return row


@pytest.fixture
def lab(tmp_path):
    lab = fill(AnsweredLab(tmp_path))
    lab.write_programs()
    return lab


def test_a_job_that_was_refused_is_not_done_although_its_old_output_is_there(lab):
    Lab.run(lab, "--", TARGET)
    lab.write_tomogram(NAME, seed=7)
    lab.write_programs(sbatch="echo 'sbatch: error: invalid partition' >&2; exit 1")
    text = lab.run("--", TARGET)
    assert "sbatch: error: invalid partition" in text
    assert lab.failure()["tomogram"] == NAME
    assert lab.plan("--", TARGET) == {("raw_scale_tomogram", NAME)}


def test_the_log_of_an_earlier_run_neither_explains_a_job_nor_keeps_it_from_another_try(lab):
    log = lab.folder / f"logs/raw/scale_tomogram/{NAME}.log"
    log.parent.mkdir(parents=True)
    log.write_text("error: what was wrong last week\n")
    lab.write_programs(squeue="echo '4711|FAILED'")
    text = lab.run("--retries", "1", "--", TARGET)
    assert text.count("Trying to restart job") == 1
    assert "last week" not in text
    assert "last week" not in lab.failure()["reason"]


@pytest.mark.parametrize("state", ["FAILED", "COMPLETED"])
def test_a_run_whose_working_folder_is_gone_ends_with_a_word(lab, tmp_path_factory, state):
    lab.write_programs(squeue=f"rm -rf '{lab.folder}'; echo '4711|{state}'")
    lab.bin = lab.bin.rename(tmp_path_factory.mktemp("elsewhere") / "bin")
    text = lab.run("--", TARGET)
    assert f"{lab.folder}: the working folder is gone since the run began" in text
    assert not tracebacks(text)


def test_a_wrong_account_ends_the_run_with_a_word(lab):
    lab.write_programs(sacctmgr="echo physics")
    text = lab.run("--", TARGET)
    assert "account" in text
    assert "lab" in lab.failure()["reason"]


def test_a_refusal_that_passes_costs_no_try(lab):
    lab.write_programs(
        sbatch="cat > /dev/null; [ -e asked ] || { touch asked; echo 'sbatch: error: Batch job "
        "submission failed: Unable to contact slurm controller' >&2; exit 1; }; echo 4711",
        squeue="echo '4711|FAILED'",
    )
    text = lab.run("--", TARGET)
    assert "Slurm takes no job now" in text
    assert "has been submitted with SLURM jobid 4711" in text


def test_a_preempted_job_has_failed(lab):
    lab.write_programs(squeue="echo '4711|PREEMPTED'")
    lab.run("--", TARGET)
    row = lab.failure()
    assert (row["kind"], row["node"]) == ("cancelled", "node7")


def test_jobs_that_slurm_has_forgotten_are_lost_after_a_while():
    lost = LostJobs(patience=60)
    assert lost.among(["1", "2"], ["1"], now=0) == set()
    assert lost.among(["1", "2"], ["1"], now=60) == set()
    assert lost.among(["1", "2"], ["1"], now=61) == {"2"}
    assert lost.among(["1", "2"], ["1", "2"], now=62) == set()
    assert lost.among(["1", "2"], ["1"], now=63) == set()


@pytest.mark.parametrize(
    ("scontrol", "given_up"),
    [
        ("echo JobId=4711 JobState=RUNNING", False),
        ("echo JobId=4711 JobState=NODE_FAIL", True),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("echo 'Unable to contact slurm controller' >&2; exit 1", True),
        ("[ -e {0}/asked ] && echo JobState=RUNNING || {{ touch {0}/asked; exit 1; }}", False),
    ],
)
def test_a_job_goes_on_only_while_slurm_says_that_it_runs(lab, monkeypatch, scontrol, given_up):
    lab.write_programs(scontrol=scontrol.format(lab.folder))
    monkeypatch.setenv("PATH", f"{lab.bin}:{os.environ['PATH']}")
    started = time.monotonic()
    assert is_given_up("4711", patience=1) == given_up
    assert time.monotonic() - started < 10

"""The profiles say where jobs run and what they ask for; nothing is submitted here."""

import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest
import yaml

from conftest import REPOSITORY
from test_workflow import ALL_STEPS, CHECK_STEPS, NAMES, RAW, STAGES, Lab, fill

PROFILE = REPOSITORY / "profiles" / "slurm"


class ProfileLab(Lab):
    """A lab whose snakemake is given a profile by name or path."""

    profile = PROFILE

    def command(self, *arguments):
        return [
            *(sys.executable, "-m", "snakemake", "--profile", str(self.profile)),
            *("--snakefile", str(REPOSITORY / "Snakefile"), "--directory", str(self.folder)),
            *arguments,
        ]

    def resources(self, *arguments):
        """(rule, its resources) of each job of a dry run, in its order."""
        shown = self.run("-n", *arguments)
        jobs = re.findall(r"^ *rule (\w+):\n.*?^ *resources: (.*?)$", shown, re.DOTALL | re.M)
        return [(rule, dict(re.findall(r"(\w+)=([^,]*)", text))) for rule, text in jobs]


@pytest.fixture
def lab(tmp_path):
    lab = fill(ProfileLab(tmp_path))
    for stage in STAGES:
        lab.write_stage(stage, hyper_parameters__device="auto")
    return lab


def edited_profile(folder, **changes):
    """A copy of the Slurm profile with other default resources."""
    profile = yaml.safe_load((PROFILE / "profile.yaml").read_text())
    profile["default-resources"] |= changes
    folder.mkdir()
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile))
    return folder


def test_jobs_with_a_gpu_go_to_one_partition_and_others_to_another(lab, tmp_path):
    lab.write_stage("semantic", hyper_parameters__device="cpu")
    lab.profile = edited_profile(
        tmp_path / "edited", slurm_partition="norm", gpu_partition="a40", gpu_type="a40"
    )
    for rule, asked in lab.resources():
        wants = rule == "lamella_score_voxels"
        assert asked["slurm_partition"] == ("a40" if wants else "norm")
        assert asked.get("gpu_model") == ("a40" if wants else None)
        assert asked["slurm_account"] == "lab"
        assert not asked.keys() & {"gpu_partition", "gpu_type", "cpu_longest", "gpu_longest"}


def test_no_job_asks_for_more_time_than_its_partition_grants(lab, tmp_path):
    lab.profile = edited_profile(tmp_path / "edited", cpu_longest=7, gpu_longest=9)
    found = lab.resources()
    assert {int(asked["runtime"]) for rule, asked in found if rule.endswith("score_voxels")} == {9}
    assert {int(asked["runtime"]) for rule, asked in found if "label" in rule} == {7}


def test_what_is_said_of_one_rule_wins_over_the_profile(lab):
    said = ("--set-resources", "lamella_score_voxels:slurm_partition=big")
    partitions = {rule: asked["slurm_partition"] for rule, asked in lab.resources(*said)}
    assert partitions["lamella_score_voxels"] == "big"
    assert partitions["semantic_score_voxels"] == "gpu"


def test_several_tomograms_share_a_job_and_each_stage_shares_them_out_alike(lab):
    (lab.folder / RAW / f"{NAMES[2]}.mrc").unlink()
    for name in ("TS_2", "TS_3"):
        lab.write_tomogram(name)
    shown = lab.run("-n", "--group-components", "cpu=2", "gpu=2")
    found = {}
    for group in re.split(r"^\[.*\] Group job ", shown, flags=re.M)[1:]:
        rules = set(re.findall(r"^    rule (\w+):", group, re.M))
        assert len(rules) == 1 or rules == set(CHECK_STEPS)
        names = frozenset(re.findall(r"tomogram=(\w+)$", group, re.M))
        for rule in rules:
            found.setdefault(rule, set()).add(names)
    assert found.keys() == set(ALL_STEPS)
    for shared in found.values():
        assert shared == {frozenset({"TS_1", "TS_10"}), frozenset({"TS_2", "TS_3"})}


def test_the_profile_is_found_by_its_name_after_make_profile(lab, tmp_path):
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    for _ in range(2):
        subprocess.run(["make", "profile"], cwd=REPOSITORY, env=environment, check=True)
    assert (tmp_path / "home/snakemake/slurm").resolve() == PROFILE
    lab.profile = "slurm"
    done = subprocess.run(
        lab.command("-n"), cwd=lab.folder, env=environment, capture_output=True, text=True
    )
    assert "slurm_partition=gpu" in done.stdout + done.stderr


def test_a_folder_of_the_users_own_is_not_replaced_by_make_profile(tmp_path):
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path)}
    (tmp_path / "snakemake" / "slurm").mkdir(parents=True)
    done = subprocess.run(
        ["make", "profile"], cwd=REPOSITORY, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "move it away first" in done.stdout


def test_each_line_of_a_profile_has_a_reason():
    for path in (REPOSITORY / "profiles").glob("*/profile.yaml"):
        lines = path.read_text().splitlines()
        for before, line in pairwise(lines):
            if re.match(r"[\w-]+: ?\S", line):
                assert before.startswith("#") or "#" in line, f"{path}: {line}"


def test_a_plan_on_one_machine_knows_no_groups(lab):
    (lab.folder / RAW / f"{NAMES[2]}.mrc").unlink()
    lab.profile = REPOSITORY / "profiles" / "local"
    assert "Group" not in lab.run("-n")

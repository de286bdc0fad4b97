"""The repository keeps its own rules."""

import re
import subprocess
import sys
import tomllib

import pytest
import yaml

from conftest import REPOSITORY

BIN = f"{sys.prefix}/bin"


def pins(requirements):
    return dict(re.fullmatch(r"([\w-]+)==([\w.]+)", text).groups() for text in requirements)


def test_the_environment_file_has_the_pins_of_pyproject():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((REPOSITORY / "envs" / "cryoseg.yaml").read_text())
    (pip,) = (part["pip"] for part in environment["dependencies"] if isinstance(part, dict))
    assert pins(pip) == pins(project["dependencies"])


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["snakefmt", "--check", "Snakefile", "rules"],
        ["snakemake", "--lint", "--configfile", "config/demo.yaml"],
    ],
    ids=" ".join,
)
def test_formatted_and_free_of_lint(command):
    run = subprocess.run(
        [f"{BIN}/{command[0]}", *command[1:]], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_library_knows_no_snakemake():
    for path in (REPOSITORY / "scripts" / "cryoseg").glob("*.py"):
        assert not re.search(r"\bsnakemake\.\w|import snakemake", path.read_text()), path


def test_importing_the_library_costs_nothing():
    code = "import sys, cryoseg; print(len({'torch', 'numpy', 'h5py'} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(REPOSITORY / "scripts")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == "0"

"""The repository keeps its own rules."""

import re
import shutil
import subprocess
import sys
import tomllib
from types import SimpleNamespace

import pytest
import yaml

from conftest import REPOSITORY, pytest_runtest_setup

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


def test_what_only_root_can_try_is_skipped_for_others_and_fails_where_it_is_required(monkeypatch):
    marked = SimpleNamespace(get_closest_marker=lambda name: name == "root")
    for variable in ("CRYOSEG_REQUIRE_ROOT", "CRYOSEG_REQUIRE_SLURM"):
        assert f"{variable}=1" in (REPOSITORY / ".ci" / "run").read_text()
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    with pytest.raises(pytest.skip.Exception, match="only root can be other people"):
        pytest_runtest_setup(marked)
    monkeypatch.setenv("CRYOSEG_REQUIRE_ROOT", "1")
    with pytest.raises(pytest.fail.Exception, match="REQUIRE_ROOT is set, but only root can"):
        pytest_runtest_setup(marked)


def test_the_library_knows_no_snakemake():
    for path in (REPOSITORY / "scripts" / "cryoseg").glob("*.py"):
        assert not re.search(r"\bsnakemake\.\w|import snakemake", path.read_text()), path


def test_each_script_keeps_a_record_of_what_it_wrote():
    """See cryoseg.provenance; snakemake verify would say of the outputs: no record."""
    writers = [
        path
        for path in (REPOSITORY / "scripts").glob("*.py")
        if "**snakemake.output" in path.read_text()
    ]
    assert len(writers) > 10
    for path in writers:
        assert "recorded(snakemake" in path.read_text(), path


def test_importing_the_library_costs_nothing():
    code = "import sys, cryoseg; print(len({'torch', 'numpy', 'h5py'} & set(sys.modules)))"
    environment = {"PYTHONPATH": str(REPOSITORY / "scripts")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == "0"


@pytest.mark.parametrize(
    "script",
    [
        "scale_tomogram",
        "check_tomogram",
        "admit_tomogram",
        "label_voxels",
        "filter_labels",
        "label_particles",
        "merge_labels",
    ],
)
def test_a_step_without_a_network_does_not_wait_for_pytorch(script):
    code = f"import sys, {script}; print('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(REPOSITORY / "scripts")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert run.stdout.strip() == "False", run.stderr


def drawn(text):
    """Nodes and edges of a mermaid graph, whatever their numbers."""
    names = dict(re.findall(r"^\s*(id\d+)\[(.*)\]$", text, re.M))
    edges = re.findall(r"^\s*(id\d+) --> (id\d+)$", text, re.M)
    return set(names.values()), {(names[one], names[other]) for one, other in edges}


def printed_for_the_demo(folder, *options):
    shutil.copytree(REPOSITORY / "config", folder / "config")
    command = [f"{BIN}/snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--profile", str(REPOSITORY / "profiles" / "local"), "--directory", str(folder)]
    command += ["--configfile", "config/demo.yaml", *options, "--", "demo"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_the_rule_graph_in_the_readme_is_the_demos(tmp_path):
    (block,) = re.findall(
        r"```mermaid\n(flowchart TB\n.*?)```", (REPOSITORY / "README.md").read_text(), re.S
    )
    nodes, edges = drawn(printed_for_the_demo(tmp_path, "--rulegraph", "mermaid-js"))
    assert len(nodes) > 10
    assert drawn(block) == (nodes, edges)


@pytest.mark.parametrize("option", [["--dag", "dot"], ["--filegraph"], ["--summary"]], ids=" ".join)
def test_the_dag_can_be_looked_at(option, tmp_path):
    printed = printed_for_the_demo(tmp_path, *option)
    for step in ("lamella_score_voxels", "semantic_train_model", "semantic_evaluate_labels"):
        assert step in printed


def test_each_rule_is_listed_with_a_sentence(tmp_path):
    lines = printed_for_the_demo(tmp_path, "--list-rules").splitlines()
    assert len(lines) > 20
    assert all(re.fullmatch(r"\w+ \([A-Z].*\.\)", line) for line in lines), lines

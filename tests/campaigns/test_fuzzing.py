"""The small form of fuzzing.py and names.py: some hundreds of inputs, and one plan of odd names."""

import csv
import ctypes
import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from unittest.mock import patch

import h5py
import pytest
from hypothesis import strategies as st
from snakemake.common.configfile import load_configfile
from snakemake.io import contains_wildcard

import fuzzing
from conftest import REPOSITORY
from cryoseg.errors import InputError
from cryoseg.folders import WILDCARD, files_and_others
from cryoseg.job_resources import header_shape
from cryoseg.volumes import open_volume
from fuzzing import (
    ODD_NAMES,
    RUNS_A_COMMAND,
    TARGETS,
    Apart,
    CrashError,
    Hangs,
    Spent,
    Target,
    TooFewError,
    answered,
    at_most,
    campaign,
    check_inside,
    names_a_configuration,
    queued,
    read_as_snakemake,
    read_configurations,
)
from generated_names import generated, is_text
from names import hostile_lab, outside, try_positions, try_tomograms
from test_workflow import ODD, RAW, Lab, stage_file

SEED = (
    6  # another campaign of so many inputs each time would fail for others than it was started by
)


@pytest.fixture
def silent():
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", TARGETS)
def test_files_are_read_or_refused_with_the_reason(name, silent, tmp_path):
    examples = 30 if TARGETS[name].ending.endswith(".h5") else 60
    counts = campaign(TARGETS[name], examples, SEED, tmp_path)
    assert counts["read"] + counts["refused"] >= examples
    assert counts["refused"]


def test_a_campaign_of_which_too_little_can_be_read_fails(tmp_path):
    def refuses(path):
        raise InputError(f"{path}: no")

    with pytest.raises(TooFewError):
        campaign(Target(st.binary(max_size=5), refuses, ".x", least=0.1), 5, SEED, tmp_path)


def test_what_a_c_library_writes_beside_a_file_is_found(tmp_path):
    def writes(path):
        Path(path).read_bytes()
        h5py.File("elsewhere.h5", "w", driver="core", backing_store=True).close()

    with pytest.raises(AssertionError, match="written outside"):
        campaign(Target(st.binary(max_size=5), writes, ".x"), 5, SEED, tmp_path)


def test_the_time_of_what_is_read_apart_counts(tmp_path):
    def takes_long(path):
        began = time.process_time()
        while time.process_time() < began + 0.3:
            pass

    counts = campaign(Target(st.just(b""), Apart(takes_long), ".x"), 2, SEED, tmp_path)
    assert counts["slowest"] >= 0.3


def test_a_campaign_finds_what_it_looks_for(tmp_path):
    def no_sentence(path):
        raise KeyError("a")

    def no_name(path):
        raise InputError("something is wrong")

    def never_ends(path):
        raise Hangs("no answer")

    def runs(path):
        os.system("true")

    def forks(path):
        if not os.fork():
            os._exit(0)

    def spawns(path):
        os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)

    def runs_text(path):
        exec("1 + 1")

    def loads_a_library(path):
        ctypes.CDLL(None)

    libc = ctypes.CDLL(None)

    def runs_in_c(path):
        libc.system(b"true")

    def imports(path):
        (path.parent / "odd_module.py").write_text("1 + 1")
        with patch.object(sys, "path", [str(path.parent), *sys.path]):
            importlib.import_module("odd_module")

    def writes(path):
        (path.parent.parent / "elsewhere").write_text("")

    def makes(path):
        (path.parent.parent / "made").mkdir()

    def renames(path):
        (path.parent.parent / "made").rename(path.parent.parent / "renamed")

    def links(path):
        (path.parent.parent / "link").symlink_to(path)

    def writes_through_a_link(path):
        path.with_name("to").symlink_to(path.parent.parent / "victim")
        path.with_name("to").write_text("")

    def removes(path):
        shutil.rmtree(path.parent.parent / "renamed")

    (tmp_path / "own").mkdir()
    elsewhere = (writes, makes, renames, links, removes, writes_through_a_link)
    running = (runs, forks, spawns, runs_text, loads_a_library, runs_in_c, imports)
    for read in (*running, *elsewhere, Apart(runs), Apart(runs_in_c), Apart(writes)):
        with pytest.raises(AssertionError, match="reading it does more"):
            answered(read, tmp_path / "own" / "file")
    for read, found in (
        (no_sentence, KeyError),
        (no_name, AssertionError),
        (never_ends, Hangs),
    ):
        with pytest.raises(found):
            answered(read, tmp_path / "file")


def test_a_campaign_hears_what_snakemake_would_run_in_a_configuration(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"__use_yte__: true\np: {RUNS_A_COMMAND!r}\n")
    with pytest.raises(AssertionError, match=r"does more: .*os\.system"):
        answered(load_configfile, path)
    assert not answered(read_as_snakemake, path)


def test_a_campaign_knows_a_name_that_a_message_escapes_or_writes_in_full(tmp_path):
    path = tmp_path / "x.files"
    for name in ("\\x1F", "~", 5000 * "9"):
        path.write_text(f'predict: {{stage: "{name}"}}')
        assert not answered(read_configurations, path, names_a_configuration)


def test_a_campaign_notices_what_waits_and_what_fills_a_terminal(tmp_path):
    def says_much(path):
        raise InputError(f"{path}: {10_000 * 'x'}")

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Hangs), at_most(0.5):
        (tmp_path / "pipe").read_bytes()
    with pytest.raises(AssertionError, match="a message of"):
        answered(says_much, tmp_path / "file")


def test_a_campaign_notices_what_sleeps_or_works_too_long_even_where_that_is_caught():
    def caught():
        with suppress(BaseException):
            time.sleep(5)

    for waste in (lambda: time.sleep(5), caught, lambda: [None for _ in iter(int, 1)]):
        started = time.monotonic()
        with pytest.raises(Hangs), at_most(0.3):
            waste()
        assert time.monotonic() - started < 5


def test_a_campaign_notices_what_sleeps_in_a_process_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setattr(fuzzing, "SECONDS", 0.5)
    with pytest.raises(Hangs):
        answered(Apart(lambda path: time.sleep(20)), tmp_path / "file")


@pytest.mark.skipif(queued() is None, reason="the kernel does not tell how long a process waited")
def test_waiting_for_a_processor_is_no_hang(tmp_path):
    def works(path=None):
        began = time.thread_time()
        while time.thread_time() < began + 0.3:
            pass

    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})  # which the others inherit
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(6)]
    apart = Apart(works)
    try:
        for read in (works, apart):
            clock, spent = time.monotonic(), Spent(getattr(read, "queued", queued))
            read(tmp_path / "file")
            assert time.monotonic() - clock > 3 * spent.seconds > 0.8
    finally:
        apart._process.kill()
        for each in busy:
            each.kill()
            each.wait()
        os.sched_setaffinity(0, before)


def test_a_crash_is_no_hang_however_long_the_process_had_waited(monkeypatch, tmp_path):
    def crashes(path):
        if path.name == "bad":
            os.kill(os.getpid(), signal.SIGKILL)

    # As of a process that has waited for an hour.
    hours = {"self": 0.0}
    monkeypatch.setattr(fuzzing, "queued", lambda process="self": hours.get(process, 3600.0))
    apart = Apart(crashes)
    assert answered(apart, tmp_path / "good")
    with pytest.raises(CrashError):
        answered(apart, tmp_path / "bad")


def test_where_the_kernel_tells_of_no_waiting_the_processor_and_much_of_a_clock_count():
    with pytest.raises(Hangs), at_most(0.2, waited=lambda: None):
        time.sleep(20)
    spent = Spent(lambda: None)
    time.sleep(0.3)
    assert 0.05 <= spent.seconds < 0.3


def test_a_campaign_notices_what_is_written_elsewhere(tmp_path):
    check_inside(["a/b/c.mrc", "a/x/../d.mrc"], ["a"])
    for file in ("b.mrc", "a/../b.mrc", "ab/c.mrc", "/a/c.mrc"):
        with pytest.raises(AssertionError, match="lies in none"):
            check_inside([file], ["a"])


def test_tomograms_with_hostile_names_are_planned_and_scaled_and_nothing_runs_in_them(tmp_path):
    lab, names = hostile_lab(tmp_path)
    planned = {tomogram for rule, tomogram in lab.plan("scale") if rule == "raw_scale_tomogram"}
    assert planned - {""} == set(names) - {"\r"}  # which Python reads as the end of a line
    worst = ["$(touch pwned)", "; touch pwned", "a'b", "a\nb", "-n", 200 * "x"]
    lab.run("--", *(f"scaled/{name}.mrc" for name in worst))
    made = {path.name.removesuffix(".mrc") for path in (lab.folder / "scaled").glob("*.mrc")}
    assert made == set(worst)
    assert not outside(lab)


def test_generated_names_are_refused_by_name_or_planned_and_scaled(tmp_path):
    names = generated(24, SEED)
    left = try_tomograms(tmp_path, names, most=2)
    assert 10 <= len(left) < 24


def test_generated_names_are_found_in_files_of_positions_or_refused(tmp_path):
    found, sought = try_positions(tmp_path, [*generated(100, SEED, is_text), "NA", "null"])
    assert 0.4 < found / sought < 1


def test_hostile_names_of_folders_models_and_positions_run_nothing(tmp_path):
    lab = Lab(tmp_path / "lab $(touch pwned)")
    scaled, labels, predicted = "scaled 'a' $(touch pwned)", "; touch pwned #", "[1] `touch pwned`"
    model, positions = "$(touch pwned) 'm' \"n\".ckpt", "p; touch pwned; é.csv"
    lab.write_tomogram(ODD)
    shutil.copy(REPOSITORY / "tests/data/semantic.ckpt", lab.folder / model)
    with open(lab.folder / positions, "w", newline="") as file:
        csv.writer(file).writerows([("tomo", "z", "y", "x"), (ODD, 9, 16, 20)])
    spheres = {"kind": "particles", "tomograms": scaled, "positions": positions, "radius": 30}
    lab.write_config(
        scale={"raw": {"input_path": RAW, "output_path": scaled, "invert": True}},
        label={"spheres": spheres | {"output_path": labels}},
        predict={"semantic": "config/semantic.yaml"},
    )
    changes = {"data_folder": scaled, "trained_model": model, "prediction_folder": predicted}
    lab.write_yaml("config/semantic.yaml", stage_file("semantic", mask_folder=None) | changes)
    lab.run("--", "predict", "label")
    assert (lab.folder / predicted / f"{ODD}_preds.h5").exists()
    assert open_volume(lab.folder / labels / f"{ODD}.mrc")[:].max() == 1
    assert outside(lab) == {scaled, labels, predicted, model, positions}


def test_a_pipe_that_is_called_like_a_tomogram_is_not_waited_for(tmp_path):
    pipe = tmp_path / "TS_1.mrc"
    os.mkfifo(pipe)
    (tmp_path / "TS_2.mrc").symlink_to(pipe)
    files, others = files_and_others(tmp_path, ".mrc")
    assert not files
    assert all("a pipe or a device" in what for what in others.values())
    assert len(others) == 2
    for path in others:
        with pytest.raises(OSError, match="no file"):
            header_shape.__wrapped__(tmp_path / path)


@pytest.mark.parametrize(
    ("name", "says"),
    [("<tomogram>", "takes for a variable; rename it"), (230 * "x", "has 230 bytes; shorten it")],
    ids=["variable", "long"],
)
def test_names_that_cannot_be_are_refused_before_any_job(name, says, tmp_path):
    lab, _ = hostile_lab(tmp_path, ["TS_1"])
    (lab.folder / RAW / f"{name}.mrc").write_bytes((lab.folder / RAW / "TS_1.mrc").read_bytes())
    shown = lab.run("-n", fails=True)
    assert says in shown


def test_what_snakemake_takes_for_a_wildcard_is_known_in_any_name():
    wild = [name for name in [*ODD_NAMES, *generated(500, SEED)] if contains_wildcard(name)]
    assert {"{tomogram}", "{1.5}"} < set(wild)
    assert all(WILDCARD.search(name) for name in wild)


def test_the_names_hold_what_shells_and_snakemake_would_read():
    for sign in " '\"$`;{}[]#%,~\n*?\\":
        assert any(sign in name for name in ODD_NAMES), sign

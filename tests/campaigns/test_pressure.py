"""The small form of pressure.py: within less memory tiles shrink and the scores stay the same."""

import re
import resource

import h5py
import hdf5plugin  # noqa: F401  (the scores' codec)
import numpy as np
import psutil
import pytest

from conftest import REPOSITORY, skip_unless_required
from cryoseg import host_memory
from pressure import MOST_STEPS, memory_group, most_steps, prepare, score
from pressure_steps import prepare as prepare_steps
from pressure_steps import run_step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pressure")
    prepare(folder)
    found, said = score(folder, 0, output="free.h5", internal=True)
    assert found.get("tiles") == 1, (found, said)
    return folder


def _within_less(folder):
    """Score within too little for one tile and enough for smaller ones; as score returns.

    How much that is depends on the processor's instructions, for which libraries choose their code.
    """
    too_little, enough = 200, 900
    while enough - too_little > 5:
        megabytes = (too_little + enough) // 2
        found, said = score(folder, megabytes, "late", output="pressed.h5")
        if found.get("tiles", 0) > 1:
            return found, said
        if "tiles" in found:
            enough = megabytes
        else:
            assert "out of memory with the smallest tile" in found["error"]
            too_little = megabytes
    raise AssertionError(f"one tile within {enough} MB, none within {too_little} MB: {found}")


def test_an_allocation_that_fails_makes_tiles_smaller_and_the_scores_stay(folder):
    pressed, said = _within_less(folder)
    assert pressed["tiles"] > 1
    assert "going on with tiles of fewer than" in said
    assert most_steps(folder / "pressed.h5", folder / "free.h5") <= MOST_STEPS


@pytest.mark.root
def test_what_a_control_group_grants_makes_tiles_smaller_or_is_too_little(folder):
    for megabytes in (425, 225):
        with memory_group() as group:
            if group is None:
                reason = "this user can make no control group that limits memory"
                skip_unless_required("CRYOSEG_REQUIRE_ROOT", reason)
            found, _ = score(folder, megabytes, output="grouped.h5", group=group)
        if megabytes == 425:
            assert found.get("tiles", 0) > 1, found
            assert most_steps(folder / "grouped.h5", folder / "free.h5") <= MOST_STEPS
        else:
            assert "needs 66 MB" in found["error"]


def test_an_impossible_limit_is_an_error_that_says_how_much_is_needed(folder):
    found, _ = score(folder, 200, output="never.h5")
    assert "the smallest tile that this network allows, " in found["error"]
    assert "voxels, needs 66 MB" in found["error"]
    assert not (folder / "never.h5").exists()
    assert not list(folder.glob(".*"))


def test_another_class_is_seen_where_its_margin_is_above_rounding(folder, tmp_path):
    with h5py.File(folder / "free.h5") as free, h5py.File(tmp_path / "other.h5", "w") as other:
        for name in ("probability", "winner"):
            other[name] = free[name][:]
        second, first = np.sort(free["probs"][:], axis=0)[-2:]
        clear = np.unravel_index((first - second).argmax(), first.shape)
        assert most_steps(folder / "free.h5", folder / "free.h5") == 0
        other["winner"][clear] = (other["winner"][clear] + 1) % 3
    with pytest.raises(AssertionError, match="another class wins where the margin is"):
        most_steps(tmp_path / "other.h5", folder / "free.h5")


def test_ulimit_counts_as_what_there_is(monkeypatch):
    used = psutil.Process().memory_info().vms
    limits = {resource.RLIMIT_AS: (used + 10**9, -1), resource.RLIMIT_DATA: (-1, -1)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    assert list(host_memory._process_limits()) == [pytest.approx(10**9, rel=0.1)]
    assert host_memory.free_host_memory() <= 1.1e9


def test_a_step_without_enough_memory_says_how_much_it_needs_and_leaves_nothing(tmp_path):
    prepare_steps(tmp_path, (100, 128, 128))
    whole, _, needed = run_step("filter_labels", tmp_path)
    again, _, _ = run_step("filter_labels", tmp_path, 2 * needed)
    assert again == whole
    _, said, _ = run_step("scale_tomogram", tmp_path, 3_000_000)
    assert "asked for 7 MB more" in said  # to map the tomogram
    nothing, said, _ = run_step("filter_labels", tmp_path, needed // 3)
    assert nothing is None
    assert re.search(r"out of memory: it held .* it needs (at least|more than) \d+ MB", said)


def test_each_try_of_a_job_that_reads_volumes_books_more_memory_than_the_last():
    booked = [
        line
        for rules in (REPOSITORY / "rules").glob("*.smk")
        for line in re.findall(r"^ +mem_mb=(.*)$", rules.read_text(), re.MULTILINE)
    ]
    fixed = {line for line in booked if not line.startswith("lambda wildcards, attempt: ")}
    assert fixed == {"500,"}  # of admissions, which read what a check wrote
    assert len(booked) > 20

"""The small form of pressure.py: within less memory tiles shrink and the scores stay the same."""

import json
import re
import resource
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (the scores' codec)
import numpy as np
import psutil
import pytest
import yaml

from conftest import REPOSITORY, skip_unless_required
from cryoseg import host_memory
from cryoseg.volumes import write_mrc
from kill import fill_with_labels
from pressure import (
    MOST_STEPS,
    as_promised,
    memory_group,
    most_steps,
    not_shown,
    prepare,
    score,
)
from pressure_steps import ELSEWHERE, STEPS, run_step
from pressure_steps import prepare as prepare_steps


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


SHRUNK, TOO_LITTLE = {"tiles": 4, "differ by": 1}, {"error": "the smallest tile needs 66 MB"}
KILLED, DIED = {"killed": "out of memory"}, {"died": "MemoryError"}


@pytest.mark.parametrize("kind", ["ulimit", "control group"])
def test_the_campaign_takes_a_kill_for_a_find_where_the_limit_was_there_before_tiles(kind):
    assert as_promised(kind, "late", KILLED) == (kind == "control group")
    assert not as_promised(kind, "early", KILLED)
    for when in ("early", "late"):
        assert as_promised(kind, when, SHRUNK)
        assert as_promised(kind, when, TOO_LITTLE)
        assert not as_promised(kind, when, SHRUNK | {"differ by": MOST_STEPS + 1})
        assert not as_promised(kind, when, {"error": "it needs more"})
        assert not as_promised(kind, when, DIED)


def test_the_campaign_does_not_end_well_where_no_tile_shrank_or_nothing_was_refused():
    places = [("ulimit", "early"), ("ulimit", "late"), ("control group", "early")]
    rows = [(*place, found) for place in places for found in (SHRUNK, TOO_LITTLE)]
    kinds = ["ulimit", "control group"]
    assert not not_shown(rows, kinds)
    assert not not_shown(rows[:4], kinds[:1])
    whole = [(kind, when, found | {"tiles": 1} if "tiles" in found else found)
             for kind, when, found in rows]  # fmt: skip
    assert len(not_shown(whole, kinds)) == 3
    assert len(not_shown([row for row in rows if row[2] is SHRUNK], kinds)) == 3
    assert len(not_shown(rows[:4], kinds)) == 2


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


# For each rule with a script: that, and what Snakemake asks for at three tries.
BOOKED = """
import json
from snakemake.iocontainers import Wildcards
include: {snakefile!r}
tomogram = Wildcards(fromdict={{"tomogram": "TS_1"}})
def booked(rule, attempt):
    return rule.expand_resources(tomogram, None, attempt).get("mem_mb")
found = [
    (rule.name, str(rule.script), [booked(rule, attempt) for attempt in (1, 2, 3)])
    for rule in workflow.rules
    if rule.script
]
with open("booked.json", "w") as file:
    json.dump(found, file)
"""
# They run where snakemake does, which books nothing for itself, and read no volume.
BOOK_NOTHING = {"estimate_run", "verify_outputs"}


def scripts_of_rules():
    """Names of the scripts that the rules name."""
    texts = [path.read_text() for path in (REPOSITORY / "rules").glob("*.smk")]
    return {name for text in texts for name in re.findall(r'"\.\./scripts/(\w+)\.py"', text)}


def lab_of_all_rules(folder):
    """A TrainingLab whose configuration uses every rule that has a script."""
    lab = fill_with_labels(folder)
    (lab.folder / "p.star").write_text(
        "data_particles\nloop_\n_rlnTomoName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"
        "_rlnCoordinateZ #4\n_rlnAngleRot #5\n_rlnAngleTilt #6\n_rlnAnglePsi #7\n"
        "trial_1 20 20 12 0 0 0\n"
    )
    write_mrc(lab.folder / "average.mrc", np.ones((5, 5, 5), np.float32), voxel_size=24.0)
    config = yaml.safe_load((lab.folder / "config/config.yaml").read_text())
    config["label"]["shapes"] = {
        "kind": "averages", "tomograms": "made", "positions": "p.star", "averages": "average.mrc",
        "threshold": 0.5, "output_path": "labels/shapes",
    }  # fmt: skip
    config["train"] = {"semantic": "config/train.yaml"}
    lab.write_config(**config)
    lab.write_training(labels_folder_for_filtering="labels/both", val_files=None)
    return lab


def test_each_try_of_a_job_books_more_memory_than_the_last(tmp_path):
    lab = lab_of_all_rules(tmp_path)
    (tmp_path / "Snakefile").write_text(BOOKED.format(snakefile=str(REPOSITORY / "Snakefile")))
    # Without a limit of what jobs may book together, to which each one's is cut down.
    unlimited = ("--resources", "gpu=1", f"mem_mb={10**9}")
    lab.run("--snakefile", str(tmp_path / "Snakefile"), *unlimited, "--list-rules")
    seen = set()
    for rule, script, booked in json.loads((tmp_path / "booked.json").read_text()):
        seen.add(Path(script).stem)
        if Path(script).stem not in BOOK_NOTHING:
            first, second, third = booked
            assert 0 < first < second < third, rule
    assert seen == scripts_of_rules()


def test_each_step_that_reads_or_makes_volumes_is_put_under_pressure():
    pressed = {step.split(",")[0] for step in STEPS}
    assert pressed | set(ELSEWHERE) == scripts_of_rules()
    assert not pressed & set(ELSEWHERE)

"""A plan says what a run would take: by what has run, by a calibration, or as a guess."""

import csv
import json

import mrcfile
import numpy as np
import pytest
import yaml

from cryoseg.estimates import Estimate, estimate_lines, estimate_run, find_shapes, fit
from cryoseg.provenance import record_path
from cryoseg.steps import Step
from test_workflow import Lab, fill

SHAPE = (10, 100, 100)
VOXELS = 100_000


class Bench:
    """A folder with a stage of four tomograms, some of which are done."""

    def __init__(self, folder, monkeypatch):
        monkeypatch.chdir(folder)
        self.folder = folder
        (folder / "raw").mkdir()
        for number in range(4):
            header = np.zeros(SHAPE, np.int8)
            mrcfile.write(folder / "raw" / f"TS_{number}.mrc", header)

    def score(self, number, **resources):
        name = f"TS_{number}"
        inputs = {"tomogram": [f"raw/{name}.mrc"], "checkpoint": ["model.ckpt"]}
        asked = {"_cores": 8, "gpu": 1, "mem_mb": 4000, "device": "cuda", "tile_size": "auto"}
        return Step(
            "semantic_score_voxels",
            name,
            inputs | ({"mask": ["mask.h5"]} if resources.pop("masked", False) else {}),
            {"scores": [f"scores/{name}_scores.h5"]},
            {"settings": {"save_internal_files": False}},
            f"benchmarks/semantic/score_voxels/{name}.tsv",
            asked | resources,
        )

    def scale(self, number):
        name = f"TS_{number}"
        return Step(
            "raw_scale_tomogram", name, {"tomogram": [f"raw/{name}.mrc"]},
            {"scaled": [f"scaled/{name}.mrc"]}, {"settings": {}},
            f"benchmarks/raw/scale_tomogram/{name}.tsv", {"_cores": 1, "mem_mb": 1000},
        )  # fmt: skip

    def finish(self, step, seconds, **measured):
        (output,) = (path for paths in step.outputs.values() for path in paths)
        (self.folder / output).parent.mkdir(exist_ok=True)
        (self.folder / output).write_bytes(bytes(2 * VOXELS))
        self.write_benchmark(step.benchmark, seconds)
        if measured:
            place = self.folder / record_path(output)
            place.parent.mkdir(exist_ok=True)
            place.write_text(json.dumps({"measured": measured}))

    def calibrate(self, checkpoint="abc", **settings):
        """With another checkpoint or other settings, if named."""
        scores = self.folder / "scores"
        place = record_path(scores / "calibration.json")
        place.parent.mkdir(parents=True)
        found = {"voxels_per_second": 1000, "start_seconds": 4, "device": "H200", "seconds": 30}
        (scores / "calibration.json").write_text(json.dumps(found | {"tile_memory": 7}))
        inputs = [{"name": "checkpoint", "sha256": checkpoint}]
        settings = {"settings": {"save_internal_files": False} | settings}
        place.write_text(json.dumps({"inputs": inputs, "settings": settings}))
        (scores / "model.json").write_text(json.dumps({"sha256": "abc"}))
        self.write_benchmark("benchmarks/semantic/calibrate.tsv", 32)

    def write_benchmark(self, path, seconds):
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\n{seconds}\t100\n")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


def all_computed(step, shape, memory):
    """A network that computes each voxel twice."""
    return 2 * int(np.prod(shape))


def planned(steps, plan_computed=all_computed, cores=8, has_gpu=True):
    (found,) = estimate_run(steps, plan_computed, cores, has_gpu)
    return found


def test_start_and_rate_are_told_apart_where_sizes_differ():
    points = [(work, 5 + 2 * work) for work in (10, 20, 50)]
    assert fit(points, usual_start=1) == pytest.approx((5, 2))


def test_jobs_of_one_size_are_expected_to_take_what_such_jobs_took():
    start, each = fit([(100, 9), (100, 11)], usual_start=6)
    assert start + 100 * each == pytest.approx(10)


def test_a_size_is_that_of_the_tomogram_it_will_be_made_of(bench):
    scale = bench.scale(0)
    later = Step("label", "TS_0", {"tomogram": ["scaled/TS_0.mrc"]}, {"labels": ["a.h5"]}, {})
    shapes = find_shapes([later, scale])
    assert shapes[id(later)] == SHAPE


def test_what_has_run_tells_what_is_left(bench):
    steps = [bench.scale(number) for number in range(4)]
    bench.finish(steps[0], 10)
    found = planned(steps)
    assert (found.done, found.jobs) == (1, 3)
    assert sum(found.seconds) == pytest.approx(30)
    assert found.bytes_written == 3 * 2 * VOXELS
    assert not found.guess
    assert found.basis == "measured: 1 job"


def test_before_anything_has_run_it_is_a_guess_and_says_so(bench):
    found = planned([bench.scale(0)])
    assert found.guess
    assert found.basis.startswith("guess: rates of another machine")
    found = planned([bench.score(0)])
    assert found.guess
    assert "`snakemake calibrate` measures it" in found.basis


def test_a_calibration_counts_voxels_that_are_computed_and_not_those_of_the_tomogram(bench):
    bench.calibrate()
    memories = []

    def computed(step, shape, memory):
        memories.append(memory)
        return 3 * VOXELS

    found = planned([bench.score(0), bench.score(1)], computed)
    assert found.seconds == pytest.approx([4 + 2 + 300] * 2)
    assert found.basis == "measured by calibrate on H200"
    assert memories == [7]  # asked once for a size
    assert found.gpu_hours == pytest.approx(2 * 306 / 3600)


@pytest.mark.parametrize("other", [{"checkpoint": "def"}, {"save_internal_files": True}])
def test_a_calibration_of_another_model_or_of_other_settings_does_not_count(bench, other):
    bench.calibrate(**other)
    assert planned([bench.score(0)]).guess


def test_masks_leave_as_much_to_compute_as_in_the_tomograms_that_have_run(bench):
    steps = [bench.score(number, masked=True) for number in range(3)]
    half = {"computed": VOXELS, "tile_memory": 7, "device": "H200"}
    bench.finish(steps[0], 26, **half)
    found = planned(steps)
    assert found.seconds == pytest.approx([26, 26])
    assert "masks leave 50% to compute" in found.basis


def test_masks_that_nothing_is_known_of_exclude_nothing(bench):
    found = planned([bench.score(0, masked=True)])
    assert "masks are taken to exclude nothing" in found.basis


def test_a_stage_without_a_gpu_counts_no_gpu_hours(bench):
    found = planned([bench.score(0, device="auto")], has_gpu=False)
    assert (found.gpus, found.gpu_hours) == (0, 0)


def test_a_model_that_is_not_trained_yet_is_a_guess(bench):
    found = planned([bench.score(0)], lambda step, shape, memory: None)
    assert "the model is not there yet" in found.basis


def test_a_training_is_unknown_until_its_first_epoch(bench):
    config = {"hyper_parameters": {"max_epochs": 10}}
    outputs = {"checkpoint": ["log/model/model_best.ckpt"]}
    step = Step("semantic_train_model", None, {}, outputs, {"settings": {"config": config}})
    found = planned([step])
    assert found.seconds is None
    assert found.basis == "unknown until the first of at most 10 epochs has ended"
    assert "unknown" in "\n".join(estimate_lines([found]))
    (bench.folder / "log").mkdir()
    (bench.folder / "log" / "settings.yaml").write_text(yaml.safe_dump({"config": config}))
    (bench.folder / "log" / "metrics.csv").write_text("epoch,seconds\n1,50\n2,100\n")
    found = planned([step])
    assert found.seconds == pytest.approx([10 + 8 * 50])
    other = {"hyper_parameters": {"max_epochs": 10, "lr": 1}}
    (bench.folder / "log" / "settings.yaml").write_text(yaml.safe_dump({"config": other}))
    assert planned([step]).seconds is None


def test_more_devices_help_until_the_longest_job_is_left():
    found = Estimate("score", jobs=10, seconds=[60.0] * 10, gpus=1)
    assert [found.wall_seconds(devices) for devices in (1, 4, 16)] == [600, 150, 60]


def test_small_jobs_share_the_processors(bench):
    found = planned([bench.scale(number) for number in range(4)], cores=2)
    assert found.wall_seconds(1) == pytest.approx(sum(found.seconds) / 2)


def test_nothing_left_is_said(bench):
    step = bench.scale(0)
    bench.finish(step, 10)
    assert estimate_lines([planned([step])])[0].startswith("nothing is missing")


def test_a_plan_is_near_what_the_run_then_takes(tmp_path):
    """Loosely, as jobs of a few seconds on a busy machine are; see tests/benchmarks/plan.py."""
    lab = fill(Lab(tmp_path))
    config = yaml.safe_load((lab.folder / "config" / "config.yaml").read_text())
    lab.write_config(scale=config["scale"], predict={"lamella": "config/lamella.yaml"})
    lab.run("predictions/lamella/TS_1_preds.h5")
    shown = lab.run("--", "plan")
    assert "lamella_score_voxels" in shown
    with open(lab.folder / "plan.tsv", encoding="utf-8") as file:
        rows = {row["step"]: row for row in csv.DictReader(file, delimiter="\t")}
    row = rows["lamella_score_voxels"]
    assert (row["done"], row["jobs"], row["guess"]) == ("1", "2", "no")
    assert rows["lamella_inspect_model"]["basis"] == "done"
    lab.run()
    scored = (lab.folder / "benchmarks" / "lamella" / "score_voxels").glob("*.tsv")
    taken = sum(
        float(path.read_text().splitlines()[-1].split()[0])
        for path in scored
        if path.stem != "TS_1"
    )
    assert 1 / 8 < float(row["job_seconds"]) / taken < 8
    assert "nothing is missing" in lab.run("--", "plan")

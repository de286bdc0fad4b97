"""A plan says what a run would take: by what has run, by a calibration, or as a guess."""

import csv
import json
import time

import mrcfile
import numpy as np
import pytest
import yaml

from cryoseg.estimate_table import (
    NOTHING_MISSING,
    estimate_lines,
    walls_of,
    write_estimates,
)
from cryoseg.estimates import (
    Estimate,
    Machine,
    estimate_run,
    find_shapes,
    seconds_together,
    wall_of_run,
)
from cryoseg.paces import START_SECONDS as START
from cryoseg.paces import fit
from cryoseg.provenance import record_path
from cryoseg.schedule import Job, wall_seconds
from cryoseg.steps import Step
from test_workflow import Lab, fill

SHAPE = (10, 100, 100)
VOXELS = 100_000
# What each record has, see cryoseg.provenance.
RECORD = {"date": "2026-01-01", "inputs": [], "outputs": [], "settings": {}}


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

    def scale(self, number, entry="raw"):
        name = f"TS_{number}"
        return Step(
            f"{entry}_scale_tomogram", name, {"tomogram": [f"raw/{name}.mrc"]},
            {"scaled": [f"{entry}_scaled/{name}.mrc"]}, {"settings": {}},
            f"benchmarks/{entry}/scale_tomogram/{name}.tsv", {"_cores": 1, "mem_mb": 1000},
        )  # fmt: skip

    def train(self, **resources):
        """A training on the first three tomograms, the third of them to validate with."""
        names = [f"TS_{number}" for number in range(3)]
        data = {"patch_size": [10, 50, 50], "patch_overlap": 0, "remove_only_background": False}
        config = {
            "train_files": ["TS_0.mrc", "TS_1.mrc"],
            "val_files": ["TS_2.mrc"],
            "file_extension": ".mrc",
            "validation_ratio": 0.1,
            "seed": 0,
            "parameters": {"data": data},
            "hyper_parameters": {"max_epochs": 10, "batch_size": 2, "val_interval": 4},
        }
        return Step(
            "semantic_train_model",
            None,
            {"patches": [f"patches/{name}_patches.h5" for name in names]},
            {"checkpoint": ["log/model/model_best.ckpt"]},
            {"settings": {"config": config}},
            "benchmarks/semantic/train_model.tsv",
            {"_cores": 8, "gpu": 1, "mem_mb": 8000, "device": "cuda", "nodes": 1} | resources,
        )

    def cut(self, number):
        name = f"TS_{number}"
        return Step(
            "semantic_cut_patches", name, {"tomogram": [f"raw/{name}.mrc"]},
            {"patches": [f"patches/{name}_patches.h5"]}, {"settings": {}},
            f"benchmarks/semantic/cut_patches/{name}.tsv", {"_cores": 1, "mem_mb": 1000},
        )  # fmt: skip

    def calibrate_training(self, step):
        """With the settings of a step."""
        place = record_path(self.folder / "log" / "calibration.json")
        place.parent.mkdir(parents=True)
        found = {"step_seconds": 2, "validation_seconds": 1, "device": "H200", "seconds": 30}
        found["scoring_operations_per_second"] = 1000
        (self.folder / "log" / "calibration.json").write_text(json.dumps(found))
        place.write_text(json.dumps(RECORD | {"settings": step.settings}))
        self.write_benchmark(
            "benchmarks/semantic/calibrate_training.tsv", 30 + START["inspect_model"]
        )

    def finish(self, step, seconds, **measured):
        (output,) = (path for paths in step.outputs.values() for path in paths)
        (self.folder / output).parent.mkdir(exist_ok=True)
        (self.folder / output).write_bytes(bytes(2 * VOXELS))
        self.write_benchmark(step.benchmark, seconds)
        if measured:
            place = self.folder / record_path(output)
            place.parent.mkdir(exist_ok=True)
            place.write_text(json.dumps(RECORD | {"measured": measured}))

    def calibrate(self, checkpoint="abc", **settings):
        """With another checkpoint or other settings, if named."""
        scores = self.folder / "scores"
        place = record_path(scores / "calibration.json")
        place.parent.mkdir(parents=True)
        found = {"voxels_per_second": 1000, "start_seconds": 4, "device": "H200", "seconds": 30}
        (scores / "calibration.json").write_text(json.dumps(found | {"tile_memory": 7}))
        inputs = [{"name": "checkpoint", "path": "model.ckpt", "part": "content"}]
        inputs[0]["sha256"] = checkpoint
        settings = {"settings": {"save_internal_files": False} | settings}
        place.write_text(json.dumps(RECORD | {"inputs": inputs, "settings": settings}))
        (scores / "model.json").write_text(json.dumps({"sha256": "abc"}))
        self.write_benchmark("benchmarks/semantic/calibrate.tsv", 32)

    def write_benchmark(self, path, seconds):
        path = self.folder / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\tmax_rss\n{seconds}\t100\n")


@pytest.fixture
def bench(tmp_path, monkeypatch):
    return Bench(tmp_path, monkeypatch)


class Networks:
    """A network that computes each voxel twice and takes 10 operations for each of them."""

    def __init__(self, scoring=None):
        if scoring:
            self.scoring = scoring

    def scoring(self, step, training, shape, memory):
        computed = 2 * int(np.prod(shape))
        return computed, 10 * computed

    def pass_operations(self, training):
        return 10


def everything(steps):
    """Files that all steps are needed for."""
    return [path for step in steps for paths in step.outputs.values() for path in paths]


def planned(steps, scoring=None, cores=8, has_gpu=True):
    """The last Estimate of steps that are all needed."""
    return estimate_run(steps, everything(steps), Networks(scoring), Machine(cores, has_gpu))[-1]


def test_start_and_rate_are_told_apart_where_sizes_differ():
    points = [(work, 5 + 2 * work) for work in (10, 20, 50)]
    assert fit(points, usual_start=1) == pytest.approx((5, 2))


def test_jobs_of_one_size_are_expected_to_take_what_such_jobs_took():
    start, each = fit([(100, 9), (100, 11)], usual_start=6)
    assert start + 100 * each == pytest.approx(10)


def test_a_size_is_that_of_the_tomogram_it_will_be_made_of(bench):
    scale = bench.scale(0)
    later = Step("label", "TS_0", scale.outputs, {"labels": ["a.h5"]}, {})
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


def test_what_reads_no_volume_takes_as_long_for_a_large_tomogram(bench):
    steps = [
        Step(
            "raw_admit_to_predict", f"TS_{number}", {"tomogram": [f"raw/TS_{number}.mrc"]},
            {"admitted": [f"admitted/TS_{number}"]}, {}, f"benchmarks/admit/TS_{number}.tsv", {},
        )
        for number in range(2)
    ]  # fmt: skip
    mrcfile.write(
        bench.folder / "raw" / "TS_1.mrc", np.zeros((40, 200, 200), np.int8), overwrite=True
    )
    bench.finish(steps[0], 0.5)
    assert planned(steps).seconds == pytest.approx([0.5])


def test_before_anything_has_run_it_is_a_guess_and_says_so(bench):
    found = planned([bench.scale(0)])
    assert found.guess
    assert found.basis.startswith("guess: rates of another machine")
    found = planned([bench.score(0)])
    assert found.guess
    assert "`snakemake calibrate` measures" in found.basis


def test_a_calibration_counts_voxels_that_are_computed_and_not_those_of_the_tomogram(bench):
    bench.calibrate()
    memories = []

    def computed(step, training, shape, memory):
        memories.append(memory)
        return 3 * VOXELS, 0

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
    found = planned([bench.score(0)], lambda step, training, shape, memory: None)
    assert "the model is not there yet" in found.basis


def test_a_training_goes_by_its_epochs(bench):
    step = bench.train()
    config = step.settings["settings"]["config"]
    (bench.folder / "log").mkdir()
    (bench.folder / "log" / "settings.yaml").write_text(yaml.safe_dump({"config": config}))
    (bench.folder / "log" / "metrics.csv").write_text("epoch,seconds\n1,50\n2,100\n")
    found = planned([step])
    assert found.seconds == pytest.approx([START["train_model"] + 8 * 50])
    assert found.basis == "measured: 2 of at most 10 epochs"
    other = {"config": config | {"seed": 1}}
    (bench.folder / "log" / "settings.yaml").write_text(yaml.safe_dump(other))
    assert planned([step]).guess


def test_before_its_first_epoch_a_training_goes_by_its_steps(bench):
    """Eight patches are four steps an epoch; four to validate with, two, after 4, 8, 10 epochs."""
    step, cuts = bench.train(), [bench.cut(number) for number in range(3)]
    found = planned([*cuts, step])
    assert found.guess
    assert "at most 10 epochs of 4 steps" in found.basis
    bench.calibrate_training(step)
    found = planned([*cuts, step])
    assert not found.guess
    steps, validations = 10 * (4 * 2 + 0.3), 3 * 2 * 1
    assert found.seconds == pytest.approx([START["train_model"] + steps + validations])
    assert found.gpu_hours == pytest.approx(found.seconds[0] / 3600)
    found = planned([*cuts, bench.train(gpu_devices="0,1")])
    assert "at most 10 epochs of 2 steps" in found.basis


def test_a_network_that_will_be_trained_is_expected_to_score_as_fast_as_it_was_calibrated(bench):
    train = bench.train()
    bench.calibrate_training(train)
    score = bench.score(0)
    score.inputs["checkpoint"] = train.outputs["checkpoint"]
    found = planned([train, score])
    assert found.seconds == pytest.approx([START["score_voxels"] + 2 * VOXELS * 10 / 1000])
    assert found.basis == "measured by calibrate of its training on H200"


def test_a_step_that_has_not_run_is_as_fast_as_the_same_step_of_another_entry(bench):
    done = bench.scale(0)
    bench.finish(done, 10)
    found = planned([done, bench.scale(1, entry="other")])
    assert found.seconds == pytest.approx([10])
    assert found.basis == "measured: 1 job of raw_scale_tomogram"


def together(estimates, devices, cores=8, memory_mb=float("inf")):
    return seconds_together(estimates, Machine(cores, memory_mb=memory_mb), devices)


def test_more_devices_help_until_the_longest_job_is_left(bench):
    found = Estimate("score", waiting=[bench.score(n) for n in range(10)], seconds=[59.9] * 10)
    assert [together([found], n) for n in (1, 4, 16)] == pytest.approx([600, 180, 60])


def test_small_jobs_share_the_processors_and_the_memory(bench):
    found = Estimate("scale", waiting=[bench.scale(n) for n in range(4)], seconds=[9.9] * 4)
    assert together([found], 1, cores=2) == pytest.approx(20)
    assert together([found], 1, cores=2, memory_mb=1500) == pytest.approx(40)


def test_jobs_of_other_tomograms_run_while_a_job_waits_for_what_it_reads():
    """Two processors: a, then b, which waits for a, beside c; then d, which takes both."""
    a, b, c, d = Job(10), Job(10, after=(0,)), Job(5), Job(1, cores=2, after=(2,))
    assert wall_seconds([a, b, c, d], cores=2, gpus=0) == 21
    assert wall_seconds([a, b, c, d], cores=3, gpus=0) == 20
    assert wall_seconds([a, b, c, d], cores=1, gpus=0) == 26


def test_jobs_on_a_gpu_wait_for_each_other():
    jobs = [Job(10, gpus=1), Job(10, gpus=1), Job(10)]
    assert wall_seconds(jobs, cores=8, gpus=1) == 20
    assert wall_seconds(jobs, cores=8, gpus=2) == 10


def test_a_schedule_of_many_jobs_takes_seconds():
    """30,000 jobs in chains of three, as 10,000 tomograms are."""
    jobs = []
    for first in range(0, 30_000, 3):
        chain = Job(1), Job(5, 8, 1, 4000 + first % 900, (first,)), Job(1, after=(first + 1,))
        jobs += chain
    begun = time.process_time()
    assert wall_seconds(jobs, cores=10 * 16, gpus=16) == pytest.approx(5 * 10_000 / 16, rel=0.05)
    assert time.process_time() - begun < 5


def test_what_only_the_overview_needs_is_told_apart(bench, tmp_path):
    scale = bench.scale(0)
    machine = Machine(2)
    estimates = estimate_run(
        [scale, Step("raw_draw", "TS_0", scale.outputs, {"picture": ["a.png"]}, {})],
        scale.outputs["scaled"],
        Networks(),
        machine,
    )
    assert [each.target for each in estimates] == ["all", "overview"]
    walls = walls_of(estimates, machine)
    write_estimates(tmp_path / "plan.tsv", estimates, walls)
    with open(tmp_path / "plan.tsv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    sums = [(row["target"], row["jobs"]) for row in rows if row["step"] == "(together)"]
    assert sums == [("all", "1"), ("overview", "2")]
    assert float(rows[-1]["wall_seconds_1"]) == pytest.approx(
        wall_of_run(estimates, machine, 1), abs=0.1
    )
    shown = "\n".join(estimate_lines(estimates, walls))
    assert shown.index("together") < shown.index("raw_draw") < shown.index("with overview")


def test_nothing_left_is_said(bench):
    step = bench.scale(0)
    bench.finish(step, 10)
    done = [planned([step])]
    assert estimate_lines(done, walls_of(done, Machine(2))) == [NOTHING_MISSING]


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

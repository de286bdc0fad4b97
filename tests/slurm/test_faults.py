"""What can go wrong on a cluster, made to happen; minutes each: pytest -m slow_cluster."""

import contextlib
import csv
import os
import shutil
import signal
import subprocess
import time

import mrcfile
import psutil
import pytest

from slurm_cluster import ClusterLab, most_gpus_at_once
from test_cluster import outputs, prepare
from test_workflow import ALL_STEPS, RAW, Lab, steps

pytestmark = pytest.mark.slow_cluster

TEN = [f"TS_{number}" for number in range(1, 11)]
FEW = TEN[:4]
# Scaling is quick, needs no model, and has all that matters here: a group, a log, an output.
SCALE = ("--", *(f"scaled/{name}.mrc" for name in FEW))


@pytest.fixture
def few(cluster, tmp_path):
    return prepare(ClusterLab(tmp_path, cluster), FEW)


@pytest.fixture(scope="module")
def ten(cluster, tmp_path_factory):
    """A finished run of ten tomograms."""
    lab = prepare(ClusterLab(tmp_path_factory.mktemp("ten"), cluster), TEN)
    started = time.time()
    lab.run()
    lab.seconds = time.time() - started
    lab.jobs = cluster.jobs(started)
    return lab


def failures(lab):
    with open(lab.folder / "logs" / "failures.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@contextlib.contextmanager
def paused(cluster, script, node=None, seconds=90):
    """The process that runs a script in a job, as soon as there is one: (process, its node)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for place in [node] if node else [f"node{n + 1}" for n in range(cluster.nodes)]:
            for number in cluster.processes(place):
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(number)
                    if process.cmdline()[-1].endswith(script):
                        process.suspend()
                        try:
                            yield process, place
                        finally:
                            with contextlib.suppress(psutil.Error):
                                process.resume()
                        return
        time.sleep(0.1)
    raise AssertionError(f"{script} was never started")


def shown(lab, process, fails=False, seconds=600):
    returned = process.wait(timeout=seconds)
    text = lab.printed.read_text()
    assert (returned != 0) == fails, text
    return text


# Ten tomograms


def test_ten_tomograms_use_all_nodes_and_never_more_gpus_than_there_are(ten):
    assert {job.node for job in ten.jobs} == {"node1", "node2", "node3"}
    assert {job.state for job in ten.jobs} == {"COMPLETED"}
    # 6 x 5 jobs in twos, a check and what it admits in one, and two models.
    assert len(ten.jobs) == 32
    assert most_gpus_at_once(ten.jobs) <= ten.cluster.nodes * ten.cluster.gpus


def test_ten_tomograms_come_out_as_on_one_machine_to_the_byte(ten, tmp_path):
    local = prepare(Lab(tmp_path), TEN)
    # The same files: mrcfile writes the time into them, and outputs tell what they were made of.
    shutil.copytree(ten.folder / RAW, tmp_path / RAW, dirs_exist_ok=True)
    local.run("--max-threads", "1")
    assert outputs(ten.folder) == outputs(tmp_path)


def test_two_added_and_one_changed_tomogram_are_submitted_and_no_other(ten, tmp_path):
    subprocess.run(["cp", "-a", ten.folder, tmp_path / "lab"], check=True)
    lab = ClusterLab(tmp_path / "lab", ten.cluster)
    changed = ["TS_11", "TS_12", "TS_3"]
    for seed, name in enumerate(changed, start=20):
        lab.write_tomogram(name, seed)
    assert lab.plan() == set(steps(ALL_STEPS, changed))
    before = {path: path.stat().st_mtime_ns for path in (lab.folder / "predictions").rglob("*.h5")}
    started = time.time()
    lab.run("--group-components", "cpu=8", "gpu=8")
    # A check and what it admits share a job.
    assert len(lab.cluster.jobs(started)) == len(ALL_STEPS) - 1
    same = {path for path, when in before.items() if path.stat().st_mtime_ns == when}
    assert {path.name.split("_preds")[0].split("_scores")[0] for path in same} == set(TEN) - {
        "TS_3"
    }


def test_without_groups_each_step_of_each_tomogram_is_a_job(ten, tmp_path):
    lab = prepare(ClusterLab(tmp_path, ten.cluster), TEN)
    started = time.time()
    lab.run("--group-components", "cpu=1", "gpu=1")
    seconds, jobs = time.time() - started, lab.cluster.jobs(started)
    assert len(jobs) == 62  # a check and what it admits still share one
    for what, took, some in (("in twos", ten.seconds, ten.jobs), ("alone", seconds, jobs)):
        busy = sum(job.end - job.start for job in some)
        print(f"{what}: {len(some)} jobs, {took:.0f} s, {busy:.0f} s of jobs")


# Too little


def test_a_job_killed_for_memory_gets_more_then_is_reported(few):
    enough = "--set-resources", "raw_scale_tomogram:mem_mb=[20,3000][attempt-1]"
    started = time.time()
    few.run(*enough, *SCALE)
    jobs = few.cluster.jobs(started)
    assert sorted({job.memory for job in jobs}) == ["20M", "3000M"]
    assert [job.state for job in jobs].count("COMPLETED") == 2
    for name in FEW:
        (few.folder / "scaled" / f"{name}.mrc").unlink()
    text = few.run(
        "--set-resources", "raw_scale_tomogram:mem_mb=20", "--retries", "0", *SCALE, fails=True
    )
    assert {row["kind"] for row in failures(few)} == {"out of memory"}
    assert {row["tomogram"] for row in failures(few)} == set(FEW)
    assert "out of memory (the cluster job had asked for 20M)" in text


def test_a_job_that_takes_too_long_gets_more_time_then_is_reported(few):
    limits = "--set-resources", "raw_scale_tomogram:runtime=attempt"
    alone = "--group-components", "cpu=1", "gpu=1"
    started = time.time()
    process = few.start(*limits, *alone, "--retries", "1", *SCALE[:3])
    with paused(few.cluster, "scale_tomogram.py"):
        few.cluster.wait_for_job("scale_tomogram", "TIMEOUT", seconds=180)
    with paused(few.cluster, "scale_tomogram.py"):
        text = shown(few, process, fails=True)
    jobs = few.cluster.jobs(started)
    assert [job.minutes for job in jobs] == ["00:01:00", "00:01:00", "00:02:00"]
    assert [job.state for job in jobs].count("TIMEOUT") == 2
    assert {row["kind"] for row in failures(few)} == {"timeout"}
    assert "timeout (the cluster job had asked for 00:02:00)" in text


# Somebody intervenes


def test_a_cancelled_job_is_noticed_and_tried_again(few):
    started = time.time()
    process = few.start(*SCALE)
    with paused(few.cluster, "scale_tomogram.py"):
        few.cluster.wait_for_job("scale_tomogram")
        for each in few.cluster.running():
            few.cluster.call("scancel", each)
        shown(few, process)
    states = [job.state for job in few.cluster.jobs(started)]
    assert states.count("CANCELLED") == 2
    assert states.count("COMPLETED") == 2


def test_what_is_corrected_while_its_group_works_is_kept(few):
    """Before its step begins, and after it was done: the main process looks at whole groups."""

    def correct(path):
        with mrcfile.open(path, "r+") as mrc:
            mrc.data[:] = 0.5
        return path.read_bytes()

    def anew(seed):
        for name in FEW:
            few.write_tomogram(name, seed)
        return few.start("--group-components", "cpu=4", "gpu=4", *SCALE)

    scaled = [few.folder / "scaled" / f"{name}.mrc" for name in FEW]
    assert shown(few, anew(1))
    process = anew(2)
    with paused(few.cluster, "scale_tomogram.py"):
        (first,) = [path for path in scaled if not path.exists()]
        second = next(path for path in scaled if path != first)
        corrected = {second: correct(second)}
    deadline = time.monotonic() + 60
    while not first.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    corrected[first] = correct(first)
    assert few.cluster.running()
    text = shown(few, process, fails=True)
    assert f"scaled/{second.name}: put there or changed by others" in text
    assert [row["tomogram"] for row in failures(few)] == [second.stem]
    assert f"changed after cryoseg had made it: scaled/{first.name}" in text
    assert {path: path.read_bytes() for path in corrected} == corrected
    text = shown(few, anew(3), fails=True)
    assert "2 files of others where this run would write; nothing was started" in text
    assert {path: path.read_bytes() for path in corrected} == corrected


def test_an_interrupted_run_cancels_its_jobs_and_a_second_one_resumes(few):
    process = few.start(*SCALE)
    with paused(few.cluster, "scale_tomogram.py"):
        os.kill(process.pid, signal.SIGINT)
        shown(few, process, fails=True, seconds=120)
        deadline = time.monotonic() + 60
        while few.cluster.running():
            assert time.monotonic() < deadline
            time.sleep(1)
    few.run(*SCALE)
    assert "Nothing to be done" in few.run(*SCALE)


def test_after_a_login_node_died_the_documented_steps_go_on(few):
    process = few.start(*SCALE)
    with paused(few.cluster, "scale_tomogram.py"):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert few.cluster.running()
        # profiles/slurm/README.md
        few.cluster.call("bash", "-c", "squeue --me -h -o '%A %j' | awk '/cryoseg_/{print $1}' "
                         "| xargs scancel")  # fmt: skip
        deadline = time.monotonic() + 60
        while few.cluster.running():
            assert time.monotonic() < deadline
            time.sleep(1)
    assert "cannot be locked" in few.run(*SCALE, fails=True)
    few.run("--unlock")
    few.run(*SCALE)
    assert "Nothing to be done" in few.run(*SCALE)


# A node dies


def times(lab):
    """When the log of each scaled tomogram was last written to, by its name.

    Not when the tomogram was: Snakemake touches an output when the job is over.
    """
    logs = lab.folder / "logs" / "raw" / "scale_tomogram"
    names = [path.stem for path in (lab.folder / "scaled").glob("TS_*.mrc")]
    return {name: (logs / f"{name}.log").stat().st_mtime_ns for name in names}


def test_a_node_that_dies_costs_only_what_it_had_not_finished(few):
    started = time.time()
    process = few.start("--group-components", "cpu=4", "gpu=4", *SCALE)
    wait_for(lambda: len(list((few.folder / "scaled").glob("TS_*.mrc"))) >= 2)
    with paused(few.cluster, "scale_tomogram.py") as (_, node):
        done = times(few)
        few.cluster.kill_node(node)
    try:
        shown(few, process)
    finally:
        few.cluster.restart_node(node)
    jobs = few.cluster.jobs(started)
    assert [job.state for job in jobs] == ["NODE_FAIL", "COMPLETED"]
    assert jobs[1].node != node
    # What the dead node had finished was not done again; the last may have been at its very end.
    now = times(few)
    assert len(now) == len(FEW)
    assert len([name for name in done if now[name] == done[name]]) >= len(done) - 1 >= 1


def test_a_job_that_outlives_its_node_disturbs_its_next_try_nowhere(few):
    started = time.time()
    process = few.start("--group-components", "cpu=4", "gpu=4", *SCALE)
    with paused(few.cluster, "scale_tomogram.py") as (old, node):
        few.cluster.kill_daemon(node)
        shown(few, process)
        done = outputs(few.folder)
        before = times(few)
        old.resume()
        # The old script writes its own output once more, the same; its snakemake goes no further.
        wait_for(lambda: not any(alive(number) for number in few.cluster.processes(node)))
    few.cluster.restart_node(node)
    assert outputs(few.folder) == done
    now = times(few)
    assert len([name for name in now if now[name] != before[name]]) <= 1
    assert [job.state for job in few.cluster.jobs(started)] == ["NODE_FAIL", "COMPLETED"]
    assert not list((few.folder / "scaled").glob(".*"))


def alive(number):
    with contextlib.suppress(psutil.Error):
        return "snakemake" in " ".join(psutil.Process(number).cmdline())
    return False


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)

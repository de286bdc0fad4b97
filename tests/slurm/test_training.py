"""A training over two nodes of a real Slurm cluster, two processes on each."""

import csv
import time

import pytest

from slurm_cluster import ClusterLab
from test_training_workflow import MODEL, NAMES, TrainingLab, fill

TRAIN = ("train", "--set-resources", "semantic_train_model:mem_mb=3000")
# Small steps: large ones let the rounding of sums grow (tests/test_train_model.py).
SLOWLY = {"hyper_parameters__optimizer": "sgd", "hyper_parameters__lr": 0.0001}
LOG = "logs/semantic/train_model.log"


class TrainingClusterLab(ClusterLab, TrainingLab):
    """A folder whose snakemake trains on the cluster."""


def rows_of(lab):
    with open(lab.folder / "runs" / "semantic" / "metrics.csv") as file:
        return [{name: float(value or "nan") for name, value in row.items()}
                for row in csv.DictReader(file)]  # fmt: skip


def over_two_nodes(folder, cluster, **changes):
    lab = fill(TrainingClusterLab(folder, cluster))
    lab.write_training(
        parameters__nodes=2, parameters__gpu_devices=2, hyper_parameters__batch_size=2, **changes
    )
    return lab


def test_two_nodes_with_two_processes_each_train_as_one_process_does(cluster, tmp_path):
    lab = over_two_nodes(tmp_path / "cluster", cluster, hyper_parameters__max_epochs=2, **SLOWLY)
    started = time.time()
    lab.run(*TRAIN)
    (job,) = [job for job in cluster.jobs(started) if job.rule == "semantic_train_model"]
    assert (job.state, job.partition) == ("COMPLETED", "cpu")
    assert job.node in ("node[1-2]", "node[2-3]", "node[1,3]")
    assert "4 process(es) on cpu" in (lab.folder / LOG).read_text()

    alone = fill(TrainingLab(tmp_path / "alone"))
    alone.write_training(
        hyper_parameters__batch_size=8, hyper_parameters__max_epochs=2, **SLOWLY
    )  # the batch of four processes together
    alone.run("train")
    for ours, theirs in zip(rows_of(lab), rows_of(alone), strict=True):
        assert ours["step"] == theirs["step"]
        for name in ("train_loss", "train_labels_loss", "train_distance_loss", "val_loss"):
            assert ours[name] == pytest.approx(theirs[name], abs=1e-4)


@pytest.mark.slow_cluster
def test_a_training_whose_node_dies_goes_on_elsewhere(cluster, tmp_path):
    epochs = 150
    lab = over_two_nodes(
        tmp_path, cluster, hyper_parameters__max_epochs=epochs,
        hyper_parameters__checkpoint_minutes=0.05,
    )  # fmt: skip
    started = time.time()
    process = lab.start(*TRAIN)
    last = lab.folder / MODEL.replace("model_best", "last")
    deadline = time.monotonic() + 300
    while not last.exists() or len(rows_of(lab)) < 3:
        assert time.monotonic() < deadline, lab.printed.read_text()
        time.sleep(1)
    before = len(rows_of(lab))
    number, nodes = cluster.wait_for_job("semantic_train_model")
    dead = "node" + nodes.rstrip("]")[-1]  # the other one runs the job's script
    cluster.kill_node(dead)
    try:
        assert process.wait(timeout=900) == 0, lab.printed.read_text()
    finally:
        process.kill()
        cluster.restart_node(dead)
    tries = [job for job in cluster.jobs(started) if job.rule == "semantic_train_model"]
    assert len(tries) == 2
    assert tries[0].number == number
    assert tries[1].state == "COMPLETED"
    assert "goes on from" in (lab.folder / LOG).read_text()
    rows = rows_of(lab)
    assert [row["epoch"] for row in rows] == list(range(1, epochs + 1))
    # Each epoch once, the seconds of both tries added up.
    assert len(NAMES) == 3
    assert before < epochs

"""Measure how fast a training trains on this machine, for plans of runs to come."""

import json
import time

import torch

from cryoseg.devices import (
    choose_device,
    choose_dtype,
    device_name,
    keep_freed_memory,
    keep_precision,
)
from cryoseg.fine_tuning import starting_network
from cryoseg.joblog import log_to, logger
from cryoseg.provenance import recorded
from cryoseg.training import SegmentationTraining
from cryoseg.training_speed import scoring_operations, training_seconds
from cryoseg.volumes import written_aside


def calibrate_training(calibration, pretrained=None, *, settings, device="auto", threads=None):
    """Write, as JSON, what a step of a training takes, and how fast its network will score.

    pretrained: checkpoint to start from; none to start from random weights
    settings:   {config: training configuration}
    """
    begun = time.monotonic()
    keep_precision()
    keep_freed_memory()
    if threads is not None:
        torch.set_num_threads(threads)
    config, device = settings["config"], choose_device(device)
    dtype = choose_dtype(config["hyper_parameters"]["precision"], device)
    network, backbone_config = starting_network(config, pretrained)
    operations = scoring_operations(network, device, dtype)
    module = SegmentationTraining(network, config, backbone_config)
    step, validation = training_seconds(module, device, dtype)
    found = {
        "step_seconds": step,
        "validation_seconds": validation,
        "scoring_operations_per_second": operations,
        "device": device_name(device),
        "precision": str(dtype).removeprefix("torch."),
        # What the job took beside this, by Snakemake's table, is what any job takes to begin.
        "seconds": time.monotonic() - begun,
    }
    logger.info(
        "%.3f s for a step, %.3f s for one of a validation, on %s in %s",
        *(step, validation, found["device"], found["precision"]),
    )
    with written_aside(calibration) as aside:
        aside.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        calibrate_training(
            **snakemake.input,
            **snakemake.output,
            **snakemake.params,
            device=snakemake.resources["device"],
            threads=snakemake.threads,
        )

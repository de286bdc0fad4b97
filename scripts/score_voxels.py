"""Send one tomogram through a network and store what it says of each voxel."""

import logging
import time
from functools import partial
from pathlib import Path

import torch

from cryoseg.checkpoints import load_network
from cryoseg.checks import check_intensities
from cryoseg.devices import (
    choose_device,
    choose_dtype,
    device_name,
    peak_memory,
    prepare_arithmetic,
    tile_memory,
)
from cryoseg.inference import score_volume
from cryoseg.joblog import log_to, progress
from cryoseg.provenance import input_hashes, recorded
from cryoseg.scores import ScoresWriter
from cryoseg.scoring import Normalisation, Scorer
from cryoseg.small_files import read_json
from cryoseg.steps import files_read
from cryoseg.versions import versions
from cryoseg.volumes import copied_near, open_mask, open_volume, written_aside

log = logging.getLogger("cryoseg")


def score_voxels(
    tomogram,
    checkpoint,
    model,
    scores,
    mask=None,
    *,
    settings,
    mem_mb=16000,
    attempt=1,
    device="auto",
    memory_gb="auto",
    tile_size="auto",
    batch_size=1,
    threads=None,
):
    """Write the scores file of a tomogram.

    model:    what inspect_model wrote of the checkpoint
    settings: {data: {min, max, mean, std}, precision, save_internal_files, runners_up}; the last,
              which thresholds by class need, may be left out where it is false
    The other arguments change how fast it goes, not what comes out: mem_mb is the memory that the
    job was given, attempt how often it was tried, tile_size "auto" or "z,y,x", memory_gb "auto" or
    a number or its text, threads the processors to use (None for all), the rest as in the stage's
    hyper_parameters.
    """
    started = time.monotonic()
    prepare_arithmetic()
    volume = open_volume(tomogram)
    data = settings["data"]
    check_intensities(tomogram, volume, data["min"], data["max"])
    asked = None if mask is None else open_mask(mask, volume.shape)

    normalisation = Normalisation(data["min"], data["max"], data["mean"], data["std"])
    if threads is not None:
        torch.set_num_threads(threads)
    device = choose_device(device)
    dtype = choose_dtype(settings["precision"], device)
    keep_all = settings["save_internal_files"]
    network = load_network(checkpoint)
    keep = {"probabilities": keep_all, "distances": keep_all}
    keep["runners_up"] = settings.get("runners_up", False)
    scorer = Scorer(network, device, dtype, **keep)
    tile = None if tile_size == "auto" else tuple(int(edge) for edge in tile_size.split(","))
    memory = tile_memory(device, memory_gb, mem_mb, attempt)
    attributes = {
        "voxel_size": volume.voxel_size,
        "origin": volume.origin,
        "nstart": volume.nstart,
        "tomogram_file": Path(tomogram).name,
        "checkpoint_sha256": read_json(model)["sha256"],
        "inputs": input_hashes(tomogram=tomogram, mask=mask),
        "settings": settings | {"precision": str(dtype).removeprefix("torch.")},
        "versions": versions("torch"),
    }
    channels = network.sizes.out_channels
    with (
        copied_near(tomogram) as near,
        written_aside(scores) as aside,
        ScoresWriter(aside, volume.shape, channels, attributes, **keep) as writer,
    ):
        summary = score_volume(
            open_volume(near), writer.write, scorer, memory, normalisation, asked,
            tile, batch_size, partial(progress, what="tiles"),
        )  # fmt: skip
        writer.update_attributes({"scored_voxels": summary.wanted})
    summary.seconds = time.monotonic() - started
    summary.device, summary.precision = device_name(device), str(dtype).removeprefix("torch.")
    summary.tile_memory, summary.peak = memory, peak_memory(device)
    if summary.wanted == 0:
        log.warning("%s: the mask %s is empty, so no voxel was scored", tomogram, mask)
    log.info(
        "%s: %d voxels wanted, %d computed, %d tiles, halo %s, %.1f s, peak memory %.2f GB, %s %s",
        tomogram, summary.wanted, summary.computed, summary.tiles, summary.halo,
        summary.seconds, summary.peak / 1e9, device, dtype,
    )  # fmt: skip
    return summary


def measured(summary):
    """What scoring took, as plain values, for the record and for plans of other runs."""
    names = ("wanted", "computed", "tiles", "seconds", "device", "precision", "tile_memory", "peak")
    return {name: getattr(summary, name) for name in names}


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake) as record:
        files = {**files_read(snakemake.input), **snakemake.output}
        how = ("mem_mb", "attempt", "device", "memory_gb", "tile_size", "batch_size")
        resources = {name: snakemake.resources[name] for name in how}
        resources["threads"] = snakemake.threads
        summary = score_voxels(**files, **snakemake.params, **resources)
        record["measured"] = measured(summary)

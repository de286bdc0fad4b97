"""Read a checkpoint and write down what it is, before any GPU is booked for it."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

from cryoseg.checkpoints import checkpoint_sha256, load_network
from cryoseg.errors import InputError
from cryoseg.joblog import log_to
from cryoseg.postprocessing import size_per_label, threshold_per_label
from cryoseg.provenance import recorded
from cryoseg.splits import split_behind
from cryoseg.tiling import measure_halo
from cryoseg.volumes import written_aside

log = logging.getLogger("cryoseg")

LARGEST_LABEL = 255  # labels are stored as uint8


def inspect_model(
    checkpoint,
    model,
    *,
    settings,
    one_channel=False,
    out_channels=0,
    postprocessing_sizes="null",
    threshold="null",
    masks=False,
):
    """Check that a checkpoint is a model that this stage can use, and describe it as JSON.

    settings:    {in_channels, spatial_dims} of the stage; None where it does not say
    out_channels: that the stage says the model has; 0 where it does not say
    one_channel: the stage cleans lamella masks, which takes a model of one channel
    postprocessing_sizes, threshold: of the stage, as JSON, to be compared with the model's channels
    masks:       another stage takes the labels for masks
    """
    sizes = load_network(checkpoint).sizes
    for name in ("in_channels", "spatial_dims"):
        wanted, found = settings[name], getattr(sizes, name)
        if wanted is not None and found != wanted:
            raise InputError(
                f"{checkpoint}: the model has {name} {found}, the stage's parameters.network asks "
                f"for {wanted}; name another trained_model, or correct the key"
            )
    if out_channels not in (0, sizes.out_channels):
        # CryoSiam's own files carry a number that does not belong to the model.
        log.warning(
            "%s: the model has out_channels %d, the stage says %d; the model's number counts",
            *(checkpoint, sizes.out_channels, out_channels),
        )
    if one_channel and sizes.out_channels > 1:
        raise InputError(
            f"{checkpoint}: postprocessing cleans the mask of a model with one channel, this model "
            f"has {sizes.out_channels}; name the lamella model, or set postprocessing to false"
        )
    if sizes.in_channels != 1:
        raise InputError(
            f"{checkpoint}: the model wants {sizes.in_channels} input channels; a tomogram has one"
        )
    if sizes.out_channels > LARGEST_LABEL + 1:
        raise InputError(
            f"{checkpoint}: the model has {sizes.out_channels} classes; the largest label "
            f"that can be stored is {LARGEST_LABEL}"
        )
    if masks and sizes.out_channels > 1:
        log.warning(
            "%s: the model has %d classes, and another stage's mask_folder is where its labels go; "
            "all but 0 count as inside the mask",
            *(checkpoint, sizes.out_channels),
        )
    try:
        size_per_label(json.loads(postprocessing_sizes), sizes.out_channels)
        threshold_per_label(json.loads(threshold), sizes.out_channels)
        halo = measure_halo(sizes)
    except InputError as error:
        raise InputError(f"{checkpoint}: {error}") from error
    description = asdict(sizes) | {
        "stride": sizes.stride,
        "halo": halo,
        "sha256": checkpoint_sha256(checkpoint),
        # Of evaluations, to tell on which tomograms the model was trained.
        "split": split_behind(checkpoint),
    }
    log.info(
        "%s: %d out_channels, %s blocks, halo %s", checkpoint, sizes.out_channels,
        sizes.block_type, description["halo"],
    )  # fmt: skip
    with written_aside(model) as aside:
        Path(aside).write_text(json.dumps(description, indent=2) + "\n")


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        asked = ("one_channel", "out_channels", "postprocessing_sizes", "threshold", "masks")
        labelling = {name: snakemake.resources[name] for name in asked}
        inspect_model(**snakemake.input, **snakemake.output, **snakemake.params, **labelling)

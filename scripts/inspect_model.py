"""Read a checkpoint and write down what it is, before any GPU is booked for it."""

import json
from dataclasses import asdict
from pathlib import Path

from cryoseg.checkpoints import checkpoint_sha256, load_network
from cryoseg.errors import InputError
from cryoseg.joblog import log_to
from cryoseg.tiling import measure_halo
from cryoseg.volumes import written_aside

LARGEST_LABEL = 255  # labels are stored as uint8


def inspect_model(checkpoint, model, *, settings):
    """Check that a checkpoint is a model that this stage can use, and describe it as JSON.

    settings: {in_channels, spatial_dims, out_channels}; None where the stage does not say
    """
    sizes = load_network(checkpoint).sizes
    for name, wanted in settings.items():
        found = getattr(sizes, name)
        if wanted is not None and found != wanted:
            raise InputError(
                f"{checkpoint}: the model has {name} {found}, the stage's parameters.network asks "
                f"for {wanted}; name another trained_model, or correct the key"
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
    description = asdict(sizes) | {
        "stride": sizes.stride,
        "halo": measure_halo(sizes),
        "sha256": checkpoint_sha256(checkpoint),
    }
    with written_aside(model) as aside:
        Path(aside).write_text(json.dumps(description, indent=2) + "\n")


if __name__ == "__main__":
    with log_to(snakemake.log[0]):
        inspect_model(**snakemake.input, **snakemake.output, **snakemake.params)

"""Draw a tomogram with its lamella mask and its classes in three planes."""

from pathlib import Path

from cryoseg.errors import InputError
from cryoseg.figures import draw_sections
from cryoseg.joblog import log_to
from cryoseg.provenance import recorded
from cryoseg.volumes import open_labels, open_mask, open_volume, written_aside


def draw_prediction(tomogram, mask, labels, picture, *, settings):
    """Write a PNG of a tomogram (MRC) and its predictions (HDF5 or MRC).

    settings: {class_names: names of labels 1, 2, ..., or None}
    """
    volume, classes = open_volume(tomogram), open_labels(labels)
    if tuple(classes.shape) != volume.shape:
        raise InputError(
            f"{labels}: labels are {tuple(classes.shape)}, the tomogram {tomogram} is "
            f"{volume.shape}; they must match"
        )
    figure = draw_sections(
        volume,
        open_mask(mask, volume.shape),
        classes,
        volume.voxel_size,
        Path(tomogram).name,
        settings["class_names"],
    )
    with written_aside(picture) as aside:
        figure.savefig(aside)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        draw_prediction(**snakemake.input, **snakemake.output, **snakemake.params)

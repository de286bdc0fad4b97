"""Measure how far each voxel of a label volume lies from the boundary of each class."""

from cryoseg.distances import write_distances
from cryoseg.joblog import log_to
from cryoseg.labels import ClassLabels
from cryoseg.provenance import attributes_of, recorded
from cryoseg.steps import files_read
from cryoseg.volumes import written_aside


def measure_distances(labels, distances, *, settings):
    """Write the signed squared distances of labels (MRC or HDF5) as HDF5.

    settings: out_channels, the output channels of the network that is trained with them
    """
    channels = settings["out_channels"]
    volume = ClassLabels(labels, channels)
    with written_aside(distances) as aside:
        about = attributes_of(settings, labels=labels) | {"voxel_size": volume.voxel_size}
        write_distances(aside, volume, channels, about)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        measure_distances(**files_read(snakemake.input), **snakemake.output, **snakemake.params)

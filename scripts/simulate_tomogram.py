"""Simulate a tomogram of a lamella, with the labels and the lamella mask that belong to it."""

from cryoseg.joblog import log_to
from cryoseg.provenance import header_lines, recorded
from cryoseg.simulation import simulate
from cryoseg.volumes import write_mrc


def simulate_tomogram(tomogram, labels, lamella, *, settings):
    """Write a simulated tomogram (float32 MRC), its labels and its lamella mask (byte MRCs).

    settings: the arguments of cryoseg.simulation.simulate, the tomogram's own seed among them
    """
    volumes = simulate(**settings)
    for path, volume in zip((tomogram, labels, lamella), volumes, strict=True):
        write_mrc(path, volume, voxel_size=settings["voxel_size"], about=header_lines(settings, {}))


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        simulate_tomogram(**snakemake.input, **snakemake.output, **snakemake.params)

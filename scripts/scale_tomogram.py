"""Scale a tomogram to [0, 1], white on black, without outliers."""

from cryoseg.intensities import ScaledVolume, intensity_range
from cryoseg.joblog import log_to, logger
from cryoseg.provenance import header_lines, input_hashes, recorded
from cryoseg.volumes import open_volume, write_mrc


def scale_tomogram(tomogram, scaled, *, settings):
    """Write the tomogram (MRC) scaled to [0, 1] as float32 MRC of the same geometry.

    settings: invert (true where protein is dark), lower_end_percentage and upper_end_percentage
              (percentiles that become 0 and 1, or 1 and 0)
    """
    volume = open_volume(tomogram)
    low, high = intensity_range(
        volume, settings["lower_end_percentage"], settings["upper_end_percentage"]
    )
    logger.info("%s: intensities %g to %g become 0 to 1", tomogram, low, high)
    about = header_lines(settings, input_hashes(tomogram=tomogram))
    data = ScaledVolume(volume, low, high, settings["invert"])
    write_mrc(scaled, data, like=volume, about=about)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        scale_tomogram(**snakemake.input, **snakemake.output, **snakemake.params)

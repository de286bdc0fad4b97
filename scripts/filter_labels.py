"""Keep selected labels of a volume, for training."""

import logging
from pathlib import Path

from cryoseg.errors import InputError
from cryoseg.joblog import log_to
from cryoseg.label_volumes import FilteredLabels, count_values, new_labels
from cryoseg.provenance import header_lines, input_hashes, recorded
from cryoseg.steps import files_read
from cryoseg.volumes import open_label_volume, write_mrc

log = logging.getLogger("cryoseg")


def filter_labels(labels, filtered, *, settings):
    """Write the selected labels (MRC or HDF5) as MRC of the same geometry; the rest becomes 0.

    settings: selected_labels (one label, which becomes 1; a list, which stays as it is; null for
              all), relabel (the labels of a list become 1, 2 ... in its order)
    """
    if Path(filtered).resolve() == Path(labels).resolve():
        raise InputError(f"{filtered} would replace the labels it is made of; name another folder")
    volume = open_label_volume(labels)
    counts = count_values(volume)
    new = new_labels(labels, counts, settings["selected_labels"], settings["relabel"])
    for label, count in counts.items():
        log.info("label %d becomes %d: %d voxels", label, new.get(label, 0), count)
    about = header_lines(settings, input_hashes(labels=labels))
    write_mrc(filtered, FilteredLabels(volume, new), like=volume, about=about)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        filter_labels(**files_read(snakemake.input), **snakemake.output, **snakemake.params)

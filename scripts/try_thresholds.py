"""Count the voxels of each class of one tomogram at every threshold."""

from pathlib import Path

from cryoseg.joblog import log_to
from cryoseg.postprocessing import threshold_per_label
from cryoseg.provenance import recorded
from cryoseg.scores import open_scores
from cryoseg.steps import files_read
from cryoseg.tables import write_table
from cryoseg.threshold_choice import count_at_thresholds
from cryoseg.true_labels import open_true_labels


def try_thresholds(scores, truth, table, mask=None, *, settings):
    """Write a table (TSV) of voxels, a row for each class and threshold.

    scores:   what score_voxels wrote of the tomogram
    truth:    true labels; 255 does not count
    mask:     file with the mask outside which nothing counts, if any
    settings: {threshold: what the stage has now}
    """
    name = Path(table).name.removesuffix("_thresholds.tsv")
    with open_scores(scores) as source:
        true = open_true_labels(name, scores, source["probability"].shape, truth, mask)
        now = threshold_per_label(settings["threshold"], int(source.attrs["channels"]))
        found = count_at_thresholds(source, true, now)
    found.insert(0, "tomogram", name)
    write_table(table, found)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        try_thresholds(**files_read(snakemake.input), **snakemake.output, **snakemake.params)

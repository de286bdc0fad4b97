"""Count the voxels of each class of one tomogram that stay where small components are removed."""

from pathlib import Path

import numpy as np
import pandas as pd

from cryoseg.joblog import log_to
from cryoseg.postprocessing import size_per_label, threshold_per_label, threshold_scores
from cryoseg.provenance import recorded
from cryoseg.scores import open_scores
from cryoseg.steps import files_read
from cryoseg.tables import read_table, write_table
from cryoseg.threshold_choice import chosen_values, count_at_present, count_at_sizes
from cryoseg.true_labels import open_true_labels


def try_sizes(scores, truth, thresholds, table, mask=None, *, settings):
    """Write a table (TSV) of voxels, a row for each class and size.

    scores, truth, mask: as of try_thresholds
    thresholds: what choose_thresholds wrote
    settings:   {threshold, postprocessing_sizes: what the stage has now}
    Rows are of labels made with the chosen thresholds; and, of those made with the present ones,
    what stays at the present sizes.
    """
    name = Path(table).name.removesuffix("_sizes.tsv")
    chosen = chosen_values(read_table(thresholds), "threshold")
    with open_scores(scores) as source:
        true = open_true_labels(name, scores, source["probability"].shape, truth, mask)
        channels = int(source.attrs["channels"])
        sizes = size_per_label(settings["postprocessing_sizes"], channels)
        by_label = np.array([0, *(chosen[label] for label in range(1, len(sizes)))])
        now = threshold_per_label(settings["threshold"], channels)
        found = count_at_sizes(threshold_scores(source, by_label)[0], true, sizes)
        present = count_at_present(threshold_scores(source, now)[0], true, sizes)
    found = pd.concat([found.assign(thresholds="chosen"), present.assign(thresholds="now")])
    found.insert(0, "tomogram", name)
    write_table(table, found)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        try_sizes(**files_read(snakemake.input), **snakemake.output, **snakemake.params)

"""Draw a tomogram and what was predicted for it, and write down what an overview needs of it."""

import base64
import csv
import json
from pathlib import Path

from cryoseg.errors import InputError
from cryoseg.figures import draw_sections, draw_thumbnail, jpeg_bytes
from cryoseg.joblog import log_to
from cryoseg.prediction_summary import (
    charts_of,
    class_rows,
    prediction_summary,
    provenance,
    threshold_of,
)
from cryoseg.prediction_tally import count_prediction
from cryoseg.provenance import recorded
from cryoseg.run_warnings import warnings_in
from cryoseg.scores import open_scores
from cryoseg.small_files import files_only
from cryoseg.volumes import open_labels, open_mask, open_volume, written_aside


def draw_prediction(tomogram, scores, labels, picture, summary, mask=None, *, settings):
    """Write a PNG of a tomogram and its labels, and a JSON file of volumes, warnings and the like.

    tomogram: MRC; scores, labels: HDF5, what the stage wrote of it
    mask:     the lamella mask that it was predicted within (HDF5 or MRC), if any
    settings: {stage: name, class_names: names of labels 1, 2, ..., or None, lamella: whether the
              labels, where there is one class, are a lamella mask, logs: folders of the logs of the
              tomogram's steps, benchmarks: folder of the records of its scoring}
    """
    name, volume = Path(labels).name.removesuffix("_preds.h5"), open_volume(tomogram)
    classes = open_labels(labels)
    if tuple(classes.shape) != volume.shape:
        raise InputError(
            f"{labels}: labels are {tuple(classes.shape)}, the tomogram {tomogram} is "
            f"{volume.shape}; they must match"
        )
    with open_scores(scores) as source:
        channels = int(source.attrs["channels"])
        lamella = settings["lamella"] and channels == 1
        inside = open_mask(mask, volume.shape) if mask and not lamella else None
        tally = count_prediction(classes, source, inside)
    found = class_rows(tally, settings["class_names"], channels, lamella)
    made_with = provenance(classes.file.attrs)
    shown = (volume, classes, None) if lamella else (volume, inside, classes)
    size, middle = volume.voxel_size, volume.shape[0] // 2
    richest = tally.richest
    figure = draw_sections(
        *shown, size, name, settings["class_names"] or [name for _, name, _ in found], richest,
        charts_of(tally, found, size, threshold_of(made_with)),
    )  # fmt: skip
    thumbnail = draw_thumbnail(*shown, size, middle if richest is None else richest)
    about = {
        "tomogram": name,
        "stage": settings["stage"],
        **prediction_summary(tally, found, volume.shape, size, lamella),
        "seconds": _seconds(Path(settings["benchmarks"], f"{name}.tsv")),
        "warnings": _warnings(settings["logs"], name),
        "made_with": made_with,
        "thumbnail": base64.b64encode(jpeg_bytes(thumbnail)).decode(),
    }
    with written_aside(summary) as aside:
        aside.write_text(json.dumps(about, indent=1, allow_nan=False))
    with written_aside(picture) as aside:
        figure.savefig(aside)


def _warnings(folders, name):
    """What the steps of a tomogram warned of, each once."""
    logs = (Path(folder, f"{name}.log") for folder in folders)
    return list(dict.fromkeys(warning for log in logs for warning in warnings_in(log)))


def _seconds(benchmark):
    """Seconds that the scoring took, or None where nobody wrote them down."""
    if not benchmark.exists():
        return None
    with open(benchmark, encoding="utf-8", opener=files_only) as file:
        return max(float(row["s"]) for row in csv.DictReader(file, delimiter="\t"))


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        draw_prediction(**snakemake.input, **snakemake.output, **snakemake.params)

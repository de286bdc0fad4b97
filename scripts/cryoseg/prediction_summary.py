"""What an overview says of a predicted tomogram, as plain values, and its charts."""

import json
import math

from cryoseg.figures import LAMELLA_ON_WHITE, Charts, class_colour
from cryoseg.labels import class_name
from cryoseg.volumes import is_known_size, voxel_nm3

LAMELLA = "lamella"


def class_rows(tally, class_names, channels, lamella):
    """(label, name, colour in charts) of the classes that a prediction may hold.

    tally:       PredictionTally
    class_names: of labels 1, 2, ..., or None
    channels:    of the network: 1, or one for each class and one for background
    lamella:     whether the labels are a lamella mask
    """
    if lamella:
        return [(1, LAMELLA, LAMELLA_ON_WHITE)]
    labels = set(range(1, max(2, channels))) | set(tally.voxels[1:].nonzero()[0] + 1)
    return [(int(n), class_name(int(n), class_names), class_colour(n)) for n in sorted(labels)]


def charts_of(tally, classes, voxel_size, threshold):
    """The Charts of a prediction.

    classes:    what class_rows returns
    voxel_size: (z, y, x) in Angstrom; see volumes.is_known_size
    threshold:  of all labels, or a mapping of those by label
    """
    each, whole, what = voxel_nm3(voxel_size) or 1, int(tally.voxels.sum()), "tomogram"
    if tally.inside is not None:
        whole, what = tally.inside, LAMELLA
    return Charts(
        volumes=[
            (name, colour, int(tally.voxels[n]) * each, _share(int(tally.voxels[n]), whole))
            for n, name, colour in classes
        ],
        whole=f"the {what} ({whole * each:,.0f})",
        unit="nm³" if is_known_size(voxel_size) else "voxels",
        histograms=[
            (name, colour, tally.histogram[n])
            for n, name, colour in classes
            if tally.histogram[n].any()
        ],
        thresholds=_thresholds(threshold, classes),
    )


def _thresholds(threshold, classes):
    if not isinstance(threshold, dict):
        return [("0.3", threshold)]
    return [(colour, threshold[n]) for n, _, colour in classes if n in threshold]


def prediction_summary(tally, classes, shape, voxel_size, lamella):
    """What there is of each class, as a dict for JSON.

    tally, classes: as of charts_of; shape: (z, y, x) in voxels; voxel_size: (z, y, x) in Angstrom
    lamella: whether the labels are a lamella mask
    Volumes are in nm^3, null where the voxel size is unknown; ``part`` is the share of the lamella
    that a class takes, without a mask that of the tomogram. The label of the lamella is null, as a
    class may have its name.
    """
    each = voxel_nm3(voxel_size)
    total = math.prod(shape)
    whole = total if tally.inside is None else tally.inside
    voxels, probabilities = tally.voxels.tolist(), tally.probability.tolist()
    found = [
        _class(None if lamella else n, name, voxels[n], whole, each, probabilities[n])
        for n, name, _ in classes
    ]
    if tally.inside is not None:
        found.insert(0, _class(None, LAMELLA, tally.inside, total, each, math.nan))
    labelled = int(tally.voxels[1:].sum())
    weighted = sum(
        count * mean for count, mean in zip(tally.voxels, tally.probability, strict=True) if count
        and not math.isnan(mean)
    )  # fmt: skip
    return {
        "shape": list(map(int, shape)),
        "voxel_size": list(map(float, voxel_size)) if each else None,
        "classes": found,
        "probability": weighted / labelled if labelled and weighted else None,
    }


def _class(label, name, voxels, whole, each, probability):
    return {
        "label": label,
        "name": name,
        "voxels": voxels,
        "volume": None if each is None else voxels * each,
        "part": _share(voxels, whole),
        "probability": None if math.isnan(probability) else probability,
    }


def _share(voxels, whole):
    return voxels / whole if whole else 0.0


def provenance(attributes):
    """What a prediction was made with, as a dict of dicts: checkpoint, settings, versions.

    attributes: of a prediction file, see predictions.py
    """
    return {
        "checkpoint_sha256": str(attributes["checkpoint_sha256"]),
        "settings": json.loads(attributes["settings"]),
        "versions": json.loads(attributes["versions"]),
    }


def threshold_of(made_with):
    """The threshold of all labels, or a dict of those by label; made_with: see ``provenance``."""
    threshold = made_with["settings"]["label_voxels"]["threshold"]
    if isinstance(threshold, dict):  # of JSON, which has texts as keys
        return {int(label): value for label, value in threshold.items()}
    return threshold

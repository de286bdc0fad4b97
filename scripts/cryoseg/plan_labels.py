"""What the rules of an entry under label are given."""

from cryoseg.folders import spelled
from cryoseg.label_stages import TOMOGRAM, by_label, sources
from cryoseg.plan_parts import records, volume

COMMON_KEYS = ("priority", "ignore_rim", "unit")
POSITION_KEYS = ("coordinate_voxel_size", "name_suffix", "allow_empty")


def labelling(stages, name):
    """What rules/labels.smk is given for an entry."""
    entry = stages.label[name]
    paths = {"labels": spelled(entry["output_path"])} | records(name)
    settings = {key: entry[key] for key in COMMON_KEYS}
    if entry["kind"] == "merge":
        return _merging(stages, name, paths, settings)
    tomograms, positions = stages.tomograms_to_label(name), sources(entry["positions"])
    settings |= {key: entry[key] for key in POSITION_KEYS}
    settings |= {
        "labels_of_files": labels_of_files(positions),
        "per_tomogram": any(TOMOGRAM in path for path in positions.values()),
        "labels": classes_of(entry["labels"]),
    }
    given = {
        "kind": entry["kind"],
        "paths": paths | {"tomograms": tomograms.folder, "extension": tomograms.extension},
        "positions": list(positions.values()),
        "volume": volume(tomograms),
    }
    if entry["kind"] == "particles":
        return given | {"settings": settings | {"radius": one_or_by_label(entry["radius"])}}
    averages = sources(entry["averages"])
    settings |= {key: entry[key] for key in ("invert", "average_voxel_size")}
    settings |= {
        "labels_of_averages": labels_of_files(averages),
        "threshold": one_or_by_label(entry["threshold"]),
    }
    return given | {"averages": list(averages.values()), "settings": settings}


def _merging(stages, name, paths, settings):
    masks = stages.masks_to_merge(name)
    ours = [
        label
        for label, path in sources(stages.label[name]["folders"]).items()
        if stages.writer_of(path)
    ]
    return {
        "kind": "merge",
        "paths": paths,
        "masks": [f"{place}/{TOMOGRAM}{end}" for place, end in masks.values()],
        "settings": settings | {"labels_of_masks": list(masks), "ignoring": ours},
        "volume": {"shape": None, "files": [(f"{place}/", end) for place, end in masks.values()]},
    }


def labels_of_files(by):
    """Labels of a list of files, or None where one file is for all."""
    return None if None in by else list(by)


def one_or_by_label(value):
    """One value for all labels as it is, or a mapping by number, in order."""
    return by_label(value) if isinstance(value, dict) else value


def classes_of(labels):
    """Labels of classes, in one order however they were written."""
    if not isinstance(labels, dict):
        return labels
    return {name: labels[name] for name in sorted(labels)}


def particles_to_find(wanted):
    """How the particles of an evaluate block are read, as label_making.particles_in wants it."""
    positions = sources(wanted["positions"])
    keys = ("coordinate_voxel_size", "name_suffix")
    return {key: wanted[key] for key in keys} | {
        "labels_of_files": labels_of_files(positions),
        "per_tomogram": any(TOMOGRAM in path for path in positions.values()),
        "labels": classes_of(wanted["labels"]),
        "allow_empty": True,  # a tomogram without particles is a tomogram to find none in
    }

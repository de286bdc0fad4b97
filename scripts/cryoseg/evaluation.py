"""Predicted labels of one tomogram against the true ones: a row of measures for each class."""

import logging

import numpy as np

from cryoseg.label_making import by_label, known_voxel_size, labels_of, particles_in
from cryoseg.labels import IGNORED, class_name
from cryoseg.metrics import count_pairs, voxel_measures
from cryoseg.objects import counted_at, find_objects, match, object_measures
from cryoseg.positions import read_positions
from cryoseg.surface_dice import surface_counts, surface_dice
from cryoseg.volumes import is_known_size, voxel_nm3

log = logging.getLogger("cryoseg")

ANGSTROM_PER_NM = 10


def measure_classes(compared, voxel_size, tolerance_nm, class_names=None, particles=()):
    """Measures of each class: a list of dicts, by label.

    compared:     metrics.Compared
    voxel_size:   z, y, x in Angstrom; where it is unknown, lengths are NaN
    tolerance_nm: of the surface Dice, in nm
    class_names:  names of labels 1, 2, ... or None
    particles:    labels that have positions
    There is a dict for each label that has a name or positions, or occurs.
    """
    pairs = count_pairs(compared)
    true_voxels, found_voxels = pairs.sum(1), pairs.sum(0)
    known = is_known_size(voxel_size)
    voxel_nm = np.array(voxel_size) / ANGSTROM_PER_NM if known else None
    surfaces = surface_counts(compared, tolerance_nm, voxel_nm) if known else None
    there = np.flatnonzero(true_voxels + found_voxels)
    named = range(1, len(class_names or ()) + 1)
    rows = []
    for label in sorted({*there.tolist(), *named, *particles} - {0, IGNORED}):
        true, found = int(true_voxels[label]), int(found_voxels[label])
        surface = surface_dice(surfaces[label]) if known else np.nan
        counts = true, found, int(pairs[label, label])
        rows.append(_row(label, class_names, counts, surface, voxel_size))
    return rows


def measures_of_nothing(labels, voxel_size, class_names=None):
    """What measure_classes gives for labels that are in neither volume."""
    return [_row(label, class_names, (0, 0, 0), np.nan, voxel_size) for label in labels]


def _row(label, class_names, counts, surface, voxel_size):
    """A row of a class; counts: of voxels (true, found, common)."""
    true, found, common = counts
    volume = voxel_nm3(voxel_size) or np.nan
    return {
        "label": label,
        "class": class_name(label, class_names),
        "true_voxels": true,
        "found_voxels": found,
        "common_voxels": common,
        **voxel_measures(true, found, common),
        "surface_dice": surface,
        "true_volume_nm3": true * volume,
        "found_volume_nm3": found * volume,
    }


def particle_labels(files, settings):
    """Labels that any tomogram has positions of: sorted.

    files, settings: as in label_making.particles_in
    """
    own_labels = settings["labels_of_files"] or [settings["labels"]] * len(files)
    found = set()
    for path, labels in zip(files, own_labels, strict=True):
        found.update(labels_of(read_positions(path), labels).tolist())
    return sorted(found - {0})


def measure_objects(compared, volume, name, files, settings):
    """Measures of the objects of each particle class: label -> dict.

    compared: metrics.Compared
    volume:   Volume of the predicted labels, of which only the place counts
    name:     of the tomogram
    files:    STAR or CSV files of true positions
    settings: as in label_making.particles_in, and match_radius_nm, one or by label
    What lies in voxels that do not count, or outside the volume, is left out: positions, and
    objects by their middles.
    Raises InputError where the voxel size is not known.
    """
    voxel_nm = np.array(known_voxel_size(volume)) / ANGSTROM_PER_NM
    labels = particle_labels(files, settings)
    radii = by_label(settings["match_radius_nm"], labels, "match_radius_nm")
    particles = particles_in(volume, name, files, settings, all_outside=True)
    objects = find_objects(compared, labels)
    measured = {}
    for label in labels:
        points = particles.points[particles.labels == label]
        points, middles = (
            each[counted_at(compared, each)] * voxel_nm for each in (points, objects[label])
        )
        matched = len(match(points, middles, radii[label]))
        measured[label] = {
            "true_objects": len(points),
            "found_objects": len(middles),
            "matched_objects": matched,
            **object_measures(len(points), len(middles), matched),
        }
    return measured

"""Which particles a tomogram has, which labels they get, and how large they are drawn.

Labels are 1 to 254; 0 is background, 255 (IGNORED) a voxel that nobody knows.
"""

import logging
from dataclasses import dataclass

import numpy as np

from cryoseg.errors import InputError, quoted
from cryoseg.labels import IGNORED
from cryoseg.positions import count_outside, no_positions, positions_in, read_positions
from cryoseg.volumes import is_known_size, slabs

log = logging.getLogger("cryoseg")

LARGEST_LABEL = 254


# The particles of one tomogram


@dataclass(frozen=True, eq=False)
class Particles:
    """Particles of one tomogram.

    points: (n, 3) z, y, x in its voxels
    labels: (n,) from 1 to 254
    turns:  (n, 3, 3) as in Positions, None for particles without angles
    """

    points: np.ndarray
    labels: np.ndarray
    turns: np.ndarray | None


def particles_in(tomogram, name, files, settings, all_outside=False):
    """Read the particles of one tomogram from files of positions.

    tomogram: a Volume, of which only the place counts; name: its file name less the ending
    files:    STAR or CSV files
    settings: labels_of_files (one for each file, or None), labels, coordinate_voxel_size,
              name_suffix, per_tomogram, allow_empty
    all_outside: whether all of a file may lie outside
    Raises InputError where there are none (unless allow_empty) or all lie outside (unless
    all_outside). What lies outside or is left out is logged.
    """
    own_labels = settings["labels_of_files"] or [settings["labels"]] * len(files)
    parts, lacking = [], []
    for path, labels in zip(files, own_labels, strict=True):
        every = read_positions(path)
        own = positions_in(every, name, settings["name_suffix"], settings["per_tomogram"])
        if not len(own):
            lacking.append(no_positions(every, name))
        points = own.voxels(tomogram.shape, tomogram.voxel_size, settings["coordinate_voxel_size"])
        _warn_of_outside(name, path, points, tomogram.shape, all_outside)
        parts.append(_labelled(own, points, labels))
    if len(lacking) == len(files) and not settings["allow_empty"]:
        raise InputError(f"{'; '.join(lacking)}; where that is right, set allow_empty: true")
    for sentence in lacking:  # of several classes, a tomogram need not have all
        log.warning("%s", sentence)
    return _joined(parts)


def _joined(parts):
    turns = [part.turns if len(part.points) else np.zeros((0, 3, 3)) for part in parts]
    return Particles(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.labels for part in parts]),
        None if any(each is None for each in turns) else np.concatenate(turns),
    )


def _warn_of_outside(name, path, points, shape, all_outside):
    outside = count_outside(points, shape)
    if not outside:
        return
    (z0, y0, x0), (z1, y1, x1) = points.min(0), points.max(0)
    text = (
        f"{name}: {outside} of {len(points)} positions in {path} lie outside the tomogram of "
        f"{' x '.join(map(str, shape))} voxels; they are at z {z0:.0f} to {z1:.0f}, "
        f"y {y0:.0f} to {y1:.0f}, x {x0:.0f} to {x1:.0f}"
    )
    remedy = "if they count in other voxels, give coordinate_voxel_size"
    if outside == len(points) and not all_outside:
        raise InputError(f"{text}; {remedy}")
    log.warning("%s; %s", text, remedy)


def _labelled(positions, points, labels):
    found = labels_of(positions, labels)
    kept = found != 0
    if not kept.all():
        log.info("%s: %d positions of other classes are left out", positions.path, sum(~kept))
    turns = positions.turns
    return Particles(points[kept], found[kept], None if turns is None else turns[kept])


# What settings say for each label


def by_label(value, labels, key):
    """One value for each of ``labels``: those of a mapping {label: value}, or the same for all.

    key: what messages call the setting. Raises InputError where a mapping leaves out a label.
    """
    if not isinstance(value, dict):
        return dict.fromkeys(labels, value)
    values = {int(label): each for label, each in value.items()}
    missing = sorted(set(labels) - set(values))
    if missing:
        raise InputError(
            f"{key} has {sorted(values)}, and there are positions with label "
            f"{', '.join(map(str, missing))}; add these to {key}, or leave them out with labels"
        )
    return {label: values[label] for label in labels}


def labels_of(positions, labels):
    """The label of each position, (n,) integers; 0 for those that are to be left out.

    labels: one label for all, a mapping {class: label}, or None: the class number is the label,
            1 where the file has no classes
    Raises InputError for classes that cannot be labels.
    """
    if isinstance(labels, int):
        return np.full(len(positions), labels)
    if positions.classes is None:
        if labels is not None:
            raise InputError(
                f"{positions.path}: there is no column of classes (rlnClassNumber, "
                "semantic_class), which labels would translate; give labels one number"
            )
        return np.ones(len(positions), int)
    found = sorted(set(positions.classes))
    if labels is None:
        known = {name: _class_label(positions.path, name) for name in found}
    else:
        wanted = {_class_name(name): int(label) for name, label in labels.items()}
        known = {name: wanted.get(_class_name(name), 0) for name in found}
    return np.array([known[name] for name in positions.classes], dtype=int)


def _class_name(text):
    """A class as text, whichever way a number is written: 1, '1' and 1.0 are the same."""
    try:
        number = float(text)
    except ValueError:
        return str(text)
    return str(int(number)) if number.is_integer() else str(text)


def _class_label(path, text):
    name = _class_name(text)
    if (
        name.isdecimal()
        and len(name) <= len(str(LARGEST_LABEL))
        and 1 <= int(name) <= LARGEST_LABEL
    ):
        return int(name)
    raise InputError(
        f"{path}: class {quoted(text)} is no label from 1 to {LARGEST_LABEL}; say with labels "
        "which label each class gets"
    )


def drawing_order(labels, priority):
    """``labels`` in the order in which they are drawn: the most important one last.

    priority: labels, the most important one first; those it does not name come after these,
              smaller ones first
    """
    ranks = {label: rank for rank, label in enumerate(priority or [])}
    return sorted(set(labels), key=lambda label: (ranks.get(label, np.inf), label), reverse=True)


# Lengths


def known_voxel_size(volume):
    """Voxel size (z, y, x) in Angstrom of a Volume; InputError if its header does not know it."""
    if is_known_size(volume.voxel_size):
        return volume.voxel_size
    raise InputError(
        f"{volume.path}: the header has no voxel size, which lengths in Angstrom need; write it "
        "into the header, or give lengths with unit: voxel"
    )


def in_voxels(volume, length, unit):
    """A length as (z, y, x) in voxels of a Volume; unit: angstrom or voxel."""
    if unit == "voxel" or not length:
        return (float(length),) * 3
    size = known_voxel_size(volume)
    if set(size) == {1.0}:
        log.warning("%s: the header says 1 Angstrom per voxel; is that so?", volume.path)
    return tuple(length / each for each in size)


def in_angstrom(volume, length, unit):
    """A length in Angstrom; a voxel of a Volume whose axes differ is as long as the shortest."""
    return length * min(known_voxel_size(volume)) if unit == "voxel" else float(length)


def average_voxel_size(average, given):
    """Voxel size (z, y, x) of an average (Volume) in Angstrom: as given, or by its header."""
    if given:
        return (given,) * 3
    if is_known_size(average.voxel_size):
        return average.voxel_size
    raise InputError(
        f"{average.path}: the header has no voxel size; give average_voxel_size in Angstrom"
    )


def check_turned(name, particles):
    """Raise InputError if there are particles without angles."""
    if particles.turns is None and len(particles.points):
        raise InputError(
            f"{name}: the positions have no angles (rlnAngleRot, Tilt, Psi), without which an "
            "average cannot be placed; give a STAR file of a refinement, or use kind: particles"
        )


def report(name, drawing, particles):
    """Log what was drawn for the tomogram ``name``."""
    counts = np.zeros(256, np.int64)
    for piece in slabs(drawing.labels.shape, 8):  # bincount makes 8 bytes of each
        counts += np.bincount(drawing.labels[piece].ravel(), minlength=256)
    for label in np.unique(particles.labels).tolist():
        number = int(np.count_nonzero(particles.labels == label))
        log.info("%s: label %d: %d positions, %d voxels", name, label, number, counts[label])
    if counts[IGNORED]:
        log.info("%s: %d voxels are ignored", name, counts[IGNORED])
    if drawing.contested:
        log.info("%s: %d voxels belong to more than one label", name, drawing.contested)
    if drawing.missed:
        log.warning(
            "%s: %d particles cover no voxel: they lie outside or are too small",
            name, drawing.missed,
        )  # fmt: skip

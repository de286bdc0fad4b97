"""Labels made of positions: spheres, or subtomogram averages where particles have angles.

Labels are uint8; 0 is background and 255 (IGNORED) is a voxel that nobody knows, which counts in
no loss and no metric.
"""

import logging
from dataclasses import dataclass

import numpy as np

from cryoseg.errors import InputError
from cryoseg.joblog import progress
from cryoseg.positions import count_outside, no_positions, positions_in, read_positions
from cryoseg.volumes import slabs

log = logging.getLogger("cryoseg")

IGNORED = 255
LARGEST_LABEL = 254
# Voxel sizes in headers have seven digits; a voxel just at the radius must not depend on the last.
TOLERANCE = 1e-5


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


def particles_in(tomogram, name, files, settings):
    """Read the particles of one tomogram from files of positions.

    tomogram: a Volume, of which only the place counts; name: its file name less the ending
    files:    STAR or CSV files
    settings: labels_of_files (one for each file, or None), labels, coordinate_voxel_size,
              name_suffix, per_tomogram, allow_empty
    Raises InputError where there are none (unless allow_empty) or all lie outside. What lies
    outside or is left out is logged.
    """
    own_labels = settings["labels_of_files"] or [settings["labels"]] * len(files)
    parts = []
    for path, labels in zip(files, own_labels, strict=True):
        every = read_positions(path)
        own = positions_in(every, name, settings["name_suffix"], settings["per_tomogram"])
        if not len(own):
            _none_found(no_positions(every, name), settings["allow_empty"])
        points = own.voxels(tomogram.shape, tomogram.voxel_size, settings["coordinate_voxel_size"])
        _warn_of_outside(name, path, points, tomogram.shape)
        parts.append(_labelled(own, points, labels))
    turns = [part.turns for part in parts]
    return Particles(
        np.concatenate([part.points for part in parts]),
        np.concatenate([part.labels for part in parts]),
        None if any(each is None for each in turns) else np.concatenate(turns),
    )


def _none_found(sentence, allowed):
    if not allowed:
        raise InputError(f"{sentence}; where that is right, set allow_empty: true")
    log.warning("%s", sentence)


def _warn_of_outside(name, path, points, shape):
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
    if outside == len(points):
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
    if name.isdecimal() and 1 <= int(name) <= LARGEST_LABEL:
        return int(name)
    raise InputError(
        f"{path}: class {text!r} is no label from 1 to {LARGEST_LABEL}; say with labels which "
        "label each class gets"
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
    if all(size > 0 for size in volume.voxel_size):
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
    if all(size > 0 for size in average.voxel_size):
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


# Objects at positions


@dataclass
class Drawing:
    """A volume of labels (Z x Y x X, uint8) into which objects are drawn one over the other.

    contested: voxels that an object took from one with another label
    missed:    objects that cover no voxel
    """

    labels: np.ndarray
    contested: int = 0
    missed: int = 0

    def add(self, box, inside, rim, label):
        """Draw an object.

        box: slices; inside: its voxels in the box, boolean
        rim: voxels to be ignored unless they belong to an object, before or after this one; None
             for none
        """
        here = self.labels[box]
        self.missed += not inside.any()
        if rim is not None:
            here[rim & (here == 0)] = IGNORED
        before = here[inside]
        self.contested += int(
            np.count_nonzero((before != 0) & (before != IGNORED) & (before != label))
        )
        here[inside] = label


def box_around(point, reach, shape):
    """The box of voxels within ``reach`` of a point, cut at the volume's faces, as slices.

    point, reach: z, y, x in voxels. Returns None where the box misses the volume.
    """
    lower = np.maximum(np.ceil(point - reach), 0).astype(int)
    upper = np.minimum(np.floor(point + reach) + 1, shape).astype(int)
    return tuple(map(slice, lower, upper)) if (lower < upper).all() else None


def draw_spheres(drawing, points, label, radius, rim=(0, 0, 0)):
    """Draw a sphere around each of the points.

    points: (n, 3) z, y, x in voxels, not rounded
    radius: in voxels along z, y, x, which differ where voxels are no cubes
    rim:    width beyond the radius that is ignored, likewise
    """
    radius, outer = np.asarray(radius, float), np.add(radius, rim)
    for point in progress(points, what="spheres"):
        box = box_around(point, outer * (1 + TOLERANCE), drawing.labels.shape)
        if box is None:
            drawing.missed += 1
            continue
        inside = _within(box, point, radius)
        ignored = _within(box, point, outer) if np.any(rim) else None
        drawing.add(box, inside, ignored, label)


def _within(box, point, radii):
    """Which voxels of the box lie in the ellipsoid of these radii around the point."""
    axes = [
        ((np.arange(part.start, part.stop) - middle) / radius) ** 2
        for part, middle, radius in zip(box, point, radii, strict=True)
    ]
    return sum(np.ix_(*axes)) <= 1 + TOLERANCE


@dataclass(frozen=True, eq=False)
class Shape:
    """A particle's shape, cut out of a subtomogram average.

    density:    (z, y, x) float32; what is at least ``threshold`` belongs to the particle
    distance:   (z, y, x) float32, Angstrom from its nearest voxel; None where no rim is wanted
    middle:     (z, y, x) of the average's middle, in voxels of these arrays
    voxel_size: (z, y, x) in Angstrom
    rim:        width in Angstrom
    reach:      Angstrom from the middle beyond which there is neither particle nor rim
    """

    density: np.ndarray
    distance: np.ndarray | None
    threshold: float
    middle: np.ndarray
    voxel_size: np.ndarray
    rim: float
    reach: float


def shape_of(name, density, voxel_size, threshold, invert=False, rim=0.0):
    """The Shape of a particle from its average.

    name:       what messages call it
    density:    (Z, Y, X); the particle's middle is its voxel n // 2
    voxel_size: (z, y, x) in Angstrom
    threshold:  density from which on a voxel belongs to the particle; up to which, with invert
    rim:        width in Angstrom that will be ignored around it
    Raises InputError where nothing or everything belongs to the particle.
    """
    sign = -1 if invert else 1
    density = sign * np.asarray(density, np.float32)
    threshold = np.float32(sign * threshold)
    inside = density >= threshold
    low, high = sorted((sign * float(density.min()), sign * float(density.max())))
    if not inside.any() or inside.all():
        raise InputError(
            f"{name}: {'no' if not inside.any() else 'every'} voxel of the average belongs to the "
            f"particle: densities are {low:g} to {high:g}, the threshold is {sign * threshold:g}"
            f"{' (invert)' if invert else ''}; choose a threshold in between"
        )
    voxel_size = np.array(voxel_size, float)
    margin = np.ceil(rim / voxel_size).astype(int) + 1
    # Beyond the average there is nothing; a margin around it leaves room for the rim.
    density = np.pad(density, [(m, m) for m in margin], constant_values=density.min())
    middle = np.array(inside.shape) // 2 + margin
    inside = np.pad(inside, [(m, m) for m in margin])
    where = np.argwhere(inside)
    lower, upper = where.min(0) - margin, where.max(0) + margin + 1
    crop = tuple(map(slice, lower, upper))
    offsets = (where - middle) * voxel_size
    return Shape(
        density=np.ascontiguousarray(density[crop]),
        distance=distance_from(inside[crop], voxel_size) if rim else None,
        threshold=float(threshold),
        middle=middle - lower,
        voxel_size=voxel_size,
        rim=rim,
        # Interpolated, the particle ends less than a voxel beyond its outermost one.
        reach=float(np.linalg.norm(offsets, axis=1).max() + np.linalg.norm(voxel_size) + rim),
    )


def distance_from(inside, spacing):
    """Distance of each voxel (float32) from the nearest one that is inside, 0 there."""
    import edt

    return edt.edt(np.ascontiguousarray(~inside), anisotropy=tuple(map(float, spacing)), parallel=1)


def draw_shapes(drawing, points, turns, label, shape, voxel_size):
    """Draw a shape, turned, at each of the points.

    points:     (n, 3) z, y, x in voxels of the labels
    turns:      (n, 3, 3) matrices from x, y, z of the average to x, y, z of the labels
    shape:      Shape; voxel_size: of the labels, (z, y, x) in Angstrom
    """
    from scipy.ndimage import affine_transform

    voxel_size = np.array(voxel_size, float)
    size = np.array(drawing.labels.shape)
    for point, turn in progress(zip(points, turns, strict=True), len(points), "shapes"):
        box = box_around(point, shape.reach / voxel_size, size)
        if box is None:
            drawing.missed += 1
            continue
        # From a voxel of the box back into the average: Angstrom, turned, voxels. The inverse of
        # a rotation is its transpose, and reversing both axes takes x, y, z to z, y, x.
        back = turn.T[::-1, ::-1] * voxel_size / shape.voxel_size[:, None]
        start = np.array([part.start for part in box])
        how = {
            "matrix": back,
            "offset": shape.middle + back @ (start - point),
            "output_shape": tuple(part.stop - part.start for part in box),
            "order": 1,
        }
        inside = affine_transform(shape.density, cval=shape.density.min(), **how) >= shape.threshold
        rim = None
        if shape.distance is not None:
            rim = affine_transform(shape.distance, cval=np.inf, **how) <= shape.rim
        drawing.add(box, inside, rim, label)


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

"""Objects drawn into volumes of labels: spheres, and turned shapes cut out of averages."""

from dataclasses import dataclass

import numpy as np

from cryoseg.errors import InputError
from cryoseg.joblog import progress
from cryoseg.labels import IGNORED

# Voxel sizes in headers have seven digits; a voxel just at the radius must not depend on the last.
TOLERANCE = 1e-5


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

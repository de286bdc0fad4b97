"""A simulated lamella and what lies in it: membranes, particles and filaments, as densities.

Densities are relative to the ice (0); a large particle is about 1. Sizes are in nm and become
voxels by the voxel size. Every object is worked out only in the small boxes that it touches.
"""

import logging
from dataclasses import dataclass

import numpy as np

from cryoseg.particles import BACKGROUND, FILAMENT, MEMBRANE, random_rotation

logger = logging.getLogger(__name__)

# Two leaflets 4 nm apart and as thick as head groups; with them a membrane is 6 nm thick.
LEAFLET_OFFSET_NM, LEAFLET_SIGMA_NM, MEMBRANE_NM = 2.0, 0.8, 6.0
MEMBRANE_DENSITY = 1.3
FILAMENT_NM = 7.5  # as F-actin
FILAMENT_DENSITY = 1.3
VESICLE_RADIUS_NM = (20.0, 60.0)
SHEET_RADIUS_NM = (50.0, 120.0)
FILAMENT_LENGTH_NM = (80.0, 250.0)
PERSISTENCE_NM = 300.0
# Beyond this share of a particle's own maximum a voxel belongs to it.
OUTLINE = 0.35
# Once an object found none of so many places free, it and those after it are left out.
PLACES_TRIED = 60
BLOCK = 16  # voxels: edge of the boxes in which surfaces are worked out


@dataclass(frozen=True, eq=False)
class Specimen:
    """What is imaged: density (float32) and labels (uint8), both Z x Y x X, and their frame.

    lamella:  uint8, 1 inside the slab
    voxel_nm: edge of a voxel in nm
    """

    density: np.ndarray
    labels: np.ndarray
    lamella: np.ndarray
    voxel_nm: float

    def add(self, box, density, inside, label):
        """Lay an object over the box (three slices); what is labelled already keeps its label."""
        np.maximum(self.density[box], density, out=self.density[box])
        labels = self.labels[box]
        labels[inside & (labels == BACKGROUND)] = label

    def place_inside(self, rng):
        """A random place in the slab: (z, y, x) in voxels."""
        for _ in range(1000):
            place = rng.uniform(0, self.labels.shape)
            if self.lamella[tuple(place.astype(int))]:
                return place
        raise ValueError("the lamella fills less than a thousandth of the volume")


def _box(shape, centre, reach):
    """Slices of the box around ``centre`` within the volume, and its voxels' offsets from it."""
    lower = np.clip(np.floor(centre - reach).astype(int), 0, shape)
    upper = np.clip(np.ceil(centre + reach).astype(int) + 1, 0, shape)
    box = tuple(map(slice, lower, upper))
    axes = [np.arange(a, b) - c for a, b, c in zip(lower, upper, centre, strict=True)]
    return box, [axis.astype(np.float32) for axis in axes]


# Membranes


def add_membranes(specimen, count, rng):
    """Add ``count`` bilayers, every third an open sheet and the others closed vesicles."""

    def add_one(number):
        make = _sheet if number % 3 == 2 else _vesicle
        return _add_surface(specimen, *make(specimen, rng))

    _add_all(add_one, count, "membranes")


def _vesicle(specimen, rng):
    """Centre in voxels, reach in nm, and distance function of an undulating ellipsoid."""
    radii = rng.uniform(*VESICLE_RADIUS_NM) * rng.uniform(0.8, 1.2, 3)
    rotation = random_rotation(rng)
    waves, phases = rng.normal(0, 2, (3, 3)), rng.uniform(0, 2 * np.pi, 3)

    def distance(offsets):
        """nm from the surface, to first order, at offsets (..., 3) in nm from the centre."""
        scaled = offsets @ rotation / radii
        length = np.linalg.norm(scaled, axis=-1) + 1e-6
        direction = scaled / length[..., None]
        undulation = 0.03 * np.sin(direction @ waves + phases).sum(-1)
        slope = np.linalg.norm(direction / radii, axis=-1)
        return np.abs(length - 1 - undulation) / slope

    return specimen.place_inside(rng), radii.max() * 1.1, distance


def _sheet(specimen, rng):
    """The same for a disc that is bent along two axes, standing rather upright."""
    radius = rng.uniform(*SHEET_RADIUS_NM)
    normal = np.array([rng.normal(0, 0.3), *rng.normal(size=2)])
    frame, _ = np.linalg.qr(np.column_stack([normal, rng.normal(size=(3, 2))]))
    curvatures = rng.normal(0, 1 / (3 * radius), 2)

    def distance(offsets):
        height, u, v = np.moveaxis(offsets @ frame, -1, 0)
        bent = (curvatures[0] * u**2 + curvatures[1] * v**2) / 2
        slope = np.sqrt(1 + (curvatures[0] * u) ** 2 + (curvatures[1] * v) ** 2)
        beyond = np.maximum(np.hypot(u, v) - radius, 0)
        return np.hypot((height - bent) / slope, beyond)

    return specimen.place_inside(rng), radius * 1.2, distance


def _add_surface(specimen, centre, reach_nm, distance):
    """Add the bilayer around a surface unless it meets another object; returns whether."""
    thick = MEMBRANE_NM / 2 + 2 * specimen.voxel_nm
    pieces = []
    for box, offsets in _blocks_near(specimen, centre, reach_nm, distance, thick):
        apart = distance(offsets * specimen.voxel_nm).astype(np.float32)
        inside = apart <= MEMBRANE_NM / 2
        if specimen.labels[box][inside].any():
            return False
        pieces.append((box, apart, inside))
    # A voxel averages over itself: a profile narrower than that would flicker.
    sigma = np.hypot(LEAFLET_SIGMA_NM, 0.4 * specimen.voxel_nm)
    for box, apart, inside in pieces:
        profile = np.exp(-(((apart - LEAFLET_OFFSET_NM) / sigma) ** 2) / 2)
        specimen.add(box, MEMBRANE_DENSITY * profile, inside, MEMBRANE)
    return bool(pieces)


def _blocks_near(specimen, centre, reach_nm, distance, thick):
    """Boxes of BLOCK voxels that the surface may touch, with their voxels' offsets (z, y, x, 3)."""
    shape = np.array(specimen.labels.shape)
    reach = reach_nm / specimen.voxel_nm + 2
    lower = np.clip((centre - reach).astype(int), 0, shape)
    upper = np.clip((centre + reach).astype(int) + 1, 0, shape)
    corners = np.stack(
        np.meshgrid(*map(np.arange, lower, upper, (BLOCK,) * 3), indexing="ij"), axis=-1
    ).reshape(-1, 3)
    middles = (corners + BLOCK / 2 - centre) * specimen.voxel_nm
    # Half a block's diagonal, and a third more since distances are first order only.
    near = distance(middles) < 1.3 * (BLOCK * 0.87 * specimen.voxel_nm) + thick
    for corner in corners[near]:
        end = np.minimum(corner + BLOCK, upper)
        axes = [np.arange(a, b) - c for a, b, c in zip(corner, end, centre, strict=True)]
        offsets = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float32)
        yield tuple(map(slice, corner, end)), offsets


# Particles


def add_particles(specimen, particle, count, rng):
    """Add ``count`` copies of ``particle``, turned at random, none touching another object."""
    reach = particle.reach_nm / specimen.voxel_nm + 1

    def add_one(number):
        place = specimen.place_inside(rng)
        if specimen.labels[tuple(place.astype(int))]:
            return False
        box, axes = _box(specimen.labels.shape, place, reach)
        density = particle.density(axes, specimen.voxel_nm, random_rotation(rng))
        inside = density > OUTLINE * density.max()
        if specimen.labels[box][inside].any():
            return False
        specimen.add(box, density, inside, particle.label)
        return True

    _add_all(add_one, count, particle.name)


# Filaments


def add_filaments(specimen, count, rng):
    """Add ``count`` smoothly bent tubes that end where they meet another object."""
    _add_all(lambda number: _add_filament(specimen, rng), count, "filaments")


def _add_filament(specimen, rng):
    path = _path(specimen, rng)
    if len(path) * specimen.voxel_nm < FILAMENT_LENGTH_NM[0] / 2:
        return False
    sigma = np.hypot(FILAMENT_NM / 4, 0.4 * specimen.voxel_nm)
    reach = (FILAMENT_NM / 2 + 2 * sigma) / specimen.voxel_nm
    for piece in np.array_split(path, max(1, len(path) // 12)):
        middle = (piece.min(0) + piece.max(0)) / 2
        box, (z, y, x) = _box(specimen.labels.shape, middle, np.ptp(piece, axis=0) / 2 + reach)
        apart = np.full((len(z), len(y), len(x)), np.inf, np.float32)
        for point in (piece - middle).astype(np.float32):
            squares = ((axis - at) ** 2 for axis, at in zip((z, y, x), point, strict=True))
            np.minimum(apart, sum(np.ix_(*squares)), out=apart)
        apart = np.sqrt(apart) * specimen.voxel_nm
        density = FILAMENT_DENSITY * np.exp(-((apart / sigma) ** 2) / 2)
        specimen.add(box, density, apart <= FILAMENT_NM / 2, FILAMENT)
    return True


def _path(specimen, rng):
    """Points (n, 3), one voxel apart, along which a filament runs until it meets something."""
    steps = int(rng.uniform(*FILAMENT_LENGTH_NM) / specimen.voxel_nm)
    place = specimen.place_inside(rng)
    direction = np.array([rng.normal(0, 0.3), *rng.normal(size=2)])
    # Direction is forgotten over the persistence length: worm-like chain.
    bend = np.sqrt(specimen.voxel_nm / PERSISTENCE_NM)
    path = []
    for _ in range(steps):
        voxel = tuple(place.astype(int))
        if not ((place >= 0) & (place < specimen.labels.shape)).all() or specimen.labels[voxel]:
            break
        path.append(place)
        direction = direction / np.linalg.norm(direction) + rng.normal(0, bend, 3)
        place = place + direction / np.linalg.norm(direction)
    return np.array(path).reshape(-1, 3)


def _add_all(add_one, count, name):
    """Call add_one(0), add_one(1) ... until each returned true once, and log how many did."""
    placed = 0
    # The first that finds no place shows that the lamella is full.
    while placed < count and any(add_one(placed) for _ in range(PLACES_TRIED)):
        placed += 1
    logger.info("%d of %d %s found a place", placed, count, name)

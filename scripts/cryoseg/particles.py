"""Two simulated particles, as sums of Gaussian blobs, and the labels of all that is simulated."""

from dataclasses import dataclass

import numpy as np

BACKGROUND, MEMBRANE, LARGE_PARTICLE, SMALL_PARTICLE, FILAMENT = range(5)


def random_rotation(rng):
    """A 3 x 3 rotation matrix, uniform over all rotations.

    QR of Gaussian numbers, with signs fixed (F. Mezzadri, Notices of the AMS 54, 592, 2007).
    """
    matrix, upper = np.linalg.qr(rng.normal(size=(3, 3)))
    matrix *= np.sign(np.diag(upper))
    return matrix * np.linalg.det(matrix)


@dataclass(frozen=True, eq=False)
class Particle:
    """A particle made of round Gaussian blobs of one width.

    label:   its class
    centres: (n, 3) in nm from the particle's middle; sigma: width in nm; weights: (n,) densities
    """

    name: str
    label: int
    centres: np.ndarray
    sigma: float
    weights: np.ndarray

    @property
    def reach_nm(self):
        """Distance from the middle beyond which there is nothing, in nm."""
        return np.linalg.norm(self.centres, axis=1).max() + 3 * self.sigma

    def density(self, axes, voxel_nm, rotation):
        """Density (z, y, x), float64, of the particle turned by ``rotation``.

        axes: offsets of the voxels from its middle along z, y, x, in voxels of ``voxel_nm``
        """
        # A voxel averages over itself: a blob narrower than that would flicker.
        sigma = np.hypot(self.sigma, 0.4 * voxel_nm)
        turned = self.centres @ rotation
        # A round Gaussian is a product of three of one axis each, however the particle turns.
        z, y, x = (
            np.exp(-(((axis * voxel_nm - turned[:, k : k + 1]) / sigma) ** 2) / 2)
            for k, axis in enumerate(axes)
        )
        sections = np.reshape(y[:, :, None] * x[:, None, :], (len(turned), -1))
        density = (self.weights[:, None] * z).T @ sections
        return density.reshape([axis.size for axis in axes])


def ribosome():
    """Large particle: two subunits, 25 nm together, unevenly dense, with a cleft between them."""
    rng = np.random.default_rng(80)  # the same particle in every tomogram
    subunits = {(0.0, 0.0, -3.2): (10.5, 9.5, 7.5), (0.0, 1.0, 7.2): (9.0, 6.5, 4.5)}
    centres = []
    for middle, radii in subunits.items():
        found = np.empty((0, 3))
        for point in rng.uniform(-1, 1, (4000, 3)):
            apart = np.linalg.norm(point * radii - found, axis=1)
            if np.linalg.norm(point) < 0.9 and (apart > 3.0).all():
                found = np.vstack([found, point * radii])
        centres.append(found + middle)
    centres = np.vstack(centres)
    weights = rng.uniform(0.6, 1.1, len(centres))
    return Particle("large particles", LARGE_PARTICLE, centres, 1.8, weights)


def double_ring():
    """Small particle: two stacked rings of seven, 11 nm wide and high, with a channel."""
    turns = 2 * np.pi * np.arange(7) / 7
    ring = 3.6 * np.column_stack([np.zeros(7), np.cos(turns), np.sin(turns)])
    height = np.array([2.6, 0, 0])
    centres = np.vstack([ring - height, ring + height])
    return Particle("small particles", SMALL_PARTICLE, centres, 1.6, np.full(14, 1.4))

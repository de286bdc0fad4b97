"""Simulated tomograms: a lamella in vacuum, as an electron microscope shows it, and its labels."""

import numpy as np
import scipy.fft
from scipy.ndimage import gaussian_filter

from cryoseg.errors import InputError
from cryoseg.particles import double_ring, ribosome
from cryoseg.specimen import Specimen, add_filaments, add_membranes, add_particles
from cryoseg.volumes import slabs

# Contrasts relative to that of a large particle against ice, about those of denoised tomograms.
ICE_AGAINST_VACUUM = 0.5
CYTOPLASM_TEXTURE = 0.2
# Small proteins, too many and too small to be told apart.
CYTOPLASM_GRAIN_NM = 1.2
# Blur of a reconstruction in voxels: neighbours correlate by 0.6, as after the usual filters.
BLUR = 0.7
# Degrees over which the missing wedge fades in.
WEDGE_EDGE = 6.0
# What a camera would count: grey values of the vacuum, and of a large particle below it.
OFFSET, GAIN = 130.0, 40.0


def simulate(
    shape,
    voxel_size,
    seed,
    *,
    thickness_nm,
    tilt_range,
    noise,
    membranes,
    large_particles,
    small_particles,
    filaments,
):
    """Simulate a tomogram of a lamella: dark protein on bright ice, with vacuum around it.

    shape:        (Z, Y, X) in voxels
    voxel_size:   Angstrom
    seed:         the same seed gives the same voxels
    thickness_nm: of the lamella; less than the volume's depth
    tilt_range:   (first, last) tilt in degrees around the y axis, -90 to 90; what was not
                  tilted through is missing from the x-z planes of Fourier space
    noise:        standard deviation, relative to the contrast of a large particle
    membranes, large_particles, small_particles, filaments: how many are placed, where there is room

    Returns (tomogram float32, labels uint8, lamella uint8), each Z x Y x X. Labels: 0 background,
    1 membrane, 2 large particle, 3 small particle, 4 filament.
    Raises InputError where the lamella does not fit.
    """
    voxel_nm = voxel_size / 10
    slab_rng, *object_rngs, image_rng = np.random.default_rng(seed).spawn(6)
    ice = lamella_slab(shape, voxel_nm, thickness_nm, slab_rng)
    lamella = (ice >= 0.5).astype(np.uint8)
    specimen = Specimen(np.zeros(shape, np.float32), np.zeros(shape, np.uint8), lamella, voxel_nm)
    add_membranes(specimen, membranes, object_rngs[0])
    add_particles(specimen, ribosome(), large_particles, object_rngs[1])
    add_particles(specimen, double_ring(), small_particles, object_rngs[2])
    add_filaments(specimen, filaments, object_rngs[3])
    # Milling cuts through what lies at the surface.
    specimen.labels[lamella == 0] = 0
    tomogram = _image(specimen, ice, tilt_range, noise, image_rng)
    return tomogram, specimen.labels, lamella


def lamella_slab(shape, voxel_nm, thickness_nm, rng):
    """Share of each voxel that is ice: a slab, slightly tilted, gently bent, of uneven thickness.

    Returns float32, Z x Y x X, from 0 (vacuum) to 1.
    """
    depth, height, width = shape
    thickness = thickness_nm / voxel_nm
    if not 2 <= thickness < depth:
        raise InputError(
            f"thickness_nm is {thickness_nm}; it must be at least two voxels, {2 * voxel_nm:g} nm, "
            f"and less than the volume's depth, {depth * voxel_nm:g} nm"
        )
    y = np.linspace(-1, 1, height)[:, None]
    x = np.linspace(-1, 1, width)[None, :]
    # The three parts together reach at most 0.7 of the way from the slab to the volume's faces.
    room = (depth - thickness) / 2
    tilt_y, tilt_x = rng.uniform(-0.2, 0.2, 2) * room
    bend = rng.uniform(-0.3, 0.3) * room
    middle = (depth - 1) / 2 + tilt_y * y + tilt_x * x + bend * (x**2 + y**2 - 1)
    phases = rng.uniform(0, 2 * np.pi, 4)
    waves = np.sin(4 * y + phases[0]) * np.sin(3 * x + phases[1])
    half = thickness / 2 * (1 + 0.05 * waves)
    z = np.arange(depth, dtype=np.float32)[:, None, None]
    above = np.clip(z - (middle - half).astype(np.float32) + 0.5, 0, 1)
    above *= np.clip((middle + half).astype(np.float32) - z + 0.5, 0, 1)
    return above


def _image(specimen, ice, tilt_range, noise, rng):
    """What the microscope and the reconstruction make of the specimen, as grey values."""
    shape = ice.shape
    grain = max(CYTOPLASM_GRAIN_NM / specimen.voxel_nm, 0.5)
    image = gaussian_filter(rng.standard_normal(shape, np.float32), grain, truncate=3)
    image *= CYTOPLASM_TEXTURE / image.std()
    image += specimen.density
    image *= ice
    blur_z, blur_y, blur_x = (_blur(length) for length in shape)
    coverage = blur_z[:, None] * wedge(shape[0], shape[2], tilt_range) * blur_x
    # White noise keeps this share of its deviation, so that `noise` is what is seen.
    kept = np.sqrt(np.mean(coverage**2) * np.mean(blur_y**2))
    for piece in slabs(shape):
        image[piece] += noise / kept * rng.standard_normal(image[piece].shape, np.float32)
    spectrum = scipy.fft.rfftn(image, overwrite_x=True)
    for section, weights in zip(spectrum, coverage, strict=True):
        section *= blur_y[:, None] * weights[: section.shape[1]]
    image = scipy.fft.irfftn(spectrum, shape, overwrite_x=True)
    # A flat slab lies wholly in the missing wedge. Denoised tomograms, which the networks are
    # made for, show its contrast nevertheless, so it is added afterwards.
    image += ICE_AGAINST_VACUUM * ice
    image *= -GAIN
    image += OFFSET
    return image


def _blur(length):
    """Fourier weights, float32, of a Gaussian of BLUR voxels along an axis."""
    frequencies = scipy.fft.fftfreq(length)
    return np.exp(-2 * (np.pi * BLUR * frequencies) ** 2).astype(np.float32)


def wedge(depth, width, tilt_range):
    """Fourier weights (depth, width), float32: 1 where tilts reached, 0 in the missing wedge.

    A projection at tilt t fills the plane k_z = k_x tan t; k_y does not matter.
    """
    first, last = tilt_range
    if not -90 <= first < last <= 90:
        raise InputError(f"tilt_range is {tilt_range}; it must rise, between -90 and 90 degrees")
    k_z = scipy.fft.fftfreq(depth)[:, None]
    k_x = scipy.fft.fftfreq(width)[None, :]
    tilts = np.rad2deg(np.arctan2(np.where(k_x < 0, -k_z, k_z), np.abs(k_x)))
    inside = np.minimum(tilts - first, last - tilts)
    weights = np.clip(inside / WEDGE_EDGE + 0.5, 0, 1).astype(np.float32)
    if last - first == 180:
        weights[:] = 1
    weights[0, 0] = 1  # the mean
    return weights

"""The clean-up of lamella masks: noise goes, and the lamella's faces stay where they are."""

import logging

import mrcfile
import numpy as np
import pytest

from cryoseg.hulls import fill_slices
from cryoseg.lamella import clean
from cryoseg.postprocessing import clean_lamella

EDGE = 128
CENTRE = (EDGE - 1) / 2
z, y, x = np.ogrid[:EDGE, :EDGE, :EDGE]
HULLS = pytest.mark.parametrize("in_3d", [False, True], ids=["by slice", "3D"])


def dice(found, wanted):
    return 2 * np.count_nonzero(found & wanted) / (found.sum() + wanted.sum())


def slab(thickness, tilt=0, azimuth=0):
    """A slab through the whole cube; tilt of its normal against Z and azimuth from X, degrees."""
    tilt, azimuth = np.deg2rad([tilt, azimuth])
    across = np.cos(azimuth) * (x - CENTRE) + np.sin(azimuth) * (y - CENTRE)
    return np.abs(np.cos(tilt) * (z - CENTRE) + np.sin(tilt) * across) < thickness / 2


def box(*ranges):
    """A box from a start to a stop along each axis."""
    mask = np.zeros((EDGE,) * 3, bool)
    mask[tuple(slice(*ends) for ends in ranges)] = True
    return mask


def grains(share, seed):
    """Salt or pepper: single voxels, this share of all."""
    return np.random.default_rng(seed).random((EDGE,) * 3) < share


def balls(share, seed):
    """Balls of radius 2 to 5, some cut by the volume's faces, whose volumes add up to a share."""
    rng = np.random.default_rng(seed)
    noise = np.zeros((EDGE,) * 3, bool)
    volume = 0
    while volume < share * noise.size:
        radius, centre = rng.integers(2, 6), rng.integers(0, EDGE, 3)
        around = tuple(slice(max(0, c - radius), c + radius + 1) for c in centre)
        offsets = np.ix_(*(np.arange(EDGE)[a] - c for a, c in zip(around, centre, strict=True)))
        noise[around] |= sum(offset**2 for offset in offsets) <= radius**2
        volume += 4 / 3 * np.pi * radius**3
    return noise


def with_holes(mask, noise):
    return mask & ~noise


def with_specks(mask, noise):
    return mask | noise


def with_both(mask, noise):
    return mask ^ noise


@HULLS
@pytest.mark.parametrize("thickness", [20, 21, 28, 39, 60, 90, 119, 120, 128])
def test_a_slab_comes_back_to_the_voxel(thickness, in_3d):
    wanted = box((3, 3 + thickness), (0, EDGE), (0, EDGE))
    np.testing.assert_array_equal(clean_lamella("TS_01", wanted, in_3d), wanted)


@HULLS
@pytest.mark.parametrize("thickness", [20, 45, 120])
@pytest.mark.parametrize("tilt", [1, 3, 10, 30, 45, 60])
@pytest.mark.parametrize("azimuth", [0, 45, 90])
def test_a_tilted_slab_comes_back(thickness, tilt, azimuth, in_3d):
    wanted = slab(thickness, tilt, azimuth)
    assert dice(clean_lamella("TS_01", wanted, in_3d), wanted) >= 0.98


BOXES = {
    "flat": box((50, 70), (10, 110), (15, 115)),
    "thick": box((41, 81), (30, 100), (35, 95)),
    "cube": box((31, 91), (31, 91), (31, 91)),
    "at the corner": box((0, 30), (0, 100), (20, 128)),
}


@HULLS
@pytest.mark.parametrize("name", BOXES)
def test_a_box_that_ends_inside_the_volume_comes_back(name, in_3d):
    assert dice(clean_lamella("TS_01", BOXES[name], in_3d), BOXES[name]) >= 0.98


@HULLS
@pytest.mark.parametrize("add", [with_holes, with_specks, with_both])
@pytest.mark.parametrize(("thickness", "tilt", "azimuth"), [
    (20, 0, 0), (20, 3, 0), (20, 30, 0), (20, 20, 45), (20, 60, 90), (40, 45, 45), (60, 10, 0),
    (120, 0, 0),
])  # fmt: skip
@pytest.mark.parametrize(("share", "seed"), [(0.05, 1), (0.2, 2)])
def test_a_slab_comes_back_from_salt_and_pepper(thickness, tilt, azimuth, share, seed, add, in_3d):
    wanted = slab(thickness, tilt, azimuth)
    found = clean_lamella("TS_01", add(wanted, grains(share, seed)), in_3d)
    assert dice(found, wanted) >= 0.97


@HULLS
@pytest.mark.parametrize("add", [with_holes, with_specks, with_both])
@pytest.mark.parametrize(("thickness", "tilt", "azimuth"), [
    (20, 0, 0), (20, 3, 0), (28, 10, 90), (40, 30, 0), (50, 45, 45), (60, 20, 45), (120, 0, 0),
])  # fmt: skip
@pytest.mark.parametrize(("share", "seed"), [(0.02, 1), (0.05, 2)])
def test_a_slab_comes_back_from_holes_and_specks(thickness, tilt, azimuth, share, seed, add, in_3d):
    wanted = slab(thickness, tilt, azimuth)
    found = clean_lamella("TS_01", add(wanted, balls(share, seed)), in_3d)
    assert dice(found, wanted) >= 0.97


@HULLS
@pytest.mark.parametrize("thickness", [20, 60, 120])
def test_a_slab_comes_back_from_all_noise_at_once(thickness, in_3d):
    wanted = slab(thickness, 3)
    noise = grains(0.15, 3) ^ balls(0.03, 4)
    assert dice(clean_lamella("TS_01", wanted ^ noise, in_3d), wanted) >= 0.97


@pytest.mark.parametrize("tilt", [20, 30, 45])
def test_holes_and_specks_leave_a_thin_oblique_slab_alone_slice_by_slice(tilt):
    wanted = slab(20, tilt, 45)
    assert dice(clean_lamella("TS_01", wanted ^ balls(0.05, 5)), wanted) >= 0.97


@HULLS
@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("noise", [grains(0.2, 6), balls(0.02, 7)], ids=["grains", "balls"])
def test_a_box_comes_back_from_noise(name, noise, in_3d):
    assert dice(clean_lamella("TS_01", BOXES[name] ^ noise, in_3d), BOXES[name]) >= 0.97


@pytest.mark.parametrize("noise", [grains(0, 0), grains(0.2, 8), balls(0.05, 9)])
def test_a_volume_full_of_lamella_stays_full(noise):
    assert clean_lamella("TS_01", ~noise).mean() >= 0.98


@pytest.mark.parametrize("shape", [(1, 40, 40), (2, 33, 47), (33, 1, 90), (91, 80, 1)])
def test_volumes_may_be_as_thin_as_a_voxel(shape):
    assert clean_lamella("TS_01", np.ones(shape, bool)).all()
    assert clean_lamella("TS_01", np.ones(shape, bool), hull_in_3d=True).all()


def test_a_soft_noisy_probability_gives_the_lamella():
    depth = 30 - np.abs(z - CENTRE) + 0 * y + 0 * x  # voxels below the nearer face
    logit = depth / 2 + np.random.default_rng(0).normal(scale=2, size=depth.shape)
    likely = 1 / (1 + np.exp(-logit)) >= 0.9  # p = 0.9 lies 4.4 voxels deep
    found = clean_lamella("TS_01", likely)
    assert dice(likely, depth > 0) < 0.92
    assert dice(found, depth > 4.4) >= 0.97


@pytest.mark.parametrize("share", [0, 0.05, 0.2])
def test_a_real_lamella_comes_back_from_noise(real_data, share):
    drawn = mrcfile.read(real_data / "tomo171_31.36A_lamella.mrc") > 0
    wanted = drawn.copy()
    fill_slices(wanted)
    noise = np.random.default_rng(0).random(drawn.shape) < share
    assert dice(clean(drawn ^ noise), drawn) >= 0.99
    assert dice(clean_lamella("tomo171", drawn ^ noise), wanted) >= 0.98


@HULLS
def test_an_empty_mask_stays_empty(in_3d):
    assert not clean_lamella("TS_01", np.zeros((20, 30, 30), bool), in_3d).any()


@HULLS
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.3])
def test_specks_alone_give_an_empty_mask_and_a_warning(share, in_3d, caplog):
    assert not clean_lamella("TS_01", grains(share, 0), in_3d).any()
    assert "TS_01: only specks reach the threshold; the mask is empty" in caplog.text


def test_only_the_largest_component_stays():
    larger, smaller = box((10, 40), (10, 100), (10, 60)), box((60, 90), (10, 60), (80, 120))
    found = clean_lamella("TS_01", larger | smaller)
    assert dice(found, larger) >= 0.98
    assert not found[45:].any()


def test_a_dent_is_filled_slice_by_slice():
    whole = box((40, 80), (10, 110), (10, 110))
    dented = whole & ~box((40, 80), (40, 80), (60, 128))
    assert dice(clean_lamella("TS_01", dented), whole) >= 0.98


def test_a_valley_across_slices_is_filled_in_3d_only():
    whole = box((20, 100), (10, 110), (10, 110))
    split = whole & ~box((60, 128), (10, 110), (45, 75))
    split &= ~box((60, 128), (10, 110), (75, 128))  # a step: each slice is convex by itself
    by_slice, in_3d = clean_lamella("TS_01", split), clean_lamella("TS_01", split, hull_in_3d=True)
    assert dice(by_slice, split) >= 0.98
    assert in_3d[70, 60, 60]
    assert not by_slice[70, 60, 60]


def test_slices_that_are_mostly_gap_are_told_and_stay(caplog):
    caplog.set_level(logging.INFO)
    trough = np.zeros((60, 60, 256), bool)
    trough[10:50, :, 4:24] = trough[10:50, :, 232:252] = True
    trough[10:30, :, 4:252] = True
    np.testing.assert_array_equal(clean_lamella("TS_01", trough), trough)
    assert "TS_01: 20 slices fill less than a quarter of their hull" in caplog.text


def test_clean_leaves_its_argument_alone():
    mask = slab(30, 5) ^ grains(0.1, 0)
    before = mask.copy()
    clean(mask)
    np.testing.assert_array_equal(mask, before)

"""Convex hulls of voxel masks: exact, and not misled by stray voxels."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy.spatial import ConvexHull
from skimage.morphology import convex_hull_image

from cryoseg import hulls
from cryoseg.hulls import fill_slices, fill_volume

masks = arrays(bool, array_shapes(min_dims=3, max_dims=3, max_side=9), fill=st.just(False))


@st.composite
def solid_masks(draw):
    """Masks of scattered voxels, nearly all of which span their dimensions."""
    shape = draw(array_shapes(min_dims=3, max_dims=3, min_side=3, max_side=12))
    density = draw(st.sampled_from([0.3, 0.5, 0.9]))
    return np.random.default_rng(draw(st.integers(0, 10**6))).random(shape) < density


def every_slice_counts():
    return patch.object(hulls, "LEAST_FILL", 0)


def span(mask):
    """Number of dimensions that the voxels of a mask extend in."""
    points = np.argwhere(mask)
    return np.linalg.matrix_rank(points - points[0]) if len(points) else 0


def hull_by_half_spaces(mask):
    """Test every voxel against every plane of Qhull's hull."""
    planes = ConvexHull(np.argwhere(mask)).equations
    voxels = np.argwhere(np.ones(mask.shape))
    inside = voxels @ planes[:, :3].T + planes[:, 3] <= 1e-9
    return inside.all(axis=1).reshape(mask.shape)


@given(solid_masks())
@settings(deadline=None)
def test_each_slice_becomes_the_hull_that_skimage_computes(mask):
    assume(span(mask[0]) == 2)  # skimage refuses lines
    filled = mask.copy()
    with every_slice_counts():
        fill_slices(filled)
    np.testing.assert_array_equal(filled[0], convex_hull_image(mask[0], offset_coordinates=False))


@given(solid_masks())
@settings(deadline=None)
def test_the_volume_becomes_the_hull_that_brute_force_finds(mask):
    assume(span(mask) == 3)
    filled = mask.copy()
    with every_slice_counts():
        fill_volume(filled)
    np.testing.assert_array_equal(filled, hull_by_half_spaces(mask))


@given(masks)
@settings(deadline=None)
def test_a_hull_contains_its_mask_and_is_its_own_hull(mask):
    for fill in (fill_slices, fill_volume):
        once = mask.copy()
        with every_slice_counts():
            fill(once)
            twice = once.copy()
            fill(twice)
        assert not (mask & ~once).any()
        np.testing.assert_array_equal(once, twice)


@pytest.mark.parametrize("fill", [fill_slices, fill_volume])
def test_convex_bodies_stay_as_they_are(fill):
    z, y, x = np.ogrid[-20:21, -25:26, -30:31]
    ball = z**2 + y**2 + x**2 <= 19.5**2
    oblique_slab = np.abs(0.8 * z + 0.4 * y - 0.447 * x) < 7.3
    for body in (ball, oblique_slab, np.ones((4, 5, 6), bool)):
        filled = body.copy()
        assert fill(filled) == 0
        np.testing.assert_array_equal(filled, body)


@pytest.mark.parametrize(
    ("ends", "middle"),
    [
        ([(0, 0, 0)], (0, 0, 0)),
        ([(2, 1, 0), (2, 1, 8)], (2, 1, 4)),
        ([(0, 0, 0), (4, 4, 8)], (2, 2, 4)),
        ([(0, 0, 0), (4, 8, 0), (4, 0, 8)], (4, 4, 4)),
    ],
    ids=["a voxel", "a row", "a diagonal", "an oblique triangle"],
)
def test_flat_hulls_are_hulls_too(ends, middle):
    mask = np.zeros((5, 9, 9), bool)
    mask[tuple(np.transpose(ends))] = True
    with every_slice_counts():
        fill_volume(mask)
    assert mask[middle]
    assert span(mask) == len(ends) - 1


def slab_with_stray_voxels():
    """A slab of 10 slices and, in the slice above, single voxels at its four corners."""
    mask = np.zeros((20, 40, 40), bool)
    mask[5:15] = True
    mask[15, ::39, ::39] = True
    return mask


def test_stray_voxels_outside_a_face_do_not_become_a_slice():
    mask = slab_with_stray_voxels()
    filled = mask.copy()
    assert fill_slices(filled) == 1
    np.testing.assert_array_equal(filled, mask)


def test_stray_voxels_outside_a_face_do_not_count_in_3d():
    mask = slab_with_stray_voxels()
    assert fill_volume(mask) == 1
    assert mask.any(axis=(1, 2)).nonzero()[0].tolist() == list(range(5, 15))


def test_a_body_that_is_mostly_gap_in_every_slice_still_has_a_hull_in_3d():
    mask = np.zeros((6, 40, 40), bool)
    mask[:, :, 0] = mask[:, :, -1] = True  # two sheets
    assert fill_volume(mask) == 6
    assert mask.all()


@pytest.mark.parametrize("fill", [fill_slices, fill_volume])
def test_an_empty_mask_stays_empty(fill):
    mask = np.zeros((3, 4, 5), bool)
    assert fill(mask) == 0
    assert not mask.any()

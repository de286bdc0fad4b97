"""Augmentation moves image, labels and distances together, and never makes up a label."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from cryoseg.augmentation import (
    PROBABILITY,
    Draw,
    Transforms,
    _Source,
    augment,
    augment_image,
    derive_distances,
    draw,
    resample,
    smooth,
)
from cryoseg.distances import UNKNOWN, signed_squared_distances
from cryoseg.metrics import confusion, dice_and_iou
from training_jobs import ALL_TRANSFORMS

EVERYTHING = Transforms(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in ALL_TRANSFORMS.items()}
)


def always(transforms, seed):
    """A draw in which every spatial transform happens."""
    rng = np.random.default_rng(seed)
    while True:
        drawn = draw(transforms, rng)
        if drawn.elastic and drawn.angles and drawn.zoom != 1 and any(drawn.flips):
            return drawn


@given(
    labels=st.sets(st.sampled_from([0, 1, 2, 5, 254, 255]), min_size=1),
    seed=st.integers(0, 10_000),
)
def test_no_label_is_made_up(labels, seed):
    """Apart from 255, which stands for what lies beyond the patch."""
    rng = np.random.default_rng(seed)
    patch = torch.tensor(rng.choice(sorted(labels), (2, 8, 9, 10)), dtype=torch.uint8)
    drawn = [draw(EVERYTHING, rng) for _ in range(2)]
    _, moved, _ = augment(torch.rand(2, 1, 8, 9, 10), patch, None, drawn, 7)
    for before, after in zip(patch, moved, strict=True):
        assert set(after.unique().tolist()) <= set(before.unique().tolist()) | {255}


def arm(size=32):
    """An object that is its own mirror image in no axis and under no rotation."""
    labels = torch.zeros(1, size, size, size, dtype=torch.uint8)
    labels[0, 10:22, 11:15, 12:16] = 1
    labels[0, 10:14, 11:23, 12:16] = 2
    labels[0, 18:22, 11:15, 12:24] = 3
    return labels


@pytest.mark.parametrize("seed", range(8))
def test_image_labels_and_distances_stay_registered_with_all_transforms_on(seed):
    labels = arm()
    exact = torch.tensor(signed_squared_distances(labels[0].numpy(), 4))
    drawn = dataclasses.replace(always(EVERYTHING, seed), high_pass=None, scale=1.0)
    # The image says which class a voxel is of, so that it can be compared with the labels.
    for label in (1, 2, 3):
        image = (labels == label).float()[:, None]
        moved, targets, distances = augment(image, labels, {0: exact}, [drawn], 4)
        inside = targets != 255
        found = torch.where(inside, (moved[:, 0] > 0.5).to(torch.uint8), 255)
        true = torch.where(inside, (targets == label).to(torch.uint8), 255)
        dice, _ = dice_and_iou(confusion(found, true, 2))
        assert dice[1] > 0.9  # interpolation blurs faces of an object 4 voxels thick
        where = distances[:, label] != UNKNOWN
        assert ((distances[:, label] > 0) == (targets == label))[where].all()


def test_flips_alone_are_exact():
    torch.manual_seed(0)
    image, labels = torch.rand(1, 1, 6, 7, 8), torch.randint(0, 3, (1, 6, 7, 8), dtype=torch.uint8)
    exact = torch.randint(-25, 26, (3, 6, 7, 8), dtype=torch.int8)
    drawn = [Draw(flips=(True, False, True))]
    moved = augment(image, labels, {0: exact}, drawn, 3)
    assert torch.equal(moved[0], image.flip(2, 4))
    assert torch.equal(moved[1], labels.flip(1, 3))
    assert torch.equal(moved[2][0], exact.flip(1, 3))
    # The resampling mirrors as well; only on a patch of even and odd edges is that no accident.
    again = resample(image, labels, drawn)
    torch.testing.assert_close(again[0], moved[0])
    assert torch.equal(again[1], moved[1])


@pytest.mark.parametrize("elastic", [None, (4.0, 30.0)])
@pytest.mark.parametrize("shape", [(9, 10, 11), (40, 40, 40), (1, 16, 8)])
def test_resampling_is_that_of_pytorch(shape, elastic):
    torch.manual_seed(0)
    image = torch.rand(1, 1, *shape)
    labels = torch.randint(0, 3, (1, *shape), dtype=torch.uint8)
    chosen = Draw(zoom=0.9, angles=(0.3, 1.2, 2.0), flips=(False, True, False), elastic=elastic)
    moved, nearest = resample(image, labels, [chosen])

    source = _Source(shape, chosen, image.device)
    places = torch.stack(source.places(slice(None)), -1) - 1
    # Both clamp far away, where both give what lies outside; x first, edges at -1 and 1.
    grid = ((2 * places + 1) / torch.tensor(shape) - 1).flip(-1)[None]
    expected = F.grid_sample(image, grid, align_corners=False)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)
    inside = F.grid_sample(labels[:, None] + 1.0, grid, "nearest", align_corners=False)[:, 0] - 1
    agree = (nearest == torch.where(inside < 0, 255, inside)).float().mean()
    assert agree > 0.999  # halfway between two voxels, either is nearest


def test_a_quarter_turn_is_exact():
    labels = arm()
    drawn = [Draw(angles=(np.pi / 2, 0, 0))]
    image, turned = resample(labels[:, None].float(), labels, drawn)
    assert torch.equal(turned, torch.rot90(labels, -1, (2, 3))) or torch.equal(
        turned, torch.rot90(labels, 1, (2, 3))
    )
    torch.testing.assert_close(image[:, 0], turned.float(), atol=1e-3, rtol=0)


def test_zoom_enlarges():
    labels = torch.zeros(1, 24, 24, 24, dtype=torch.uint8)
    labels[0, 8:16, 8:16, 8:16] = 1
    _, larger = resample(labels[:, None].float(), labels, [Draw(zoom=1.5)])
    assert (larger == 1).sum() == 12**3


def test_beyond_the_patch_labels_are_ignored_and_the_image_is_black():
    image, labels = resample(
        torch.ones(1, 1, 16, 16, 16), torch.ones(1, 16, 16, 16, dtype=torch.uint8), [Draw(zoom=0.5)]
    )
    assert (labels == 1).sum() == 8**3
    assert (labels == 255).sum() == 16**3 - 8**3
    assert (image[:, 0][labels == 255] <= 0.5).all()


@pytest.mark.parametrize("channels", [1, 4])
@given(seed=st.integers(0, 10_000))
def test_derived_distances_are_the_exact_ones(channels, seed):
    """Of a patch in the middle of a volume, wherever they are said to be known."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((24, 25, 26), np.uint8)
    for _ in range(4):
        low = rng.integers(0, 20, 3)
        volume[tuple(slice(a, a + rng.integers(2, 9)) for a in low)] = rng.integers(
            1, max(2, channels)
        )
    exact = torch.tensor(signed_squared_distances(volume, channels))
    patch = (slice(4, 18), slice(5, 20), slice(3, 19))
    (found,) = derive_distances(torch.tensor(volume[patch])[None], channels)
    known = found != UNKNOWN
    assert torch.equal(found[known], exact[(slice(None), *patch)][known])
    assert known[:, 5:-5, 5:-5, 5:-5].all()


def test_an_unknown_voxel_makes_distances_unknown_as_far_as_it_could_change_them():
    labels = torch.zeros(1, 21, 21, 21, dtype=torch.uint8)
    labels[0, 10, 10, 10] = 255
    labels[0, 10, 10, 13] = 1
    distances = derive_distances(labels, 1)[0, 0, 10, 10]
    # Known to be 1 voxel from the object, whatever the unknown one is; 1 from that and 4.
    assert distances[12] == -1
    assert distances[9] == UNKNOWN


def test_ignored_voxels_count_the_same_whether_a_patch_is_resampled_or_not():
    labels = np.zeros((26, 26, 26), np.uint8)
    offsets = np.ogrid[tuple(slice(-13, 13) for _ in range(3))]
    radius = np.sqrt(sum(offset**2 for offset in offsets))
    labels[radius < 10] = 255
    labels[radius < 7] = 1
    stored = torch.tensor(signed_squared_distances(labels, 1))
    patch = torch.tensor(labels)[None]
    _, _, squares = augment(torch.rand(1, 1, 26, 26, 26), patch, {0: stored}, [Draw()], 1)
    derived = derive_distances(patch, 1)
    inner = (..., *[slice(5, -5)] * 3)
    assert torch.equal(squares[inner], derived[inner])
    assert 0.2 < (squares != UNKNOWN).float().mean() < 0.9


def test_every_transform_happens_as_often_as_it_should():
    rng = np.random.default_rng(0)
    drawn = [draw(EVERYTHING, rng) for _ in range(2000)]
    for happens in (
        lambda d: d.zoom != 1, lambda d: d.angles, lambda d: d.elastic, lambda d: d.scale != 1,
        lambda d: d.flips[0], lambda d: d.flips[2],
    ):  # fmt: skip
        assert np.mean([bool(happens(d)) for d in drawn]) == pytest.approx(PROBABILITY, abs=0.03)
    # One of four: low pass, high pass, noise, none.
    for happens in (lambda d: d.low_pass, lambda d: d.high_pass, lambda d: d.noise):
        assert np.mean([bool(happens(d)) for d in drawn]) == pytest.approx(0.25, abs=0.03)
    assert all(0.8 <= d.zoom <= 1.2 for d in drawn)


def test_nothing_happens_where_nothing_is_asked_for():
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert dataclasses.replace(draw(Transforms(), rng), seed=0) == Draw()


def test_combined_transforms_come_together():
    combined = dataclasses.replace(EVERYTHING, combine_transforms=True)
    rng = np.random.default_rng(0)
    drawn = [draw(combined, rng) for _ in range(500)]
    both = [d for d in drawn if d.low_pass and d.high_pass and d.noise]
    assert len(both) == pytest.approx(250, abs=50)  # all or nothing
    assert sum(d.noise == 0 and not d.low_pass and not d.high_pass for d in drawn) == 500 - len(
        both
    )
    without = dataclasses.replace(combined, high_pass_sigma_range=None)
    assert any(d.low_pass and d.noise for d in (draw(without, rng) for _ in range(100)))


def test_the_noisy_input_is_one_of_the_intensity_transforms():
    rng = np.random.default_rng(0)
    noisy = dataclasses.replace(EVERYTHING, use_noisy_input=True)
    drawn = [draw(noisy, rng) for _ in range(1000)]
    assert np.mean([d.noisy for d in drawn]) == pytest.approx(1 / 5, abs=0.05)
    assert not any(d.noisy and (d.low_pass or d.noise) for d in drawn)


def test_filters_are_those_of_scipy():
    from scipy.ndimage import gaussian_filter

    volumes = torch.rand(2, 1, 40, 41, 42)
    found = smooth(volumes, [0.5, 2.0])
    for n, sigma in enumerate((0.5, 2.0)):
        expected = gaussian_filter(volumes[n, 0].numpy(), sigma, truncate=8)
        middle = (slice(16, -16),) * 3
        np.testing.assert_allclose(found[n, 0].numpy()[middle], expected[middle], atol=1e-4)


def test_a_filter_without_width_changes_nothing():
    images = torch.rand(1, 1, 8, 8, 8)
    torch.testing.assert_close(smooth(images, [0.0]), images)


def test_intensity_transforms_keep_the_mean_and_the_other_samples():
    images = torch.rand(4, 1, 32, 32, 32)
    changed = augment_image(
        images, [Draw(low_pass=0.6), Draw(high_pass=(0.2, 5.0)), Draw(seed=1, noise=0.05), Draw()]
    )
    assert torch.equal(changed[3], images[3])
    for n in range(3):
        assert not torch.equal(changed[n], images[n])
        assert float(changed[n].mean()) == pytest.approx(float(images[n].mean()), abs=1e-3)
    assert float((changed[2] - images[2]).std()) == pytest.approx(0.05, rel=0.02)


def test_a_draw_gives_the_same_voxels_wherever_it_is_in_a_batch():
    images = torch.rand(1, 1, 16, 16, 16).repeat(3, 1, 1, 1, 1)
    labels = torch.ones(3, 16, 16, 16, dtype=torch.uint8)
    first, second = always(EVERYTHING, 1), always(EVERYTHING, 2)
    together = augment(images, labels, None, [first, second, first], 2)
    alone = augment(images[:1], labels[:1], None, [first], 2)
    torch.testing.assert_close(together[0][0], together[0][2])
    torch.testing.assert_close(together[0][0], alone[0][0])

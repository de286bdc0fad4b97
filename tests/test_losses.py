"""Losses equal CryoSiam's, and ignored voxels count in none of them."""

import json

import numpy as np
import pytest
import torch

from cryoseg.checkpoints import load_network
from cryoseg.losses import cross_entropy, distance_error, generalised_dice, scaled_distance


@pytest.mark.parametrize("model", ["lamella", "semantic"])
def test_losses_of_a_stored_patch_are_cryosiams(model, compat):
    stored = np.load(compat / "forward" / f"{model}_loss_patch.npz")
    wanted = json.loads((compat / "forward" / "loss_parity.json").read_text())[model]
    network = load_network(compat / "ckpt" / f"{model}_model_best.ckpt")
    logits, raw = network(torch.tensor(stored["image"])[None, None], distances=True)
    labels = torch.tensor(stored["labels"].astype(np.uint8))[None]
    target = torch.tensor(stored["dist_target"])[None]
    found = {
        "bce_or_ce": cross_entropy(logits, labels),
        "generalized_dice": generalised_dice(logits, labels),
        "distance_mse_with_tanh": distance_error(raw, target),
    }
    for name, (total, count) in found.items():
        assert float(total / count) == pytest.approx(wanted[name], abs=1e-5)


@pytest.mark.parametrize("channels", [1, 4])
def test_dice_equals_monais(channels):
    from monai.losses import GeneralizedDiceLoss

    torch.manual_seed(0)
    logits = torch.randn(3, channels, 6, 7, 8)
    labels = torch.randint(0, max(2, channels), (3, 6, 7, 8), dtype=torch.uint8)
    labels[1] = 0  # a patch without any object
    many = channels > 1
    theirs = GeneralizedDiceLoss(softmax=many, sigmoid=not many, to_onehot_y=many)
    total, count = generalised_dice(logits, labels)
    assert float(total / count) == pytest.approx(float(theirs(logits, labels[:, None].float())))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_patch_that_is_all_ignored_counts_in_no_mean(channels):
    torch.manual_seed(0)
    logits = torch.randn(2, channels, 4, 4, 4)
    labels = torch.randint(0, max(2, channels), (2, 4, 4, 4), dtype=torch.uint8)
    labels[1] = 255
    for loss in (cross_entropy, generalised_dice):
        alone, both = loss(logits[:1], labels[:1]), loss(logits, labels)
        assert float(both[0] / both[1]) == pytest.approx(float(alone[0] / alone[1]))


@pytest.mark.parametrize("channels", [1, 3])
def test_ignored_voxels_count_in_no_loss(channels):
    """What the network says of them changes neither the losses nor their gradients."""
    torch.manual_seed(0)
    labels = torch.randint(0, max(2, channels), (2, 4, 4, 4), dtype=torch.uint8)
    labels[:, 1] = 255
    logits = torch.randn(2, channels, 4, 4, 4, requires_grad=True)
    other = torch.where(labels[:, None] == 255, 50.0, logits.detach())
    for loss in (cross_entropy, generalised_dice):
        total, count = loss(logits, labels)
        assert torch.allclose(loss(other, labels)[0], total)
        assert loss(other, labels)[1] == count
        (gradient,) = torch.autograd.grad(total, logits)
        assert (gradient[:, :, 1] == 0).all()


def test_a_patch_without_a_known_voxel_has_no_loss():
    labels = torch.full((1, 4, 4, 4), 255, dtype=torch.uint8)
    logits = torch.randn(1, 3, 4, 4, 4)
    assert cross_entropy(logits, labels) == (0, 0)
    assert generalised_dice(logits, labels)[0] == 0


def test_the_parts_of_a_batch_add_up_to_its_loss():
    torch.manual_seed(0)
    logits = torch.randn(4, 3, 4, 4, 4)
    labels = torch.randint(0, 3, (4, 4, 4, 4), dtype=torch.uint8)
    labels[0, :2] = 255
    for loss in (cross_entropy, generalised_dice):
        whole = torch.stack(loss(logits, labels))
        halves = [torch.stack(loss(logits[n : n + 2], labels[n : n + 2])) for n in (0, 2)]
        torch.testing.assert_close(sum(halves), whole)


def test_distances_become_targets_between_minus_one_and_one():
    squared = torch.tensor([-128, -25, -2, 0, 1, 25], dtype=torch.int8)
    expected = torch.tensor([torch.nan, -1, -(2**0.5) / 5, 0, 0.2, 1])
    torch.testing.assert_close(scaled_distance(squared), expected, equal_nan=True)


def test_unknown_distances_count_in_no_loss():
    raw = torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    target = torch.rand(1, 2, 4, 4, 4)
    alone = distance_error(raw[..., :2], target[..., :2])
    target[..., 2:] = torch.nan
    total, count = distance_error(raw, target)
    torch.testing.assert_close((total, count), alone)
    total.backward()
    assert (raw.grad[..., 2:] == 0).all()
    assert (raw.grad[..., :2] != 0).all()

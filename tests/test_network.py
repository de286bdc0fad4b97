"""The network is the one that CryoSiam checkpoints were trained as."""

import numpy as np
import pytest
import torch

from cryoseg.errors import InputError
from cryoseg.network import Architecture, SegmentationNetwork, fold_norms
from networks import KINDS, random_network


@pytest.mark.parametrize("block_type", ["basic", "bottleneck"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("no_max_pool", [True, False])
def test_the_encoder_is_monais_resnet(block_type, spatial_dims, no_max_pool):
    from monai.networks.nets.resnet import ResNet

    network = random_network(
        block_type=block_type,
        spatial_dims=spatial_dims,
        no_max_pool=no_max_pool,
        num_layers=(1, 2, 1, 1),
    )
    encoder, sizes = network._model_backbone.encoder, network.sizes
    monai = ResNet(
        block_type, list(sizes.num_layers), list(sizes.num_filters), spatial_dims, 1,
        conv1_t_size=7, conv1_t_stride=1, no_max_pool=no_max_pool, num_classes=sizes.dim,
    ).eval()  # fmt: skip
    monai.load_state_dict(encoder.state_dict(), strict=True)
    x = torch.rand(2, 1, *(16,) * spatial_dims)
    with torch.no_grad():
        pooled = encoder(x)[-1].flatten(2).mean(dim=2)
        torch.testing.assert_close(encoder.fc(pooled), monai(x))


@pytest.mark.parametrize("kind", KINDS)
def test_folding_norms_into_convolutions_changes_nothing(kind):
    network = random_network(**KINDS[kind])
    x = torch.rand(1, 1, *(32,) * network.sizes.spatial_dims)
    with torch.no_grad():
        before = network(x, distances=True)
        folded = fold_norms(network)
        assert not any("BatchNorm" in type(m).__name__ for m in folded._model.modules())
        after = folded(x, distances=True)
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_of_the_output_is_the_same_as_cut_from_all_of_it(kind):
    network = random_network(**KINDS[kind])
    dims = network.sizes.spatial_dims
    x = torch.rand(1, 1, *(64, 32, 32)[-dims:])
    box = [(8, 24), (0, 16), (14, 32)][-dims:]
    with torch.no_grad():
        whole = network(x)[0]
        part = network(x, box)[0]
    torch.testing.assert_close(
        part, whole[(..., *(slice(*edges) for edges in box))], rtol=0, atol=1e-6
    )


def test_outputs_have_the_size_of_the_input_with_max_pool_too():
    network = random_network(no_max_pool=False)
    with torch.no_grad():
        assert network(torch.rand(1, 1, 16, 32, 16))[0].shape == (1, 3, 16, 32, 16)


def test_parameters_of_bifpn_have_the_names_and_shapes_of_checkpoints():
    state = random_network(decoder_type="bifpn").state_dict()
    prefix = "_model_backbone.decoder."
    found = {name.removeprefix(prefix) for name in state if name.startswith(prefix)}
    blocks = [f"p{level}_td" for level in (2, 3, 4, 5)] + [
        f"p{level}_out" for level in (3, 4, 5, 6)
    ]
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"p{level}.{part}" for level in (2, 3, 4, 5) for part in ("weight", "bias")}
    expected |= {"p6.conv.weight", "p6.conv.bias"} | {f"p6.bn.{part}" for part in norm}
    for repeat in (0, 1):
        expected |= {f"bifpn.{repeat}.w1", f"bifpn.{repeat}.w2"}
        for block in blocks:
            expected |= {
                f"bifpn.{repeat}.{block}.{part}.weight" for part in ("depthwise", "pointwise")
            }
            expected |= {f"bifpn.{repeat}.{block}.bn.{part}" for part in norm}
    assert found == expected
    assert state[prefix + "bifpn.0.w1"].shape == (2, 4)
    assert state[prefix + "bifpn.0.w2"].shape == (3, 4)


def test_parameter_count_of_the_default_network():
    with torch.device("meta"):
        network = SegmentationNetwork(Architecture(out_channels=7))
    assert sum(parameter.numel() for parameter in network.parameters()) == 29_780_494


def test_sizes_off_the_stride_are_refused():
    with pytest.raises(ValueError, match="no multiples of 8"):
        random_network()(torch.rand(1, 1, 16, 16, 20))


@pytest.mark.parametrize(
    "sizes",
    [
        {"block_type": "dense"},
        {"decoder_type": "unet"},
        {"fpn_layers": True},
        {"spatial_dims": 4},
        {"num_filters": (8, 8, 8)},
        {"out_channels": 0},
        {"kernel_size": 3, "padding": 0},
        {"fpn_channels": "many"},
    ],
)
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(
        InputError, match=next(iter(sizes)) if "kernel_size" not in sizes else "padding"
    ):
        Architecture(**{"out_channels": 3} | sizes)


@pytest.mark.parametrize("model", ["lamella", "semantic"])
def test_forward_pass_equals_cryosiams(model, data):
    from cryoseg.checkpoints import load_network

    network = load_network(data / f"{model}.ckpt")
    expected = np.load(data / f"{model}_patch32.npz")
    x = torch.from_numpy(expected["x"])
    logits, distances = network(x, distances=True)
    backbone = network._model_backbone
    features = backbone(x, [(0, 32)] * 3)[..., ::4, ::4, ::4]
    for found, name in [
        (logits, "logits"),
        (distances, "dist"),
        (features, "z_sub4"),
        (backbone.global_features(x), "z_global"),
    ]:
        np.testing.assert_allclose(found.numpy(), expected[name], rtol=0, atol=1e-4, err_msg=name)

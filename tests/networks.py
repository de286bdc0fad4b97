"""Small networks of every kind, with random weights, for tests."""

import torch
from torch import nn

from cryoseg.network import Architecture, SegmentationNetwork

SMALL = {
    "num_filters": (2, 4, 6, 8),
    "fpn_channels": 6,
    "dense_dim": 5,
    "dense_pred_dim": 4,
    "dim": 8,
    "pred_dim": 4,
    "filters": (5, 6),
}
KINDS = {
    "fpn": {},
    "one channel": {"out_channels": 1},
    "basic blocks": {"block_type": "basic"},
    "two blocks a layer": {"num_layers": (2, 1, 2, 1)},
    "later convolutions": {"add_fpn_later_conv": True},
    "levels": {"include_levels_loss": True},
    "max pool": {"no_max_pool": False},
    "bifpn": {"decoder_type": "bifpn"},
    "bifpn, basic, one repeat": {"decoder_type": "bifpn", "block_type": "basic", "fpn_layers": 1},
    "bifpn, max pool": {"decoder_type": "bifpn", "no_max_pool": False},
    "wide head": {"kernel_size": 5, "padding": 2},
    "2D": {"spatial_dims": 2},
    "2D, bifpn, max pool": {"spatial_dims": 2, "decoder_type": "bifpn", "no_max_pool": False},
}


def random_network(seed=0, **sizes):
    """A network in evaluation mode whose norms have statistics, as after training."""
    torch.manual_seed(seed)
    network = SegmentationNetwork(Architecture(**{"out_channels": 3} | SMALL | sizes))
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    for name, parameter in network.named_parameters():
        if name.endswith((".w1", ".w2")):
            nn.init.uniform_(parameter, -0.2, 1)
    return network.eval().requires_grad_(False)

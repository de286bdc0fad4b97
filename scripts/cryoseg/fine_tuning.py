"""Where a training begins: at random weights, a pretrained backbone, or a trained model."""

import torch
from torch import nn

from cryoseg.checkpoints import (
    architecture_of,
    check_numbers,
    check_shapes,
    outline,
    plain_values,
    read_checkpoint,
    shapes,
)
from cryoseg.errors import InputError, quoted
from cryoseg.joblog import logger
from cryoseg.network import SegmentationNetwork

BACKBONE, HEADS = "_model_backbone.", "_model."
# What a backbone's settings hold that stands in the training configuration as well.
SHARED = ("in_channels", "spatial_dims", "dense_dim")


def starting_network(config, pretrained=None):
    """Make the network that a training begins with.

    config:     training configuration, with parameters.network and, from scratch,
                parameters.backbone
    pretrained: checkpoint of a pretrained backbone or of a trained model; None to start from
                random weights, which depend on config["seed"]
    Returns (SegmentationNetwork in float32, backbone configuration for the checkpoint).
    Raises InputError where checkpoint and configuration do not fit.
    """
    wanted = config["parameters"]["network"]
    if pretrained is None:
        backbone_config = _backbone_from_scratch(config)
    else:
        state, backbone_config = _read_pretrained(pretrained)
    settings = {"config": config, "backbone_config": backbone_config}
    sizes = architecture_of(settings, pretrained or "the training configuration")
    if pretrained is not None:
        _check_shared(pretrained, backbone_config["parameters"]["network"], sizes, wanted)
        _check_backbone(pretrained, outline(sizes, state, pretrained).state_dict(), state)
        backbone_config = plain_values(backbone_config, pretrained)
    if sizes.spatial_dims != 3:
        raise InputError(
            f"parameters.network.spatial_dims is {sizes.spatial_dims}; training needs 3"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        network = SegmentationNetwork(sizes)
        _initialise(network)
    if pretrained is not None:
        network.load_state_dict(_backbone_of(state), strict=False)
        _load_heads(network, state, pretrained)
    return network, backbone_config


def _backbone_from_scratch(config):
    """Settings of the backbone, in the layout of a pretraining configuration."""
    wanted, data = config["parameters"]["network"], config["parameters"]["data"]
    for part in ("backbone", "decoder"):
        if not wanted[f"unfreeze_{part}"]:
            raise InputError(
                f"unfreeze_{part} is false and pretrained_model is null, so random weights would "
                f"stay as they are; set unfreeze_{part} to true, or name a pretrained_model"
            )
    sizes = dict(config["parameters"].get("backbone") or {})
    sizes |= {name: wanted[name] for name in SHARED}
    kept = ("patch_size", "min", "max", "mean", "std")
    return {"parameters": {"data": {name: data[name] for name in kept}, "network": sizes}}


def _read_pretrained(path):
    """Weights under the names of a trained model, and the backbone's configuration."""
    state, settings = read_checkpoint(path)
    backbone_config = settings.get("backbone_config", settings.get("config"))
    network = backbone_config
    for name in ("parameters", "network"):
        network = network.get(name) if isinstance(network, dict) else None
    if not isinstance(network, dict):
        raise InputError(
            f"{path}: hyper_parameters do not hold the backbone's parameters.network; give a "
            "checkpoint that CryoSiam or cryoseg wrote"
        )
    if not any(name.startswith(BACKBONE) for name in state):
        state = {BACKBONE + name.removeprefix("_model."): value for name, value in state.items()}
    return state, backbone_config


def _check_shared(path, stated, sizes, wanted):
    """What a backbone's settings state must be what the training configuration asks for."""
    for name in SHARED:
        has = getattr(sizes, name)
        if name in stated and has != wanted[name]:
            raise InputError(
                f"{path}: its {name} is {quoted(has)}, parameters.network.{name} is "
                f"{wanted[name]}; set it to {quoted(has)}, or give another pretrained_model"
            )


def _backbone_of(state):
    return {name: value for name, value in state.items() if name.startswith(BACKBONE)}


def _check_backbone(path, wanted, state):
    """All of the backbone's weights must be there, and no others of that name."""
    wanted, given = _backbone_of(wanted), _backbone_of(state)
    check_shapes(path, wanted, given)
    check_numbers(path, wanted, given)


def _initialise(network):
    """Random weights that keep the size of activations through ReLUs (K. He et al., 2015)."""
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _load_heads(network, state, path):
    """Take over each head of a trained model that has the same sizes."""
    for head in ("semantic_head", "distance_head"):
        own, given = (
            {name: value for name, value in weights.items() if name.startswith(f"{HEADS}{head}.")}
            for weights in (network.state_dict(), state)
        )
        if shapes(own).items() <= shapes(given).items():
            check_numbers(path, own, given)
            network.load_state_dict(given, strict=False)
        elif given:
            logger.warning("%s: its %s has other sizes, so ours starts at random", path, head)


def load_weights(network, path):
    """Take over all weights of a training's checkpoint.

    Raises InputError where they are those of another network.
    """
    state, _ = read_checkpoint(path)
    own = network.state_dict()
    if shapes(state) != shapes(own):
        raise InputError(
            f"{path}: its network has other sizes than the one to be trained, so "
            "continue_training cannot use it; set continue_training to false"
        )
    check_numbers(path, own, state)
    network.load_state_dict(state)

"""Where a training begins: at random weights, a pretrained backbone, or a trained model."""

import torch
from torch import nn

from cryoseg.checkpoints import architecture_of, read_checkpoint
from cryoseg.errors import InputError
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
        state = {}
    else:
        state, backbone_config = _read_pretrained(pretrained)
        _check_shared(pretrained, backbone_config["parameters"]["network"], wanted)
    settings = {"config": config, "backbone_config": backbone_config}
    sizes = architecture_of(settings, pretrained or "the training configuration")
    if sizes.spatial_dims != 3:
        raise InputError(
            f"parameters.network.spatial_dims is {sizes.spatial_dims}; training needs 3"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        network = SegmentationNetwork(sizes)
        _initialise(network)
    if pretrained is not None:
        _load_backbone(network, state, pretrained)
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


def _check_shared(path, has, wanted):
    for name in SHARED:
        if name in has and has[name] != wanted[name]:
            raise InputError(
                f"{path}: its {name} is {has[name]}, parameters.network.{name} is {wanted[name]}; "
                f"set it to {has[name]}, or give another pretrained_model"
            )


def _initialise(network):
    """Random weights that keep the size of activations through ReLUs (K. He et al., 2015)."""
    for module in network.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _load_backbone(network, state, path):
    """Take over all of the backbone's weights; none may be missing or left over."""
    given = {name: value for name, value in state.items() if name.startswith(BACKBONE)}
    own = {n: v for n, v in network.state_dict().items() if n.startswith(BACKBONE)}
    differing = [
        f"{name}: {_shape(given.get(name))} instead of {_shape(own.get(name))}"
        for name in sorted(given.keys() | own.keys())
        if _shape(given.get(name)) != _shape(own.get(name))
    ]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise InputError(
            f"{path}: the weights do not fit the backbone that its hyper_parameters describe: "
            f"{'; '.join(differing[:3])}{more}"
        )
    network.load_state_dict(given, strict=False)


def _load_heads(network, state, path):
    """Take over each head of a trained model that has the same sizes."""
    own = network.state_dict()
    for head in ("semantic_head", "distance_head"):
        prefix = f"{HEADS}{head}."
        given = {name: value for name, value in state.items() if name.startswith(prefix)}
        if not given:
            continue
        if all(_shape(given.get(name)) == _shape(own[name]) for name in own if prefix in name):
            network.load_state_dict(given, strict=False)
        else:
            logger.warning("%s: its %s has other sizes, so ours starts at random", path, head)


def load_weights(network, path):
    """Take over all weights of a training's checkpoint.

    Raises InputError where they are those of another network.
    """
    state, _ = read_checkpoint(path)
    own = network.state_dict()
    if {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in own.items()}:
        raise InputError(
            f"{path}: its network has other sizes than the one to be trained, so "
            "continue_training cannot use it; set continue_training to false"
        )
    network.load_state_dict(state)


def _shape(tensor):
    return "nothing" if tensor is None else tuple(tensor.shape)

"""The segmentation network of CryoSiam checkpoints: residual encoder, pyramid decoder, two heads.

Module and parameter names are those that the checkpoints hold. Shapes are written for three
dimensions; a network with ``spatial_dims`` 2 lacks the depth axis.
"""

from dataclasses import dataclass, fields
from itertools import pairwise

from torch import nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cryoseg.decoders import (
    BidirectionalPyramid,
    FeaturePyramid,
    coarse_box,
    crop,
    inside,
    interpolation,
    layers,
    upsample,
    widened,
)
from cryoseg.errors import InputError, quoted

EXPANSION = {"basic": 1, "bottleneck": 4}  # output channels of a block per channel inside it


@dataclass(frozen=True)
class Architecture:
    """Sizes of a network, under the names and with the defaults of a checkpoint's settings."""

    out_channels: int
    in_channels: int = 1
    spatial_dims: int = 3
    block_type: str = "bottleneck"
    num_layers: tuple[int, ...] = (1, 1, 1, 1)
    num_filters: tuple[int, ...] = (64, 128, 256, 512)
    no_max_pool: bool = True
    fpn_channels: int = 128
    dim: int = 2048
    pred_dim: int = 512
    dense_dim: int = 64
    dense_pred_dim: int = 64
    include_levels_loss: bool = False
    add_fpn_later_conv: bool = False
    decoder_type: str = "fpn"
    fpn_layers: int = 2
    filters: tuple[int, ...] = (32, 64)
    kernel_size: int = 3
    padding: int = 1

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int:  # not isinstance: True is no size
                least = 0 if field.name == "padding" else 1
                _check(type(value) is int and value >= least, field.name, value)
            if field.type is bool:
                _check(type(value) in (bool, int) and value in (0, 1), field.name, value)
        _check(self.spatial_dims in (2, 3), "spatial_dims", self.spatial_dims)
        _check(self.block_type in tuple(EXPANSION), "block_type", self.block_type)
        _check(self.decoder_type in ("fpn", "bifpn"), "decoder_type", self.decoder_type)
        for name, length in {"num_layers": 4, "num_filters": 4, "filters": 2}.items():
            sizes = getattr(self, name)
            good = isinstance(sizes, tuple) and len(sizes) == length
            _check(good and all(type(s) is int and s > 0 for s in sizes), name, sizes)
        # Any other padding would give scores of another size than the tomogram.
        _check(2 * self.padding + 1 == self.kernel_size, "padding", self.padding)

    @property
    def stride(self):
        """Voxels that a tile's edges must be aligned to, for every level to be halved evenly."""
        coarsest = 8 if self.decoder_type == "fpn" else 16
        return coarsest if self.no_max_pool else 2 * coarsest

    @property
    def level_channels(self):
        """Channels of the encoder's four levels, finest first."""
        return tuple(EXPANSION[self.block_type] * filters for filters in self.num_filters)


def _check(good, name, value):
    if not good:
        raise InputError(f"no network has {name} = {quoted(value)}")


class ResidualBlock(nn.Module):
    """Two 3^3 convolutions, or a 3^3 one between two 1^3 ones, added to the input."""

    def __init__(self, spatial_dims, block_type, in_channels, channels, stride):
        super().__init__()
        conv, norm = layers(spatial_dims)
        out_channels = EXPANSION[block_type] * channels
        if block_type == "basic":
            self.conv1 = conv(in_channels, channels, 3, stride, padding=1, bias=False)
            self.conv2 = conv(channels, channels, 3, padding=1, bias=False)
        else:
            self.conv1 = conv(in_channels, channels, 1, bias=False)
            self.conv2 = conv(channels, channels, 3, stride, padding=1, bias=False)
            self.conv3 = conv(channels, out_channels, 1, bias=False)
            self.bn3 = norm(out_channels)
        self.bn1, self.bn2 = norm(channels), norm(channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                conv(in_channels, out_channels, 1, stride), norm(out_channels)
            )

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(F.relu(y, inplace=True)))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


class Encoder(nn.Module):
    """Residual network whose four layers give the levels 2 to 5 (finest to coarsest)."""

    def __init__(self, sizes):
        super().__init__()
        conv, norm = layers(sizes.spatial_dims)
        channels = sizes.num_filters[0]
        self.conv1 = conv(sizes.in_channels, channels, 7, padding=3, bias=False)
        self.bn1 = norm(channels)
        pool = nn.MaxPool3d if sizes.spatial_dims == 3 else nn.MaxPool2d
        self.maxpool = None if sizes.no_max_pool else pool(3, stride=2, padding=1)
        for level in range(4):
            blocks = []
            for block in range(sizes.num_layers[level]):
                stride = 2 if level > 0 and block == 0 else 1
                args = (
                    sizes.spatial_dims,
                    sizes.block_type,
                    channels,
                    sizes.num_filters[level],
                    stride,
                )
                blocks.append(ResidualBlock(*args))
                channels = sizes.level_channels[level]
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(channels, sizes.dim)

    def stem(self, x):
        """What comes before the first layer: convolution, norm, ReLU, perhaps max pool."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return x if self.maxpool is None else self.maxpool(x)

    def forward(self, x):
        """Return the four levels, finest first."""
        x = self.stem(x)
        levels = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            levels.append(x)
        return levels


def _projector(sizes):
    conv, norm = layers(sizes.spatial_dims)
    fpn = sizes.fpn_channels
    return nn.Sequential(
        *(conv(fpn, fpn, 1, bias=False), norm(fpn), nn.ReLU(inplace=True)),
        *(conv(fpn, fpn, 1, bias=False), norm(fpn), nn.ReLU(inplace=True)),
        *(conv(fpn, sizes.dense_dim, 1), norm(sizes.dense_dim, affine=False)),
    )


def _predictor(sizes):
    conv, norm = layers(sizes.spatial_dims)
    hidden = sizes.dense_pred_dim
    return nn.Sequential(
        *(conv(sizes.dense_dim, hidden, 1, bias=False), norm(hidden), nn.ReLU(inplace=True)),
        conv(hidden, sizes.dense_dim, 1),
    )


class Backbone(nn.Module):
    """Encoder, decoder and projector, and the parts that only pretraining uses."""

    def __init__(self, sizes):
        super().__init__()
        self.encoder = Encoder(sizes)
        decoder = FeaturePyramid if sizes.decoder_type == "fpn" else BidirectionalPyramid
        self.decoder = decoder(sizes)
        deepest = sizes.level_channels[-1]
        self.global_projector = nn.Sequential(
            *(nn.Linear(deepest, deepest, bias=False), nn.BatchNorm1d(deepest), nn.ReLU()),
            *(nn.Linear(deepest, deepest, bias=False), nn.BatchNorm1d(deepest), nn.ReLU()),
            *(self.encoder.fc, nn.BatchNorm1d(sizes.dim, affine=False)),
        )
        self.global_predictor = nn.Sequential(
            *(nn.Linear(sizes.dim, sizes.pred_dim, bias=False), nn.BatchNorm1d(sizes.pred_dim)),
            *(nn.ReLU(), nn.Linear(sizes.pred_dim, sizes.dim)),
        )
        self.projector = _projector(sizes)
        self.predictor = _predictor(sizes)
        if sizes.include_levels_loss:
            for factor in (2, 4, 8):
                setattr(self, f"level_projector_{factor}", _projector(sizes))
                setattr(self, f"level_predictor_{factor}", _predictor(sizes))

    def forward(self, x, box):
        """x: (N, in_channels, spatial...); returns (N, dense_dim, box's shape...)."""
        return self.projector(self.decoder(self.encoder(x), box))

    def global_features(self, x):
        """x: (N, in_channels, spatial...); returns one vector per image, (N, dim)."""
        return self.global_projector(self.encoder(x)[-1].flatten(2).mean(dim=2))


def _head(sizes):
    conv, norm = layers(sizes.spatial_dims)
    first, second = sizes.filters
    kernel = {"kernel_size": sizes.kernel_size, "padding": sizes.padding}
    return nn.Sequential(
        *(conv(sizes.dense_dim, first, **kernel), norm(first), nn.ReLU(inplace=True)),
        *(conv(first, second, **kernel), norm(second), nn.ReLU(inplace=True)),
        conv(second, sizes.out_channels, **kernel),
    )


class Heads(nn.Module):
    """The heads that a segmentation adds to the backbone."""

    def __init__(self, sizes):
        super().__init__()
        self.semantic_head = _head(sizes)
        self.distance_head = _head(sizes)


class SegmentationNetwork(nn.Module):
    """Backbone and heads under the names of a checkpoint's ``state_dict``."""

    def __init__(self, sizes):
        super().__init__()
        self.sizes = sizes
        self._model_backbone = Backbone(sizes)
        self._model = Heads(sizes)

    @property
    def head_reach(self):
        """Voxels on each side that an output of the heads needs of the dense features."""
        return 3 * self.sizes.padding

    def forward(self, x, box=None, distances=False):
        """Scores of a box of the input, before sigmoid or softmax.

        x: (N, in_channels, spatial...), each spatial size a multiple of the stride
        box: (start, stop) per spatial axis, multiples of 2 if the network has a max pool;
            None for everything. What lies outside of it is computed only where it is needed
        Returns logits (N, out_channels, box's shape...) and, if asked for, the raw distances of
        the same shape, else None. A network with a max pool works at half the resolution; its
        outputs are upsampled linearly.
        """
        shape = x.shape[2:]
        if any(size % self.sizes.stride for size in shape):
            raise ValueError(f"sizes {tuple(shape)} are no multiples of {self.sizes.stride}")
        box = [(0, size) for size in shape] if box is None else box
        pooled = not self.sizes.no_max_pool
        output_shape = [size // 2 for size in shape] if pooled else shape
        output_box = coarse_box(box, output_shape) if pooled else box
        wide = widened(output_box, self.head_reach, output_shape)
        features = self._model_backbone(x, wide)
        heads = [self._model.semantic_head] + [self._model.distance_head] * distances
        outputs = [crop(head(features), inside(output_box, wide)) for head in heads]
        if pooled:
            mode = interpolation(self.sizes.spatial_dims)
            outputs = [upsample(output, box, output_box, mode) for output in outputs]
        return outputs[0], outputs[1] if distances else None


def fold_norms(network):
    """Merge each batch norm of an evaluated network into the convolution before it, in place.

    The result is the same up to rounding; the norms' passes over memory are saved.
    """
    for module in network.modules():
        for conv_name, norm_name in _norms_after_convolutions(module):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())
    return network


def _norms_after_convolutions(module):
    if isinstance(module, nn.Sequential):
        parts = list(module.named_children())
        pairs = [(a, b) for (a, _), (b, _) in pairwise(parts)]
    else:
        pairs = [
            ("conv1", "bn1"),
            ("conv2", "bn2"),
            ("conv3", "bn3"),
            ("conv", "bn"),
            ("pointwise", "bn"),
        ]
    convolutions, norms = (nn.Conv2d, nn.Conv3d), (nn.BatchNorm2d, nn.BatchNorm3d)
    return [
        (a, b)
        for a, b in pairs
        if isinstance(getattr(module, a, None), convolutions)
        and isinstance(getattr(module, b, None), norms)
    ]

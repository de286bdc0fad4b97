"""Decoders: pyramids that bring the encoder's levels together at the finest resolution.

Boxes are one (start, stop) per spatial axis, in voxels of the finest level.
"""

import torch
from torch import nn
from torch.nn import functional as F

# The momentum 0.9997 that the checkpoints were trained with only matters to training.
BIFPN_NORM = {"momentum": 0.9997, "eps": 4e-5}
BIFPN_EPSILON = 1e-4  # added to the sum that the fusion weights are divided by


def layers(spatial_dims):
    """The convolution and batch norm classes of 2 or 3 dimensions."""
    if spatial_dims == 3:
        return nn.Conv3d, nn.BatchNorm3d
    return nn.Conv2d, nn.BatchNorm2d


def crop(x, box):
    """Cut a box, one (start, stop) per spatial axis, out of x: (N, C, spatial...)."""
    return x[(..., *(slice(start, stop) for start, stop in box))]


def inside(box, outer):
    """A box in the coordinates of the box around it."""
    return [(start - low, stop - low) for (start, stop), (low, _) in zip(box, outer, strict=True)]


def widened(box, reach, shape):
    """A box with `reach` voxels more on each side, where the volume has them."""
    return [
        (max(start - reach, 0), min(stop + reach, size))
        for (start, stop), size in zip(box, shape, strict=True)
    ]


def coarse_box(box, shape):
    """Voxels of a level of half the size that linear upsampling needs to fill a box.

    Voxel i lies between the coarse voxels i // 2 - 1 and i // 2, or i // 2 and i // 2 + 1.
    """
    halves = [(start // 2, (stop + 1) // 2) for start, stop in box]
    return widened(halves, 1, shape)


def upsample(x, box, outer, mode):
    """Double x, which fills the coarse box `outer`, and cut the fine box out."""
    size = [2 * (stop - start) for start, stop in outer]
    doubled = F.interpolate(x, size=size, mode=mode, align_corners=False)
    return crop(doubled, inside(box, [(2 * start, 2 * stop) for start, stop in outer]))


def interpolation(spatial_dims):
    return "trilinear" if spatial_dims == 3 else "bilinear"


class FeaturePyramid(nn.Module):
    """Feature pyramid: 1^3 convolutions of the levels, summed from the coarsest to the finest.

    Only the box that is asked for is computed, and what it needs of the coarser levels: one voxel
    more on every side, as far as linear interpolation reaches. No value in the box changes by that.
    """

    def __init__(self, sizes):
        super().__init__()
        conv, _ = layers(sizes.spatial_dims)
        for number, channels in zip((4, 3, 2, 1), sizes.level_channels, strict=True):
            setattr(self, f"layer{number}", conv(channels, sizes.fpn_channels, 1))
        self.has_later_conv = sizes.add_fpn_later_conv
        if self.has_later_conv:
            for number in (1, 2, 3, 4):
                later = conv(sizes.fpn_channels, sizes.fpn_channels, 3, padding=1)
                setattr(self, f"later_conv{number}", later)
        self.upsampling = interpolation(sizes.spatial_dims)

    def forward(self, levels, box):
        """levels: (N, C, spatial...), finest first; box: of the finest level.

        Returns (N, fpn_channels, box's shape...).
        """
        shapes = [level.shape[2:] for level in levels]
        wide = widened(box, 1, shapes[0]) if self.has_later_conv else box
        fused = self._fuse(levels, shapes, wide)
        if not self.has_later_conv:
            return fused
        return crop(self.later_conv4(fused), inside(box, wide))

    def _fuse(self, levels, shapes, box):
        boxes = [box]
        for shape in shapes[1:]:
            boxes.append(coarse_box(boxes[-1], shape))
        laterals = (self.layer4, self.layer3, self.layer2, self.layer1)  # finest first
        fused = self.layer1(crop(levels[3], boxes[3]))
        for level in (2, 1, 0):
            finer = laterals[level](crop(levels[level], boxes[level]))
            finer += upsample(fused, boxes[level], boxes[level + 1], self.upsampling)
            fused = finer
        return fused


class SeparableBlock(nn.Module):
    """Depthwise and pointwise 1^3 convolution, norm, ReLU."""

    def __init__(self, spatial_dims, channels):
        super().__init__()
        conv, norm = layers(spatial_dims)
        self.depthwise = conv(channels, channels, 1, groups=channels, bias=False)
        self.pointwise = conv(channels, channels, 1, bias=False)
        self.bn = norm(channels, **BIFPN_NORM)

    def forward(self, x):
        return F.relu(self.bn(self.pointwise(self.depthwise(x))), inplace=True)


class DownsamplingBlock(nn.Module):
    """3^3 convolution of stride 2, norm, ReLU."""

    def __init__(self, spatial_dims, channels):
        super().__init__()
        conv, norm = layers(spatial_dims)
        self.conv = conv(channels, channels, 3, stride=2, padding=1)
        self.bn = norm(channels, **BIFPN_NORM)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)), inplace=True)


class FusionLayer(nn.Module):
    """One repeat of the bidirectional pyramid: down from level 6 to 2, and up again."""

    def __init__(self, spatial_dims, channels):
        super().__init__()
        self.w1 = nn.Parameter(torch.ones(2, 4))
        self.w2 = nn.Parameter(torch.ones(3, 4))
        for level in (2, 3, 4, 5):
            setattr(self, f"p{level}_td", SeparableBlock(spatial_dims, channels))
        for level in (3, 4, 5, 6):
            setattr(self, f"p{level}_out", SeparableBlock(spatial_dims, channels))

    def forward(self, levels):
        """levels: five tensors (N, C, spatial...), level 2 first; returns five of these shapes."""
        inputs = dict(zip((2, 3, 4, 5, 6), levels, strict=True))
        down_weights, up_weights = self._normalised(self.w1), self._normalised(self.w2)
        down = {6: inputs[6]}
        for column, level in enumerate((5, 4, 3, 2)):
            own, coarser = down_weights[:, column]
            doubled = F.interpolate(down[level + 1], scale_factor=2.0, mode="nearest")
            down[level] = getattr(self, f"p{level}_td")(own * inputs[level] + coarser * doubled)
        outputs = {2: down[2]}
        for column, level in enumerate((3, 4, 5, 6)):
            own, middle, finer = up_weights[:, column]
            halved = F.interpolate(outputs[level - 1], scale_factor=0.5, mode="nearest")
            mixed = own * inputs[level] + middle * down[level] + finer * halved
            outputs[level] = getattr(self, f"p{level}_out")(mixed)
        return [outputs[level] for level in (2, 3, 4, 5, 6)]

    @staticmethod
    def _normalised(weights):
        positive = F.relu(weights)
        return positive / (positive.sum(dim=0) + BIFPN_EPSILON)


class BidirectionalPyramid(nn.Module):
    """Bidirectional feature pyramid over the encoder's levels and a sixth, coarser one."""

    def __init__(self, sizes):
        super().__init__()
        conv, _ = layers(sizes.spatial_dims)
        for level, channels in zip((2, 3, 4, 5), sizes.level_channels, strict=True):
            setattr(self, f"p{level}", conv(channels, sizes.fpn_channels, 1))
        self.p6 = DownsamplingBlock(sizes.spatial_dims, sizes.fpn_channels)
        fusions = [
            FusionLayer(sizes.spatial_dims, sizes.fpn_channels) for _ in range(sizes.fpn_layers)
        ]
        self.bifpn = nn.Sequential(*fusions)

    def forward(self, levels, box):
        """As FeaturePyramid; everything is computed and the box cut out of it."""
        pyramid = [self.p2(levels[0]), self.p3(levels[1]), self.p4(levels[2]), self.p5(levels[3])]
        pyramid.append(self.p6(pyramid[3]))
        return crop(self.bifpn(pyramid)[0], box)

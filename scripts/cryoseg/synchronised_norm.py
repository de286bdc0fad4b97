"""Batch norm whose statistics are those of the batch of all training processes together."""

import torch
from torch import distributed, nn


def synchronise_norms(network, device):
    """Give every batch norm of the network the statistics of all processes; returns the network.

    Names and shapes of weights stay. PyTorch's own module does this on GPUs only.
    """
    if torch.device(device).type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(network)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.__class__ = SynchronisedNorm
    return network


class SumOverProcesses(torch.autograd.Function):
    """Sum of a tensor over all processes; so is its gradient, since each of them depends on it."""

    @staticmethod
    def forward(ctx, values):
        return together(values.clone())

    @staticmethod
    def backward(ctx, gradient):
        return together(gradient.clone())


class SynchronisedNorm(nn.modules.batchnorm._BatchNorm):
    """Batch norm over the batches of all processes, on any device. All must take part."""

    def _check_input_dim(self, x):
        pass

    def forward(self, x):
        """x: (N, channels, ...); returns the same shape."""
        if not self.training:
            return super().forward(x)
        axes = [axis for axis in range(x.ndim) if axis != 1]
        count = x.numel() // x.shape[1]
        # In single precision: sums over many voxels. The mean first, so that nothing cancels.
        values = x.float()
        totals = SumOverProcesses.apply(torch.cat([values.sum(axes), values.new_tensor([count])]))
        count = totals[-1].detach()
        mean = totals[:-1] / count
        shape = [1, -1] + [1] * (x.ndim - 2)
        centred = values - mean.view(shape)
        variance = SumOverProcesses.apply((centred**2).sum(axes)) / count
        self._remember(mean.detach(), variance.detach() * count / (count - 1))
        out = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(x.dtype)

    def _remember(self, mean, variance):
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)


def together(values):
    """Sum of a tensor over all processes; the tensor itself where there is one process."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values

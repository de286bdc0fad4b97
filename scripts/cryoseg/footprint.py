"""What a computation would take, memory and work, found out without doing it."""

import weakref

import torch
from torch import ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def _convolved(image, weight, bias, strides, paddings, dilations, transposed, *_):
    """Of the size that torch.nn.Conv3d documents."""
    assert not transposed, "the network has none of these"
    every = zip(image.shape[2:], weight.shape[2:], strides, paddings, dilations, strict=True)
    sizes = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in every
    ]
    return image.new_empty((len(image), len(weight), *sizes))


def _alike(values):
    return values.new_empty(values.shape)


def _summed(values, axes, keepdim=False):
    (axis,) = axes
    return values.max(axis, keepdim).values


def _upsampled(image, size, *_):
    return image.new_empty((*image.shape[:2], *size))


# Results on the meta device, where PyTorch's own are Python programs, slow ones or ones that import
# its compiler (2.3 s of a processor) or its algebra (0.3 s). Others work too, but take that long.
RESULTS = {
    ops.aten.convolution.default: _convolved,
    ops.aten.upsample_trilinear3d.default: _upsampled,
    ops.aten.upsample_bilinear2d.default: _upsampled,
    ops.aten.reciprocal.default: _alike,
    ops.aten.sum.dim_IntList: _summed,
}


def is_in_place(function):
    """Whether an operation gives back its first argument, so that it need not be asked for more."""
    return function._schema.name.endswith("_")


class _Footprint(TorchDispatchMode):
    """Counts the bytes of tensors that live at the same time, and operations.

    Our own rather than FlopCounterMode, which imports PyTorch's compiler.
    """

    def __init__(self):
        super().__init__()
        self.now = self.peak = self.flops = 0
        self._seen = weakref.WeakValueDictionary()

    @classmethod
    def _should_skip_dynamo(cls):
        """Nothing here is compiled; to be left out of that would import the compiler."""
        return False

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        results = (
            args[0] if is_in_place(function) else RESULTS.get(function, function)(*args, **kwargs)
        )
        if function.overloadpacket in flop_registry:
            count = flop_registry[function.overloadpacket]
            self.flops += count(*args, **kwargs, out_val=results)
        for result in tree_leaves(results):
            if isinstance(result, torch.Tensor):
                self.count(result)
        return results

    def count(self, tensor):
        """Count a tensor's storage until it is freed; a view of a counted one adds nothing."""
        storage = tensor.untyped_storage()
        if self._seen.get(storage._cdata) is storage:
            return
        self._seen[storage._cdata] = storage
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, size)

    def _free(self, size):
        self.now -= size


def peak_bytes(function, *tensors):
    """Largest number of bytes that function(*tensors) holds at once, inputs included.

    function: works on tensors of the meta device, which have shapes but no content, so nothing is
        computed. What a library allocates for itself (convolution workspaces) is not seen.
    """
    with torch.no_grad(), _Footprint() as found:
        for tensor in tensors:
            found.count(tensor)
        function(*tensors)
    return found.peak


def count_flops(function, *tensors):
    """Floating-point operations of the convolutions and products in function(*tensors).

    A multiplication and an addition count as two. tensors are on the meta device.
    """
    with torch.no_grad(), _Footprint() as found:
        function(*tensors)
    return found.flops

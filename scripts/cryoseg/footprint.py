"""What a computation would take, memory and work, found out without doing it."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# On the meta device these are slow Python programs; their result has the size that they are given.
UPSAMPLING = (torch.ops.aten.upsample_trilinear3d, torch.ops.aten.upsample_bilinear2d)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of tensors that live at the same time."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakValueDictionary()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in UPSAMPLING and args[1] is not None:
            results = args[0].new_empty((*args[0].shape[:2], *args[1]))
        else:
            results = function(*args, **(kwargs or {}))
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
    with torch.no_grad(), _LiveBytes() as live:
        for tensor in tensors:
            live.count(tensor)
        function(*tensors)
        return live.peak


def count_flops(function, *tensors):
    """Floating-point operations of the convolutions and products in function(*tensors).

    A multiplication and an addition count as two. tensors are on the meta device.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter, _LiveBytes():
        function(*tensors)
    return counter.get_total_flops()

"""Where to compute, how precisely, and within what memory."""

import ctypes
import os
import re
import resource
from pathlib import Path

import torch

from cryoseg.errors import InputError
from cryoseg.host_memory import free_host_memory

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Options of mallopt (malloc.h), and the sizes from which on memory is mapped for itself: where it
# shall go back when it is freed, and where it shall stay.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MAPPED_BYTES, KEPT_BYTES = 4 * 2**20, 2**30
# Parts of the free memory that a tile may take; the rest is for libraries and other jobs.
SHARE_OF_GPU, SHARE_OF_HOST = 0.85, 0.75
# Interpreter, libraries, weights and the tiles that are being read and written, in bytes.
HOST_BASE = 2.0e9
# What PyTorch leaves to MKL on CPUs that have it (ATen/cpu/vml.h).
MKL_FUNCTIONS = (
    torch.acos, torch.asin, torch.atan, torch.cos, torch.erf, torch.erfc, torch.erfinv, torch.exp,
    torch.log, torch.log10, torch.log2, torch.sin, torch.sqrt, torch.tan, torch.tanh, torch.trunc,
)  # fmt: skip
# What libraries still take of the free memory once they work (kernels for each shape, codecs). In a
# control group of less than 0.3 GB, jobs were killed without it (tests/campaigns/pressure.py).
HOST_RESERVE = 0.25e9


def choose_device(wanted):
    """Turn auto, cpu, cuda or cuda:N into a torch.device; auto means a GPU if there is one.

    Raises InputError if the GPU that is asked for is not there.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == "auto":
        wanted = "cuda" if available else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and (device.index or 0) >= available:
        raise InputError(
            f"device {wanted} is asked for, and this machine offers {available} GPU(s); "
            "set device to auto or cpu, or send the job where GPUs are"
        )
    return device


def device_name(device):
    """What kind of device it is: the GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def choose_dtype(precision, device):
    """Turn auto, fp32, bf16 or fp16 into the torch dtype that the network computes in.

    auto is bf16 where the hardware multiplies in it (GPUs since Ampere; CPUs with AVX512-BF16 or
    AMX), fp16 on older GPUs, and fp32 on other CPUs, where anything lower would be emulated.
    """
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        recent = torch.cuda.get_device_capability(device) >= (8, 0)
        return torch.bfloat16 if recent else torch.float16
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


def prepare_arithmetic():
    """Set what PyTorch leaves to its users; to be called before the first large tensor is made.

    On the CPU activations are made and freed by the gigabyte. They come in pages of 2 MB, since
    mapping them in pages of 4 kB took a quarter of the processor time, and go back to the system
    when they are freed: kept by the allocator, they made the process a fifth larger after some
    tiles. Precision is kept, see keep_precision.
    """
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):  # the GNU C library
        allocator.mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # PyTorch reads it at its first allocation
    keep_precision()


def keep_freed_memory():
    """Keep memory that is freed for what is made next; to be called before large tensors are made.

    Each step of a training makes the same tensors again. Given back and asked for anew, their
    pages took a tenth of a step on a CPU, and four fifths of the scaling of distances.
    """
    allocator = ctypes.CDLL(None)
    if hasattr(allocator, "mallopt"):  # the GNU C library
        allocator.mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)
        allocator.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def keep_precision():
    """Compute float32 as precisely as its type allows; to be called before other threads compute.

    No TensorFloat-32 on GPUs. On a CPU, each function of MKL_FUNCTIONS is called once by this
    thread alone: where several threads make MKL's first call of one at once, it may give some of
    them a kernel for AVX2 with errors of 2.4e-4 (PyTorch's issue 188792, with MKL before 2025.0).
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    for dtype in (torch.float32, torch.float64):
        for function in MKL_FUNCTIONS:
            function(torch.ones(1, dtype=dtype))


def tile_memory(device, memory_gb, job_memory_mb, attempt):
    """Bytes that one tile's activations may take: at most what the user set, and what there is.

    memory_gb:     what the user set, or "auto"
    job_memory_mb: what the job was given, host memory; matters on the CPU only
    attempt:       1 for the first try; each retry halves the tile's memory
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        memory = SHARE_OF_GPU * free
    else:
        # The first attempt's share: a retry is given more, and is to use less of it.
        granted = job_memory_mb * 1e6 / attempt - HOST_BASE
        memory = min(granted, SHARE_OF_HOST * (free_host_memory() - HOST_RESERVE))
    if memory_gb != "auto":
        memory = min(memory, float(memory_gb) * 1e9)
    return int(max(memory, 0) / 2 ** (attempt - 1))


def peak_memory(device):
    """Most bytes of memory that this process held at once: the GPU's, or the host's on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # not getrusage: its peak is inherited from the process that started this one
        high_water = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        return int(high_water[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS counts bytes

"""How much memory of this machine is still to be had, and what is said where that is too little."""

import errno
import math
import re
import resource
from pathlib import Path

import psutil

from cryoseg.errors import InputError
from cryoseg.folders import all_behind

# How libraries call it that do not raise MemoryError: Python, HDF5, PyTorch, the dynamic linker.
REFUSED = re.compile(
    "(cannot|can't|unable to) allocate|can't start new thread|memory allocation failed|bad_alloc"
    f"|errno = {errno.ENOMEM},",
    re.IGNORECASE,
)
# What HDF5 says of a chunk that is damaged, or that its codec had no memory for.
CODEC_FAILED, CODEC_BYTES = "filter returned failure", 2**25
ASKED = re.compile(r"tried to allocate (\d+) bytes")
MORE = (
    "give it a machine or a cluster job with more memory, or raise its limit (ulimit -v, that of "
    "the container)"
)


def free_host_memory():
    """Bytes that this process may still take, by the machine, its control groups and ulimit."""
    machine = psutil.virtual_memory().available
    limits = [machine, *_control_group_limits(), *_process_limits()]
    return max(min(limits), 0)


def _process_limits():
    """What the limits of this process (ulimit -v, -d) still grant, in bytes."""
    used = psutil.Process().memory_info()
    for limit, name in ((resource.RLIMIT_AS, "vms"), (resource.RLIMIT_DATA, "data")):
        granted, _ = resource.getrlimit(limit)
        if granted != resource.RLIM_INFINITY:
            yield granted - getattr(used, name, used.vms)


def _control_group_limits(root=Path("/sys/fs/cgroup"), own=Path("/proc/self/cgroup")):
    """What each control group around this process still grants, in bytes (version 2, then 1)."""
    lines = own.read_text().splitlines() if own.exists() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        top = root / controllers
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            for files in (
                ("memory.max", "memory.current", ""),
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
            ):
                yield from _granted(folder, *files)
            if folder == top:
                break


def _granted(folder, limit, used, prefix):
    """Bytes that one control group still grants; nothing if it sets no limit.

    Pages of files that were read count as used, but are given up when they are needed.
    """
    if not (folder / limit).exists() or (granted := (folder / limit).read_text().strip()) == "max":
        return
    cached = 0
    if (folder / "memory.stat").exists():
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        cached = sum(int(stat.get(f"{prefix}{name}_file", 0)) for name in ("active", "inactive"))
    yield int(granted) - int((folder / used).read_text()) + cached


def is_lack_of_memory(error):
    """Whether an exception is that the system, or a library, was refused memory.

    Not an InputError that was made of a MemoryError: it tells what is needed.
    """
    if isinstance(error, InputError):
        cause = error.__cause__
        return not isinstance(cause, MemoryError) and is_lack_of_memory(cause)
    if isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM:
        return True
    if not isinstance(error, (RuntimeError, OSError, ImportError)):
        return False
    if CODEC_FAILED in str(error):
        return free_host_memory() < CODEC_BYTES
    return REFUSED.search(str(error)) is not None


def lack_of_memory_behind(error):
    """What is_lack_of_memory among an exception and those that led to it, or None.

    A library that cleans up after such an exception may fail for what was never made.
    """
    if isinstance(error, InputError):  # which knows what led to it
        return error if is_lack_of_memory(error) else None
    return next(filter(is_lack_of_memory, all_behind(error)), None)


def lack_of_memory(error):
    """A sentence about how much memory is needed, for an exception that is_lack_of_memory."""
    held, asked, free = _held_bytes(), _asked_bytes(error), free_host_memory()
    more = f"{asked / 1e6:.0f} MB more" if asked else "more"
    needed = f"at least {(held + asked) / 1e6:.0f}" if asked else f"more than {held / 1e6:.0f}"
    return (
        f"out of memory: it held {held / 1e6:.0f} MB and asked for {more}, where "
        f"{free / 1e6:.0f} MB were free; it needs {needed} MB: {MORE}"
    )


def _held_bytes():
    """Bytes that this process takes, addresses or pages, as its limit counts them."""
    used = psutil.Process().memory_info()
    limited = resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY
    return used.vms if limited else used.rss


def _asked_bytes(error):
    """How many bytes an allocation that failed was of, or 0 where the exception does not tell."""
    if found := ASKED.search(str(error)):
        return int(found[1])
    shape, dtype = getattr(error, "shape", None), getattr(error, "dtype", None)
    if shape is None or dtype is None:  # not one of numpy's
        return 0
    return math.prod(shape) * dtype.itemsize

"""How much memory of this machine is still to be had."""

import resource
from pathlib import Path

import psutil


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

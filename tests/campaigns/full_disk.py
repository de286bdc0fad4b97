"""A small disk to fill: a tmpfs, which only root can make."""

import os
import shutil
import subprocess
from contextlib import contextmanager

REASON = None
if os.geteuid() != 0 or not shutil.which("mount"):
    REASON = "only root can mount a small disk"


@contextmanager
def small_disk(folder, kilobytes):
    """Mount an empty disk of so many kilobytes at a folder, which may not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=True
    )
    try:
        yield folder
    finally:
        # Lazily, as HDF5 holds on to a file that it could not complete.
        subprocess.run(["umount", "--lazy", folder], check=True)


def enlarge(folder, kilobytes):
    """Make space on a disk of small_disk."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", folder], check=True)

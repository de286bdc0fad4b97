"""Which software made a file."""

import platform
from importlib.metadata import version

import cryoseg


def versions(*packages):
    """Versions of cryoseg, Python and the packages named, as a dict of text."""
    found = {"cryoseg": cryoseg.__version__, "python": platform.python_version()}
    return found | {package: version(package) for package in packages}

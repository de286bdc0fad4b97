"""The steps of a run: one rule's job for one tomogram, as plain values."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Step:
    """A job as the configuration asks for it now.

    name:      of its rule
    tomogram:  or None
    inputs:    name to list of paths; likewise outputs
    settings:  name to value, of the parameters that are a reason to run it again
    benchmark: path of the table in which Snakemake writes what the job took
    resources: what it asks for by name: mem_mb, gpu and the like; threads among them
    """

    name: str
    tomogram: str | None
    inputs: dict[str, list[str]]
    outputs: dict[str, list[str]]
    settings: dict
    benchmark: str | None = None
    resources: dict = field(default_factory=dict)


def by_name(files):
    """Name to list of paths, of what Snakemake has: a path or a list of them for each name."""
    return {
        name: [str(given)] if isinstance(given, (str, Path)) else [str(path) for path in given]
        for name, given in files.items()
        if given
    }


def files_read(files):
    """Name to path, or list of paths, of what a step reads.

    All inputs but the admission of its tomogram: that it is there is all that it says.
    """
    return {name: given for name, given in files.items() if name != "admitted"}

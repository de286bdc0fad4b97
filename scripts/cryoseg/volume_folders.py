"""Folders of volumes: those on disk, and those that a step will write."""

from dataclasses import dataclass
from functools import cached_property

from cryoseg.folders import files_and_others

# How a mask's file name may go on after the tomogram's name: as a stage writes it, or as an MRC.
MASK_ENDINGS = ("_preds.h5", "_preds.mrc", "_preds.rec", ".mrc", ".rec")
# The same of labels to train on, after the tomogram's own ending.
LABEL_ENDINGS = (".mrc", ".rec", ".h5", "_preds.h5", "_preds.mrc", "_preds.rec")


@dataclass(frozen=True)
class Writer:
    """A step that writes into a folder: for each tomogram the file folder/name + ending.

    holds: what lies in it: tomograms, labels, predictions, distances, patches or models
    """

    section: str
    name: str
    folder: str
    ending: str
    key: str
    holds: str

    def __str__(self):
        return f"{self.section}.{self.name}"


@dataclass
class Tomograms:
    """Tomograms that are on disk or that a step will write.

    folder, extension: a tomogram's file is folder/name + extension
    writer:            the step that writes them, or None
    made:              names that it will write, or the tomograms that it makes them from
    shape:             (z, y, x) in voxels where it is known without a file, else None
    """

    folder: str
    extension: str
    writer: Writer | None = None
    made: "Tomograms | list[str] | None" = None
    shape: list[int] | None = None

    @cached_property
    def names(self):
        """Sorted names; OSError where the folder on disk cannot be read."""
        if isinstance(self.made, Tomograms):
            return self.made.names
        if self.made is not None:
            return self.made
        return sorted(name.removesuffix(self.extension) for name in self._on_disk[0])

    @cached_property
    def no_files(self):
        """{name: what is there instead} of links to nothing and folders called like tomograms."""
        if isinstance(self.made, Tomograms):
            return self.made.no_files
        if self.made is not None:
            return {}
        return {name.removesuffix(self.extension): why for name, why in self._on_disk[1].items()}

    @cached_property
    def _on_disk(self):
        return files_and_others(self.folder, self.extension)

    @property
    def listable(self):
        """Whether the folder that the names come from can be read."""
        try:
            return self.names is not None
        except OSError:
            return False

    @property
    def files(self):
        """(start, end) of the names of files that have the tomograms' size, sources first."""
        own = [(f"{self.folder}/", self.extension)]
        return self.made.files + own if isinstance(self.made, Tomograms) else own

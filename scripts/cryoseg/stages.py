"""The stages of a workflow and what connects them: one's output folder is another's input."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property

from cryoseg.folders import file_names, identity, spelled

# How a mask's file name may go on after the tomogram's name: as a stage writes it, or as an MRC.
MASK_ENDINGS = ("_preds.h5", "_preds.mrc", "_preds.rec", ".mrc", ".rec")


@dataclass(frozen=True)
class Writer:
    """A step that writes into a folder: for each tomogram the file folder/name + ending."""

    section: str
    name: str
    folder: str
    ending: str
    key: str

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
        names = (name for name in file_names(self.folder) if name.endswith(self.extension))
        return sorted(name.removesuffix(self.extension) for name in names)

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


@dataclass
class Stages:
    """Entries of the configuration by name, each with all its keys as config/schemas has them.

    A key that is mistaken or missing may be absent from an entry.
    """

    simulate: dict = field(default_factory=dict)
    scale: dict = field(default_factory=dict)
    predict: dict = field(default_factory=dict)

    @cached_property
    def writers(self):
        """All steps that write, in the order of the configuration."""
        found = []
        for name, entry in self.simulate.items():
            if folder := entry.get("output_path"):
                for below in ("", "/labels", "/lamella"):
                    place = spelled(folder + below)
                    found.append(Writer("simulate", name, place, ".mrc", "output_path" + below))
        for name, entry in self.scale.items():
            if folder := entry.get("output_path"):
                found.append(Writer("scale", name, spelled(folder), ".mrc", "output_path"))
        for name, entry in self.predict.items():
            if folder := entry.get("prediction_folder"):
                place = spelled(folder)
                found.append(Writer("predict", name, place, "_preds.h5", "prediction_folder"))
        return found

    @cached_property
    def _writer_by_folder(self):
        return {identity(writer.folder): writer for writer in reversed(self.writers)}

    def writer_of(self, folder):
        """The step that writes a folder, however it is spelled, or None."""
        return self._writer_by_folder.get(identity(folder))

    def tomograms_in(self, folder, extension, passed=()):
        """The Tomograms of a folder whose file names end in ``extension``."""
        writer = self.writer_of(folder)
        if writer is None or writer.section == "predict" or writer in passed:
            return Tomograms(spelled(folder), extension)
        if writer.section == "simulate":
            entry = self.simulate[writer.name]
            names = [f"{writer.name}_{number}" for number in range(1, entry["number"] + 1)]
            return Tomograms(writer.folder, ".mrc", writer, names, entry["shape"])
        entry = self.scale[writer.name]
        if "input_path" not in entry:
            return Tomograms(writer.folder, ".mrc", writer, [])
        path, extension = entry["input_path"], entry["file_extension"]
        raw = self.tomograms_in(path, extension, (*passed, writer))
        return Tomograms(writer.folder, ".mrc", writer, raw, raw.shape)

    def tomograms_to_scale(self, name):
        """The Tomograms that an entry under scale reads."""
        entry = self.scale[name]
        return self.tomograms_in(entry["input_path"], entry["file_extension"])

    def tomograms_to_predict(self, name):
        """The Tomograms of a stage's data_folder; the stage may take only some of them."""
        stage = self.predict[name]
        return self.tomograms_in(stage["data_folder"], stage["file_extension"])

    def names_to_predict(self, name):
        """Names of the tomograms that a stage predicts."""
        stage = self.predict[name]
        if stage["test_files"] is None:
            return self.tomograms_to_predict(name).names
        return sorted({file.removesuffix(stage["file_extension"]) for file in stage["test_files"]})

    def names_by(self, writer):
        """Set of the tomograms' names that a Writer makes files for; empty if that is unknown."""
        if writer.section == "predict":
            if "data_folder" not in self.predict[writer.name]:
                return set()
            tomograms = self.tomograms_to_predict(writer.name)
            return set(self.names_to_predict(writer.name)) if tomograms.listable else set()
        tomograms = self.tomograms_in(writer.folder, writer.ending)
        return set(tomograms.names) if tomograms.listable else set()

    def masks(self, name):
        """(folder, ending) of a stage's masks, or None; a mask is folder/name + ending.

        Of masks on disk, those with the ending that most of the stage's tomograms have.
        """
        folder = self.predict[name]["mask_folder"]
        if folder is None:
            return None
        if writer := self.writer_of(folder):
            return writer.folder, writer.ending
        there, wanted = set(file_names(folder)), self.names_to_predict(name)
        found = {end: sum(each + end in there for each in wanted) for end in MASK_ENDINGS}
        return spelled(folder), max(MASK_ENDINGS, key=Counter(found).__getitem__)

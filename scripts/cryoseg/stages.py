"""The stages of a workflow and what connects them: one's output folder is another's input."""

from dataclasses import dataclass, field
from functools import cached_property

from cryoseg.evaluation_stages import EvaluationStages
from cryoseg.folders import file_names, identity, spelled
from cryoseg.label_stages import LabelStages
from cryoseg.training_stages import TrainingStages
from cryoseg.volume_folders import MASK_ENDINGS, Tomograms, Writer

# The key of an entry from which its tomograms' names come.
READS = {"scale": "input_path", "label": "kind", "train": "data_folder", "predict": "data_folder"}


@dataclass
class Stages(TrainingStages, LabelStages, EvaluationStages):
    """Entries of the configuration by name, each with all its keys as config/schemas has them.

    A key that is mistaken or missing may be absent from an entry.
    """

    simulate: dict = field(default_factory=dict)
    scale: dict = field(default_factory=dict)
    label: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    predict: dict = field(default_factory=dict)

    @cached_property
    def writers(self):
        """All steps that write, in the order of the sections."""
        found = []
        for name, entry in self.simulate.items():
            if folder := entry.get("output_path"):
                for below, holds in (
                    ("", "tomograms"),
                    ("/labels", "labels"),
                    ("/lamella", "labels"),
                ):
                    place, key = spelled(folder + below), "output_path" + below
                    found.append(Writer("simulate", name, place, ".mrc", key, holds))
        for name, entry in self.scale.items():
            if folder := entry.get("output_path"):
                place = spelled(folder)
                found.append(Writer("scale", name, place, ".mrc", "output_path", "tomograms"))
        found += [*self.label_writers(), *self.training_writers()]
        for name, entry in self.predict.items():
            if folder := entry.get("prediction_folder"):
                place, key = spelled(folder), "prediction_folder"
                found.append(Writer("predict", name, place, "_preds.h5", key, "predictions"))
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
        if writer is None or writer.holds != "tomograms" or writer in passed:
            return Tomograms(spelled(folder), extension)
        if writer.section == "simulate":
            entry = self.simulate[writer.name]
            return Tomograms(
                writer.folder, ".mrc", writer, self.names_to_simulate(writer.name), entry["shape"]
            )
        entry = self.scale[writer.name]
        if "input_path" not in entry:
            return Tomograms(writer.folder, ".mrc", writer, [])
        path, extension = entry["input_path"], entry["file_extension"]
        raw = self.tomograms_in(path, extension, (*passed, writer))
        return Tomograms(writer.folder, ".mrc", writer, raw, raw.shape)

    def companions(self, folder, names, endings):
        """(folder, ending) of the files in a folder that belong to tomograms of these names.

        Of files on disk, those with the ending that most of the names have; a file is
        folder/name + ending.
        """
        if writer := self.writer_of(folder):
            return writer.folder, writer.ending
        there = set(file_names(folder))
        found = {ending: sum(each + ending in there for each in names) for ending in endings}
        return spelled(folder), max(found, key=found.__getitem__)

    def names_to_simulate(self, name):
        """Names of the tomograms that an entry under simulate makes."""
        return [f"{name}_{number}" for number in range(1, self.simulate[name]["number"] + 1)]

    def tomograms_to_scale(self, name):
        """The Tomograms that an entry under scale reads."""
        entry = self.scale[name]
        return self.tomograms_in(entry["input_path"], entry["file_extension"])

    def names_to_scale(self, name):
        """Names of the tomograms that an entry under scale scales."""
        return self.tomograms_to_scale(name).names

    def tomograms_to_predict(self, name):
        """The Tomograms of a stage's data_folder; the stage may take only some of them."""
        stage = self.predict[name]
        return self.tomograms_in(stage["data_folder"], stage["file_extension"])

    def names_to_predict(self, name):
        """Names of the tomograms that a stage predicts."""
        stage = self.predict[name]
        if stage["test_files"] is None:
            return self.tomograms_to_predict(name).names
        names = {file.removesuffix(stage["file_extension"]) for file in stage["test_files"]}
        return sorted(names.difference(self.no_files_to_predict(name)))

    def no_files_to_predict(self, name):
        """{name of a tomogram: what is there instead of its file} of those that a stage wants."""
        stage = self.predict[name]
        found = self.tomograms_to_predict(name).no_files
        if stage["test_files"] is None:
            return found
        ending = stage["file_extension"]
        return {each: why for each, why in found.items() if each + ending in stage["test_files"]}

    def predicts_what_is_made_by(self, name):
        """Whether a stage predicts the tomograms that an entry under scale makes."""
        readable = [each for each, stage in self.predict.items() if "data_folder" in stage]
        for stage in readable:
            tomograms = self.tomograms_to_predict(stage)
            while isinstance(tomograms, Tomograms):
                if str(tomograms.writer) == f"scale.{name}":
                    return True
                tomograms = tomograms.made
        return False

    def names_by(self, writer):
        """Set of the tomograms' names that a Writer makes files for; empty if that is unknown."""
        entry = getattr(self, writer.section)[writer.name]
        if writer.section in READS and READS[writer.section] not in entry:
            return set()
        try:
            return set(getattr(self, f"names_to_{writer.section}")(writer.name))
        except OSError:
            return set()

    def makes_masks(self, name):
        """Whether another stage reads the labels of this one as masks."""
        own = identity(self.predict[name]["prediction_folder"])
        folders = (stage["mask_folder"] for stage in self.predict.values())
        return any(folder and identity(folder) == own for folder in folders)

    def masks(self, name):
        """(folder, ending) of a stage's masks, or None; a mask is folder/name + ending."""
        folder = self.predict[name]["mask_folder"]
        return folder and self.companions(folder, self.names_to_predict(name), MASK_ENDINGS)

"""The entries under label: folders of labels, and what each is made from."""

import os

from cryoseg.folders import spelled
from cryoseg.volume_folders import Writer

TOMOGRAM = "{tomogram}"  # in a file name of the configuration, it stands for a tomogram's name


def by_label(value):
    """A mapping of labels as numbers, sorted; {None: value} where there is one value for all."""
    if not isinstance(value, dict):
        return {None: value}
    return {int(label): value[label] for label in sorted(value, key=int)}


def sources(value):
    """by_label of file names, each spelled as rules spell it."""
    return {label: spelled(path) for label, path in by_label(value).items()}


class LabelStages:
    """What Stages knows of the entries under label."""

    def label_writers(self):
        """The folders that these entries write."""
        for name, entry in self.label.items():
            if folder := entry.get("output_path"):
                place = spelled(folder)
                yield Writer("label", name, place, ".mrc", "output_path", "labels")

    def tomograms_to_label(self, name):
        """The Tomograms that an entry with positions reads."""
        entry = self.label[name]
        return self.tomograms_in(entry["tomograms"], entry["file_extension"])

    def masks_to_merge(self, name):
        """Label to (folder, ending) of its masks; a mask is folder/name + ending."""
        entry = self.label[name]
        own = entry["file_extension"]
        folders = {label: self.writer_of(path) for label, path in sources(entry["folders"]).items()}
        paths = sources(entry["folders"])
        return {
            label: (writer.folder, writer.ending) if writer else (paths[label], own)
            for label, writer in folders.items()
        }

    def names_to_label(self, name):
        """Names of the tomograms that an entry makes labels for; OSError where unreadable."""
        entry = self.label[name]
        if entry["files"] is not None:
            return sorted({file.removesuffix(entry["file_extension"]) for file in entry["files"]})
        if entry["kind"] != "merge":
            return self.tomograms_to_label(name).names if "tomograms" in entry else []
        found = set()
        for folder in entry.get("folders", {}).values():
            found.update(self.names_in(folder, entry["file_extension"]))
        return sorted(found)

    def names_in(self, folder, ending):
        """Names of the volumes in a folder, on disk or to be written."""
        if writer := self.writer_of(folder):
            return self.names_by(writer)
        return self.tomograms_in(folder, ending).names


def missing_masks(stages, name):
    """(label, folder, ending, names) of the masks that an entry of kind merge would not find."""
    for label, (folder, ending) in stages.masks_to_merge(name).items():
        writer = stages.writer_of(folder)
        made = stages.names_by(writer) if writer else set()
        lacking = [
            each
            for each in stages.names_to_label(name)
            if each not in made and not os.path.exists(f"{folder}/{each}{ending}")
        ]
        if lacking:
            yield label, folder, ending, lacking

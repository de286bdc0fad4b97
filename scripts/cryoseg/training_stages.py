"""The entries under train: tomograms, labels, and where each step of a training writes."""

from cryoseg.folders import identity, spelled
from cryoseg.volume_folders import LABEL_ENDINGS, Writer

BEST_MODEL = "model_best.ckpt"
# What patches depend on, of an entry and of its parameters.data.
PATCH_SOURCES = (
    "data_folder", "file_extension", "labels_folder", "labels_folder_for_filtering",
    "selected_labels", "relabel", "noisy_data_folder",
)  # fmt: skip
PATCH_KEYS = ("patch_size", "patch_overlap", "remove_only_background", "min", "max")


def training_folders(entry):
    """Folders of an entry: patches, distances and logs, spelled; absent where they are unknown."""
    patches = entry.get("patches_folder")
    temporary = entry.get("temp_dir") or patches
    logs = entry.get("log_dir") or patches
    folders = {
        "patches": patches,
        "distances": temporary and f"{temporary}/distances",
        "logs": logs,
    }
    return {name: spelled(folder) for name, folder in folders.items() if folder}


def patches_of(entry):
    """What tells the patches of an entry apart from those of another."""
    folders, parameters = training_folders(entry), entry["parameters"]
    data, network = parameters["data"], parameters["network"]
    return (
        [identity(folders[which]) for which in ("patches", "distances") if which in folders],
        [entry.get(key) for key in PATCH_SOURCES],
        [data[key] for key in PATCH_KEYS],
        network.get("out_channels"),
        parameters["transforms"]["use_noisy_input"],
    )


class TrainingStages:
    """What Stages knows of the entries under train."""

    def prepared_by(self, name):
        """The entry that cuts the patches of an entry: the first one that wants the very same."""
        wanted = patches_of(self.train[name])
        return next(each for each, entry in self.train.items() if patches_of(entry) == wanted)

    def training_writers(self):
        """The folders that these entries write."""
        for name, entry in self.train.items():
            folders = training_folders(entry)
            if "logs" in folders:
                place = f"{folders['logs']}/model"
                yield Writer("train", name, place, BEST_MODEL, "log_dir/model", "models")
            if self.prepared_by(name) != name:
                continue
            written = [
                ("patches", "_patches.h5", "patches_folder", "patches"),
                ("distances", "_distances.h5", "temp_dir/distances", "distances"),
            ]
            if entry.get("labels_folder_for_filtering") and entry.get("labels_folder"):
                folder = spelled(entry["labels_folder"])
                yield Writer("train", name, folder, ".mrc", "labels_folder", "labels")
            for which, ending, key, holds in written:
                if which in folders:
                    yield Writer("train", name, folders[which], ending, key, holds)

    def tomograms_to_train(self, name):
        """The Tomograms of an entry's data_folder; the training may take only some of them."""
        entry = self.train[name]
        return self.tomograms_in(entry["data_folder"], entry["file_extension"])

    def names_to_train(self, name):
        """Sorted names of the tomograms to train and to validate on."""
        entry = self.train[name]
        if entry["train_files"] is None:
            held_back = self._named(entry, "test_files") - self._named(entry, "val_files")
            return [each for each in self.tomograms_to_train(name).names if each not in held_back]
        return sorted(self._named(entry, "train_files") | self._named(entry, "val_files"))

    def _named(self, entry, key):
        """Set of the tomograms that a key lists by their file names."""
        return {file.removesuffix(entry["file_extension"]) for file in entry[key] or ()}

    def labels_to_filter(self, name):
        """(folder, ending) of the labels to filter, or None; a file is folder/name + ending."""
        folder = self.train[name]["labels_folder_for_filtering"]
        return folder and self._labels_in(folder, name)

    def labels_to_train(self, name):
        """(folder, ending) of the labels to train on; a file is folder/name + ending."""
        entry = self.train[name]
        if entry["labels_folder_for_filtering"]:
            return spelled(entry["labels_folder"]), ".mrc"
        return self._labels_in(entry["labels_folder"], name)

    def _labels_in(self, folder, name):
        own = self.train[name]["file_extension"]
        return self.companions(folder, self.names_to_train(name), (own, *LABEL_ENDINGS))

    def noisy_tomograms(self, name):
        """(folder, ending) of the noisy tomograms, or None where the training reads none."""
        entry = self.train[name]
        folder = entry["noisy_data_folder"]
        if not folder or not entry["parameters"]["transforms"]["use_noisy_input"]:
            return None
        own = entry["file_extension"]
        return self.companions(folder, self.names_to_train(name), (own, ".mrc", ".rec"))

    def writes_model(self, name):
        """Whether an entry has the keys that tell where its model lies."""
        return "logs" in training_folders(self.train[name])

    def best_model(self, name):
        """The checkpoint that a training writes."""
        return f"{training_folders(self.train[name])['logs']}/model/{BEST_MODEL}"

    def trainer_of(self, checkpoint):
        """Name of the training that writes a checkpoint, however its path is spelled, or None."""
        wanted = identity(checkpoint)
        for name in self.train:
            if self.writes_model(name) and identity(self.best_model(name)) == wanted:
                return name
        return None

    def checkpoint(self, path):
        """A checkpoint's path, spelled as the step that writes it does, if there is one."""
        trainer = self.trainer_of(path)
        return spelled(path) if trainer is None else self.best_model(trainer)

"""What can be wrong with a configuration beyond single values: order, folders and files."""

import os
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter

from cryoseg import folders
from cryoseg.evaluation_checks import evaluation_mistakes
from cryoseg.folders import VARIABLE, identity, some, unusable, unusable_path
from cryoseg.label_checks import label_file_mistakes, labelling_mistakes, merge_mistakes
from cryoseg.prediction_checks import stage_mistakes
from cryoseg.training_checks import (
    checkpoint_mistakes,
    training_file_mistakes,
    training_mistakes,
)

# The key of the tomograms that an entry reads, by section.
TOMOGRAM_KEYS = {
    "scale": "input_path",
    "label": "tomograms",
    "train": "data_folder",
    "predict": "data_folder",
}
# Keys of the other folders that an entry reads, and what must lie there.
OTHER_KEYS = {
    "train": {
        "noisy_data_folder": "tomograms",
        "labels_folder": "labels",
        "labels_folder_for_filtering": "labels",
    },
    "predict": {"mask_folder": "labels"},
}
# Steps one after the other; those of a run are five or ten.
MOST_IN_A_ROW = 100
CHECKPOINT_KEYS = {"train": "pretrained_model", "predict": "trained_model"}
FILE_MISTAKES = {
    "label": label_file_mistakes,
    "train": training_file_mistakes,
    "predict": stage_mistakes,
}


def find_mistakes(stages, files, on_disk=True):
    """Sentences about everything that is wrong with the entries together.

    stages:  a Stages
    files:   (section, name) to the words that messages begin with, such as the file's name
    on_disk: look at folders and files on disk too
    """
    circle = list(_circle(stages))
    mistakes = [*_name_mistakes(stages), *_value_mistakes(stages, files)]
    mistakes += [*_output_mistakes(stages, files), *_input_mistakes(stages, files), *circle]
    if on_disk and not circle:
        mistakes += _disk_mistakes(stages, files)
    return mistakes


def _disk_mistakes(stages, files):
    """Folders and files that are not there, or not as they must be."""
    for writer in stages.writers:
        own = writer.section == "train" or "/" not in writer.key
        if own and (reason := folders.unwritable(writer.folder)):
            yield f"{files[writer.section, writer.name]}{writer.key} {reason}"
    for section, name, entry in _entries(stages):
        begin, key = files[section, name], CHECKPOINT_KEYS.get(section)
        if entry.get(key):
            yield from checkpoint_mistakes(stages, entry[key], begin, key)
        if entry.get("kind") == "merge":
            yield from merge_mistakes(stages, name, begin)
        elif TOMOGRAM_KEYS[section] in entry:
            yield from _reading_mistakes(stages, section, name, begin)


def _reading_mistakes(stages, section, name, begin):
    """Tomograms and what belongs to them that an entry wants and will not find."""
    entry, key = getattr(stages, section)[name], TOMOGRAM_KEYS[section]
    tomograms = stages.tomograms_in(entry[key], entry["file_extension"])
    mistakes = list(_tomogram_mistakes(tomograms, entry["file_extension"], begin, key))
    # Where a check comes first, that names what is no file, and stops nothing else.
    checked = section == "predict" or (section == "scale" and stages.predicts_what_is_made_by(name))
    if tomograms.listable and not tomograms.writer and not checked:
        mistakes += _link_mistakes(tomograms, begin, key)
    yield from mistakes
    # A folder that feeds this one may be unreadable too; that has been reported.
    if not mistakes and tomograms.listable and section in FILE_MISTAKES:
        yield from FILE_MISTAKES[section](stages, name, begin)


def _entries(stages):
    """(section, name, entry) of all entries that read something."""
    for section in TOMOGRAM_KEYS:
        for name, entry in getattr(stages, section).items():
            yield section, name, entry


def _name_mistakes(stages):
    """Names whose logs would share a folder where capitals do not count."""
    for section in ("simulate", *TOMOGRAM_KEYS):
        names = defaultdict(list)
        for name in getattr(stages, section):
            names[name.lower()].append(name)
        for same in (each for each in names.values() if len(each) > 1):
            yield f"{section}: {' and '.join(same)} differ in capitals only; rename one"


def _value_mistakes(stages, files):
    """Values that are wrong together."""
    for name, entry in stages.scale.items():
        low, high = entry["lower_end_percentage"], entry["upper_end_percentage"]
        if low >= high:
            yield (
                f"{files['scale', name]}lower_end_percentage is {low:g} and upper_end_percentage "
                f"{high:g}; the lower must be below the upper"
            )
    for name, entry in stages.simulate.items():
        first, last = entry["tilt_range"]
        depth = entry["shape"][0] * entry["voxel_size"] / 10
        if first >= last:
            yield f"{files['simulate', name]}tilt_range goes from {first:g} down to {last:g}"
        if entry["thickness_nm"] >= depth:
            yield (
                f"{files['simulate', name]}thickness_nm is {entry['thickness_nm']:g}; it must be "
                f"less than the depth of the volume, {depth:g} nm (shape times voxel_size)"
            )
    for name, stage in stages.predict.items():
        low, high = (stage["parameters"]["data"][key] for key in ("min", "max"))
        if low >= high:
            yield (
                f"{files['predict', name]}parameters.data.min is {low:g} and max {high:g}; "
                "min must be below max"
            )
        if stage["evaluate"]:
            begin = files["predict", name]
            file = begin.removesuffix(": ")
            yield from (begin + sentence for sentence in evaluation_mistakes(stage, file))
    for name, entry in stages.label.items():
        yield from (files["label", name] + sentence for sentence in labelling_mistakes(entry))
    for name, entry in stages.train.items():
        yield from (files["train", name] + sentence for sentence in training_mistakes(entry))


def _output_mistakes(stages, files):
    """Folders that two steps write, or whose names cannot be used."""
    by_folder = defaultdict(list)
    for writer in stages.writers:
        by_folder[identity(writer.folder)].append(writer)
        if reason := unusable_path(writer.folder):
            yield f"{files[writer.section, writer.name]}{writer.key} {writer.folder} {reason}"
    for same in (each for each in by_folder.values() if len(each) > 1):
        places = " and ".join(f"{writer}.{writer.key}" for writer in same)
        yield f"{places} are the same folder, {same[0].folder}; give each step its own"


def _input_mistakes(stages, files):
    """Folders that cannot be read because of what is written there, or because of their names."""
    for section, name, key, folder, wanted in _inputs(stages):
        begin = f"{files[section, name]}{key} {folder}"
        writer = stages.writer_of(folder)
        if reason := unusable_path(folder):
            yield f"{begin} {reason}"
        elif key == "mask_folder" and _reads_same(stages.predict[name], folder):
            yield f"{begin} is the data_folder too; a tomogram is no mask of itself"
        elif writer is None:
            continue
        elif (writer.section, writer.name) == (section, name):
            yield f"{begin} is its {writer.key} too; its outputs would overwrite its inputs"
        elif writer.holds != wanted and (wanted, writer.holds) != ("labels", "predictions"):
            yield f"{begin} is where {writer} writes; keep {wanted} and {writer.holds} apart"


def _reads_same(stage, folder):
    return "data_folder" in stage and identity(stage["data_folder"]) == identity(folder)


def _inputs(stages):
    """(section, name, key, folder, what it must hold) of every folder that a step reads."""
    for section, name, entry in _entries(stages):
        keys = {TOMOGRAM_KEYS[section]: "tomograms"} | OTHER_KEYS.get(section, {})
        if entry.get("labels_folder_for_filtering"):
            del keys["labels_folder"]  # it is written
        for key, wanted in keys.items():
            if entry.get(key):
                yield section, name, key, entry[key], wanted
        for folder in entry.get("folders", {}).values():
            yield section, name, "folders", folder, "labels"


def _circle(stages):
    """Steps that wait for each other, or for very many, one after the other."""
    needs = defaultdict(set)
    for section, name, _, folder, _ in _inputs(stages):
        writer = stages.writer_of(folder)
        if writer and str(writer) != f"{section}.{name}":
            needs[f"{section}.{name}"].add(str(writer))
    for section, key in CHECKPOINT_KEYS.items():
        for name, entry in getattr(stages, section).items():
            if trainer := entry.get(key) and stages.trainer_of(entry[key]):
                needs[f"{section}.{name}"].add(f"train.{trainer}")
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        steps = " needs ".join(reversed(error.args[1]))
        yield f"{steps}: no step can be the first; change one of their folders"
        return
    before = {}
    for step in order:
        before[step] = max((before[each] + 1 for each in needs[step]), default=0)
        if before[step] == MOST_IN_A_ROW:
            yield f"{step} needs {MOST_IN_A_ROW} steps before it; take some of them out"


def _tomogram_mistakes(tomograms, extension, begin, key):
    """Nothing to read, or files that cannot be read."""
    folder, writer = tomograms.folder, tomograms.writer
    if writer is not None:
        if tomograms.extension != extension:
            yield f"{begin}file_extension is {extension}, but {writer} writes {tomograms.extension}"
        return
    if reason := folders.unreadable(folder):
        yield f"{begin}{key} is {folder}, {reason}"
        return
    if not tomograms.names:
        yield f"{begin}{key} {folder} holds no {extension} file{folders.endings(folder)}"
    for name in (*tomograms.names, *tomograms.no_files):
        if reason := unusable(name, VARIABLE):
            yield f"{begin}{key} {folder}: the file name {name + extension!a} {reason}"


def _link_mistakes(tomograms, begin, key):
    """Links to files that are not there, which would be left out without a word."""
    files = [name + tomograms.extension for name in tomograms.no_files]
    if lost := [each for each in files if os.path.islink(f"{tomograms.folder}/{each}")]:
        yield f"{begin}{key} {tomograms.folder}: {some(lost)} link to files that do not exist"

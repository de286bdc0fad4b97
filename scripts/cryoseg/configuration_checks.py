"""What can be wrong with a configuration beyond single values: order, folders and files."""

import os
from collections import Counter, defaultdict
from graphlib import CycleError, TopologicalSorter

from cryoseg import folders
from cryoseg.folders import VARIABLE, WILDCARD, identity, nearest, some, unusable


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
        if "/" not in writer.key and (reason := folders.unwritable(writer.folder)):
            yield f"{files[writer.section, writer.name]}{writer.key} {reason}"
    for name, entry in stages.scale.items():
        if "input_path" in entry:
            tomograms, begin = stages.tomograms_to_scale(name), files["scale", name]
            extension = entry["file_extension"]
            yield from _tomogram_mistakes(tomograms, extension, begin, "input_path")
    for name, stage in stages.predict.items():
        yield from _model_mistakes(stage, files["predict", name])
        yield from _stage_mistakes(stages, name, files["predict", name])


def _name_mistakes(stages):
    """Names whose logs would share a folder where capitals do not count."""
    for section in ("simulate", "scale", "predict"):
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


def _output_mistakes(stages, files):
    """Folders that two steps write, or whose names cannot be used."""
    by_folder = defaultdict(list)
    for writer in stages.writers:
        by_folder[identity(writer.folder)].append(writer)
        if reason := unusable(writer.folder, VARIABLE, WILDCARD):
            yield f"{files[writer.section, writer.name]}{writer.key} {writer.folder} {reason}"
    for same in (each for each in by_folder.values() if len(each) > 1):
        places = " and ".join(f"{writer}.{writer.key}" for writer in same)
        yield f"{places} are the same folder, {same[0].folder}; give each step its own"


def _input_mistakes(stages, files):
    """Folders that cannot be read because of what is written there, or because of their names."""
    for section, name, key, folder in _inputs(stages):
        begin = f"{files[section, name]}{key} {folder}"
        writer = stages.writer_of(folder)
        if reason := unusable(folder, VARIABLE, WILDCARD):
            yield f"{begin} {reason}"
        elif writer and (writer.section, writer.name) == (section, name):
            yield f"{begin} is its {writer.key} too; its outputs would overwrite its inputs"
        elif writer and writer.section == "predict" and key != "mask_folder":
            yield f"{begin} is where {writer} writes; keep tomograms and predictions apart"


def _inputs(stages):
    """(section, name, key, folder) of every folder that a step reads."""
    for name, entry in stages.scale.items():
        if "input_path" in entry:
            yield "scale", name, "input_path", entry["input_path"]
    for name, stage in stages.predict.items():
        for key in ("data_folder", "mask_folder"):
            if stage.get(key):
                yield "predict", name, key, stage[key]


def _circle(stages):
    """Steps that wait for each other."""
    needs = TopologicalSorter()
    for section, name, _, folder in _inputs(stages):
        writer = stages.writer_of(folder)
        if writer and str(writer) != f"{section}.{name}":
            needs.add(f"{section}.{name}", str(writer))
    try:
        needs.prepare()
    except CycleError as error:
        steps = " needs ".join(reversed(error.args[1]))
        yield f"{steps}: no step can be the first; change one of their folders"


def _model_mistakes(stage, begin):
    """A checkpoint that is not there."""
    model = stage.get("trained_model")
    if model is None:
        return
    if reason := unusable(model, VARIABLE, WILDCARD):
        yield f"{begin}trained_model {model} {reason}"
    if not os.path.isfile(model):
        found = "is no file" if os.path.exists(model) else "does not exist"
        yield f"{begin}trained_model {model} {found}; name the model's checkpoint (.ckpt)"


def _stage_mistakes(stages, name, begin):
    """Tomograms and masks that a prediction stage wants and will not find."""
    stage = stages.predict[name]
    if "data_folder" not in stage:
        return
    tomograms = stages.tomograms_to_predict(name)
    mistakes = list(_tomogram_mistakes(tomograms, stage["file_extension"], begin, "data_folder"))
    if mistakes or not tomograms.listable:  # a folder that feeds this one has been reported
        yield from mistakes
        return
    yield from _test_file_mistakes(stage, tomograms, begin)
    if stage["mask_folder"]:
        yield from _mask_mistakes(stages, name, begin)


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
    if lost := folders.dangling(folder, [name + extension for name in tomograms.names]):
        yield f"{begin}{key} {folder}: {some(lost)} link to files that do not exist"
    for name in tomograms.names:
        if reason := unusable(name, VARIABLE):
            yield f"{begin}{key} {folder}: the file name {name + extension!a} {reason}"


def _test_file_mistakes(stage, tomograms, begin):
    """Files that are asked for by name."""
    known = [name + tomograms.extension for name in tomograms.names]
    writer, folder = tomograms.writer, tomograms.folder
    place = f"among the files that {writer} writes" if writer else f"in {folder}"
    for file, count in Counter(stage["test_files"] or ()).items():
        if file not in known:
            yield f"{begin}test_files: {file} is not {place}{nearest(file, known)}"
        if count > 1:
            yield f"{begin}test_files: {file} is listed {count} times; once is enough"


def _mask_mistakes(stages, name, begin):
    """Tomograms without a mask."""
    folder = stages.predict[name]["mask_folder"]
    writer = stages.writer_of(folder)
    if writer is None and (reason := folders.unreadable(folder)):
        yield f"{begin}mask_folder is {folder}, {reason}"
        return
    place, ending = stages.masks(name)
    written = set() if writer is None else stages.names_by(writer)
    lacking = [
        each
        for each in stages.names_to_predict(name)
        if each not in written and not os.path.exists(f"{place}/{each}{ending}")
    ]
    if lacking:
        what = f"{writer} makes no mask" if writer else f"{place} holds no NAME{ending}"
        yield (
            f"{begin}mask_folder: {what} for {some(lacking)}; "
            "make these masks, or leave the tomograms out with test_files"
        )

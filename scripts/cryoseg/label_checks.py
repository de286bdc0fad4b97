"""What can be wrong with an entry under label beyond single values."""

import os
from collections import Counter

from cryoseg import folders
from cryoseg.folders import nearest, some, unusable_path
from cryoseg.label_stages import TOMOGRAM, by_label, missing_masks, sources


def labelling_mistakes(entry):
    """Values of an entry that are wrong together, each as the end of a message."""
    for file, count in Counter(entry["files"] or ()).items():
        if count > 1:
            yield f"files: {file} is listed {count} times; once is enough"
    if repeated := [each for each, count in Counter(entry["priority"] or ()).items() if count > 1]:
        yield f"priority names {repeated[0]} more than once"
    if entry["kind"] == "merge":
        yield from _priority_mistakes(entry, set(by_label(entry.get("folders", {}))))
        return
    labels = _known_labels(entry)
    yield from _priority_mistakes(entry, labels)
    if isinstance(entry.get("positions"), dict) and entry["labels"] is not None:
        yield "labels must be null where positions is a mapping, which gives the labels already"
    for key in ("radius", "averages", "threshold"):
        given = entry.get(key)
        if not isinstance(given, dict):
            continue
        if lacking := sorted(labels - set(by_label(given))):
            yield f"{key} has no value for the label {some(map(str, lacking))}; add it"


def _known_labels(entry):
    """Labels that the configuration itself names; classes in files are known to the job only."""
    if isinstance(entry.get("positions"), dict):
        return set(by_label(entry["positions"]))
    labels = entry["labels"]
    return set(labels.values()) if isinstance(labels, dict) else {labels} - {None}


def _priority_mistakes(entry, labels):
    if unknown := [each for each in entry["priority"] or () if labels and each not in labels]:
        yield f"priority names {unknown[0]}; the labels are {some(map(str, sorted(labels)))}"


def label_file_mistakes(stages, name, begin):
    """Files that an entry with positions wants and will not find; its tomograms can be listed."""
    entry = stages.label[name]
    tomograms = stages.tomograms_to_label(name)
    known = [each + tomograms.extension for each in tomograms.names]
    for file in sorted(set(entry["files"] or ()) - set(known)):
        yield f"{begin}files: {file} is not in {tomograms.folder}{nearest(file, known)}"
    if "positions" in entry:
        files = sources(entry["positions"]).values()
        yield from position_mistakes(files, stages.names_to_label(name), begin)
    for path in sources(entry["averages"]).values() if "averages" in entry else ():
        if reason := unusable_path(path):
            yield f"{begin}averages: {path} {reason}"
        if not os.path.isfile(path):
            yield f"{begin}averages: {path} does not exist; name the file of the average (.mrc)"


def position_mistakes(files, names, begin):
    """Files of positions that will not be found.

    files: their paths, which may have {tomogram} in them; names: of the tomograms
    """
    files = list(files)
    for path in files:
        if reason := unusable_path(path.replace(TOMOGRAM, "")):
            yield f"{begin}positions: {path} {reason}"
    if len({TOMOGRAM in path for path in files}) > 1:
        yield f"{begin}positions: write {TOMOGRAM} into all of the file names or into none"
        return
    names = names if TOMOGRAM in files[0] else [""]
    paths = dict.fromkeys(path.replace(TOMOGRAM, each) for each in names for path in files)
    if lacking := [path for path in paths if not os.path.isfile(path)]:
        yield f"{begin}positions: {some(lacking)} cannot be found; name STAR or CSV files"


def merge_mistakes(stages, name, begin):
    """Folders and masks that an entry of kind merge wants and will not find."""
    entry = stages.label[name]
    unreadable = [
        f"{begin}folders: {folder}, {reason}"
        for folder in entry.get("folders", {}).values()
        if not stages.writer_of(folder) and (reason := folders.unreadable(folder))
    ]
    yield from unreadable
    if unreadable or "folders" not in entry:
        return
    if not stages.names_to_label(name):
        yield f"{begin}folders: none of them holds a {entry['file_extension']} file"
    for label, folder, ending, lacking in missing_masks(stages, name):
        yield (
            f"{begin}folders: {folder} (label {label}) holds no NAME{ending} for {some(lacking)}; "
            "add empty masks, or name in files what to merge"
        )

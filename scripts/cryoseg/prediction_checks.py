"""What can be wrong with an entry under predict beyond single values."""

import os
from collections import Counter

from cryoseg import folders
from cryoseg.evaluation_checks import evaluation_file_mistakes
from cryoseg.folders import nearest, some
from cryoseg.name_checks import look_alikes


def stage_mistakes(stages, name, begin):
    """Files that a prediction stage wants and will not find; its tomograms can be listed."""
    stage = stages.predict[name]
    yield from _test_file_mistakes(stage, stages.tomograms_to_predict(name), begin)
    if stage["mask_folder"]:
        yield from _mask_mistakes(stages, name, begin)
    if stage["evaluate"]:
        yield from evaluation_file_mistakes(stages, name, begin)


def _test_file_mistakes(stage, tomograms, begin):
    """Files that are asked for by name."""
    names = (*tomograms.names, *tomograms.no_files)
    known = [name + tomograms.extension for name in names]
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
    if writer is not None and not written:  # what keeps it from making any has been reported
        return
    lacking = [
        each
        for each in stages.names_to_predict(name)
        if each not in written and not os.path.exists(f"{place}/{each}{ending}")
    ]
    if lacking:
        what = f"{writer} makes no mask" if writer else f"{place} holds no NAME{ending}"
        near = "" if writer else look_alikes(place, ending, lacking)
        yield (
            f"{begin}mask_folder: {what} for {some(lacking)}{near}; "
            "make these masks, or leave the tomograms out with test_files"
        )

"""File names that do not go together, or nearly do: what lies in a folder and is not taken."""

import re

from cryoseg.findings import WARNING, Finding
from cryoseg.folders import some

# What a tomogram's file may end in; one with an ending that is not asked for may be overlooked.
VOLUME_ENDINGS = (".mrc", ".rec", ".map", ".st", ".ali")


def likeness(name):
    """What nearly equal names have in common: TS_01, ts_1 and TS-1.mrc are alike."""
    name = name.lower()
    while ending := next((each for each in VOLUME_ENDINGS if name.endswith(each)), None):
        name = name.removesuffix(ending)
    return re.sub(r"0*(\d+)", r"\1", re.sub(r"[\s_-]+", "_", name))


def alike(name, names):
    """The first of the names that nearly equals ``name``, other than itself, or None."""
    wanted = likeness(name)
    return next((each for each in names if each != name and likeness(each) == wanted), None)


def tomogram_name_findings(folder, files, extension):
    """Findings about the names of the files in a folder of tomograms.

    files: names of all its files; extension: what those that are taken end in
    """
    taken = [file.removesuffix(extension) for file in files if file.endswith(extension)]
    by_likeness = {}
    for name in sorted(taken):
        by_likeness.setdefault(likeness(name), []).append(name)
    for names in by_likeness.values():
        if len(names) > 1:
            yield Finding(
                WARNING,
                f"{folder}: the names {some(names)} are nearly the same",
                "if they are one tomogram, keep one file of it",
            )
    others = [file for file in files if file.lower().endswith(VOLUME_ENDINGS)]
    overlooked = sorted(file for file in others if not file.endswith(extension))
    if overlooked:
        yield Finding(
            WARNING,
            f"{folder}: {some(overlooked)} do not end in {extension} and are not read",
            "rename or move them, or set file_extension",
        )


def companion_name_findings(folder, files, ending, names, what):
    """Findings about files that belong to no tomogram.

    files:  names of all files in ``folder``; those that end in ``ending`` count
    names:  of all tomograms
    what:   what the files hold: "labels" or "masks"
    """
    known = set(names)
    lost = sorted({file.removesuffix(ending) for file in files if file.endswith(ending)} - known)
    for name in lost:
        if near := alike(name, names):
            yield Finding(
                WARNING,
                f"{folder}/{name}{ending}: there is no tomogram {name}, but {near}",
                f"if these are its {what}, give them its name",
            )
    rest = [name for name in lost if not alike(name, names)]
    if rest:
        yield Finding(
            WARNING,
            f"{folder}: there are {what} of {some(rest)}, and no such tomograms",
            "nothing reads them; add the tomograms, or rename the files",
        )

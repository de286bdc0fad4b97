"""File names that do not go together, or nearly do: what lies in a folder and is not taken."""

import re

from cryoseg.findings import WARNING, Finding
from cryoseg.folders import file_names, some

# What a tomogram's file may end in; one with an ending that is not asked for may be overlooked.
VOLUME_ENDINGS = (".mrc", ".rec", ".map", ".st", ".ali")


def likeness(name):
    """What nearly equal names have in common: TS_01, ts_1 and TS-1.mrc are alike."""
    name = name.lower()
    while ending := next((each for each in VOLUME_ENDINGS if name.endswith(each)), None):
        name = name.removesuffix(ending)
    return re.sub(r"0*(\d+)", r"\1", re.sub(r"[\s_-]+", "_", name))


def by_likeness(names):
    """{likeness: sorted names} of names."""
    found = {}
    for name in sorted(names):
        found.setdefault(likeness(name), []).append(name)
    return found


def alike(name, known):
    """The first name in a by_likeness that nearly equals ``name``, other than itself, or None."""
    return next((each for each in known.get(likeness(name), ()) if each != name), None)


def look_alikes(folder, ending, lacking):
    """Files that may have been meant for names that have none, as a part of a sentence.

    The files are folder/name + ending on disk.
    """
    there = [file.removesuffix(ending) for file in file_names(folder) if file.endswith(ending)]
    known = by_likeness(there)
    found = {name: near for name in lacking if (near := alike(name, known))}
    text = some(f"{near}{ending} that of {name}" for name, near in found.items())
    return f" (is {text}?)" if found else ""


def tomogram_name_findings(folder, files, extension):
    """Findings about the names of the files in a folder of tomograms.

    files: names of all its files; extension: what those that are taken end in
    """
    taken = [file.removesuffix(extension) for file in files if file.endswith(extension)]
    for names in by_likeness(taken).values():
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
    there = {file.removesuffix(ending) for file in files if file.endswith(ending)}
    lost, known, rest = sorted(there - set(names)), by_likeness(names), []
    for name in lost:
        near = alike(name, known)
        if near is None:
            rest.append(name)
            continue
        yield Finding(
            WARNING,
            f"{folder}/{name}{ending}: there is no tomogram {name}, but {near}",
            f"if these are its {what}, give them its name",
        )
    if rest:
        yield Finding(
            WARNING,
            f"{folder}: there are {what} of {some(rest)}, and no such tomograms",
            "nothing reads them; add the tomograms, or rename the files",
        )

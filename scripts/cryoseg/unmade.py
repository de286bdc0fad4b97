"""Files that a run could not make, and why, for the steps that gather the files of all tomograms.

A step that has a parameter ``unmade``, the path of such a list, runs at the end of a run in which
jobs failed all the same, and tells of what is not there. Without failures there is no list.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from cryoseg.small_files import read_json
from cryoseg.volumes import written_aside


@dataclass(frozen=True)
class Unmade:
    """Why a file is not there, or is of an earlier run and outdated.

    step:   name of the rule that failed, for the file or for what it is made of
    reason: what is wrong, a sentence
    """

    step: str
    reason: str


def write_unmade(path, files):
    """Write a list, {path: Unmade}, as JSON."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: asdict(why) for name, why in files.items()}, indent=1)
    with written_aside(path) as aside:
        aside.write_text(text + "\n", encoding="utf-8")


def read_unmade(path):
    """Read a list as {path: Unmade}; empty where there is none."""
    try:
        listed = read_json(path)
    except FileNotFoundError:
        return {}
    return {name: Unmade(**why) for name, why in listed.items()}


def sort_out(files, path):
    """What there is of files, and why the others are not there: (paths, {path: Unmade}).

    path: of the list
    """
    listed = read_unmade(path)
    lacking = {str(file): listed[str(file)] for file in files if str(file) in listed}
    return [file for file in files if str(file) not in lacking], lacking

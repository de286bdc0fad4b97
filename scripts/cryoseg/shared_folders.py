"""Output folders that runs of several working folders write into, and what tells them of it.

Snakemake locks its own working folder, and knows nothing of runs elsewhere. So each run leaves a
note in every output folder that lies outside its working folder; whoever comes next reads it. Of
the run in whose working folder an output folder lies, its Snakemake's notes tell.
"""

import binascii
import hashlib
import json
import os
from base64 import urlsafe_b64decode
from contextlib import suppress
from pathlib import Path

from cryoseg.errors import InputError
from cryoseg.folders import some
from cryoseg.provenance import canonical, flattened
from cryoseg.small_files import read_json
from cryoseg.training_stages import training_folders
from cryoseg.volumes import written_aside

NOTES = ".cryoseg_runs"
# Settings that change how fast a step goes, and nothing that it writes.
SPEED = ("device", "memory_gb", "tile_size", "num_workers", "cache_rate", "checkpoint_minutes")
REPLACED = (
    "what one has made the other takes for its own (snakemake verify tells) or replaces: name "
    "another folder"
)


def entries_by_folder(stages):
    """{whole path of a folder: {section.entry: its settings}} of what is written."""
    places = [(writer.section, writer.name, writer.folder) for writer in stages.writers]
    places += [
        ("train", name, training_folders(entry)["logs"]) for name, entry in stages.train.items()
    ]
    found, here = {}, os.getcwd()
    for section, name, folder in places:
        if os.path.abspath(folder) != here:
            settings = json.loads(canonical(getattr(stages, section)[name]))
            found.setdefault(os.path.abspath(folder), {})[f"{section}.{name}"] = settings
    return found


def leave_notes(entries):
    """Leave a note in each folder outside the working folder that this run writes into.

    entries: as of entries_by_folder
    Each run has a file of its own there, so that two that begin at once do not undo each other's.
    Yields sentences about folders where that is not possible: a run that finds all that it wants
    there needs no right to write.
    """
    here = os.getcwd()
    for folder, settings in entries.items():
        if folder.startswith(f"{here}/"):
            continue
        note = _note_of(folder, here)
        content = {"run": here, "entries": settings}
        try:
            if _read(note) != content:
                note.parent.mkdir(parents=True, exist_ok=True)
                with written_aside(note) as aside:
                    aside.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except (OSError, InputError) as error:
            yield f"{folder}: runs of other working folders are not told of this one ({error})"


def _note_of(folder, run):
    return Path(folder, NOTES, f"{hashlib.sha256(run.encode()).hexdigest()[:16]}.json")


def others_in(entries):
    """Sentences about runs of other working folders that write into the same folders.

    Not about those whose working folder is gone. entries: as of entries_by_folder
    """
    here = os.getcwd()
    for folder, settings in entries.items():
        for note in sorted(Path(folder, NOTES).glob("[!.]*.json")):
            try:
                other = _read(note)
            except InputError as error:
                yield str(error)
                continue
            if other and other["run"] != here and os.path.isdir(other["run"]):
                yield _sentence(folder, note, other, settings)
        if run := _run_around(folder, here):
            yield (
                f"{folder}: the run in {run} writes there too, with settings that are not known "
                f"here; {REPLACED}, unless the settings are the same"
            )


def other_runs(entries):
    """(folder, working folder) of each other run that writes there, by its note.

    entries: as of entries_by_folder
    """
    here = os.getcwd()
    for folder in entries:
        for note in sorted(Path(folder, NOTES).glob("[!.]*.json")):
            with suppress(InputError):  # which others_in tells of
                other = _read(note)
                if other and other["run"] != here and os.path.isdir(other["run"]):
                    yield folder, other["run"]
        if run := _run_around(folder, here):
            yield folder, run


def noted_elsewhere(path, runs, place_of):
    """What Snakemake in other working folders has noted of an output as its job was done, mappings.

    path:     of the output
    runs:     (folder, working folder), as of other_runs
    place_of: function that gives the path of the note in a folder of notes, by an output's path as
              it is spelled there
    What may not be read, or is no note, tells nothing.
    """
    path = os.path.abspath(path)
    for folder, run in runs:
        notes = os.path.join(run, ".snakemake", "metadata")
        if path.startswith(f"{folder}/") and os.path.isdir(notes):
            for spelled in (path, os.path.relpath(path, run)):
                with suppress(OSError, InputError):
                    found = read_json(place_of(notes, spelled))
                    if isinstance(found, dict):
                        yield found


def _run_around(folder, here):
    """The other working folder that a folder lies in, if a run there has written into it; or None.

    By the names of Snakemake's notes, which are the paths of its outputs.
    """
    for parent in map(str, Path(folder).parents):
        inside = os.path.relpath(folder, parent) + "/"
        with suppress(OSError):  # there are none, or they are nobody else's business
            notes = os.listdir(Path(parent, ".snakemake", "metadata")) if parent != here else ()
            if any(_output_of(note).startswith(inside) for note in notes):
                return parent
    return None


def _output_of(note):
    """The output that a note of Snakemake is of; of long ones the beginning."""
    try:
        # Cut at any length where a name would be too long.
        text = note.removeprefix("@")
        return urlsafe_b64decode(text[: len(text) // 4 * 4]).decode(errors="replace")
    except binascii.Error:  # somebody else's file
        return ""


def _read(note):
    """What a note says; None where there is none. Raises InputError where it is no note."""
    try:
        found = read_json(note, remedy="delete it")
        return {"run": str(found["run"]), "entries": dict(found["entries"])}
    except FileNotFoundError:
        return None
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{note}: it is no note of a run ({error}); delete it") from error


def _sentence(folder, note, other, settings):
    differing = [
        f"{key} is {then!r} there, {now!r} here" for key, then, now in _differing(other, settings)
    ]
    how = f"with other settings ({some(differing)})" if differing else "with the same settings"
    remedy = (
        REPLACED
        if differing
        else "what one has made the other goes on with; do not let them run at the same time"
    )
    return (
        f"{folder}: the run in {other['run']} writes there too, {how}; "
        f"{remedy}, or delete {note} if it no longer does"
    )


def _differing(other, settings):
    """(key, value of the other run, value here) of settings of which files depend."""
    then, now = (flattened(each) for each in (other["entries"], settings))
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key) and key.rpartition(".")[2] not in SPEED:
            yield key, then.get(key), now.get(key)

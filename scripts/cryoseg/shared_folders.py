"""Output folders that runs of several working folders write into, and what tells them of it.

Snakemake locks its own working folder, and knows nothing of runs elsewhere. So each run leaves a
note in every output folder that lies outside its working folder; whoever comes next reads it.
"""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path

from cryoseg.errors import InputError
from cryoseg.folders import some
from cryoseg.provenance import canonical, flattened
from cryoseg.training_stages import training_folders
from cryoseg.volumes import written_aside

NOTES = ".cryoseg_runs"
# Settings that change how fast a step goes, and nothing that it writes.
SPEED = ("device", "memory_gb", "tile_size", "num_workers", "cache_rate", "checkpoint_minutes")


def entries_by_folder(stages):
    """{folder outside the working folder: {section.entry: its settings}} of what is written."""
    places = [(writer.section, writer.name, writer.folder) for writer in stages.writers]
    places += [
        ("train", name, training_folders(entry)["logs"]) for name, entry in stages.train.items()
    ]
    found, here = {}, os.getcwd()
    for section, name, folder in places:
        if os.path.isabs(folder) and folder != here:
            settings = json.loads(canonical(getattr(stages, section)[name]))
            found.setdefault(folder, {})[f"{section}.{name}"] = settings
    return found


def leave_notes(entries):
    """Leave a note in each folder that this run writes into; entries: as of entries_by_folder.

    Each run has a file of its own there, so that two that begin at once do not undo each other's.
    Yields sentences about folders where that is not possible: a run that finds all that it wants
    there needs no right to write.
    """
    here = os.getcwd()
    for folder, settings in entries.items():
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


def _read(note):
    """What a note says; None where there is none. Raises InputError where it is no note."""
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        return {"run": str(found["run"]), "entries": dict(found["entries"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{note}: it is no note of a run ({error}); delete it") from error


def _sentence(folder, note, other, settings):
    differing = [
        f"{key} is {then!r} there, {now!r} here" for key, then, now in _differing(other, settings)
    ]
    how = f"with other settings ({some(differing)})" if differing else "with the same settings"
    remedy = (
        "what is there already is not made anew and may be the other's (snakemake verify tells): "
        "name another folder"
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

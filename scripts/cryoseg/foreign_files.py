"""Files that lie where a run would write, and that cryoseg did not make: nobody may lose them.

Snakemake deletes what bears the name of an output before a job runs, whoever made it, and takes
what is newer than the inputs for the output itself.
"""

import os
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from cryoseg.errors import ChangedError, InputError, printable, shortened
from cryoseg.folders import some
from cryoseg.provenance import (
    FOLDER,
    HEADER_BYTES,
    matches_record,
    read_record,
    record_path,
    recorded_outputs,
    sha256,
)

# Files of a kind that are named, in one line if they are few.
MOST_NAMED, MOST_IN_A_LINE = 20, 3
# How files are told that have room for a word on who made them, and what volumes.write_mrc writes.
HDF5, MRC, MRC_SIGNATURE = b"\x89HDF\r\n\x1a\n", slice(208, 212), b"Written by cryoseg"
# Seconds by which Snakemake's note of a time of change may differ from the file's, by rounding.
SAME_TIME = 1e-4
# Bytes and files that are read to compare them with their records before a run begins; of others
# this is done when their job does.
MOST_READ, MOST_FILES = 1e9, 1000


def recorded_or_not(outputs):
    """Two sorted lists of those of the outputs that are there: with a record, and without one.

    outputs: paths as text
    Each folder is listed once, and no file is looked at: there may be tens of thousands.
    """
    found, by_folder = ([], []), defaultdict(set)
    for output in outputs:
        folder, slash, name = output.rpartition("/")
        by_folder[folder + slash].add(name)
    for folder, names in by_folder.items():
        if there := names & _names_in(folder or "."):
            recorded = _names_in(folder + FOLDER)
            for name in there:
                found[f"{name}.json" not in recorded].append(folder + name)
    return tuple(map(sorted, found))


def recorded_or_not_of_a_job(outputs):
    """As recorded_or_not, without a look at other files in their folders."""
    there = sorted(filter(os.path.lexists, outputs))
    recorded = [path for path in there if os.path.lexists(record_path(path))]
    return recorded, [path for path in there if path not in recorded]


def changed_since(recorded, times_of, most=None):
    """Those of the outputs with a record that are no longer what it is of.

    times_of: function that gives the times of change of a path when its job was done, as far as
              they are noted
    most:     how many bytes are read, at most, and then of no more than MOST_FILES
    A file is read only where its time of change is not a noted one: in a folder that was copied
    without its times, all are.
    """
    changed, left, files = [], most, 0
    for path in recorded:
        if has_time(path, times := times_of(path)):
            continue
        if most is not None:
            if files == MOST_FILES or (size := _size(path)) > left:
                continue
            left, files = left - size, files + 1
        if not _is_as_recorded(path, bool(times)):
            changed.append(path)
    return changed


def _size(path):
    """Bytes of a file; 0 where there is none."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _is_as_recorded(path, is_noted):
    """Whether a file is what its record is of, by its hash.

    Where an earlier version recorded none (of scaled tomograms), or the record is damaged: whether
    the file says that it is ours, unless its time of change is noted, and another one by now.
    Records of other working folders spell paths in another way.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        if read_record(path) is None:  # a run elsewhere is about to make the file anew
            return True
        if (matches := matches_record(path)) is not None:
            return matches
    except InputError:  # of its record
        pass
    return not is_noted and is_signed(path)


def changed_since_made(outputs):
    """{path: time of change as its job left it, in seconds since 1970} of outputs changed since.

    Those whose records tell that time, and whose hash is another one by now.
    """
    found = {}
    for path in outputs:
        try:
            told = [each["mtime_ns"] for each in recorded_outputs(path) if "mtime_ns" in each]
            if told and os.stat(path).st_mtime_ns not in told and not matches_record(path):
                found[path] = told[0] / 1e9
        except (OSError, InputError):  # one that is gone, or a damaged record, tells nothing
            continue
    return found


def changed_since_read(outputs, inputs):
    """Those of the inputs of a job that were changed after it had read them for its outputs.

    By the time of change that their records tell, and by its hash where that is another one by now.
    """
    told = {}
    for output in outputs:
        with suppress(OSError, InputError):  # a damaged record tells nothing
            record = read_record(output) or {"inputs": []}
            known = (each for each in record["inputs"] if "mtime_ns" in each and each["sha256"])
            told |= {each["path"]: each for each in known}
    return [path for path in inputs if path in told and _is_another(path, told[path])]


def _is_another(path, told):
    try:
        return (
            os.stat(path).st_mtime_ns != told["mtime_ns"]
            and sha256(path, told["part"]) != told["sha256"]
        )
    except ChangedError:  # somebody writes it now
        return True
    except OSError:  # the next run looks for it
        return False


def _names_in(folder):
    """Set of the names in a folder; empty where it is none. InputError where it does not tell."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be listed ({os.strerror(error.errno)}), so that nobody can tell "
            "whose files lie there; see to it that you may read it"
        ) from error


def is_signed(path):
    """Whether a file says that cryoseg made it, as far as such files can."""
    if path.endswith(".ckpt"):
        return has_dated_copy(path)
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(HEADER_BYTES)
        if path.endswith(".h5"):
            return start.startswith(HDF5) and _names_its_maker(path)
    except (OSError, InputError):
        return False
    if path.endswith((".mrc", ".rec")):
        return start[MRC] == b"MAP " and MRC_SIGNATURE in start
    return True


def _names_its_maker(path):
    """Whether an HDF5 file has the attribute of provenance.attributes_of that tells versions."""
    from cryoseg.hdf5_files import damage_named, open_hdf5  # which plans can mostly do without

    with open_hdf5(path) as file, damage_named(path):
        told = file.attrs.get("versions")
    return isinstance(told, str) and '"cryoseg"' in told


def has_time(path, times):
    """Whether a file was last changed at one of the times, in seconds since 1970.

    As Snakemake notes them of what a job wrote.
    """
    try:
        changed = os.stat(path).st_mtime
        return any(abs(changed - seconds) < SAME_TIME for seconds in times)
    except OSError:
        return False


def has_dated_copy(model):
    """Whether a model lies there under its date and hash too, as resuming.hand_over leaves it."""
    model = Path(model)
    dated = [
        name.removesuffix(model.suffix).rpartition("-")[2]
        for name in _names_in(model.parent)
        if name.startswith(f"{model.stem}-") and name.endswith(model.suffix)
    ]
    return bool(dated) and model.is_file() and sha256(model)[:8] in dated


def refusal_of_a_job(files):
    """What to tell of outputs of a job that were put or changed there since the run was planned."""
    names = shortened(printable(some(files)))
    return (
        f"{names}: put there or changed by others since cryoseg made it, and this job would "
        "replace it; move it to another folder, then give the same command again"
    )


def said_of_changed(files):
    """What to tell of outputs that jobs read although they are no longer what cryoseg made."""
    return (
        f"changed after cryoseg had made it: {shortened(printable(some(files)))}; what is made "
        "of it now is made of the changed file"
    )


def said_of_outdated(files):
    """What to tell of inputs that were changed when their jobs had read them, and still ran."""
    return (
        f"changed after it was read: {shortened(printable(some(files)))}; what this run makes of "
        "it is of what was there before; give the same command again"
    )


def refusal(foreign, changed, models):
    """What to tell of files that a run would replace, and of models it would take for its own.

    Up to 20 of a kind are named, and how many there are.

    foreign: paths of files that cryoseg did not make
    changed: paths of files that are no longer what it made
    models:  {path among those: the training, train.NAME, whose model is to lie there}
    """
    count = len(foreign) + len(changed)
    heading = "1 file" if count == 1 else f"{count} files"
    lines = [f"{heading} of others where this run would write; nothing was started."]
    for files, what in (
        (foreign, "no record says that cryoseg made"),
        (changed, "changed after cryoseg had made"),
    ):
        if files:
            these = "this file" if len(files) == 1 else f"these {len(files)} files"
            named = [shortened(printable(path)) for path in files[:MOST_NAMED]]
            if len(files) > len(named):
                named.append(f"and {len(files) - len(named)} more")
            if len(files) > MOST_IN_A_LINE:
                lines += [f"  {what} {these}:", *(f"    {each}" for each in named)]
            else:
                lines.append(f"  {what} {these}: {some(named)}")
    they, them = ("it", "it") if count == 1 else ("they", "them")
    lines.append(
        f"  {they} would be replaced, or pass for what was asked for; move {them} to another "
        "folder, or name another one in the configuration"
    )
    lines += [
        f"  {printable(path)}: to predict with this model, move it and name it as trained_model, "
        f"or name another log_dir for {training}"
        for path, training in models.items()
    ]
    return "\n".join(lines)

"""Files that lie where a run would write, and that cryoseg did not make: nobody may lose them.

Snakemake deletes what bears the name of an output before a job runs, whoever made it, and takes
what is newer than the inputs for the output itself.
"""

import os
from collections import defaultdict
from itertools import islice
from pathlib import Path

from cryoseg.errors import InputError, printable, shortened
from cryoseg.folders import some
from cryoseg.provenance import FOLDER, HEADER_BYTES, read_record, sha256

# How files are told that have room for a word on who made them, and what volumes.write_mrc writes.
HDF5, MRC, MRC_SIGNATURE = b"\x89HDF\r\n\x1a\n", slice(208, 212), b"Written by cryoseg"
# Seconds by which copies of one time of change may differ.
SAME_TIME = 2
# Files that are read to compare them with their records, before a run begins.
MOST_READ = 100


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


def changed_since(recorded):
    """Those of the outputs with a record that are no longer what it is of.

    A file is read only where its time of change says that it is not what the job left; and no more
    than a hundred are, as those of a folder that was copied without its times are all like that.
    """
    odd = (path for path in recorded if not _fits_in_time(path))
    return [path for path in islice(odd, MOST_READ) if not _is_as_recorded(path)]


def _fits_in_time(path):
    """Whether a file was last changed in the hour before its record was written, as ours are."""
    folder, slash, name = path.rpartition("/")  # record_path is slow for tens of thousands
    seconds = _time_of(f"{folder}{slash}{FOLDER}/{name}.json") - _time_of(path)
    return -SAME_TIME < seconds < 3600


def _time_of(path):
    try:
        return os.stat(path).st_mtime
    except OSError:  # such as a link to nothing
        return 0


def _is_as_recorded(path):
    """Whether a file is what its record is of; of files without a hash, whether it says it is ours.

    Records of other working folders spell paths in another way.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        record = read_record(path)
        if record is None:  # a run elsewhere is about to make the file anew
            return True
        outputs, name = record["outputs"], os.path.basename(path)
        hashes = {each.get("sha256") for each in outputs if os.path.basename(each["path"]) == name}
        return is_signed(path) if None in hashes else sha256(path) in hashes
    except InputError:
        return is_signed(path)
    except OSError:
        return False


def _names_in(folder):
    """Set of the names in a folder; empty where it is none."""
    try:
        return set(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return set()


def is_signed(path):
    """Whether a file says that cryoseg made it, as far as such files can; of a killed job, say.

    Those of a job appear under their name when they are complete, and say it then.
    """
    if path.endswith(".ckpt"):
        return has_dated_copy(path)
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(HEADER_BYTES)
        if start.startswith(HDF5):
            return _names_its_maker(path)
    except (OSError, InputError):
        return False
    return MRC_SIGNATURE in start if start[MRC] == b"MAP " else True


def _names_its_maker(path):
    """Whether an HDF5 file has the attribute of provenance.attributes_of that tells versions."""
    from cryoseg.hdf5_files import damage_named, open_hdf5  # which plans can mostly do without

    with open_hdf5(path) as file, damage_named(path):
        told = file.attrs.get("versions")
    return isinstance(told, str) and '"cryoseg"' in told


def has_time(path, seconds):
    """Whether a file was last changed at a time, as Snakemake notes it of what a job wrote."""
    try:
        return abs(os.stat(path).st_mtime - seconds) < SAME_TIME
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


def refusal(foreign, changed, models):
    """What to tell of files that a run would replace, and of models it would take for its own.

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
            lines.append(f"  {what} {these}: {shortened(printable(some(files)))}")
    lines.append(
        "  they would be replaced, or pass for what was asked for; move them to another folder, or "
        "name another one in the configuration"
    )
    lines += [
        f"  {printable(path)}: to predict with this model, move it and name it as trained_model, "
        f"or name another log_dir for {training}"
        for path, training in models.items()
    ]
    return "\n".join(lines)

"""Folders and file names: how they are spelled, what lies in them, how messages speak of them."""

import errno
import os
import re
import shutil
import stat
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from cryoseg.errors import InputError

# Snakemake takes these for a variable or a wildcard where they stand in a path.
VARIABLE = re.compile(r"<[a-z][a-z0-9_]*>")
WILDCARD = re.compile(r"\{\s*[.\w]+\s*(,.*)?\}", re.DOTALL)
# A file name has 255 bytes at most. Outputs are called NAME_distances.h5.json and the like, and
# while they are written, the host and the process stand before that.
LONGEST_NAME = 200
# What a run keeps in its working folder, Snakemake's own first, and the least bytes for that.
OWN_FOLDERS, LEAST_FREE = (".snakemake", "logs", "benchmarks"), 2**14
# What the system says of a disk, or of somebody's part of it, that is full.
FULL = (errno.ENOSPC, errno.EDQUOT)
# What it says where somebody lacks the right to write.
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def spelled(folder):
    """The one spelling that a folder gets: relative below the working directory, else absolute.

    Paths are compared as text when it is decided what has changed, so ./a, a/ and /here/a must
    come out the same. The working directory itself stays absolute, as ./x is not the same as x.
    """
    absolute = os.path.abspath(folder)
    inside = absolute.startswith(os.getcwd().rstrip("/") + "/")
    return os.path.relpath(absolute) if inside else absolute


def identity(folder):
    """What all spellings of one folder have in common, links resolved."""
    return os.path.realpath(folder)


def file_names(folder):
    """Names of the files in a folder, and of links to nothing, which whoever reads them will name.

    Hidden ones, among them files being written, are left out.
    """
    files, others = files_and_others(folder, "")
    return files + [name for name in others if not os.path.isdir(f"{folder}/{name}")]


def files_and_others(folder, ending):
    """Names in a folder that end so: (those of files, {others: what is there instead}).

    Others are folders, pipes, devices, and links that lead to nothing. Hidden ones are left out.
    """
    files, others = [], {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not entry.name.endswith(ending):
                continue
            what = _instead_of_file(entry)
            if what is None:
                files.append(entry.name)
            else:
                remedy = "put the tomogram there, or remove it"
                others[entry.name] = f"{folder}/{entry.name}: it is {what}; {remedy}"
    return files, others


def _instead_of_file(entry):
    """What an entry of a folder is that is no file, or None."""
    if not entry.is_symlink():
        if entry.is_file():
            return None
        return "a folder, not a file" if entry.is_dir() else "a pipe or a device, not a file"
    try:
        mode = os.stat(entry.path).st_mode
    except OSError as error:
        return f"a link to {os.readlink(entry.path)}, where there is no file ({error.strerror})"
    if stat.S_ISREG(mode):
        return None
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
    return f"a link to {what}, not to a file"


def unreadable(folder):
    """Why the files of a folder cannot be listed, as the end of a sentence, or None."""
    if not os.path.exists(folder):
        return "which does not exist"
    if not os.path.isdir(folder):
        return "which is no folder"
    if not os.access(folder, os.R_OK | os.X_OK):
        return "which you may not read"
    return None


def unwritable(folder):
    """Why nothing can be written into a folder that may not exist yet, as the end of a sentence."""
    while not os.path.lexists(folder) and os.path.dirname(folder) != folder:
        folder = os.path.dirname(folder) or "."
    if not os.path.isdir(folder):
        return f"cannot be written: {folder} is no folder"
    # The rights that count when a file is opened; those of who started the process may be others.
    effective = os.access in os.supports_effective_ids
    if not os.access(folder, os.W_OK | os.X_OK, effective_ids=effective):
        return f"cannot be written: you may not write into {folder}"
    return None


def not_writable(path, number):
    """A sentence about a file or folder that the system does not let somebody write or remove.

    number: the system's, mostly one of REFUSED
    """
    folder = os.path.dirname(path) or "."
    why = os.strerror(number)
    return f"{path}: cannot be written ({why}); see to it that you may write into {folder}"


def folder_gone(path):
    """A sentence about a file that cannot be written as its folder is no longer there."""
    return f"{path}: its folder is gone; bring it back, then give the same command again"


def refusal(error):
    """The sentence of not_writable where an OSError says that a right is lacking, or None."""
    if error.errno not in REFUSED or error.filename is None:
        return None
    return not_writable(os.fsdecode(error.filename), error.errno)


@contextmanager
def refusal_named():
    """Raise InputError where the block may not make, rename or remove a file or a folder."""
    try:
        yield
    except OSError as error:
        if said := refusal(error):
            raise InputError(said) from error
        raise


def check_own_folders(folder="."):
    """Raise InputError where a run could not write what Snakemake keeps in its working folder.

    Snakemake would end with a traceback, or go on and lose what it should remember.
    """
    folder = Path(folder).resolve()
    places = [folder / name for name in OWN_FOLDERS]
    places += [place for place in folder.glob(f"{OWN_FOLDERS[0]}/*") if place.is_dir()]
    for place in places:
        if why := unwritable(str(place)):
            raise InputError(
                f"{place}: {why}; let its owner give you the right to (chmod -R g+w, for a group "
                "that you share), or work in a folder of your own"
            )
    if full := disk_is_full(folder):
        raise InputError(full)


def disk_is_full(folder):
    """A sentence if the disk of a folder has no space for notes and logs of a run, or None."""
    return no_space_for_notes(folder) if _free(folder) < LEAST_FREE else None


def no_space_for_notes(folder):
    """A sentence about a folder on a full disk, in which a run keeps notes or logs."""
    return (
        f"{folder}: no space is left: a run keeps notes and logs there, {LEAST_FREE} bytes at "
        f"least, and {_free(folder)} are free; make space, then give the same command again"
    )


def _free(folder):
    """Free bytes of the disk of a folder, which may not exist for want of space."""
    folder = Path(folder).resolve()
    while not folder.is_dir():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def is_full_disk(error):
    """Whether an exception, or one that led to it, is that a disk is full."""
    return any(getattr(each, "errno", None) in FULL for each in all_behind(error))


def all_behind(error):
    """An exception, and those that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def why_gone(folder):
    """A sentence if the working folder was removed, or None; one with another name goes on.

    folder: its path when the run began
    """
    gone = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)  # others may pass, as a drive comes back
    try:
        os.getcwd()
        return None
    except OSError as error:
        if error.errno not in gone:
            return None
    try:
        if os.path.samefile(folder, "."):  # file systems of the network forget for a moment
            return None
    except OSError as error:
        if error.errno not in gone:
            return None
    return (
        f"{folder}: the working folder is gone since the run began; bring back what was in it, "
        "then give the same command again"
    )


def why_no_notes(error, folder):
    """Why what Snakemake keeps in a folder, an absolute path, cannot be written; None if it can.

    error: the exception of that, or one that it led to
    """
    if is_full_disk(error):
        return no_space_for_notes(folder)
    for each in all_behind(error):
        name = getattr(each, "filename", None)
        # A number, where a file was used by its descriptor; relative to the working folder or not.
        path = os.fsdecode(name) if isinstance(name, (str, bytes)) else ""
        inside = f"{os.path.join(os.path.dirname(folder), path)}/".startswith(f"{folder}/")
        if isinstance(each, FileNotFoundError) and inside:
            return (
                f"{folder}: what Snakemake keeps there is gone since the run began; leave it there "
                "while one works, and give the same command again"
            )
        if getattr(each, "errno", None) in REFUSED:
            return (
                f"{folder}: what Snakemake notes there cannot be written "
                f"({os.strerror(each.errno)}); see to it that you may write into all that is in it"
            )
    return None


def unusable(name, *forbidden):
    """Why Snakemake cannot work with a file or folder name, as the end of a sentence, or None.

    forbidden: patterns that mean something to Snakemake in this place
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        return "is not UTF-8 text; rename it"
    if length > LONGEST_NAME and "/" not in name:
        return f"has {length} bytes; shorten it to {LONGEST_NAME}, so that outputs can have it too"
    found = next((match for each in forbidden if (match := each.search(name))), None)
    return found and f"holds {found[0]}, which Snakemake takes for a variable; rename it"


def unusable_path(path):
    """Why a path of the configuration cannot be used, as the end of a sentence, or None."""
    if path.startswith("~"):  # what stands for someone's home was replaced when it was read
        return f"begins with {path.split('/')[0]}, which is nobody's home; write the path in full"
    return unusable(path, VARIABLE, WILDCARD)


def endings(folder):
    """What the file names in a folder end in, for a message: ' (its files end in .rec, .txt)'."""
    found = sorted({os.path.splitext(name)[1] or name for name in file_names(folder)})
    return f" (its files end in {some(found)})" if found else " (it is empty)"


def nearest(name, names):
    """The name that may have been meant, as the end of a sentence."""
    close = get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def some(names, most=5):
    """Names for a message: the first few, and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest

"""What a file was made of: a record beside each output, and what the file itself can carry.

The record of FOLDER/NAME is FOLDER/provenance/NAME.json. It has what must not stand in the file
itself, where the same input is to give the same bytes on every machine and every day: the date,
and hashes of the outputs. Inputs are told by the SHA-256 of their content, not by size or date.
"""

import errno
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cryoseg.errors import ChangedError, GoneError, InputError
from cryoseg.folders import folder_gone, refusal_named
from cryoseg.small_files import files_only, read_json
from cryoseg.steps import by_name
from cryoseg.versions import versions
from cryoseg.volumes import (
    mtime_of_stamp,
    names_waiting,
    put_there,
    stamp_of_file,
    stamp_of_status,
    what_was_written_is_gone,
    written_aside,
)

FOLDER = "provenance"
PACKAGES = ("numpy", "torch", "h5py", "mrcfile")
# Bytes of an MRC file that say where its voxels lie, which is all that some steps read of it.
HEADER_BYTES = 1024
# Lines of text in an MRC header, beside cryoseg's own first one.
MOST_LINES = 9

_FILE = {
    "type": "object",
    "required": ["name", "path"],
    "properties": {
        "name": {"type": "string"},
        "path": {"type": "string"},
        "part": {"enum": ["content", "header"]},
        "sha256": {"type": ["string", "null"]},
        "mtime_ns": {"type": "integer", "minimum": 0, "maximum": 2**63},
    },
    "dependentRequired": {"sha256": ["part"]},
}
RECORD = {
    "type": "object",
    "required": ["date", "inputs", "outputs", "settings"],
    "properties": {
        "date": {"type": "string"},
        "inputs": {
            "type": "array",
            "items": {"allOf": [_FILE, {"required": ["sha256"]}]},
        },
        "outputs": {"type": "array", "items": _FILE},
        "settings": {"type": "object"},
    },
}

_readers = ThreadPoolExecutor(4, "sha256")
_hashes = {}  # Futures by path, part, size and time of change


def record_path(output):
    """Path of the record of an output."""
    output = Path(output)
    return output.parent / FOLDER / f"{output.name}.json"


def begin_sha256(path, part="content"):
    """Begin to hash a file beside other work; returns a Future of what sha256 returns.

    A file is read once in a process, as long as its size and time of change stay as they are.
    Raises OSError where there is no such file.
    """
    stamp = stamp_of_status(os.stat(path))
    key = str(path), part, stamp
    if key not in _hashes:
        _hashes[key] = _readers.submit(_read_sha256, str(path), part, stamp)
    return _hashes[key]


def sha256(path, part="content"):
    """SHA-256, in hexadecimal, of a file's content, or of its MRC header alone (part "header")."""
    return begin_sha256(path, part).result()


def _read_sha256(path, part, stamp):
    """The hash of the file that ``stamp`` is of; ChangedError where it is another one by now.

    There may be a queue of files to be read, and who asked goes on meanwhile.
    """
    with open(path, "rb", opener=files_only) as file:
        as_asked = stamp_of_status(os.fstat(file.fileno())) == stamp
        if part == "header":
            found = hashlib.sha256(file.read(HEADER_BYTES))
        else:
            found = hashlib.file_digest(file, "sha256")
        if not as_asked or stamp_of_status(os.fstat(file.fileno())) != stamp:
            raise ChangedError(path)
    return found.hexdigest()


def input_hashes(**paths):
    """SHA-256 by name of files, or of lists of them, that are given; None is left out."""
    return {
        name: sha256(given) if isinstance(given, (str, Path)) else [sha256(path) for path in given]
        for name, given in paths.items()
        if given is not None
    }


def attributes_of(settings, **inputs):
    """Attributes for an HDF5 file, as JSON text: settings, versions, and hashes of inputs.

    inputs: paths by name; None for one that is not there
    """
    about = {"inputs": input_hashes(**inputs), "settings": settings, "versions": versions()}
    return {name: canonical(value) for name, value in about.items()}


def header_lines(settings, inputs):
    """Lines of text for an MRC header: what it was made of, as far as that has room.

    inputs: as input_hashes returns them; settings: a mapping, told by its hash
    """
    named = [
        (name, value)
        for name, values in inputs.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    told = hashlib.sha256(canonical(settings).encode()).hexdigest()
    lines = [f"{name} SHA-256 {value[:40]}" for name, value in [("settings", told), *named]]
    if len(lines) > MOST_LINES:
        rest = len(lines) - MOST_LINES + 1
        lines = [*lines[: MOST_LINES - 1], f"and {rest} more inputs"]
    return lines


def canonical(value):
    """JSON text that is the same for equal settings, in whatever order their keys stand."""
    # Twice, as numbers that are keys become text, and are to be sorted as such.
    return json.dumps(json.loads(json.dumps(value, default=str)), sort_keys=True)


def flattened(settings, start=""):
    """Settings within settings by dotted keys; {"": value} of what is no mapping."""
    if not isinstance(settings, dict) or not settings:
        return {start: settings}
    found = {}
    for key, value in settings.items():
        found |= flattened(value, f"{start}.{key}" if start else str(key))
    return found


@contextmanager
def recorded(job, headers=(), absent=(), waits=True):
    """Keep a record of a job's outputs, if the block ends well.

    A record is there before its output is, which is written aside until then: wherever the job is
    killed, the output's hash tells whose it is.

    job:     has rule (its name), input, output and params, each by name, as Snakemake's scripts
             find them
    headers: names of inputs of which only the MRC header is read
    absent:  paths of inputs that the job goes without, and of outdated ones that it does not read
    waits:   whether outputs are to wait for their record; else they are there as they are written,
             and are removed where an input was changed meanwhile, or is gone
    Inputs are hashed in other threads meanwhile.
    Yields a dict; what is put into it becomes part of the record.
    """
    outputs = by_name(job.output)
    with refusal_named():
        for path in _all(outputs):
            # It would pass for that of a file that is half made. Where files wait, one that is
            # there is whole: it got its name since the job began, from a job elsewhere.
            if not (waits and os.path.lexists(path)):
                record_path(path).unlink(missing_ok=True)
    inputs = [
        (name, path, "header" if name in headers else "content")
        for name, paths in by_name(job.input).items()
        for path in paths
    ]
    read = [each for each in inputs if each[1] not in absent]
    about, reading, left, times = {}, [], {}, {}
    try:
        for _, path, part in read:
            with _gone_named(path):
                reading.append(begin_sha256(path, part))
        before = [stamp_of_file(path) for _, path, _ in read]
        with names_waiting(_all(outputs) if waits else ()) as files:
            yield about
            left.update((path, stamp_of_file(path)) for path in _all(outputs))
            # Of what the job read, be it replaced by now; sha256 would tell of what is there.
            hashes = {}
            for each, future in zip(read, reading, strict=True):
                with _gone_named(each[1]):
                    hashes[each] = _hash_of(future)
            for (name, path, part), stamp in zip(read, before, strict=True):
                now = stamp_of_file(path)
                if now is None:
                    raise GoneError(path)
                with _gone_named(path):
                    if now != stamp and hashes[name, path, part] != sha256(path, part):
                        raise ChangedError(path)
                times[path] = {"mtime_ns": mtime_of_stamp(now)}
            record = {
                "step": job.rule,
                "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "inputs": [
                    _described(*each, hashes.get(each)) | times.get(each[1], {}) for each in inputs
                ],
                "outputs": [
                    _output(name, path, files.place_of(path))
                    for name, paths in outputs.items()
                    for path in paths
                ],
                "settings": dict(job.params.items()),
                "versions": versions(*PACKAGES),
                **about,
            }
            _leave(record, _all(outputs), files)
    except BaseException as error:
        if isinstance(error, (ChangedError, GoneError)) and not waits:
            # Not left to Snakemake, which in a cluster job leaves what bears an output's name.
            with refusal_named():
                for output, stamp in left.items():
                    # Else it is others' by now.
                    if stamp is not None and stamp_of_file(output) == stamp:
                        os.unlink(output)
        # A process ends when its threads do: it must not wait for what nobody will ask for.
        for future in reading:
            future.cancel()
        _hashes.clear()
        raise


def _leave(record, outputs, files):
    """Write a job's record beside each of its outputs, then give those that wait their names.

    files: Waiting
    What another job of ours left there meanwhile, of another working folder or on a node that its
    cluster gave up, is replaced; InputError where it is others'.
    """
    for _ in range(3):
        try:
            made_elsewhere = {path: _stamp_of_ours(path) for path in files}
            with_earlier = [path for path in outputs if _begin_record(path, record)]
            for path in files:
                files.name(path, over=made_elsewhere[path])
        except FileExistsError:  # another job's record or file came since
            continue
        for path in outputs:
            # One that began meanwhile, and saw no output yet, has taken our record away.
            if path in with_earlier or not os.path.lexists(record_path(path)):
                _write_record(path, record)
        return
    raise InputError(put_there(next(iter(files), outputs[0])))


def _stamp_of_ours(path):
    """stamp_of_file of what another job of ours left; None without one, InputError if others'.

    Raises FileExistsError where it changes meanwhile: its run dates it when its job has ended.
    """
    if not os.path.lexists(path):
        return None
    stamp = stamp_of_file(path)
    try:
        if is_empty(path) or matches_record(path):
            return stamp
    except InputError:  # of its record
        pass
    if stamp_of_file(path) != stamp:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    raise InputError(put_there(path))


def _begin_record(output, record):
    """Write the record of an output that has no name yet; returns whether one was there.

    What that one tells stays in it: its file may be there until the output has its name, and is
    ours whenever this job is killed. Raises FileExistsError where another job's comes meanwhile.
    """
    try:
        earlier = recorded_outputs(output)
    except InputError:  # a damaged one
        earlier = []
    is_there = os.path.lexists(record_path(output))
    _write_record(output, record | {"outputs": record["outputs"] + earlier}, anew=not is_there)
    return is_there


def matches_record(path):
    """Whether a file is what its record is of, by its hash; None where no hash was recorded.

    Raises InputError for a damaged record. Records of other working folders spell paths in another
    way.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    if not (outputs := recorded_outputs(path)):
        return False
    hashes = {each.get("sha256") for each in outputs}
    for _ in range(3):
        try:
            return None if None in hashes else sha256(path) in hashes
        except ChangedError:  # as another run dates it now, whose job has just ended
            continue
        except OSError:
            return False
    return False  # somebody writes it now


def recorded_outputs(path):
    """What the record of an output tells of it, as a list of mappings; empty without a record."""
    record, name = read_record(path), os.path.basename(path)
    outputs = record["outputs"] if record else []
    return [each for each in outputs if os.path.basename(each["path"]) == name]


def is_empty(path):
    """Whether there is a file without a byte, as marks are."""
    return os.path.isfile(path) and os.path.getsize(path) == 0


def _write_record(output, record, anew=False):
    """Write the record of an output; with ``anew``, FileExistsError where another one is there."""
    place, text = record_path(output), json.dumps(record, indent=1, default=str) + "\n"
    try:
        with refusal_named():
            place.parent.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise InputError(folder_gone(output)) from error
    except FileExistsError:
        raise InputError(
            f"{place.parent}: a file lies where the folder of records is to be; move it away"
        ) from None
    with names_waiting([place] if anew else []) as files:
        with written_aside(place) as aside:
            Path(aside).write_text(text, encoding="utf-8")
        if anew:
            files.name(place)


def read_record(output):
    """The record of an output, or None if there is none; InputError if it cannot be read."""
    place = record_path(output)
    try:
        record = read_json(place, remedy=f"make {output} anew")
    except FileNotFoundError:
        return None
    from jsonschema import Draft202012Validator  # which no job needs, and takes long to load

    if not Draft202012Validator(RECORD).is_valid(record):
        raise InputError(f"{place}: this is no record of cryoseg; make {output} anew")
    return record


def _all(files):
    return [path for paths in files.values() for path in paths]


@contextmanager
def _gone_named(path):
    """Raise GoneError where the block finds that a job's input is no longer there."""
    try:
        yield
    except FileNotFoundError as error:
        raise GoneError(path) from error


def _hash_of(future):
    try:
        return future.result()
    except PermissionError:  # which a check of a tomogram has found, and is no error there
        return None


def _output(name, path, place):
    """What a record tells of an output, whose file is at ``place`` now."""
    try:
        made = {"mtime_ns": os.stat(place).st_mtime_ns}
        return _described(name, path, "content", sha256(place)) | made
    except FileNotFoundError as error:
        raise InputError(what_was_written_is_gone(path)) from error


def _described(name, path, part, told):
    return {"name": name, "path": path, "part": part, "sha256": told}

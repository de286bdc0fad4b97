"""Whether outputs still belong to what they were made of: inputs, checkpoint and settings."""

import os
from dataclasses import dataclass
from pathlib import Path

import h5py

from cryoseg import mrc_headers
from cryoseg.errors import InputError
from cryoseg.provenance import begin_sha256, canonical, flattened, read_record
from cryoseg.table_lines import table_line

COLUMNS = ("output", "step", "tomogram", "status", "reason")
# What is found of an output, and whether the files can be used as they are all the same.
MATCHES, NOT_MADE = "matches", "not made yet"
HARMLESS = (MATCHES, NOT_MADE)


@dataclass(frozen=True)
class Finding:
    """What was found of an output; status: matches, changed, made of an outdated file, missing,
    unreadable, not made yet or no record
    foreign: what lies there is not known to be what a job left, so that a run would not replace it
    """

    output: str
    step: str
    tomogram: str | None
    status: str
    reason: str = ""
    foreign: bool = False

    @property
    def harmless(self):
        return self.status in HARMLESS


def verify(steps, follow=None):
    """Compare the outputs of steps with what is there now; returns a sorted list of Finding.

    Content is compared, so each file is read once.
    follow: called as follow(steps, total=...), yields what it is given; to show progress
    """
    steps = list(steps)
    records, findings = {}, {}
    for step in steps:
        for output in _paths(step.outputs):
            try:
                records[output] = read_record(output)
            except InputError as error:
                foreign = os.path.lexists(output)
                findings[output] = _finding(output, step, "no record", str(error), foreign)
    hashes = _hash_all([record for record in records.values() if record], follow)
    for step in steps:
        for output in _paths(step.outputs):
            if output not in findings:
                findings[output] = _judge(output, step, records[output], hashes)
    _mark_descendants(steps, findings)
    return sorted(findings.values(), key=lambda each: (each.step, each.output))


def _hash_all(records, follow):
    """(path, part) of what records name to SHA-256, or to None where a file cannot be read."""
    reading = {}
    for record in records:
        for each in (*record["inputs"], *record["outputs"]):
            if "sha256" in each:
                file = each["path"], each["part"]
                reading[file] = reading.get(file) or _begin_or_none(*file)
    hashes = {}
    for file in reading if follow is None else follow(reading, total=len(reading)):
        try:
            hashes[file] = reading[file] and reading[file].result()
        except OSError:
            hashes[file] = None
    return hashes


def _begin_or_none(path, part):
    try:
        return begin_sha256(path, part) if os.path.isfile(path) else None
    except OSError:
        return None


def _judge(output, step, record, hashes):
    if record is None and not os.path.lexists(output):
        return _finding(output, step, NOT_MADE)
    if record is None:
        reason = "nothing tells what it was made of; it is of an earlier version, or was put there"
        return _finding(output, step, "no record", reason, foreign=True)
    if not os.path.exists(output):
        return _finding(output, step, "missing", f"it was made on {record['date']}, and is gone")
    if trouble := _unreadable(output):
        return _finding(output, step, "unreadable", trouble, foreign=True)
    own = list(_changed_outputs(output, record, hashes))
    reasons = [
        *own,
        *_changed_inputs(step, record, hashes),
        *_changed_settings(step, record),
    ]
    status = "changed" if reasons else MATCHES
    return _finding(output, step, status, "; ".join(reasons), foreign=bool(own))


def _unreadable(path):
    """Why a file cannot be read as what its name says it is, or None."""
    try:
        if Path(path).suffix == ".h5":
            with h5py.File(path, "r"):
                return None
        if Path(path).suffix in (".mrc", ".rec"):
            mrc_headers.read_header(Path(path))
    except (OSError, InputError) as error:
        return str(error)
    return None


def _changed_outputs(output, record, hashes):
    # One for each job of ours that left its file there or was about to.
    known = [each for each in record["outputs"] if each["path"] == output and "sha256" in each]
    if known and all(hashes[output, each["part"]] != each["sha256"] for each in known):
        yield f"the file itself was changed after {record['date']}, when it was made"


def _changed_inputs(step, record, hashes):
    for name in sorted({*step.inputs, *(each["name"] for each in record["inputs"])}):
        now = step.inputs.get(name, [])
        then = {each["path"]: each for each in record["inputs"] if each["name"] == name}
        for path in [path for path in now if path not in then]:
            if len(now) == len(then) == 1:
                yield f"{name} is {path} now, it was made of {next(iter(then))}"
            else:
                yield f"{name} {path} is new"
        for path, each in then.items():
            if path not in now:
                if len(now) != 1 or len(then) != 1:
                    yield f"{name} {path} is no longer asked for"
                continue
            found = hashes[path, each["part"]]
            if found == each["sha256"]:
                continue
            if found is None:
                yield f"{name} {path} is missing or cannot be read"
            elif each["sha256"] is None:
                yield f"{name} {path} is there now; it was made without that file"
            else:
                yield f"{name} {path} is another now ({found[:8]}, it was {each['sha256'][:8]})"


def _changed_settings(step, record):
    for name, now in step.settings.items():
        then = record["settings"].get(name)
        if canonical(now) == canonical(then):
            continue
        old, new = flattened(then), flattened(now)
        for key in sorted({*old, *new}):
            if canonical(old.get(key)) != canonical(new.get(key)):
                yield f"{key} is {_text(new, key)}, it was made with {_text(old, key)}"


def _text(values, key):
    return canonical(values[key]) if key in values else "absent"


def _mark_descendants(steps, findings):
    """Mark what matches its record, but was made of an output that does not match its own."""
    made_by = {output: step for step in steps for output in _paths(step.outputs)}
    seen = {}

    def outdated(step):
        """An input that does not match its record, or that was made of such a file; or None."""
        if id(step) not in seen:
            seen[id(step)] = None  # so that a step that waits for itself would not be endless
            for path in _paths(step.inputs):
                if path in made_by:
                    own = findings[path]
                    if not own.harmless or outdated(made_by[path]):
                        seen[id(step)] = path
                        break
        return seen[id(step)]

    for output, step in made_by.items():
        if findings[output].status == MATCHES and (path := outdated(step)):
            reason = f"{path}, which it was made of, does not match"
            findings[output] = _finding(output, step, "made of an outdated file", reason)


def write_findings(path, findings):
    """Write a table (tab-separated, with a heading) of all outputs."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(table_line(COLUMNS))
        for each in findings:
            values = (each.output, each.step, each.tomogram or "", each.status, each.reason)
            file.write(table_line(values))


def finding_lines(findings):
    """Lines for the terminal: what does not match and why, and how many of each."""
    lines = []
    for each in findings:
        if not each.harmless:
            lines += [f"{each.output} ({each.step}): {each.status}", f"    {each.reason}"]
    counts = {}
    for each in findings:
        counts[each.status] = counts.get(each.status, 0) + 1
    total = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    return [*lines, f"{len(findings)} outputs: {total or 'there are none'}"]


def advice(findings):
    """What to do about outputs that do not match, as a sentence."""
    anew = "run snakemake to make them anew, and name steps that it takes for done: -R STEP"
    foreign = sum(each.foreign for each in findings)
    if not foreign:
        return anew[0].upper() + anew[1:]
    return (
        f"{foreign} of them may not be what a job left, and snakemake refuses to replace such "
        "files: move them to another folder (name that one in the configuration to work with "
        f"them), or delete them; then {anew}"
    )


def _finding(output, step, status, reason="", foreign=False):
    return Finding(output, step.name, step.tomogram, status, reason, foreign)


def _paths(files):
    return [path for paths in files.values() for path in paths]

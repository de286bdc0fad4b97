"""Take a folder away at a random moment, or the right to write into it; give it back; go on.

    PYTHONPATH=tests:scripts python tests/campaigns/lost_folder.py [--rounds 8] [--seed 0] [--keep]

As when a drive of the network is gone for a while, or comes back read-only. In each round this
happens to one folder of inputs or of outputs of the whole workflow. What fails must say what is
gone or may not be written, without a traceback. Jobs that have no file there, and are made of none
of a job that has, must be done all the same. When the folder is there again, and may be written,
the plain command must end well and leave what an undisturbed run leaves. Only root can
make a folder read-only that way, and only while no file in it is open for writing.
"""

import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from full_disk import failed_steps
from kill import (
    LONGEST_RUN,
    WHOLE,
    FoundError,
    KilledLab,
    Watch,
    check_end,
    copied,
    count_files,
    fill,
    finish,
    options_of,
    play,
    start,
)
from test_workflow import RAW
from tracebacks import tracebacks

OUTPUTS = ("scaled", "checks", "predictions", "runs")
# Seconds after which Snakemake has noticed that a job has ended, and noted it.
SETTLED = 5
READ_ONLY, AWAY = "read-only", "away"
LOSSES = [
    *((READ_ONLY, name) for name in OUTPUTS),
    *((AWAY, name) for name in (RAW, "labels", *OUTPUTS)),
]
SENTENCE = re.compile("(is|are) (gone|missing)|cannot be written|does not exist|there is no ")


# What came of a round in which a folder was missed.
MISSED = re.compile(r"\d+ other jobs were done")
# Said where the folder is lost while the configuration is checked.
NOT_STARTED = "in the configuration; nothing was started."


@contextmanager
def own_mount(folder):
    """Make a folder a mount of its own, so that it can become read-only."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def forbid_writing(folder):
    """Make a mount read-only as soon as no file is open for writing in it."""
    while subprocess.run(
        ["mount", "-o", "remount,ro,bind", folder], capture_output=True, check=False
    ).returncode:
        time.sleep(0.02)


def allow_writing(folder):
    subprocess.run(["mount", "-o", "remount,rw,bind", folder], check=True)


def when(run, watch, files):
    """Wait until a run has made so many files in all; whether it still runs then."""
    while run.poll() is None and len(watch.seen) < files:
        time.sleep(0.02)
    return run.poll() is None


@dataclass(frozen=True)
class Job:
    """A job of an undisturbed run, by its record: paths of its files in the working folder."""

    inputs: frozenset
    outputs: frozenset


def jobs_of(reference):
    """All jobs of an undisturbed run in a folder, with those of their outputs that are kept."""
    records = [json.loads(path.read_text()) for path in reference.rglob("provenance/*.json")]
    return {
        Job(
            frozenset(each["path"] for each in record["inputs"]),
            frozenset(
                each["path"] for each in record["outputs"] if (reference / each["path"]).exists()
            ),
        )
        for record in records
    }


def done_long_ago(folder):
    """Files of a folder of which Snakemake has long noticed that they are there."""
    latest = time.time() - SETTLED
    return {path for path, changed in files_in(folder) if changed < latest}


def files_in(folder):
    """(path in the folder, when it was changed) of all its files, which may come and go."""
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            if path.is_file():
                yield str(path.relative_to(folder)), path.stat().st_mtime


def other_jobs(jobs, lost, done):
    """Those of the jobs that were not done and that a lost folder concerns in no way.

    None of their files lies in it, and what they are made of is an input of the whole workflow, or
    of another such job, or of one that was done before.

    lost: name of the folder in the working folder; done: files that were there long before
    """
    made = set().union(*(job.outputs for job in jobs))
    waiting = {job for job in jobs if not job.outputs <= done}
    there = set().union(*(job.outputs for job in jobs - waiting))
    waiting = {job for job in waiting if not any(_lies_in(lost, job.inputs | job.outputs))}
    others = set()
    while more := {job for job in waiting - others if job.inputs & made <= there}:
        others |= more
        there |= set().union(*(job.outputs for job in more))
    return others


def _lies_in(folder, files):
    return (Path(file).parts[0] == folder for file in files)


def check_others(lab, reference, lost, done):
    """How many of other_jobs a run has done; FoundError where it left one.

    To be called before the lost folder is there again. reference: of an undisturbed run
    """
    said = (lab.folder.parent / "run.log").read_text(errors="replace")
    others = set() if NOT_STARTED in said else other_jobs(jobs_of(reference), lost, done)
    files = set().union(*(job.outputs for job in others))
    if left := sorted(file for file in files if not (lab.folder / file).exists()):
        raise FoundError(f"jobs that could be done were not: {left[:5]}\n{said[-3000:]}")
    return len(others)


def run_without(lab, watch, wanted, folder, way, reference):
    """Run the workflow and lose a folder once there are so many files.

    The folder is there again afterwards. Returns (what came of it, in words; what the run said, or
    None where it ended well).
    """
    away = lab.folder.parent / "away"
    run = start(lab)
    runs, done = when(run, watch, wanted), done_long_ago(lab.folder)
    lost = runs and folder.exists()
    if lost:
        forbid_writing(folder) if way == READ_ONLY else folder.rename(away)
    try:
        code = run.wait(LONGEST_RUN)
    except subprocess.TimeoutExpired as error:
        run.kill()
        raise FoundError(f"it hangs for {LONGEST_RUN} s") from error
    if not lost:
        why = "it was not there yet" if runs else "the run had ended"
        return f"nothing was lost, {why}", None
    try:
        others = check_others(lab, reference, folder.name, done) if code else 0
    finally:
        give_back(folder, away, way)
    said = (lab.folder.parent / "run.log").read_text(errors="replace")
    return (f"{others} other jobs were done", said) if code else ("it ended well without", None)


def give_back(folder, away, way):
    """Undo what run_without does to a folder."""
    if way == READ_ONLY:
        allow_writing(folder)
    else:
        # What was made in its place is hidden by what comes back.
        shutil.rmtree(folder, ignore_errors=True)
        away.rename(folder)


def one_round(folder, seed, inputs, reference, targets=WHOLE):
    """One round in a folder; returns sentences of what happened. Raises FoundError.

    inputs:    folder of a Lab in which nothing is done yet
    reference: the same, done undisturbed
    targets:   of the command
    """
    chance, folder = random.Random(seed), Path(folder)
    folder.mkdir()
    lab = KilledLab(copied(inputs, folder / "lab"), targets)
    way, name = chance.choice(LOSSES)
    lost = lab.folder / name
    with own_mount(lost) if way == READ_ONLY else nullcontext(), Watch(lab.folder) as watch:
        watch.look()
        wanted = chance.randint(len(watch.seen), int(0.95 * count_files(reference)))
        found = [f"{name} {way} after {wanted - len(watch.seen)} files"]
        happened, said = run_without(lab, watch, wanted, lost, way, reference)
        found += [happened] if said is None else [happened, *judged(said, name)]
        finish(lab)
    try:
        check_end(lab, watch, reference)
    except FoundError as error:
        raise FoundError(f"{found}: {error}") from error
    return found


def judged(said, name):
    """Sentences about what a run without a folder said; FoundError where that does not help.

    name: of the folder, which each must name
    """
    steps = said.partition(NOT_STARTED)[2].splitlines()[1:] or failed_steps(said)
    if found := tracebacks(said):
        raise FoundError(f"there is a traceback: {found[:5]}\n{said[-3000:]}")
    named = re.compile(rf"(^|[/ ']){re.escape(name)}([/' :;,]|$)")
    wrong = [step for step in steps if not (SENTENCE.search(step) and named.search(step))]
    if wrong or not steps:
        raise FoundError(f"it does not say what is gone: {wrong}\n{said[-3000:]}")
    return steps


def campaign(rounds, seed, targets=WHOLE, keep=False):
    """Rounds of lost folders, numbered from ``seed``; returns (what happened in each, finds)."""
    with tempfile.TemporaryDirectory() as top:
        inputs = fill(Path(top, "inputs")).folder
        reference = KilledLab(copied(inputs, Path(top, "reference")), targets)
        finish(reference)

        def lost(folder, number):
            return "; ".join(one_round(folder, number, inputs, reference.folder, targets))

        return play(lost, rounds, seed, top, keep)


def main():
    options = options_of(__doc__, rounds=8).parse_args()
    happened, finds = campaign(options.rounds, options.seed, keep=options.keep)
    missed = sum(MISSED.search(each) is not None for each in happened)
    print(f"{options.rounds} rounds, the folder was missed in {missed}, {len(finds)} finds")
    sys.exit(bool(finds) or (None if missed else "no run missed a folder, which shows nothing"))


if __name__ == "__main__":
    main()

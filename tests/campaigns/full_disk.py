"""Fill the disk of the whole workflow at a random moment, make space, give the same command again.

    PYTHONPATH=tests:scripts python tests/campaigns/full_disk.py [--rounds 8] [--seed 0]

The working folder is a small disk (a tmpfs, which only root can make), with all inputs on it. In
one half of the rounds it is too small from the beginning; in the other half somebody else takes
what is left of it, at a random moment of the run. The run must end with an error that says where
how many bytes are free; no file may have a final name and be cut short. Then the disk is made
large, and the plain command must end well and leave what an undisturbed run leaves.
"""

import os
import random
import re
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

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
    left_over,
    options_of,
    play,
    start,
)
from tracebacks import tracebacks

LARGE = 100_000
ENDED_WELL = "it ended well"
# Kilobytes; with more, steps that write small files would not notice that the disk is nearly full.
MOST_LEFT = 40
# As the library says it, and the check of what Snakemake keeps in the working folder.
SENTENCE = re.compile(
    r"no space is left in \S+: (more than |at least )?[1-9]\d* bytes are needed, \d+ are free|"
    r"no space is left: a run keeps notes .*, [1-9]\d* bytes at least, and \d+ are free"
)


@contextmanager
def small_disk(folder, kilobytes):
    """Mount an empty disk of so many kilobytes at a folder, which may not exist yet.

    What is on it is gone afterwards, but for a find, which somebody will want to look at.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder.with_name(f"{folder.name} kept")
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], check=True
    )
    try:
        yield folder
    except FoundError:
        copied(folder, kept)
        raise
    finally:
        # Lazily, as HDF5 holds on to a file that it could not complete.
        subprocess.run(["umount", "--lazy", folder], check=True)
        if kept.exists():
            folder.rmdir()
            kept.rename(folder)


def enlarge(folder, kilobytes):
    """Make space on a disk of small_disk, or take it away."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", folder], check=True)


def used_kilobytes(folder):
    """Kilobytes in use on the disk of a folder."""
    status = os.statvfs(folder)
    return (status.f_blocks - status.f_bfree) * status.f_frsize // 1024


def fill_up(run, watch, files, left):
    """Leave so many kilobytes of a disk, once a run has made so many files in all, or has ended."""
    while run.poll() is None:
        if len(watch.seen) >= files:
            enlarge(watch.folder, used_kilobytes(watch.folder) + left)
            return
        time.sleep(0.02)


def run_until_full(lab, watch, chance, files, needed):
    """Run the workflow on a disk that becomes full; returns (what was done, what the run said).

    files:  how many an undisturbed run leaves
    needed: kilobytes that an undisturbed run leaves
    """
    begun, already = used_kilobytes(lab.folder), len(watch.seen)
    if chance.random() < 0.5:
        size = chance.randint(begun + MOST_LEFT, needed)
        enlarge(lab.folder, size)
        how, run = f"{size - begun} of {needed - begun} kB", start(lab)
    else:
        wanted, left = chance.randint(already, int(0.95 * files)), chance.randint(0, MOST_LEFT)
        how, run = f"{left} kB left after {wanted - already} files", start(lab)
        fill_up(run, watch, wanted, left)
    try:
        code = run.wait(LONGEST_RUN)
    except subprocess.TimeoutExpired as error:
        run.kill()
        raise FoundError(f"{how}: it hangs for {LONGEST_RUN} s") from error
    said = (lab.folder.parent / "run.log").read_text(errors="replace")
    return how, None if code == 0 else said


def failed_steps(said):
    """Sentences, STEP TOMOGRAM: REASON, of the summary at the end of a failed run."""
    summary = said.rpartition(" failed:\n")[2] if " failed:\n" in said else ""
    return re.findall(r"^  (?! )([\w ]+: .*)$", summary, re.MULTILINE)


def one_round(folder, seed, inputs, reference, targets=WHOLE):
    """One round in a folder; returns sentences of what happened. Raises FoundError.

    inputs:    folder of a Lab in which nothing is done yet
    reference: the same, done undisturbed
    targets:   of the command
    """
    chance, folder = random.Random(seed), Path(folder)
    with small_disk(folder / "lab", LARGE) as disk:
        copied(f"{inputs}/.", disk)
        lab = KilledLab(disk, targets)
        with Watch(disk) as watch:
            watch.look()
            how, said = run_until_full(
                lab, watch, chance, count_files(reference), kilobytes(reference)
            )
            found = [how, ENDED_WELL] if said is None else [how, *judged(said)]
            if left := left_over(lab):
                raise FoundError(f"{found}: left over: {left[:5]}")
            enlarge(disk, LARGE)
            finish(lab)
        try:
            check_end(lab, watch, reference)
        except FoundError as error:
            raise FoundError(f"{found}: {error}") from error
    return found


def judged(said):
    """Sentences about what a run on a full disk said; FoundError where that does not help."""
    steps = failed_steps(said)
    if not SENTENCE.search(said):
        raise FoundError(f"it does not say that the disk is full: {steps}\n{said[-3000:]}")
    wrong = [step for step in steps if not SENTENCE.search(step)]
    if wrong:
        raise FoundError(f"of the steps that failed, these say something else: {wrong}")
    if found := tracebacks(said):
        raise FoundError(f"there is a traceback: {found[:5]}\n{said[-3000:]}")
    return steps or SENTENCE.findall(said)


def kilobytes(folder):
    """Kilobytes of memory that the files of a folder take on a tmpfs."""
    counted = subprocess.run(["du", "-sk", folder], capture_output=True, text=True, check=True)
    return int(counted.stdout.split()[0])


def campaign(rounds, seed, targets=WHOLE, keep=False):
    """Rounds of full disks, numbered from ``seed``; returns (what happened in each, finds)."""
    with tempfile.TemporaryDirectory() as top:
        inputs = fill(Path(top, "inputs")).folder
        with small_disk(Path(top, "reference", "lab"), LARGE) as reference:
            copied(f"{inputs}/.", reference)
            finish(KilledLab(reference, targets))

            def full(folder, number):
                return "; ".join(one_round(folder, number, inputs, reference, targets))

            return play(full, rounds, seed, top, keep)


def main():
    options = options_of(__doc__, rounds=8).parse_args()
    happened, finds = campaign(options.rounds, options.seed, keep=options.keep)
    full = sum(ENDED_WELL not in each for each in happened)
    print(f"{options.rounds} rounds, the disk was full in {full}, {len(finds)} finds")
    sys.exit(bool(finds) or (None if full else "the disk was never full, which shows nothing"))


if __name__ == "__main__":
    main()

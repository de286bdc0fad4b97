"""Take a folder away at a random moment, or the right to write into it; give it back; go on.

    PYTHONPATH=tests:scripts python tests/campaigns/lost_folder.py [--rounds 8] [--seed 0] [--keep]

As when a drive of the network is gone for a while, or comes back read-only. In each round this
happens to one folder of inputs or of outputs of the whole workflow. What fails must say what is
gone or may not be written, without a traceback. When the folder is there again, and may be
written, the plain command must end well and leave what an undisturbed run leaves. Only root can
make a folder read-only that way, and only while no file in it is open for writing.
"""

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, nullcontext
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
    start,
)
from test_workflow import RAW

OUTPUTS = ("scaled", "checks", "predictions", "runs")
READ_ONLY, AWAY = "read-only", "away"
LOSSES = [
    *((READ_ONLY, name) for name in OUTPUTS),
    *((AWAY, name) for name in (RAW, "labels", *OUTPUTS)),
]
SENTENCE = re.compile("(is|are) gone|cannot be written|does not exist|there is no ")


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


def run_without(lab, watch, wanted, folder, way):
    """Run the workflow and lose a folder once there are so many files; what the run said, or None.

    None: it ended well, or before that. The folder is there again afterwards.
    """
    away = lab.folder.parent / "away"
    run = start(lab)
    lost = when(run, watch, wanted) and folder.exists()
    if lost:
        forbid_writing(folder) if way == READ_ONLY else folder.rename(away)
    try:
        code = run.wait(LONGEST_RUN)
    except subprocess.TimeoutExpired as error:
        run.kill()
        raise FoundError(f"it hangs for {LONGEST_RUN} s") from error
    if lost and way == READ_ONLY:
        allow_writing(folder)
    elif lost:
        # What was made in its place is hidden by what comes back.
        shutil.rmtree(folder, ignore_errors=True)
        away.rename(folder)
    said = (lab.folder.parent / "run.log").read_text(errors="replace")
    return said if lost and code else None


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
        said = run_without(lab, watch, wanted, lost, way)
        found += ["it ended well"] if said is None else judged(said)
        finish(lab)
    try:
        check_end(lab, watch, reference)
    except FoundError as error:
        raise FoundError(f"{found}: {error}") from error
    return found


def judged(said):
    """Sentences about what a run without a folder said; FoundError where that does not help."""
    steps = [f"{step}: {reason}" for step, reason in failed_steps(said).items()]
    if "Traceback" in said:
        raise FoundError(f"there is a traceback:\n{said[-3000:]}")
    wrong = [step for step in steps if not SENTENCE.search(step)]
    if wrong or not steps:
        raise FoundError(f"it does not say what is gone: {wrong}\n{said[-3000:]}")
    return steps


def campaign(rounds, seed, targets=WHOLE, keep=False):
    """Rounds of lost folders, numbered from ``seed``; returns (what happened in each, finds)."""
    happened, finds = [], []
    with tempfile.TemporaryDirectory() as top:
        inputs = fill(Path(top, "inputs")).folder
        reference = KilledLab(copied(inputs, Path(top, "reference")), targets)
        finish(reference)
        for number in range(seed, seed + rounds):
            folder, started = Path(top, str(number)), time.monotonic()
            try:
                outcome = "; ".join(one_round(folder, number, inputs, reference.folder, targets))
                happened.append(outcome)
            except FoundError as error:
                finds.append(f"round {number}: {error}")
                outcome = f"FOUND: {error}"
                if keep:
                    shutil.copy(folder / "run.log", Path(tempfile.mkdtemp(prefix="lost_")))
            print(f"{number:5} {time.monotonic() - started:5.0f} s  {outcome}", flush=True)
    return happened, finds


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; then 1 more")
    parser.add_argument("--keep", action="store_true", help="keep the output of what has a find")
    options = parser.parse_args()
    _, finds = campaign(options.rounds, options.seed, keep=options.keep)
    print(f"{options.rounds} rounds, {len(finds)} finds")
    sys.exit(bool(finds))


if __name__ == "__main__":
    main()

"""Look for odd files by the branches of the code that they reach, with atheris.

    pip install atheris==3.0.0
    PYTHONPATH=tests:scripts python tests/campaigns/coverage_fuzzing.py [--seconds 600] [--only mrc]

The kinds of files are those of fuzzing.py. Bytes that reach a branch that none before reached are
kept and changed further; hypothesis makes a file of them. Each kind of file runs in a process of
its own, since atheris ends its process. A find is shown with its traceback, and its bytes are left
as crash-... in the working folder.
"""

import argparse
import importlib
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import atheris

# What reads files: our library and what it leaves the parsing to.
SCRIPTS = ["scale_tomogram", "label_voxels", "evaluate_labels", "inspect_model", "train_model"]
READERS = ["cryoseg", *SCRIPTS, "mrcfile", "starfile", "yaml"]
# Of these, what fuzzing.py imports only when it needs it; of others, branches would not be seen.
LATE = [
    *("cryoseg.fine_tuning", "cryoseg.label_volumes", "cryoseg.patches", "cryoseg.evaluation"),
    *("cryoseg.postprocessing", "cryoseg.prediction_tally", "cryoseg.resuming", "cryoseg.scores"),
    *("cryoseg.training", "starfile", *SCRIPTS),
]
# Random bytes to begin with, and how many of them hypothesis may need for a file.
BEGINNINGS, LONGEST = 50, 4000
# How many times as long what tells of its branches may take as in fuzzing.py.
SLOWER = 6


def run(name, seconds, seed):
    """Fuzz one kind of file for so many seconds; ends the process, with 0 if nothing was found."""
    import numpy as np

    with atheris.instrument_imports(include=READERS):
        import fuzzing

        for module in LATE:
            importlib.import_module(module)

    logging.disable(logging.WARNING)
    np.seterr(all="ignore")
    fuzzing.SECONDS *= SLOWER
    counts, ends = fuzzing.nothing_yet(), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as kept:
        chance = random.Random(seed)
        for number in range(BEGINNINGS):
            Path(kept, str(number)).write_bytes(chance.randbytes(chance.randint(20, LONGEST)))
        target = fuzzing.TARGETS[name]
        if isinstance(target.read, fuzzing.Apart):
            # Here, branches are seen in this process only, and a crash of it is a find.
            target = replace(target, read=target.read.read)
        feed = fuzzing.trial(target, folder, counts).hypothesis.fuzz_one_input
        tried = 0

        def feed_until(content):
            nonlocal tried
            if time.monotonic() > ends:
                new = len(os.listdir(kept)) - BEGINNINGS
                print(f"{name:16} {tried:8} {counts['read']:8} {counts['refused']:8}", end="  ")
                print(f"{counts['slowest']:9.2f} {new:8}", flush=True)
                os.chdir("/")
                for used in (folder, kept):
                    shutil.rmtree(used, ignore_errors=True)
                os._exit(0)  # atheris has no other end than a find
            tried += 1
            return feed(content)

        # Much memory may be asked for by a header, and must be refused by the reader itself.
        limits = ["-rss_limit_mb=6000", f"-timeout={3 * fuzzing.SECONDS}", f"-max_len={LONGEST}"]
        limits.append(f"-artifact_prefix={os.getcwd()}/")
        here = Path(folder, fuzzing.HERE)
        here.mkdir()
        os.chdir(here)
        how = [f"-seed={seed + 1}", "-len_control=0", "-verbosity=0", *limits]
        atheris.Setup([sys.argv[0], *how, kept], feed_until)
        atheris.Fuzz()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="for each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="kinds, with commas between")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run(options.one, options.seconds, options.seed)
    from fuzzing import TARGETS

    print("kind                tried     read  refused  slowest s     kept", flush=True)
    finds = 0
    for name in options.only.split(",") if options.only else TARGETS:
        same = ["--seconds", str(options.seconds), "--seed", str(options.seed)]
        finds += subprocess.run([sys.executable, __file__, "--one", name, *same]).returncode != 0
    sys.exit(finds)


if __name__ == "__main__":
    main()

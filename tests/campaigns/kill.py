"""Kill a process of the whole workflow at a random moment, give the same command again, compare.

    PYTHONPATH=tests:scripts python tests/campaigns/kill.py [--rounds 100] [--seed 0] [--keep]
        [--changed | --labels]

In each round the workflow begins in an empty folder; or, with --changed, what trains no network
begins where all of it was done, of tomograms that were replaced since; or, with --labels, tomograms
are simulated, labels made of positions and masks, and thresholds and sizes chosen by them. One to
three times a random process of it (a script, the trainer, snakemake itself) gets SIGKILL, SIGTERM
or SIGSTOP and then SIGKILL, or all of them get SIGINT, as by Ctrl-C; every fourth of these aims at
the trainer. Then the plain command must end well, and leave what an undisturbed run leaves.
Meanwhile every file that appears under a final name is opened: it must be whole.
"""

import argparse
import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (the codecs of scores and patches)
import mrcfile
import psutil

from conftest import REPOSITORY
from same_outputs import MODEL, differences
from test_training_workflow import TrainingLab, training
from test_workflow import RAW, stage_file

NAMES = ("TS_1", "TS_10")
WAYS = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGSTOP, SIGKILL": (signal.SIGSTOP, signal.SIGKILL),
    "Ctrl-C": (signal.SIGINT,),  # which a terminal sends to all processes of a command
}
BETWEEN_SIGNALS = 0.3
# A job of a killed run must notice that it is alone, and a trainer finishes its step.
ORPHANS_END = 15
LONGEST_RUN = 900
# Seconds from the moment that a file appears to the kill: about as long as a job takes.
MOST_PATIENCE = 2
# And from that at which the trainer begins: about as long as it takes with its imports.
MOST_TRAINING = 12
# What may change while it is looked at, or is written by Snakemake itself.
NOT_OURS = (".snakemake", "logs", "benchmarks", "tensorboard")
SYSTEM = ctypes.CDLL(None, use_errno=True)
# All that can be made, drawn and evaluated.
WHOLE = ("all", "evaluate", "overview")
# All that can be made of a tomogram without a network that is trained there.
WITHOUT_TRAINING = ("scale", *(f"predictions/lamella/{name}_preds.h5" for name in NAMES))
TRAINER = "train_model.py"
# How often the trainer is aimed at: a process that is chosen at random is seldom it.
AIMED = 0.25
# What the whole workflow does not use.
LABELS = ("demo", "label", "thresholds")


class FoundError(AssertionError):
    """Something that the campaign must not see."""


def fill(folder):
    """A Lab with two tomograms: scaled, checked, trained on, and predicted by two stages.

    Copy it for another round: headers of files made anew have another date.
    """
    lab = TrainingLab(Path(folder))
    lab.write_config(
        scale={"raw": {"input_path": RAW, "output_path": "scaled", "invert": False}},
        train={"semantic": "config/train.yaml"},
        predict={name: f"config/{name}.yaml" for name in ("lamella", "semantic")},
    )
    few = {"max_epochs": 2, "checkpoint_minutes": 0.0001, "num_workers": 1}
    settings = training()["hyper_parameters"] | few
    lab.write_yaml("config/train.yaml", training(hyper_parameters=settings))
    lab.write_stage("lamella")
    stage = stage_file("semantic", trained_model=MODEL)
    evaluation = {"evaluate": {"labels_folder": "labels/truth"}}
    lab.write_yaml("config/semantic.yaml", stage | evaluation)
    shutil.copy(REPOSITORY / "tests" / "data" / "lamella.ckpt", lab.folder / "lamella.ckpt")
    for seed, name in enumerate(NAMES):
        lab.write_labels(name, seed)
    return lab


def fill_with_labels(folder):
    """A Lab that simulates two tomograms, makes labels for them and chooses thresholds by these."""
    lab = TrainingLab(Path(folder))
    few = {"membranes": 1, "large_particles": 2, "small_particles": 1, "filaments": 1}
    made = {"output_path": "made", "shape": [24, 40, 40], "voxel_size": 24, "number": 2}
    (lab.folder / "p.csv").write_text("tomo,z,y,x\ntrial_1,12,20,20\ntrial_2,9,30,12\n")
    spheres = {"kind": "particles", "tomograms": "made", "positions": "p.csv", "radius": 120}
    merged = {"kind": "merge", "folders": {1: "labels/spheres", 2: "made/lamella"}}
    lab.write_config(
        simulate={"trial": made | few | {"thickness_nm": 30}},
        scale={"raw": {"input_path": "made", "output_path": "scaled", "invert": True}},
        label={
            "spheres": spheres | {"output_path": "labels/spheres"},
            "both": merged | {"priority": [1, 2], "output_path": "labels/both"},
        },
        predict={name: f"config/{name}.yaml" for name in ("lamella", "semantic")},
    )
    lab.write_stage("lamella")
    evaluation = {"labels_folder": "labels/both", "choose_thresholds": True}
    lab.write_yaml("config/semantic.yaml", stage_file("semantic") | {"evaluate": evaluation})
    for name in ("lamella", "semantic"):
        shutil.copy(REPOSITORY / f"tests/data/{name}.ckpt", lab.folder / f"{name}.ckpt")
    return lab


def fill_anew(folder, targets):
    """The same Lab with all targets made, of other tomograms than lie there now."""
    lab = fill(folder)
    finish(KilledLab(lab.folder, targets))
    for seed, name in enumerate(NAMES, start=10):
        lab.write_labels(name, seed)
    return lab


class KilledLab(TrainingLab):
    """A Lab whose command has targets."""

    def __init__(self, folder, targets=WHOLE):
        super().__init__(folder)
        self.targets = targets


class WritesInPlace:
    """The system's word of each file below a folder that is written to under a final name.

    However short the moment is in which it is not whole; Watch alone would have to look just then.

    found: sentences about such files, and about what the system did not tell
    """

    MODIFY, MOVED_TO, CREATE, OVERFLOW, FOLDER = 0x2, 0x80, 0x100, 0x4000, 0x40000000  # inotify.h

    def __init__(self, folder):
        self.found = set()
        self._events = SYSTEM.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._events >= 0, os.strerror(ctypes.get_errno())
        self._folders = {}
        self._follow(Path(folder))

    def _follow(self, top):
        for folder, below, _ in os.walk(top):
            below[:] = [name for name in below if name not in NOT_OURS]
            asked = self.MODIFY | self.MOVED_TO | self.CREATE
            number = SYSTEM.inotify_add_watch(self._events, os.fsencode(folder), asked)
            if number >= 0:
                self._folders[number] = Path(folder)
            elif ctypes.get_errno() != errno.ENOENT:  # such as that all watches are in use
                why = os.strerror(ctypes.get_errno())
                self.found.add(f"{folder}: cannot be watched ({why})")

    def read(self):
        """Take in what has happened since the last time."""
        while True:
            try:
                events = os.read(self._events, 2**16)
            except BlockingIOError:
                return
            while events:
                number, mask, _, size = struct.unpack_from("iIII", events)
                name = os.fsdecode(events[16 : 16 + size].rstrip(b"\0"))
                events = events[16 + size :]
                path = self._folders.get(number, Path()) / name
                if mask & self.FOLDER:
                    if mask & (self.CREATE | self.MOVED_TO) and name not in NOT_OURS:
                        self._follow(path)
                elif mask & self.OVERFLOW:
                    self.found.add("there were more events than the system keeps")
                elif mask & self.MODIFY and not name.startswith("."):
                    self.found.add(f"{path}: written in place")

    def close(self):
        os.close(self._events)


class Watch:
    """Opens every file that appears in a folder under a final name, as soon as it is seen.

    damaged: sentences about files that were not whole, or that were written under a final name
    """

    def __init__(self, folder):
        self.folder, self.seen, self.damaged = Path(folder), {}, []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self._writes = WritesInPlace(self.folder)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._done.set()
        self._thread.join()
        self.look()
        self._writes.read()
        self._writes.close()
        self.damaged += sorted(self._writes.found)

    def _run(self):
        while not self._done.wait(0.02):
            self._writes.read()
            self.look()

    def look(self):
        """Open what is new since the last look."""
        for folder, below, files in os.walk(self.folder):
            below[:] = [name for name in below if name not in NOT_OURS]
            for name in files:
                if not name.startswith("."):
                    self._open_if_new(Path(folder, name))

    def _open_if_new(self, path):
        with contextlib.suppress(FileNotFoundError):  # snakemake takes old outputs away
            if self.seen.get(path) == _version(path.stat()):
                return
            with open(path, "rb") as file:
                self.seen[path] = _version(os.fstat(file.fileno()))
                # The very file, whatever has its name by now.
                self._open(path, Path(f"/proc/self/fd/{file.fileno()}"))

    def _open(self, path, file):
        try:
            open_whole(file, path.suffix)
        except Exception as error:
            self.damaged.append(f"{path.relative_to(self.folder)}: {error!r}")


def _version(status):
    return status.st_ino, status.st_size, status.st_mtime_ns


def open_whole(path, kind):
    """Read a file to its end; an exception if it is not whole. kind: the ending of its name."""
    if kind == ".mrc":
        with mrcfile.open(path) as mrc:
            assert mrc.data.size
    elif kind == ".h5":
        with h5py.File(path, "r", locking=False) as file:
            file.visititems(lambda _, item: item[...] if isinstance(item, h5py.Dataset) else None)
    elif kind == ".ckpt":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None
    elif kind == ".json":
        json.loads(path.read_text())
    elif kind == ".png":
        assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    elif kind == ".html":
        assert path.read_bytes().rstrip().endswith(b"</html>")
    elif kind in (".csv", ".tsv", ".yaml"):
        assert path.read_bytes().endswith(b"\n")


def start(lab, log="run.log"):
    """Start the plain command; its output goes into a log beside the Lab's folder."""
    with open(lab.folder.parent / log, "ab") as log:
        return subprocess.Popen(
            lab.command("--cores", "2", "--", *lab.targets),
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=lab.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )


def finish(lab):
    """Give the plain command and wait for its end, which must be a good one."""
    run = start(lab)
    try:
        code = run.wait(LONGEST_RUN)
    except subprocess.TimeoutExpired as error:
        run.kill()
        raise FoundError(f"the plain command hangs after {LONGEST_RUN} s") from error
    if code:
        said = (lab.folder.parent / "run.log").read_text(errors="replace")
        raise FoundError(f"the plain command ends with {code}:\n{said[-3000:]}")


def strike(run, chance, aimed=False):
    """Signal a random process of a run, or all; returns (what it was, how).

    aimed: whether the trainer is to be it, where there is one
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        own = psutil.Process(run.pid)
        others = own.children(recursive=True)
        victim = chance.choice(others) if others and chance.random() < 0.7 else own
        victim = (trainer_of(run) if aimed else None) or victim
        what, victims = "snakemake" if victim == own else _script(victim), [victim]
        way = chance.choice(list(WAYS))
        if way == "Ctrl-C":
            what, victims = "all processes", [own, *others]
        struck = [each for each in victims if _signal(each, WAYS[way])]
        return (what, way) if struck else None
    return None


def trainer_of(run):
    """The process of a run that trains a network, or None."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(run.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if _script(process) == TRAINER:
                    return process
    return None


def _signal(process, numbers):
    """Send a process signals; returns whether it was there to get them."""
    try:
        for number in numbers:
            process.send_signal(number)
            time.sleep(BETWEEN_SIGNALS if number == signal.SIGSTOP else 0)
    except psutil.NoSuchProcess:
        return False
    return True


def _script(process):
    """The name of the script that a process runs."""
    words = process.cmdline()
    scripts = [Path(word).name for word in words if word.endswith(".py")]
    return scripts[-1].split(".", 1)[-1] if scripts else process.name()


def wait_for_orphans(before):
    """Wait for the end of processes that a killed run left; they must see that they are alone."""
    _, alive = psutil.wait_procs(before, timeout=ORPHANS_END)
    if alive:
        names = ", ".join(_script(process) for process in alive)
        for process in alive:
            process.kill()
        raise FoundError(f"jobs of a killed run live on: {names}")


def disturb(lab, watch, chance, files, patience):
    """Run the workflow and strike it once, at a random moment up to the last of so many files.

    Or at one after the trainer has begun, if that is aimed at.

    patience: seconds from there, at most

    Returns what was struck, (what, how) or None, and the processes that the run had.
    """
    run, family = start(lab), []
    aimed = trains(lab.targets) and chance.random() < AIMED
    wanted = chance.randint(min(len(watch.seen), files), files)
    patience = chance.uniform(0, MOST_TRAINING if aimed else patience)
    at = None
    while run.poll() is None and (at is None or time.monotonic() < at):
        if at is None and (trainer_of(run) if aimed else len(watch.seen) >= wanted):
            at = time.monotonic() + patience
        time.sleep(0.02)
    if run.poll() is not None:
        return None, []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(run.pid).children(recursive=True)
    struck = strike(run, chance, aimed)
    try:
        run.wait(LONGEST_RUN)
    except subprocess.TimeoutExpired as error:
        run.kill()
        raise FoundError(f"after {struck}, snakemake hangs for {LONGEST_RUN} s") from error
    return struck, family


def trains(targets):
    """Whether a network is trained for targets."""
    return targets == WHOLE


def left_over(lab):
    """Files that were written aside and never got their names, and locks."""
    hidden = [path for path in lab.folder.rglob(".*-*") if path.is_file()]
    locks = lab.folder / ".snakemake" / "locks"
    notes = list((lab.folder / ".snakemake" / "owners").glob("*"))
    return [*hidden, *(locks.iterdir() if locks.is_dir() else ()), *notes]


def count_files(folder):
    """How many files a Watch of the folder would have seen."""
    watch = Watch(folder)
    watch.look()
    return len(watch.seen)


def one_round(
    folder, seed, inputs, reference, struck, targets=WHOLE, most=3, patience=MOST_PATIENCE
):
    """One round in a folder; adds what was struck to ``struck``, (what, how). Raises FoundError.

    inputs:    folder of a Lab in which nothing is done yet, or all of other tomograms
    reference: the same, done undisturbed
    most:      kills
    patience:  as disturb takes it
    """
    chance, folder = random.Random(seed), Path(folder)
    folder.mkdir()
    lab = KilledLab(copied(inputs, folder / "lab"), targets)
    with Watch(lab.folder) as watch:
        watch.look()
        files = count_files(reference)
        orphans = []
        for _ in range(chance.randint(1, most)):
            hit, family = disturb(lab, watch, chance, files, patience)
            orphans += family
            if hit:
                struck.append(hit)
            # Or the next run begins beside jobs of this one that have not noticed yet.
            if chance.random() < 0.5:
                wait_for_orphans(family)
        finish(lab)
        wait_for_orphans(orphans)
    check_end(lab, watch, reference)


def check_end(lab, watch, reference):
    """Raise FoundError unless a Lab now holds what an undisturbed run leaves, and nothing else.

    That nothing is left to do, and that all records are of what is there, snakemake tells.

    watch: of the Lab's folder, and over
    """
    if watch.damaged:
        raise FoundError(f"not whole under a final name, or not watched: {watch.damaged[:5]}")
    if differing := list(differences(lab.folder, reference)):
        raise FoundError(f"not as in an undisturbed run: {differing[:9]}")
    if left := left_over(lab):
        raise FoundError(f"left over: {left[:5]}")
    if shown := lab.plan("--", *lab.targets):
        raise FoundError(f"there is still something to do: {shown}")
    verified = subprocess.run(lab.command("verify"), capture_output=True, text=True)
    if verified.returncode:
        raise FoundError(f"not what the records say: {verified.stdout[-3000:]}")


def copied(source, target):
    """A copy of a folder, with links, times and all."""
    subprocess.run(["cp", "-a", source, target], check=True)
    return target


def play(one_round, rounds, seed, top, keep=False):
    """Play rounds, numbered from ``seed``; returns (what happened in each, finds), sentences.

    one_round: takes the path of a folder that it makes and the round's number; returns a sentence,
               raises FoundError
    top:       folder to play in
    keep:      keep the folder of what has a find
    """
    happened, finds = [], []
    for number in range(seed, seed + rounds):
        folder, started = Path(top, str(number)), time.monotonic()
        try:
            outcome = one_round(folder, number)
            happened.append(outcome)
        except FoundError as error:
            finds.append(f"round {number}: {error}")
            outcome = f"FOUND: {error}"
            if keep:
                copied(folder, tempfile.mkdtemp(prefix="found_"))
        print(f"{number:5} {time.monotonic() - started:5.0f} s  {outcome}", flush=True)
        shutil.rmtree(folder)
    return happened, finds


def campaign(rounds, seed, targets=WHOLE, most=3, keep=False, changed=False, begin=fill):
    """Rounds of kills, numbered from ``seed``; returns (struck, finds).

    targets: of the command
    most:    kills in a round
    changed: begin each where all was done of other tomograms
    begin:   makes the Lab of a folder that each begins with otherwise
    """
    struck = []
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top, "inputs")
        inputs = (fill_anew(folder, targets) if changed else begin(folder)).folder
        reference = KilledLab(copied(inputs, Path(top, "reference")), targets)
        started = time.monotonic()
        finish(reference)
        # Where all files are there from the beginning, they tell of no moment.
        patience = time.monotonic() - started if changed else MOST_PATIENCE

        def killed(folder, number):
            hits = []
            try:
                one_round(folder, number, inputs, reference.folder, hits, targets, most, patience)
            except FoundError as error:
                raise FoundError(f"{hits}: {error}") from error
            finally:
                struck.extend(hits)
            return "; ".join(f"{what} {way}" for what, way in hits) or "nothing was hit"

        _, finds = play(killed, rounds, seed, top, keep)
    return struck, finds


def options_of(description, rounds):
    """A parser of the options of a campaign: how many rounds, the first one's number, keep."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; then 1 more")
    parser.add_argument("--keep", action="store_true", help="keep the folder of what has a find")
    return parser


def main():
    parser = options_of(__doc__, rounds=100)
    parser.add_argument("--changed", action="store_true", help="begin where all was done before")
    parser.add_argument("--labels", action="store_true", help="make labels, choose thresholds")
    options = parser.parse_args()
    targets, begin = (LABELS, fill_with_labels) if options.labels else (WHOLE, fill)
    targets = WITHOUT_TRAINING if options.changed else targets
    struck, finds = campaign(
        options.rounds,
        options.seed,
        targets,
        keep=options.keep,
        changed=options.changed,
        begin=begin,
    )
    for what in sorted({what for what, _ in struck}):
        ways = [way for each, way in struck if each == what]
        print(f"{what:24}", ", ".join(f"{way}: {ways.count(way)}" for way in WAYS))
    print(f"{options.rounds} rounds, {len(struck)} kills, {len(finds)} finds")
    sys.exit(bool(finds) or shows_nothing(options.rounds, struck, targets))


def shows_nothing(rounds, struck, targets):
    """A sentence where so many rounds struck too little, (what, how), to tell of it; or None."""
    if len(struck) < rounds:
        return f"{len(struck)} kills in {rounds} rounds show little"
    trainers = sum(what == TRAINER for what, _ in struck)
    if trains(targets) and trainers < rounds // 10:
        return f"{trainers} kills of the trainer in {rounds} rounds show little"
    return None


if __name__ == "__main__":
    main()

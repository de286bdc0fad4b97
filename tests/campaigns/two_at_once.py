"""Let two runs meet, or replace a tomogram beneath one, at a random moment; go on; compare.

    PYTHONPATH=tests:scripts python tests/campaigns/two_at_once.py [--rounds 8] [--seed 0] [--keep]
        [--only KIND]

Rounds of four kinds, in turn. In one folder: two or three commands in one working folder, of which
those that come second must say so, end, and leave the lock. In one output folder: two working
folders with the same settings write into the same folders, at once; in half of the rounds both
train too. Other settings: the same, with one setting that differs, of which the second must be
told; each file must be that of the one or of the other, and its record too. Replaced: a tomogram
is replaced while a run reads it, or as soon as it was read, by another name or in place; what fails
must name it. Nothing may print a traceback, and no file may be cut short under its final name. In
the end the same commands, given again one after the other, must end well and leave what runs
without company leave.
"""

import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from conftest import REPOSITORY
from full_disk import failed_steps
from kill import (
    LONGEST_RUN,
    NAMES,
    WHOLE,
    FoundError,
    KilledLab,
    Watch,
    check_end,
    copied,
    count_files,
    finish,
    left_over,
    options_of,
    play,
    start,
)
from lost_folder import NOT_STARTED, when
from same_outputs import differences
from test_training_workflow import TrainingLab, training
from test_workflow import RAW, stage_file
from tracebacks import tracebacks

# Fewer rounds may meet nowhere by chance.
ENOUGH_ROUNDS = 8
WHO = ("anna", "ben")
PREDICTIONS = tuple(f"{{common}}/predictions/lamella/{name}_preds.h5" for name in NAMES)
# What is asked for in one working folder alone, and by those that come second there.
FEW = ("scale", *PREDICTIONS)
TARGETS = (FEW, ("scale",), PREDICTIONS[:1])
REFUSED = re.compile(
    r"^Another snakemake (works in this folder: process \d+ on|begins to work in this folder)", re.M
)
STARTED = re.compile(r"^(local)?rule \w+:$", re.M)
# What a job says whose files another run replaces, or somebody with a copy of them.
DISTURBED = re.compile(
    "gone since the run began|changed while it was read|put there|cut short or written anew"
    "|what was written for it is gone"
)
# {what differs between two runs: (its targets, folder of what it changes, files there)}
DIFFERING = {
    "scale.raw.upper_end_percentage": (("scale",), "scaled", "*.mrc"),
    "predict.lamella.parameters.network.threshold": (
        PREDICTIONS,
        "predictions/lamella",
        "*.h5",
    ),
}
AT_RANDOM, OPEN, READ = MOMENTS = ("at a random moment", "while it is open", "once it was read")
WAYS = ("renamed over", "in place")
# How many times two may have to take turns until neither has anything left to do.
MOST_TURNS = 3
# At the maps of the same processes, before others are looked for.
LOOKS = 50
# A run that ends takes its lock off before its process is gone.
SECONDS_TO_END = 2


def fill(place, inputs, trains=False, differs=None):
    """Two working folders of which all results but checks, models and tables lie in a common one.

    inputs:  folder of tomograms and labels, which is copied: headers made anew have another date
    trains:  both train a model of their own, of common patches
    differs: a key of DIFFERING, in which the second is another
    """
    common = copied(inputs, Path(place, "common"))
    return [
        fill_one(Path(place, who, "lab"), common, trains, who == WHO[1] and differs) for who in WHO
    ]


def fill_one(folder, common, trains, differs):
    """The working folder of one of the two."""
    lab = KilledLab(folder)
    percentile, threshold = (key == differs for key in DIFFERING)
    scale = {"input_path": f"{common}/{RAW}", "output_path": f"{common}/scaled", "invert": False}
    entries = {"scale": {"raw": scale | ({"upper_end_percentage": 90} if percentile else {})}}
    if trains:
        folders = {
            "data_folder": f"{common}/scaled",
            "labels_folder": f"{common}/labels/kept",
            "labels_folder_for_filtering": f"{common}/labels/truth",
            "patches_folder": f"{common}/patches",
            "temp_dir": f"{common}/work",
        }
        lab.write_yaml("config/train.yaml", training(**folders))
        entries["train"] = {"semantic": "config/train.yaml"}
    entries["predict"] = {name: f"config/{name}.yaml" for name in ("lamella", "semantic")}
    lab.write_config(**entries)
    for name in ("lamella", "semantic"):
        shutil.copy(REPOSITORY / f"tests/data/{name}.ckpt", lab.folder / f"{name}.ckpt")
        masks = f"{common}/predictions/lamella" if name == "semantic" else None
        places = {"data_folder": f"{common}/scaled", "mask_folder": masks}
        stage = stage_file(name, **places, prediction_folder=f"{common}/predictions/{name}")
        if name == "semantic":
            stage["evaluate"] = {"labels_folder": f"{common}/labels/truth"}
        elif threshold:
            stage["parameters"]["network"]["threshold"] = 0.6
        lab.write_yaml(f"config/{name}.yaml", stage)
    return lab


def tomogram(place, name):
    return Path(place, "common", RAW, f"{name}.mrc")


def write_inputs(folder, first_seed=0):
    """Write tomograms and their labels; returns the folder."""
    lab = TrainingLab(Path(folder))
    for seed, name in enumerate(NAMES, start=first_seed):
        lab.write_labels(name, seed)
    return lab.folder


@contextmanager
def at_one_place(folder):
    """Yield a folder of always the same path, as paths stand in what is made; it gets its name."""
    place = Path(folder).with_name("here")
    place.mkdir()
    try:
        yield place
    finally:
        place.rename(folder)


class References:
    """Folders in which one worked after the other, or one alone, each made when it is needed.

    inputs: folder of tomograms and labels, as of fill; new_tomogram: of other ones, by their names
    """

    def __init__(self, top):
        self.top, self._made = Path(top), {}
        self.inputs, self._others = (
            write_inputs(self.top / name, seed) for name, seed in (("inputs", 0), ("others", 10))
        )

    def new_tomogram(self, name):
        """The bytes of another tomogram of a name."""
        return (self._others / RAW / f"{name}.mrc").read_bytes()

    def __call__(self, who=WHO[:1], trains=False, differs=None, replaced=None, targets=WHOLE):
        """who: works there; differs, trains: as for fill; replaced: name of a tomogram, or None"""
        key = (who, trains, differs, replaced, targets)
        if key not in self._made:
            folder = self.top / f"reference_{len(self._made)}"
            with at_one_place(folder) as place:
                labs = dict(zip(WHO, fill(place, self.inputs, trains, differs), strict=True))
                if replaced:
                    tomogram(place, replaced).write_bytes(self.new_tomogram(replaced))
                for each in who:
                    finish(asking(labs[each], targets))
            self._made[key] = folder
        return self._made[key]


def asking(lab, targets):
    """The same Lab with other targets of its command."""
    common = lab.folder.parents[1] / "common"
    return KilledLab(lab.folder, tuple(each.format(common=common) for each in targets))


@dataclass
class Command:
    """A command on its way, and the file that has what it prints."""

    process: subprocess.Popen
    log: Path

    @property
    def runs(self):
        return self.process.poll() is None

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    def signal(self, number):
        """Send its snakemake a signal, not its jobs."""
        self.process.send_signal(number)

    def end(self):
        """Wait for its end; returns its exit status. FoundError where it hangs or has a bug."""
        try:
            code = self.process.wait(LONGEST_RUN)
        except subprocess.TimeoutExpired as error:
            raise FoundError(f"a command hangs for {LONGEST_RUN} s") from error
        if found := tracebacks(self.said):
            raise FoundError(f"there is a traceback: {found[:5]}\n{self.said[-3000:]}")
        return code


class Commands:
    """Begins commands, and ends at the end those that are left."""

    def __init__(self):
        self.begun = []

    def __enter__(self):
        return self

    def __exit__(self, *error):
        for command in [each for each in self.begun if each.runs]:
            for number in [command.process.pid, *descendants(command.process.pid)]:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            command.process.wait()

    def begin(self, lab):
        log = f"{len(self.begun)}.log"
        process = start(lab, log)
        self.begun.append(Command(process, lab.folder.parent / log))
        return self.begun[-1]


def random_moment(command, watch, chance, files, share=0.9):
    """Wait for a random moment of a run; whether it still runs then.

    files: how many are there when it is done; share: of those that it makes, the latest moment
    """
    begun = len(watch.seen)
    when(command.process, watch, begun + chance.randint(0, max(0, int(share * (files - begun)))))
    time.sleep(chance.uniform(0, 1))
    return command.runs


def in_one_folder(folder, chance, references):
    """Two or three commands in one working folder; (sentence, whether they met)."""
    reference = references(targets=FEW)
    with at_one_place(folder) as place:
        lab = asking(fill(place, references.inputs)[0], FEW)
        with Watch(place) as watch, Commands() as commands:
            watch.look()
            first = commands.begin(lab)
            if chance.random() < 0.75:  # else all begin at once
                random_moment(first, watch, chance, count_files(reference))
            for _ in range(chance.choice([1, 1, 2])):
                commands.begin(asking(lab, chance.choice(TARGETS)))
                time.sleep(chance.uniform(0, 3) if chance.random() < 0.5 else 0)
            refused = wait_for_refused(commands.begun, lab)
            finish(lab)
        forget_own(watch)
        check_end(lab, watch, reference / lab.folder.relative_to(place))
        check_common(place, reference)
        return f"{refused} of {len(commands.begun)} commands were refused", refused > 0


def wait_for_refused(commands, lab):
    """Wait for the end of commands in one working folder; how many were refused there."""
    waiting, refused = list(commands), 0
    while waiting:
        time.sleep(0.02)
        for command in [each for each in waiting if not each.runs]:
            waiting.remove(command)
            if not command.end():
                continue
            if not REFUSED.search(command.said):
                raise FoundError(f"it does not say who works there:\n{command.said[-3000:]}")
            refused += 1
            check_lock(lab, waiting)
    if refused == len(commands):
        raise FoundError("all commands were refused")
    return refused


def check_lock(lab, others):
    """FoundError where no lock is there although one of the others goes on for seconds."""
    locks = lab.folder / ".snakemake" / "locks"
    if not any(locks.glob("*.lock")):
        time.sleep(SECONDS_TO_END)
        if any(each.runs for each in others) and not any(locks.glob("*.lock")):
            raise FoundError("a command that was refused took the lock of another one off")


def in_one_output_folder(folder, chance, references):
    """Two working folders with one output folder; (sentence, whether both made the same)."""
    trains = chance.random() < 0.5
    reference = references(WHO, trains)
    with at_one_place(folder) as place:
        labs = fill(place, references.inputs, trains)
        with Watch(place) as watch, Commands() as commands:
            watch.look()
            both = meet(commands, labs, watch, chance, count_files(reference))
            failed = [steps_disturbed(each) for each in commands.begun]
            check_told(commands.begun, both, "with the same settings")
            twice = made_by_both(*(lab.folder for lab in labs))
            twice -= made_by_both(*(reference / who / "lab" for who in WHO))
            turns = take_turns(labs)
        check_watch(watch)
        for lab in labs:
            check_lab(lab, reference / lab.folder.relative_to(place))
        check_common(place, reference)
        told = "; ".join(step for steps in failed for step in steps)
        sentence = f"{len(twice)} outputs made twice, {turns} turns"
        return ", ".join(filter(None, [sentence, trains and "trained", told])), bool(twice)


def meet(commands, labs, watch, chance, files):
    """Begin a command in each of two working folders, at once or the second at a random moment.

    Then the first starts no further job until the second has started one, or had nothing to do.
    Returns whether both must be told of the other, else one of them.
    """
    first = commands.begin(labs[0])
    if chance.random() < 0.3:
        commands.begin(labs[1])
        return False
    random_moment(first, watch, chance, files, share=0.25)
    while first.runs and not STARTED.search(first.said):
        time.sleep(0.05)
    first.signal(signal.SIGSTOP)
    try:
        second = commands.begin(labs[1])
        while second.runs and not STARTED.search(second.said):
            time.sleep(0.05)
    finally:
        first.signal(signal.SIGCONT)
    return first.runs


def check_told(commands, both, how):
    """FoundError unless both of two commands, or else one, were told how the other writes there."""
    untold = [each for each in commands if f"writes there too, {how}" not in each.said]
    if len(untold) > (0 if both else 1):
        raise FoundError(f"it was not told of the other ({how}):\n{untold[0].said[-3000:]}")


def steps_disturbed(command, sentence=DISTURBED):
    """What a command says of the jobs that failed; FoundError where that does not help."""
    if not command.end():
        return []
    steps = command.said.partition(NOT_STARTED)[2].splitlines()[1:] or failed_steps(command.said)
    if not steps or any(not sentence.search(step) for step in steps):
        raise FoundError(f"it does not say what disturbed it: {steps}\n{command.said[-3000:]}")
    return steps


def made_by_both(*folders):
    """Jobs, by the notes of their times, that were done in each of some working folders."""
    tops = [folder / "benchmarks" for folder in folders]
    return set.intersection(
        *({path.relative_to(top) for path in top.rglob("*.tsv")} for top in tops)
    )


def take_turns(labs):
    """Give the commands again, one after the other, until nothing is left to do; how many times."""
    for turn in range(1, MOST_TURNS + 1):
        for lab in labs:
            finish(lab)
        if not any(lab.plan("--", *lab.targets) for lab in labs):
            return turn
    raise FoundError(f"after {MOST_TURNS} turns there is still something to do")


def forget_own(watch, *names):
    """Forget what the campaign wrote in place itself: logs of commands, and tomograms by name."""
    own = (*(f"{RAW}/{name}" for name in names), ".log: written in place")
    watch.damaged = [each for each in watch.damaged if not any(name in each for name in own)]


def check_watch(watch):
    forget_own(watch)
    if watch.damaged:
        raise FoundError(f"not whole under a final name, or not watched: {watch.damaged[:5]}")


def check_lab(lab, reference):
    """As check_end, of a working folder whose outputs are another's too."""
    check_same(lab.folder, reference)
    code, rows = verify(lab)
    if code:
        odd = [row for row in rows if row["status"] != "matches"]
        raise FoundError(f"not what the records say: {odd[:5]}")


def check_common(place, reference):
    check_same(Path(place, "common"), Path(reference, "common"))


def check_same(folder, reference):
    """FoundError unless a folder holds what its reference does, and nothing else.

    Who makes what another one has made adds to its record.
    """
    differing = []
    for each in differences(folder, reference):
        name = each.removesuffix(" differs")
        if not same_records(Path(folder, name), Path(reference, name)):
            differing.append(each)
    if differing:
        raise FoundError(f"not as in an undisturbed run: {differing[:9]}")
    check_left_over(Path(folder))


def check_left_over(*folders):
    if left := [each for top in folders for each in left_over(SimpleNamespace(folder=top))]:
        raise FoundError(f"left over: {left[:5]}")


def same_records(path, other):
    """Whether two files are records that tell the same, but for dates, hashes and repetitions."""
    if path.parent.name != "provenance" or not (path.exists() and other.exists()):
        return False
    return told_by(path) == told_by(other)


def told_by(record):
    """What a record tells beside dates and hashes, without what it tells twice."""
    told = json.loads(record.read_text())
    del told["date"]
    for key in ("inputs", "outputs"):
        told[key] = sorted({(each["name"], each["path"]) for each in told[key]})
    return told


def verify(lab):
    """(exit status, rows of the table) of `snakemake verify`."""
    done = subprocess.run(lab.command("verify"), capture_output=True, cwd=lab.folder)
    with open(lab.folder / "verify.tsv", encoding="utf-8", newline="") as file:
        return done.returncode, list(csv.DictReader(file, delimiter="\t"))


def with_other_settings(folder, chance, references):
    """As in_one_output_folder, with other settings; (sentence, whether both made the same)."""
    key = chance.choice(list(DIFFERING))
    targets, changed, pattern = DIFFERING[key]
    alone = [references((who,), differs=key, targets=targets) for who in WHO]
    with at_one_place(folder) as place:
        labs = [asking(lab, targets) for lab in fill(place, references.inputs, differs=key)]
        with Watch(place) as watch, Commands() as commands:
            watch.look()
            both = meet(commands, labs, watch, chance, count_files(alone[0]))
            failed = [steps_disturbed(each) for each in commands.begun]
            check_told(commands.begun, both, f"with other settings ({key} is ")
            twice = made_by_both(*(lab.folder for lab in labs))
            for lab in labs:
                finish(lab)
        check_watch(watch)
        check_left_over(Path(place, "common"), *(lab.folder for lab in labs))
        made = Path(place, "common", changed)
        owners = {path: owner(path, place, alone) for path in sorted(made.glob(pattern))}
        if len(owners) != len(NAMES):
            raise FoundError(f"not all are there: {[*owners]}")
        for who, lab in zip(WHO, labs, strict=True):
            check_verified(lab, {path: made_by == who for path, made_by in owners.items()})
        told = "; ".join(step for steps in failed for step in steps)
        shares = [f"{count} of {who}" for who, count in Counter(owners.values()).items()]
        sentence = [key, *shares, f"{len(twice)} outputs made twice", told]
        return ", ".join(filter(None, sentence)), bool(twice)


def owner(path, place, alone):
    """Who made a file, by its bytes and by its record; FoundError where they do not tell the same.

    alone: folders in which one of WHO worked alone
    """
    record = path.parent / "provenance" / f"{path.name}.json"
    theirs = [Path(each, path.relative_to(place)) for each in alone]
    if theirs[0].read_bytes() == theirs[1].read_bytes():
        raise FoundError(f"{path.name}: the settings make no difference")
    for who, each in zip(WHO, theirs, strict=True):
        if path.read_bytes() == each.read_bytes():
            same = told_by(record) == told_by(each.parent / "provenance" / record.name)
            if not same:
                raise FoundError(f"{path.name}: its record is not that of {who}'s file")
            return who
    raise FoundError(f"{path.name}: it is of neither of the settings")


def check_verified(lab, own):
    """FoundError unless `snakemake verify` tells which files were made with other settings.

    own: {path: whether it was made with the Lab's}
    """
    found = {row["output"]: row for row in verify(lab)[1]}
    for path, is_own in own.items():
        row = found[str(path)]
        if (row["status"] == "matches") != is_own:
            raise FoundError(f"verify in {lab.folder}: {row}")


def replaced(folder, chance, references):
    """A tomogram is replaced; (sentence, whether a job that reads it ran then, or had just)."""
    name, moment, way = chance.choice(NAMES), chance.choice(MOMENTS), chance.choice(WAYS)
    reference = references(replaced=name, targets=FEW)
    with at_one_place(folder) as place:
        lab = asking(fill(place, references.inputs)[0], FEW)
        path = tomogram(place, name)
        scaled = Path(place, "common", "scaled", f"{name}.mrc")
        put = partial(replace, path, references.new_tomogram(name), way, chance)
        with Watch(place) as watch, Commands() as commands:
            watch.look()
            run = commands.begin(lab)
            if moment == AT_RANDOM:
                random_moment(run, watch, chance, count_files(reference))
                met = bool(readers(run.process.pid))
                put()
            else:
                seek, sought = (opened, path) if moment == OPEN else (just_made, scaled)
                met = held_while(run.process, partial(seek, run.process.pid, sought), put)
            failed = steps_disturbed(run, re.compile(f"{name}[:. ]"))
            finish(lab)
        forget_own(watch, path.name)
        check_end(lab, watch, reference / lab.folder.relative_to(place))
        check_common(place, reference)
        return ", ".join([f"{name} {way} {moment}", *failed]), met


def held_while(run, find, act):
    """Stop the process that ``find`` tells the number of, as soon as it does, and act.

    Returns whether there was one; else it acts when the run has ended.
    """
    while run.poll() is None:
        if (number := find()) is None:
            time.sleep(0.001)
            continue
        with suppress(ProcessLookupError):
            os.kill(number, signal.SIGSTOP)
            try:
                act()
            finally:
                os.kill(number, signal.SIGCONT)
            return True
    act()
    return False


def readers(number):
    """Numbers of the processes of a run that scale tomograms, whether one is open by now or not."""
    return [
        each for each in descendants(number) if "scale_tomogram" in _read(f"/proc/{each}/cmdline")
    ]


def opened(number, path):
    """The process of a run that has a tomogram open, as it is mapped; None without one."""
    scaling = readers(number)
    for _ in range(LOOKS):  # a small one is open for some milliseconds, too few for more at a time
        for each in scaling:
            if str(path) in _read(f"/proc/{each}/maps"):
                return each
    return None


def just_made(number, scaled):
    """The run itself, once there is what was made of a tomogram; it has not noted it yet."""
    return number if scaled.exists() else None


def descendants(number):
    """Numbers of the processes below one. Quicker than psutil, which looks at all there are."""
    found = []
    for task in Path(f"/proc/{number}/task").glob("*/children"):
        for each in map(int, _read(task).split()):
            found += [each, *descendants(each)]
    return found


def _read(path):
    """The text of a file of a process, which may be gone."""
    with suppress(OSError):
        return Path(path).read_bytes().decode(errors="replace")
    return ""


def replace(path, content, way, chance):
    """Put another tomogram in the place of one, as mv does, or piece by piece, as cp does."""
    if way == "renamed over":
        aside = path.with_name(f".{path.name}.new")
        aside.write_bytes(content)
        aside.rename(path)
        return
    half = len(content) // 2
    with open(path, "wb") as file:
        file.write(content[:half])
        file.flush()
        time.sleep(chance.uniform(0, 0.3))
        file.write(content[half:])


KINDS = {
    "one folder": in_one_folder,
    "one output folder": in_one_output_folder,
    "other settings": with_other_settings,
    "replaced": replaced,
}


def campaign(rounds, seed, keep=False, kinds=tuple(KINDS)):
    """Rounds numbered from ``seed``; returns ([(kind, whether the two met)], finds)."""
    met = []
    with tempfile.TemporaryDirectory() as top:
        references = References(top)

        def both(folder, number):
            kind = kinds[number % len(kinds)]
            sentence, did = KINDS[kind](folder, random.Random(number), references)
            met.append((kind, did))
            return f"{kind}: {sentence}"

        _, finds = play(both, rounds, seed, top, keep)
    return met, finds


def main():
    parser = options_of(__doc__, rounds=8)
    parser.add_argument("--only", choices=KINDS, help="rounds of one kind")
    options = parser.parse_args()
    kinds = (options.only,) if options.only else tuple(KINDS)
    met, finds = campaign(options.rounds, options.seed, options.keep, kinds)
    for kind in kinds:
        of_kind = [did for each, did in met if each == kind]
        print(f"{kind:20} {sum(of_kind)} of {len(of_kind)} met")
    print(f"{options.rounds} rounds, {len(finds)} finds")
    never = options.rounds >= ENOUGH_ROUNDS and {*kinds} - {kind for kind, did in met if did}
    sys.exit(bool(finds or never))


if __name__ == "__main__":
    main()

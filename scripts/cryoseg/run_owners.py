"""Which runs hold the lock of a working folder, and whether they still live.

Snakemake's own lock does not say whose it is, so that one which a killed run left could only be
taken off by hand. Here each run leaves a note beside it, and takes the note away when it ends.
"""

import contextlib
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cryoseg.joblog import process_namespace
from cryoseg.volumes import written_aside

FOLDER = Path(".snakemake/owners")


@dataclass(frozen=True)
class Owner:
    """A run that holds the lock, or did when it was killed.

    process, began: its number and when it was started, in seconds since 1970
    host:           the machine; namespace: what process numbers count in, there
    elsewhere:      whether its jobs run on other machines, where they outlive it
    locks:          names of the files that are its lock, once it holds that
    """

    process: int
    began: float
    host: str
    namespace: str
    elsewhere: bool
    locks: tuple[str, ...] = ()

    def __str__(self):
        """As messages tell of it."""
        began = time.strftime("%F %T", time.localtime(self.began))
        return f"process {self.process} on {self.host}, begun at {began}"

    @property
    def is_dead(self):
        """Whether nothing of the run can be left; False where that cannot be known from here."""
        if self.elsewhere or (self.host, self.namespace) != (
            socket.gethostname(),
            process_namespace(),
        ):
            return False
        try:
            process = psutil.Process(self.process)
            began, status = process.create_time(), process.status()
        except psutil.NoSuchProcess:
            return True
        another_has_its_number = abs(began - self.began) > 1
        return another_has_its_number or status == psutil.STATUS_ZOMBIE


def this_run(elsewhere):
    """The Owner that this process is."""
    process = psutil.Process()
    host = socket.gethostname()
    return Owner(process.pid, process.create_time(), host, process_namespace(), elsewhere)


@contextlib.contextmanager
def noted(owner, folder=FOLDER):
    """Leave a note of the owner within the block."""
    note = write_note(owner, folder)
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def write_note(owner, folder=FOLDER):
    """Write, or write anew, the note of an owner; returns its path."""
    note = Path(folder) / f"{owner.host}-{owner.process}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(note) as aside:
        aside.write_text(json.dumps(asdict(owner)))
    return note


def owners(folder=FOLDER):
    """{note: Owner} of all runs that left one; what is no note stands for nobody."""
    found = {}
    for note in Path(folder).glob("[!.]*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            values = json.loads(note.read_text())
            found[note] = Owner(**values | {"locks": tuple(values["locks"])})
    return found


@contextlib.contextmanager
def one_at_a_time(folder=FOLDER):
    """Let no other process of this machine be within such a block of the folder."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems know no locks: there, two that start at the very same moment
        # are told apart as well as Snakemake does alone.
        with contextlib.suppress(OSError):
            fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)

"""Which runs hold the lock of a working folder, and whether they still live.

Snakemake's own lock does not say whose it is, so that one which a killed run left could only be
taken off by hand. Here each run leaves a note beside it, and takes the note away when it ends.
"""

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from cryoseg.errors import InputError
from cryoseg.process_identity import ProcessIdentity, identity_from, identity_of
from cryoseg.small_files import read_json
from cryoseg.volumes import written_aside

FOLDER = Path(".snakemake/owners")


@dataclass(frozen=True)
class Owner:
    """A run that holds the lock, or did when it was killed.

    process:   its ProcessIdentity; since: when it was begun, in seconds since 1970
    elsewhere: whether its jobs run on other machines, where they outlive it
    locks:     names of the files that are its lock, once it holds that
    """

    process: ProcessIdentity
    since: float
    elsewhere: bool
    locks: tuple[str, ...] = ()

    def __str__(self):
        """As messages tell of it."""
        since = time.strftime("%F %T", time.localtime(self.since))
        return f"process {self.process.number} on {self.process.host}, begun at {since}"

    @property
    def is_dead(self):
        """Whether nothing of the run can be left; False where that cannot be known from here."""
        return not self.elsewhere and self.process.is_gone

    @property
    def advice(self):
        """What to do for another run to begin in the folder."""
        number = self.process.number
        if self.doubt:
            return self.doubt
        if self.process.is_stopped:
            return (
                f" It is stopped (Ctrl-Z): let it go on (fg, or kill -CONT {number}), or end it "
                f"(kill {number}; kill -CONT {number}); then give the same command again."
            )
        return " Wait for its end, or end it; then give the same command again."

    @property
    def doubt(self):
        """What to do about a run of which cannot be known whether it lives; or an empty text."""
        if not self.elsewhere and self.process.is_known:
            return ""
        return (
            " Whether it still does cannot be known from here: if it was killed, and none of its "
            "jobs runs any more, give `snakemake --unlock` once."
        )


def this_run(elsewhere):
    """The Owner that this process is."""
    return Owner(identity_of(), psutil.Process().create_time(), elsewhere)


@contextlib.contextmanager
def noted(owner, folder=FOLDER):
    """Leave a note of the owner within the block."""
    note = write_note(owner, folder)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # else the next run sees that this one is gone
            note.unlink()


def write_note(owner, folder=FOLDER):
    """Write, or write anew, the note of an owner; returns its path."""
    note = Path(folder) / f"{owner.process.host}-{owner.process.number}.json"
    note.parent.mkdir(parents=True, exist_ok=True)
    with written_aside(note) as aside:
        aside.write_text(json.dumps(asdict(owner)))
    return note


def owners(folder=FOLDER):
    """{note: Owner} of all runs that left one; what is no note stands for nobody."""
    found = {}
    for note in Path(folder).glob("[!.]*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            told = read_json(note)
            process, locks = identity_from(told["process"]), tuple(map(str, told["locks"]))
            found[note] = Owner(process, float(told["since"]), bool(told["elsewhere"]), locks)
    return found


@contextlib.contextmanager
def one_at_a_time(folder=FOLDER, seconds=30):
    """Let no other process of this machine be within such a block of the folder.

    seconds: how long to wait for another one, which is there for a moment only; InputError where it
             is there still, as one that was stopped (Ctrl-Z) is
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    place = os.open(folder, os.O_RDONLY)
    end = time.monotonic() + seconds
    try:
        while _is_taken(place):
            if time.monotonic() > end:
                raise InputError(
                    "Another snakemake begins to work in this folder, and has not gone on for "
                    f"{seconds} s. It may have been stopped (Ctrl-Z): let it go on (fg), or end "
                    "it; then give the same command again."
                )
            time.sleep(0.05)
        yield
    finally:
        os.close(place)


def _is_taken(place):
    """Whether another process holds the lock of an open folder; else it is this process's now."""
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        # Some network file systems know no locks: there, two that start at the very same moment
        # are told apart as well as Snakemake does alone.
        return False
    return False

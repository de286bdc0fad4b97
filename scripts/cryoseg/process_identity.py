"""Which process it is, told so that others can find out later whether it still lives."""

import os
import socket
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

import psutil

ON_LINUX = sys.platform == "linux"


@dataclass(frozen=True)
class ProcessIdentity:
    """A process of some machine.

    number:    of the process
    began:     when it was started, in clock ticks since the machine was (Linux: whoever sets the
               clock does not change it) or seconds since 1970; None where it may not be looked at
    host:      name of the machine; machine: number of the system that is installed there
    boot:      which start of the machine; namespace: what process numbers count in, which in a
               container is of its own; each is empty where the system tells none
    """

    number: int
    began: float | None
    host: str
    machine: str
    boot: str
    namespace: str

    @property
    def is_known(self):
        """Whether it can be known from here if it has ended."""
        here = _here()
        if (self.host, self.machine) != (here["host"], here["machine"]):
            return False
        if self.boot == here["boot"]:
            return self.namespace == here["namespace"]
        return self._is_of_an_earlier_start

    @property
    def _is_of_an_earlier_start(self):
        """Whether the machine was surely started anew since.

        Containers may lack the machine's number and share a name: there, another start may be that
        of another machine.
        """
        here = _here()
        told = self.boot and here["boot"] and self.machine
        return bool(told) and self.machine == here["machine"] and self.boot != here["boot"]

    @property
    def is_gone(self):
        """Whether it has surely ended; False where that cannot be known from here."""
        if not self.is_known:
            return False
        if self._is_of_an_earlier_start:
            return True
        if not number_is_taken(self.number):
            return True
        try:
            began, ended = _looked_at(self.number)
        except OSError:  # others' processes may be hidden
            return False
        another_has_its_number = self.began is not None and began != self.began
        return ended or another_has_its_number

    @property
    def is_stopped(self):
        """Whether it is there and held, as by Ctrl-Z; False where that cannot be known."""
        if not self.is_known or self.is_gone:
            return False
        with suppress(psutil.Error):
            return psutil.Process(self.number).status() == psutil.STATUS_STOPPED
        return False

    def values(self):
        """As a mapping of plain values."""
        return asdict(self)


def number_is_taken(number):
    """Whether there is a process of this number here, be it somebody else's and hidden."""
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def identity_of(number=None):
    """The ProcessIdentity of a process of this machine; of this one, if no number is given."""
    number, began = os.getpid() if number is None else number, None
    with suppress(OSError):
        began, _ = _looked_at(number)
    return ProcessIdentity(number, began, **_here())


def identity_from(values):
    """The ProcessIdentity of a mapping of plain values; ValueError where it is of anything else."""
    kinds = {"number": int, "began": (int, float, type(None))}
    names = [field.name for field in fields(ProcessIdentity)]
    if not isinstance(values, dict) or sorted(values) != sorted(names):
        raise ValueError("not the values of a process")
    if not all(isinstance(values[name], kinds.get(name, str)) for name in names):
        raise ValueError("not the values of a process")
    if not 0 < values["number"] < 2**31:
        raise ValueError(f"{values['number']} is not the number of a process")
    return ProcessIdentity(**values)


def _looked_at(number):
    """(when a process was started, whether it has ended); OSError where it cannot be looked at."""
    if ON_LINUX:
        # Behind the name, which may hold anything: state first, start as the 20th (proc(5)).
        told = Path(f"/proc/{number}/stat").read_bytes().rpartition(b")")[2].split()
        return int(told[19]), told[0] in (b"Z", b"X")
    try:
        process = psutil.Process(number)
        return process.create_time(), process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error as error:
        raise OSError(str(error)) from error


@cache
def _here():
    """Fields of a ProcessIdentity that all processes of this place have in common."""
    found = {"host": socket.gethostname(), "machine": "", "boot": "", "namespace": ""}
    with suppress(OSError):
        found["machine"] = Path("/etc/machine-id").read_text().strip()
    with suppress(OSError):
        found["boot"] = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        found["namespace"] = os.readlink("/proc/self/ns/pid")
    return found


def place_of_numbers():
    """Text that is another one where process numbers count in something else.

    The start stands for a machine that tells no number, as containers on two machines may share a
    name.
    """
    here = _here()
    return f"{here['host']} {here['machine'] or here['boot']} {here['namespace']}"

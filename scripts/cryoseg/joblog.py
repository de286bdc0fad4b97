"""What a job says: all of it into its log file, and why it failed to the terminal as well."""

import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from tqdm import tqdm

from cryoseg.errors import InputError, printable
from cryoseg.folders import folder_gone, is_full_disk, no_space_for_notes, refusal
from cryoseg.host_memory import lack_of_memory, lack_of_memory_behind
from cryoseg.process_identity import identity_from, identity_of

logger = logging.getLogger("cryoseg")

# Sparse enough for a log of 5,000 jobs, dense enough to see that a job lives.
SHARE_BETWEEN_LINES = 0.1
SECONDS_BETWEEN_LINES = 10
# How soon a job notices that the run it belongs to is gone.
SECONDS_BETWEEN_LOOKS = 0.5
# What tells it to end: Slurm or a user, Ctrl-C, and a terminal that is closed.
TO_END = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# How long one that is told to end may take for it.
SECONDS_TO_END = 20
SHELLS = ("sh", "bash", "dash", "zsh")
# How logs are written.
TEXT = {"encoding": "utf-8", "errors": "backslashreplace", "buffering": 1}
# Kept to tell of a job that ran out of memory; addresses alone, as long as nobody writes there.
SPARE_BYTES = 2**23
# What the log of a job says last that was told to end; then, the signal's number.
STOPPED = "terminated by signal"
# The variable that tells a process which other one it must not outlive.
RUN = "CRYOSEG_RUN"

# The stderr that the job was started with, while its own goes into the log file.
_original_stderr = None


@contextmanager
def log_to(path):
    """Send all that this process and its children print into the file at ``path``.

    File descriptors 1 and 2 themselves point there, so child processes and compiled code are
    included. Messages of the logger ``cryoseg`` stand there with time and level. A failure ends
    the process with exit status 1: an InputError as one line ``error: ...`` in the log and on the
    original stderr; any other exception with its traceback in the log and its last line, or how
    much memory it lacked, on the original stderr. SIGTERM (Slurm's first signal), SIGINT (that of
    Ctrl-C) and SIGHUP (of a terminal that is closed) end the block as an exception does, so that
    half-written files are removed. So does the end of the process that started this one: of a run
    that is killed, no job is to go on beside those of the next run. A block that does not end by
    then is ended after 20 seconds.
    """
    told, spare = [], bytearray(SPARE_BYTES)
    with (
        _ended_when(told),
        _descriptors_into(path) as log,
        _logging_into(log),
        _signals_as_exit(told),
        _not_alone(told),
    ):
        try:
            yield
            return
        except Exception as error:
            try:
                reason, details = _reason(error, Path(path).parent)
            except MemoryError:  # not even enough is left to tell of that
                spare.clear()
                reason, details = _reason(error, Path(path).parent)
            with suppress(OSError):  # a disk that is full, of which the reason tells
                print(details, file=log)
            if is_full_disk(error):  # HDF5 cannot write in the end what it holds; that is said
                sys.unraisablehook = lambda unraisable: None
        print(reason, file=_original_stderr)
    raise SystemExit(1)


def _reason(error, logs):
    """What the terminal is told of an exception that ends a job, and what its log is told.

    logs: the folder of the log
    """
    trace = "".join(traceback.format_exception(error)).rstrip()
    if lacking := lack_of_memory_behind(error):
        reason = lack_of_memory(lacking)
        return reason, f"{trace}\n{reason}"
    if isinstance(error, InputError):
        reason = "error: " + " ".join(str(error).splitlines())
        return reason, reason
    if is_full_disk(error):  # what is written elsewhere than into the log is named where it is
        reason = f"error: {no_space_for_notes(logs)}"
        return reason, f"{trace}\n{reason}"
    return traceback.format_exception_only(error)[-1].strip(), trace


def say(lines):
    """Print lines into the log and on the stderr that the job was started with."""
    for stream in {sys.stdout, _original_stderr or sys.stdout}:
        print(*lines, sep="\n", file=stream, flush=True)


@contextmanager
def logging_to_stderr():
    """Log as a job does, in a process that a job started, into what its stderr points to.

    An InputError ends the process with one line, and with exit status 1.
    """
    with _logging_into(sys.stderr), _not_alone():
        try:
            yield
        except InputError as error:
            print("error: " + " ".join(str(error).splitlines()), file=sys.stderr)
            raise SystemExit(1) from error


@contextmanager
def _descriptors_into(path):
    """Point descriptors 1 and 2 to the file at ``path``; yields it, opened for text."""
    global _original_stderr
    saved = os.dup(1), os.dup(2)
    with _opened(path) as log, open(os.dup(2), "w", **TEXT) as _original_stderr:
        _flush_streams()
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        # So that a crash leaves a word: of a mapped file that was cut short, or of a library.
        faulthandler.enable(log)
        try:
            yield log
        finally:
            faulthandler.disable()
            with suppress(OSError):  # a full disk does not take it; what led here is said
                _flush_streams()
            for descriptor, original in zip((1, 2), saved, strict=True):
                os.dup2(original, descriptor)
                os.close(original)
            _original_stderr = None


@contextmanager
def _opened(path):
    """Open a log to write to it, of which a full disk takes as much as it takes.

    Where it cannot be opened, the terminal alone is told why.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_fifo():  # which would be waited for until somebody reads it
            print(f"error: {path}: it is a pipe, not a file; remove it", file=sys.stderr)
            raise SystemExit(1)
        log = path.open("w", **TEXT)
    except OSError as error:
        said = no_space_for_notes(path.parent) if is_full_disk(error) else refusal(error)
        if said is None and isinstance(error, FileNotFoundError):  # the working folder's own
            said = folder_gone(path)
        if said is None:
            raise
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(1) from error
    try:
        yield log
    finally:
        with suppress(OSError):
            log.close()


def _flush_streams():
    """Hand over what Python still buffers, so that it ends up on the right side of the switch."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()


class _OneLine(logging.Formatter):
    """Writes a message as one line: a name with a line end in it could pass for another message."""

    def formatMessage(self, record):  # noqa: N802 - logging's name
        return printable(super().formatMessage(record))


@contextmanager
def _logging_into(log):
    """Write messages of level INFO and above into the open file ``log``."""
    handler = logging.StreamHandler(log)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(message)s", "%F %T"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def signals_to_end():
    """The signals of TO_END that tell this process to end: those that are not to be ignored.

    As SIGINT is by what a script starts in the background, and SIGHUP with nohup.
    """
    return [each for each in TO_END if signal.getsignal(each) is not signal.SIG_IGN]


@contextmanager
def _ended_when(told):
    """End the process at once where the block ends as it was told to, see _signals_as_exit.

    The signal may have come while a thread was started, which nobody would end then, and Python
    waits for threads.
    """
    try:
        yield
    except SystemExit as end:
        if told:
            os._exit(end.code if isinstance(end.code, int) else 1)
        raise


@contextmanager
def _signals_as_exit(told):
    """Make the signals of TO_END raise SystemExit, so that context managers clean up.

    told: list that gets when this process was told to end, of time.monotonic()
    """

    job = os.getpid()

    def leave(number, frame):
        if os.getpid() == job:  # workers that were forked are ended in good order
            told.append(time.monotonic())
            logger.error("%s %d", STOPPED, number)
        elif number != signal.SIGTERM:  # a terminal's goes to all; the job needs them to finish
            return
        raise SystemExit(128 + number)

    before = {each: signal.signal(each, leave) for each in signals_to_end()}
    try:
        yield
    finally:
        for each, answer in before.items():
            signal.signal(each, answer)


@contextmanager
def _not_alone(told=()):
    """Send this process SIGTERM when the one that started it is gone, shells left out.

    And end it where it was told to, told as of _signals_as_exit, and does not: an exception that
    comes anywhere may be caught by a library, or leave a lock behind that others wait for.

    That one may be gone already: libraries take seconds to load, and a process whose parent died
    meanwhile has another one. So it is also told by its number, see ``not_to_outlive_this``.
    """
    run = _named_run()
    watched = [run] if run else []
    for parent in psutil.Process().parents():
        watched.append(identity_of(parent.pid))
        if parent.name() not in SHELLS:
            break
    done = threading.Event()

    def watch():
        while not done.wait(SECONDS_BETWEEN_LOOKS):
            if told and time.monotonic() - told[0] > SECONDS_TO_END:
                os.kill(os.getpid(), signal.SIGKILL)
            if watched and any(each.is_gone for each in watched):
                watched.clear()  # it is told once
                logger.error("the run that this job belongs to is gone")
                os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        done.set()


def not_to_outlive_this():
    """Variables of the environment for processes that must not outlive this one."""
    return {RUN: json.dumps(identity_of().values())}


def _named_run():
    """The process that RUN names; None where it names none."""
    try:
        return identity_from(json.loads(os.environ[RUN]))
    except (KeyError, ValueError, RecursionError):  # not set, or by nobody of ours
        return None


def progress(items, total=None, what="items"):
    """Yield ``items`` one by one and tell how far this has come.

    items: an iterable, or a number n for ``range(n)``
    total: how many there are; needed only where ``len(items)`` does not say
    what:  the plural that stands in the messages, e.g. "tiles"

    A line in the log at most every 10 % and every 10 s; a bar as well where the stderr that the
    job was started with is a terminal.
    """
    items = range(items) if isinstance(items, int) else items
    total = len(items) if total is None else total
    stream = _original_stderr or sys.stderr
    bar = tqdm(
        items, total=total, unit=f" {what}", file=stream, leave=False, disable=not stream.isatty()
    )
    started = last_line = time.monotonic()
    last_done = 0
    for done, item in enumerate(bar, start=1):
        yield item
        now = time.monotonic()
        far_enough = done - last_done >= SHARE_BETWEEN_LINES * total
        if far_enough and now - last_line >= SECONDS_BETWEEN_LINES:
            logger.info("%d of %d %s after %.0f s", done, total, what, now - started)
            last_line, last_done = now, done

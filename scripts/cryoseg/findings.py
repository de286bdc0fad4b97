"""What a check finds: how bad it is, a sentence, and what can be done about it."""

import logging
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from cryoseg.errors import InputError
from cryoseg.host_memory import is_lack_of_memory

log = logging.getLogger("cryoseg")

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, or may be.

    level:    "error" for what cannot be worked with, "warning" for what is doubtful
    sentence: names the file, what was found and what is needed
    remedy:   what to do; empty where the sentence says it
    stops:    names of the demands (see cryoseg.tomogram_checks) that an error of a check stops;
              empty where it stops all
    """

    level: str
    sentence: str
    remedy: str = ""
    stops: tuple[str, ...] = ()

    def __str__(self):
        return f"{self.sentence}; {self.remedy}" if self.remedy else self.sentence

    def stops_any(self, demands):
        """Whether it is an error that stops one or more of these demands."""
        return self.level == ERROR and (not self.stops or not set(demands).isdisjoint(self.stops))

    def as_dict(self):
        return asdict(self)


def finding_of(level, text):
    """The Finding that a message tells of; the remedy follows its first semicolon."""
    sentence, _, remedy = " ".join(str(text).split()).partition("; ")
    return Finding(level, sentence, remedy)


def raise_or_warn(findings):
    """Raise InputError for the first error; log what comes before it as warnings."""
    for finding in findings:
        if finding.level == ERROR:
            raise InputError(str(finding))
        log.warning("%s", finding)


@contextmanager
def overheard(file):
    """Yield a list that gets a Finding for each warning logged within the block, and for its end.

    The log itself stays silent meanwhile: whoever listens tells it. An exception ends the block as
    an error that was found, but for a lack of memory, which is not the file's.

    file: what errors are found in that name no file themselves
    """
    found = []
    try:
        with _listening(found):
            yield found
    except Exception as error:
        if is_lack_of_memory(error):  # the job is tried again with more of it
            raise
        found.append(_finding_of_exception(error, file))


def _finding_of_exception(error, file):
    if isinstance(error, InputError):
        return finding_of(ERROR, error)
    if isinstance(error, OSError):
        # h5py tells of what it cannot decompress without a number.
        remedy = "see to it that you may read it, and that its disk is there"
        return Finding(
            ERROR,
            f"{error.filename or file}: it cannot be read ({error.strerror or error})",
            remedy if error.errno else "copy it anew",
        )
    log.info("%s: how it came to the error that was found", file, exc_info=error)
    return Finding(
        ERROR,
        f"{file}: it cannot be judged ({type(error).__name__}: {error})",
        "see whether the file is damaged, or of a kind that cryoseg does not read",
    )


@contextmanager
def _listening(found):
    """Put warnings that are logged within the block into the list ``found``, and nowhere else."""
    handlers, log.handlers = log.handlers, [_Listener(found)]
    propagate, log.propagate = log.propagate, False
    try:
        yield
    finally:
        log.handlers, log.propagate = handlers, propagate


class _Listener(logging.Handler):
    """A handler that turns warnings into findings."""

    def __init__(self, found):
        super().__init__(logging.WARNING)
        self._found = found

    def emit(self, record):
        finding = finding_of(WARNING, record.getMessage())
        if finding not in self._found:
            self._found.append(finding)

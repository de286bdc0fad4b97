"""What Python and Snakemake print of an exception that nobody made a sentence of."""

import re

# Python's own; and Snakemake's, which has no such word: `KeyError in file "x.smk", line 7:`, the
# message, and lines with the places.
TRACEBACK = re.compile(
    r"^[ \t]*(?:"
    r"Traceback \(most recent call last\)|"
    r"[\w.]+ in file .+, line \d+:|"
    r'File ".+", line \d+'
    r").*",
    re.MULTILINE,
)
# What it says of each job whose script ended with an error, of which the script has told; and of
# its own exceptions, which are sentences, with their places before and behind.
SENTENCES = re.compile(
    r"^RuleException:\nCalledProcessError in file .+\nCommand .+"
    r"|^(?:WorkflowError|LockException|MissingOutputException) in file .+:"
    r'\n.+(?:\n  File ".+", line \d+, in \w+)*',
    re.MULTILINE,
)


def tracebacks(said):
    """Lines of a text that are of a traceback, Python's or Snakemake's."""
    return [found[0].strip() for found in TRACEBACK.finditer(SENTENCES.sub("", said))]


def printed(returned, said, fails=False):
    """What a run of snakemake printed; an AssertionError unless it ended well, or ``fails``.

    And for a traceback, which is never all that a user can be told.
    """
    assert (returned != 0) == fails, said
    assert not tracebacks(said), (tracebacks(said), said)
    return said

"""Errors that a user can mend, and how their messages quote what a file holds."""

import reprlib

# Characters of a value in a message, and of a whole message's line.
LONGEST_VALUE, LONGEST_LINE = 200, 1000


class InputError(ValueError):
    """Something is wrong with what the user gave; the message is the whole story."""


class ChangedError(InputError):
    """A file was changed while it was read, so that what was made of it does not count."""

    def __init__(self, path):
        super().__init__(
            f"{path}: the file was changed while it was read, and what was made of it does not "
            "count; give the same command again, once nothing writes to it any more"
        )


class GoneError(InputError):
    """An input was there when the run began, and no longer is when its job reads it."""

    def __init__(self, path):
        super().__init__(
            f"{path} is gone since the run began; bring it back, unless a step makes it; then give "
            "the same command again"
        )


class _Quoting(reprlib.Repr):
    """Writes values down as repr does, but the first few of many only."""

    def __init__(self):
        super().__init__()
        self.maxlevel = 3
        self.maxstring = self.maxother = self.maxlong = LONGEST_VALUE

    def repr_int(self, value, level):
        # Python refuses to write out larger ones.
        bits = value.bit_length()
        return repr(value) if bits < 3 * LONGEST_VALUE else f"a number of {bits} bits"


def quoted(value):
    """A value as a message quotes it: of at most 200 characters, whatever it holds.

    Never written out in full, as lists that hold one another ten times have no end to speak of.
    """
    return shortened(printable(_Quoting().repr(value)), LONGEST_VALUE)


def shortened(text, most=LONGEST_LINE):
    """Text of at most so many characters; of what is longer, the middle is left out."""
    if len(text) <= most:
        return text
    half = (most - 5) // 2
    return f"{text[:half]} ... {text[-half:]}"


def printable(text):
    """Text with line ends, control characters and the like escaped, so that it stays one line."""
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape", "surrogatepass").decode()
        for sign in text
    )


def brief(said):
    """What a library says, or a name in a file, for a message: in one line and not too long."""
    return shortened(printable(str(said)), LONGEST_VALUE)

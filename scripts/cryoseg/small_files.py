"""Files that runs keep for one another, opened so that nothing in their place is waited for.

To open a pipe waits until somebody writes to it, which may be never; a device may have no end.
"""

import json
import os
import stat

from cryoseg.errors import InputError, brief

# Bytes. The record of a table of 5,000 tomograms has about 1 million.
MOST_BYTES = 50_000_000
ANEW = "remove it, so that it is made anew"


def files_only(path, flags):
    """An opener for open(), with which that raises InputError for a pipe and a device."""
    number = os.open(path, flags | os.O_NONBLOCK, 0o666)
    kind = os.fstat(number).st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # of which open() has its own error
        os.close(number)
        raise InputError(f"{path}: it is a pipe or a device, not a file; remove it")
    os.set_blocking(number, True)
    return number


def read_text(path):
    """The text of a small file, in UTF-8.

    Raises InputError for what is no such file, FileNotFoundError and the like as open() does.
    """
    with open(path, "rb", opener=files_only) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: it has more than {MOST_BYTES} bytes, too many; remove it")
    return content.decode("utf-8")


def read_json(path, remedy=ANEW):
    """What a small JSON file holds.

    remedy: what to do about a file that is none, for the message
    Raises InputError for what cannot be read; FileNotFoundError where there is nothing.
    """
    try:
        return json.loads(read_text(path))
    except (FileNotFoundError, InputError):
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: it cannot be read ({brief(error)}); {remedy}") from error

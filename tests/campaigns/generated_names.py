"""File names that hypothesis makes of what shells, Snakemake, formats and paths would read."""

import os
import re
import unicodedata

import hypothesis
from hypothesis import strategies as st

from cryoseg.folders import VARIABLE

# Bytes of a name: with .mrc, as many as a file's can have.
LONGEST = 250
# Of a tomogram's name, so that files that are made of it can have it too.
LONGEST_USABLE = 200
PARTS = (
    "{tomogram}", "{wildcards.tomogram}", "{", "}", "{{", "{1}", "<tomogram>", "<", ">", "[1]", "[",
    "$(touch pwned)", "`touch pwned`", "; touch pwned;", "| touch pwned", "&& touch pwned", "$",
    "${HOME}", "%", "%s", "%(name)s", "%%", "*", "?", "[!a]", "-", "--", "-rf", "--forceall", "'",
    '"', "'''", "\\", "\\n", "\n", "\r", "\r\n", "\t", " ", "  ", ",", ":", "=", "#", "@", "!", "~",
    ".", "..", ".mrc", ".rec", "_preds", "scaled", "試料", "é", "e\u0301", "\u202e", "\u2028",
    "\x85", "\x1b[31m", "\ufeff", "\u200b", "🧊", "Ω", "Ж", "ا", "NA", "nan", "1e5", "08",
    "True", "null",
)  # fmt: skip
ANY_PLANE = st.characters(exclude_categories=["Cs"], exclude_characters="/\0")
TEXTS = st.one_of(
    st.sampled_from(PARTS),
    st.text(ANY_PLANE, min_size=1, max_size=8),
    st.text("abcxyzABC 0123_-.", min_size=1, max_size=8),
).map(str.encode)
NO_TEXTS = st.binary(min_size=1, max_size=6).map(lambda part: re.sub(rb"[/\0]", b"\xff", part))
TIMES = st.sampled_from((1, 1, 1, 1, 1, 2, 8, 20, LONGEST))


def names_of(parts):
    """Names of 1 to LONGEST bytes, joined of parts; what is no UTF-8 as Python spells it."""
    some = st.lists(parts, min_size=1, max_size=6)
    joined = st.builds(lambda some, times: b"".join(some) * times, some, TIMES)
    return joined.map(lambda name: os.fsdecode(name[:LONGEST])).filter(is_name)


# One in eight has bytes that are no text; others may be cut within a letter.
NAMES = st.integers(0, 7).flatmap(lambda one: names_of(TEXTS if one else TEXTS | NO_TEXTS))


def is_name(name):
    return name not in (".", "..") and 0 < len(os.fsencode(name)) <= LONGEST and "/" not in name


def is_text(name):
    return not any("\ud800" <= sign <= "\udfff" for sign in name)


def is_usable(name):
    """Whether a tomogram may be called so: all others must be refused."""
    return is_text(name) and len(os.fsencode(name)) <= LONGEST_USABLE and not VARIABLE.search(name)


def alike(name):
    """Names that people and file systems may take for the same: in capitals, otherwise composed."""
    others = [name.swapcase(), name.upper(), f"{name} "]
    others += [unicodedata.normalize(form, name) for form in ("NFC", "NFD", "NFKC")]
    return [each for each in others if each != name and is_name(each)]


def generated(count, seed=0, wanted=is_name):
    """So many different names; one in ten is followed by those that are alike.

    wanted: says of a name whether it counts
    """
    found = {}
    while len(found) < count:
        for name, which in drawn(count, seed):
            some = [name, *(alike(name) if which == 0 else ())]
            found.update(dict.fromkeys(filter(wanted, some)))
        seed += 1
    return list(found)[:count]


def drawn(count, seed):
    """So many examples of a name and a number up to 9, as hypothesis makes them from a seed."""
    examples = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(NAMES, st.integers(0, 9))
    def collect(name, which):
        examples.append((name, which))

    collect()
    return examples

"""A table as a web page of its own: one file that needs no server, no network and no other file."""

import json
import math
from html import escape
from numbers import Real
from pathlib import Path
from urllib.parse import quote

PAGE = Path(__file__).with_name("table_page.html")


def table_page(title, columns, rows, about="", more=""):
    """The page's text: a table that can be sorted by each column and filtered.

    title:   plain text
    columns: dicts of key, name (its heading), unit (which may be missing), about (an explanation)
             and kind: text, number, list or picture
    rows:    dicts from column keys to values, in the order in which they are shown at first.
             text: text; number: number or None; list: {order: number to sort by, items: texts};
             picture: {link: address, see ``address``, image: data URI, text: what it shows}.
             Text, number and picture may be missing.
             ``marked``: {key: why its value stands out}, if any do
    about:   an explanation, plain text
    more:    HTML to stand below the table, whatever came from files escaped

    Texts are shown as they are, whatever they hold.
    """
    content = {"columns": columns, "rows": rows}
    # Within a script element, no < may be there that could begin a tag.
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    text = text.replace("<", "\\u003c")
    page = PAGE.read_text(encoding="utf-8")
    parts = {"TITLE": escape(title), "ABOUT": escape(about), "MORE": more, "CONTENT": text}
    # What is put in is not searched for the places of other parts.
    pieces = page.split("@@")
    return "".join(parts[piece] if number % 2 else piece for number, piece in enumerate(pieces))


def plain_table_page(title, names, rows, about=""):
    """The page of a table of numbers and texts.

    names: of the columns; one that holds finite numbers alone is shown as numbers
    rows:  dicts from names to values; None, NaN and what is not there are shown as nothing
    """
    values = {name: [_plain(row.get(name)) for row in rows] for name in names}
    kinds = {name: _kind(column) for name, column in values.items()}
    columns = [{"key": name, "name": name, "kind": kinds[name], "about": ""} for name in names]
    shown = [
        {
            name: value if kinds[name] == "number" or value is None else str(value)
            for name, value in zip(values, row, strict=True)
        }
        for row in zip(*values.values(), strict=True)
    ]
    return table_page(title, columns, shown, about)


def _plain(value):
    return None if isinstance(value, float) and math.isnan(value) else value


def _kind(values):
    there = [value for value in values if value is not None]
    numbers = all(isinstance(value, Real) and math.isfinite(value) for value in there)
    return "number" if there and numbers else "text"


def address(path):
    """A relative path as an address for a link."""
    return quote(str(path), safe="/")


def details(heading, pairs):
    """HTML of a part that opens when it is clicked: a heading, and names with their values."""
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in pairs)
    return f"<details><summary>{escape(heading)}</summary><dl>{rows}</dl></details>\n"

"""Tomograms with hostile file names, planned and scaled by the real snakemake.

    python tests/campaigns/names.py [--run] [--through 15]

Without --run, snakemake only plans: scaling, checks and both stages. With it, all are scaled; with
--through, so many of them go through all else too: checks, both stages, their pictures, an
evaluation and the overview, which are then read as a browser and a spreadsheet would.
"""

import argparse
import re
import tempfile
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from cryoseg.folders import VARIABLE
from cryoseg.tables import read_table
from cryoseg.volumes import write_mrc
from fuzzing import ODD_NAMES
from test_workflow import RAW, SHAPE, Lab, fill, stage_file

# Names that a page, a table, a shell, Snakemake or a path would take for more, the worst first.
WORST_NAMES = (
    "<img src=x onerror=alert(1)>", "a\nb", "a\tb", 200 * "x", "\u202egnp", "$(touch pwned)",
    "; touch pwned", "a'b", 'a"b', "-n", "{1}", "<b onclick=alert(1)>&lt;<!--", "\r", "%s",
    "\x01", "a\u2028b", "a,b", "=1+1", "NA", "#1", "..a", "*", "~", "\\", "@@MORE@@",
)  # fmt: skip


def hostile_lab(folder, names=ODD_NAMES):
    """A Lab of two stages with a tomogram of each name that a file can have; returns it and those.

    Its folder lies in one of its own, so that what is written beside it can be seen.
    """
    lab, there = fill(Lab(Path(folder) / "outer" / "lab")), []
    for path in (lab.folder / RAW).iterdir():
        path.unlink()
    for name in names:
        if not VARIABLE.search(name) and not name.startswith("."):  # refused by name, or hidden
            lab.write_tomogram(name)
            there.append(name)
    return lab, there


def outside(lab):
    """What lies where only the configured folders of a Lab should be."""
    beside = {path.name for path in lab.folder.parent.iterdir()} - {lab.folder.name}
    known = {"config", RAW, "scaled", "predictions", "logs", "benchmarks", "checks", ".snakemake"}
    known |= {
        "lamella.ckpt",
        "semantic.ckpt",
        "labels",
        "overview.html",
        "overview.tsv",
        "provenance",
    }
    pwned = {str(path) for path in lab.folder.parent.rglob("*pwned*") if path.name == "pwned"}
    return beside | ({path.name for path in lab.folder.iterdir()} - known) | pwned


class Page(HTMLParser):
    """What stands on a page: its tags, and the values of all attributes, as a browser reads it."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes = Counter(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attributes}


def through_everything(lab, names):
    """Take tomograms through checks, two stages, pictures, an evaluation and the overview."""
    (lab.folder / "labels").mkdir()
    true = np.random.default_rng(0).integers(0, 5, SHAPE, dtype=np.uint8)
    for name in names:
        write_mrc(lab.folder / "labels" / f"{name}.mrc", true, voxel_size=10.0)
    evaluation = {"labels_folder": "labels", "tolerance_nm": 2.0}
    lab.write_yaml("config/semantic.yaml", stage_file("semantic") | {"evaluate": evaluation})
    lab.run("overview", "predict")


def check_made(lab, names):
    """Raise AssertionError unless all is made of these tomograms, and nothing elsewhere.

    Also where a page or a table holds a name as anything but text.
    """
    predictions = lab.folder / "predictions"
    for name in names:
        for stage in ("lamella", "semantic"):
            assert lab.labels(stage, name).shape == SHAPE, name
        assert (predictions / "semantic" / f"{name}_preds.mrc").exists(), name
        picture = predictions / "semantic" / "pictures" / f"{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG"), name
    tables = [*lab.folder.glob("checks/*.tsv"), lab.folder / "overview.tsv"]
    tables += predictions.rglob("*_evaluation.tsv")
    for table in tables:
        found = read_table(table)
        told = set(found["tomogram"]) - {"(folder)"}  # a row of checks about all of them
        assert told, table
        assert told <= set(names), (table, told - set(names))
        assert table.parent != lab.folder or told == set(names), set(names) - told
    for page in (lab.folder / "overview.html", *lab.folder.glob("checks/*.html")):
        check_page(page.read_text(encoding="utf-8"))
    assert not outside(lab), outside(lab)


def check_page(text):
    """No element of a page and no attribute comes from a name."""
    page = Page(text)
    assert not any(name.startswith("on") for name in page.attributes), page.attributes
    scripts = re.findall(r"<script.*?</script>", text, re.DOTALL)
    assert page.tags["script"] == len(scripts) == text.count("</script>")
    assert not any(re.match(r"<script[^>]*>alert", script) for script in scripts)
    assert "<img src=x" not in text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="scale all tomograms too")
    parser.add_argument("--through", type=int, default=0, help="names to take through all steps")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lab, names = hostile_lab(folder)
        started = time.monotonic()
        shown = lab.run("-n")
        refused = re.findall(r"rename it", shown)
        print(f"{len(names)} names planned in {time.monotonic() - started:.0f} s", len(refused))
        if options.run:
            lab.run("--", "scale")
            made = {path.name.removesuffix(".mrc") for path in (lab.folder / "scaled").iterdir()}
            print(f"{len(made & set(names))} of them scaled in {time.monotonic() - started:.0f} s")
            assert set(names) <= made, set(names) - made
        assert not outside(lab), outside(lab)
    if options.through:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            lab, names = hostile_lab(folder, WORST_NAMES[: options.through])
            through_everything(lab, names)
            check_made(lab, names)
        print(f"{len(names)} names through all steps in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

"""Tomograms with hostile file names, planned and scaled by the real snakemake.

    python tests/campaigns/names.py [--run] [--through 15]
    python tests/campaigns/names.py --examples 200 [--places 5] [--seed 0]

Without --run, snakemake only plans: scaling, checks and both stages. With it, all are scaled; with
--through, so many of them go through all else too: checks, both stages, their pictures, an
evaluation and the overview, which are then read as a browser and a spreadsheet would.

With --examples, it is not the names of a list that are tried, but so many that hypothesis makes.
All tomograms of these names lie in one folder; each must be refused before any job, in one line
that names it, or be planned and scaled. Each is then looked for in a CSV and in a STAR file. With
--places, folders, models, files of positions and tomograms have such names too, in so many working
folders.
"""

import argparse
import csv
import io
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from conftest import REPOSITORY
from cryoseg.errors import InputError, printable
from cryoseg.folders import VARIABLE, WILDCARD
from cryoseg.label_making import particles_in
from cryoseg.tables import read_table
from cryoseg.volumes import Volume, open_volume, write_mrc
from fuzzing import ODD_NAMES
from generated_names import generated, is_text, is_usable
from test_workflow import RAW, SHAPE, Lab, fill, stage_file
from tracebacks import tracebacks

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


# Names that are generated


def names_it(line, name):
    """Whether a line tells of a tomogram's name; of a very long one, its ends stand there."""
    quoted = ascii(f"{name}.mrc")
    return "the file name" in line and quoted[:200] in line and quoted[-150:] in line


def plan_all_but_the_refused(lab, names):
    """Plan, and remove the tomograms that are refused, until a plan is made.

    Returns what it shows, and the names that are left. Raises AssertionError where a name that must
    be refused is not told, or told twice, or where another is told.
    """
    left = [name for name in names if not name.startswith(".")]  # hidden, as from ls
    while refused := [name for name in left if not is_usable(name)]:
        shown = lab.run("-n", fails=True)
        assert "nothing was started" in shown, shown[:1000]
        assert "Job stats" not in shown, shown[:1000]
        lines = [line for line in shown.splitlines() if "the file name" in line]
        told = [name for name in left if any(names_it(line, name) for line in lines)]
        assert told, shown[:1000]
        assert not set(told) - set(refused), shown[:1000]
        assert len(told) == len(lines), (lines, told)
        for name in told:
            (lab.folder / RAW / f"{name}.mrc").unlink()
        left = [name for name in left if name not in told]
    return lab.run("-n"), left


def check_scaled(lab, names):
    """Raise AssertionError unless these tomograms are scaled, each its own, and no others."""
    made = set(os.listdir(lab.folder / "scaled")) - {"provenance"}
    wanted = {f"{name}.mrc" for name in names}
    assert made == wanted, made ^ wanted
    for name in wanted:
        both = [open_volume(lab.folder / folder / name)[:] for folder in (RAW, "scaled")]
        assert np.corrcoef(*map(np.ravel, both))[0, 1] > 0.99, name


def try_tomograms(folder, names, most=None):
    """Plan tomograms of all names in one folder, scale them (or so many); returns what is left.

    That is all but the names that are refused.
    """
    lab, _ = hostile_lab(folder, [])
    for number, name in enumerate(names):
        lab.write_tomogram(name, seed=number)
    shown, left = plan_all_but_the_refused(lab, names)
    planned = re.search(r"^raw_scale_tomogram +(\d+)$", shown, re.MULTILINE)
    assert int(planned[1]) == len(left), (planned, len(left))
    lab.run("--", *("scale" if most is None else f"scaled/{name}.mrc" for name in left[:most]))
    check_scaled(lab, left[:most])
    assert not outside(lab), outside(lab)
    return left


def star_table(name):
    """A STAR file of one position, as bytes; None for a name that no such file can hold."""
    quote = "'" if '"' in name else '"'
    if quote in name or not name.isprintable():
        return None
    columns = "".join(f"_rlnCoordinate{axis}\n" for axis in "ZYX")
    return f"data_\n\nloop_\n_rlnTomoName\n{columns}{quote}{name}{quote} 9 16 20\n".encode()


def csv_table(name):
    """The same as CSV."""
    text = io.StringIO()
    csv.writer(text).writerows([("tomo", "z", "y", "x"), (name, 9, 16, 20)])
    return text.getvalue().encode()


def is_sought(name, ending):
    """Whether a tomogram of this name is to be found in a file with such an ending.

    Spaces around a name are none of it there, and what stands before a backslash is a folder; a
    STAR file has its own quotes.
    """
    return name == name.strip() and "\\" not in name and (ending == ".csv" or "'" not in name)


def try_positions(folder, names):
    """Look for tomograms in files of positions; returns (how many were found, looked for).

    Raises AssertionError where another position is found, where no message names the file, or where
    a name that is_sought is not found.
    """
    volume = Volume(np.zeros(SHAPE), (10.0,) * 3, (0.0,) * 3, (0,) * 3, Path("t.mrc"))
    settings = {"labels_of_files": None, "labels": 1, "coordinate_voxel_size": None}
    settings |= {"name_suffix": "", "per_tomogram": False, "allow_empty": False}
    made = [(name, ".csv", csv_table(name)) for name in names]
    made += [(name, ".star", table) for name in names if (table := star_table(name))]
    found = 0
    for name, ending, table in made:
        path = Path(folder, f"positions{ending}")
        path.write_bytes(table)
        try:
            points = particles_in(volume, name, [path], settings).points
            assert points.tolist() == [[9, 16, 20]], (name, points)
            found += 1
        except InputError as error:
            said = str(error)
            if str(path) not in said or tracebacks(said) or is_sought(name, ending):
                raise AssertionError(f"{name!r}: {said}") from error
    return found, len(made)


def is_found(name):
    """Whether a tomogram of this name is taken, and found in a table."""
    return is_usable(name) and not name.startswith(".") and is_sought(name, ".csv")


# What has a name in a configuration.
PLACES = ("scaled", "labels", "predicted", "model", "positions")


def named_lab(folder, tomogram, places):
    """A Lab that predicts and makes labels, whose tomogram, folders and files have these names."""
    lab = Lab(folder)
    lab.write_tomogram(tomogram)
    shutil.copy(REPOSITORY / "tests/data/semantic.ckpt", lab.folder / places["model"])
    (lab.folder / places["positions"]).write_bytes(csv_table(tomogram))
    spheres = {"kind": "particles", "tomograms": places["scaled"], "radius": 30}
    spheres |= {"positions": places["positions"], "output_path": places["labels"]}
    scale = {"input_path": RAW, "output_path": places["scaled"], "invert": True}
    predict = {"semantic": "config/semantic.yaml"}
    lab.write_config(scale={"raw": scale}, label={"spheres": spheres}, predict=predict)
    changes = {"data_folder": places["scaled"], "trained_model": places["model"]}
    changes |= {"prediction_folder": places["predicted"]}
    lab.write_yaml("config/semantic.yaml", stage_file("semantic", mask_folder=None) | changes)
    return lab


def is_path(name):
    """Whether a folder or a file of the configuration may be called so: others must be refused."""
    return is_usable(name) and not WILDCARD.search(name) and not name.startswith("~")


def try_places(folder, tomogram, names, refused):
    """Predict and make labels where all has such names, after a plan with one that is refused.

    names: of PLACES; refused: for one of them, as no path may be called so
    """
    places = dict(zip(PLACES, names, strict=True)) | {"positions": f"{names[-1]}.csv"}
    which = PLACES[len(refused) % len(PLACES)]
    lab = named_lab(Path(folder, "first"), tomogram, places | {which: refused})
    shown = lab.run("-n", "predict", "label", fails=True)
    assert "nothing was started" in shown, (which, shown[:1000])
    assert printable(refused)[:100] in shown, (which, shown[:1000])
    lab = named_lab(Path(folder, "outer", "lab"), tomogram, places)
    lab.run("--", "predict", "label")
    assert (lab.folder / places["predicted"] / f"{tomogram}_preds.h5").exists(), places
    assert open_volume(lab.folder / places["labels"] / f"{tomogram}.mrc")[:].max() == 1, places
    assert outside(lab) == set(places.values()), (outside(lab), places)


# Pages and tables


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


def try_generated(examples, places, seed):
    """The campaign of names that are generated: so many, and so many working folders of them."""
    started, names = time.monotonic(), generated(examples, seed)
    with tempfile.TemporaryDirectory() as folder:
        left = try_tomograms(folder, names)
        hidden = sum(name.startswith(".") for name in names)
        print(f"{len(names)} names: {len(left)} planned and scaled, {hidden} hidden,", end=" ")
        print(f"{len(names) - len(left) - hidden} refused with their name", flush=True)
        found, sought = try_positions(folder, filter(is_text, names))
        print(f"found in {found} of {sought} files of positions, {sought - found} refused")
    paths = generated(places * len(PLACES), seed, is_path)
    tomograms = generated(places, seed + 1, is_found)
    others = generated(places, seed, lambda name: is_text(name) and not is_path(name))
    for number, (tomogram, other) in enumerate(zip(tomograms, others, strict=True)):
        with tempfile.TemporaryDirectory() as folder:
            try_places(folder, tomogram, paths[number::places], other)
    print(f"{places} working folders of such names, after {time.monotonic() - started:.0f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="scale all tomograms too")
    parser.add_argument("--through", type=int, default=0, help="names to take through all steps")
    parser.add_argument("--examples", type=int, default=0, help="names to generate instead")
    parser.add_argument("--places", type=int, default=0, help="folders in which all has such names")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.examples:
        return try_generated(options.examples, options.places, options.seed)
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

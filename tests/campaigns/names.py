"""Tomograms with hostile file names, planned and scaled by the real snakemake.

    python tests/campaigns/names.py [--run]

Without --run, snakemake only plans: scaling, checks and both stages. With it, all are scaled.
"""

import argparse
import re
import tempfile
import time
from pathlib import Path

from cryoseg.folders import VARIABLE
from fuzzing import ODD_NAMES
from test_workflow import RAW, Lab, fill


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
    known |= {"lamella.ckpt", "semantic.ckpt"}
    pwned = {str(path) for path in lab.folder.parent.rglob("*pwned*") if path.name == "pwned"}
    return beside | ({path.name for path in lab.folder.iterdir()} - known) | pwned


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", action="store_true", help="scale all tomograms too")
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


if __name__ == "__main__":
    main()

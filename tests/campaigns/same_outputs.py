"""Whether two folders of one workflow hold the same files, as far as these can be the same."""

import csv
import io
import json
import re
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (the codecs of scores and patches)
import mrcfile
import numpy as np

from cryoseg.checkpoints import read_checkpoint

MODEL = "runs/semantic/model/model_best.ckpt"
# Of Snakemake, added to by every try, or under a name with a date.
NOT_COMPARED = (
    ".snakemake/**/*", "logs/**/*", "benchmarks/**/*", "runs/*/tensorboard/**/*",
    "runs/*/model/model_best-*.ckpt",
)  # fmt: skip
# What follows from the trained model; of other weights, this would be other values.
OF_THE_MODEL = (
    "runs/**/*", "predictions/semantic/**/*", "overview.*", "provenance/overview.*",
)  # fmt: skip
WEIGHTS_ALIKE, LABELS_ALIKE = 1e-4, 0.999
# A checkpoint holds dates, so its hash is another each time, and those of what is made of it.
HASH = re.compile(r"\b[0-9a-f]{40,64}\b")
DATE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+\d]*")
# When a file was made, what its job took, and in which tiles: a retry takes smaller ones.
MEASURED = re.compile(r'"(seconds|peak|tile_memory|tiles|computed|mtime_ns)": ?[\d.e-]+')
COLUMNS_OF_TIME = ("seconds", "scoring, s")


def outputs(folder):
    """Relative paths of the files below a folder that are compared."""
    folder = Path(folder)
    others = {path for pattern in NOT_COMPARED for path in folder.glob(pattern)}
    files = (path for path in folder.rglob("*") if path.is_file() and path not in others)
    return {str(path.relative_to(folder)) for path in files}


def differences(folder, reference):
    """Sentences about what differs between the files of two folders.

    Bytes of what does not follow from the trained model must be equal, its weights to 1e-4. Where
    they are equal to the bit, so must be what follows, but for dates and times; else labels in
    99.9 % of the voxels.
    """
    found, wanted = outputs(folder), outputs(reference)
    yield from (f"{name} is missing" for name in sorted(wanted - found))
    yield from (f"{name} is left" for name in sorted(found - wanted))
    shared, followers = found & wanted, _names(reference, OF_THE_MODEL)
    exactly = MODEL not in shared or same_weights(folder, reference)
    for name in sorted(shared):
        ours, theirs = Path(folder, name), Path(reference, name)
        if name not in followers and "provenance" not in ours.parts:
            same = ours.read_bytes() == theirs.read_bytes()
        elif exactly:
            same = _same(contents(ours), contents(theirs))
        else:
            same = _alike(ours, theirs)
        if not same:
            yield f"{name} differs"


def same_weights(folder, reference):
    """Whether two trained models are the same to the bit."""
    return _same(*(contents(Path(top, MODEL)) for top in (folder, reference)))


def _names(folder, patterns):
    paths = (path for pattern in patterns for path in Path(folder).glob(pattern))
    return {str(path.relative_to(folder)) for path in paths}


def contents(path):
    """What a file holds beside dates, durations and hashes: text, bytes or arrays by name."""
    if path.suffix == ".h5":
        with h5py.File(path, "r", locking=False) as file:
            words = {key: str(value) for key, value in file.attrs.items()}
            return {name: file[name][...] for name in file} | {
                key: HASH.sub("", value) for key, value in words.items()
            }
    if path.suffix == ".mrc":
        with mrcfile.open(path) as mrc:
            return {"voxels": mrc.data.copy(), "voxel_size": mrc.voxel_size.tolist()}
    if path.suffix == ".ckpt":
        return read_checkpoint(path)[0]
    if path.suffix == ".png":
        return path.read_bytes()
    text = path.read_text()
    if path.suffix in (".tsv", ".csv"):
        rows = csv.DictReader(io.StringIO(text), delimiter="\t" if path.suffix == ".tsv" else ",")
        text = json.dumps([
            {key: value for key, value in row.items() if key not in COLUMNS_OF_TIME}
            for row in rows
        ])  # fmt: skip
    return MEASURED.sub("", DATE.sub("", HASH.sub("", text)))


def _same(ours, theirs):
    if not isinstance(ours, dict):
        return ours == theirs
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name]) for name in ours
    )


def _alike(ours, theirs):
    """What follows from models that are the same but for rounding."""
    if ours.suffix == ".ckpt":
        weights, expected = contents(ours), contents(theirs)
        return weights.keys() == expected.keys() and all(
            np.allclose(weights[name], expected[name], rtol=WEIGHTS_ALIKE, atol=WEIGHTS_ALIKE)
            for name in expected
        )
    if ours.name.endswith(("_preds.h5", "_preds.mrc")):
        key = "labels" if ours.suffix == ".h5" else "voxels"
        return (contents(ours)[key] == contents(theirs)[key]).mean() >= LABELS_ALIKE
    return True

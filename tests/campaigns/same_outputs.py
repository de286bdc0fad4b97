"""Whether two folders of one workflow hold the same files, but for dates, durations and hashes."""

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
# What holds dates, or hashes of what does, as the trained model.
DATED = (
    "runs/**/*", "predictions/semantic/**/*", "overview.*", "provenance/overview.*",
)  # fmt: skip
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

    The weights of the trained model must be equal to the bit, and what follows from it but for
    dates, durations and hashes; of all other files, the bytes.
    """
    found, wanted = outputs(folder), outputs(reference)
    yield from (f"{name} is missing" for name in sorted(wanted - found))
    yield from (f"{name} is left" for name in sorted(found - wanted))
    dated = _names(reference, DATED)
    for name in sorted(found & wanted):
        ours, theirs = Path(folder, name), Path(reference, name)
        if name in dated or "provenance" in ours.parts:
            same = holds_the_same(ours, theirs)
        else:
            same = ours.read_bytes() == theirs.read_bytes()
        if not same:
            yield f"{name} differs"


def _names(folder, patterns):
    paths = (path for pattern in patterns for path in Path(folder).glob(pattern))
    return {str(path.relative_to(folder)) for path in paths}


def holds_the_same(path, other):
    """Whether two files hold the same beside dates, durations and hashes."""
    ours, theirs = contents(path), contents(other)
    if not isinstance(ours, dict):
        return ours == theirs
    return ours.keys() == theirs.keys() and all(
        np.array_equal(ours[name], theirs[name]) for name in ours
    )


def contents(path):
    """What a file holds beside dates, durations and hashes: text, bytes or arrays by name."""
    if path.suffix == ".h5":
        with h5py.File(path, "r", locking=False) as file:
            words = {key: HASH.sub("", str(value)) for key, value in file.attrs.items()}
            stored = {f"{name} is stored": _stored(file[name]) for name in file}
            return {name: file[name][...] for name in file} | stored | words
    if path.suffix == ".mrc":
        with mrcfile.open(path) as mrc:
            fields = {name: str(mrc.header[name]) for name in mrc.header.dtype.names}
            return {"voxels": mrc.data.copy()} | {
                name: HASH.sub("", value) for name, value in fields.items()
            }
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


def _stored(dataset):
    """How an HDF5 file keeps a dataset: its type, chunks and filters."""
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(number) for number in range(plan.get_nfilters())]
    return str((dataset.dtype.str, dataset.chunks, filters))

"""Scores files: what the network said of each voxel, kept small.

One channel: the probability. Several: the winning class and its probability, which is enough,
because zeroing every probability below a threshold and taking the largest class gives the winner
where its probability reaches the threshold, and 0 elsewhere.

Where thresholds differ by class, the winner may fail its own and the next class reach a lower one.
For that, the classes after the winner are kept too (`runner_up`, `runner_up_probability`: C - 2
volumes for C classes), in the order of their probabilities and only down to the background, which
has no threshold: so they are nearly empty where the network is sure.
"""

import json
from collections.abc import Mapping

import h5py
import hdf5plugin
import numpy as np

from cryoseg.errors import InputError, brief
from cryoseg.hdf5_files import (
    damage_named,
    mapping_at,
    numbers_at,
    open_hdf5,
    text_at,
    volume_in,
)
from cryoseg.volumes import PLACE

# Probabilities are stored as sixteen-bit fractions: off by 7.7e-6 at most.
PROBABILITY_STEPS = 65535
REMEDY = "delete the file, so that the scores are computed anew"
CHUNK = (32, 128, 128)
# Chunks of the float32 volumes that people open with HDF5's built-in filters alone.
OPEN_CHUNK = (16, 64, 64)
# A chunk at the border of two tiles is filled by both: kept in memory (bytes a dataset) meanwhile.
CHUNK_CACHE = {"rdcc_nbytes": 64 * 2**20, "rdcc_nslots": 10007}


class ScoresWriter:
    """Writes scores box by box. Voxels that are never written stay 0.

    shape:         z, y, x of the tomogram
    channels:      of the network; 1 means probabilities of one class
    probabilities: keep all channels' probabilities, as `probs`
    distances:     keep the raw distances, as `distances`
    runners_up:    keep the classes after the winner, for thresholds by class
    attributes:    text, numbers or sequences of numbers; mappings are stored as JSON text
    """

    def __init__(
        self,
        path,
        shape,
        channels,
        attributes,
        probabilities=False,
        distances=False,
        runners_up=False,
    ):
        self.file = h5py.File(path, "w", **CHUNK_CACHE)
        fast = hdf5plugin.Blosc2(cname="zstd", clevel=1, filters=hdf5plugin.Blosc2.BITSHUFFLE)
        small = {"shape": shape, "chunks": _chunk(CHUNK, shape), **fast}
        self.file.create_dataset("probability", dtype=np.uint16, **small)
        if channels > 1:
            self.file.create_dataset("winner", dtype=np.uint8, **small)
        if runners_up and channels > 2:
            ranks = small | {"shape": (channels - 2, *shape), "chunks": (1, *small["chunks"])}
            self.file.create_dataset("runner_up", dtype=np.uint8, **ranks)
            self.file.create_dataset("runner_up_probability", dtype=np.uint16, **ranks)
        for name, wanted in (("probs", probabilities), ("distances", distances)):
            if wanted:
                self.file.create_dataset(
                    name,
                    shape=(channels, *shape),
                    dtype=np.float32,
                    chunks=(1, *_chunk(OPEN_CHUNK, shape)),
                    compression="gzip",
                    compression_opts=1,
                    shuffle=True,
                )
        self.file.attrs["channels"] = channels
        self.update_attributes(attributes)

    def update_attributes(self, attributes):
        """Add attributes; as in the constructor."""
        for name, value in attributes.items():
            self.file.attrs[name] = json.dumps(value) if isinstance(value, Mapping) else value

    def write(self, box, scores):
        """Store the scores of a box.

        box:    (start, stop) in z, y, x
        scores: dataset names to arrays, (Z, Y, X) or (channels, Z, Y, X), as large as the box
        """
        place = tuple(slice(start, stop) for start, stop in box)
        for name, values in scores.items():
            if name.startswith("runner_up"):
                for rank in np.flatnonzero(values.any(axis=(1, 2, 3))):
                    self._store(name, (rank, *place), values[rank])
            else:
                self._store(name, (..., *place), values)

    def _store(self, name, place, values):
        stored = self.file[name]
        stored[place] = values
        # What cannot be written when a dataset is closed, as on a full disk, is lost in silence.
        stored.flush()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def _chunk(chunk, shape):
    return tuple(min(edge, size) for edge, size in zip(chunk, shape, strict=True))


class Scores:
    """A scores file that is read; ``scores[name]`` is a dataset to slice, see ScoresWriter.

    filename: its path
    attrs:    its attributes, {name: plain value}, those that are there
    """

    def __init__(self, path):
        """Open the file. Raises InputError unless it holds what ScoresWriter writes."""
        self.filename = str(path)
        self._file = open_hdf5(path, REMEDY, **CHUNK_CACHE)
        try:
            self.attrs = self._read_attributes()
            self._datasets = self._find_datasets(self.attrs["channels"])
        except InputError:
            self._file.close()
            raise

    def _read_attributes(self):
        given = self._file, self.filename
        channels = int(*numbers_at(*given, "channels", 1))
        if not 1 <= channels <= 256:
            raise InputError(
                f"{self.filename}: attribute channels is {channels}; it must be 1 to 256: delete "
                "the file, so that the scores are computed anew"
            )
        found = {"channels": channels, "checkpoint_sha256": text_at(*given, "checkpoint_sha256")}
        if not found["checkpoint_sha256"].isascii():  # it goes into headers of MRC files
            raise InputError(self._other("attribute checkpoint_sha256 is no hash"))
        found |= {name: numbers_at(*given, name, 3, finite=False) for name in PLACE}
        found |= {name: mapping_at(*given, name) for name in ("settings", "versions")}
        # Scores of an earlier version do not have all.
        if "inputs" in self._file.attrs:
            found["inputs"] = mapping_at(*given, "inputs")
        if "scored_voxels" in self._file.attrs:
            found["scored_voxels"] = int(*numbers_at(*given, "scored_voxels", 1))
        return found

    def _find_datasets(self, channels):
        found = {}
        for name, axes, below in (
            ("probability", 3, None),
            ("winner", 3, channels),
            ("runner_up", 4, channels),
            ("runner_up_probability", 4, None),
            ("probs", 4, None),
            ("distances", 4, None),
        ):
            dataset = volume_in(self._file, self.filename, name, axes, below)
            if dataset is not None:
                found[name] = dataset
        needed = {"probability", *(["winner"] if channels > 1 else [])}
        needed |= {"runner_up", "runner_up_probability"} if "runner_up" in found else set()
        ranks = {"runner_up": channels - 2, "runner_up_probability": channels - 2}
        for name in sorted(needed | found.keys()):
            if name not in found:
                raise InputError(self._other(f"there is no dataset {name}"))
            shape, real = found[name].shape, name in ("probs", "distances")
            wanted = found["probability"].shape if "probability" in found else shape[-3:]
            if len(shape) == 4:
                wanted = (ranks.get(name, channels), *wanted)
            if shape != wanted:
                raise InputError(self._other(f"{name} is {shape}, not {wanted}"))
            dtype = np.float32 if real else np.uint16 if "probability" in name else np.uint8
            if found[name].dtype != dtype:
                kinds = f"{found[name].dtype}, not {np.dtype(dtype)}"
                raise InputError(self._other(f"{name} is of type {brief(kinds)}"))
        return found

    def _other(self, what):
        return f"{self.filename}: {what}; {REMEDY}"

    def __getitem__(self, name):
        return self._datasets[name]

    def __contains__(self, name):
        return name in self._datasets

    def get(self, name):
        """The dataset of that name, or None."""
        return self._datasets.get(name)

    def copy(self, name, file):
        """Copy a dataset into an open HDF5 file, as its bytes are."""
        with damage_named(self.filename):
            self._file.copy(name, file)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()


def open_scores(path):
    """Open a scores file for reading: Scores.

    Raises InputError if there is no such file or it is damaged.
    """
    return Scores(path)

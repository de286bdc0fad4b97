"""Prediction files: the labels of a tomogram, as CryoSiam's viewer and next steps read them."""

import json

import h5py
import numpy as np

from cryoseg.errors import InputError
from cryoseg.scores import OPEN_CHUNK

# Written at 250 to 600 MB/s, and a slice of any axis reads in some ms; level 4 takes twice to
# three times as long for files that are small anyway.
GZIP_LEVEL = 1
INTERNAL = ("probs", "distances")
# What the scores tell of the tomogram and the model, and the labels inherit.
INHERITED = ("voxel_size", "origin", "nstart", "checkpoint_sha256")


def write_predictions(path, labels, scores, attributes, internal=False):
    """Write dataset `labels` and what belongs to it.

    labels:     (Z, Y, X) uint8
    scores:     the open scores file that they were made of
    attributes: text or numbers by name
    internal:   also copy the scores' `probs` and `distances`, (channels, Z, Y, X) float32
    Raises InputError if the scores do not have those.
    """
    missing = [name for name in INTERNAL if internal and name not in scores]
    if missing:
        raise InputError(
            f"{scores.filename}: there is no dataset {' nor '.join(missing)}, which "
            "save_internal_files wants to keep; delete this file, so that it is computed anew"
        )
    chunk = tuple(np.minimum(OPEN_CHUNK, labels.shape).tolist())
    gzip = {"chunks": chunk, "compression": "gzip", "compression_opts": GZIP_LEVEL}
    with h5py.File(path, "w") as file:
        stored = file.create_dataset("labels", data=labels, **gzip)
        stored.flush()  # closing it would not tell of a disk that is full
        for name in INTERNAL if internal else ():
            scores.copy(name, file)  # as the bytes are, still compressed
        for name in INHERITED:
            file.attrs[name] = scores.attrs[name]
        for name, value in attributes.items():
            file.attrs[name] = value


def both_steps(scores, name, of_labels):
    """JSON text of a mapping of both steps: what the scores have as attribute, and of_labels."""
    of_scores = json.loads(scores.attrs.get(name, "{}"))  # {}: scores of an earlier version
    return json.dumps({"score_voxels": of_scores, "label_voxels": of_labels})

"""A tomogram with its masks and classes in napari, which may be installed or not."""

import os
from dataclasses import dataclass

import numpy as np

from cryoseg.errors import InputError
from cryoseg.figures import CONTRAST, LAMELLA_COLOUR, OPACITY, class_colour
from cryoseg.folders import nearest, spelled
from cryoseg.volumes import is_known_size, open_labels, open_mask, open_volume, slabs


@dataclass(frozen=True)
class Layer:
    """What is laid over what; kind: tomogram, mask or labels; tomogram: the file it belongs to."""

    kind: str
    name: str
    path: str
    tomogram: str


def find_layers(stages, tomogram):
    """The files of a tomogram that are there, as a list of Layer: tomogram, masks, labels.

    Stages may read it from different folders; masks and labels whose own is not there are left out.

    stages: cryoseg.stages.Stages
    Raises InputError if no stage predicts a tomogram of this name, or it is not there yet.
    """
    names = {stage: stages.names_to_predict(stage) for stage in stages.predict}
    chosen = [stage for stage in names if tomogram in names[stage]]
    if not chosen:
        known = {name for each in names.values() for name in each}
        raise InputError(
            f"{tomogram}: no stage under predict has a tomogram of this name"
            f"{nearest(tomogram, known)}; give the file's name without its ending"
        )
    found = {"tomogram": {}, "mask": {}, "labels": {}}
    for stage in chosen:
        source = stages.tomograms_to_predict(stage)
        own = f"{source.folder}/{tomogram}{source.extension}"
        found["tomogram"].setdefault(own, (tomogram, own))
        if masks := stages.masks(stage):
            found["mask"].setdefault(f"{masks[0]}/{tomogram}{masks[1]}", (f"mask of {stage}", own))
        kind = "mask" if stages.makes_masks(stage) else "labels"
        labels = f"{spelled(stages.predict[stage]['prediction_folder'])}/{tomogram}_preds.h5"
        found[kind][labels] = stage, own
    layers = [
        Layer(kind, name, path, own)
        for kind, files in found.items()
        for path, (name, own) in files.items()
        if os.path.exists(path) and os.path.exists(own)
    ]
    if not any(layer.kind == "tomogram" for layer in layers):
        raise InputError(
            f"{', '.join(found['tomogram'])}: there is no such file yet; run snakemake first"
        )
    return layers


def load_napari():
    """The module napari; InputError, which says how to install it, where it is not there."""
    try:
        import napari  # here, as nothing else needs it
    except ImportError as error:
        raise InputError(
            f"napari cannot be loaded ({error}); install it on a machine with a display, beside "
            "cryoseg: python -m pip install 'napari[pyqt6]'"
        ) from error
    return napari


def add_layers(viewer, layers):
    """Show the layers of a tomogram in napari's viewer, or its model.

    layers: of find_layers
    Lengths are in nm, or in voxels where a tomogram does not know their size; masks and labels lie
    on its voxels, whatever their own files say. A tomogram is read where it is looked at; masks
    (see volumes.open_mask) and labels are bytes and are loaded.
    Raises InputError where labels are of another size than their tomogram.
    """
    colormap = load_napari().utils.DirectLabelColormap
    for layer in layers:
        tomogram = open_volume(layer.tomogram)
        size = size_of(tomogram)
        if layer.kind == "tomogram":
            viewer.add_image(
                tomogram.data, name=layer.name, contrast_limits=contrast(tomogram), **size
            )
            continue
        read = read_mask if layer.kind == "mask" else read_labels
        labels = read(layer.path, tomogram)
        colours = colormap(color_dict=colours_of(np.unique(labels), layer.kind))
        shown = viewer.add_labels(
            labels, name=layer.name, opacity=OPACITY, colormap=colours, **size
        )
        shown.contour = 2 if layer.kind == "mask" else 0
    viewer.scale_bar.visible = True


def read_mask(path, tomogram):
    """A mask of a tomogram (Volume), resized to it: uint8, 1 inside."""
    mask = open_mask(path, tomogram.shape)
    inside = np.empty(mask.shape, np.uint8)
    for piece in slabs(mask.shape):
        inside[piece] = mask[piece, :, :]
    return inside


def read_labels(path, tomogram):
    """Labels of a tomogram (Volume); InputError if they are of another size."""
    labels = open_labels(path)
    if tuple(labels.shape) != tuple(tomogram.shape):
        raise InputError(
            f"{path}: labels are {tuple(labels.shape)}, the tomogram {tomogram.path} is "
            f"{tuple(tomogram.shape)} voxels; predict it again, or bring back its tomogram"
        )
    return np.asarray(labels[:])


def size_of(volume):
    """Size of a voxel, as napari wants it: in nm, or in voxels where it is unknown."""
    if not is_known_size(volume.voxel_size):
        return {"scale": (1, 1, 1), "units": "pixel"}
    return {"scale": tuple(size / 10 for size in volume.voxel_size), "units": "nm"}


def contrast(volume):
    """Intensities that become black and white, by the section in the middle."""
    middle = volume.shape[0] // 2
    low, high = np.percentile(volume[middle : middle + 1].astype(np.float32), CONTRAST)
    return float(low), float(max(high, np.nextafter(low, np.inf)))


def colours_of(labels, kind):
    """Label to colour as in the pictures; None stands for any other label, and is transparent."""
    colours = {None: "transparent", 0: "transparent"}
    for label in labels[labels > 0].tolist():
        colours[label] = LAMELLA_COLOUR if kind == "mask" else class_colour(label)
    return colours

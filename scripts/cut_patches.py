"""Cut a tomogram, its labels and their distances into patches to train on."""

import logging
from pathlib import Path

import numpy as np

from cryoseg.checks import check_alike, check_intensities
from cryoseg.distances import FAR, class_labels, open_distances
from cryoseg.joblog import log_to
from cryoseg.labels import ClassLabels
from cryoseg.patches import INTEGERS, INTENSITIES, PatchWriter, count_labels, patch_corners
from cryoseg.provenance import attributes_of, recorded
from cryoseg.steps import files_read
from cryoseg.volumes import open_volume, written_aside

log = logging.getLogger("cryoseg")


def cut_patches(tomogram, labels, distances, patches, noisy=None, *, settings):
    """Write the patch file of a tomogram, `{tomogram}_patches.h5`.

    labels:    MRC or HDF5
    distances: what measure_distances wrote of them
    noisy:     a noisy version of the tomogram, if any
    settings:  {patch_size, patch_overlap, remove_only_background, out_channels, and min and max,
               the intensities that become 0 and 1 in training}
    """
    name = Path(patches).name.removesuffix("_patches.h5")
    image, classes = open_volume(tomogram), ClassLabels(labels, settings["out_channels"])
    volumes = {"image": image} | ({"noisy": open_volume(noisy)} if noisy else {})
    check_alike(name, image, "labels are", classes)
    if noisy:
        check_alike(name, image, "noisy tomogram is", volumes["noisy"])
    limits = settings["min"], settings["max"]
    found, *_ = [check_intensities(volume.path, volume, *limits) for volume in volumes.values()]
    stored = open_distances(distances, image.shape, settings["out_channels"])

    table = choose_patches(name, classes, settings)
    about = attributes_of(settings, tomogram=tomogram, labels=labels, noisy=noisy)
    about |= {"voxel_size": image.voxel_size, "intensities": (found.lowest, found.highest)}
    with (
        written_aside(patches) as aside,
        PatchWriter(aside, name, image.shape, settings["patch_size"], *table, about) as writer,
    ):
        for dataset, volume in volumes.items():
            writer.write(dataset, volume, INTENSITIES)
        writer.write("labels", classes, INTEGERS)
        writer.write("distances", stored, INTEGERS, fill=-FAR)


def choose_patches(name, classes, settings):
    """Corners of the patches to keep (N, 3), and how many voxels of each class they have (N, C).

    classes: ClassLabels of the tomogram ``name``; settings: as of cut_patches
    """
    channels, patch_size = settings["out_channels"], settings["patch_size"]
    corners = patch_corners(name, classes.shape, patch_size, settings["patch_overlap"])
    counts = count_labels(classes, corners, patch_size, max(2, channels))
    holds = counts[:, 1:].any(axis=1)
    log.info("%s: %d of %d patches hold an object", name, np.count_nonzero(holds), len(corners))
    if not holds.any():
        log.warning("%s: no voxel has a label of 1 or more (255 is ignored)", name)
    counts = counts[:, list(class_labels(channels))]
    if settings["remove_only_background"]:
        return corners[holds], counts[holds]
    return corners, counts


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        cut_patches(**files_read(snakemake.input), **snakemake.output, **snakemake.params)

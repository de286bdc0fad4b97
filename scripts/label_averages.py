"""Label a tomogram with subtomogram averages, placed and turned as RELION found the particles."""

from pathlib import Path

import numpy as np

from cryoseg.drawing import Drawing, draw_shapes, shape_of
from cryoseg.joblog import log_to
from cryoseg.label_making import (
    average_voxel_size,
    by_label,
    check_turned,
    drawing_order,
    in_angstrom,
    known_voxel_size,
    particles_in,
    report,
)
from cryoseg.provenance import header_lines, input_hashes, recorded
from cryoseg.volumes import as_list, open_volume, write_mrc


def label_averages(tomogram, positions, averages, labels, *, settings):
    """Write labels that lie on the tomogram: a thresholded average at each position, 0 elsewhere.

    tomogram:  MRC file; only its header is read
    positions: a STAR file with angles, or a list of them
    averages:  an MRC file, or a list of them in the order of labels_of_averages
    labels:    MRC file to write, <name of the tomogram>.mrc
    settings:  labels_of_files, per_tomogram, labels, coordinate_voxel_size, name_suffix,
               allow_empty (see cryoseg.label_making.particles_in); labels_of_averages (null for
               one average); threshold (one, or by label), invert, average_voxel_size (null: from
               the header); ignore_rim in ``unit`` (angstrom or voxel); priority (see
               drawing_order)
    """
    volume = open_volume(tomogram)
    voxel_size = known_voxel_size(volume)
    name = Path(labels).name.removesuffix(".mrc")
    particles = particles_in(volume, name, as_list(positions), settings)
    check_turned(name, particles)
    found = np.unique(particles.labels).tolist()
    files = as_list(averages)
    own = settings["labels_of_averages"]
    of_label = by_label(dict(zip(own, files, strict=True)) if own else files[0], found, "averages")
    thresholds = by_label(settings["threshold"], found, "threshold")
    rim = in_angstrom(volume, settings["ignore_rim"], settings["unit"])
    drawing = Drawing(np.zeros(volume.shape, np.uint8))
    for label in drawing_order(found, settings["priority"]):
        average = open_volume(of_label[label])
        size = average_voxel_size(average, settings["average_voxel_size"])
        shape = shape_of(average.path, average[:], size, thresholds[label], settings["invert"], rim)
        chosen = particles.labels == label
        points, turns = particles.points[chosen], particles.turns[chosen]
        draw_shapes(drawing, points, turns, label, shape, voxel_size)
    report(name, drawing, particles)
    about = header_lines(settings, input_hashes(positions=as_list(positions), averages=files))
    write_mrc(labels, drawing.labels, like=volume, about=about)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake, headers=["tomogram"]):
        label_averages(**snakemake.input, **snakemake.output, **snakemake.params)

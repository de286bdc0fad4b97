"""Label a tomogram with spheres around the positions of particles."""

from pathlib import Path

import numpy as np

from cryoseg.drawing import Drawing, draw_spheres
from cryoseg.joblog import log_to
from cryoseg.label_making import by_label, drawing_order, in_voxels, particles_in, report
from cryoseg.provenance import header_lines, input_hashes, recorded
from cryoseg.volumes import as_list, open_volume, write_mrc


def label_particles(tomogram, positions, labels, *, settings):
    """Write labels that lie on the tomogram: spheres around positions, 0 elsewhere.

    tomogram:  MRC file; only its header is read
    positions: a STAR or CSV file, or a list of them
    labels:    MRC file to write, <name of the tomogram>.mrc
    settings:  labels_of_files, per_tomogram, labels, coordinate_voxel_size, name_suffix,
               allow_empty (see cryoseg.label_making.particles_in); radius (one, or by label) and
               ignore_rim in ``unit`` (angstrom or voxel); priority (see drawing_order)
    """
    volume = open_volume(tomogram)
    name = Path(labels).name.removesuffix(".mrc")
    particles = particles_in(volume, name, as_list(positions), settings)
    found = np.unique(particles.labels).tolist()
    radii = by_label(settings["radius"], found, "radius")
    rim = in_voxels(volume, settings["ignore_rim"], settings["unit"])
    drawing = Drawing(np.zeros(volume.shape, np.uint8))
    for label in drawing_order(found, settings["priority"]):
        points = particles.points[particles.labels == label]
        radius = in_voxels(volume, radii[label], settings["unit"])
        draw_spheres(drawing, points, label, radius, rim)
    report(name, drawing, particles)
    about = header_lines(settings, input_hashes(positions=as_list(positions)))
    write_mrc(labels, drawing.labels, like=volume, about=about)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake, headers=["tomogram"]):
        label_particles(**snakemake.input, **snakemake.output, **snakemake.params)

"""Merge masks of one class each into one volume of labels."""

from cryoseg.joblog import log_to
from cryoseg.label_making import known_voxel_size
from cryoseg.label_volumes import check_alike, merge_masks
from cryoseg.provenance import header_lines, input_hashes, recorded
from cryoseg.volumes import as_list, open_label_volume, write_mrc


def merge_labels(masks, labels, *, settings):
    """Write labels made of masks (MRC or HDF5 files of one tomogram) as MRC of their geometry.

    masks:    list of files, in the order of labels_of_masks; 255 beside other values is ignored
    labels:   MRC file to write
    settings: labels_of_masks, priority (the label that stands first wins where masks overlap;
              null: the smaller one), ignore_rim in ``unit`` (angstrom or voxel), ignoring (labels
              of the masks that this workflow made, in which 255 always is ignored)
    """
    volumes = [open_label_volume(path) for path in as_list(masks)]
    check_alike(volumes)
    by_label = dict(zip(settings["labels_of_masks"], volumes, strict=True))
    in_voxels = settings["unit"] == "voxel" or not settings["ignore_rim"]
    voxel_size = (1, 1, 1) if in_voxels else known_voxel_size(volumes[0])
    merged = merge_masks(
        by_label, settings["priority"], settings["ignore_rim"], voxel_size, settings["ignoring"]
    )
    about = header_lines(settings, input_hashes(masks=as_list(masks)))
    write_mrc(labels, merged, like=volumes[0], about=about)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        merge_labels(**snakemake.input, **snakemake.output, **snakemake.params)

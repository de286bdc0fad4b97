"""Memory and time that jobs ask for, from the size of their tomogram.

Everything here is an estimate for a scheduler: it changes where and when a job runs, never its
result. Memory is in MB of 10^6 bytes, time in minutes, and both grow with each attempt.
"""

import os
import struct
from functools import cache
from math import prod

# What a tomogram has whose header cannot be read: 464 x 928 x 928. The job itself says what is
# wrong with the file.
USUAL_VOXELS = 400_000_000
# MRC modes, IMOD's included; anything else in that place means the other byte order.
MODES = (0, 1, 2, 3, 4, 6, 12, 16, 101)
# Interpreter, PyTorch, weights and tiles on their way in and out, and 130 MB of Snakemake.
SCORE_BASE_MB = 3000
# Activations of the default network; less is slower, more than 12 GB is hardly faster.
TILE_MB_PER_VOXEL, LARGEST_TILE_MB = 0.0015, 12_000
# A GPU's tiles on their way through the host.
COPIES_MB = 1000
# Labels, components (4 bytes) and their work space.
LABEL_BASE_MB, LABEL_MB_PER_VOXEL = 500, 10e-6
# Labels, and the small volumes that are placed in them.
PLACE_BASE_MB, PLACE_MB_PER_VOXEL = 800, 1e-6
# Interpreter, PyTorch, Lightning; each process that reads patches, of which each that trains has
# as many as TRAIN_THREADS divided among those, at most.
TRAIN_BASE_MB, WORKER_MB, TRAIN_THREADS = 4000, 500, 8
# Activations of the default network and their gradients, where it trains without a GPU.
TRAIN_MB_PER_VOXEL = 0.006
# A training goes on where it was cut short, so that it need not end within one job.
LONGEST_TRAINING_MINUTES = 2880
# Density, noise, and the Fourier transform of both.
SIMULATE_BASE_MB, SIMULATE_MB_PER_VOXEL = 500, 60e-6
# These read a volume slab by slab.
SLABWISE_MB = 1000
# Minutes per million voxels on a modest machine: a GPU of ten years ago, eight CPU cores.
GPU_MINUTES, CPU_MINUTES, SLABWISE_MINUTES = 0.3, 3.0, 0.1
SHORTEST_MINUTES = 30


def score_memory(voxels, device, memory_gb, attempt):
    """MB of host memory for score_voxels.

    device, memory_gb: as in a stage's hyper_parameters; memory_gb may be the text of a number
    """
    tile = min(TILE_MB_PER_VOXEL * voxels, LARGEST_TILE_MB)
    if device.startswith("cuda"):  # the activations take the GPU's memory, whatever memory_gb
        tile = COPIES_MB
    elif memory_gb != "auto":
        tile = 1000 * float(memory_gb)
        if device == "auto":  # meant for a GPU perhaps, and no reason to book as much of the host's
            tile = min(tile, LARGEST_TILE_MB)
    return attempt * int(SCORE_BASE_MB + tile)


def score_minutes(voxels, device, attempt):
    """Minutes for score_voxels; ``device`` as in a stage's hyper_parameters."""
    rate = CPU_MINUTES if device == "cpu" else GPU_MINUTES
    return attempt * int(SHORTEST_MINUTES + rate * voxels / 1e6)


def label_memory(voxels, attempt):
    """MB for label_voxels."""
    return attempt * int(LABEL_BASE_MB + LABEL_MB_PER_VOXEL * voxels)


def simulate_memory(voxels, attempt):
    """MB for simulate_tomogram."""
    return attempt * int(SIMULATE_BASE_MB + SIMULATE_MB_PER_VOXEL * voxels)


def place_memory(voxels, attempt):
    """MB for label_particles, label_averages and merge_labels."""
    return attempt * int(PLACE_BASE_MB + PLACE_MB_PER_VOXEL * voxels)


def train_memory(job, voxels, attempt):
    """MB of host memory for train_model, on each node.

    job:    {batch_size, patch_size (z, y, x), patch_overlap, channels, device, cache_rate: as in
            the training's file; processes: how many train on a node}
    voxels: function without arguments that returns those of all tomograms; it is asked only where
            patches are kept in memory
    """
    batch = prod(job["patch_size"]) * job["batch_size"]
    # Image, noisy image, labels, distances and where they are known.
    bytes_per_voxel = 9 + 2 * job["channels"]
    activations = TRAIN_MB_PER_VOXEL * batch if job["device"] == "cpu" else 0
    workers = max(1, TRAIN_THREADS // job["processes"])
    # Read ahead twice by each process.
    reading = workers * (WORKER_MB + 2 * batch * bytes_per_voxel / 1e6)
    each = TRAIN_BASE_MB + reading + activations
    if job["cache_rate"]:
        # Patches that overlap have voxels in common on disk, and apart in memory.
        copies = (1 - job["patch_overlap"]) ** -3
        each += job["cache_rate"] * copies * voxels() * bytes_per_voxel / 1e6
    return attempt * int(job["processes"] * each)


def slabwise_minutes(voxels, attempt):
    """Minutes for a job that passes over a volume a few times."""
    return attempt * int(SHORTEST_MINUTES + SLABWISE_MINUTES * voxels / 1e6)


def voxel_count(volume, tomogram):
    """Voxels of a tomogram, from the first header that is there.

    volume: {"shape": (z, y, x) or None, "files": [(start, end), ...]}, where start + tomogram + end
            are paths of files with this tomogram's shape, the source of it first
    """
    if volume["shape"] is not None:
        return prod(volume["shape"])
    for start, end in volume["files"]:
        try:
            return header_voxels(f"{start}{tomogram}{end}")
        except (OSError, ValueError):  # not written yet, or damaged, which its job will report
            continue
    return USUAL_VOXELS


def sum_voxels(volume, tomograms):
    """Voxels of several tomograms together; volume: as of voxel_count."""
    return sum(voxel_count(volume, tomogram) for tomogram in tomograms)


def header_voxels(path):
    """Voxels of the MRC file at ``path`` by its header; raises as header_shape does."""
    return prod(header_shape(path))


@cache
def header_shape(path):
    """(Z, Y, X) of the MRC file at ``path`` by its header.

    Raises OSError where there is no such file, ValueError where it has no MRC header.
    """
    if not os.path.isfile(path):  # to open a pipe would wait for who writes to it
        raise FileNotFoundError(f"{path}: no file")
    with open(path, "rb") as file:
        header = file.read(16)
    for order in "<>" if len(header) == 16 else "":
        *shape, mode = struct.unpack(f"{order}4i", header)  # x first
        if mode in MODES and min(shape) > 0:
            return tuple(reversed(shape))
    raise ValueError(f"{path}: no MRC header")

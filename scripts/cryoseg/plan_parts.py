"""What the plans of several kinds of entries have in common."""

from cryoseg.folders import WILDCARD

INTENSITY_KEYS = ("min", "max", "mean", "std")


def records(name):
    """Folders of logs and benchmarks of an entry."""
    return {"logs": f"logs/{name}", "benchmarks": f"benchmarks/{name}"}


def volume(tomograms):
    """Where the size of a tomogram can be read, as job_resources.voxel_count wants it."""
    return {"shape": tomograms.shape, "files": tomograms.files}


def aliases(files):
    """Other names for the files whose own name Snakemake takes for a pattern, as in x{1}.mrc.

    Such a name can be the value of a wildcard, but not a target. Returns alias to name.
    """
    awkward = sorted({file for each in files.values() for file in each if WILDCARD.search(file)})
    return {f"alias-{number}.of": file for number, file in enumerate(awkward)}


def with_aliases(files, others):
    """The lists of files, with ``others`` (see aliases) in place of awkward names."""
    alias_of = {file: alias for alias, file in others.items()}
    return {target: [alias_of.get(file, file) for file in each] for target, each in files.items()}

"""Draw how a training was split, and keep the pictures of a finished one apart."""

import shutil
from pathlib import Path

from cryoseg.errors import InputError
from cryoseg.joblog import log_to
from cryoseg.provenance import recorded
from cryoseg.small_files import read_json
from cryoseg.training_figures import draw_split, save_figure
from cryoseg.volumes import written_aside


def draw_training(checkpoint, curves, samples, split):
    """Write three PNG files of a training.

    checkpoint: log_dir/model/model_best.ckpt; what train_model wrote beside it lies in log_dir.
                That changes as soon as another training begins there, the files written here stay
    """
    log_dir = Path(checkpoint).parents[1]
    for name, picture in (("curves.png", curves), ("augmented_samples.png", samples)):
        with written_aside(picture) as aside:
            shutil.copyfile(_there(log_dir / name), aside)
    parts = read_json(_there(log_dir / "split.json"))
    counts = {
        part: {name: len(patches) for name, patches in tomograms.items()}
        for part, tomograms in parts.items()
    }
    save_figure(split, draw_split(counts))


def _there(path):
    if not path.exists():
        raise InputError(
            f"{path} is missing, which the training wrote; put it back, or train anew, which is "
            "asked for by snakemake -R and the name of the step"
        )
    return path


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake):
        draw_training(**snakemake.input, **snakemake.output)

"""Whether a training goes on from an earlier one's last.ckpt, and what it leaves when it ends."""

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cryoseg.checkpoints import checkpoint_sha256, read_callback_state
from cryoseg.errors import InputError
from cryoseg.joblog import logger
from cryoseg.volumes import written_aside

# Settings that only say where files lie; whoever moves a project may go on.
PLACES = (
    "data_folder", "labels_folder", "noisy_data_folder", "patches_folder", "temp_dir", "log_dir",
    "prediction_folder", "labels_folder_for_filtering", "continue_training", "pretrained_model",
)  # fmt: skip


@dataclass(frozen=True)
class Start:
    """How a training starts.

    last:     checkpoint to go on from, or None
    weights:  checkpoint whose weights alone are taken, or None
    finished: all steps are done; what is left is to hand over the model
    """

    last: Path | None = None
    weights: Path | None = None
    finished: bool = False


def describe_run(config, patch_files, pretrained, processes):
    """What a training is of, as plain values: another one's checkpoint is not its own.

    A file is told by its name, size and time of change.
    """
    learnt = {name: value for name, value in config.items() if name not in PLACES}
    files = [*patch_files, *([pretrained] if pretrained else [])]
    return {"settings": _ordered(learnt), "files": [_stamp(f) for f in files],
            "processes": processes}  # fmt: skip


def _ordered(value):
    if isinstance(value, dict):
        return {str(key): _ordered(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, list | tuple):
        return [_ordered(each) for each in value]
    return value


def _stamp(path):
    status = Path(path).stat()
    return [Path(path).name, status.st_size, int(status.st_mtime)]


def find_start(folder, run, continue_training):
    """Decide how a training starts, from what lies in its folder of models.

    A training of the very same kind goes on by itself: that is what a killed or requeued job left.
    Where it is finished, which also is so when snakemake died before it could note that, nothing is
    left but to hand over its model. One of other settings or patches is gone on from only where
    ``continue_training`` says so: its weights are taken, and the steps are counted anew.
    """
    last = Path(folder) / "last.ckpt"
    if not last.exists():
        if continue_training:
            logger.info("%s is not there yet, so the training starts from the beginning", last)
        return Start()
    try:
        state = read_callback_state(last, "Checkpoints")
    except InputError as error:
        logger.warning("%s", error)
        state = None
    if state is None:
        return Start(weights=last) if continue_training else Start()
    changes = [part for part in run if state["run"].get(part) != run[part]]
    if changes:
        return _of_another_run(last, changes, state["run"], run, continue_training)
    if state["finished"]:
        logger.info(
            "%s is of a finished training with these settings and patches, whose model is handed "
            "over; to train anew, remove it first", last,
        )  # fmt: skip
    else:
        logger.info("the training goes on from %s", last)
    return Start(last=last, finished=state["finished"])


def _of_another_run(last, changes, old, new, continue_training):
    differing = ", ".join(changes)
    if "settings" in changes:
        keys = sorted({*old["settings"], *new["settings"]})
        which = [k for k in keys if old["settings"].get(k) != new["settings"].get(k)]
        differing += f" ({', '.join(which)})"
    if continue_training:
        logger.warning(
            "%s is of a training with other %s: its weights are taken, its steps are not counted",
            last, differing,
        )  # fmt: skip
        return Start(weights=last)
    kept = keep_aside(last.parent)
    logger.warning(
        "%s is of a training with other %s; this one starts anew%s", last, differing,
        f", and what that one left is kept as {', '.join(kept)}" if kept else "",
    )  # fmt: skip
    return Start()


def keep_aside(folder):
    """Rename what an unfinished training left, so that another does not overwrite it.

    Returns the new names; none where the training was finished, since its model is kept anyway.
    """
    best = Path(folder) / "best_so_far.ckpt"
    date, kept = time.strftime("%Y%m%d-%H%M%S"), []
    for file in (best, Path(folder) / "last.ckpt") if best.exists() else ():
        if file.exists():
            kept.append(f"{file.stem}-{date}.ckpt")
            os.replace(file, file.with_name(kept[-1]))
    return kept


def hand_over(folder, checkpoint):
    """Give the best model its name, and keep it under its date and hash too.

    The second name is never written again: a model that once was complete cannot be lost by
    training anew. Returns the path of the kept file.
    """
    folder, checkpoint = Path(folder), Path(checkpoint)
    best = folder / "best_so_far.ckpt"
    if not best.exists():
        # Not what a user keeps there under another such name.
        dated = re.compile(re.escape(checkpoint.stem) + r"-\d{8}-\d{6}-[0-9a-f]{8}\.ckpt")
        kept = sorted(path for path in folder.iterdir() if dated.fullmatch(path.name))
        if not kept:
            raise InputError(
                f"{folder}: the finished training's model is gone; remove last.ckpt there to train "
                "anew"
            )
        _copy(kept[-1], checkpoint)
        return kept[-1]
    date = time.strftime("%Y%m%d-%H%M%S")
    kept = folder / f"{checkpoint.stem}-{date}-{checkpoint_sha256(best)[:8]}.ckpt"
    _copy(best, checkpoint)
    os.replace(best, kept)
    return kept


def _copy(source, target):
    with written_aside(target) as aside:
        shutil.copyfile(source, aside)

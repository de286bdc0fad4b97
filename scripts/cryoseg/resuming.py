"""Whether a training goes on from an earlier one's last.ckpt, and what it leaves when it ends."""

import os
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

    An unfinished training of the very same kind goes on by itself: that is what a killed or
    requeued job left. One that is finished, or of other settings or patches, is gone on from only
    where ``continue_training`` says so; with other settings its weights are taken, and the steps
    are counted anew.
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
    handed_over = not (last.parent / "best_so_far.ckpt").exists()
    if state["finished"] and handed_over and not continue_training:
        logger.info("%s is of a finished training; it is done anew", last)
        return Start()
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
    logger.info("%s is of a training with other %s; this one starts anew", last, differing)
    return Start()


def hand_over(folder, checkpoint):
    """Give the best model its name, and keep it under its date and hash too.

    The second name is never written again: a model that once was complete cannot be lost by
    training anew. Returns the path of the kept file.
    """
    folder, checkpoint = Path(folder), Path(checkpoint)
    best = folder / "best_so_far.ckpt"
    if not best.exists():
        kept = sorted(folder.glob(f"{checkpoint.stem}-*.ckpt"))
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

"""Whether a training goes on from an earlier one's last.ckpt, and what it leaves when it ends."""

import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from cryoseg.checkpoints import checkpoint_sha256, read_callback_state
from cryoseg.errors import InputError
from cryoseg.folders import refusal_named, some
from cryoseg.foreign_files import has_dated_copy
from cryoseg.joblog import logger
from cryoseg.provenance import is_empty
from cryoseg.volumes import names_waiting, put_there, stamp_of_file, written_aside

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

    What is not of this training gets a second name, or another one, before anything is written: it
    may be the only copy. A kill in between changes nothing, as a file's other name is always the
    same.
    """
    folder = Path(folder)
    last, best = folder / "last.ckpt", folder / "best_so_far.ckpt"
    state, best_state = _state_of(last), _state_of(best)
    own = state is not None and state["run"] == run
    kept = []
    if last.exists() and not own:
        # It stays under its name too, so that its own training can go on as long as this one has
        # not come to a last.ckpt.
        kept.append(_keep_too(last))
    if best.exists() and (best_state is None or best_state["run"] != run):
        kept.append(best.with_name(_dated(best)))
        with refusal_named():
            os.replace(best, kept[-1])
    names = ", ".join(path.name for path in kept)
    if own:
        if names:
            logger.warning("another training left best_so_far.ckpt, which is kept as %s", names)
        return _go_on(last, best, state)
    if not last.exists():
        if continue_training:
            logger.info("%s is not there yet, so the training starts from the beginning", last)
    else:
        logger.warning(
            "%s is of %s: %s", last, _what_differs(state, run),
            "its weights are taken, its steps are not counted" if continue_training
            else "this one starts anew",
        )  # fmt: skip
    if names:
        logger.warning("what was left there is kept as %s", names)
    return Start(weights=kept[0]) if continue_training and last.exists() else Start()


def _go_on(last, best, state):
    """Start from the last.ckpt of the very same training."""
    if state["finished"]:
        logger.info(
            "%s is of a finished training with these settings and patches, whose model is handed "
            "over; to train anew, remove it first", last,
        )  # fmt: skip
        return Start(last=last, finished=True)
    if not best.exists() and (kept := _kept_of(best, state["run"])):
        # Another training began meanwhile, and came to no last.ckpt.
        with refusal_named():
            os.replace(kept, best)
    logger.info("the training goes on from %s", last)
    return Start(last=last)


def _state_of(path):
    """What a training left of itself in a checkpoint; None where there is none, or in another's."""
    if not path.exists():
        return None
    try:
        state = read_callback_state(path, "Checkpoints")
    except InputError as error:
        logger.warning("%s", error)
        return None
    return state if _is_state(state) else None


def _is_state(state):
    """Whether a value is what training_callbacks.Checkpoints writes, whoever wrote it."""
    return (
        isinstance(state, dict)
        and isinstance(state.get("run"), dict)
        and isinstance(state["run"].get("settings"), dict)
        and isinstance(state.get("finished"), bool)
        and isinstance(state.get("best_loss"), float)
        and isinstance(state.get("best_epoch"), int | None)
    )


def _what_differs(state, run):
    """What another training than this one is, for a message."""
    if state is None:
        return "no training of cryoseg"
    old = state["run"]
    changes = [part for part in sorted({*old, *run}, key=str) if old.get(part) != run.get(part)]
    differing = ", ".join(map(str, changes))
    if "settings" in changes:
        keys = sorted({*old["settings"], *run["settings"]}, key=str)
        which = [k for k in keys if old["settings"].get(k) != run["settings"].get(k)]
        differing += f" ({some(map(str, which))})"
    return f"a training with other {differing}"


def _dated(path):
    """A checkpoint's name with its date and hash, which no other file has."""
    date = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.stat().st_mtime))
    return f"{path.stem}-{date}-{checkpoint_sha256(path)[:8]}.ckpt"


def _keep_too(path):
    """Give a checkpoint its dated name beside its own; returns the path of that."""
    kept = path.with_name(_dated(path))
    if not kept.exists():
        try:
            os.link(path, kept)
        except OSError:  # a file system without hard links, or a file of somebody else's
            _copy(path, kept)
    return kept


def _kept_of(path, run):
    """The newest checkpoint of a training that is kept under a dated name of ``path``, or None."""
    # Not what a user keeps there under another such name.
    dated = re.compile(re.escape(path.stem) + r"-\d{8}-\d{6}-[0-9a-f]{8}\.ckpt")
    kept = sorted(each for each in path.parent.iterdir() if dated.fullmatch(each.name))
    for each in reversed(kept):
        state = _state_of(each)
        if state is not None and state["run"] == run:
            return each
    return None


def hand_over(folder, checkpoint, run):
    """Give a finished training's best model its name, and keep it under its date and hash too.

    The second name comes first and is never written again: a model that once was complete cannot be
    lost by training anew. run: see describe_run; no other training's model is handed over.
    Returns the path of the kept file. Raises InputError where others put a file in the place of the
    model meanwhile; once that is moved, the same training hands over the kept one.
    """
    best, model = Path(folder) / "best_so_far.ckpt", Path(folder) / Path(checkpoint).name
    state = _state_of(best)
    if state is not None and state["run"] == run:
        kept = best.with_name(_dated(best).replace(best.stem, model.stem))
        with refusal_named():
            os.replace(best, kept)
    elif (kept := _kept_of(model, run)) is None:
        raise InputError(
            f"{folder}: this training is finished and its model is not there: no validation loss "
            "was a number, or it was removed; remove last.ckpt there to train anew"
        )
    with names_waiting([checkpoint]) as files:
        _copy(kept, checkpoint)
        there = stamp_of_file(checkpoint)
        ours = is_empty(checkpoint) or has_dated_copy(checkpoint)
        try:
            files.name(checkpoint, over=there if ours else None)
        except FileExistsError:
            raise InputError(put_there(checkpoint)) from None
    return kept


def _copy(source, target):
    with written_aside(target) as aside:
        shutil.copyfile(source, aside)

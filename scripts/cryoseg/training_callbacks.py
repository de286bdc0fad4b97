"""What happens around the steps of a training: records, checkpoints, an end in good order."""

import csv
import math
import signal
import time
from pathlib import Path

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, Checkpoint

from cryoseg.joblog import STOPPED, logger, signals_to_end
from cryoseg.synchronised_norm import together
from cryoseg.training_figures import draw_curves, write_png
from cryoseg.volumes import written_aside

SECONDS_BETWEEN_LINES = 60  # of the log, within an epoch
SECONDS_BETWEEN_DRAWINGS = 30  # of the curves


class WrittenAsideIO(TorchCheckpointIO):
    """Checkpoints appear under their name when they are complete."""

    def save_checkpoint(self, checkpoint, path, storage_options=None):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # A file of Python's, whose errors tell the system's reason; PyTorch's own do not.
        with written_aside(path) as aside, open(aside, "wb") as file:
            torch.save(checkpoint, file)


class History(Callback):
    """Keeps a row of numbers per epoch; writes them as table and curves, and into the log.

    records: training_records.Records, which gets metrics.csv and curves.png

    The rows are kept in the checkpoint, so that an interrupted training's are those of an
    uninterrupted one.
    """

    def __init__(self, records):
        self.records = records
        self.rows, self.sums, self.steps, self.seconds = [], {}, 0, 0.0
        self._last_line = self._resumed = time.monotonic()
        self._last_drawing = -math.inf

    def state_dict(self):
        return {"rows": self.rows, "sums": self.sums, "steps": self.steps, "seconds": self._time()}

    def load_state_dict(self, state):
        self.rows, self.sums, self.steps = state["rows"], state["sums"], state["steps"]
        self.seconds = state["seconds"]

    def _time(self):
        return self.seconds + time.monotonic() - self._resumed

    def on_train_start(self, trainer, module):
        self._resumed = time.monotonic()
        module.validated = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        for name, value in module.parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1
        module.log_dict({f"step_{name}": value for name, value in module.parts.items()},
                        batch_size=1)  # fmt: skip
        module.log("lr", _learning_rate(trainer), batch_size=1)
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            logger.info(
                "epoch %d, step %d of %d: loss %.4f", trainer.current_epoch + 1,
                trainer.global_step, trainer.estimated_stepping_batches, module.parts["loss"],
            )  # fmt: skip

    def on_train_epoch_end(self, trainer, module):
        row = {"epoch": trainer.current_epoch + 1, "step": trainer.global_step,
               "seconds": round(self._time(), 1), "lr": _learning_rate(trainer)}  # fmt: skip
        row |= {f"train_{name}": total / self.steps for name, total in self.sums.items()}
        row |= module.validated
        self.rows.append(row)
        self.sums, self.steps, module.validated = {}, 0, {}
        self._last_line = time.monotonic()
        if trainer.is_global_zero:
            logger.info("epoch %d of %d: %s", row["epoch"], trainer.max_epochs, _spoken(row))
            self.write()
            if time.monotonic() - self._last_drawing > SECONDS_BETWEEN_DRAWINGS:
                self.draw()
                self._last_drawing = time.monotonic()

    def on_train_end(self, trainer, module):
        if trainer.is_global_zero and self.rows:
            self.write()
            self.draw()

    def write(self):
        """Write all rows as a table; a number that an epoch lacks is an empty field."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        with self.records.written("metrics.csv") as aside, open(aside, "w", newline="") as file:
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(
                {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()}
                for row in self.rows
            )

    def draw(self):
        """Draw the rows as curves."""
        with self.records.written("curves.png") as aside:
            write_png(aside, draw_curves(self.rows))


def _validation_progress(trainer):
    """Lightning's count of the batches of a validation."""
    return trainer.fit_loop.epoch_loop.val_loop.batch_progress


def _learning_rate(trainer):
    return trainer.optimizers[0].param_groups[0]["lr"]


def _spoken(row):
    shown = {k: v for k, v in row.items() if "loss" in k or k.startswith("dice_")}
    return ", ".join(f"{name} {value:.4f}" for name, value in shown.items())


class Checkpoints(Checkpoint):
    """Writes last.ckpt and the best model so far, and ends the training when it is asked to.

    folder:  gets last.ckpt, at each epoch's end, every ``minutes`` in between, and when the
             process gets SIGTERM or SIGINT; and best_so_far.ckpt, at each validation with a smaller
             loss. A validation that they cut short is done anew by who goes on from last.ckpt
    run:     what the training is of, plain values; kept in the checkpoint, so that no other
             training goes on from it
    without_validation: every epoch's end is the best so far
    """

    def __init__(self, folder, run, minutes, without_validation=False):
        self.last, self.best = Path(folder) / "last.ckpt", Path(folder) / "best_so_far.ckpt"
        self.run, self.minutes, self.without_validation = run, minutes, without_validation
        self.best_loss, self.best_epoch, self.finished = math.inf, None, False
        self._saved = time.monotonic()
        self._asked_to_stop = 0  # or the number of the signal
        self._shared_batches = 0

    @property
    def state_key(self):
        return "Checkpoints"

    def state_dict(self):
        return {"run": self.run, "best_loss": self.best_loss, "best_epoch": self.best_epoch,
                "finished": self.finished}  # fmt: skip

    def load_state_dict(self, state):
        self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]

    def on_train_start(self, trainer, module):
        # Lightning's own answers can leave processes waiting for each other, and save nothing.
        note = self._note_signal
        self._answers_before = {each: signal.signal(each, note) for each in signals_to_end()}
        self._saved = time.monotonic()
        self._validate_last_epoch(trainer)  # which may be gone on with

    def on_train_end(self, trainer, module):
        for each, answer in self._answers_before.items():
            signal.signal(each, answer)

    def _note_signal(self, number, frame):
        self._asked_to_stop = number

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        late = time.monotonic() - self._saved > 60 * self.minutes
        module.requests = [float(bool(self._asked_to_stop)), float(late)]

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        stop, save = module.agreed
        # The epoch's last step is saved at the epoch's end, after the validation.
        if (stop or save) and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._save_last(trainer)
        if stop and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._leave(trainer)

    def on_train_epoch_start(self, trainer, module):
        self._validate_last_epoch(trainer)

    def _validate_last_epoch(self, trainer):
        """Whatever the interval."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_validation_start(self, trainer, module):
        # Or one that was cut short and is done anew would look so once more.
        _validation_progress(trainer).reset()
        loader = trainer.val_dataloaders
        least = len(loader.dataset) // trainer.world_size
        self._shared_batches = -(-least // loader.batch_size)

    def on_validation_batch_start(self, trainer, module, batch, batch_idx, dataloader_idx=0):
        # All processes have these batches: each of them asks, and none waits for an answer.
        if batch_idx < self._shared_batches and self._agreed_to_stop(module):
            progress = _validation_progress(trainer)
            # As within its first batch; from there Lightning begins the validation anew.
            progress.reset()
            progress.increment_ready()
            progress.increment_started()
            self._save_last(trainer)
            self._leave(trainer)

    def _agreed_to_stop(self, module):
        """Whether any process was told to end; all of them must ask."""
        asked = torch.tensor(float(bool(self._asked_to_stop)), device=module.device)
        return bool(together(asked) > 0)

    def on_validation_end(self, trainer, module):
        loss = float(trainer.callback_metrics["val_loss"])
        if loss < self.best_loss:
            self.best_loss, self.best_epoch = loss, trainer.current_epoch + 1
            trainer.save_checkpoint(self.best)

    def on_train_epoch_end(self, trainer, module):
        self.finished = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if self.without_validation and self.finished:
            self.best_epoch = trainer.current_epoch + 1
            trainer.save_checkpoint(self.best)
        self._save_last(trainer)
        if self._agreed_to_stop(module) and not self.finished:
            self._leave(trainer)

    def _save_last(self, trainer):
        trainer.save_checkpoint(self.last)
        self._saved = time.monotonic()

    def _leave(self, trainer):
        number = self._asked_to_stop or signal.SIGTERM  # of another process of this training
        logger.error(
            "%s %d after step %d; the same job, submitted again, continues there",
            STOPPED, number, trainer.global_step,
        )  # fmt: skip
        raise SystemExit(128 + number)

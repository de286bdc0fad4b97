"""What tells of a training beside its models, and what else lies under these names: all is kept."""

import json
import os
import shutil
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from cryoseg.errors import ChangedError
from cryoseg.folders import refusal_named
from cryoseg.joblog import logger
from cryoseg.provenance import sha256
from cryoseg.volumes import written_aside

# Files in log_dir, the former written when a training begins, the latter from epoch to epoch.
AT_BEGINNING = ("settings.yaml", "split.json", "split.tsv", "augmented_samples.png")
BY_EPOCH = ("metrics.csv", "curves.png")


class Records:
    """Puts what tells of a training into log_dir, where others may have left such files.

    run: what the training is of, see resuming.describe_run

    As long as the training is under way, model/records.json holds the hashes of what it wrote by
    epoch, each from before the file gets its name: by that it knows its own after a kill.
    """

    def __init__(self, log_dir, run):
        self.log_dir, self.run = Path(log_dir), run
        self.told = self.log_dir / "model" / "records.json"

    def begin(self, begun, goes_on):
        """Put the files AT_BEGINNING there; what others left under any name gets another one.

        begun:   folder that holds them, as this training writes them
        goes_on: from a last.ckpt of its own

        What lies there may be the only record of an earlier training, or somebody's own: it gets
        its date and hash into its name. All of it does before anything is written, and a kill in
        between leaves the rest to the next try.
        """
        begun, told = Path(begun), self._read()
        files = {}
        if told is not None and told["run"] == self.run and (goes_on or not told["saved"]):
            files = told["files"]
        own = files | {name: [sha256(begun / name)] for name in AT_BEGINNING}
        places = [self.log_dir / name for name in (*AT_BEGINNING, *BY_EPOCH)]
        foreign = [path for path in places if _hash_or_none(path) not in own.get(path.name, ())]
        foreign += [self.told] if told is None else []
        if kept := [_keep(path) for path in foreign if os.path.lexists(path)]:
            logger.warning("what was left in %s is kept as %s", self.log_dir, ", ".join(kept))
        self._tell(files)
        for name in AT_BEGINNING:
            with written_aside(self.log_dir / name) as aside:
                shutil.copyfile(begun / name, aside)

    @contextmanager
    def written(self, name):
        """Yield a path to write one of BY_EPOCH to; it gets its name when it is complete."""
        with written_aside(self.log_dir / name) as aside:
            yield aside
            files = (self._read() or {"files": {}})["files"]
            self._tell(files | {name: [*files.get(name, [])[-1:], sha256(aside)]})

    def end(self):
        """Forget the hashes: another training of the same kind is another one."""
        if self._read() is not None:
            self._tell({})  # which removes what a kill left of an earlier try
            with refusal_named():
                self.told.unlink()

    def _tell(self, files):
        # Without a last.ckpt, what is there is of a try that left nothing else.
        saved = (self.told.parent / "last.ckpt").exists()
        with written_aside(self.told) as aside:
            aside.write_text(json.dumps({"run": self.run, "saved": saved, "files": files}))

    def _read(self):
        """What records.json tells; None where there is none, or none of ours."""
        try:
            told = json.loads(self.told.read_text()) if self.told.is_file() else None
        except (OSError, ValueError, RecursionError):
            return None
        ours = isinstance(told, dict) and told.keys() == {"run", "saved", "files"}
        files = told["files"].values() if ours and isinstance(told["files"], dict) else [None]
        return told if all(isinstance(each, list) for each in files) else None


def _hash_or_none(path):
    """SHA-256 of a file's content; None of what is no file, may not be read, or is being written.

    None of these can be told to be a training's own.
    """
    try:
        return sha256(path) if path.is_file() else None  # a pipe would be waited for
    except (OSError, ChangedError):
        return None


def _keep(path):
    """Give a file a name with its date and hash, which no other file has; returns that."""
    date = time.strftime("%Y%m%d-%H%M%S", time.localtime(path.lstat().st_mtime))
    stem = "-".join([path.stem, date, *([told[:8]] if (told := _hash_or_none(path)) else [])])
    names = (f"{stem}{f'-{n}' if n > 1 else ''}{path.suffix}" for n in count(1))
    kept = next(name for name in names if not os.path.lexists(path.with_name(name)))
    with refusal_named():
        os.rename(path, path.with_name(kept))
    return kept

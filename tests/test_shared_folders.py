"""Two people work in one folder: what one has done, the other goes on with."""

import os
import re
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from admit_tomogram import admit_tomogram
from cryoseg.errors import InputError
from cryoseg.provenance import recorded
from cryoseg.resuming import find_start, hand_over
from cryoseg.volumes import written_aside
from kill import left_over
from test_resuming import A, B, write
from test_two_at_once import (
    check_as_of_a_lone_run,
    fill_common_folder,
    lab_of,
    run_overlapping,
)
from test_workflow import NAMES, RAW, Lab, fill
from tracebacks import printed
from train_model import train_model

GROUP = 100
ANNA, BEN = 4711, 4712
# The interpreter and the test's folder may lie where only root may go: to read anything is allowed,
# to write is not.
READ_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")

pytestmark = pytest.mark.root


class SharedLab(Lab):
    """A folder whose group may write, as ``chmod g+ws`` makes it."""

    def share(self):
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, 0, GROUP)
            path.chmod(0o2775 if path.is_dir() else 0o664)

    def run_as(self, user, *arguments, fails=False):
        """Run snakemake as somebody of the group, with umask 002; returns all that it prints."""
        with self.begun_as(user, *arguments) as run:
            shown = run.communicate()[0]
        return printed(run.returncode, shown, fails)

    def begun_as(self, user, *arguments):
        """The process of the same."""
        become = ("setpriv", f"--reuid={user}", f"--regid={GROUP}", "--clear-groups", *READ_ALL)
        home = self.folder.parent / f"home_{user}"
        home.mkdir(exist_ok=True)
        os.chown(home, user, GROUP)
        return subprocess.Popen(
            [*become, *self.command(*arguments)],
            umask=0o002,
            env=os.environ | {"HOME": str(home), "USER": str(user)},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def lab(tmp_path):
    lab = fill(SharedLab(tmp_path / "lab"))
    lab.share()
    return lab


def scaled_by(lab, *names):
    return {lab.folder.joinpath(f"scaled/{name}.mrc").stat().st_uid for name in names}


def test_what_one_has_done_the_other_goes_on_with_and_may_replace(lab):
    first, second = NAMES[:2]
    targets = ("--", f"scaled/{first}.mrc", f"scaled/{second}.mrc")
    lab.run_as(ANNA, *targets[:2])
    lab.run_as(BEN, *targets)
    assert scaled_by(lab, first) == {ANNA}
    assert scaled_by(lab, second) == {BEN}

    # Another tomogram of the same name: Ben replaces what Anna made, and Anna reads it.
    lab.write_tomogram(first, seed=99)
    lab.run_as(BEN, *targets)
    assert scaled_by(lab, first, second) == {BEN}
    assert "Nothing to be done" in lab.run_as(ANNA, *targets)
    for path in (lab.folder / "scaled").iterdir():
        assert path.stat().st_mode & 0o060 == 0o060
    assert (lab.folder / RAW / f"{first}.mrc").stat().st_uid == 0


@pytest.fixture
def common():
    """A folder that everybody may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_two_people_at_once_leave_whole_files_in_one_output_folder(common):
    fill_common_folder(common)
    users = (ANNA, BEN)
    labs = {user: SharedLab(lab_of(str(user), common).folder) for user in users}
    (common / "scaled").mkdir()
    SharedLab(common).share()
    begin = [partial(lab.begun_as, user, "--cores", "1", "scale") for user, lab in labs.items()]
    shown = run_overlapping(begin, common / "scaled")
    for told in shown:
        assert "writes there too, with the same settings" in told
    check_as_of_a_lone_run(common)
    for user, lab in labs.items():
        assert "Nothing to be done" in lab.run_as(user, "scale")
        assert not left_over(lab)


@pytest.mark.parametrize("below", ["scaled/provenance", "logs/raw/scale_tomogram"])
def test_a_folder_of_a_colleague_that_only_he_may_write_into_is_named(below, lab):
    """As where umask 022 made it, and only the folders above it were shared since."""
    target = ("--", f"scaled/{NAMES[0]}.mrc")
    lab.run_as(ANNA, *target)
    lab.write_tomogram(NAMES[0], seed=99)
    for path in (lab.folder / below).iterdir():
        path.chmod(0o644)
    (lab.folder / below).chmod(0o755)
    shown = lab.run_as(BEN, *target, fails=True)
    assert re.search(
        rf"{below}/{NAMES[0]}\S*: cannot be written \(Permission denied\); see to it that you may "
        rf"write into {below}\n",
        shown,
    )
    assert "Trying to restart" not in shown
    (lab.folder / below).chmod(0o775)
    lab.run_as(BEN, *target)


def test_notes_of_a_colleague_that_only_he_may_write_are_replaced(lab):
    """Or what is done would not count, and be done again."""
    target = ("--", f"scaled/{NAMES[0]}.mrc")
    lab.run_as(ANNA, *target)
    lab.write_tomogram(NAMES[0], seed=99)
    for folder in (".snakemake/metadata", "benchmarks/raw/scale_tomogram"):
        for path in (lab.folder / folder).iterdir():
            path.chmod(0o644)
    assert "cannot be written" not in lab.run_as(BEN, *target)
    assert scaled_by(lab, NAMES[0]) == {BEN}
    assert "Nothing to be done" in lab.run_as(BEN, *target)

    times = lab.folder / "benchmarks" / "raw" / "scale_tomogram"
    lab.write_tomogram(NAMES[0], seed=100)
    os.chown(times, ANNA, GROUP)
    times.chmod(0o755)
    for path in times.iterdir():
        os.chown(path, ANNA, GROUP)
        path.chmod(0o644)
    shown = lab.run_as(BEN, *target)
    assert re.search(r"time that a job took is not noted: \S+: cannot be written", shown)
    assert "Nothing to be done" in lab.run_as(BEN, *target)


def test_notes_that_may_no_longer_be_written_cost_no_list_of_what_failed(lab):
    """As where the working folder comes back read-only in the middle of a run."""
    notes = lab.folder / ".snakemake"
    lab.run_as(BEN, "-n")
    with lab.begun_as(BEN, "--cores", "1", "--", "scale") as run:
        while run.poll() is None and not (lab.folder / "scaled" / f"{NAMES[0]}.mrc").exists():
            time.sleep(0.01)
        folders = [path for path in (notes, *notes.rglob("*")) if path.is_dir()]
        for path in folders:
            path.chmod(0o555)
        shown = run.communicate()[0]
    for path in folders:
        path.chmod(0o2775)
    assert run.returncode
    said = "what Snakemake notes there cannot be written (Permission denied); see to it"
    assert said in shown.rpartition(" failed:\n")[2]
    assert "Traceback" not in shown
    lab.run_as(BEN, "scale")


def replace_output():
    """As a job does: the record of what was there goes first."""
    output = {"made": "of_anna/made.mrc"}
    with recorded(SimpleNamespace(rule="make", input={}, output=output, params={})):
        pass


def take_back_output():
    """As a job does whose input was replaced while it was read, and whose output does not wait."""
    output = {"made": "of_anna/made.txt"}
    source = Path("source")
    source.write_text("before")
    job = SimpleNamespace(rule="make", input={"source": str(source)}, output=output, params={})
    with recorded(job, waits=False):
        source.write_text("changed since")


def hand_over_model():
    hand_over("of_anna", "model.ckpt", A)


def keep_models():
    find_start(Path("of_anna"), B, continue_training=False)


def admit():
    admit_tomogram("findings.json", "of_anna/admitted", settings={"demands": []})


def begin_training():
    train_model([], "model.ckpt", settings={"config": {}}, log_dir="of_anna/log", device="cpu")


def write_hidden():
    with written_aside("of_anna/private/below/file"):
        pass


@pytest.mark.parametrize(
    ("act", "refused"),
    [
        (replace_output, "of_anna/provenance/made.mrc.json"),
        (take_back_output, "of_anna/made.txt"),
        (hand_over_model, "of_anna/best_so_far.ckpt"),
        (keep_models, "of_anna/best_so_far.ckpt"),
        (admit, "of_anna/admitted"),
        (begin_training, "of_anna/log"),
        (write_hidden, "of_anna/private/below/file"),
    ],
)
def test_whatever_may_not_be_made_renamed_or_removed_is_named(act, refused, tmp_path, monkeypatch):
    folder = tmp_path / "of_anna"
    (folder / "provenance").mkdir(parents=True)
    (folder / "private" / "below").mkdir(parents=True)
    (folder / "private").chmod(0o700)
    for name in ("made.txt", "provenance/made.mrc.json"):
        (folder / name).touch()
    write(folder / "best_so_far.ckpt", A, 1)
    (tmp_path / "findings.json").write_text('{"findings": []}')
    tmp_path.chmod(0o777)
    monkeypatch.chdir(tmp_path)  # which nobody else could reach from outside
    os.seteuid(BEN)
    try:
        with pytest.raises(InputError) as error:
            act()
    finally:
        os.seteuid(0)
    place = os.path.dirname(refused)
    assert str(error.value) == (
        f"{refused}: cannot be written (Permission denied); see to it that you may write into "
        f"{place}"
    )

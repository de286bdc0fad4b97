"""Two people work in one folder: what one has done, the other goes on with."""

import os
import shutil
import subprocess

import pytest

from test_workflow import NAMES, RAW, Lab, fill

GROUP = 100
ANNA, BEN = 4711, 4712
# The interpreter and the test's folder may lie where only root may go: to read anything is allowed,
# to write is not.
READ_ALL = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two other people"),
    pytest.mark.skipif(not shutil.which("setpriv"), reason="setpriv (util-linux) is not here"),
]


class SharedLab(Lab):
    """A folder whose group may write, as ``chmod g+ws`` makes it."""

    def share(self):
        for path in (self.folder, *self.folder.rglob("*")):
            os.chown(path, 0, GROUP)
            path.chmod(0o2775 if path.is_dir() else 0o664)

    def run_as(self, user, *arguments, fails=False):
        """Run snakemake as somebody of the group, with umask 002; returns all that it prints."""
        become = ("setpriv", f"--reuid={user}", f"--regid={GROUP}", "--clear-groups", *READ_ALL)
        home = self.folder.parent / f"home_{user}"
        home.mkdir(exist_ok=True)
        os.chown(home, user, GROUP)
        done = subprocess.run(
            [*become, *self.command(*arguments)],
            umask=0o002,
            env=os.environ | {"HOME": str(home), "USER": str(user)},
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr


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

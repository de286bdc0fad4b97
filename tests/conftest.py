"""What every test shares: the library's place on the path, as Snakemake gives it to scripts."""

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Machines differ in speed, and the first call of a network is slow everywhere.
hypothesis.settings.register_profile("cryoseg", deadline=None)
hypothesis.settings.load_profile("cryoseg")

# What a script starts in the background ignores Ctrl-C, and so would all that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]
# Groups of tests of minutes, the longest first, so that two workers end at about the same time.
LONG = tuple(
    f"tests/{name}"
    for name in (
        "slurm",
        "test_check.py",
        "test_workflow.py",
        "campaigns/test_kill.py",
        "test_training_workflow.py",
        "test_train_model.py",
        "test_foreign_files.py",
        "test_estimates.py",
    )
)
# After which a test of minutes on a cluster that hangs fails.
SECONDS_ON_A_CLUSTER = 1800
# Appended, not inserted: Snakemake's scripts see installed packages first, then scripts/.
sys.path.append(str(REPOSITORY / "scripts"))


@pytest.fixture(scope="session")
def compat():
    """Folder of outputs that CryoSiam itself made, too large for the repository."""
    folder = os.environ.get("CRYOSEG_COMPAT")
    if not folder:
        pytest.skip("CRYOSEG_COMPAT does not name the folder of CryoSiam's own outputs")
    return Path(folder)


@pytest.fixture(scope="session")
def real_data():
    """Folder with a real tomogram, too large for the repository."""
    folder = os.environ.get("CRYOSEG_REAL_DATA")
    if not folder:
        pytest.skip("CRYOSEG_REAL_DATA does not name the folder of a real tomogram")
    return Path(folder)


@pytest.fixture(scope="session")
def data():
    """Folder of small models and outputs that CryoSiam made."""
    return REPOSITORY / "tests" / "data"


@pytest.fixture(scope="session")
def cluster():
    """A running cluster; a reason to skip without Slurm, a failure where it is required."""
    from slurm_cluster import LINK, SlurmCluster, left_by_a_killed_run, reason_against

    if folder := left_by_a_killed_run(LINK):
        SlurmCluster(folder).stop()
    if reason := reason_against():
        skip_unless_required("CRYOSEG_REQUIRE_SLURM", reason)
    # Not in pytest's own folder, which nobody else may enter: munge and the database would not.
    cluster = SlurmCluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def skip_unless_required(variable, reason):
    """Skip a test for a reason, or fail it where a variable of the environment is set."""
    if os.environ.get(variable):
        pytest.fail(f"{variable} is set, but {reason}")
    pytest.skip(reason)


def reason_against_root():
    """Why what root alone may do cannot be tried here, or None."""
    if os.geteuid() != 0:
        return "only root can be other people, mount a small disk and limit a control group"
    if missing := [name for name in ("mount", "setpriv") if not shutil.which(name)]:
        return f"util-linux is not here ({', '.join(missing)} missing)"
    return None


def pytest_runtest_setup(item):
    """What is marked as root's is skipped for others, or fails where it is required."""
    if item.get_closest_marker("root") and (reason := reason_against_root()):
        skip_unless_required("CRYOSEG_REQUIRE_ROOT", reason)


def _group(name):
    """The tests that one worker runs one after another: those of a file, or all on the cluster.

    name: of a test, as pytest says it
    """
    file = name.partition("::")[0]
    return "tests/slurm" if file.startswith("tests/slurm/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Hand out whole groups. xdist's own (--dist loadgroup) does not group with this pytest."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            return _group(nodeid)

    return Groups(config, log)


def _rank(item):
    """Where a test comes among those of all workers: what takes long begins early."""
    group = _group(item.nodeid)
    return LONG.index(group) if group in LONG else len(LONG)


def pytest_collection_modifyitems(items):
    """What takes long comes first; what needs a GPU is skipped without one."""
    items.sort(key=_rank)
    for item in items:
        if item.get_closest_marker("slow_cluster"):
            item.add_marker(pytest.mark.timeout(SECONDS_ON_A_CLUSTER))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))

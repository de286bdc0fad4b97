"""What every test shares: the library's place on the path, as Snakemake gives it to scripts."""

import os
import sys
import tempfile
from pathlib import Path

import hypothesis
import pytest

# Machines differ in speed, and the first call of a network is slow everywhere.
hypothesis.settings.register_profile("cryoseg", deadline=None)
hypothesis.settings.load_profile("cryoseg")

REPOSITORY = Path(__file__).resolve().parents[1]
# Groups of tests of minutes, the longest first, so that two workers end at about the same time.
LONG = ("cluster", "test_check", "test_workflow", "test_train_model")
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
    from slurm_cluster import SlurmCluster, reason_against

    if reason := reason_against():
        if os.environ.get("CRYOSEG_REQUIRE_SLURM"):
            pytest.fail(f"CRYOSEG_REQUIRE_SLURM is set, but {reason}")
        pytest.skip(reason)
    # Not in pytest's own folder, which nobody else may enter: munge and the database would not.
    cluster = SlurmCluster(Path(tempfile.mkdtemp(prefix="slurm-")))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _rank(item):
    """Where a test comes among those of two workers: what takes long begins early."""
    group = item.get_closest_marker("xdist_group").args[0]
    return LONG.index(group) if group in LONG else len(LONG)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in its own
def pytest_collection_modifyitems(items):
    """One worker for each file, one for the cluster; what needs a GPU is skipped without one."""
    for item in items:
        group = "cluster" if "cluster" in item.fixturenames else item.path.stem
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_rank)
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))

"""The same inputs give the same files, whoever works and in whatever order."""

import numpy as np
import pytest

from cryoseg.volumes import write_mrc
from determinism import compare, differences


@pytest.mark.slow
def test_order_hash_seed_workers_and_tiles_change_no_file_but_by_rounding(tmp_path):
    assert compare(tmp_path, ("first", "other")) == []


def test_another_byte_is_seen(tmp_path):
    for name, value in (("one", 1), ("other", 2)):
        (tmp_path / name).mkdir()
        write_mrc(tmp_path / name / "a_scaled.mrc", np.full((4, 4, 4), value, np.float32))
    found = differences(tmp_path / "one", tmp_path / "other", same_tiles=True)
    assert next(found) == "a_scaled.mrc: other bytes"

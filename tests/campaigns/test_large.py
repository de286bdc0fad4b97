"""The small form of large.py."""

import re

from large import volume


def test_a_volume_is_scored_and_its_peak_of_memory_told(capsys):
    assert volume((96, 128, 128), memory_gb=0.05) > 1
    shown = capsys.readouterr().out
    assert re.match(r"96 x 128 x 128: \d+ s, peak [\d.]+ GB, \d+ tiles", shown)

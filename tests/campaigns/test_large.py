"""The small form of large.py."""

import re

from large import volume


def test_a_volume_is_scored_and_its_peak_of_memory_told(capsys):
    volume((48, 64, 80))
    shown = capsys.readouterr().out
    assert re.match(r"48 x 64 x 80: \d+ s, peak [\d.]+ GB, \d+ tiles", shown)

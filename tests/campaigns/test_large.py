"""The small form of large.py."""

import re

from large import volume


def test_a_volume_is_scored_and_its_peak_of_memory_told(capsys):
    volume((40, 60, 70))
    shown = capsys.readouterr().out
    assert re.match(r"40 x 60 x 70: \d+ s, peak [\d.]+ GB, \d+ tiles", shown)

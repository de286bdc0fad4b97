"""The small form of large.py."""

import re

from large import STEPS, many, volume


def test_the_time_of_each_kind_of_job_is_told_beside_that_of_its_imports(capsys):
    many(tomograms=2, cores=2)
    shown = capsys.readouterr().out
    for step in STEPS:
        found = re.search(rf"^{step} +(\d+) +([\d.]+) +([\d.]+|nan) +([\d.]+)$", shown, re.M)
        jobs, seconds, _, imports = map(float, found.groups())
        assert jobs >= 2
        assert seconds > 0
        assert imports > 0


def test_a_volume_is_scored_and_its_peak_of_memory_told(capsys):
    volume((40, 60, 70))
    shown = capsys.readouterr().out
    assert re.match(r"40 x 60 x 70: \d+ s, peak [\d.]+ GB, \d+ tiles", shown)

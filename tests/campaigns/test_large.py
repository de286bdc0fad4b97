"""The small form of large.py."""

import re

from large import NARROW, import_seconds, peak_of, run_time, tiny_tomograms, volume

# Seconds of a processor for a job of a tiny tomogram, and beyond its imports: of snakemake, and its
# work. Measured: 0.38 and 0.11; PyTorch alone would be one more.
MOST_OF_A_PROCESSOR, MOST_BEYOND_IMPORTS = 1.0, 0.5
# Within which the peaks of two volumes may differ; the larger one has 100 MB more of float32.
MOST_GROWTH = 30e6


def test_scores_where_tiles_meet_and_at_faces_are_those_of_one_pass(capsys):
    assert volume((100, 130, 132), memory_gb=0.05) > 1
    shown = capsys.readouterr().out
    assert re.match(r"100 x 130 x 132: \d+ s, peak [\d.]+ GB, \d+ tiles", shown)
    assert len(re.findall("steps from one pass", shown)) == 4


def test_memory_does_not_grow_with_a_volume_of_which_a_part_is_scored():
    box = (slice(32, 64),) * 3
    peaks = [
        peak_of(shape, 2, 0.5, sizes=NARROW, box=box, tile_size="32,32,32")[0]
        for shape in ((128, 256, 256), (128, 512, 512))
    ]
    assert peaks[1] - peaks[0] < MOST_GROWTH, peaks


def test_a_job_takes_little_of_a_processor_beside_its_work(tmp_path):
    jobs = 3
    lab = tiny_tomograms(tmp_path, jobs)
    _, planned = run_time(lab, "-n", "scale")
    _, used = run_time(lab, "scale")
    each = (used - planned) / jobs
    assert each < MOST_OF_A_PROCESSOR
    assert each - import_seconds("scale_tomogram") < MOST_BEYOND_IMPORTS

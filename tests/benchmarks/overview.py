"""How large an overview of many tomograms is, and how long a browser takes to show and sort it.

    python tests/benchmarks/overview.py [--tomograms 2000]

The tomograms are simulated: one section of noise and particles each, with five classes.
"""

import argparse
import base64
import re
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path += [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]

from scipy.ndimage import gaussian_filter  # noqa: E402

from browser import open_page  # noqa: E402
from cryoseg.figures import draw_thumbnail, jpeg_bytes  # noqa: E402
from cryoseg.overview import overview_table  # noqa: E402
from cryoseg.table_page import table_page  # noqa: E402

CLASSES = ("membrane", "ribosome", "actin", "microtubule", "proteasome")
# In milliseconds since the page was asked for.
TIMES = """
  document.querySelector("tbody").getBoundingClientRect();
  const painted = performance.now();
  [...document.querySelectorAll("th button")].at(-1).click();
  document.querySelector("tbody").getBoundingClientRect();
  const sorted = performance.now() - painted;
  document.title = `times ${painted} ${sorted} ${performance.memory.usedJSHeapSize}`;
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tomograms", type=int, default=2000)
    count = parser.parse_args().tomograms
    rng = np.random.default_rng(0)
    images = [thumbnail(rng) for _ in range(20)]
    summaries = [summary(number, images[number % len(images)], rng) for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "overview.html")
        started = time.perf_counter()
        table = overview_table(summaries, [f"TS_{number}.png" for number in range(count)])
        page.write_text(table_page("Predicted tomograms", *table), encoding="utf-8")
        written = time.perf_counter() - started
        shown = open_page(page, script=TIMES, waits=False)
        painted, ordered, heap = re.search(r"<title>times (\S+) (\S+) (\S+)<", shown.dom).groups()
        print(f"{count} tomograms, thumbnails of {len(images[0]) / 1000:.1f} kB in base64")
        print(f"written in {written:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
        print(f"shown after {float(painted) / 1000:.2f} s, sorted in {float(ordered) / 1000:.2f} s")
        print(f"memory of its scripts: {float(heap) / 1e6:.0f} MB")


def thumbnail(rng):
    """A thumbnail in base64."""
    section = gaussian_filter(rng.normal(size=(1, 928, 928)), (0, 2, 2)).astype(np.float32)
    labels = (section > 2.5 * section.std()) * rng.integers(1, 6, section.shape)
    image = draw_thumbnail(section, np.ones_like(labels), labels, (10.0,) * 3, 0)
    return base64.b64encode(jpeg_bytes(image)).decode()


def summary(number, image, rng):
    """What draw_prediction writes of a tomogram."""
    classes = [
        {
            "label": label,
            "name": name,
            "voxels": 10**6,
            "volume": volume,
            "part": volume / 1e9,
            "probability": 0.8,
        }
        for label, (name, volume) in enumerate(
            zip(CLASSES, 1e6 * rng.lognormal(0, 0.3, len(CLASSES)), strict=True), start=1
        )
    ]
    return {
        "tomogram": f"TS_{number}",
        "stage": "semantic",
        "shape": [464, 928, 960],
        "voxel_size": [10.0, 10.0, 10.0],
        "classes": classes,
        "probability": 0.8 + 0.03 * rng.normal(),
        "seconds": 100 * rng.random(),
        "warnings": [],
        "thumbnail": image,
    }


if __name__ == "__main__":
    main()

"""Pages opened in a real browser, without a window: what it makes of them and what it says."""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
# What libraries say that Snakemake's report carries; it is no error.
HARMLESS = (
    "cdn.tailwindcss.com should not be used in production",
    "The input spec uses Vega-Lite v3, but the current version of Vega-Lite is",
)
MESSAGE = re.compile(r":CONSOLE[:(]\d+\)?\] \"(.*?)\", source: ", re.DOTALL)
DEADLINE = 120


@dataclass(frozen=True)
class Page:
    """A page after its scripts ran.

    dom:     its HTML then
    console: what it wrote to the browser's console, errors among it
    """

    dom: str
    console: list


def open_page(path, fragment="", script="", screenshot=None, waits=True):
    """Open an HTML file in Chromium, with no network, and return the Page.

    fragment:   what follows # in the address
    script:     JavaScript that runs at the end of the page, of which a copy is opened then; it may
                wait, for ten seconds that pass at once
    screenshot: PNG file to write, if any; then the DOM is not returned
    waits:      let time pass at once; without, clocks are right, and nothing is waited for
    Skips the test where there is no Chromium, unless CRYOSEG_REQUIRE_CHROMIUM is set.
    """
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        reason = "no Chromium here: apt-get install chromium"
        if os.environ.get("CRYOSEG_REQUIRE_CHROMIUM"):
            pytest.fail(f"CRYOSEG_REQUIRE_CHROMIUM is set, but there is {reason}")
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder:
        if script:
            text = Path(path).read_text(encoding="utf-8")
            path = Path(folder, "page.html")
            path.write_text(f"{text}\n<script>{script}</script>\n", encoding="utf-8")
        # No sandbox: that of Chromium does not work for root. Nothing is looked up.
        run = subprocess.run(
            [
                *(program, "--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"),
                *(f"--user-data-dir={folder}/profile", "--window-size=1400,1000"),
                *(["--virtual-time-budget=10000"] if waits else []),
                "--enable-logging=stderr",
                f"--screenshot={screenshot}" if screenshot else "--dump-dom",
                Path(path).resolve().as_uri() + (f"#{fragment}" if fragment else ""),
            ],
            capture_output=True,
            text=True,
            timeout=DEADLINE,
        )
    assert run.returncode == 0, run.stderr
    said = MESSAGE.findall(run.stderr)
    return Page(run.stdout, [line for line in said if not any(h in line for h in HARMLESS)])

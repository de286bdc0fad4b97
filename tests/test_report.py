"""The report of a run and the overview, made by snakemake, looked at in a browser."""

import csv
import html
import json
import os
import re
import subprocess
import sys
import zipfile
from urllib.parse import unquote
from urllib.request import urlopen

import pytest
import yaml

from browser import open_page
from cryoseg.configuration import read_configuration
from cryoseg.plan_report import (
    MOST_IN_REPORT,
    drawing,
    figures_in_report,
    names_to_draw,
    overview_files,
    summaries,
)
from test_training_workflow import TrainingLab, training
from test_workflow import RAW, stage_file

ODD = "-o 'd é [1] {1} $x$ <B>&* %s"
NAMES = ("TS_1", ODD)
MODEL = "runs/semantic/model/model_best.ckpt"
# Goes through the report as a reader does, and writes down what there is to see.
WALK = """
  const seen = { categories: {}, pictures: {}, pages: {}, top: 0 };
  const wait = (time) => new Promise((go) => setTimeout(go, time));
  async function walk() {
    await wait(500);
    seen.description = document.querySelector(".prose").textContent;
    app.setView({ content: "stats" });
    await wait(500);
    seen.statistics = document.querySelectorAll("canvas, svg.marks").length;
    for (const [category, parts] of Object.entries(categories)) {
      for (const subcategory of Object.keys(parts)) {
        app.setView({ navbarMode: "menu" });
        await wait(100);
        app.setView({ navbarMode: "subcategory", category, subcategory });
        await wait(100);
        seen.categories[`${category}, ${subcategory}`] = [...document.querySelectorAll("tbody tr")]
          .map((row) => row.cells[0].textContent);
        for (const button of document.querySelectorAll("tbody a:first-child:not([download])")) {
          const shows = button.closest("tr").cells[0].textContent;
          button.click();
          await wait(200);
          const image = [...document.images].find((each) => each.src.startsWith("data:image/png"));
          if (image) {
            seen.pictures[image.src] = image.naturalWidth;
            seen.top = Math.min(seen.top, image.getBoundingClientRect().top);
          }
          const frame = document.querySelector("iframe");
          if (frame) seen.pages[`${category}, ${shows}`] = frame.src;
        }
      }
    }
    seen.captions = Object.fromEntries(Object.entries(results).map(([k, v]) => [k, v.caption]));
    const found = document.createElement("pre");
    found.textContent = JSON.stringify(seen);
    document.body.replaceChildren(found);
  }
  walk();
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A training on two tomograms, both predicted, drawn, and evaluated to choose thresholds."""
    lab = TrainingLab(tmp_path_factory.mktemp("report"))
    lab.write_config(
        train={"semantic": "config/train.yaml"}, predict={"semantic": "config/semantic.yaml"}
    )
    folders = {"data_folder": RAW, "labels_folder": "labels/truth"}
    entry = training(**folders, selected_labels=None, val_files=[f"{ODD}.mrc"])
    del entry["labels_folder_for_filtering"]
    entry["parameters"]["network"]["out_channels"] = 4
    entry["parameters"]["data"] |= {"min": -10, "max": 10}
    lab.write_yaml("config/train.yaml", entry)
    stage = stage_file("semantic", data_folder=RAW, mask_folder=None, trained_model=MODEL)
    stage["parameters"]["network"]["threshold"] = 0
    stage["parameters"]["data"] |= {"min": -10, "max": 10}
    stage |= {"class_names": ["membrane", "<i>", "actin"]}
    stage |= {"evaluate": {"labels_folder": "labels/truth", "choose_thresholds": True}}
    lab.write_yaml("config/semantic.yaml", stage)
    for seed, name in enumerate(NAMES):
        lab.write_labels(name, seed)
    lab.run("overview", "thresholds")
    return lab


def seen_in(path):
    """What WALK found in a report."""
    page = open_page(path, script=WALK)
    assert page.console == []
    (found,) = re.findall(r"<body[^>]*><pre>(.*?)</pre>", page.dom, re.S)
    return json.loads(html.unescape(found))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def a_check(lab):
    """A cell of the checks: the median of a tomogram."""
    return f">{float(rows_of(lab.folder / 'checks/raw_data.tsv')[1]['median']):.4g}<"


def a_dice(lab):
    """A cell of the evaluation: a mean Dice."""
    table = rows_of(lab.folder / "predictions/semantic/evaluation/summary.tsv")
    (mean,) = [row["mean"] for row in table if (row["label"], row["measure"]) == ("1", "dice")]
    return f">{float(mean):.4g}<"


SHOWN = {
    "Overview, all tomograms": lambda lab: NAMES[0],
    "Checks, raw_data": a_check,
    "Evaluation, summary": a_dice,
}


def text_of(address, path):
    """What a browser makes of a page that stands in a report as an address."""
    path.write_bytes(urlopen(address).read())
    page = open_page(path)
    assert page.console == []
    return page.dom


def test_the_overview_shows_each_tomogram(lab):
    rows = rows_of(lab.folder / "overview.tsv")
    assert {row["tomogram"] for row in rows} == set(NAMES)
    assert float(rows[0]["scoring, s"]) > 0
    page = open_page(lab.folder / "overview.html")
    assert page.console == []
    for link in re.findall(r'<a href="(.*?)"', page.dom):
        assert (lab.folder / unquote(link)).exists()
    for name in (*NAMES, "<i>"):
        assert html.escape(name, quote=False) in page.dom
    sha = re.search(r"checkpoint, SHA-256</dt><dd>([0-9a-f]{64})</dd>", page.dom)
    assert sha


def test_nothing_is_done_again(lab):
    assert lab.plan("overview") == set()


def test_a_renamed_class_draws_anew_and_computes_nothing(lab):
    path = lab.folder / "config" / "semantic.yaml"
    text = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(text) | {"class_names": ["A", "B", "C"]}))
    rules = ("semantic_draw_prediction", "semantic_evaluate_labels")
    expected = {(rule, name) for rule in rules for name in NAMES}
    expected |= {("write_overview", None), ("semantic_summarise_evaluation", None)}
    assert lab.plan("overview") - {("overview", None)} == expected
    path.write_text(text)


def test_the_report_is_made_without_a_network_and_shows_the_figures(lab):
    command = lab.command("--report", "report.html", "overview", "thresholds")
    # No connection can be made: everything that the report needs is installed.
    deaf = "import socket, sys; socket.socket.connect = None; socket.create_connection = None"
    main = f"{deaf}; sys.argv[1:] = {command[3:]!r}; from snakemake.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", main], cwd=lab.folder, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    seen = seen_in(lab.folder / "report.html")
    assert "made by cryoseg" in seen["description"]
    assert seen["statistics"] > 0
    assert seen["categories"] == {
        "Checks, Other": ["raw_data", "raw_data as a table (TSV)"],
        "Evaluation, semantic": ["summary", "summary as a table (TSV)", "thresholds"],
        "Overview, Other": ["all tomograms", "the same as a table (TSV)"],
        "Predictions, semantic": sorted(NAMES),
        "Training, semantic": ["augmented samples", "curves", "split"],
    }
    for category in {name.split(", ")[0] for name in seen["categories"]}:
        assert category in seen["description"]  # which says what is in it
    assert len(seen["pictures"]) == 6
    assert min(seen["pictures"].values()) > 500
    assert seen["top"] >= 0  # also of figures that are higher than the window
    assert seen["pages"].keys() == set(SHOWN)
    for name, value in SHOWN.items():
        assert value(lab) in text_of(seen["pages"][name], lab.folder / "page.html")
    assert all(len(caption) > 50 for caption in seen["captions"].values())
    assert not any("System Message" in caption for caption in seen["captions"].values())


def test_the_report_as_a_folder_holds_the_figures(lab):
    lab.run("--report", "report.zip", "overview")
    with zipfile.ZipFile(lab.folder / "report.zip") as archive:
        names = {os.path.basename(name) for name in archive.namelist()}
    assert {"report.html", "overview.html", "split.png", *(f"{n}.png" for n in NAMES)} <= names


# What is drawn


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Reads a configuration of a lamella stage and others that may use its masks."""
    monkeypatch.chdir(tmp_path)

    def read(**others):
        (tmp_path / "raw").mkdir(exist_ok=True)
        for number in range(3):
            (tmp_path / "raw" / f"TS_{number}.mrc").touch()
        entries = {"lamella": {}} | others
        for name, changes in entries.items():
            (tmp_path / f"{name}.ckpt").touch()
            stage = stage_file("lamella", data_folder="raw", trained_model=f"{name}.ckpt",
                               prediction_folder=f"predictions/{name}")  # fmt: skip
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(stage | changes))
        return read_configuration({"predict": {name: f"{name}.yaml" for name in entries}})[0]

    return read


def test_a_lamella_alone_is_drawn_alone(stages):
    found = stages()
    assert names_to_draw(found, "lamella") == ["TS_0", "TS_1", "TS_2"]
    assert overview_files(found) == [*summaries(found), "overview.html", "overview.tsv"]
    assert len(summaries(found)) == 3


def test_a_lamella_is_drawn_with_the_classes_within_it(stages):
    masked = {"mask_folder": "predictions/lamella", "test_files": ["TS_0.mrc", "TS_2.mrc"]}
    found = stages(semantic=masked, other={})
    assert names_to_draw(found, "lamella") == ["TS_1"]
    assert names_to_draw(found, "semantic") == ["TS_0", "TS_2"]
    assert len(summaries(found)) == 1 + 2 + 3
    assert drawing(found, "lamella")["lamella"]
    assert not drawing(found, "semantic")["lamella"]
    check, *logs = drawing(found, "semantic")["logs"]
    assert check == "logs/raw/check_tomogram"
    assert logs == [
        f"logs/{s}/{r}_voxels" for s in ("lamella", "semantic") for r in ("score", "label")
    ]


def test_figures_of_many_tomograms_stay_out_of_the_report(stages, tmp_path):
    assert figures_in_report(stages())
    for number in range(MOST_IN_REPORT + 1):
        (tmp_path / "raw" / f"TS_{number}.mrc").touch()
    assert not figures_in_report(stages())

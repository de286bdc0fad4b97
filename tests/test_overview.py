"""The overview shows all tomograms, what stands out first, and takes any name for a name."""

import base64
import csv
import html
import json
import math
import re

import numpy as np
import pytest

from browser import open_page
from cryoseg.figures import jpeg_bytes
from cryoseg.overview import (
    OUTLYING,
    find_outliers,
    made_with_table,
    overview_table,
    robust_scores,
)
from cryoseg.table_page import address, details, plain_table_page, table_page
from cryoseg.unmade import Unmade, write_unmade
from write_overview import write_overview

HOSTILE = "<img src=x onerror=console.error(1)> \"q\" 'q' & é </script> <!-- @@MORE@@ #?%20\u2028"
CLASSES = {"lamella": (0.5, 5e6), "membrane": (0.1, 5e5), "ribosome": (0.02, 1e5)}


def summary(name, **changes):
    """What draw_prediction writes of a tomogram."""
    classes = [
        {
            "label": label,
            "name": each,
            "voxels": 100,
            "volume": volume,
            "part": part,
            "probability": None,
        }
        for label, (each, (part, volume)) in zip((None, 1, 2), CLASSES.items(), strict=True)
    ]
    return {
        "tomogram": name,
        "stage": "semantic",
        "shape": [24, 32, 40],
        "voxel_size": [10.0, 10.0, 10.0],
        "classes": classes,
        "probability": 0.8,
        "seconds": 12.5,
        "warnings": [],
        "made_with": {
            "checkpoint_sha256": "ab12",
            "settings": {"label_voxels": {"threshold": 0.1}},
            "versions": {"label_voxels": {"cryoseg": "1.0"}},
        },
        "thumbnail": "",
    } | changes


def several(number):
    """Summaries that differ a little, as tomograms do."""
    rng = np.random.default_rng(0)
    found = []
    for count in range(number):
        each = summary(f"TS_{count + 1}", probability=0.8 + 0.01 * rng.normal())
        for part in each["classes"]:
            part["part"] *= math.exp(0.1 * rng.normal())
            part["volume"] *= 1 + 0.1 * rng.random()
        found.append(each)
    return found


# What stands out


def test_scores_are_those_of_iglewicz_and_hoaglin():
    values = [2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3]  # median 2.45, deviation 0.15
    scores = robust_scores(values)
    np.testing.assert_allclose(scores, 0.6745 * (np.array(values) - 2.45) / 0.15)
    assert list(np.flatnonzero(np.abs(scores) > OUTLYING)) == [8, 9]


def test_one_other_value_among_equal_ones_stands_out():
    scores = robust_scores([1.0] * 9 + [5.0])
    np.testing.assert_array_equal(scores[:9], 0)
    assert scores[9] == pytest.approx(4 / (0.4 * 1.2533))


def test_equal_few_and_unknown_values_do_not_stand_out():
    np.testing.assert_array_equal(robust_scores([1.0] * 9), 0)
    np.testing.assert_array_equal(robust_scores([1, 2, 1, 2, 99]), 0)
    assert np.isnan(robust_scores([*range(10), np.nan])[10])


def test_an_outlier_is_named_with_what_is_usual():
    found = several(20)
    found[7]["classes"][1]["part"] = 0
    found[9]["probability"] = 0.3
    reasons = find_outliers(found)
    ((key, score, sentence),) = reasons[7]
    assert key == "volume of label 1, membrane, nm³"
    assert score < -OUTLYING
    assert re.fullmatch(
        r"membrane: takes almost nothing, usually (9|10|11).* % \(z = -.*\)", sentence
    )
    assert reasons[9][0][2].startswith("mean probability 0.300, usually 0.8")
    assert sum(map(bool, reasons)) == 2


def test_tomograms_are_compared_with_those_of_their_own_stage():
    other = [summary(f"TS_{n}", stage="particles", probability=0.1) for n in range(3)]
    assert not any(find_outliers(several(20) + other))


def test_a_tomogram_of_unknown_voxel_size_is_counted_in_voxels():
    found = summary("TS_1", voxel_size=None)
    for each in found["classes"]:
        each["volume"] = None
    columns, rows = overview_table([found, summary("TS_2")], ["a", "b"])
    units = {(c["name"], c["unit"]) for c in columns if "volume" in c["key"]}
    assert {("membrane", "voxels"), ("membrane", "nm³")} <= units
    by_name = {row["tomogram"]: row for row in rows}
    assert by_name["TS_1"]["volume of label 1, membrane, voxels"] == 100
    assert by_name["TS_2"]["volume of label 1, membrane, nm³"] == 5e5


def test_a_class_called_lamella_is_not_the_lamella(written):
    found = several(20)
    for each in found:
        each["classes"][1]["name"] = "lamella"
    found[7]["classes"][1]["part"] = 0
    with open(written(found) / "overview.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows[0]["tomogram"] == "TS_8"
    assert re.match(r"lamella \(label 1\): takes almost nothing, usually", rows[0]["stands out"])
    volumes = [float(rows[0][f"{name}, nm³"]) for name in ("lamella", "lamella (label 1)")]
    assert volumes == pytest.approx([each["volume"] for each in found[7]["classes"][:2]])


def test_names_of_other_stages_do_not_share_a_column_with_other_classes():
    one, other = summary("TS_1"), summary("TS_1", stage="particles")
    other["classes"] = [other["classes"][1] | {"name": "filament"}]
    columns, rows = overview_table([one, other], ["a", "b"])
    names = [column["name"] for column in columns if column["key"].startswith("volume of")]
    assert names == [*CLASSES, "filament"]
    assert "volume of label 1, membrane, nm³" not in rows[1]


def test_outliers_come_first_then_warnings_then_the_others():
    found = several(20)
    found[12]["warnings"] = ["TS_13: no voxel gets a label"]
    found[17]["classes"][2]["part"] = 0.4
    _, rows = overview_table(found, ["x"] * 20)
    assert [row["tomogram"] for row in rows[:3]] == ["TS_18", "TS_13", "TS_1"]


def test_predictions_made_in_different_ways_are_told_apart():
    other = summary("TS_3")
    other["made_with"] = other["made_with"] | {"checkpoint_sha256": "cd34"}
    first, second = made_with_table([summary("TS_1"), summary("TS_2"), other])
    assert first[:2] == ("semantic", 2)
    assert ("checkpoint, SHA-256", "cd34") in second[2]
    assert ("settings of label_voxels", "threshold: 0.1") in second[2]


# The files


@pytest.fixture
def written(tmp_path):
    """Writes summaries, and returns the folder of the overview.

    unmade: {name: Unmade} of further tomograms, which have no summary; no_files: {name: what}
    """

    def write(found, unmade=None, no_files=None):
        folder = tmp_path / "predictions é" / "pictures"
        (folder / "summaries").mkdir(parents=True)
        image = np.random.default_rng(0).integers(0, 255, (30, 40, 3)).astype(np.uint8)
        thumbnail = base64.b64encode(jpeg_bytes(image)).decode()
        paths = []
        for number, each in enumerate(found):
            paths.append(folder / "summaries" / f"{number} #?.json")
            paths[-1].write_text(json.dumps(each | {"thumbnail": thumbnail}))
        lacking = {
            str(folder / "summaries" / f"{name}.json"): why for name, why in (unmade or {}).items()
        }
        write_unmade(tmp_path / "unmade.json", lacking)
        write_overview(
            [*paths, *lacking], tmp_path / "overview.html", tmp_path / "overview.tsv",
            settings={
                "stages": {str(folder.parent): "semantic"},
                "no_files": {"semantic": no_files or {}},
            },
            unmade=tmp_path / "unmade.json",
        )  # fmt: skip
        return tmp_path

    return write


def names_shown(page):
    """Names of the tomograms in the order of the rows."""
    cells = re.findall(
        r'<tr><td class="picture">.*?</td><td class="text">(.*?)</td>', page.dom, re.S
    )
    return [html.unescape(cell) for cell in cells]


def test_the_table_has_what_the_page_shows(written):
    found = several(5)
    found[2]["warnings"] = ["one", "two"]
    with open(written(found) / "overview.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows[0]["tomogram"] == "TS_3"
    assert rows[0]["warnings"] == "one; two"
    assert float(rows[0]["membrane, nm³"]) == pytest.approx(found[2]["classes"][1]["volume"])


def test_what_was_not_predicted_has_a_row_before_all_others_that_says_why(written):
    found = several(12)
    found[4]["probability"] = 0.1
    folder = written(
        found,
        {
            "TS_13": Unmade("raw_admit_to_predict", HOSTILE),
            "TS_14": Unmade("semantic_draw_prediction", "out of memory"),
        },
        {"TS_15": "it is a folder"},
    )
    with open(folder / "overview.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 15
    assert [row["tomogram"] for row in rows[:4]] == ["TS_13", "TS_14", "TS_15", "TS_5"]
    assert rows[0]["stands out"] == f"not predicted: {HOSTILE}"
    assert rows[1]["stands out"] == "not drawn: out of memory"
    assert rows[2]["stands out"] == "not predicted: it is a folder"
    assert (rows[0]["stage"], rows[0]["probability, mean"]) == ("semantic", "")
    for sorting in ("", "sort=outlying", "sort=probability", "sort=picture", "only=1"):
        page = open_page(folder / "overview.html", sorting)
        assert page.console == []
        assert {"TS_13", "TS_14", "TS_5"} <= set(names_shown(page))
        assert html.escape(f"not predicted: {HOSTILE}", quote=False) in page.dom


def test_a_file_that_is_missing_and_not_listed_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_overview(
            tmp_path / "a/pictures/summaries/TS_1.json", tmp_path / "o.html", tmp_path / "o.tsv",
            settings={"stages": {str(tmp_path / "a"): "semantic"}, "no_files": {}},
            unmade=tmp_path / "none",
        )  # fmt: skip


def test_the_page_links_to_the_figures_beside_it(written):
    page = open_page(written(several(2)) / "overview.html")
    links = re.findall(r'<a href="(.*?)"', page.dom)
    assert links == [f"predictions%20%C3%A9/pictures/{n}%20%23%3F.png" for n in (0, 1)]


def test_a_browser_shows_all_in_the_first_order_without_an_error(written):
    found = several(12)
    found[4]["probability"] = 0.1
    folder = written(found)
    script = """
      const images = [...document.images].map((image) => image.decode());
      Promise.all(images).then(() => { document.title = `${images.length} pictures`; });
    """
    page = open_page(folder / "overview.html", script=script)
    assert page.console == []
    assert names_shown(page) == ["TS_5", *(f"TS_{n}" for n in range(1, 13) if n != 5)]
    assert "<title>12 pictures</title>" in page.dom
    assert page.dom.count('class="number marked"') == 1


def test_the_address_says_how_rows_are_sorted_and_which_are_shown(written):
    found = several(12)
    for number, each in enumerate(found):
        each["seconds"] = None if number == 0 else float(number)
    found[6]["warnings"] = ["TS_7: the mask is empty"]
    in_order = [f"TS_{n}" for n in range(1, 13)]
    expected = {
        "sort=tomogram": in_order,
        "sort=tomogram&down=1": in_order[::-1],
        "sort=seconds&down=1&find=ts_1": ["TS_12", "TS_11", "TS_10", "TS_1"],
        "sort=seconds&find=no+such": [],
        "only=1": ["TS_7"],
    }
    script = f"""
      const seen = {{}};
      async function visit() {{
        for (const fragment of {json.dumps(list(expected))}) {{
          location.hash = fragment;
          await new Promise((go) => setTimeout(go, 100));
          const cells = [...document.querySelectorAll("tbody td:nth-child(2)")];
          seen[fragment] = cells.map((cell) => cell.textContent);
        }}
        document.body.append(Object.assign(document.createElement("pre"),
          {{ textContent: JSON.stringify(seen) }}));
      }}
      visit();
    """
    page = open_page(written(found) / "overview.html", script=script)
    (seen,) = re.findall(r"<pre>(.*?)</pre>", page.dom)
    assert json.loads(html.unescape(seen)) == expected
    assert page.console == []


def test_an_opened_address_is_heeded(written):
    page = open_page(
        written(several(4)) / "overview.html", "sort=tomogram&down=1&find=semantic+ts_3"
    )
    assert names_shown(page) == ["TS_3"]


def test_a_click_on_a_heading_sorts_and_says_so(written):
    click = """
      const button = [...document.querySelectorAll("th button")]
        .find((each) => each.textContent.startsWith("tomogram"));
      button.click(); button.click();
    """
    page = open_page(written(several(3)) / "overview.html", script=click)
    assert names_shown(page) == ["TS_3", "TS_2", "TS_1"]
    assert page.dom.count('aria-sort="descending"') == 1
    assert page.console == []


def test_a_name_is_shown_as_it_is_whatever_it_holds(written):
    found = several(3)
    found[1] |= {"tomogram": HOSTILE, "stage": HOSTILE, "warnings": [HOSTILE]}
    found[1]["classes"][1]["name"] = HOSTILE
    page = open_page(written(found) / "overview.html")
    assert page.console == []
    assert names_shown(page)[0] == HOSTILE
    assert f"{html.escape(HOSTILE, quote=False)}</li>" in page.dom
    assert "<img src=x" not in page.dom
    assert not re.search(r"<script>[^<]*onerror", page.dom)


def test_rows_are_made_as_one_scrolls(written):
    folder = written(several(300))
    assert len(names_shown(open_page(folder / "overview.html"))) < 150
    # Where nothing is drawn, the browser tells of few of the movements.
    down = """
      for (let times = 0; times < 20; times += 1) {
        window.scrollTo(0, document.body.scrollHeight);
        window.dispatchEvent(new Event("scroll"));
      }
    """
    assert len(names_shown(open_page(folder / "overview.html", script=down))) == 300


def test_the_page_asks_for_nothing_from_elsewhere(written):
    text = (written(several(3)) / "overview.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|url\(", text)


def test_what_stands_below_the_table_is_escaped():
    page = table_page(HOSTILE, [], [], about=HOSTILE, more=details(HOSTILE, [(HOSTILE, HOSTILE)]))
    assert page.count(html.escape(HOSTILE)) == 6
    assert "<img src=x" not in page


def test_an_address_is_quoted():
    assert address("a b/é#?%.png") == "a%20b/%C3%A9%23%3F%25.png"


def test_a_plain_table_shows_numbers_as_numbers_and_nothing_where_there_is_none(tmp_path):
    rows = [{"name": HOSTILE, "dice": 0.81234, "mixed": 1}, {"name": "b", "dice": math.nan}]
    rows[1]["mixed"] = math.inf
    path = tmp_path / "page.html"
    path.write_text(plain_table_page("T", ["name", "dice", "mixed"], rows), encoding="utf-8")
    page = open_page(path)
    assert page.console == []
    assert html.escape(HOSTILE, quote=False) in page.dom
    for cell in ('"number">0.8123<', '"number"><', '"text">1<', '"text">inf<'):
        assert f"<td class={cell}" in page.dom

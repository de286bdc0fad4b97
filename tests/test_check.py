"""What is wrong with a tomogram is named before anything expensive begins, and stops it alone."""

import csv
import html
import json
import os
import re
import shutil
import struct
from pathlib import Path
from urllib.parse import unquote

import h5py
import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from admit_tomogram import admit_tomogram
from browser import open_page
from check_tomogram import check_tomogram
from conftest import REPOSITORY
from cryoseg.errors import InputError
from cryoseg.findings import Finding
from cryoseg.intensities import statistics
from cryoseg.name_checks import companion_name_findings, look_alikes, tomogram_name_findings
from cryoseg.plan_checks import check_names
from cryoseg.simulation import simulate
from cryoseg.stages import Stages
from cryoseg.tomogram_checks import polarity
from cryoseg.volumes import open_volume, write_mrc
from tabulate_checks import name_findings
from test_workflow import STAGES, Lab, stage_file, steps

SHAPE = (12, 16, 20)
PREDICT = {"section": "predict", "min": 0, "max": 1}
TRAIN = {
    "section": "train",
    "min": 0,
    "max": 1,
    "out_channels": 3,
    "patch_size": [8, 8, 8],
    "filtered": False,
    "selected_labels": None,
    "relabel": False,
}
POSITIONS = {
    "labels_of_files": None,
    "labels": 1,
    "coordinate_voxel_size": None,
    "name_suffix": "",
    "per_tomogram": False,
    "allow_empty": False,
}


def healthy_voxels(seed=0):
    return np.random.default_rng(seed).uniform(size=SHAPE).astype(np.float32)


def write(path, voxels=None, voxel_size=10):
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(healthy_voxels() if voxels is None else voxels)
        mrc.voxel_size = voxel_size


def changed(change, voxel_size=10):
    """Write a healthy tomogram whose voxels are changed."""

    def make(path):
        voxels = healthy_voxels()
        voxels = voxels if (new := change(voxels)) is None else new
        write(path, voxels, voxel_size)

    return make


def patched(*patches):
    """Write a healthy tomogram, and then bytes of the file: (offset, bytes)."""

    def make(path):
        write(path)
        with open(path, "r+b") as file:
            for offset, content in patches:
                file.seek(offset)
                file.write(content)

    return make


def content(data):
    return lambda path: path.write_bytes(data)


def cut(byte_count):
    def make(path):
        write(path)
        path.write_bytes(path.read_bytes()[:byte_count])

    return make


def appended(path):
    write(path)
    with open(path, "ab") as file:
        file.write(bytes(10))


def put(value, count=1):
    """Change the first voxels."""

    def change(voxels):
        voxels.ravel()[:count] = value

    return change


def half_zero(voxels):
    voxels[6:] = 0


def sparse_and_dark(voxels):
    voxels[...] = 0.8 + 0.05 * (voxels - 0.5)
    voxels[4:8, 4:8, 4:8] -= 0.7


def whole(x, y, z):
    return (0, struct.pack("<3i", x, y, z))


E, W = "error", "warning"
TOMOGRAMS = {
    "text": (content(b"tomogram,x,y,z\n" * 100), E, r"MRC mode \d+ is not read"),
    "no bytes": (content(b""), E, "the file has 0 bytes, an MRC header alone has 1024"),
    "half a header": (cut(500), E, "the file has 500 bytes"),
    "a header alone": (cut(1024), E, "the file is truncated: 12 x 16 x 20 voxels"),
    "a byte too few": (cut(1023 + 4 * 12 * 16 * 20), E, "the file is truncated"),
    "no file": (lambda path: None, E, "cannot be read .No such file"),
    "a folder": (Path.mkdir, E, "there is no such file"),
    "a link to itself": (lambda path: path.symlink_to(path), E, "cannot be read .Too many levels"),
    "complex numbers": (patched((12, struct.pack("<i", 4))), E, "mode 4 holds complex numbers"),
    "packed bits": (patched((12, struct.pack("<i", 101))), E, "MRC mode 101 is not read"),
    "a negative size": (patched(whole(20, -16, 12)), E, "gives a size of 12 x -16 x 20"),
    "more voxels than 64 bits count": (patched(whole(*[2**31 - 1] * 3)), E, "is truncated"),
    "a negative extension": (patched((92, struct.pack("<i", -8))), E, "gives a size of"),
    "a stack of volumes": (patched((88, struct.pack("<i", 401))), E, "a stack of volumes"),
    "an image": (patched(whole(20, 192, 1), (88, bytes(4))), E, "a single 2D image"),
    "NaN": (changed(put(np.nan, 3)), E, "3 of 3840 voxels are NaN or infinite"),
    "an infinity": (changed(put(-np.inf)), E, "1 of 3840 voxels are NaN or infinite"),
    "nothing but NaN": (changed(put(np.nan, 3840)), E, "3840 of 3840 voxels are NaN"),
    "one value": (changed(put(0.5, 3840)), E, "every voxel is 0.5"),
    "never scaled": (changed(lambda v: 100 * v - 30), E, r"9\d.\d% of the voxels lie outside"),
    "a few outside": (changed(put(3, 100)), W, r"2.6% of the voxels lie outside"),
    "hardly any contrast": (changed(lambda v: v / 100), W, "next to nothing of parameters.data"),
    "a second half of zeros": (changed(half_zero), W, "6 of 12 sections hold one value each"),
    "dark protein": (changed(sparse_and_dark), W, "protein seems to be black"),
    "bytes behind": (appended, W, "10 bytes after the data are ignored"),
    "no letters MAP": (patched((208, bytes(4))), W, "the header lacks the letters MAP"),
    "no machine stamp": (patched((212, b"\x07\x07")), W, "little-endian is assumed"),
    "a wrong stamp": (patched((212, b"\x11\x11")), W, "the machine stamp contradicts the mode"),
    "other axes": (patched((64, struct.pack("<3i", 3, 2, 1))), W, r"axis order \(3, 2, 1\)"),
    "no voxel size": (changed(lambda v: v, 0), W, "the header has no voxel size"),
    "a voxel size of NaN": (changed(lambda v: v, np.nan), W, "the header has no voxel size"),
    "a voxel size of 1": (changed(lambda v: v, 1), W, "the header says 1 Angstrom per voxel"),
    "voxels that are no cubes": (changed(lambda v: v, (10, 10, 12)), W, "not cubes"),
    "unsigned bytes": (
        lambda path: (
            write(path, (2 * healthy_voxels()).astype(np.int8)),
            patched_bytes(path, 152, struct.pack("<2i", 1146047817, 0)),
        ),
        W,
        "bytes are read as unsigned",
    ),
}


def patched_bytes(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def labels(change, voxel_size=10):
    """Write labels of two classes that are changed."""

    def make(path):
        voxels = np.zeros(SHAPE, np.int8)
        voxels[2:6, 2:6, 2:6], voxels[6:9, 6:9, 6:9] = 1, 2
        write(path, voxels if (new := change(voxels)) is None else new, voxel_size)

    return make


LABELS = {
    "another shape": (labels(lambda v: v[:6]), {}, E, "labels are 6 x 16 x 20, tomogram is 12 x"),
    "other voxels": (labels(lambda v: v, 20), {}, W, "labels are of voxels of 20 x 20 x 20"),
    "a class too many": (labels(put(3, 7)), {}, E, "7 voxels have label 3"),
    "a negative label": (
        labels(lambda v: v.astype(np.int16) - 1), {}, E, "labels are -1 to 1; they must",
    ),
    "fractions": (labels(lambda v: v.astype(np.float32) / 2), {}, E, "hold no whole number"),
    "nothing labelled": (labels(lambda v: 0 * v), {}, W, "no voxel has a label of 1 or more"),
    "nothing but ignored": (labels(lambda v: 0 * v - 1), {}, W, "no voxel has a label of 1"),
    "text": (content(b"1,2,3\n" * 500), {}, E, r"MRC mode \d+ is not read"),
    "a label that is selected and nowhere": (
        labels(lambda v: v), {"filtered": True, "selected_labels": [1, 5], "relabel": True}, W,
        "selected label 5 occurs nowhere",
    ),
    "patches larger than the tomogram": (
        labels(lambda v: v), {"patch_size": [16, 16, 16]}, E, "patches are 16 x 16 x 16",
    ),
}  # fmt: skip


def predictions(dataset, shape=SHAPE, dtype=np.uint8, voxel_size=None, outside=1):
    """Write an HDF5 file whose voxels are 0 in the first sections ``outside``, and 1 elsewhere."""

    def make(path):
        voxels = np.ones(shape, np.uint8)
        voxels[:outside] = 0
        with h5py.File(path, "w") as file:
            file.create_dataset(dataset, data=voxels.astype(dtype), compression="gzip")
            if voxel_size is not None:
                file.attrs["voxel_size"] = voxel_size

    return make


def damaged(path):
    """Write a mask of which nothing that was compressed can be read."""
    predictions("labels")(path)
    with h5py.File(path, "r") as file:
        chunk = file["labels"].id.get_chunk_info(0)
    patched_bytes(path, chunk.byte_offset, bytes(chunk.size))


MASKS = {
    "another shape": (predictions("labels", (6, 8, 10)), W, "the mask is 6 x 8 x 10 voxels"),
    "no dataset of labels": (predictions("mask"), E, "there is no dataset 'labels'"),
    "an image": (predictions("labels", (8, 8)), E, "dataset labels has 2 axes"),
    "text": (content(b"mask"), E, "no HDF5 file can be read here"),
    "words": (predictions("labels", dtype="S3"), E, r"preds.h5: dataset labels is of type \|S3"),
    "complex numbers": (predictions("labels", dtype=complex), E, "labels is of type complex128"),
    "a voxel size of two numbers": (
        predictions("labels", voxel_size=(10, 10)), W, r"voxel_size is \[10 10\]",
    ),
    "nothing inside": (predictions("labels", outside=12), W, "preds.h5: no voxel is inside"),
    "everything inside": (predictions("labels", outside=0), W, "preds.h5: every voxel is inside"),
    "other voxels": (
        predictions("labels", voxel_size=(20, 20, 20)), W,
        "mask .*preds.h5 is of voxels of 20 x 20 x 20 Angstrom, tomogram is of 10 x 10 x 10",
    ),
    "damaged": (damaged, E, "preds.h5: it cannot be read .*filter.*; copy it anew"),
}  # fmt: skip
CSV = {
    "a position outside": ("TS_1,5,5,5\nTS_1,50,5,5\n", "1 of 2 positions in .* lie outside"),
    "all outside": ("TS_1,50,5,5\n", "1 of 1 positions in .* lie outside"),
    "another tomogram's": ("TS_01,5,5,5\n", "no positions of this tomogram.*did you mean|TS_01"),
    "no numbers": ("TS_1,a,b,c\n", "holds more than numbers"),
}


def checked(folder, demands=None, looked_for_by=None, **files):
    """Content of what check_tomogram writes of TS_1 in a folder, and which demands errors stop.

    looked_for_by: name of the demand that the positions are of, if that is an evaluation's
    """
    demands = demands or {"predict_one": PREDICT}
    positions = files.pop("positions", [])
    own = {"demand": looked_for_by} if looked_for_by else {}
    settings = {
        "demands": demands,
        "companions": list(files),
        "positions": [{"files": 1, "settings": POSITIONS} | own for _ in positions],
    }
    check_tomogram(
        folder / "TS_1.mrc", folder / "TS_1.json", list(files.values()), positions,
        settings=settings,
    )  # fmt: skip
    content = json.loads((folder / "TS_1.json").read_text())
    found = [Finding(**each) for each in content["findings"]]
    stopped = [each for each in demands if any(finding.stops_any([each]) for finding in found)]
    return content | {"stopped": stopped}


def findings(content):
    return [
        (each["level"], f"{each['sentence']}; {each['remedy']}") for each in content["findings"]
    ]


def assert_found(content, level, sentence):
    """The finding is there, and no worse one."""
    found = findings(content)
    assert any(one == level and re.search(sentence, text) for one, text in found), found
    assert level == E or not content["stopped"], found


def test_a_healthy_tomogram_is_measured_and_nothing_is_found(tmp_path):
    write(tmp_path / "TS_1.mrc")
    found = checked(tmp_path)
    assert found["findings"] == found["stopped"] == []
    values, voxels = found["values"], healthy_voxels()
    assert [values[axis] for axis in "zyx"] == list(SHAPE)
    assert (values["mode"], values["type"], values["voxel_size_z"]) == (2, "float32", 10)
    assert (values["min"], values["max"]) == (voxels.min(), voxels.max())
    assert values["0.1 %"] == pytest.approx(np.percentile(voxels, 0.1), rel=1e-6)
    assert values["polarity"] == "unclear"
    assert (values["nan"], values["infinite"], values["constant_sections"]) == (0, 0, 0)


@pytest.mark.parametrize("case", TOMOGRAMS)
def test_an_odd_tomogram_is_named(case, tmp_path):
    make, level, sentence = TOMOGRAMS[case]
    make(tmp_path / "TS_1.mrc")
    content = checked(tmp_path)
    assert_found(content, level, sentence)
    assert content["stopped"] == (["predict_one"] if level == E else [])


@pytest.mark.parametrize("case", LABELS)
def test_odd_labels_are_named_and_stop_the_training_only(case, tmp_path):
    make, changes, level, sentence = LABELS[case]
    write(tmp_path / "TS_1.mrc")
    make(tmp_path / "labels.mrc")
    demands = {"predict_one": PREDICT, "train_one": TRAIN | changes}
    content = checked(tmp_path, demands, train_one=tmp_path / "labels.mrc")
    assert_found(content, level, sentence)
    assert content["stopped"] == (["train_one"] if level == E else [])


@pytest.mark.parametrize("case", MASKS)
def test_odd_masks_are_named(case, tmp_path):
    make, level, sentence = MASKS[case]
    write(tmp_path / "TS_1.mrc")
    make(tmp_path / "TS_1_preds.h5")
    assert_found(checked(tmp_path, predict_one=tmp_path / "TS_1_preds.h5"), level, sentence)


EVALUATE = {"section": "evaluate_one", "classes": 3}
TRUTHS = {
    "as they should be": (lambda v: v, 10, "", None),
    "another shape": (lambda v: v[:8], 10, E, "true labels .* are 8 x 16 x 20, tomogram is 12 x"),
    "another voxel size": (lambda v: v, 20, W, "true labels .* 20 x 20 x 20 Angstrom"),
    "another class": (lambda v: np.where(v == 2, 4, v), 10, W, "label 4, and the model knows 0 to"),
    "fractions": (lambda v: v / 2, 10, E, "whole numbers"),
    "more than bytes": (lambda v: v * 200, 10, E, "voxels have label 400; true labels must be 0"),
    "empty": (lambda v: v * 0, 10, W, "no voxel has a label of 1 or more"),
}


@pytest.mark.parametrize("case", TRUTHS)
def test_odd_true_labels_are_named_and_stop_the_evaluation_only(case, tmp_path):
    change, voxel_size, level, sentence = TRUTHS[case]
    write(tmp_path / "TS_1.mrc")
    true = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE) % 3
    write(tmp_path / "labels.mrc", change(true).astype(np.float32), voxel_size)
    demands = {"predict_one": PREDICT, "evaluate_one": EVALUATE}
    content = checked(tmp_path, demands, evaluate_one=tmp_path / "labels.mrc")
    if sentence is None:
        assert content["findings"] == []
    else:
        assert_found(content, level, sentence)
    assert content["stopped"] == (["evaluate_one"] if level == E else [])


def test_an_evaluation_needs_its_labels_its_mask_and_its_positions(tmp_path):
    write(tmp_path / "TS_1.mrc")
    true = np.ones(SHAPE, np.float32)
    write(tmp_path / "labels.mrc", true)
    write(tmp_path / "mask.mrc", true * 0)
    (tmp_path / "p.csv").write_text("tomo,z,y,x\nTS_1,a,b,c\n")
    demands = {
        "predict_one": PREDICT,
        "evaluate_one": EVALUATE,
        "evaluate_one_within": {"section": "evaluate_one"},
        "evaluate_one_positions": {"section": "evaluate_one"},
    }
    files = {"evaluate_one": "labels.mrc", "evaluate_one_within": "mask.mrc"}
    files = {name: tmp_path / file for name, file in files.items()}
    content = checked(
        tmp_path, demands, "evaluate_one_positions", positions=[tmp_path / "p.csv"], **files
    )
    warned = [text for level, text in findings(content) if level == W]
    assert any("no voxel is inside the mask; nothing will be evaluated" in text for text in warned)
    assert_found(content, E, "p.csv.* holds more than numbers")
    assert content["stopped"] == ["evaluate_one_positions"]
    assert content["values"]["mask_shape_evaluate_one_within"] == "12 x 16 x 20"


def test_positions_that_all_lie_outside_stop_no_evaluation(tmp_path):
    write(tmp_path / "TS_1.mrc")
    write(tmp_path / "labels.mrc", np.ones(SHAPE, np.float32))
    (tmp_path / "p.csv").write_text("tomo,z,y,x\nTS_1,90,90,90\n")
    demands = {"evaluate_one": EVALUATE, "evaluate_one_positions": {"section": "evaluate_one"}}
    content = checked(
        *(tmp_path, demands, "evaluate_one_positions"),
        positions=[tmp_path / "p.csv"], evaluate_one=tmp_path / "labels.mrc",
    )  # fmt: skip
    assert_found(content, W, "1 of 1 positions in .*p.csv lie outside")
    assert content["stopped"] == []


@pytest.mark.parametrize("wrong", [0, -10, np.nan])
def test_labels_of_an_unknown_voxel_size_are_not_compared_with_the_tomogram(wrong, tmp_path):
    write(tmp_path / "TS_1.mrc")
    labels(lambda v: v, wrong)(tmp_path / "labels.mrc")
    content = checked(tmp_path, {"train_one": TRAIN}, train_one=tmp_path / "labels.mrc")
    assert content["findings"] == []


@pytest.mark.parametrize("section", ["predict", "train"])
def test_one_number_is_the_voxel_size_along_all_axes(section, tmp_path):
    write(tmp_path / "TS_1.mrc")
    predictions("labels", voxel_size=10.0)(tmp_path / "TS_1_preds.h5")
    demand = {"predict": PREDICT, "train": TRAIN}[section]
    assert checked(tmp_path, {"one": demand}, one=tmp_path / "TS_1_preds.h5")["findings"] == []


def test_what_nobody_thought_of_is_found_and_not_raised(tmp_path, monkeypatch):
    def fail(*arguments):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("cryoseg.tomogram_checks.open_mask", fail)
    write(tmp_path / "TS_1.mrc")
    predictions("labels")(tmp_path / "TS_1_preds.h5")
    content = checked(tmp_path, predict_one=tmp_path / "TS_1_preds.h5")
    assert_found(content, E, r"TS_1_preds.h5: it cannot be judged .ZeroDivisionError: by zero")


def test_too_little_memory_is_no_finding(tmp_path, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr("cryoseg.tomogram_checks.statistics", fail)
    write(tmp_path / "TS_1.mrc")
    with pytest.raises(MemoryError):
        checked(tmp_path)


@pytest.mark.parametrize("case", CSV)
def test_odd_positions_are_warned_of(case, tmp_path):
    rows, sentence = CSV[case]
    write(tmp_path / "TS_1.mrc")
    (tmp_path / "positions.csv").write_text("tomo,z,y,x\n" + rows)
    content = checked(tmp_path, positions=[tmp_path / "positions.csv"])
    assert_found(content, W, sentence)


def test_labels_are_counted_by_class(tmp_path):
    write(tmp_path / "TS_1.mrc")
    labels(lambda v: None)(tmp_path / "labels.mrc")
    content = checked(tmp_path, {"train_one": TRAIN}, train_one=tmp_path / "labels.mrc")
    assert content["values"]["label_voxels_train_one"] == "0: 3749, 1: 64, 2: 27"
    assert content["findings"] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path):
    write(tmp_path / "TS_1.mrc")
    (tmp_path / "TS_1.mrc").chmod(0)
    assert_found(checked(tmp_path), E, "it cannot be read .Permission denied")


def test_what_is_wrong_for_one_of_two_stages_stops_that_one(tmp_path):
    write(tmp_path / "TS_1.mrc")
    demands = {"predict_one": PREDICT, "predict_other": PREDICT | {"min": 5, "max": 9}}
    content = checked(tmp_path, demands)
    assert content["values"]["outside_predict_other"] == 1
    assert_found(content, E, "outside parameters.data.min..max = 5..9")
    assert content["stopped"] == ["predict_other"]


def test_what_is_wrong_for_two_of_three_is_said_once(tmp_path):
    write(tmp_path / "TS_1.mrc")
    wide = {"min": 5, "max": 9}
    demands = {"predict_one": PREDICT, "predict_other": PREDICT | wide, "train_one": TRAIN | wide}
    content = checked(tmp_path, demands)
    assert len(content["findings"]) == 1
    assert content["stopped"] == ["predict_other", "train_one"]


def test_a_tomogram_is_admitted_unless_an_error_stops_it(tmp_path):
    write(tmp_path / "TS_1.mrc")
    (tmp_path / "labels.mrc").write_bytes(b"")
    demands = {"predict_one": PREDICT, "train_one": TRAIN}
    checked(tmp_path, demands, train_one=tmp_path / "labels.mrc")
    admitted = [tmp_path / "yes", tmp_path / "yes too"]
    admit_tomogram(tmp_path / "TS_1.json", admitted, settings={"demands": ["predict_one"]})
    assert all(file.exists() for file in admitted)
    with pytest.raises(InputError, match=r"labels.mrc: the file has 0 bytes.*; copy it anew"):
        admit_tomogram(tmp_path / "TS_1.json", tmp_path / "no", settings={"demands": ["train_one"]})
    assert not (tmp_path / "no").exists()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(-(2**31), 2**31 - 1)), max_size=6))
def test_no_header_is_too_strange_to_be_checked(tmp_path_factory, words):
    folder = tmp_path_factory.mktemp("strange")
    patched(*((4 * place, struct.pack("<i", value)) for place, value in words))(folder / "TS_1.mrc")
    content = checked(folder)
    assert all(each["sentence"] for each in content["findings"])
    assert "z" in content["values"] or content["stopped"]


# Intensities


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "uint16", "int8"])
def test_statistics_are_those_of_numpy(dtype, tmp_path):
    grey = np.random.default_rng(0).normal(20, 30, size=(70, 9, 11))
    voxels = np.clip(grey, 0, 255).astype(dtype) if dtype == "uint16" else grey.astype(dtype)
    if dtype.startswith("float"):
        voxels.ravel()[:5] = (np.nan, np.inf, np.nan, -np.inf, 1000)
    write_mrc(tmp_path / "a.mrc", voxels)
    found = statistics(open_volume(tmp_path / "a.mrc"), (0, 0.1, 50, 99.9, 100), [(0, 40)])
    finite = voxels[np.isfinite(voxels)].astype(np.float64)
    for percentage, value in found.percentiles.items():
        assert value == pytest.approx(np.percentile(finite, percentage), rel=1e-6)
    assert (found.lowest, found.highest) == (finite.min(), finite.max())
    assert found.outside == [np.count_nonzero((finite < 0) | (finite > 40))]
    assert found.nan == np.count_nonzero(np.isnan(voxels))
    assert found.infinite == np.count_nonzero(np.isinf(voxels))


@pytest.mark.parametrize("noise", [0.1, 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_polarity_of_simulated_tomograms_is_guessed(noise, sign, tmp_path):
    tomogram, _, _ = simulate(
        (48, 96, 96), 24, 1, thickness_nm=60, tilt_range=(-60, 60), noise=noise, membranes=3,
        large_particles=15, small_particles=20, filaments=5,
    )  # fmt: skip
    write_mrc(tmp_path / "a.mrc", sign * tomogram)
    found = statistics(open_volume(tmp_path / "a.mrc"), (50,))
    assert polarity(found) == ("black" if sign == 1 else "white"), found.skewness


PADDED = {
    "sections": np.s_[:2],
    "rows": np.s_[:, :4],
    "rows that squares of 4 do not fit": np.s_[:, :7],
    "columns that squares of 4 do not fit": np.s_[:, :, -3:],
    "one column": np.s_[:, :, :1],
}


@pytest.mark.parametrize("case", PADDED)
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_padding_does_not_change_the_guess(case, dtype, tmp_path):
    """White matter, scaled to 0 to 1: zeros would be the rarest and darkest of all."""
    found = {}
    grey, _, _ = simulate(
        (40, 96, 96), 24, 1, thickness_nm=60, tilt_range=(-60, 60), noise=0.5, membranes=3,
        large_particles=15, small_particles=20, filaments=5,
    )  # fmt: skip
    low, high = np.percentile(-grey, (0.1, 99.9))
    white = np.clip((-grey - low) / (high - low), 0, 1)
    for padded in (False, True):
        white[PADDED[case]] *= not padded
        voxels = (127 * white).astype(np.int8) if dtype == np.int8 else white.astype(np.float32)
        write_mrc(tmp_path / "a.mrc", voxels)
        found[padded] = statistics(open_volume(tmp_path / "a.mrc"), (50,))
    assert polarity(found[False]) == polarity(found[True]) == "white"
    assert found[True].skewness == pytest.approx(found[False].skewness, abs=0.1)
    assert found[True].squares < found[False].squares


def test_what_is_nearly_all_padding_has_no_polarity(tmp_path):
    voxels = np.zeros((16, 48, 48), np.float32)
    voxels[8, 8:16, 8:16] = np.random.default_rng(0).exponential(size=(8, 8))
    write_mrc(tmp_path / "a.mrc", voxels)
    found = statistics(open_volume(tmp_path / "a.mrc"), (50,))
    assert (found.squares, polarity(found)) == (4, "unclear")


def test_noise_has_no_polarity(tmp_path):
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=(16, 48, 48)).astype(np.float32)
        write_mrc(tmp_path / "a.mrc", noise)
        assert polarity(statistics(open_volume(tmp_path / "a.mrc"), (50,))) == "unclear"


def test_the_polarity_of_a_real_tomogram_is_guessed(real_data):
    (source,) = (path for path in real_data.glob("*.mrc") if path.stem.endswith("A"))
    assert polarity(statistics(open_volume(source), (50,))) == "black"


# Names


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["TS_1.mrc", "TS_01.mrc"], "TS_01, TS_1 are nearly the same"),
        (["TS_1.mrc", "ts_1.mrc"], "TS_1, ts_1 are nearly the same"),
        (["TS_1.mrc", "TS-1.mrc"], "TS-1, TS_1 are nearly the same"),
        (["TS_1.mrc", "TS_1.mrc.mrc"], r"TS_1, TS_1.mrc are nearly the same"),
        (["TS_1.mrc", "TS_2.MRC"], "TS_2.MRC do not end in .mrc and are not read"),
        (["TS_1.mrc", "TS_2.rec"], "TS_2.rec do not end in .mrc and are not read"),
    ],
)
def test_names_that_nearly_match_are_named(names, sentence):
    (found,) = tomogram_name_findings("raw", names, ".mrc")
    assert re.search(sentence, str(found))


def test_names_that_differ_are_no_finding():
    names = ["TS_1.mrc", "TS_10.mrc", "TS_11.mrc", "notes.txt", "x_10.00Apx.mrc"]
    assert list(tomogram_name_findings("raw", names, ".mrc")) == []


def test_a_file_that_is_missing_is_looked_for_under_names_alike(tmp_path):
    for name in ("TS_1", "ts_2", "TS_10"):
        (tmp_path / f"{name}.mrc").touch()
    found = look_alikes(tmp_path, ".mrc", ["TS_01", "TS_2", "TS_3"])
    assert found == " (is TS_1.mrc that of TS_01, ts_2.mrc that of TS_2?)"
    assert look_alikes(tmp_path, ".mrc", ["TS_3"]) == ""


def test_a_folder_that_goes_before_its_names_are_looked_at_is_named(tmp_path):
    gone = str(tmp_path / "raw")
    for folders in (
        {"tomograms": (gone, ".mrc"), "companions": []},
        {"tomograms": None, "companions": [(gone, ".mrc", "labels")]},
    ):
        with pytest.raises(InputError, match="raw is gone since the run began; bring it back"):
            list(name_findings(names=["TS_1"], **folders))


def test_labels_without_a_tomogram_are_named():
    files = ["TS_1.mrc", "TS_02.mrc", "other.mrc"]
    near, rest = companion_name_findings("labels", files, ".mrc", ["TS_1", "TS_2"], "labels")
    assert "labels/TS_02.mrc: there is no tomogram TS_02, but TS_2" in str(near)
    assert "there are labels of other, and no such tomograms" in str(rest)


def test_the_name_of_a_check_depends_on_its_folder_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one, other = (stage_file(name) | {"file_extension": ".mrc"} for name in STAGES)
    alone = check_names(Stages(predict={"one": one}))
    both = check_names(Stages(predict={"a": other, "one": one | {"data_folder": "./scaled/"}}))
    assert set(alone.values()) == set(both.values()) == {"scaled"}
    far = check_names(Stages(predict={"x": one | {"data_folder": "/data/é/TS 1"}, "one": one}))
    assert set(far.values()) == {"data_TS_1", "scaled"}
    same = check_names(
        Stages(predict={"x": one | {"data_folder": "a/b"}, "y": one | {"data_folder": "a_b"}})
    )
    assert len(set(same.values())) == 2


# A run


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Two stages that read the same tomograms; two of these are healthy."""
    lab = Lab(tmp_path_factory.mktemp("checked"))
    lab.write_config(predict={name: f"config/{name}.yaml" for name in STAGES})
    (lab.folder / "raw").mkdir()
    for name in STAGES:
        shutil.copy(REPOSITORY / "tests" / "data" / f"{name}.ckpt", lab.folder / f"{name}.ckpt")
        lab.write_stage(name, data_folder="raw", mask_folder=None)
    write(lab.folder / "raw" / "TS_2.mrc")
    for name, case in BAD.items():
        TOMOGRAMS[case][0](lab.folder / "raw" / f"{name}.mrc")
    return lab


GOOD = ("TS_2", "TS_02")
BAD = {"bad_1": "text", "bad_2": "NaN", "bad_3": "a byte too few", "TS_02": "no voxel size"}


def test_the_bad_are_tabulated_and_the_healthy_beside_them_predicted(lab):
    shown = lab.run("check")
    with open(lab.folder / "checks" / "raw.tsv", newline="") as file:
        rows = {row["tomogram"]: row for row in csv.DictReader(file, delimiter="\t")}
    assert rows.keys() == {"(folder)", *GOOD, *BAD}
    assert {name for name, row in rows.items() if int(row["errors"])} == set(BAD) - set(GOOD)
    assert (rows["TS_2"]["z"], rows["TS_2"]["findings"]) == ("12", "")
    assert "TS_02, TS_2 are nearly the same" in rows["(folder)"]["findings"]
    _, told = shown.split(" warnings:")
    assert "raw/TS_02.mrc: the header has no voxel size" in told
    assert "error: raw/bad_2.mrc: 3 of 3840 voxels are NaN or infinite" in told

    shown = lab.run("predict", fails=True)
    _, summary = shown.split("3 jobs failed:")
    for name in set(BAD) - set(GOOD):
        assert f"raw_admit_to_predict {name}: raw/{name}.mrc: " in summary
    assert not (lab.folder / "checks/raw/predict_lamella/bad_1.admitted").exists()
    for name in set(BAD) - set(GOOD):
        assert not list((lab.folder / "logs").glob(f"*/score_voxels/{name}.log"))
    for stage in STAGES:
        assert all(lab.labels(stage, name).shape == SHAPE for name in GOOD)

    # What one stage wants is part of the check that both share; the other's scores stay.
    lab.write_stage("semantic", data_folder="raw", mask_folder=None, parameters__data__max=2)
    admit = [f"raw_admit_to_predict_{stage}" for stage in STAGES]
    check = ("raw_check_tomogram", *admit)
    own = ("semantic_score_voxels", "semantic_label_voxels")
    wanted = steps((*check, *own), GOOD)
    assert {step for step in lab.plan("predict") if step[1] in GOOD} == wanted
    times = {path: path.stat().st_mtime_ns for path in lab.folder.glob("predictions/lamella/*.h5")}
    lab.run("predict", fails=True)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert not {step for step in lab.plan("predict") if step[1] in GOOD}


def test_an_error_that_one_stage_has_stops_that_stage_before_its_gpu_job(lab):
    """Of two stages that read one folder, one within masks: stopped are that one's tomograms."""
    (lab.folder / "masks").mkdir()
    for name in GOOD:
        make = MASKS["damaged"][0] if name == "TS_2" else predictions("labels")
        make(lab.folder / "masks" / f"{name}_preds.h5")
    for name in set(BAD) - set(GOOD):
        (lab.folder / "raw" / f"{name}.mrc").unlink()
    lab.write_stage("semantic", data_folder="raw", mask_folder="masks")
    times = {path: path.stat().st_mtime_ns for path in lab.folder.glob("predictions/lamella/*.h5")}
    told = lab.run("check")
    found = table(lab.folder / "checks" / "raw.tsv")
    assert (found["TS_2"]["errors"], found["TS_02"]["errors"]) == ("1", "0")
    sentence = "error: masks/TS_2_preds.h5: it cannot be read .*; copy it anew .this stops semantic"
    assert re.match(sentence, found["TS_2"]["findings"])
    assert re.search(f"^  {sentence}", told, re.M)

    log = lab.folder / "logs/semantic/score_voxels/TS_2.log"
    log.unlink()
    summary = lab.run("predict", fails=True).split("1 job failed:")[1]
    assert "raw_admit_to_predict_semantic TS_2: masks/TS_2_preds.h5: it cannot be" in summary
    assert not log.exists()
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert lab.plan("predictions/lamella/TS_2_preds.h5") == set()

    # Stages that want the same again are admitted to by one job, and the first keeps its scores.
    lab.write_stage("semantic", data_folder="raw", mask_folder=None)
    shown = lab.plan("predict")
    assert not {step for step in shown if step[0].startswith("lamella")}
    assert {name for name, _ in shown if "_admit_to_" in name} == {"raw_admit_to_predict"}


# What is broken, all in one run: each is named by a sentence and costs only itself

NO_FILES = {
    "a folder": (Path.mkdir, E, "it is a folder, not a file; put the tomogram there"),
    "a link to itself": (lambda path: path.symlink_to(path), E, "Too many levels of symbolic"),
    "a link to nothing": (
        lambda path: path.symlink_to("/no where.mrc"), E, "it is a link to /no where.mrc, where",
    ),
}  # fmt: skip
BROKEN = {
    **{case: odd for case, odd in TOMOGRAMS.items() if odd[1] == E and case != "no file"},
    **NO_FILES,
}
BROKEN_MASKS = {f"mask: {case}": odd for case, odd in MASKS.items() if odd[1] == E}
DOUBTFUL = {case: TOMOGRAMS[case] for case in ("no voxel size",)}
TO_SCALE = {"cut": TOMOGRAMS["a byte too few"], "nowhere": NO_FILES["a link to nothing"]}
HEALTHY = ("TS_1", "#2, é [x] & 50%25?")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder of tomograms within masks, and one of tomograms to be scaled before."""
    lab = Lab(tmp_path_factory.mktemp("broken"))
    scale = {"raw": {"input_path": "raw", "output_path": "scaled"}}
    lab.write_config(scale=scale, predict={name: f"config/{name}.yaml" for name in ("odd", "even")})
    for folder in ("tomograms", "raw", "masks", "labels"):
        (lab.folder / folder).mkdir()
    shutil.copy(REPOSITORY / "tests" / "data" / "lamella.ckpt", lab.folder)
    for name, folder, masks in (("odd", "tomograms", "masks"), ("even", "scaled", None)):
        stage = stage_file(
            name, data_folder=folder, mask_folder=masks, trained_model="lamella.ckpt"
        )
        stage |= {"evaluate": {"labels_folder": "labels"}} if masks else {}
        lab.write_yaml(f"config/{name}.yaml", stage)
    for name in (*HEALTHY, *BROKEN_MASKS, *DOUBTFUL, *BROKEN):
        make = (DOUBTFUL | BROKEN).get(name, (write,))[0]
        make(lab.folder / "tomograms" / f"{name}.mrc")
        make_mask = BROKEN_MASKS.get(name, (predictions("labels"),))[0]
        make_mask(lab.folder / "masks" / f"{name}_preds.h5")
    for name in (HEALTHY[1], "NaN", "a folder"):
        labels(lambda voxels: voxels)(lab.folder / "labels" / f"{name}.mrc")
    write(lab.folder / "raw" / "fine.mrc")
    for name, (make, *_) in TO_SCALE.items():
        make(lab.folder / "raw" / f"{name}.mrc")
    return lab


def table(path):
    """Rows of a table by tomogram."""
    with open(path, newline="") as file:
        return {row["tomogram"]: row for row in csv.DictReader(file, delimiter="\t")}


def test_each_broken_input_is_named_and_the_healthy_ones_beside_them_are_predicted(broken):
    shown = broken.run("check", fails=True)
    checks = {name: table(broken.folder / f"checks/{name}.tsv") for name in ("tomograms", "scaled")}
    wrong = BROKEN | BROKEN_MASKS
    assert len(wrong | TO_SCALE) >= 25
    assert checks["tomograms"].keys() == {"(folder)", *HEALTHY, *DOUBTFUL, *wrong}
    assert checks["scaled"].keys() == {"(folder)", "fine", *TO_SCALE}
    for cases, found in ((wrong | DOUBTFUL, checks["tomograms"]), (TO_SCALE, checks["scaled"])):
        for case, (_, level, sentence) in cases.items():
            assert re.search(f"{level}: .*{sentence}", found[case]["findings"]), found[case]
            assert (int(found[case]["errors"]) > 0) == (level == E)
    assert checks["scaled"]["cut"]["findings"].startswith("error: not checked: raw/cut.mrc: the f")
    assert {row["errors"] for row in map(checks["tomograms"].get, (*HEALTHY, *DOUBTFUL))} == {"0"}

    # Errors come first, and the tables hold the rest.
    heading, told = re.search(r"^(\d+ errors, .*:)\n((?:  .*\n)+)", shown, re.M).groups()
    assert heading.startswith(f"{len(wrong) + 1} errors, ")
    *first, rest = told.splitlines()
    assert all(line.startswith("  error: ") for line in first)
    assert re.fullmatch(r"  \.\.\. and \d+ more in checks/tomograms.tsv", rest)

    shown = broken.run("overview", fails=True)
    assert f"{len(wrong) + len(TO_SCALE)} jobs failed:" in shown
    for name in (*HEALTHY, *DOUBTFUL):
        assert broken.labels("odd", name).shape == SHAPE
    assert broken.labels("even", "fine").shape == SHAPE
    scored = {path.stem for path in broken.folder.glob("logs/*/score_voxels/*.log")}
    assert scored == {"fine", *HEALTHY, *DOUBTFUL}  # no GPU was asked for the others
    rows = table(broken.folder / "overview.tsv")
    assert rows.keys() == scored | wrong.keys() | TO_SCALE.keys()
    for case, (_, _, sentence) in (wrong | TO_SCALE).items():
        assert re.match(f"not predicted: .*{sentence}", rows[case]["stands out"]), rows[case]
    assert not any("not predicted" in rows[name]["stands out"] for name in scored)
    with open(broken.folder / "predictions/odd/evaluation/summary.tsv", newline="") as file:
        summary = list(csv.DictReader(file, delimiter="\t"))
    reasons = {row["not_evaluated"]: row["reason"] for row in summary if row["not_evaluated"]}
    assert reasons.keys() == {"NaN", "a folder"}
    assert "3 of 3840 voxels are NaN" in reasons["NaN"]
    assert {row["tomograms"] for row in summary if row["measure"] == "dice"} == {"1"}


# Loads each picture of a report from where the report has it, and writes down how wide it is.
PICTURES = """
  const pictures = Object.entries(results).filter(([, each]) => each.mime_type.startsWith("image"))
    .map(([path, each]) => [path, Object.assign(new Image(), { src: PLACE + each.data_uri })]);
  document.body.append(...pictures.map(([, image]) => image));
  window.addEventListener("load", () => {
    const text = Object.assign(document.createElement("pre"), { id: "widths" });
    text.textContent = JSON.stringify(pictures.map(([path, image]) => [path, image.naturalWidth]));
    document.body.append(text);
  });
"""


def widths_in(report, place):
    """{path: width as a browser shows it} of the pictures of a report.

    place: what its addresses are relative to
    """
    page = open_page(report, script=PICTURES.replace("PLACE", json.dumps(place)))
    (found,) = re.findall(r'<pre id="widths">(.*?)</pre>', page.dom, re.S)
    return dict(json.loads(html.unescape(found)))


def test_the_report_and_the_overview_show_what_there_is_whatever_it_is_called(broken):
    predicted = {f"predictions/odd/pictures/{name}.png" for name in (*HEALTHY, *DOUBTFUL)}
    predicted.add("predictions/even/pictures/fine.png")
    told = broken.run("--report", "report.html", "overview")
    assert "not there, and so not in the report: " in told
    broken.run("--report", "report.zip", "overview")
    shutil.unpack_archive(broken.folder / "report.zip", broken.folder)
    beside = f"{(broken.folder / 'report').as_uri()}/"
    for report, place in (("report.html", ""), ("report/report.html", beside)):
        widths = widths_in(broken.folder / report, place)
        assert widths.keys() == predicted
        assert min(widths.values()) > 500, widths
    script = """
      Promise.all([...document.images].map((each) => each.decode())).then(() => {
        document.title = [...document.images].filter((each) => each.naturalWidth).length;
      });
    """
    page = open_page(broken.folder / "overview.html", script=script)
    assert page.console == []
    assert f"<title>{len(predicted)}</title>" in page.dom
    links = {unquote(link) for link in re.findall(r'<a href="(.*?)"', page.dom)}
    assert links == predicted


def test_what_is_mended_is_predicted_and_what_is_removed_has_no_row_any_more(broken):
    for name in (*BROKEN, *BROKEN_MASKS):
        path = broken.folder / "tomograms" / f"{name}.mrc"
        path.rmdir() if path.is_dir() else path.unlink()
        (broken.folder / "masks" / f"{name}_preds.h5").unlink()
    (broken.folder / "raw" / "nowhere.mrc").unlink()
    write(broken.folder / "raw" / "cut.mrc")
    broken.run("overview")
    rows = table(broken.folder / "overview.tsv")
    assert rows.keys() == {"fine", "cut", *HEALTHY, *DOUBTFUL}
    assert not any("not predicted" in row["stands out"] for row in rows.values())
    assert broken.plan("overview") == set()
    # As of a figure that failed, without which the page was made.
    summary = next(broken.folder.glob("predictions/*/pictures/summaries/*.json"))
    summary.unlink()
    assert summary.stem in {name for _, name in broken.plan("overview")}, "it is tried again"

    # What was predicted of a tomogram that is broken since is not shown as if it were its own.
    TO_SCALE["cut"][0](broken.folder / "raw" / "fine.mrc")
    broken.run("overview", fails=True)
    shown = table(broken.folder / "overview.tsv")["fine"]["stands out"]
    assert shown.startswith("not predicted: raw/fine.mrc: the file is truncated")
    assert table(broken.folder / "checks/scaled.tsv")["fine"]["errors"] == "1"

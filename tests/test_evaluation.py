"""Predictions against true labels: measures that others agree with, intervals that cover."""

import json
import logging

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import gaussian_filter

from cryoseg.errors import InputError
from cryoseg.evaluation import measure_classes
from cryoseg.metrics import Compared, count_pairs, voxel_measures
from cryoseg.objects import counted_at, find_objects, match, object_measures
from cryoseg.summaries import COLUMNS, compare, mean_interval, signed_rank_p, summarise
from cryoseg.surface_dice import surface_counts, surface_dice
from cryoseg.tables import read_table, write_table
from cryoseg.unmade import Unmade, write_unmade
from cryoseg.volumes import write_mrc
from evaluate_labels import evaluate_labels
from summarise_evaluation import summarise_evaluation

CUBES = (8.0, 8.0, 8.0)  # Angstrom
FLAT = (16.0, 8.0, 12.0)
STAGE_A = {"stages": ["a"], "no_files": {}}


def blobs(seed, shape=(40, 50, 36)):
    """Irregular objects of labels 1 and 2 that touch no face of the volume."""
    labels = np.zeros(shape, np.uint8)
    for label in (1, 2):
        noise = gaussian_filter(np.random.default_rng((seed, label)).normal(size=shape), 2.5)
        labels[noise > noise.std()] = label
    return np.pad(labels[1:-1, 1:-1, 1:-1], 1)


def mixed(seed):
    """True labels, and predicted ones that agree in part."""
    true, other = blobs(seed), blobs(seed + 100)
    found = np.roll(true, (1, 2), (1, 2))
    found[:, :, 18:] = other[:, :, 18:]
    return true, np.pad(found[1:-1, 1:-1, 1:-1], 1)


def measured(true, found, voxel_size=CUBES, tolerance_nm=2.0, mask=None):
    """Measures by label."""
    rows = measure_classes(Compared(true, found, mask), voxel_size, tolerance_nm)
    return {row["label"]: row for row in rows}


def ball(shape, middle, radius):
    away = np.linalg.norm(np.indices(shape).T - np.array(middle), axis=-1).T
    return (away <= radius).astype(np.uint8)


# Measures of voxels


def test_voxels_are_counted_as_by_hand():
    true = np.array([[[0, 1, 1, 1, 2, 2, 255, 0]]], np.uint8)
    found = np.array([[[1, 1, 1, 0, 1, 2, 1, 0]]], np.uint8)
    one = measured(true, found)[1]
    assert (one["true_voxels"], one["found_voxels"], one["common_voxels"]) == (3, 4, 2)
    assert one["dice"] == pytest.approx(4 / 7)
    assert one["iou"] == pytest.approx(2 / 5)
    assert one["precision"] == pytest.approx(2 / 4)
    assert one["recall"] == pytest.approx(2 / 3)
    assert one["true_volume_nm3"] == pytest.approx(3 * 0.8**3)
    assert measured(true, found, FLAT)[1]["found_volume_nm3"] == pytest.approx(4 * 1.6 * 0.8 * 1.2)


def test_dice_and_iou_are_those_of_monai():
    import torch
    from monai.metrics import compute_dice, compute_iou

    true, found = mixed(0)
    ours = measured(true, found)
    one_hot = [
        torch.tensor(np.stack([volume == label for label in (1, 2)])[None])
        for volume in (found, true)
    ]
    for name, theirs in (("dice", compute_dice), ("iou", compute_iou)):
        (wanted,) = theirs(*one_hot, include_background=True).numpy()
        np.testing.assert_allclose([ours[label][name] for label in (1, 2)], wanted, rtol=1e-6)


def test_a_class_that_is_nowhere_has_no_measure_but_a_row():
    nothing = np.zeros((4, 5, 6), np.uint8)
    (row,) = measure_classes(Compared(nothing, nothing), CUBES, 2.0, ["membrane"])
    assert row["class"] == "membrane"
    assert row["true_volume_nm3"] == 0
    for name in ("dice", "iou", "precision", "recall", "surface_dice"):
        assert np.isnan(row[name])


def test_a_class_that_was_missed_has_a_dice_of_0_and_no_precision():
    true = np.array([[[0, 1, 1, 0]]], np.uint8)
    row = measured(true, np.zeros_like(true))[1]
    assert row["dice"] == row["recall"] == 0
    assert np.isnan(row["precision"])


# Surface Dice


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.5)])
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.0, 3.2, 7.0])
def test_surface_dice_is_that_of_monai(spacing, tolerance):
    import torch
    from monai.metrics import compute_surface_dice

    true, found = mixed(1)
    one_hot = [
        torch.tensor(np.stack([volume == label for label in (1, 2)])[None].astype(np.uint8))
        for volume in (found, true)
    ]
    (wanted,) = compute_surface_dice(
        *one_hot, [tolerance] * 2, include_background=True, spacing=spacing
    ).numpy()
    counts = surface_counts(Compared(true, found), tolerance, spacing)
    ours = [surface_dice(counts[label]) for label in (1, 2)]
    assert 0.1 < min(ours) < max(ours) <= 1
    np.testing.assert_allclose(ours, wanted, rtol=1e-6)


@pytest.mark.parametrize("radii", [(12, 15), (15, 12)])
@pytest.mark.parametrize("voxel_size", [CUBES, (8.0, 16.0, 8.0)])
def test_concentric_spheres_agree_once_the_tolerance_reaches_their_distance(radii, voxel_size):
    shape, spacing = (80, 40, 80), np.array(voxel_size) / 10
    away = (np.indices(shape).T - np.array([40, 20, 40])) * spacing
    distance = np.linalg.norm(away, axis=-1).T
    true, found = ((distance <= radius).astype(np.uint8) for radius in radii)
    # 3 nm apart, give or take a voxel that a surface is thick.
    assert measured(true, found, voxel_size, 1.3)[1]["surface_dice"] == 0
    assert measured(true, found, voxel_size, 4.6)[1]["surface_dice"] == 1
    assert measured(true, true, voxel_size, 0.0)[1]["surface_dice"] == 1


def test_a_large_volume_is_measured_in_blocks_that_do_not_show(monkeypatch):
    true, found = mixed(2)
    true[10:14, 5:20, 8:30] = 255
    whole = surface_counts(Compared(true, found), 2.0, (1.6, 0.8, 1.2))
    monkeypatch.setattr("cryoseg.surface_dice.BLOCK", (7, 9, 11))
    monkeypatch.setattr("cryoseg.surface_dice.MOST_OFFSETS", 5)
    parts = surface_counts(Compared(true, found), 2.0, (1.6, 0.8, 1.2))
    np.testing.assert_array_equal(parts, whole)
    assert whole[1].min() > 0


def test_the_faces_of_the_volume_and_of_a_mask_are_no_surface():
    slab = np.zeros((20, 12, 12), np.uint8)
    slab[5:12] = 1
    shifted = np.roll(slab, 1, 0)
    (true, _, found, _) = surface_counts(Compared(slab, shifted), 1.0, (1, 1, 1))[1]
    assert true == found == 2 * 12 * 12
    mask = np.zeros_like(slab)
    mask[:, 3:9, 3:9] = 1
    counts = surface_counts(Compared(slab, shifted, mask), 1.0, (1, 1, 1))[1]
    assert counts.tolist() == [2 * 4 * 4] * 4  # less a rim as wide as the tolerance


# What is ignored


labels_near = arrays(np.uint8, (6, 7, 8), elements=st.integers(0, 2))


@given(labels_near, labels_near, labels_near, arrays(bool, (6, 7, 8)))
def test_ignored_voxels_change_nothing(true, found, other, ignored):
    true = np.where(ignored, np.uint8(255), true)
    changed = np.where(ignored, other, found)
    one, two = (measured(true, each, tolerance_nm=1.2) for each in (found, changed))
    none = {"label", "class"}
    for label in one.keys() & two.keys():
        for name in one[label].keys() - none:
            np.testing.assert_equal(one[label][name], two[label][name])


@given(labels_near, labels_near, arrays(bool, (6, 7, 8)))
def test_outside_the_mask_is_as_ignored(true, found, inside):
    masked = measured(true, found, mask=inside)
    assert str(masked) == str(measured(np.where(inside, true, np.uint8(255)), found))


def test_pairs_are_counted_slab_by_slab(monkeypatch):
    true, found = mixed(3)
    whole = count_pairs(Compared(true, found))
    monkeypatch.setattr("cryoseg.volumes.SLAB_BYTES", 50_000)
    np.testing.assert_array_equal(count_pairs(Compared(true, found)), whole)
    assert whole.sum() == true.size


# Objects against positions


@pytest.mark.parametrize(
    ("positions", "objects", "pairs"),
    [
        ([0, 10], [1, 12], [(0, 0)]),  # 12 is 2 from 10, farther than 1.5
        ([0, 10], [1.5, 11], [(0, 0), (1, 1)]),  # a distance of just the radius counts
        ([0], [1, 0.5], [(0, 1)]),  # one object for one position: the nearest
        ([0, 1], [0.5], [(0, 0)]),  # one position for one object
        # The nearest pair would leave the others alone; two pairs are better than one.
        ([0, 1.4], [1.3, 2.8], [(0, 0), (1, 1)]),
        ([0, 1], [0, 1], [(0, 0), (1, 1)]),  # in place, not crosswise
        ([], [1], []),
        ([1], [], []),
        ([5], [9], []),
    ],
)
def test_objects_and_positions_are_paired_one_to_one(positions, objects, pairs):
    on_a_line = [np.array([[x, 0.0, 0.0] for x in each]).reshape(-1, 3)
                 for each in (positions, objects)]  # fmt: skip
    assert match(*on_a_line, radius=1.5).tolist() == [list(pair) for pair in pairs]


def test_scores_of_objects_are_those_counted_by_hand():
    measures = object_measures(true=10, found=8, matched=6)
    assert measures["object_recall"] == 0.6
    assert measures["object_precision"] == 0.75
    assert measures["object_f1"] == pytest.approx(2 * 0.6 * 0.75 / (0.6 + 0.75))
    assert measures["object_f4"] == pytest.approx(17 * 0.6 * 0.75 / (16 * 0.75 + 0.6))
    assert all(np.isnan(value) for value in object_measures(0, 0, 0).values())


def test_scores_of_objects_are_those_of_the_czii_challenge_where_particles_lie_apart():
    from scipy.spatial import KDTree

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(0, 200, 20)] * 3), -1).reshape(-1, 3).astype(float)
    positions = grid[rng.random(len(grid)) < 0.5]
    objects = grid[rng.random(len(grid)) < 0.5] + rng.normal(0, 3, 3)
    # As its metric does: https://www.kaggle.com/code/metric/czi-cryoet-84969
    near = KDTree(objects).query_ball_tree(KDTree(positions), 6)
    true_positives = len({position for each in near for position in each})
    assert len(match(positions, objects, 6)) == true_positives > 100


def test_objects_are_components_and_lie_at_their_middles():
    found = ball((30, 30, 30), (8, 8, 8), 3) + 2 * ball((30, 30, 30), (20, 21, 22), 4)
    found[0, 0, 29] = 1
    objects = find_objects(Compared(found, found), [1, 3])
    assert sorted(objects[1].tolist()) == [[0, 0, 29], [8, 8, 8]]
    assert objects[3].shape == (0, 3)


def test_points_count_where_voxels_count():
    true = np.zeros((4, 4, 4), np.uint8)
    true[2] = 255
    points = np.array([[0, 0, 0], [1.6, 0, 0], [3, 3, 3.4], [3, 3, 3.6], [-0.6, 0, 0]])
    assert counted_at(Compared(true, true), points).tolist() == [True, False, True, False, False]


# A job for one tomogram


@pytest.fixture
def files(tmp_path):
    """True labels as MRC, two predictions as HDF5, a mask; returns their folder."""
    true, found = mixed(4)
    write_mrc(tmp_path / "true.mrc", true, voxel_size=8.0)
    for name, labels in (("found", found), ("other", true)):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["labels"] = labels
            file.attrs["voxel_size"] = CUBES
    mask = np.zeros_like(true)
    mask[10:30] = 1
    write_mrc(tmp_path / "mask.mrc", mask, voxel_size=8.0)
    return tmp_path


SETTINGS = {"tolerance_nm": 2.0, "class_names": ["membrane"], "stages": ["a"], "particles": None}
PARTICLES = {
    "coordinate_voxel_size": None,
    "name_suffix": "",
    "labels_of_files": None,
    "per_tomogram": False,
    "labels": None,
    "allow_empty": True,
    "match_radius_nm": 4.0,
}


def evaluated(files, settings, **more):
    table = files / "TS_1_evaluation.tsv"
    evaluate_labels(files / "found.h5", files / "true.mrc", table, **more, settings=settings)
    return read_table(table)


def test_the_table_has_a_row_for_each_class_and_stage(files):
    settings = SETTINGS | {"stages": ["a", "b"]}
    table = evaluated(files, settings, compared=[files / "other.h5"])
    assert tuple(table.columns) == COLUMNS
    assert table["stage"].tolist() == ["a", "a", "b", "b"]
    assert table["class"].tolist() == ["membrane", "class 2"] * 2
    assert table["dice"].tolist()[2:] == [1, 1]
    true, found = mixed(4)
    assert table["dice"][1] == pytest.approx(measured(true, found)[2]["dice"], rel=1e-5)
    assert table["true_objects"].isna().all()


def test_both_stages_have_rows_of_the_classes_of_either(files):
    with h5py.File(files / "other.h5", "a") as file:
        file["labels"][0, 0, 0] = 4
    table = evaluated(files, SETTINGS | {"stages": ["a", "b"]}, compared=[files / "other.h5"])
    assert table["label"].tolist() == ["1", "2", "4"] * 2
    added, error = table.iloc[2], table.iloc[5]
    assert (added["true_voxels"], added["found_voxels"], added["found_volume_nm3"]) == (0, 0, 0)
    assert np.isnan(added["dice"])
    assert error["dice"] == 0


def test_only_voxels_within_the_mask_count(files):
    table = evaluated(files, SETTINGS, mask=files / "mask.mrc")
    true, _ = mixed(4)
    assert table["true_voxels"][0] == np.count_nonzero(true[10:30] == 1)


def test_positions_give_measures_of_objects(files):
    found = 2 * ball((40, 50, 36), (10, 10, 10), 4) + 2 * ball((40, 50, 36), (30, 30, 20), 4)
    with h5py.File(files / "found.h5", "a") as file:
        file["labels"][...] = found
    rows = ["tomo,z,y,x,semantic_class", "TS_1,10,12,10,2", "TS_1,20,40,30,2", "TS_2,1,1,1,5"]
    (files / "p.csv").write_text("\n".join(rows))
    table = evaluated(files, SETTINGS | {"particles": PARTICLES}, positions=[files / "p.csv"])
    second = table[table["label"] == "2"].iloc[0]
    assert second["true_objects"] == second["found_objects"] == 2
    assert second["matched_objects"] == 1
    assert second["object_f1"] == 0.5
    # A class that only another tomogram has positions of: there was nothing to find.
    assert table[table["label"] == "5"].iloc[0]["true_objects"] == 0


def test_a_tomogram_whose_positions_all_lie_outside_is_evaluated_all_the_same(files, caplog):
    (files / "p.csv").write_text("tomo,z,y,x,semantic_class\nTS_1,39.6,12,10,2\n")
    table = evaluated(files, SETTINGS | {"particles": PARTICLES}, positions=[files / "p.csv"])
    assert "1 of 1 positions in" in caplog.text
    assert table["dice"].notna().all()
    assert table["true_objects"][1] == 0


def test_a_tolerance_of_very_many_voxels_is_refused(files):
    with h5py.File(files / "found.h5", "a") as file:
        file.attrs["voxel_size"] = [8, 1e-300, 8]
    said = r"found.h5: tolerance_nm 2 is more than 64 of its voxels of 1e-301 nm; lower"
    with pytest.raises(InputError, match=said):
        evaluated(files, SETTINGS)


def test_a_class_without_a_surface_that_counts_is_warned_of(files, caplog):
    mask = np.zeros((40, 50, 36), np.uint8)
    mask[18:21] = 1  # 2.4 nm, with a tolerance of 2 nm
    write_mrc(files / "mask.mrc", mask, voxel_size=8.0)
    table = evaluated(files, SETTINGS, mask=files / "mask.mrc")
    assert table["surface_dice"].isna().all()
    assert "no surface farther than tolerance_nm 2 from voxels that do not count" in caplog.text
    assert "membrane, class 2" in caplog.text
    caplog.clear()
    assert evaluated(files, SETTINGS)["surface_dice"].notna().all()
    assert not caplog.text


def test_labels_that_neither_occur_nor_have_names_have_no_rows(files):
    write_mrc(files / "true.mrc", 199 * (blobs(4) == 1).astype(np.uint8), voxel_size=8.0)
    table = evaluated(files, SETTINGS | {"class_names": ["membrane", "b", "c"]})
    assert table["label"].tolist() == ["1", "2", "3", "199"]


def test_labels_of_another_shape_are_refused(files):
    write_mrc(files / "true.mrc", np.zeros((4, 5, 6), np.uint8), voxel_size=8.0)
    with pytest.raises(
        InputError, match=r"TS_1: .*found.*: true labels .* are 4 x 5 x 6, tomogram is 40 x"
    ):
        evaluated(files, SETTINGS)


@pytest.mark.parametrize("wrong", [0, -8, np.nan])
def test_without_a_voxel_size_lengths_are_left_out_with_a_warning(wrong, files, caplog):
    write_mrc(files / "true.mrc", mixed(4)[0], voxel_size=(wrong, 8, 8))
    with h5py.File(files / "found.h5", "a") as file:
        file.attrs["voxel_size"] = (8, 8, wrong)
    with caplog.at_level(logging.WARNING, "cryoseg"):
        table = evaluated(files, SETTINGS)
    assert "has a voxel size" in caplog.text
    assert table["surface_dice"].isna().all()
    assert table["dice"].notna().all()


def write_models(folder, *splits):
    for number, split in enumerate(splits):
        (folder / f"{number}.json").write_text(json.dumps({"split": split}))
    return [folder / f"{number}.json" for number in range(len(splits))]


def test_each_row_tells_whether_its_model_was_trained_on_the_tomogram(files):
    settings, compared = SETTINGS | {"stages": ["a", "b"]}, [files / "other.h5"]
    models = write_models(files, {"train": ["TS_1"], "validation": []}, {"validation": ["TS_1"]})
    table = evaluated(files, settings, compared=compared, models=models)
    assert table["split"].tolist() == ["train", "train", "validation", "validation"]
    table = evaluated(files, settings, models=models)
    assert table["split"].tolist() == ["train", "train"]
    table = evaluated(files, settings, compared=compared, models=write_models(files, {}))
    assert set(table["split"]) == {"-"}


# Over tomograms


def tables(stage, dice):
    """A table of one stage: dice[label][tomogram], NaN where the class is nowhere."""
    rows = [
        dict.fromkeys(COLUMNS, np.nan)
        | {"tomogram": f"TS_{number}", "stage": stage, "label": label, "class": f"class {label}"}
        | {"true_voxels": 10, "found_voxels": 10, "common_voxels": 5, "dice": value}
        for label, values in dice.items()
        for number, value in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def row_of(table, label, measure="dice"):
    return table[(table["label"] == label) & (table["measure"] == measure)].iloc[0]


def test_means_over_tomograms_that_the_model_was_trained_on_are_warned_of(tmp_path, caplog):
    table = tables("a", {"1": [0.5, 0.7, 0.9], "2": [np.nan, 0.7, 0.9]})
    table["split"] = table["tomogram"].map({"TS_0": "train", "TS_1": "-", "TS_2": "validation"})
    found = summarise(table)
    assert [row_of(found, label)["trained_on"] for label in ("1", "2", "mean")] == [1, 0, 1]
    table.to_csv(tmp_path / "a.tsv", sep="\t", index=False)
    written = [tmp_path / "summary.tsv", tmp_path / "summary.html"]
    with caplog.at_level(logging.WARNING, "cryoseg"):
        summarise_evaluation(
            [tmp_path / "a.tsv"], *written, settings=STAGE_A, unmade=tmp_path / "none"
        )
    assert "a: its model was trained on 1 of the 3 tomograms that its means are over (TS_0)" in (
        caplog.text
    )


def test_a_tomogram_without_a_class_counts_in_no_mean_of_it():
    table = summarise(tables("a", {"1": [0.5, 0.7, np.nan], "2": [1.0, 1.0, 0.2]}))
    assert row_of(table, "1")["tomograms"] == 2
    assert row_of(table, "1")["mean"] == pytest.approx(0.6)
    assert row_of(table, "2")["mean"] == pytest.approx(2.2 / 3)
    of_classes = np.mean([(0.5 + 1) / 2, (0.7 + 1) / 2, 0.2])
    assert row_of(table, "mean")["mean"] == pytest.approx(of_classes)
    assert row_of(table, "1")["pooled"] == 0.5


def test_one_tomogram_has_a_mean_and_no_interval():
    row = row_of(summarise(tables("a", {"1": [0.5]})), "1")
    assert row["mean"] == 0.5
    assert np.isnan([row["low"], row["high"]]).all()


@pytest.mark.parametrize(("count", "covers"), [(8, 0.93), (12, 0.94), (40, 0.95)])
def test_the_interval_covers_the_mean_as_often_as_the_readme_says(count, covers, monkeypatch):
    monkeypatch.setattr("cryoseg.summaries.RESAMPLES", 2000)
    rng = np.random.default_rng(count)
    covered = []
    for _ in range(400):
        low, high = mean_interval(rng.beta(8, 3, count))
        covered.append(low <= 8 / 11 <= high)
    assert np.mean(covered) == pytest.approx(covers, abs=0.025)  # two standard errors


def test_the_interval_is_the_same_each_time():
    values = np.random.default_rng(0).random(9)
    assert mean_interval(values) == mean_interval(values)


def test_two_stages_are_compared_pair_by_pair():
    rng = np.random.default_rng(1)
    base = rng.uniform(0.2, 0.9, 9)
    better = base + rng.uniform(0.01, 0.05, 9)
    table = compare(tables("a", {"1": better}), tables("b", {"1": [*base[:8], np.nan]}))
    row = row_of(table, "1")
    assert row["tomograms"] == 8
    assert row["difference"] == pytest.approx((better - base)[:8].mean())
    # Far narrower than the spread of the tomograms, since it is of differences.
    assert 0.01 < row["low"] < row["difference"] < row["high"] < 0.05
    assert row["p_value"] == pytest.approx(2 / 2**8)  # all eight of one sign


def counted(label, true, found, common):
    """A row of counted voxels and their measures."""
    counts = {"true_voxels": true, "found_voxels": found, "common_voxels": common}
    return {"label": label, "class": f"class {label}"} | counts | voxel_measures(*counts.values())


def test_a_class_that_one_model_alone_finds_in_error_lowers_its_mean():
    first, nothing, error = counted("1", 10, 10, 9), counted("2", 0, 0, 0), counted("2", 0, 5, 0)
    one, other = (
        pd.DataFrame([row | {"tomogram": "TS_1"} for row in rows], columns=COLUMNS)
        for rows in ((first, nothing), (first, error))
    )
    for table, sign in ((compare(one, other), 1), (compare(other, one), -1)):
        means = sorted(row_of(table, "mean")[["mean", "other_mean"]])
        assert means == pytest.approx([0.9 / 2, (0.9 + 1) / 2])
        assert row_of(table, "mean")["difference"] == pytest.approx(sign * 0.5)
        assert row_of(table, "2")["difference"] == sign
        # Precision is of nothing where nothing is found, and recall where nothing is there.
        assert row_of(table, "mean", "precision")["difference"] == pytest.approx(sign * 0.5)
        assert row_of(table, "mean", "recall")["mean"] == pytest.approx(0.9)


def test_a_class_that_one_model_misses_has_no_precision_to_compare():
    rows = [[counted("1", 10, 10, 9), counted("2", 10, n, n // 2)] for n in (0, 4)]
    one, other = (
        pd.DataFrame([row | {"tomogram": "TS_1"} for row in each], columns=COLUMNS) for each in rows
    )
    table = compare(one, other)
    assert row_of(table, "mean", "precision")["difference"] == 0  # of class 1 alone
    assert row_of(table, "mean")["mean"] == pytest.approx(0.9 / 2)


def test_a_single_class_has_a_mean_of_classes_too():
    table = tables("a", {"1": [0.5, 0.7]})
    assert row_of(summarise(table), "mean")["mean"] == pytest.approx(0.6)
    assert row_of(compare(table, table), "mean")["other_mean"] == pytest.approx(0.6)
    assert summarise(table[:0]).empty
    assert compare(table, table[:0]).empty


def test_a_signed_rank_test_takes_six_pairs():
    assert np.isnan(signed_rank_p([0.1] * 5))
    assert signed_rank_p([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == pytest.approx(2 / 2**6)
    assert signed_rank_p([0.0] * 7) == 1


def test_tomograms_called_like_numbers_keep_their_names(tmp_path):
    parts = []
    for name in ("001", "NA", 'a "b"\n'):
        table = tables("a", {"1": [0.5]}).assign(tomogram=name)
        parts.append(tmp_path / f"{len(parts)}.tsv")
        table.to_csv(parts[-1], sep="\t", index=False)
        assert read_table(parts[-1])["tomogram"].tolist() == [name]
    written = [tmp_path / "summary.tsv", tmp_path / "summary.html"]
    summarise_evaluation(parts, *written, settings=STAGE_A, unmade=tmp_path / "none")
    assert row_of(read_table(tmp_path / "summary.tsv"), "1")["tomograms"] == 3


def test_tomograms_that_could_not_be_evaluated_are_rows_of_their_own(tmp_path):
    write_table(tmp_path / "TS_1_evaluation.tsv", tables("a", {"1": [0.5]}))
    lost = tmp_path / "TS #2_evaluation.tsv"
    write_unmade(tmp_path / "unmade.json", {str(lost): Unmade("raw_scale_tomogram", "it is cut")})
    for parts, counted in (([tmp_path / "TS_1_evaluation.tsv", lost], 1), ([lost], 0)):
        summarise_evaluation(
            parts, tmp_path / "s.tsv", tmp_path / "s.html", settings=STAGE_A,
            unmade=tmp_path / "unmade.json",
        )  # fmt: skip
        table = read_table(tmp_path / "s.tsv")
        assert list(table["tomograms"].dropna().unique()) == [counted] * counted
        row = table.iloc[-1]
        assert (row["not_evaluated"], row["reason"]) == ("TS #2", "it is cut")
        assert "it is cut" in (tmp_path / "s.html").read_text()

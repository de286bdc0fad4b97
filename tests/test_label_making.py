"""Labels from positions, averages, masks and other labels: where they belong, nowhere else."""

import logging
import time

import h5py
import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from cryoseg import label_volumes
from cryoseg.drawing import Drawing, draw_shapes, draw_spheres, shape_of
from cryoseg.errors import InputError
from cryoseg.label_making import drawing_order
from cryoseg.label_volumes import add_rim, count_values, merge_masks
from cryoseg.volumes import open_volume, write_mrc
from filter_labels import filter_labels
from label_averages import label_averages
from label_particles import label_particles
from merge_labels import merge_labels
from test_positions import XYZ, csv, star

SHAPE = (20, 30, 40)
SPHERES = {
    "labels_of_files": None,
    "per_tomogram": False,
    "labels": None,
    "radius": 30,
    "unit": "angstrom",
    "priority": None,
    "ignore_rim": 0,
    "coordinate_voxel_size": None,
    "name_suffix": "",
    "allow_empty": False,
}
AVERAGES = {key: value for key, value in SPHERES.items() if key != "radius"} | {
    "labels_of_averages": None,
    "threshold": 0.5,
    "invert": False,
    "average_voxel_size": None,
}
MERGED = {"labels_of_masks": [1, 2], "priority": None, "ignore_rim": 0, "unit": "voxel",
          "ignoring": []}  # fmt: skip


def placed(path, data, voxel_size=10.0):
    """Write an MRC file that has a place in space, and return its path."""
    write_mrc(path, data, voxel_size=voxel_size)
    with mrcfile.open(path, "r+") as mrc:
        mrc.header.origin = (100.0, 200.0, 300.0)
        mrc.header.nxstart, mrc.header.nystart, mrc.header.nzstart = -3, 4, 5
    return path


@pytest.fixture
def tomogram(tmp_path):
    return placed(tmp_path / "TS_01.mrc", np.zeros(SHAPE, np.float32))


def made(script, tmp_path, *inputs, name="TS_01", **settings):
    """What a script makes of its inputs: the labels as an array."""
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    defaults = {label_particles: SPHERES, label_averages: AVERAGES, merge_labels: MERGED}[script]
    script(*inputs, out / f"{name}.mrc", settings=defaults | settings)
    return open_volume(out / f"{name}.mrc").data


def same_place(path, like):
    with mrcfile.open(path) as ours, mrcfile.open(like) as theirs:
        fields = ("nx", "ny", "nz", "mx", "cella", "origin", "nxstart", "nystart", "nzstart")
        return all((ours.header[field] == theirs.header[field]).all() for field in fields)


def rows_csv(path, rows):
    return csv(path, ("centroid-0", "centroid-1", "centroid-2", "tomo", "semantic_class"), rows)


# Spheres


def test_spheres_lie_at_the_positions_of_the_tomogram_with_their_classes(tomogram, tmp_path):
    rows = [(8, 9, 10, "TS_01", 1), (12, 20, 30.5, "TS_01", 2), (5, 5, 5, "TS_02", 1)]
    path = rows_csv(tmp_path / "p.csv", rows)
    labels = made(label_particles, tmp_path, tomogram, path, radius={1: 30, "2": 20})
    z, y, x = np.ogrid[tuple(map(slice, SHAPE))]
    expected = np.zeros(SHAPE, np.uint8)
    expected[(z - 8) ** 2 + (y - 9) ** 2 + (x - 10) ** 2 <= 9] = 1
    expected[(z - 12) ** 2 + (y - 20) ** 2 + (x - 30.5) ** 2 <= 4] = 2
    np.testing.assert_array_equal(labels, expected)
    assert same_place(tmp_path / "out" / "TS_01.mrc", tomogram)
    with mrcfile.open(tmp_path / "out" / "TS_01.mrc") as mrc:
        assert mrc.header.mode == 0  # as IMOD and ChimeraX expect of labels


def test_where_spheres_overlap_the_first_of_the_priority_wins(tomogram, tmp_path):
    path = rows_csv(tmp_path / "p.csv", [(8, 9, 10, "TS_01", 1), (8, 9, 12, "TS_01", 2)])
    default = made(label_particles, tmp_path, tomogram, path)[8, 9, 11]
    assert default == 1
    assert made(label_particles, tmp_path, tomogram, path, priority=[2, 1])[8, 9, 11] == 2


@given(st.sets(st.integers(1, 9), min_size=1), st.lists(st.integers(1, 9), unique=True))
def test_unnamed_labels_come_after_those_of_the_priority(labels, priority):
    order = drawing_order(labels, priority)[::-1]
    named = [label for label in priority if label in labels]
    assert order == named + sorted(labels - set(named))


def test_the_rim_is_ignored_but_covers_no_object(tomogram, tmp_path):
    path = rows_csv(tmp_path / "p.csv", [(8, 9, 10, "TS_01", 1), (8, 9, 15, "TS_01", 2)])
    plain = made(label_particles, tmp_path, tomogram, path, radius=20).copy()
    rimmed = made(label_particles, tmp_path, tomogram, path, radius=20, ignore_rim=20)
    with mrcfile.open(tmp_path / "out" / "TS_01.mrc") as mrc:
        assert mrc.header.mode == 6  # bytes are signed, and 255 is none
    np.testing.assert_array_equal(np.where(rimmed == 255, 0, rimmed), plain)
    z, y, x = np.ogrid[tuple(map(slice, SHAPE))]
    around = [(z - 8) ** 2 + (y - 9) ** 2 + (x - c) ** 2 <= 16 for c in (10, 15)]
    np.testing.assert_array_equal(rimmed == 255, (around[0] | around[1]) & (plain == 0))


def test_a_mapping_of_positions_gives_each_file_its_label(tomogram, tmp_path):
    first = csv(tmp_path / "a.csv", ("z", "y", "x"), [(8, 9, 10)])
    second = csv(tmp_path / "b.csv", ("z", "y", "x"), [(12, 20, 30)])
    labels = made(
        label_particles,
        tmp_path,
        tomogram,
        [first, second],
        labels_of_files=[1, 7],
        per_tomogram=True,
        radius={1: 10, 7: 20},
    )
    assert (labels[8, 9, 10], labels[12, 20, 30]) == (1, 7)
    assert ((labels == 1).sum(), (labels == 7).sum()) == (7, 33)


def test_classes_are_translated_and_others_left_out(tomogram, tmp_path):
    path = rows_csv(
        tmp_path / "p.csv",
        [(8, 9, 10, "TS_01", "ribosome"), (12, 20, 30, "TS_01", 3), (4, 4, 4, "TS_01", "gold")],
    )
    labels = made(label_particles, tmp_path, tomogram, path, labels={"ribosome": 2, 3: 1})
    assert (labels[8, 9, 10], labels[12, 20, 30], labels[4, 4, 4]) == (2, 1, 0)
    one = made(label_particles, tmp_path, tomogram, path, labels=5)
    assert np.unique(one).tolist() == [0, 5]
    for odd in (1_000_000 * "x", 5000 * "9", "²", "300"):
        rows = [(8, 9, 10, "TS_01", odd)]
        with pytest.raises(InputError, match=r"class '.*' is no label from 1 to 254") as refused:
            made(label_particles, tmp_path, tomogram, rows_csv(tmp_path / "odd.csv", rows))
        assert len(str(refused.value)) < 1000
    with pytest.raises(InputError, match="class 'gold' is no label"):
        made(label_particles, tmp_path, tomogram, path)
    with pytest.raises(InputError, match=r"radius has \[1\], and there are positions with label 2"):
        made(label_particles, tmp_path, tomogram, path, labels={"ribosome": 2}, radius={1: 10})


def test_a_tomogram_without_positions_is_an_error_unless_it_is_said_to_be_right(
    tomogram, tmp_path, caplog
):
    path = rows_csv(tmp_path / "p.csv", [(8, 9, 10, "TS_1", 1)])
    with pytest.raises(
        InputError, match=r"TS_01: .* those of TS_1; did you mean TS_1\?.*allow_empty"
    ):
        made(label_particles, tmp_path, tomogram, path)
    assert not made(label_particles, tmp_path, tomogram, path, allow_empty=True).any()
    assert "has no positions of this tomogram" in caplog.text


def test_a_tomogram_need_not_have_every_class(tomogram, tmp_path, caplog):
    files = [
        rows_csv(tmp_path / f"{name}.csv", [(8, 9, 10, name, 1)]) for name in ("TS_01", "TS_02")
    ]
    labels = made(label_particles, tmp_path, tomogram, files, labels_of_files=[1, 2])
    assert np.unique(labels).tolist() == [0, 1]
    assert "TS_02.csv has no positions of this tomogram" in caplog.text


def test_positions_outside_are_counted_and_all_outside_is_an_error(tomogram, tmp_path, caplog):
    rows = [(8, 9, 10, "TS_01", 1), (19, 29, 41, "TS_01", 1), (80, 9, 10, "TS_01", 1)]
    path = rows_csv(tmp_path / "p.csv", rows)
    labels = made(label_particles, tmp_path, tomogram, path)
    assert "2 of 3 positions" in caplog.text
    assert "1 particles cover no voxel" in caplog.text
    assert labels[19, 29, 39] == 1  # what of a sphere lies inside is drawn
    with pytest.raises(InputError, match="coordinate_voxel_size"):
        made(label_particles, tmp_path, tomogram, rows_csv(path, rows[2:]))


def test_angstrom_need_a_voxel_size_and_voxels_do_not(tmp_path):
    tomogram = placed(tmp_path / "TS_01.mrc", np.zeros(SHAPE, np.float32), voxel_size=0)
    path = rows_csv(tmp_path / "p.csv", [(8, 9, 10, "TS_01", 1)])
    with pytest.raises(InputError, match=r"TS_01.mrc: the header has no voxel size.*unit: voxel"):
        made(label_particles, tmp_path, tomogram, path)
    assert made(label_particles, tmp_path, tomogram, path, radius=1, unit="voxel").sum() == 7


def test_voxels_that_are_no_cubes_give_round_spheres_in_angstrom():
    drawing = Drawing(np.zeros((30, 30, 30), np.uint8))
    draw_spheres(drawing, np.array([[15.0, 15, 15]]), 1, (5, 10, 10))
    extent = [np.ptp(where) for where in np.nonzero(drawing.labels)]
    assert extent == [10, 20, 20]


def test_thousands_of_particles_take_seconds():
    points = np.random.default_rng(0).uniform(0, 300, (5000, 3))
    drawing = Drawing(np.zeros((100, 300, 300), np.uint8))
    started = time.process_time()
    draw_spheres(drawing, points, 1, (6, 6, 6), (2, 2, 2))
    assert time.process_time() - started < 10


def test_the_spheres_of_the_real_positions_are_those_that_came_with_them(real_data, tmp_path):
    """Those were drawn around positions rounded to whole voxels; ours are not rounded."""
    (path,) = real_data.glob("*.csv")
    name = "tomo171_31.36A"
    theirs = open_volume(real_data / f"{name}_ribosome_spheres.mrc").data != 0
    tomogram = real_data / f"{name}.mrc"
    settings = {"name": name, "radius": 4, "unit": "voxel"}
    ours = made(label_particles, tmp_path, tomogram, path, **settings) != 0
    table = np.genfromtxt(path, delimiter=",", skip_header=1, usecols=(0, 1, 2))
    rounded = csv(tmp_path / "r.csv", ("z", "y", "x"), np.round(table).astype(int))
    settings["per_tomogram"] = True
    same = made(label_particles, tmp_path, tomogram, rounded, **settings) != 0

    def dice(a, b):
        return 2 * (a & b).sum() / (a.sum() + b.sum())

    # Positions have two digits, so which way a half was rounded is not known of a few.
    assert abs(int(same.sum()) - int(theirs.sum())) <= 10
    assert dice(same, theirs) > 0.995
    assert dice(ours, theirs) > 0.9
    angstrom = made(label_particles, tmp_path, tomogram, path, name=name, radius=4 * 31.36)
    np.testing.assert_array_equal(angstrom != 0, ours)


# Averages


def handed():
    """A particle without symmetry: three arms of different lengths along x, y and z, as points."""
    arms = [((1, 0, 0), 9), ((0, 1, 0), 6), ((0, 0, 1), 3)]
    return np.array([np.multiply(step, n) for step, most in arms for n in range(most + 1)], float)


def average_of(points, size=29, voxels=1):
    """An average, Z x Y x X, with blobs at points x, y, z from its middle n // 2.

    voxels: how large its voxels are, compared with those in which the points count
    """
    axes = [np.arange(size) - size // 2] * 3
    density = np.zeros((size,) * 3)
    for x, y, z in points / voxels:
        squares = [(axis - at) ** 2 for axis, at in zip(axes, (z, y, x), strict=True)]
        density = np.maximum(density, np.exp(-sum(np.ix_(*squares)) * voxels**2 / 5))
    return density.astype(np.float32)


ANGLES = tuple(f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi"))


def oriented_star(path, xyz, angles, **more):
    columns = ("rlnTomoName", *XYZ, *ANGLES, *more)
    return star(path, columns, [("TS_01", *xyz, *angles, *more.values())])


@pytest.mark.parametrize("angles", [(0, 0, 0), (90, 0, 0), (0, 90, 0), (30, 75, -140)])
def test_averages_are_turned_as_relion_turned_the_particles(angles, tmp_path):
    """Turning the particle by its angles must give the average, so the average is turned back."""
    tomogram = placed(tmp_path / "TS_01.mrc", np.zeros((40, 40, 40), np.float32))
    average = placed(tmp_path / "average.mrc", average_of(handed()))
    path = oriented_star(tmp_path / "p.star", (20, 19, 18), angles)
    labels = made(label_averages, tmp_path, tomogram, path, average)
    particle_to_average = Rotation.from_euler("ZYZ", angles, degrees=True)
    x, y, z = np.add(particle_to_average.inv().apply(handed()), (20, 19, 18)).T
    at_the_arms = labels[tuple(np.rint((z, y, x)).astype(int))]
    assert (at_the_arms == 1).all()
    # As large as the average, and nowhere that the mirrored or wrongly turned one would be.
    expected = (average_of(handed()) >= 0.5).sum()
    assert abs(int((labels == 1).sum()) - expected) < 0.12 * expected
    back = np.argwhere(labels)[:, ::-1] - (20, 19, 18)
    distances = np.linalg.norm(
        particle_to_average.apply(back)[:, None] - handed()[None], axis=-1
    ).min(1)
    assert distances.max() < 2.5


def test_right_angles_move_every_voxel_to_where_it_belongs(tmp_path):
    """rot = 90 turns the particle's x axis onto the average's y, so the average's y onto its x."""
    tomogram = placed(tmp_path / "TS_01.mrc", np.zeros((40, 40, 40), np.float32))
    average = average_of(handed())
    path = oriented_star(tmp_path / "p.star", (20, 20, 20), (90, 0, 0))
    labels = made(label_averages, tmp_path, tomogram, path, placed(tmp_path / "a.mrc", average))
    expected = np.zeros((40, 40, 40), np.uint8)
    where = np.argwhere(average >= 0.5) - 14
    z, y, x = where.T
    expected[20 + z, 20 - x, 20 + y] = 1
    np.testing.assert_array_equal(labels, expected)


def test_shifts_and_finer_averages_end_in_the_right_place(tmp_path):
    tomogram = placed(tmp_path / "TS_01.mrc", np.zeros((40, 40, 40), np.float32))
    fine = placed(tmp_path / "fine.mrc", average_of(handed(), 57, voxels=0.5), voxel_size=5)
    coarse = placed(tmp_path / "coarse.mrc", average_of(handed()))
    path = oriented_star(tmp_path / "p.star", (25, 20, 18), (0, 0, 0), rlnOriginXAngst=50)
    direct = oriented_star(tmp_path / "d.star", (20, 20, 18), (0, 0, 0))
    expected = made(label_averages, tmp_path, tomogram, direct, coarse).copy()
    assert expected[18, 20, 29]
    assert not expected[18, 20, 9]
    np.testing.assert_array_equal(made(label_averages, tmp_path, tomogram, path, coarse), expected)
    finer = made(label_averages, tmp_path, tomogram, path, fine)
    assert 2 * (finer & expected).sum() / (finer.sum() + expected.sum()) > 0.97
    # A header without a voxel size can be helped out.
    placed(fine, open_volume(fine)[:], voxel_size=0)
    with pytest.raises(InputError, match="average_voxel_size"):
        made(label_averages, tmp_path, tomogram, path, fine)
    again = made(label_averages, tmp_path, tomogram, path, fine, average_voxel_size=5)
    np.testing.assert_array_equal(again, finer)


def test_dark_averages_and_labels_with_averages_of_their_own(tmp_path):
    tomogram = placed(tmp_path / "TS_01.mrc", np.zeros((40, 40, 40), np.float32))
    handed_path = placed(tmp_path / "1.mrc", average_of(handed()))
    ball = placed(tmp_path / "2.mrc", average_of(np.zeros((1, 3))))
    columns = ("rlnTomoName", "rlnClassNumber", *XYZ, *ANGLES)
    rows = [("TS_01", 3, 12, 20, 20, 0, 0, 0), ("TS_01", 2, 30, 20, 20, 0, 0, 0)]
    path = star(tmp_path / "p.star", columns, rows)
    own = {"labels_of_averages": [2, 3], "threshold": {2: 0.5, 3: 0.4}}
    labels = made(label_averages, tmp_path, tomogram, path, [ball, handed_path], **own).copy()
    assert (labels[20, 20, 30], labels[20, 20, 12]) == (2, 3)
    assert (labels == 3).sum() > 5 * (labels == 2).sum() > 0
    for file in (handed_path, ball):
        placed(file, -open_volume(file)[:])
    dark = own | {"invert": True, "threshold": {2: -0.5, 3: -0.4}}
    np.testing.assert_array_equal(
        made(label_averages, tmp_path, tomogram, path, [ball, handed_path], **dark), labels
    )


def test_the_rim_of_an_average_is_as_wide_as_asked():
    shape = shape_of("a.mrc", average_of(handed()), (10,) * 3, 0.5, rim=25)
    drawing = Drawing(np.zeros((40, 40, 40), np.uint8))
    draw_shapes(drawing, np.full((1, 3), 20.0), np.eye(3)[None], 1, shape, (10,) * 3)
    distance = 10 * ndimage.distance_transform_edt(drawing.labels != 1)
    np.testing.assert_array_equal(drawing.labels == 255, (distance > 0) & (distance <= 25))


def test_averages_need_angles_and_a_threshold_within(tmp_path):
    tomogram = placed(tmp_path / "TS_01.mrc", np.zeros((40, 40, 40), np.float32))
    average = placed(tmp_path / "average.mrc", average_of(handed()))
    flat = star(tmp_path / "f.star", ("rlnTomoName", *XYZ), [("TS_01", 20, 20, 20)])
    with pytest.raises(InputError, match="no angles"):
        made(label_averages, tmp_path, tomogram, flat, average)
    path = oriented_star(tmp_path / "p.star", (20, 20, 20), (0, 0, 0))
    for threshold, share in ((1.5, "no"), (-1, "every")):
        with pytest.raises(InputError, match=f"average.mrc: {share} voxel .* 0 to 1"):
            made(label_averages, tmp_path, tomogram, path, average, threshold=threshold)


# Filtering


def filtered(source, tmp_path, selected, relabel=False):
    out = tmp_path / "filtered.mrc"
    filter_labels(source, out, settings={"selected_labels": selected, "relabel": relabel})
    return open_volume(out).data


@pytest.mark.parametrize("name", ["tomo_a", "tomo_c", "tomo_d"])  # MRC modes 0, 6 and 2
@pytest.mark.parametrize("selected", [2, [2, 3], [3], None])
def test_labels_are_selected_whatever_their_mode(compat, name, selected, tmp_path):
    source = compat / "gt" / "labels" / f"{name}.mrc"
    before = source.read_bytes()
    given_labels = mrcfile.read(source)
    found = filtered(source, tmp_path, selected)
    if selected is None:
        expected = given_labels
    elif isinstance(selected, int):
        expected = given_labels == selected
    else:
        expected = np.where(np.isin(given_labels, selected), given_labels, 0)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.int8
    assert same_place(tmp_path / "filtered.mrc", source)
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("source", "theirs", "selected"),
    [
        ("gt/labels/tomo_b.mrc", "work/filtered_labels_2_3/tomo_b.mrc", [2, 3]),
        ("gt/labels/tomo_c.mrc", "work/filtered_labels_2_3/tomo_c.mrc", [2, 3]),
        ("gt/lamella/tomo_b.mrc", "work/lamella/labels/tomo_b.mrc", [1]),
    ],
)
def test_cryosiams_filtered_labels_are_ours_grown_by_a_voxel(
    compat, source, theirs, selected, tmp_path
):
    ours = filtered(compat / source, tmp_path, selected) != 0
    theirs = mrcfile.read(compat / theirs) != 0
    np.testing.assert_array_equal(ndimage.binary_dilation(ours), theirs)


def test_a_list_can_be_numbered_anew_and_the_log_says_how(tmp_path, caplog):
    caplog.set_level(logging.INFO, "cryoseg")
    data = np.zeros((4, 5, 6), np.uint16)
    data[0], data[1], data[2] = 300, 7, 5
    found = filtered(placed(tmp_path / "l.mrc", data), tmp_path, [300, 5], relabel=True)
    np.testing.assert_array_equal(found[:, 0, 0], [1, 0, 2, 0])
    assert "label 300 becomes 1: 30 voxels" in caplog.text
    assert "label 5 becomes 2: 30 voxels" in caplog.text
    assert "label 7 becomes 0: 30 voxels" in caplog.text
    with pytest.raises(InputError, match=r"label 300 cannot be kept.*relabel: true"):
        filtered(tmp_path / "l.mrc", tmp_path, [300, 5])


def test_ignored_voxels_stay_ignored(tmp_path):
    data = np.zeros((4, 5, 6), np.uint8)
    data[0], data[1] = 3, 255
    source = placed(tmp_path / "l.mrc", data)
    np.testing.assert_array_equal(filtered(source, tmp_path, 3)[:, 0, 0], [1, 255, 0, 0])
    np.testing.assert_array_equal(filtered(source, tmp_path, None)[:, 0, 0], [3, 255, 0, 0])
    signed = placed(tmp_path / "s.mrc", data.view(np.int8))
    np.testing.assert_array_equal(filtered(signed, tmp_path, 3)[:, 0, 0], [1, 255, 0, 0])


def test_a_selected_label_that_occurs_nowhere_is_warned_of(tmp_path, caplog):
    data = np.zeros((4, 5, 6), np.uint8)
    data[0], data[1] = 2, 3
    source = placed(tmp_path / "l.mrc", data)
    filtered(source, tmp_path, [2, 3])
    assert not caplog.records
    filtered(source, tmp_path, [2, 8])
    assert "l.mrc: selected label 8 occurs nowhere; there are 2, 3" in caplog.text
    assert not filtered(source, tmp_path, 9).any()
    assert "selected label 9 occurs nowhere" in caplog.text


@pytest.mark.parametrize(
    ("value", "dtype", "message"),
    [
        (0.5, np.float32, "hold no whole number"),
        (np.nan, np.float32, "hold no whole number"),
        (-3, np.int16, "must be from 0 to 65535"),
        (1e6, np.float32, "must be from 0 to 65535"),
    ],
)
def test_values_that_are_no_labels_are_refused(value, dtype, message, tmp_path):
    data = np.zeros((4, 5, 6), dtype)
    data[2, 2, 2] = value
    with pytest.raises(InputError, match=f"l.mrc: .*{message}"):
        filtered(placed(tmp_path / "l.mrc", data), tmp_path, 1)
    assert not (tmp_path / "filtered.mrc").exists()


def test_the_originals_are_never_overwritten(tmp_path):
    source = placed(tmp_path / "filtered.mrc", np.ones((4, 5, 6), np.uint8))
    before = source.read_bytes()
    with pytest.raises(InputError, match="name another folder"):
        filtered(source, tmp_path, 1)
    assert source.read_bytes() == before


def test_predictions_can_be_filtered(tmp_path):
    with h5py.File(tmp_path / "p.h5", "w") as file:
        file["labels"] = np.full((4, 5, 6), 3, np.uint8)
        file.attrs["voxel_size"], file.attrs["origin"] = (7.0, 8.0, 9.0), (1.0, 2.0, 3.0)
    assert (filtered(tmp_path / "p.h5", tmp_path, 3) == 1).all()
    written = open_volume(tmp_path / "filtered.mrc")
    assert written.voxel_size == pytest.approx((7, 8, 9))
    assert written.origin == (1, 2, 3)


@given(st.integers(0, 2**32 - 1))
def test_no_value_appears_that_was_not_selected(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    folder = tmp_path_factory.mktemp("filter")
    data = rng.integers(0, 12, (3, 4, 5)).astype(rng.choice(["i1", "u2", "i2", "f4"]))
    selected = np.unique(rng.integers(1, 12, 3)).tolist()
    found = filtered(placed(folder / "l.mrc", data), folder, selected)
    np.testing.assert_array_equal(found, np.where(np.isin(data, selected), data, 0))
    counted = zip(*np.unique(data, return_counts=True), strict=True)
    assert count_values(open_volume(folder / "l.mrc")) == {
        int(value): int(number) for value, number in counted
    }


# Merging


def masks_of(tmp_path, *masks):
    return [placed(tmp_path / f"mask_{n}.mrc", mask) for n, mask in enumerate(masks)]


def test_masks_are_merged_and_the_first_of_the_priority_wins(tmp_path, caplog):
    caplog.set_level(logging.INFO, "cryoseg")
    first, second = np.zeros((2, 4, 5, 6), np.uint8)
    first[:2], second[1:3] = 1, 7
    paths = masks_of(tmp_path, first, second.astype(np.float32))
    default = made(merge_labels, tmp_path, paths)
    np.testing.assert_array_equal(default[:, 0, 0], [1, 1, 2, 0])
    assert "30 voxels lay in more than one mask" in caplog.text
    merged = made(merge_labels, tmp_path, paths, priority=[2, 1], labels_of_masks=[1, 2])
    np.testing.assert_array_equal(merged[:, 0, 0], [1, 2, 2, 0])
    assert same_place(tmp_path / "out" / "TS_01.mrc", paths[0])


def test_ignored_voxels_of_a_mask_yield_to_the_objects_of_others(tmp_path):
    first, second = np.zeros((2, 5, 5, 6), np.uint8)
    first[0], first[1:3], second[2] = 1, 255, 1
    merged = made(merge_labels, tmp_path, masks_of(tmp_path, first, second))
    np.testing.assert_array_equal(merged[:, 0, 0], [1, 255, 2, 0, 0])


def test_255_marks_the_object_where_no_other_value_does(tmp_path):
    first, second = np.zeros((2, 4, 5, 6), np.uint8)
    first[0], second[2] = 255, 1
    merged = made(merge_labels, tmp_path, masks_of(tmp_path, first, second))
    np.testing.assert_array_equal(merged[:, 0, 0], [1, 0, 2, 0])


def test_255_is_ignored_in_labels_that_this_workflow_made(tmp_path):
    """A sphere whose centre lies outside can leave nothing but its rim."""
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[0] = 255
    merged = made(
        merge_labels, tmp_path, masks_of(tmp_path, mask), labels_of_masks=[2], ignoring=[2]
    )
    np.testing.assert_array_equal(merged[:, 0, 0], [255, 0, 0, 0])


def test_masks_of_different_sizes_are_refused(tmp_path):
    paths = masks_of(tmp_path, np.ones((4, 5, 6), np.uint8), np.ones((4, 5, 7), np.uint8))
    with pytest.raises(InputError, match=r"mask_1.mrc is 4 x 5 x 7, .*mask_0.mrc is 4 x 5 x 6"):
        made(merge_labels, tmp_path, paths)


@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from([0.5, 1.0, 1.5, 2.0, 2.3, 4.0]))
def test_the_rim_does_not_depend_on_the_slabs(seed, width):
    rng = np.random.default_rng(seed)
    labels = (rng.random((40, 6, 7)) > 0.995).astype(np.uint8) * 3
    spacing = (1.0, 1.0, 1.5)
    expected = labels.copy()
    if labels.any():
        distance = ndimage.distance_transform_edt(labels == 0, spacing)
        expected[(labels == 0) & (distance <= width * (1 + 1e-5))] = 255
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_volumes, "FEWEST_SECTIONS", 3)
        add_rim(labels, width, spacing)
    np.testing.assert_array_equal(labels, expected)


def test_a_merged_volume_gets_a_rim(tmp_path):
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[4, 4, 4] = 1
    paths = masks_of(tmp_path, mask)
    for settings in ({"unit": "voxel", "ignore_rim": 1}, {"unit": "angstrom", "ignore_rim": 10}):
        merged = made(merge_labels, tmp_path, paths, labels_of_masks=[4], **settings)
        assert merged[4, 4, 4] == 4
        assert (merged == 255).sum() == 6


def test_merging_nothing_gives_nothing(tmp_path):
    volumes = {1: open_volume(masks_of(tmp_path, np.zeros((4, 5, 6), np.uint8))[0])}
    assert not merge_masks(volumes, rim=2).any()

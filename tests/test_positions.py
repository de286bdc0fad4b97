"""Positions: read as RELION means them, matched to their tomogram, brought into its voxels."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cryoseg.errors import InputError
from cryoseg.positions import (
    count_outside,
    no_positions,
    positions_in,
    possible_names,
    read_positions,
    relion_matrices,
)

CUBES = (10.0, 10.0, 10.0)


def star(path, columns, rows, block="particles", before=""):
    """Write a STAR file with one table."""
    names = "\n".join(f"_{name} #{n}" for n, name in enumerate(columns, start=1))
    lines = "\n".join(" ".join(map(str, row)) for row in rows)
    path.write_text(f"{before}\ndata_{block}\n\nloop_\n{names}\n{lines}\n\n")
    return path


def csv(path, columns, rows):
    lines = [",".join(map(str, row)) for row in [columns, *rows]]
    path.write_text("\n".join(lines) + "\n")
    return path


XYZ = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")


def test_star_coordinates_become_z_y_x(tmp_path):
    path = star(
        tmp_path / "p.star",
        ("rlnTomoName", *XYZ, "rlnClassNumber"),
        [("TS_01", 1, 2, 3.5, 2), ("08", 4, 5, 6, 1)],
    )
    positions = read_positions(path)
    np.testing.assert_array_equal(positions.points, [[3.5, 2, 1], [6, 5, 4]])
    assert list(positions.tomograms) == ["TS_01", "08"]
    assert list(positions.classes) == ["2", "1"]
    assert positions.turns is None
    np.testing.assert_array_equal(positions.voxels((9, 9, 9), (0, 0, 0)), positions.points)


def test_the_particles_of_a_file_with_optics_groups_are_found(tmp_path):
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup #1\n_rlnVoltage #2\n1 300.0\n"
    path = star(tmp_path / "p.star", ("rlnMicrographName", *XYZ), [("a", 1, 2, 3)], before=optics)
    assert read_positions(path).points.tolist() == [[3, 2, 1]]


@pytest.mark.parametrize("name", ["NA", "null", "nan", "None", "#NA"])
def test_a_tomogram_or_class_of_a_table_may_be_called_like_nothing(name, tmp_path):
    rows = [(name, name, 1, 2, 3)]
    positions = read_positions(csv(tmp_path / "p.csv", ("tomo", "semantic_class", *"zyx"), rows))
    assert len(positions_in(positions, name)) == 1
    assert list(positions.classes) == [name]


def test_csv_columns_are_read_in_either_naming(tmp_path):
    ours = csv(
        tmp_path / "a.csv",
        ("centroid-0", "centroid-1", "centroid-2", "tomo", "semantic_class"),
        [(1.5, 2, 3, "TS_01", 4)],
    )
    plain = csv(tmp_path / "b.csv", ("x", "y", "z"), [(3, 2, 1.5)])
    for path in (ours, plain):
        assert read_positions(path).points.tolist() == [[1.5, 2, 3]]
    assert read_positions(ours).classes.tolist() == ["4"]
    assert read_positions(plain).tomograms is None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("TS_01", "TS_01"),
        ("Tomograms/TS_01/TS_01.mrc", "TS_01"),
        ("frames\\TS_01.mrc.tomostar", "TS_01"),
        ("TS_01_10.00Apx.mrc", "TS_01_10.00Apx"),
        ("x.mrc_13.28Apx.mrc", "x.mrc_13.28Apx"),
        ("TS_01.rec", "TS_01"),
    ],
)
def test_paths_and_endings_are_stripped_off_names(text, name):
    assert name in possible_names(text)


def test_ts_1_is_not_ts_10_and_what_follows_a_point_is_no_ending(tmp_path):
    names = ["TS_1", "TS_10", "TS_1_10.00Apx", "TS_1.mrc", "TS_1_2"]
    path = star(tmp_path / "p.star", ("rlnTomoName", *XYZ), [(n, 1, 1, 1) for n in names])
    positions = read_positions(path)
    assert list(positions_in(positions, "TS_1").tomograms) == ["TS_1", "TS_1.mrc"]
    assert list(positions_in(positions, "TS_1_10.00Apx").tomograms) == ["TS_1_10.00Apx"]
    suffixed = positions_in(positions, "TS_10_13.28Apx", name_suffix="_13.28Apx")
    assert list(suffixed.tomograms) == ["TS_10"]
    assert not len(positions_in(positions, "TS"))


def test_a_file_without_names_is_of_one_tomogram_only_if_it_is_said_so(tmp_path):
    positions = read_positions(csv(tmp_path / "a.csv", ("z", "y", "x"), [(1, 2, 3)]))
    assert len(positions_in(positions, "TS_1", per_tomogram=True)) == 1
    with pytest.raises(InputError, match=r"which tomogram .* \{tomogram\} in its name"):
        positions_in(positions, "TS_1")


def test_shifts_are_subtracted(tmp_path):
    columns = (*XYZ, "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
    in_angstrom = star(tmp_path / "a.star", columns, [(10, 20, 30, 5, -10, 20)])
    columns = (*XYZ, "rlnOriginX", "rlnOriginY", "rlnOriginZ")
    in_voxels = star(tmp_path / "b.star", columns, [(10, 20, 30, 0.5, -1, 2)])
    for path in (in_angstrom, in_voxels):
        points = read_positions(path).voxels((99, 99, 99), CUBES)
        np.testing.assert_allclose(points, [[28, 21, 9.5]])
    with pytest.raises(InputError, match="no voxel size"):
        read_positions(in_angstrom).voxels((99, 99, 99), (0, 0, 0))


def test_coordinates_of_another_binning_are_scaled(tmp_path):
    columns = (*XYZ, "rlnOriginXAngst")
    path = star(tmp_path / "p.star", columns, [(100, 200, 400, 20)])
    points = read_positions(path).voxels((200, 99, 99), CUBES, coordinate_voxel_size=2.5)
    np.testing.assert_allclose(points, [[100, 50, 23]])


def test_centred_coordinates_count_from_the_tomograms_middle(tmp_path):
    centred = [f"rlnCenteredCoordinate{axis}Angst" for axis in "XYZ"]
    path = star(tmp_path / "p.star", centred, [(-100, 0, 50)])
    points = read_positions(path).voxels((40, 60, 81), CUBES)
    np.testing.assert_allclose(points, [[25, 30, 30.5]])


@given(angles=arrays(float, (4, 3), elements=st.floats(-360, 360)))
def test_matrices_are_those_that_relion_writes_down(angles):
    rot, tilt, psi = np.deg2rad(angles).T
    zeros, ones = np.zeros(4), np.ones(4)

    def about_z(a):
        return [[np.cos(a), np.sin(a), zeros], [-np.sin(a), np.cos(a), zeros], [zeros, zeros, ones]]

    def about_y(a):
        return [[np.cos(a), zeros, -np.sin(a)], [zeros, ones, zeros], [np.sin(a), zeros, np.cos(a)]]

    steps = [np.moveaxis(np.array(m), 2, 0) for m in (about_z(psi), about_y(tilt), about_z(rot))]
    np.testing.assert_allclose(relion_matrices(angles), steps[0] @ steps[1] @ steps[2], atol=1e-12)


def test_turned_boxes_turn_shifts_and_angles(tmp_path):
    columns = (
        *XYZ,
        *(f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi")),
        *(f"rlnTomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi")),
        "rlnOriginXAngst",
    )
    path = star(tmp_path / "p.star", columns, [(10, 20, 30, 10, 20, 30, 90, 0, 0, 50)])
    positions = read_positions(path)
    box, inner = relion_matrices([[90, 0, 0]])[0], relion_matrices([[10, 20, 30]])[0]
    np.testing.assert_allclose(positions.turns[0], box @ inner)
    # x of the box is -y of the tomogram.
    np.testing.assert_allclose(box @ [1, 0, 0], [0, -1, 0], atol=1e-12)
    np.testing.assert_allclose(positions.voxels((99, 99, 99), CUBES), [[30, 25, 10]])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.star", "data_\n\nloop_\n_rlnMicrographName #1\n_rlnFoo #2\na 1\n", "rlnFoo"),
        ("p.csv", "a,b,z\n1,2,3\n", "columns are a, b, z"),
        ("p.csv", "z,y,x\n1,2,\n", "1 of 1 rows lack a number"),
        ("p.csv", "z,y,x\n1,2,left\n", "column x holds more than numbers"),
        ("p.csv", "", "no table can be read"),
        ("p.txt", "1 2 3\n", "are read from .star, .csv and .tsv"),
    ],
)
def test_files_without_positions_are_refused(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        read_positions(tmp_path / name)
    with pytest.raises(InputError, match="no such file"):
        read_positions(tmp_path / "missing.star")


LONG = 1_000_000 * "x"


@pytest.mark.parametrize("double", ["rlnTomoName", "rlnCoordinateX", "rlnClassNumber"])
@pytest.mark.parametrize("rows", [[], [("TS_1", 1, 2, 3, 1, "TS_2")] * 2])
def test_a_column_that_stands_there_twice_is_named(double, rows, tmp_path):
    path = star(tmp_path / "p.star", ("rlnTomoName", *XYZ, "rlnClassNumber", double), rows)
    with pytest.raises(InputError, match=f"p.star: there are 2 columns {double}; keep one"):
        read_positions(path)


@pytest.mark.parametrize("double", ["tomo", "x", "semantic_class", "centroid-1"])
def test_a_column_that_stands_in_a_table_twice_is_named(double, tmp_path):
    columns = ("tomo", "z", "y", "x", "semantic_class", "centroid-1", double)
    path = csv(tmp_path / "p.csv", columns, [("TS_1", 1, 2, 3, 1, 4, 5)])
    with pytest.raises(InputError, match=f"p.csv: there are 2 columns {double}; keep one"):
        read_positions(path)


@pytest.mark.parametrize(
    ("ending", "columns", "row"),
    [
        ("csv", ("tomo", *"zyx"), ("a", 1, 2, LONG)),
        ("csv", ("tomo", *(f"{LONG}{number}" for number in range(12))), (1,) * 13),
        ("star", XYZ, (1, 2, LONG)),
        ("star", [f"{LONG}{number}" for number in range(12)], (1,) * 12),
        ("star", XYZ, (1, 2, 3, LONG)),
    ],
    ids=["cell", "columns", "STAR cell", "STAR columns", "one too many"],
)
def test_messages_stay_short_whatever_a_file_of_positions_holds(ending, columns, row, tmp_path):
    path = tmp_path / f"p.{ending}"
    with pytest.raises(InputError, match=str(path)) as refused:
        read_positions({"csv": csv, "star": star}[ending](path, columns, [row]))
    assert len(str(refused.value)) < 1500


def test_long_names_of_tomograms_are_told_in_short(tmp_path):
    path = csv(tmp_path / "p.csv", ("tomo", *"zyx"), [(f"{LONG}{n}", 1, 2, 3) for n in range(6)])
    positions = read_positions(path)
    assert not len(positions_in(positions, "TS_1"))
    assert len(no_positions(positions, "TS_1")) < 1500


def test_a_name_of_a_million_endings_is_no_name():
    name = 250_000 * ".mrc"
    assert possible_names(name) == [name]


def test_an_empty_table_has_no_positions(tmp_path):
    positions = read_positions(csv(tmp_path / "a.csv", ("z", "y", "x", "tomo"), []))
    assert positions.voxels((9, 9, 9), CUBES).shape == (0, 3)
    assert len(positions_in(positions, "TS_1")) == 0


def test_points_outside_are_counted():
    points = np.array([[0, 0, 0], [-0.6, 0, 0], [9.4, 9, 9], [9, 9.6, 9], [9, 9, 40]])
    assert count_outside(points, (10, 10, 10)) == 3


def test_the_real_positions_are_all_read(real_data, caplog):
    caplog.set_level(logging.INFO)
    (path,) = real_data.glob("*.csv")
    positions = positions_in(read_positions(path), "tomo171_31.36A")
    assert len(positions) == 268
    assert count_outside(positions.voxels((128, 256, 256), (31.36,) * 3), (128, 256, 256)) == 0

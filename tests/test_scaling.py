"""Scaling: CryoSiam's result, exact percentiles for every type, little memory, clear refusals."""

import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from conftest import REPOSITORY
from cryoseg import intensities
from cryoseg.errors import InputError
from cryoseg.intensities import ScaledVolume, intensity_range, percentiles
from cryoseg.volumes import Volume, open_volume, write_mrc
from scale_tomogram import scale_tomogram

TYPES = ["int8", "int16", "uint16", "float16", "float32", ">i2", ">f4"]
DOCUMENTED = {"invert": True, "lower_end_percentage": 0.1, "upper_end_percentage": 99.9}


def in_memory(data):
    return Volume(data, (10.0,) * 3, (0.0,) * 3, (0,) * 3, Path("TS_03.mrc"))


def scaled(tmp_path, data, **settings):
    """The result of the step for ``data``, as an array."""
    with np.errstate(invalid="ignore"):  # the header's mean, where infinities meet
        write_mrc(tmp_path / "raw.mrc", data)
    scale_tomogram(tmp_path / "raw.mrc", tmp_path / "out.mrc", settings=DOCUMENTED | settings)
    return open_volume(tmp_path / "out.mrc").data


def test_cryosiams_result_is_met(compat, tmp_path):
    scale_tomogram(compat / "raw" / "tomo_b.mrc", tmp_path / "b.mrc", settings=DOCUMENTED)
    ours, theirs = (
        open_volume(path) for path in (tmp_path / "b.mrc", compat / "scaled/tomo_b.mrc")
    )
    np.testing.assert_allclose(ours.data, theirs.data, rtol=0, atol=1e-6)
    assert ours.voxel_size == theirs.voxel_size == (10.0, 10.0, 10.0)


@pytest.mark.parametrize("dtype", TYPES)
@given(data=st.data())
def test_percentiles_are_numpys(dtype, data):
    elements = {"allow_nan": False, "allow_infinity": False} if "f" in dtype else {}
    values = data.draw(arrays(dtype, array_shapes(min_dims=3, max_dims=3), elements=elements))
    wanted = data.draw(st.lists(st.floats(0, 100), min_size=1, max_size=3))
    wide = values.astype(np.float64)
    # Interpolation rounds relative to the larger neighbour, which may cancel with the other.
    tolerance = 1e-12 * np.abs(wide).max()
    expected = np.percentile(wide, wanted)
    np.testing.assert_allclose(
        percentiles(in_memory(values), wanted), expected, rtol=1e-12, atol=tolerance
    )


def test_percentiles_do_not_depend_on_the_slabs(monkeypatch):
    values = np.random.default_rng(0).normal(5, 2, (30, 8, 9)).astype(np.float32)
    expected = np.percentile(values.astype(np.float64), [0, 0.1, 50, 99.9, 100])
    monkeypatch.setattr(intensities, "COUNTING_BYTES", 2**20)  # one section at a time
    found = percentiles(in_memory(values), [0, 0.1, 50, 99.9, 100])
    np.testing.assert_allclose(found, expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
@pytest.mark.parametrize("invert", [True, False])
def test_every_type_is_scaled_over_its_whole_range(dtype, invert, tmp_path):
    low, high = (-128, 127) if dtype != "uint16" else (0, 65535)
    data = np.linspace(low, high, 1000).astype(dtype).reshape(10, 10, 10)
    result = scaled(tmp_path, data, invert=invert, lower_end_percentage=0, upper_end_percentage=100)
    expected = (data.astype(float) - low) / (high - low)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, 1 - expected if invert else expected, atol=1e-6)


def test_outliers_are_clipped(tmp_path):
    data = np.random.default_rng(0).normal(100, 1, (10, 20, 20)).astype(np.float32)
    data[0, 0, 0], data[0, 0, 1] = 1e6, -1e6
    result = scaled(tmp_path, data)
    assert result[0, 0, 0] == 0  # inverted: the brightest is black
    assert result[0, 0, 1] == 1
    assert 0.4 < result.mean() < 0.6


def test_a_small_range_far_from_zero_keeps_its_digits():
    data = (30000 + np.arange(8) / 256).astype(np.float32).reshape(2, 2, 2)
    result = ScaledVolume(in_memory(data), 30000, 30000 + 7 / 256, invert=False)[0:2]
    np.testing.assert_allclose(result.ravel(), np.arange(8) / 7, atol=1e-7)


def test_geometry_is_kept(tmp_path):
    with mrcfile.new(tmp_path / "raw.mrc", np.arange(24, dtype=np.int16).reshape(2, 3, 4)) as mrc:
        mrc.voxel_size = 13.28
        mrc.header.origin.x, mrc.header.nzstart = 7, -3
    scale_tomogram(tmp_path / "raw.mrc", tmp_path / "out.mrc", settings=DOCUMENTED)
    source, result = open_volume(tmp_path / "raw.mrc"), open_volume(tmp_path / "out.mrc")
    for name in ("shape", "voxel_size", "origin", "nstart"):
        assert getattr(result, name) == getattr(source, name)
    np.testing.assert_allclose(result.voxel_size, 13.28, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_nan_and_infinity_are_counted_and_refused(dtype, tmp_path):
    data = np.arange(60, dtype=dtype).reshape(3, 4, 5)
    data[0, 0, :3] = np.nan, -np.nan, np.inf
    data[1, 1, 1] = -np.inf
    with pytest.raises(InputError, match=r"raw\.mrc: 2 voxels are NaN and 2 infinite of 60"):
        scaled(tmp_path, data)
    assert not (tmp_path / "out.mrc").exists()


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan, -np.nan])
def test_one_voxel_that_is_no_number_is_enough(value):
    data = np.ones((3, 4, 5), np.float32)
    data[1, 2, 3] = value
    with pytest.raises(InputError, match="of 60"):
        percentiles(in_memory(data), [50])


def test_the_largest_finite_numbers_are_accepted():
    largest = np.finfo(np.float32).max
    data = np.array([-largest, 0, largest], np.float32).reshape(1, 1, 3)
    assert percentiles(in_memory(data), [0, 50, 100]) == [-largest, 0, largest]


def test_constant_volume_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"raw\.mrc: percentiles 0\.1 and 99\.9 are both 3, .*"):
        scaled(tmp_path, np.full((3, 4, 5), 3, np.int8))


@pytest.mark.parametrize(("lower", "upper"), [(-1, 99), (1, 101), (60, 40), (50, 50)])
def test_impossible_percentages_are_refused(lower, upper):
    with pytest.raises(InputError, match="lower_end_percentage is"):
        intensity_range(in_memory(np.arange(8.0).reshape(2, 2, 2)), lower, upper)


def test_memory_does_not_grow_with_the_tomogram(tmp_path):
    program = (
        f"import sys; sys.path.append({str(REPOSITORY / 'scripts')!r})\n"
        "from scale_tomogram import scale_tomogram\n"
        f"scale_tomogram(sys.argv[1], sys.argv[1] + '.out', settings={DOCUMENTED})\n"
        # Unlike resource's ru_maxrss this starts anew with the process.
        "print([line.split()[1] for line in open('/proc/self/status') if 'VmHWM' in line][0])\n"
    )
    peaks = []
    for depth in (60, 300):
        path = tmp_path / f"{depth}.mrc"
        section = np.random.default_rng(0).normal(size=(1, 512, 512)).astype(np.float32)
        write_mrc(path, np.broadcast_to(section, (depth, 512, 512)))
        done = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 40  # MiB; the tomograms differ by 240

"""A simulated tomogram is a lamella in vacuum, with what was asked for in it, as tilts show it."""

import mrcfile
import numpy as np
import pytest
from scipy.ndimage import label

from cryoseg import simulation
from cryoseg.errors import InputError
from cryoseg.particles import double_ring, random_rotation, ribosome
from cryoseg.simulation import lamella_slab, simulate, wedge
from cryoseg.volumes import open_volume
from simulate_tomogram import simulate_tomogram

SETTINGS = {
    "shape": [40, 64, 64],
    "voxel_size": 24.0,
    "seed": 1,
    "thickness_nm": 60.0,
    "tilt_range": [-60, 60],
    "noise": 0.1,
    "membranes": 2,
    "large_particles": 4,
    "small_particles": 6,
    "filaments": 3,
}
EMPTY = {"membranes": 0, "large_particles": 0, "small_particles": 0, "filaments": 0}


@pytest.fixture(scope="module")
def simulated():
    return simulate(**SETTINGS)


def test_shapes_and_types(simulated):
    tomogram, labels, lamella = simulated
    assert tomogram.shape == labels.shape == lamella.shape == (40, 64, 64)
    assert (tomogram.dtype, labels.dtype, lamella.dtype) == (np.float32, np.uint8, np.uint8)
    assert np.isfinite(tomogram).all()


def test_same_seed_same_voxels_other_seed_other_voxels(simulated):
    for first, second in zip(simulated, simulate(**SETTINGS), strict=True):
        assert first.tobytes() == second.tobytes()
    assert (simulate(**SETTINGS | {"seed": 2})[1] != simulated[1]).any()


def test_every_class_is_there_and_only_in_the_lamella(simulated):
    _, labels, lamella = simulated
    assert np.unique(labels).tolist() == [0, 1, 2, 3, 4]
    assert set(np.unique(lamella)) == {0, 1}
    assert not labels[lamella == 0].any()


def test_protein_is_darker_than_ice_and_ice_darker_than_vacuum(simulated):
    tomogram, labels, lamella = simulated
    vacuum = tomogram[lamella == 0].mean()
    ice = tomogram[(lamella == 1) & (labels == 0)].mean()
    for kind in (1, 2, 3, 4):
        assert tomogram[labels == kind].mean() < ice < vacuum


def test_noise_has_the_deviation_asked_for():
    settings = SETTINGS | EMPTY | {"shape": [64, 48, 48], "thickness_nm": 20.0, "noise": 0.3}
    tomogram, _, _ = simulate(**settings)
    vacuum = tomogram[:10]  # far from the lamella, whose streaks reach a little beyond it
    assert vacuum.std() / simulation.GAIN == pytest.approx(0.3, rel=0.1)


def test_noise_free_vacuum_is_flat():
    settings = SETTINGS | EMPTY | {"noise": 0.0, "tilt_range": [-90, 90]}
    tomogram, _, lamella = simulate(**settings)
    assert tomogram[0].std() < 0.05 * tomogram[20].std()
    assert lamella[20].all()


@pytest.mark.parametrize("thickness_nm", [40.0, 80.0])
def test_lamella_is_as_thick_as_asked_whatever_the_voxel(thickness_nm):
    for voxel_nm in (2.0, 4.0):
        ice = lamella_slab((64, 32, 48), voxel_nm, thickness_nm, np.random.default_rng(0))
        thickness = ice.sum(axis=0) * voxel_nm
        assert thickness.mean() == pytest.approx(thickness_nm, rel=0.05)
        assert thickness.min() > 0.9 * thickness_nm
        assert not ice[0].any()
        assert not ice[-1].any()


@pytest.mark.parametrize("thickness_nm", [96.0, 200.0, 4.0])
def test_lamella_that_does_not_fit_is_refused(thickness_nm):
    with pytest.raises(InputError, match=f"thickness_nm is {thickness_nm}; .*96 nm"):
        simulate(**SETTINGS | {"thickness_nm": thickness_nm})


@pytest.mark.parametrize("tilt_range", [[60, -60], [-100, 60], [10, 10]])
def test_impossible_tilts_are_refused(tilt_range):
    with pytest.raises(InputError, match="tilt_range is"):
        simulate(**SETTINGS | {"tilt_range": tilt_range})


def test_wedge_is_missing_around_the_z_axis_and_nowhere_else():
    weights = wedge(64, 64, (-60, 60))
    assert weights[0, 0] == 1
    assert (weights[1:, 0] == 0).all()  # along z
    assert (weights[0] == 1).all()  # along x
    assert weights[20, 20] == 1  # 45 degrees
    assert weights[20, 5] == 0  # 76 degrees
    # 60 of 90 degrees are covered, whatever is not in the corners beyond Nyquist.
    k = np.fft.fftfreq(64)
    inside = np.hypot(k[:, None], k[None, :]) < 0.5
    assert weights[inside].mean() == pytest.approx(2 / 3, abs=0.02)


def test_full_tilt_range_misses_nothing():
    assert (wedge(16, 20, (-90, 90)) == 1).all()


def test_noise_lies_outside_the_missing_wedge_too():
    tomogram, _, _ = simulate(**SETTINGS | EMPTY | {"noise": 1.0})
    # Away from k_y = 0, where the ice of the flat slab is.
    power = np.abs(np.fft.fftn(tomogram)[:, 8:-8]) ** 2
    missing, covered = power[4:-4, :, 0], power[0, :, 4:-4]
    assert missing.mean() < 0.01 * covered.mean()


@pytest.mark.parametrize(
    ("particle", "low", "high"),
    [(ribosome(), 20, 30), (double_ring(), 9, 13)],
    ids=["large", "small"],
)
@pytest.mark.parametrize("voxel_nm", [1.0, 2.4])
def test_particles_have_their_size_whatever_the_voxel_and_direction(particle, low, high, voxel_nm):
    rotation = random_rotation(np.random.default_rng(0))
    axis = np.arange(-20, 20, voxel_nm) / voxel_nm
    density = particle.density([axis] * 3, voxel_nm, rotation)
    inside = density > 0.35 * density.max()
    _, parts = label(inside)
    diameter = 2 * (3 * inside.sum() * voxel_nm**3 / (4 * np.pi)) ** (1 / 3)
    assert parts == 1
    assert low * 0.75 < diameter < high


def test_rotations_are_rotations():
    matrix = random_rotation(np.random.default_rng(3))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)


def test_objects_without_room_are_left_out_and_counted(caplog):
    with caplog.at_level("INFO"):
        simulate(**SETTINGS | {"shape": [24, 24, 24], "thickness_nm": 30, "large_particles": 500})
    counts = next(message for message in caplog.messages if "large particles" in message)
    placed, asked = (int(word) for word in counts.split() if word.isdigit())
    assert asked == 500
    assert 0 < placed < 500


def test_files_overlay_each_other(tmp_path):
    paths = [tmp_path / name for name in ("TS 1.mrc", "labels.mrc", "lamella.mrc")]
    simulate_tomogram(*paths, settings=SETTINGS)
    for path, mode in zip(paths, (2, 0, 0), strict=True):
        assert mrcfile.validate(path)
        volume = open_volume(path)
        assert volume.shape == (40, 64, 64)
        np.testing.assert_allclose(volume.voxel_size, 24.0, rtol=1e-6)
        with mrcfile.open(path, header_only=True) as mrc:
            assert mrc.header.mode == mode

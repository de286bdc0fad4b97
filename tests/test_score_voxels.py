"""One tomogram as a job: what is checked first, what is written, and how much memory it takes."""

import logging
import sys

import h5py
import hdf5plugin  # noqa: F401  (the scores' codec)
import numpy as np
import pytest
import torch

import score_voxels as score_voxels_script
from conftest import REPOSITORY
from cryoseg import devices, host_memory
from cryoseg.devices import choose_device, choose_dtype, tile_memory
from cryoseg.errors import InputError
from cryoseg.volumes import write_mrc
from inspect_model import inspect_model
from networks import random_network
from score_voxels import score_voxels
from test_checkpoints import checkpoint_of

SHAPE = (20, 30, 28)
SETTINGS = {
    "data": {"min": 0, "max": 1, "mean": 0, "std": 1},
    "precision": "fp32",
    "save_internal_files": False,
}
ANY_MODEL = dict.fromkeys(("in_channels", "spatial_dims"))


@pytest.fixture
def files(tmp_path):
    """Paths of a tomogram, a checkpoint, what inspect_model says of it, and the scores to write."""
    grey = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    write_mrc(tmp_path / "TS_01.mrc", grey, voxel_size=10.0)
    checkpoint_of(random_network(), tmp_path / "model.ckpt")
    inspect_model(tmp_path / "model.ckpt", tmp_path / "model.json", settings=ANY_MODEL)
    return [tmp_path / name for name in ("TS_01.mrc", "model.ckpt", "model.json", "scores.h5")]


def with_voxels(files, change):
    grey = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    files[0].unlink()
    write_mrc(files[0], change(grey), voxel_size=10.0)


def put(grey, value, voxels):
    grey.flat[:voxels] = value
    return grey


def test_the_file_says_what_it_is_and_where_it_comes_from(files):
    score_voxels(*files, settings=SETTINGS)
    with h5py.File(files[3]) as scores:
        assert scores["winner"].shape == scores["probability"].shape == SHAPE
        assert scores["winner"].dtype == np.uint8
        assert scores["probability"].dtype == np.uint16
        assert "probs" not in scores
        assert tuple(scores.attrs["voxel_size"]) == (10, 10, 10)
        assert scores.attrs["channels"] == 3
        assert scores.attrs["scored_voxels"] == np.prod(SHAPE)
        assert len(scores.attrs["checkpoint_sha256"]) == 64
        assert '"precision": "float32"' in scores.attrs["settings"]


def test_tiles_are_read_from_the_nodes_own_disk_if_asked_and_the_scores_are_the_same(
    files, tmp_path, monkeypatch
):
    scratch, opened = tmp_path / "own", []
    scratch.mkdir()
    score_voxels(*files, settings=SETTINGS)
    expected = files[3].read_bytes()
    open_volume = score_voxels_script.open_volume
    monkeypatch.setattr(
        score_voxels_script, "open_volume", lambda path: opened.append(path) or open_volume(path)
    )
    monkeypatch.setenv("CRYOSEG_SCRATCH", str(scratch))
    score_voxels(*files, settings=SETTINGS)
    assert opened[-1].parent == scratch
    assert files[3].read_bytes() == expected
    assert not list(scratch.iterdir())


def test_a_closing_line_says_what_it_took(files, caplog):
    caplog.set_level(logging.INFO, logger="cryoseg")
    score_voxels(*files, settings=SETTINGS, device="cpu", tile_size="8,16,28")
    last = caplog.messages[-1]
    for words in ("16800 voxels wanted", "6 tiles", "halo ((32, 24)", "peak memory", "cpu"):
        assert words in last


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda grey: put(grey, np.nan, 7), "7 of 16800 voxels are NaN or infinite"),
        (lambda grey: grey * 0 + 3, "every voxel is 3"),
        (lambda grey: grey * 100 - 80, r"% of the voxels lie outside .* = 0..1, .* scale it first"),
    ],
    ids=["NaN", "constant", "not scaled"],
)
def test_a_tomogram_that_cannot_be_scored_is_refused_before_the_model_is_loaded(
    files, change, says
):
    with_voxels(files, change)
    files[1].unlink()
    with pytest.raises(InputError, match=says) as error:
        score_voxels(*files, settings=SETTINGS)
    assert str(files[0]) in str(error.value)
    assert not files[3].exists()


def test_a_few_voxels_outside_the_range_are_a_warning(files, caplog):
    with_voxels(files, lambda grey: put(grey, -5, 400))
    score_voxels(*files, settings=SETTINGS)
    assert "2.4% of the voxels lie outside" in caplog.text


def test_an_empty_mask_gives_empty_scores_and_a_warning(files, tmp_path, caplog):
    write_mrc(tmp_path / "mask.mrc", np.zeros(SHAPE, np.uint8), voxel_size=10.0)
    score_voxels(*files, tmp_path / "mask.mrc", settings=SETTINGS)
    assert "mask.mrc is empty, so no voxel was scored" in caplog.text
    with h5py.File(files[3]) as scores:
        assert not scores["probability"][...].any()


def test_the_stage_and_the_model_must_agree(files, tmp_path, caplog):
    def inspect(settings=ANY_MODEL, **labelling):
        inspect_model(files[1], tmp_path / "other.json", settings=settings, **labelling)

    with pytest.raises(InputError, match=r"spatial_dims 3, the stage's .* asks for 2"):
        inspect(ANY_MODEL | {"spatial_dims": 2})
    with pytest.raises(InputError, match=r"this model has 3; name the lamella model"):
        inspect(one_channel=True)
    inspect(out_channels=1)
    assert "the stage says 1; the model's number counts" in caplog.text
    inspect(masks=True)
    assert "all but 0 count as inside the mask" in caplog.text
    with pytest.raises(InputError, match=r"model.ckpt: postprocessing_sizes has 1 entries"):
        inspect(postprocessing_sizes="[5]")


def test_a_range_that_belongs_to_other_tomograms_is_a_warning(files, caplog):
    settings = SETTINGS | {"data": SETTINGS["data"] | {"max": 120}}
    score_voxels(*files, settings=settings)
    assert "next to nothing of parameters.data.min..max = 0..120" in caplog.text


def test_a_gpu_that_is_not_there_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(InputError, match=r"cuda:1 is asked for, and this machine offers 0 GPU"):
        choose_device("cuda:1")


def test_automatic_precision_is_what_the_processor_is_fast_in(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert choose_dtype("auto", cpu) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert choose_dtype("auto", cpu) == torch.float32
    assert choose_dtype("fp16", cpu) == torch.float16


def test_a_retry_uses_smaller_tiles_though_the_job_is_given_more(monkeypatch):
    monkeypatch.setattr(devices, "free_host_memory", lambda: 64e9)
    cpu = torch.device("cpu")
    first, second = (tile_memory(cpu, "auto", 8000 * attempt, attempt) for attempt in (1, 2))
    assert first == 6e9
    assert second == first / 2
    assert tile_memory(cpu, "2.5", 8000, 1) == 2.5e9


def test_memory_is_that_of_the_control_group_where_it_has_less(tmp_path):
    group = tmp_path / "job_1" / "step_0"
    group.mkdir(parents=True)
    (tmp_path / "job_1" / "memory.max").write_text("5000")
    (tmp_path / "job_1" / "memory.current").write_text("4500")
    # Pages of files that were read are given up when memory is needed.
    (tmp_path / "job_1" / "memory.stat").write_text("active_file 500\ninactive_file 2000\n")
    (group / "memory.max").write_text("max")
    own = tmp_path / "cgroup"
    own.write_text("0::/job_1/step_0")
    assert list(host_memory._control_group_limits(tmp_path, own)) == [3000]


def test_memory_is_flat_from_small_to_large_and_from_few_to_many_classes():
    """The benchmark does the same with 500 x 1000 x 1000 voxels, which takes minutes."""
    sys.path.append(str(REPOSITORY / "tests" / "benchmarks"))
    from memory import peak_of

    peaks = {
        (shape, channels): peak_of(shape, channels, memory_gb=0.3)[0]
        for shape, channels in [((60, 240, 240), 2), ((60, 320, 320), 2), ((60, 160, 160), 100)]
    }
    assert max(peaks.values()) < 1.2 * min(peaks.values()), peaks
    assert max(peaks.values()) < 3e9

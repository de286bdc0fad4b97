"""Scores are those of one pass over the whole volume, whatever the tiles, batches and masks."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoseg import inference
from cryoseg.errors import InputError
from cryoseg.inference import score_volume
from cryoseg.scores import PROBABILITY_STEPS
from cryoseg.scoring import Normalisation, Scorer
from networks import KINDS, random_network

AS_IT_IS = Normalisation()
PLENTY = 10**12  # bytes


@cache
def scorer_of(kind):
    return Scorer(random_network(**KINDS[kind]), probabilities=True, distances=True)


def score(scorer, volume, memory=PLENTY, **how):
    found = {}

    def write(box, scores):
        place = tuple(slice(*edges) for edges in box)
        for name, values in scores.items():
            whole = found.setdefault(
                name, np.zeros((*values.shape[:-3], *volume.shape), values.dtype)
            )
            whole[(..., *place)] = values

    summary = score_volume(volume, write, scorer, memory, AS_IT_IS, **how)
    return found, summary


def whole_volume_pass(kind, volume):
    """The network itself, unfolded, over the volume padded with zeros at its far ends."""
    network = random_network(**KINDS[kind])
    stride, flat = network.sizes.stride, network.sizes.spatial_dims == 2
    pads = [
        (0, -size % (1 if flat and axis == 0 else stride)) for axis, size in enumerate(volume.shape)
    ]
    x = torch.from_numpy(np.pad(volume, pads))[None, None]
    with torch.no_grad():
        logits = network(x[0].transpose(0, 1) if flat else x)[0]
    logits = (logits.transpose(0, 1) if flat else logits[0])[
        (..., *(slice(n) for n in volume.shape))
    ]
    return (logits.sigmoid() if len(logits) == 1 else logits.softmax(dim=0)).numpy()


def assert_scores_equal(found, probs):
    np.testing.assert_allclose(found["probs"], probs, rtol=0, atol=1e-5)
    stored = found["probability"] / PROBABILITY_STEPS
    np.testing.assert_allclose(
        stored, probs.max(axis=0), rtol=0, atol=1e-5 + 0.5 / PROBABILITY_STEPS
    )
    if len(probs) > 1:
        first, second = np.sort(probs, axis=0)[[-1, -2]]
        clear = first - second > 1e-4
        assert (found["winner"] == probs.argmax(axis=0))[clear].all()


# Long axes, so that the widest halo, 96 and 64 voxels, is cut; short ones keep it quick.
LONG = st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(180, 300))
SHORT = st.tuples(st.integers(1, 40), st.integers(1, 50), st.integers(1, 70))
VOLUMES = LONG | LONG.map(lambda shape: shape[::-1]) | SHORT


@given(
    kind=st.sampled_from(sorted(KINDS)),
    shape=VOLUMES,
    tile_size=st.none() | st.tuples(*[st.integers(1, 40)] * 3),
    batch_size=st.integers(1, 3),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_any_tiling_gives_the_scores_of_one_pass(kind, shape, tile_size, batch_size, masked, seed):
    random = np.random.default_rng(seed)
    volume = random.random(shape, dtype=np.float32)
    mask = None
    if masked:  # a box of random voxels somewhere
        low = [random.integers(0, size) for size in shape]
        mask = np.zeros(shape, np.uint8)
        box = tuple(slice(a, a + random.integers(1, 30)) for a in low)
        mask[box] = random.random(mask[box].shape) < 0.5
    found, summary = score(
        scorer_of(kind), volume, mask=mask, tile_size=tile_size, batch_size=batch_size
    )
    assert summary.wanted == (volume.size if mask is None else np.count_nonzero(mask))
    if summary.wanted == 0:
        assert summary.computed == 0
        return
    expected = whole_volume_pass(kind, volume)
    if mask is None:
        assert_scores_equal(found, expected)
    else:
        inside = mask != 0
        flat = {name: values[..., inside] for name, values in found.items()}
        assert_scores_equal(flat, expected[:, inside])
        assert not any(values[..., ~inside].any() for values in found.values())


def test_memory_decides_the_tiles_and_not_the_scores():
    volume = np.random.default_rng(0).random((40, 90, 100), dtype=np.float32)
    scorer = scorer_of("fpn")
    whole, one = score(scorer, volume)
    tiled, several = score(
        scorer, volume, memory=1.05 * 0.6 * scorer.peak_bytes(one_tile(scorer, volume))
    )
    assert one.tiles == 1
    assert several.tiles > 1
    np.testing.assert_allclose(whole["probs"], tiled["probs"], rtol=0, atol=1e-5)


def test_a_tile_size_that_does_not_fit_is_cut_smaller_before_it_is_tried(caplog):
    scorer, volume = scorer_of("fpn"), np.random.default_rng(0).random((40, 90, 100), np.float32)
    enough, _ = score(scorer, volume, tile_size=volume.shape)
    memory = 0.63 * scorer.peak_bytes(one_tile(scorer, volume))
    found, summary = score(scorer, volume, memory=memory, tile_size=volume.shape)
    assert summary.tiles > 1
    assert "they are cut smaller" in caplog.text
    assert "out of memory" not in caplog.text
    np.testing.assert_allclose(found["probability"], enough["probability"], atol=2)


def one_tile(scorer, volume):
    (tile,) = inference.plan_volume(scorer, volume.shape, PLENTY)[1]
    return tile


def test_running_out_of_memory_ends_in_smaller_tiles_and_the_same_scores(monkeypatch, caplog):
    volume = np.random.default_rng(0).random((30, 60, 140), dtype=np.float32)
    scorer = Scorer(random_network(), probabilities=True)
    expected, _ = score(scorer, volume)
    limit, original = 32 * 64 * 80, Scorer.__call__

    def limited(self, batch, kept):
        if batch.size > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return original(self, batch, kept)

    monkeypatch.setattr(Scorer, "__call__", limited)
    found, summary = score(scorer, volume, tile_size=(32, 64, 72), batch_size=2)
    assert summary.tiles > 2
    assert "out of memory" in caplog.text
    np.testing.assert_allclose(found["probs"], expected["probs"], rtol=0, atol=1e-5)


def test_memory_for_no_tile_at_all_says_how_much_is_needed(monkeypatch):
    volume = np.zeros((30, 60, 50), np.float32)
    with pytest.raises(InputError, match=r"needs \d+ MB, and memory_gb, .* leave 0 MB"):
        score(scorer_of("fpn"), volume, memory=1000)

    def never(self, batch, kept):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Scorer, "__call__", never)
    with pytest.raises(InputError, match="smallest tile"):
        score(scorer_of("fpn"), volume)


def test_other_errors_are_not_taken_for_lack_of_memory(monkeypatch):
    def broken(self, batch, kept):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Scorer, "__call__", broken)
    with pytest.raises(RuntimeError, match="mat1"):
        score(scorer_of("fpn"), np.zeros((8, 8, 8), np.float32))


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16, ">f4"])
def test_any_type_of_voxel_is_normalised_like_float32(dtype):
    values = np.array([[[-100, 0, 3, 90, 120]]]).astype(dtype)
    found = Normalisation(-10, 110, 0.5, 0.25)(values)
    expected = (np.clip((values.astype(np.float64) + 10) / 120, 0, 1) - 0.5) / 0.25
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("kind", ["fpn", "one channel", "bifpn", "2D"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gives_nearly_the_same_labels(kind, dtype):
    volume = np.random.default_rng(1).random((16, 40, 48), dtype=np.float32)
    probs = whole_volume_pass(kind, volume)
    found, _ = score(Scorer(random_network(**KINDS[kind]), dtype=dtype, probabilities=True), volume)
    assert np.abs(found["probs"] - probs).max() < 0.03


def test_the_estimated_peak_is_what_the_process_takes():
    """The peak of resident memory grows by the bytes that were foretold, within 20 %."""
    program = """
import numpy as np, torch
from cryoseg.devices import peak_memory
from networks import random_network
from cryoseg.scoring import Scorer
from cryoseg.tiling import Tile
shape = (64, 192, 192)
scorer = Scorer(random_network(num_filters=(8, 16, 16, 16), filters=(16, 32)))
scorer(np.zeros((1, 16, 16, 16), np.float32), ((0, 16),) * 3)
tile = Tile(tuple((0, n) for n in shape), tuple((0, n) for n in shape))
batch = np.random.default_rng(0).random((1, *shape), dtype=np.float32)
before = peak_memory(torch.device("cpu"))
scorer(batch, tile.kept)
print((peak_memory(torch.device("cpu")) - before) / scorer.peak_bytes(tile))
"""
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert 0.8 < float(run.stdout) < 1.2


def test_overflow_in_low_precision_is_an_error_not_background():
    scorer = Scorer(random_network(), dtype=torch.float16)
    huge = np.full((1, 16, 16, 16), 1e30, np.float32)
    with pytest.raises(InputError, match=r"overflows in torch.float16; set precision: fp32"):
        scorer(huge, ((0, 16),) * 3)

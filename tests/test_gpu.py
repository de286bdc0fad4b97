"""On a GPU the scores are those of the CPU, whatever the tiles."""

import h5py
import numpy as np
import pytest
import torch

from cryoseg.scoring import Scorer
from networks import KINDS, random_network
from test_inference import assert_scores_equal, score, whole_volume_pass
from test_parity import SOUND, predict

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tile_size", [None, (16, 32, 64)])
def test_scores_are_those_of_one_pass_on_the_cpu(kind, tile_size):
    volume = np.random.default_rng(0).random((20, 37, 230), dtype=np.float32)
    scorer = Scorer(random_network(**KINDS[kind]), "cuda", probabilities=True)
    found, _ = score(scorer, volume, tile_size=tile_size, batch_size=2)
    assert_scores_equal(found, whole_volume_pass(kind, volume))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_gives_nearly_the_same_probabilities(dtype):
    volume = np.random.default_rng(1).random((16, 40, 48), dtype=np.float32)
    scorer = Scorer(random_network(), "cuda", dtype, probabilities=True)
    found, _ = score(scorer, volume)
    assert np.abs(found["probs"] - whole_volume_pass("fpn", volume)).max() < 0.03


@pytest.mark.parametrize("precision", ["fp32", "auto"])
@pytest.mark.parametrize(("model", "threshold"), [("lamella", 0.5), ("semantic", 0.1)])
def test_labels_equal_cryosiams(model, threshold, precision, data, tmp_path):
    files = data / "exact.mrc", data / f"{model}.ckpt"
    paths = predict(tmp_path, *files, threshold, precision=precision, device="cuda")
    expected = np.load(data / f"{model}.npz")
    with h5py.File(paths.labels) as found:
        assert (found["labels"][SOUND] == expected["labels"][SOUND]).mean() >= 0.999
        if precision == "fp32":
            probs = found["probs"][:, :100:3, :100:3, :132:3]
            np.testing.assert_allclose(probs, expected["probs_sub"], rtol=0, atol=1e-4)

"""What scoring would take is what PyTorch says that it takes, found out without its compiler."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cryoseg import footprint
from cryoseg.scoring import Scorer
from inspect_model import inspect_model
from networks import KINDS, random_network
from test_checkpoints import checkpoint_of
from test_score_voxels import ANY_MODEL, SETTINGS, files  # noqa: F401  (a fixture)


@pytest.fixture(params=sorted(KINDS))
def scoring(request):
    """A function that scores tiles of the meta device with all that can be asked for, and tiles."""
    network = random_network(**KINDS[request.param])
    scorer = Scorer(network, probabilities=True, distances=True, runners_up=True)
    shape = (scorer.sizes.stride, 3 * scorer.sizes.stride, 64)
    kept = ((0, shape[0]), (5, shape[1]), (3, 40))
    tiles = torch.empty(2, *shape, device="meta")
    return lambda tiles: scorer._score(scorer._shadow, tiles, kept), tiles


def test_operations_are_those_that_pytorch_counts(scoring):
    with FlopCounterMode(display=False) as counter:
        scoring[0](scoring[1])
    assert footprint.count_flops(*scoring) == counter.get_total_flops() > 0


def test_bytes_are_those_of_pytorchs_own_results(scoring, monkeypatch):
    found = footprint.peak_bytes(*scoring)
    monkeypatch.setattr(footprint, "RESULTS", {})
    monkeypatch.setattr(footprint, "is_in_place", lambda function: False)
    assert found == footprint.peak_bytes(*scoring) > scoring[1].nbytes


@pytest.mark.parametrize("channels", [1, 3])
def test_a_job_imports_neither_a_compiler_nor_algebra(channels, files, tmp_path):  # noqa: F811
    """They take 2.3 s and 0.3 s of a processor, more than all else of a job of a small tomogram."""
    checkpoint_of(random_network(out_channels=channels), files[1])
    inspect_model(files[1], files[2], settings=ANY_MODEL)
    program = f"""
import sys
from score_voxels import score_voxels
score_voxels(*{[str(path) for path in files]}, settings={SETTINGS})
print(sorted({{"torch._dynamo", "torch._inductor", "sympy"}} & set(sys.modules)))
"""
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    run = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]"

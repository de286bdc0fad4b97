"""A job computes as precisely as its types allow, from its first tensor on."""

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from cryoseg.devices import MKL_FUNCTIONS
from cryoseg.volumes import write_mrc
from inspect_model import inspect_model
from networks import random_network
from score_voxels import score_voxels
from test_checkpoints import checkpoint_of
from test_score_voxels import ANY_MODEL, SETTINGS
from train_model import train_model
from training_jobs import configuration, patch_files

NAMES = [function.__name__ for function in MKL_FUNCTIONS]


class Calls(TorchDispatchMode):
    """Values that each call of one of MKL_FUNCTIONS gets; ``first`` is of each function's first."""

    def __init__(self):
        super().__init__()
        self.first, self.largest = {}, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__.removeprefix("_foreach_").rstrip("_")
        if name in NAMES:
            tensors = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            values = max(tensor.numel() for tensor in tensors)
            for dtype in {tensor.dtype for tensor in tensors}:
                self.first.setdefault((name, dtype), values)
            self.largest[name] = max(values, self.largest.get(name, 0))
        return function(*args, **(kwargs or {}))


def scored(folder):
    """Score a tomogram."""
    write_mrc(
        folder / "TS.mrc",
        np.random.default_rng(0).random((20, 30, 28), np.float32),
        voxel_size=10.0,
    )
    checkpoint_of(random_network(out_channels=3), folder / "model.ckpt")
    inspect_model(folder / "model.ckpt", folder / "model.json", settings=ANY_MODEL)
    files = (folder / name for name in ("TS.mrc", "model.ckpt", "model.json", "scores.h5"))
    return lambda: score_voxels(*files, settings=SETTINGS, device="cpu")


def trained(folder):
    """Train on patches of tomograms."""
    patches, best = patch_files(folder), folder / "log" / "model" / "model_best.ckpt"
    how = {"device": "cpu", "num_workers": 0, "log_dir": folder / "log"}
    return lambda: train_model(patches, best, settings={"config": configuration()}, **how)


@pytest.mark.parametrize(("job", "used"), [(scored, "exp"), (trained, "sqrt")])
def test_one_thread_alone_makes_the_first_call_of_each_of_mkls_functions(tmp_path, job, used):
    # Where several threads made it at once, roots of half of a tensor were off by 2.4e-4, in one
    # training of ten; a race that no test can be sure to meet.
    run = job(tmp_path)
    with Calls() as calls:
        run()
    assert calls.largest[used] > 1
    assert len(calls.first) >= 2 * len(NAMES)
    assert set(calls.first.values()) == {1}

"""Checkpoints are read as data: nothing in them runs, and what does not fit is named."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from cryoseg.checkpoints import checkpoint_sha256, load_network, read_checkpoint
from cryoseg.errors import InputError
from networks import random_network


def checkpoint_of(network, path, **extra):
    sizes = network.sizes
    heads = {n: getattr(sizes, n) for n in ("out_channels", "dense_dim", "kernel_size", "padding")}
    backbone = {k: v for k, v in vars(sizes).items() if k not in ("out_channels", "filters")}
    torch.save(
        {
            "state_dict": network.state_dict(),
            "hyper_parameters": {
                "config": {"parameters": {"network": heads | {"filters": list(sizes.filters)}}},
                "backbone_config": {"parameters": {"network": backbone}},
            },
            **extra,
        },
        path,
    )
    return path


class Runs:
    """Unpickled by an ordinary loader, this makes a file."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def test_code_in_a_checkpoint_never_runs(tmp_path):
    canary = tmp_path / "canary"
    network = random_network()
    path = checkpoint_of(network, tmp_path / "evil.ckpt", callbacks={"x": Runs(canary)})
    loaded = load_network(path)
    assert not canary.exists()
    assert torch.equal(loaded.state_dict()["_model.semantic_head.0.weight"],
                       network.state_dict()["_model.semantic_head.0.weight"])  # fmt: skip
    torch.load(path, weights_only=False)
    assert canary.exists()  # so the canary sings where a loader runs code


def test_classes_of_other_libraries_are_placeholders(tmp_path):
    from monai.data import MetaTensor

    best = {"best_model_score": MetaTensor(torch.ones(1)), "current_score": np.float64(0.5)}
    path = checkpoint_of(random_network(), tmp_path / "model.ckpt", callbacks=best)
    with pytest.raises(pickle.UnpicklingError):  # what torch itself says of such files
        torch.load(path, weights_only=True)
    state, _ = read_checkpoint(path)
    assert "_model.semantic_head.6.weight" in state


def test_cryosiams_own_files_load(compat):
    for model, channels in (("lamella", 1), ("semantic", 5)):
        network = load_network(compat / "ckpt" / f"{model}_model_best.ckpt")
        assert network.sizes.out_channels == channels


def test_head_sizes_are_those_of_the_file(tmp_path):
    path = checkpoint_of(
        random_network(filters=(7, 9), kernel_size=5, padding=2), tmp_path / "m.ckpt"
    )
    sizes = load_network(path).sizes
    assert (sizes.filters, sizes.kernel_size, sizes.padding) == ((7, 9), 5, 2)


def test_half_precision_weights_become_single(tmp_path):
    path = checkpoint_of(random_network().half(), tmp_path / "half.ckpt")
    assert load_network(path)._model.semantic_head[0].weight.dtype == torch.float32


class Program(torch.nn.Module):
    """What torch.jit.save stores with code that torch.load runs."""

    def __init__(self, canary: str):
        super().__init__()
        self.canary = canary

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return (self.canary, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.canary = state[0]
        self.training = state[1]
        written = torch.from_file(self.canary, True, 64).fill_(1.0)
        assert bool(written.sum() > 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*TorchScript archive")
def test_a_program_saved_as_a_checkpoint_is_refused_and_not_run(tmp_path):
    packed, stored, canary = (tmp_path / name for name in ("packed", "stored.ckpt", "canary"))
    torch.jit.save(torch.jit.script(Program(str(canary))), packed)
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(stored, "w") as target:
        for member in source.namelist():  # as PyTorch stores weights: not compressed
            target.writestr(member, source.read(member))
    torch.load(stored, weights_only=False)
    assert canary.exists()  # so the file does what it is meant to do
    canary.unlink()
    with pytest.raises(InputError, match="holds a program"):
        read_checkpoint(stored)
    assert not canary.exists()


def test_weights_larger_than_the_file_are_refused(tmp_path):
    vast = {"weight": torch.zeros(1).expand(100_000, 100_000)}
    torch.save({"state_dict": vast, "hyper_parameters": {"config": {}}}, tmp_path / "vast.ckpt")
    with pytest.raises(InputError, match="larger than what is stored"):
        read_checkpoint(tmp_path / "vast.ckpt")


def broken(kind, path):
    network = random_network()
    if kind == "text":
        path.write_text("not a model")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        checkpoint_of(network, path)
        path.write_bytes(path.read_bytes()[:-3000])
    elif kind == "flipped bytes":
        checkpoint_of(network, path)
        content = bytearray(path.read_bytes())
        middle = content.index(network._model.semantic_head[3].weight.numpy().tobytes())
        content[middle + 8 : middle + 16] = b"\x00" * 8
        path.write_bytes(content)
    elif kind == "folder":
        path.mkdir()
    elif kind == "compressed":
        checkpoint_of(network, path)
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    elif kind == "backbone only":
        settings = {"config": {"parameters": {"network": {}}}}
        state = network._model_backbone.state_dict()
        torch.save({"state_dict": state, "hyper_parameters": settings}, path)
    elif kind == "no state":
        torch.save({"weights": network.state_dict()}, path)
    elif kind == "nan":
        network._model.semantic_head[0].bias[0] = float("nan")
        checkpoint_of(network, path)
    elif kind == "other sizes":
        network.sizes = random_network(fpn_channels=12).sizes
        checkpoint_of(network, path)
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("text", "not a checkpoint; it begins with b'not '"),
        ("empty", "not a checkpoint"),
        ("truncated", "cut off or damaged"),
        ("compressed", "is compressed"),
        ("flipped bytes", "has changed since it was written"),
        ("folder", "Is a directory"),
        ("backbone only", "not a trained segmentation model"),
        ("no state", "no state_dict"),
        ("nan", r"_model.semantic_head.0.bias hold NaN"),
        ("other sizes", r"do not fit .* instead of .* more"),
    ],
)
def test_what_is_no_model_is_named_with_its_reason(kind, says, tmp_path):
    path = broken(kind, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=says) as error:
        load_network(path)
    assert str(path) in str(error.value)


def test_sha256_is_that_of_the_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert checkpoint_sha256(tmp_path / "file").startswith("ba7816bf8f01cfea")

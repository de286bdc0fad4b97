"""Checkpoints are read as data: nothing in them runs, and what does not fit is named."""

import io
import os
import pickle
import pickletools
import re
import resource
import struct
import time
import zipfile
from collections import OrderedDict
from contextlib import suppress

import numpy as np
import pytest
import torch

from cryoseg.checkpoints import (
    checkpoint_sha256,
    load_network,
    read_callback_state,
    read_checkpoint,
)
from cryoseg.errors import InputError
from inspect_model import inspect_model
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
    elif kind == "no settings":
        torch.save({"state_dict": network.state_dict()}, path)
    elif kind == "a weight less":
        state = network.state_dict()
        del state["_model.semantic_head.0.weight"]
        checkpoint_of(network, path)
        content = torch.load(path, weights_only=True)
        torch.save(content | {"state_dict": state}, path)
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
        ("no settings", "hyper_parameters"),
        ("a weight less", "_model.semantic_head.0.weight"),
        ("nan", r"_model.semantic_head.0.bias hold NaN"),
        ("other sizes", r"do not fit .* instead of .* more"),
    ],
)
def test_what_is_no_model_is_named_with_its_reason(kind, says, tmp_path):
    path = broken(kind, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=says) as error:
        load_network(path)
    assert str(path) in str(error.value)


# Files that were made to do harm


def hostile(kind, path, canary):
    """A checkpoint that runs code in a loader that runs any."""
    network, runs = random_network(), Runs(canary)
    checkpoint_of(network, path)
    content = torch.load(path, weights_only=True)
    if kind.startswith("pickle"):
        path.write_bytes(pickle.dumps(content | {"x": runs}, protocol=int(kind[-1])))
    elif kind == "old format":
        torch.save(content | {"x": runs}, path, _use_new_zipfile_serialization=False)
    elif kind == "all":
        torch.save(runs, path)
    elif kind == "a weight":
        content["state_dict"]["_model.semantic_head.0.weight"] = runs
        torch.save(content, path)
    else:
        torch.save(content | {kind: runs}, path)
    return path


# Kinds of hostile, and why each is refused; as code is not run, it is not what was looked for.
NO_MODEL = {
    "pickle of protocol 0": r"not a checkpoint; it begins with b'\(dp",
    "pickle of protocol 4": r"not a checkpoint; it begins with b'\\x80\\x04",
    "old format": r"not a checkpoint; it begins with b'\\x80\\x02",
    "all": "the checkpoint has no state_dict",
    "state_dict": "the checkpoint has no state_dict",
    "hyper_parameters": "the checkpoint has no hyper_parameters",
    "a weight": r"state_dict holds '_model\.semantic_head\.0\.weight', which is no tensor",
}


def runs_in_other_loaders(path, canary):
    """Whether a loader that runs any code runs that in a file."""
    with suppress(Exception):  # what follows in the file is no model
        if path.stem.startswith("pickle"):
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
    return canary.exists()


@pytest.mark.parametrize(("kind", "says"), NO_MODEL.items(), ids=NO_MODEL)
def test_code_in_the_place_of_a_model_is_refused_with_the_reason_and_does_not_run(
    kind, says, tmp_path
):
    canary = tmp_path / "canary"
    path = hostile(kind, tmp_path / f"{kind}.ckpt", canary)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {says}"):
        load_network(path)
    assert not canary.exists()
    assert runs_in_other_loaders(path, canary)


def with_parts(path, change):
    """Write a good checkpoint whose members, {name: bytes}, are changed, with right checksums."""
    whole = io.BytesIO()
    checkpoint_of(random_network(), whole)
    with zipfile.ZipFile(whole) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def pickle_of(members):
    return next(name for name in members if name.endswith("data.pkl"))


def claim_a_huge_tensor(members):
    """The first tensor is said to have 2 147 483 647 numbers; what is stored of it stays."""
    name = pickle_of(members)
    content = members[name]
    ends = [at for opcode, _, at in pickletools.genops(content) if opcode.name == "BINPERSID"]
    at = content.rindex(b"M", 0, ends[0])  # the number of its elements, two bytes
    members[name] = content[:at] + b"J\xff\xff\xff\x7f" + content[at + 3 :]


def claim_a_huge_memo(members):
    members[pickle_of(members)] = b"\x80\x02}r\xff\xff\xff\x2f."


def hash_forever(members):
    """A mapping whose key is 60 times a tuple of the one before, twice."""
    members[pickle_of(members)] = b"\x80\x02})" + 60 * b"2\x86" + b"K\x01s."


def hash_a_storage_forever(members):
    members[pickle_of(members)] = b"\x80\x02X\x07\0\0\0storage)" + 60 * b"2\x86" + b"\x86Q."


def hash_within_an_ordered_one(members):
    key = b")" + 60 * b"2\x86"
    members[pickle_of(members)] = b"\x80\x02ccollections\nOrderedDict\n](" + key + b"K\x01te\x85R."


def swap_the_byte_order(members):
    claim_a_huge_tensor(members)
    members[next(name for name in members if name.endswith("byteorder"))] = b"big"


def build_forever(members):
    buffer = io.BytesIO()
    settings = {"parameters": {"network": {"out_channels": 3, "num_layers": [10**9, 1, 1, 1]}}}
    state = random_network().state_dict()
    both = {"config": settings, "backbone_config": settings}
    torch.save({"state_dict": state, "hyper_parameters": both}, buffer)
    members.clear()
    with zipfile.ZipFile(buffer) as archive:
        members.update({name: archive.read(name) for name in archive.namelist()})


def huge_layers(members):
    buffer = io.BytesIO()
    settings = {"parameters": {"network": {"out_channels": 2**62, "dense_dim": 2**62}}}
    both = {"config": settings, "backbone_config": settings}
    state = random_network().state_dict()
    torch.save({"state_dict": state, "hyper_parameters": both}, buffer)
    members.clear()
    with zipfile.ZipFile(buffer) as archive:
        members.update({name: archive.read(name) for name in archive.namelist()})


def bomb(path):
    """A file of 64 kB that unpacks to 64 MB, and would to any size."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}.")
        info = zipfile.ZipInfo("archive/data/0")
        info.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(info, "w") as member:
            for _ in range(64):
                member.write(bytes(2**20))
    return path


def overlapping(path):
    """An archive whose directory names the same stored bytes a hundred times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + bytes(100_000))
    content = buffer.getvalue()
    at = content.rindex(b"PK\x01\x02")
    entry, end = content[at : content.rindex(b"PK\x05\x06")], b"PK\x05\x06"
    tail = struct.pack("<4H2IH", 0, 0, 100, 100, 100 * len(entry), at, 0)
    path.write_bytes(content[:at] + 100 * entry + end + tail)
    return path


def test_weights_are_never_read_from_memory_that_is_not_theirs(tmp_path):
    for change in (claim_a_huge_tensor, swap_the_byte_order):
        path = with_parts(tmp_path / "model.ckpt", change)
        with pytest.raises(InputError, match="does not match expected size"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (bomb, "is compressed, which PyTorch never does"),
        (overlapping, "its parts are said to have 10000400"),
        (lambda path: with_parts(path, claim_a_huge_memo), "was not written by PyTorch"),
        (lambda path: with_parts(path, hash_forever), "cut off or damaged"),
        (lambda path: with_parts(path, hash_a_storage_forever), "cut off or damaged"),
        (lambda path: with_parts(path, hash_within_an_ordered_one), "cut off or damaged"),
        (lambda path: with_parts(path, build_forever), "of them for 10000000"),
        (lambda path: with_parts(path, huge_layers), "a network that cannot be"),
        (lambda path: with_parts(path, dict.clear), "not a checkpoint"),
    ],
    ids=[
        "bomb",
        "overlapping",
        "memo",
        "key",
        "storage",
        "ordered",
        "endless network",
        "huge layers",
        "no members",
    ],
)
def test_what_would_fill_memory_or_never_end_is_refused_at_once(make, says, tmp_path):
    path = make(tmp_path / "model.ckpt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with pytest.raises(InputError, match=says):
        load_network(path)
    assert time.monotonic() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_an_archive_whose_directory_lies_about_sizes_is_refused(tmp_path):
    path = checkpoint_of(random_network(), tmp_path / "model.ckpt")
    content = bytearray(path.read_bytes())
    at = content.index(b"PK\x01\x02")
    for size in (10, 2**31):
        struct.pack_into("<2I", content, at + 20, size, size)
        path.write_bytes(content)
        for read in (load_network, lambda file: read_callback_state(file, "Checkpoints")):
            with pytest.raises(InputError, match=r"cut off or damaged|are said to have"):
                read(path)


@pytest.mark.parametrize(
    "weights",
    [
        torch.zeros(3, device="meta"),
        torch.ones(2, 2).to_sparse(),
        np.ones(3),
        "text",
        None,
    ],
    ids=["meta", "sparse", "numpy", "text", "nothing"],
)
def test_weights_that_are_no_plain_numbers_are_refused(weights, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": weights}, "hyper_parameters": {"config": {}}}, path)
    with pytest.raises(InputError, match=r"model\.ckpt"):
        load_network(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("block_type", {}), ("block_type", [{}]), ("num_layers", 3), ("filters", [1])),
        *(("dim", "a"), ("include_levels_loss", "yes"), ("num_layers", [True, 1, 1, 1])),
    ],
)
def test_sizes_of_another_kind_are_no_network(name, value, tmp_path):
    network = {"out_channels": 3, name: value}
    settings = {"parameters": {"network": network}}
    both = {"config": settings, "backbone_config": settings}
    state = random_network().state_dict()
    torch.save({"state_dict": state, "hyper_parameters": both}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=f"no network has {name} = "):
        load_network(tmp_path / "model.ckpt")


def laughing():
    """A list of ten times a list of ten times a list ..., in a few bytes of a pickle's memo."""
    found = [1]
    for _ in range(20):
        found = [found] * 10
    return found


@pytest.mark.parametrize(
    "value", [laughing(), 10**5000, 10**6 * "x", dict.fromkeys(range(10**5))],
    ids=["laughing", "digits", "text", "mapping"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["block_type", "dim", "num_layers", "filters", "padding"])
def test_what_a_message_quotes_of_a_checkpoint_is_short(name, value, tmp_path):
    settings = {"parameters": {"network": {"out_channels": 3, name: value}}}
    both = {"config": settings, "backbone_config": settings}
    state = random_network().state_dict()
    torch.save({"state_dict": state, "hyper_parameters": both}, tmp_path / "model.ckpt")
    started = time.process_time()
    with pytest.raises(InputError, match=r"model\.ckpt.*a network that cannot be") as error:
        load_network(tmp_path / "model.ckpt")
    assert time.process_time() - started < 5
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64], ids=str)
def test_weights_of_another_type_of_numbers_are_named(dtype, tmp_path):
    path = checkpoint_of(random_network(), tmp_path / "model.ckpt")
    content, name = torch.load(path, weights_only=False), "_model_backbone.encoder.bn1.bias"
    content["state_dict"][name] = torch.ones(2).to(dtype)
    torch.save(content, path)
    with pytest.raises(InputError, match=rf"{name} are of type {dtype}; they must be real"):
        load_network(path)


def test_names_of_weights_are_quoted_in_short(tmp_path):
    long = dict.fromkeys((f"{number}\n{10**5 * 'x'}" for number in range(5)), torch.zeros(2))
    path = checkpoint_of(random_network(), tmp_path / "model.ckpt")
    content = torch.load(path, weights_only=False)
    for state in (content["state_dict"] | long, long, {"a": {10**5 * "y": 1}}, {7: laughing()}):
        torch.save(content | {"state_dict": state}, path)
        with pytest.raises(InputError, match=r"model\.ckpt") as error:
            load_network(path)
        assert len(str(error.value)) < 1500
        assert str(error.value).isprintable()


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan")])
def test_weights_that_are_infinite_or_nan_are_named(value, tmp_path):
    network = random_network()
    network._model.semantic_head[0].weight[0, 0] = value
    path = checkpoint_of(network, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=r"_model.semantic_head.0.weight hold NaN or infinity"):
        load_network(path)


def test_weights_that_single_precision_cannot_hold_are_named(tmp_path):
    network = random_network().double()
    network._model.semantic_head[0].weight[0, 0] = 1e300
    path = checkpoint_of(network, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=r"_model.semantic_head.0.weight hold NaN or infinity"):
        load_network(path)


def test_weights_that_are_stored_once_for_thousands_of_names_are_refused(tmp_path):
    weights = torch.zeros(10**6)
    state = {f"weights {number}": weights for number in range(10**4)}
    torch.save({"state_dict": state, "hyper_parameters": {"config": {}}}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="10000 times as large as what is stored of them"):
        read_checkpoint(tmp_path / "model.ckpt")


def test_a_network_that_sees_too_far_to_be_cut_into_tiles_is_named(tmp_path):
    deep = random_network(num_layers=(1, 1, 1, 80), block_type="basic", dim=2, pred_dim=2)
    path = checkpoint_of(deep, tmp_path / "model.ckpt")
    asked = {"in_channels": None, "spatial_dims": None}
    with pytest.raises(InputError, match=r"model\.ckpt: the network sees further than 1024 voxels"):
        inspect_model(path, tmp_path / "model.json", settings=asked)


class Deceiving:
    """Unpickled as an OrderedDict that has a method of another one's choice."""

    def __init__(self, content, name):
        self.content, self.name = content, name

    def __reduce__(self):
        return OrderedDict, (), {self.name: torch.Size}, None, iter(self.content.items())


@pytest.mark.parametrize("name", ["items", "get", "__iter__", "values"])
def test_methods_of_what_holds_the_weights_cannot_be_replaced(name, tmp_path):
    network = random_network()
    network._model.semantic_head[0].weight[0, 0] = float("nan")
    content = torch.load(checkpoint_of(network, tmp_path / "good.ckpt"))
    content = {key: Deceiving(value, name) for key, value in content.items()}
    torch.save(Deceiving(content, name), tmp_path / "model.ckpt")
    # By an ordinary loader, this holds no weights at all.
    with pytest.raises(InputError, match=r"_model.semantic_head.0.weight hold NaN or infinity"):
        load_network(tmp_path / "model.ckpt")


class WithAttributes:
    """Unpickled as weights of which attributes are set."""

    def __reduce__(self):
        made, arguments = torch.ones(2).__reduce_ex__(2)[:2]
        return made, arguments, {"numpy": 1}


def test_attributes_of_weights_cannot_be_set(tmp_path):
    torch.save({"state_dict": {"a": WithAttributes()}}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="attributes are set of a tensor"):
        load_network(tmp_path / "model.ckpt")


@pytest.mark.parametrize(
    "content",
    [[], {}, 7, {"callbacks": 7}, {"callbacks": [1]}, {"callbacks": {"Checkpoints": [1]}},
     {"callbacks": {"Checkpoints": {"run": laughing()}}}],
    ids=["list", "nothing", "number", "callbacks", "list of them", "state", "endless"],
)  # fmt: skip
def test_a_last_checkpoint_of_another_program_is_not_gone_on_from(content, tmp_path):
    torch.save(content, tmp_path / "last.ckpt")
    if content == {}:
        assert read_callback_state(tmp_path / "last.ckpt", "Checkpoints") is None
        return
    with pytest.raises(InputError, match=r"not a checkpoint that cryoseg wrote|hold more than"):
        read_callback_state(tmp_path / "last.ckpt", "Checkpoints")


def test_what_a_last_checkpoint_tells_of_its_run_is_plain_values(tmp_path, caplog):
    run = {"settings": OrderedDict(seed=torch.ones(2)), "files": [("a", 1)]}
    content = {"callbacks": {"Checkpoints": {"run": run, "finished": True}}}
    torch.save(content, tmp_path / "last.ckpt")
    with caplog.at_level("WARNING"):
        found = read_callback_state(tmp_path / "last.ckpt", "Checkpoints")
    assert found == {"run": {"settings": {"seed": None}, "files": [["a", 1]]}, "finished": True}
    assert "run.settings.seed" in caplog.text


def test_code_in_a_last_checkpoint_never_runs(tmp_path):
    canary = tmp_path / "canary"
    torch.save({"callbacks": {"Checkpoints": Runs(canary)}}, tmp_path / "last.ckpt")
    with pytest.raises(InputError, match="not a checkpoint that cryoseg wrote"):
        read_callback_state(tmp_path / "last.ckpt", "Checkpoints")
    assert not canary.exists()


def test_sha256_is_that_of_the_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert checkpoint_sha256(tmp_path / "file").startswith("ba7816bf8f01cfea")

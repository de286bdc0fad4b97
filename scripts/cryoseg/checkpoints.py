"""Checkpoints: data from strangers, read without running anything that they contain."""

import hashlib
import io
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import fields
from types import SimpleNamespace

import torch

from cryoseg.errors import InputError, brief, quoted
from cryoseg.joblog import logger
from cryoseg.network import Architecture, SegmentationNetwork

# How many names the same weights may have: those of an encoder's last layer have two.
TIED = 4
# Bits of a number in settings: TensorBoard makes a float of it.
MOST_BITS = 1023
# Lists and mappings in one another.
DEEPEST = 50
# Values of the settings that a training takes over and writes down, and of what its last.ckpt tells
# of its files; signs of all texts, for each value.
MOST_VALUES, MOST_VALUES_OF_OURS, SIGNS = 20_000, 10**6, 50


class _Mapping(OrderedDict):
    """An OrderedDict whose attributes a pickle cannot set: methods among them."""

    def __setstate__(self, state):
        pass


# All that weights and settings need; torch itself resolves the storages that tensors view.
ALLOWED = {
    ("collections", "OrderedDict"): _Mapping,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch", "Size"): torch.Size,
}


class Placeholder:
    """Stands for any class or function that a checkpoint names; does nothing, whatever is asked."""

    def __init__(self, *args, **kwargs):
        pass

    def __repr__(self):
        return "an object of another library"

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass


class _Unpickler(pickle.Unpickler):
    """Reads plain containers, numbers, strings and tensors; all else becomes a Placeholder."""

    def find_class(self, module, name):
        return ALLOWED.get((module, name), Placeholder)


class _Empty(Placeholder):
    """Stands for a mapping that is made without keys, and gets them one by one."""

    def __init__(self):
        pass


class _Tensor(Placeholder):
    """Stands for a tensor or its size, which have all that they need when they are made."""


class _Probe(pickle._Unpickler):
    """Goes through a pickle and makes nothing of it; refuses keys that are no plain values.

    Python works out the hash of a tuple from those of its parts each time: that of a tuple of a
    tuple twice, of a tuple twice, and so on, is never done.
    """

    dispatch = pickle._Unpickler.dispatch.copy()

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return _Empty
        return _Tensor if (module, name) in ALLOWED else Placeholder

    def load_build(self):
        if isinstance(self.stack[-2], _Tensor):
            raise pickle.UnpicklingError("attributes are set of a tensor")
        super().load_build()

    def persistent_load(self, pid):
        _check_keys(pid if isinstance(pid, tuple) else [pid])

    def load_setitem(self):
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self):
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self):
        _check_keys(self.stack[::2])
        super().load_dict()

    def load_additems(self):
        _check_keys(self.stack)
        super().load_additems()

    def load_frozenset(self):
        _check_keys(self.stack)
        super().load_frozenset()

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.FROZENSET[0]] = load_frozenset


def _check_keys(keys):
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if any(isinstance(part, (tuple, frozenset)) for part in parts):
            raise pickle.UnpicklingError("a key is made of other collections")


# What torch.load takes for the pickle module.
_RESTRICTED_PICKLE = SimpleNamespace(__name__="restricted", Unpickler=_Unpickler)


def read_checkpoint(path):
    """Read weights and settings of a checkpoint without running code from it.

    Real files name classes of MONAI and numpy beside the weights, which torch's own
    ``weights_only`` refuses; here those become inert placeholders.

    Returns (state_dict, hyper_parameters): names to CPU tensors, and a dict of whatever the file
    holds; see architecture_of and plain_values for what can be taken from it.
    Raises InputError for anything that is not such a file.
    """
    _check_archive(path)
    try:
        content = torch.load(
            path, map_location="cpu", weights_only=False, pickle_module=_RESTRICTED_PICKLE
        )
    except MemoryError:
        raise
    except Exception as error:  # whatever unpickling stumbles over
        raise InputError(
            f"{path}: the checkpoint cannot be read ({brief(error)}); copy it anew"
        ) from error
    state, settings = (_entry(content, path, key) for key in ("state_dict", "hyper_parameters"))
    _check_weights(path, state)
    return dict(state), settings


def _check_weights(path, state):
    """Refuse weights that are no finite numbers, or that fill memory from a small file."""
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path}: state_dict holds {quoted(name)}, which is no tensor of a network"
            )
        if value.device.type != "cpu" or value.layout != torch.strided:
            raise InputError(
                f"{path}: the weights {brief(name)} are no plain numbers; save them as such"
            )
        # A tensor with strides of 0 is larger than the file it comes from.
        if value.nbytes > value.untyped_storage().nbytes():
            raise InputError(
                f"{path}: the weights {brief(name)} are larger than what is stored of them"
            )
    storages = [value.untyped_storage() for value in state.values()]
    stored = sum({each.data_ptr(): each.nbytes() for each in storages}.values())
    held = sum(value.nbytes for value in state.values())
    if held > TIED * stored:
        raise InputError(
            f"{path}: the weights are {held // stored} times as large as what is stored of them, "
            "as no network's are; give another checkpoint"
        )
    for name, value in state.items():
        single = value.float() if value.is_floating_point() else value
        if not torch.isfinite(single).all():
            raise InputError(
                f"{path}: the weights {brief(name)} hold NaN or infinity in single precision; "
                "train the model anew"
            )


def _check_archive(path):
    """Refuse what torch.save did not write, and archives that unpack to more than they weigh."""
    try:
        with open(path, "rb") as file:
            start = file.read(4)
            byte_count = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise InputError(f"{path}: the checkpoint cannot be read ({error.strerror})") from error
    if start != b"PK\x03\x04":
        raise InputError(
            f"{path}: not a checkpoint; it begins with {start!r}, a file written by PyTorch 1.6 or "
            "later begins with b'PK\\x03\\x04'"
        )
    with _damage_named(path), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED]
        _refuse_bombs(path, packed, sum(m.file_size for m in members), byte_count)
        if damaged := archive.testzip():
            raise zipfile.BadZipFile(f"{brief(damaged)} has changed since it was written")
    # By torch's own reader as well: another one may see other members in an archive that was made
    # to deceive.
    with _damage_named(path):
        reader = torch._C.PyTorchFileReader(str(path))
        records = reader.get_all_records()
        _refuse_bombs(path, [], sum(map(reader.get_record_size, records)), byte_count)
        _refuse_programs(path, records)
        _refuse_vast_memos(path, reader.get_record("data.pkl"))


@contextmanager
def _damage_named(path):
    """Tell of whatever goes wrong in a file's archive or pickle as of a damaged checkpoint.

    The libraries tell of damage in many ways.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"{path}: the checkpoint is cut off or damaged ({brief(error)}); copy it anew"
        ) from error


def _refuse_bombs(path, packed, unpacked, byte_count):
    """Refuse archives with members that are packed, or that are larger together than the file."""
    if packed:
        raise InputError(
            f"{path}: {brief(packed[0])} is compressed, which PyTorch never does; not a checkpoint"
        )
    if unpacked > byte_count:
        raise InputError(
            f"{path}: the file has {byte_count} bytes, and its parts are said to have {unpacked}; "
            "not a checkpoint"
        )


def _refuse_programs(path, records):
    """Refuse archives of TorchScript, which torch.load would run without asking an unpickler.

    They are told as torch.load tells them.
    """
    if programs := [m for m in records if m == "constants.pkl" or m.startswith("code/")]:
        raise InputError(
            f"{path}: holds a program ({brief(programs[0])}), as torch.jit.save writes; it is not "
            "run. Name the checkpoint that the training wrote"
        )


def _refuse_vast_memos(path, pickled):
    """Refuse pickles that fill memory by a table of what they remember, or hash without an end."""
    for opcode, argument, _ in pickletools.genops(pickled):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(pickled):
            raise InputError(f"{path}: its table of contents was not written by PyTorch")
    _Probe(io.BytesIO(pickled)).load()


def _entry(content, path, key):
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, dict) or not value:
        raise InputError(
            f"{path}: the checkpoint has no {key}; it is not a model trained by CryoSiam or cryoseg"
        )
    return value


def checkpoint_sha256(path):
    """SHA-256 of the file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def architecture_of(settings, path):
    """Sizes of the trained network that the settings in a checkpoint describe.

    settings: ``hyper_parameters`` of a trained model, {config: ..., backbone_config: ...}
    Raises InputError if they are those of something else.
    """
    blocks = {}
    for key in ("backbone_config", "config"):
        block = settings.get(key)
        for name in ("parameters", "network"):
            block = block.get(name) if isinstance(block, dict) else None
        if not isinstance(block, dict):
            raise InputError(
                f"{path}: hyper_parameters has no {key}.parameters.network; this is not a trained "
                "segmentation model (a pretrained backbone, perhaps: train a model from it first)"
            )
        blocks[key] = block
    names = {field.name for field in fields(Architecture)}
    head_names = {"out_channels", "filters", "kernel_size", "padding"}
    # The heads' input, dense_dim, stands in both; the backbone's is the one that the weights have.
    sizes = {k: v for k, v in blocks["backbone_config"].items() if k in names - head_names}
    sizes |= {k: v for k, v in blocks["config"].items() if k in head_names}
    sizes = {k: tuple(v) if isinstance(v, list) else v for k, v in sizes.items() if v is not None}
    if "out_channels" not in sizes:
        raise InputError(f"{path}: hyper_parameters does not say how many out_channels there are")
    try:
        return Architecture(**sizes)
    except InputError as error:
        raise InputError(
            f"{path}: hyper_parameters describe a network that cannot be: {brief(error)}"
        ) from error


def outline(sizes, state, path):
    """The network of the sizes that a checkpoint states, on the meta device: it takes no memory.

    state: the checkpoint's weights
    Raises InputError if there is no such network, or if it has more blocks than the file has
    weights.
    """
    blocks = sum(sizes.num_layers) + sizes.fpn_layers
    if blocks > len(state):  # building a network of millions of blocks would take hours
        raise InputError(
            f"{path}: the weights do not fit the network that hyper_parameters describe: "
            f"{len(state)} of them for {quoted(blocks)} blocks"
        )
    try:
        with torch.device("meta"):
            return SegmentationNetwork(sizes)
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"{path}: hyper_parameters describe a network that cannot be: {brief(error)}"
        ) from error


def check_shapes(path, wanted, found):
    """Raise InputError unless weights have the names and shapes of those wanted: {name: tensor}."""
    wanted, found = shapes(wanted), shapes(found)
    differences = [
        f"{brief(name)}: {found.get(name, 'missing')} instead of {wanted.get(name, 'nothing')}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            f"{path}: the weights do not fit the network that hyper_parameters describe: "
            f"{'; '.join(differences[:3])}{more}"
        )


def shapes(weights):
    """Shapes of weights, {name: tensor}, as {name: tuple}."""
    return {name: tuple(value.shape) for name, value in weights.items()}


def check_numbers(path, wanted, found):
    """Raise InputError where weights are no real numbers and those wanted, {name: tensor}, are."""
    for name, value in wanted.items():
        if value.is_floating_point() and not found[name].is_floating_point():
            raise InputError(
                f"{path}: the weights {name} are of type {found[name].dtype}; they must be real "
                "numbers: train the model anew"
            )


def load_network(path):
    """Load a trained segmentation network, in evaluation mode, on the CPU, in float32.

    Raises InputError if the file is no checkpoint, or of another kind than a trained model, or if
    its weights do not fit the sizes that it states.
    """
    state, settings = read_checkpoint(path)
    network = outline(architecture_of(settings, path), state, path)
    check_shapes(path, network.state_dict(), state)
    check_numbers(path, network.state_dict(), state)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InputError(f"{path}: the weights cannot be used: {brief(error)}") from error
    return network.eval().requires_grad_(False)


def plain_values(content, path, most=MOST_VALUES):
    """A copy of settings in what YAML can hold: lists, mappings, texts, numbers, true and null.

    What is none of these becomes None, and a key that is none is left out; the log names them.
    Raises InputError if there are more than so many values: lists that hold one another ten times
    have no end to speak of.
    """
    copying = _PlainCopy(path, most)
    copied = copying.of(content, ())
    if copying.lost:
        logger.warning(
            "%s: %d of its settings are no plain values and are not taken over: %s", path,
            len(copying.lost), brief(", ".join(copying.lost[:5])),
        )  # fmt: skip
    return copied


class _PlainCopy:
    """Copies settings, counts their values and signs, and keeps the names of what is not plain."""

    def __init__(self, path, most):
        self.path, self.most = path, most
        self.values, self.signs, self.lost = 0, 0, []

    def of(self, value, place):
        """A copy of what stands at a place: the names of the keys that lead there."""
        self._count(value, place)
        if isinstance(value, list | tuple):
            return [self.of(inner, (*place, str(number))) for number, inner in enumerate(value)]
        if not isinstance(value, dict):
            return value if self._is_plain(value, place) else None
        copied = {}
        for key, inner in value.items():
            inside = (*place, key if isinstance(key, str) else quoted(key))
            self._count(key, place)
            if self._is_plain(key, inside):
                copied[key] = self.of(inner, inside)
        return copied

    def _count(self, value, place):
        self.values += 1
        self.signs += len(value) if isinstance(value, str) else 0
        if self.values > self.most or self.signs > SIGNS * self.most or len(place) > DEEPEST:
            raise InputError(
                f"{self.path}: its settings hold more than {self.most} values, {SIGNS * self.most} "
                f"signs or {DEEPEST} lists in one another, as no training's do; give another "
                "checkpoint"
            )

    def _is_plain(self, value, place):
        if isinstance(value, str):
            plain = not any("\ud800" <= sign <= "\udfff" for sign in value)  # of no encoding
        elif type(value) is int:
            plain = value.bit_length() <= MOST_BITS
        else:
            plain = value is None or isinstance(value, bool | float)
        if not plain:
            self.lost.append(".".join(place))
        return plain


def steps_done(path):
    """How many steps a training had done when it left a checkpoint, which must be one of ours."""
    step = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("global_step")
    return step if isinstance(step, int) else 0


def read_callback_state(path, callback):
    """What a callback of our own left in a checkpoint that we wrote; None if it left nothing.

    Raises InputError for a file that is no checkpoint, or one that others wrote.
    """
    _check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever unpickling stumbles over
        raise InputError(f"{path}: not a checkpoint that cryoseg wrote ({brief(error)})") from error
    states = content.get("callbacks", {}) if isinstance(content, dict) else None
    state = states.get(callback) if isinstance(states, dict) else states
    if states is None or not isinstance(state, dict | None):
        raise InputError(f"{path}: not a checkpoint that cryoseg wrote")
    return None if state is None else plain_values(state, path, MOST_VALUES_OF_OURS)

"""Feed what reads files with damaged, odd and hostile ones; it may only work or say what is wrong.

    python tests/campaigns/fuzzing.py [--examples 2000] [--seed 0] [--only mrc,yaml]

Each target is a kind of file: how it is made (a hypothesis strategy of bytes) and what reads it.
An InputError that names the file in one sentence is an answer; any other exception, no answer
within ten seconds, something that is run, or a file outside the target's folder is a find. Seconds
are those of a clock, less those for which the reader could have gone on and others had the
processors. Prints how many inputs were tried.
"""

import argparse
import datetime
import io
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import sys
import sysconfig
import tempfile
import time
import traceback
import zipfile
from collections import OrderedDict
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path

import hypothesis
import mrcfile
import numpy as np
import psutil
import yaml
from hypothesis import strategies as st
from mrcfile.dtypes import HEADER_DTYPE
from snakemake.common.configfile import load_configfile

REPOSITORY = Path(__file__).resolve().parents[2]
PATHS = [str(REPOSITORY / "scripts"), str(REPOSITORY / "tests")]
sys.path.extend(path for path in PATHS if path not in sys.path)

from cryoseg import plan  # noqa: E402
from cryoseg.checkpoints import load_network, read_callback_state  # noqa: E402
from cryoseg.configuration import check_syntax, read_configuration  # noqa: E402
from cryoseg.errors import InputError, printable  # noqa: E402
from cryoseg.job_resources import header_shape  # noqa: E402
from cryoseg.label_making import particles_in  # noqa: E402
from cryoseg.labels import ClassLabels  # noqa: E402
from cryoseg.tomogram_checks import check_tomogram  # noqa: E402
from cryoseg.volumes import Volume, open_label_volume, open_mask, open_volume  # noqa: E402
from scale_tomogram import scale_tomogram  # noqa: E402
from tracebacks import tracebacks  # noqa: E402

SECONDS = 10
# Where the kernel does not tell how long a process waited for a processor, so many seconds of a
# clock count as one: a busy machine may leave a process none for a while.
ON_A_BUSY_MACHINE = 6
# Characters of a message; a value that is quoted in it must not fill a terminal.
LONGEST_MESSAGE = 2000
# Of addresses, which no text of a megabyte takes more of.
MOST_BYTES = 10**9
SHAPE = (4, 5, 6)
# What a shell, Snakemake, a table or a path would take for more than a name.
ODD_NAMES = (
    "TS 1", " TS", "TS ", "-n", "--forceall", "-rf *", "a'b", 'a"b', "a\nb", "a\tb", "é", "試料",
    "e\u0301", "\u202egnp", "🧊", "x" * 200, "[1]", "{1}", "{tomogram}", "{1.5}", "{", "}}",
    "<tomogram>", "$(touch pwned)", "`touch pwned`", "; touch pwned", "a;b", "a&b", "a|b", "a>b",
    "#1", "a#b", "50%", "%s", "%(name)s", "a,b", "~", "~root", "a~", "!1", "a:b", "a=b", "a\\b",
    "\\n", "*", "?", "..a", "...", "a.mrc", "True", "null", "1e5", "0x10", "&a", "@a", "a_preds",
    "scores", "\r", "\x01", "\x7f", "a\u2028b", "a\x85b", "CON", "provenance", "model", "{}",
    "${HOME}", "%j", "\\",
)  # fmt: skip


class Hangs(BaseException):
    """Reading took longer than anybody waits; no Exception, so that nothing takes it for one."""


def names_it(path, said):
    """Whether a message names the file."""
    return str(path) in said


@dataclass(frozen=True)
class Target:
    """A kind of file.

    contents: make its bytes; read: reads it; ending: of its name
    names:    names(path, message) tells whether a message says what file is meant
    least:    the share of all inputs that can be read, at least: of others, little code is reached
    """

    contents: st.SearchStrategy
    read: object
    ending: str
    names: object = names_it
    least: float = 0.0


def queued(process="self"):
    """Seconds for which a process could have run so far, and others had the processors.

    Of its first thread, which is the one that reads; None where the kernel does not tell. What a
    hypervisor gives to other machines counts as run, and what waits for a disk does not wait here.
    """
    try:
        ran, waited, _ = Path(f"/proc/{process}/schedstat").read_text().split()
    except FileNotFoundError:
        return None
    return int(waited) / 1e9 if int(ran) else None  # zeros where it does not count


class Spent:
    """Seconds since it was made, less those for which whoever reads waited for a processor.

    waited: says how many these were, as queued does. Where nobody knows, seconds of a processor,
            or a sixth of those of a clock if that is more.
    """

    def __init__(self, waited=queued):
        self._waited, self._began = waited, self._now(waited)

    @staticmethod
    def _now(waited):
        return time.monotonic(), time.process_time(), waited()

    @property
    def seconds(self):
        begun, now = self._began, self._now(self._waited)
        clock, processor = now[0] - begun[0], now[1] - begun[1]
        if None in (begun[2], now[2]):
            return max(processor, clock / ON_A_BUSY_MACHINE)
        return clock - (now[2] - begun[2])


@contextmanager
def at_most(seconds, waited=queued):
    """Raise Hangs once the block has taken so many seconds, as Spent counts them.

    And at its end, where that was caught within it, or a library did not come back before.
    """
    spent = Spent(waited)

    def look(number, frame):
        left = seconds - spent.seconds
        if left <= 0:
            raise Hangs(f"no answer after {seconds} s")
        signal.setitimer(signal.ITIMER_REAL, left + 0.01)

    before = signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if spent.seconds > seconds:
            raise Hangs(f"it took {spent.seconds:.1f} s")


# What the interpreter tells of before it does it, and no reading of a file asks for.
RUNS = (
    "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile",
    "pty.spawn", "subprocess.Popen", "webbrowser.open", "os.kill", "os.killpg",
    "signal.pthread_kill", "socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg",
    "socket.getaddrinfo", "socket.gethostbyname", "sqlite3.load_extension", "sys.addaudithook",
    "code.__new__",
)  # fmt: skip
# What a module does as well while it is imported: code made of a text, foreign functions.
RUNS_IN_IMPORTS = ("exec", "function.__new__", "ctypes.dlopen", "ctypes.dlsym",
                   "ctypes.call_function")  # fmt: skip
# Where modules may come from.
INSTALLED = tuple(
    os.path.realpath(path) + os.sep
    for path in {*sys.path, *sysconfig.get_paths().values()}
    if path and os.path.isdir(path)
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
# What changes the file that a link leads to; the first argument is the path.
THROUGH_LINKS = ("os.chmod", "os.chown", "os.truncate", "os.utime", "os.setxattr", "os.removexattr")
# What changes folders and files without opening them: which of its arguments are the path, and the
# descriptor of the folder that this is relative to.
CHANGES = {
    "os.mkdir": [(0, 2)], "os.remove": [(0, 1)], "os.rmdir": [(0, 1)],
    "os.rename": [(0, 2), (1, 3)], "os.link": [(1, 3)], "os.symlink": [(1, 2)],
}  # fmt: skip


def is_import(event, arguments):
    """Whether what is told of happens as an installed module is imported."""
    if event == "exec":
        name = getattr(arguments[0], "co_filename", "<string>")
        if not name.startswith(("<", *INSTALLED)):
            return False
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def others_started():
    """What changes when this process starts another: those there are, and what ended ones used.

    So those are seen too that a library starts, of which the interpreter knows nothing.
    """
    there = Path(f"/proc/self/task/{os.getpid()}/children")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return there.read_text() if there.exists() else "", ended.ru_minflt


class Deeds:
    """What is run, or written outside a folder, between begin and end; the system's word for it.

    The interpreter tells of its own deeds, not of those of libraries in C; of these, processes that
    they start are seen, and by others what they leave in the working folder.
    """

    def __init__(self):
        self.folder, self.found, self._others = None, [], None
        sys.addaudithook(self._hear)  # for as long as the interpreter lives

    def begin(self, folder):
        self.found, self._others = [], others_started()
        self.folder = os.path.realpath(folder)

    def end(self):
        self.folder = None
        if self._others != others_started() and not self.found:
            self.found.append("another process is started")
        return self.found

    @contextmanager
    def unheard(self):
        """For what the campaign itself does."""
        folder, self.folder = self.folder, None
        yield
        self._others, self.folder = others_started(), folder

    def _hear(self, event, arguments):
        if self.folder is None:
            return
        asked_for = event in RUNS_IN_IMPORTS and not is_import(event, arguments)
        if event in RUNS or asked_for:
            self.found.append(f"{event}{arguments!r:.200}")
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES
        if opened or event in THROUGH_LINKS:
            self._written(arguments[0], follow=True)
        for path, folder in CHANGES.get(event, ()):
            self._written(arguments[path], arguments[folder])

    def _written(self, path, relative_to=-1, follow=False):
        if isinstance(path, int):  # a descriptor, which was opened
            return
        start = os.getcwd() if relative_to == -1 else os.readlink(f"/proc/self/fd/{relative_to}")
        folder, name = os.path.split(os.path.abspath(os.path.join(start, os.fsdecode(path))))
        path = os.path.join(os.path.realpath(folder), name)
        path = os.path.realpath(path) if follow else path  # else a link itself, not where it leads
        ours = f"{path}{os.sep}".startswith(f"{self.folder}{os.sep}") or path == os.devnull
        if not ours and "__pycache__" not in path:
            self.found.append(f"{path} is written")


DEEDS = Deeds()


def answered(read, path, names=names_it):
    """Whether a file can be read; what is wrong with it must be said with its name, in short."""
    DEEDS.begin(path.parent)
    try:
        with at_most(SECONDS, getattr(read, "queued", queued)):
            read(path)
        said = None
    except InputError as error:
        said = str(error)
    finally:
        done = DEEDS.end()
    assert not done, f"reading it does more: {done[:3]}"
    if said is None:
        return True
    assert names(path, said), f"the message names no file: {said}"
    assert not tracebacks(said), said
    longest = max(map(len, said.splitlines()))
    assert longest <= LONGEST_MESSAGE, f"a message of {longest} characters: {said[:300]}"
    return False


# Damage to bytes


@st.composite
def damaged(draw, original):
    """The bytes of a good file with some changed, cut off, added or doubled."""
    content = bytearray(draw(original))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(("change", "cut", "insert", "double", "remove")))
        if how == "change":
            new = draw(st.binary(min_size=1, max_size=8))
            content[at : at + len(new)] = new
        elif how == "cut":
            del content[at:]
        elif how == "insert":
            content[at:at] = draw(st.binary(min_size=1, max_size=30))
        elif how == "double":
            content[at:at] = content[at : at + draw(st.integers(1, 2000))]
        else:
            del content[at : at + draw(st.integers(1, 50))]
    return bytes(content)


# MRC files

FIELDS = [name for name in HEADER_DTYPE.names if HEADER_DTYPE[name].kind in "iu"]
INTEGERS = st.one_of(
    st.sampled_from((-(2**31), -1, 0, 1, 2, 3, 4, 5, 6, 12, 16, 101, 401, 1024, 2**16, 2**31 - 1)),
    st.integers(-(2**31), 2**31 - 1),
)


@st.composite
def mrc_contents(draw):
    """A small MRC file whose header has a few odd numbers, or whose bytes are damaged.

    Or, in half of the cases, one that may be labels, with odd places or sizes of voxels at most.
    """
    mildly = draw(st.booleans())
    dtype = draw(st.sampled_from((np.int8, np.int16, np.float32, np.uint16, np.float16)))
    values = np.random.default_rng(draw(st.integers(0, 9))).normal(0, 3, SHAPE)
    if mildly:
        values = np.rint(np.abs(values)) % 3
    elif draw(st.booleans()):
        values = np.abs(values) % 3
    values = values.astype(dtype)
    if not mildly and values.dtype.kind == "f" and draw(st.booleans()):
        odd = st.sampled_from((np.nan, np.inf, -np.inf, 6e4, -6e4, 1e-40, 3e38))
        with np.errstate(over="ignore"):
            values.flat[: draw(st.integers(1, values.size))] = draw(odd)
    file = io.BytesIO()
    header = np.zeros((), HEADER_DTYPE)
    header["nx"], header["ny"], header["nz"] = SHAPE[::-1]
    header["mx"], header["my"], header["mz"] = SHAPE[::-1]
    header["mode"] = mrcfile.utils.mode_from_dtype(values.dtype)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["cella"] = tuple(10.0 * size for size in SHAPE[::-1])
    header["ispg"], header["map"] = 1, b"MAP "
    header["machst"] = [0x44, 0x44, 0, 0]
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            number = draw(INTEGERS)
            name = draw(st.sampled_from(("nxstart", "nystart", "nzstart") if mildly else FIELDS))
            header[name] = np.int64(number).astype(HEADER_DTYPE[name])
        else:
            which = draw(st.sampled_from(("cella", "origin")))
            header[which][draw(st.sampled_from("xyz"))] = draw(st.floats(width=32))
    file.write(header.tobytes() + values.tobytes())
    content = file.getvalue()
    return draw(damaged(st.just(content))) if not mildly and draw(st.booleans()) else content


DEMANDS = {
    "predict_0..1": {"section": "predict", "min": 0, "max": 1},
    "train_a": {
        "section": "train",
        "min": 0,
        "max": 1,
        "out_channels": 3,
        "patch_size": [4, 4, 4],
        "filtered": False,
        "selected_labels": None,
        "relabel": False,
    },
}


def read_mrc(path):
    """What the workflow does with an MRC file: plan, check, scale, take as labels and as a mask."""
    try:
        header_shape.__wrapped__(str(path))
    except (OSError, ValueError):  # which are caught at planning time
        assert path.exists()
    check = check_tomogram(path, path.stem, DEMANDS, dict.fromkeys(DEMANDS, path))
    json.dumps(check.values)
    assert all(each.sentence for each in check.findings)
    judged = [each for each in check.findings if "cannot be judged" in each.sentence]
    assert not judged, judged
    volume = open_volume(path)
    volume[:]
    scaled = path.with_name("scaled.mrc")
    scale_tomogram(
        path, scaled, settings={"invert": True, "lower_end_percentage": 1.0,
                                "upper_end_percentage": 99.0},
    )  # fmt: skip
    assert open_volume(scaled).shape == volume.shape
    open_mask(path, volume.shape)[:, :, :]
    open_label_volume(path)
    for size in range(volume.shape[0]):
        ClassLabels(path, 3)[slice(size, size + 1)]


# Positions

COLUMNS = ("tomo", "z", "y", "x", "centroid-0", "centroid-1", "centroid-2", "semantic_class")
STAR_COLUMNS = (
    "rlnTomoName", "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ",
    "rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst",
    "rlnOriginXAngst", "rlnAngleRot", "rlnAngleTilt", "rlnClassNumber", "rlnTomoSubtomogramRot",
)  # fmt: skip
# Longer than any message, so that one with all of it would be noticed.
LONG_TEXTS = st.sampled_from((5000 * "x", 5000 * "9", 5000 * "é", 3000 * ".mrc"))
ODD_CELLS = st.one_of(
    st.sampled_from(("nan", "inf", "1e400", "a", '"', "'", "#", "_a", "", "TS_1", "9" * 30)),
    LONG_TEXTS,
    st.integers(-9, 30).map(str),
    st.text(max_size=8),
)


def cell(draw, column, wild):
    """What stands in a column: mostly what belongs there, or anything where it is ``wild``."""
    if wild and draw(st.integers(0, 5)) == 0:
        return draw(ODD_CELLS)
    if column in ("tomo", "rlnTomoName", "rlnMicrographName"):
        return draw(st.sampled_from(("TS_1", "TS_1.mrc", "TS_10", "a/TS_1.tomostar", "08")))
    return str(draw(st.one_of(st.integers(0, 19), st.floats(-5, 25, width=16))))


@st.composite
def table_of(draw, known, needed, separator, begin):
    """A table of positions with known and unknown columns, doubled ones and ragged rows."""
    wild = draw(st.integers(0, 3)) == 3
    columns = [*needed, *draw(st.lists(st.sampled_from(known), max_size=5, unique=True))]
    if wild:
        columns += draw(st.lists(st.one_of(st.text(max_size=6), LONG_TEXTS), max_size=2))
        columns = columns[draw(st.integers(0, 1)) :]
    else:
        columns = list(dict.fromkeys(columns))
    rows = [[cell(draw, c, wild) for c in columns] for _ in range(draw(st.integers(0, 5)))]
    if wild and rows and draw(st.booleans()):
        rows[-1] = rows[-1][: draw(st.integers(0, len(columns)))]
    lines = [separator.join(row) for row in rows]
    return "\n".join([begin(columns), *lines, ""]).encode("utf-8", "surrogatepass")


def star_head(columns):
    return "\n".join(["data_particles", "", "loop_", *(f"_{name}" for name in columns)])


STAR_TABLES = table_of(STAR_COLUMNS, (STAR_COLUMNS[0], *STAR_COLUMNS[2:5]), " ", star_head)
CSV_TABLES = table_of(COLUMNS, COLUMNS[:4], ",", ",".join)


def mostly(tables):
    """Tables, most of them as they are, others damaged, or bytes that are none."""
    kinds = st.sampled_from((*(tables,) * 4, damaged(tables), st.binary(max_size=200)))
    return kinds.flatmap(lambda kind: kind)


def read_places(path):
    """Read positions and find those of a tomogram."""
    volume = Volume(np.zeros((20, 20, 20)), (10.0,) * 3, (0.0,) * 3, (0,) * 3, Path("TS_1.mrc"))
    labels = ({"1": 1, "2": 2}, None, None, 1, 1)[path.stat().st_size % 5]
    settings = {"labels_of_files": None, "labels": labels, "coordinate_voxel_size": None}
    settings |= {"name_suffix": "", "per_tomogram": labels == 1, "allow_empty": True}
    found = particles_in(volume, "TS_1", [path], settings)
    assert len(found.points) == len(found.labels)
    assert np.isfinite(found.points).all()


# Configurations

PREDICTION = yaml.safe_load((REPOSITORY / "config" / "semantic.yaml").read_text(encoding="utf-8"))
TRAINING = yaml.safe_load((REPOSITORY / "config" / "train_semantic.yaml").read_text("utf-8"))
CONFIG = {
    "simulate": {"made": {"output_path": "made", "number": 2}},
    "scale": {"raw": {"input_path": "in", "output_path": "scaled"}},
    "label": {
        "spheres": {
            "kind": "particles", "tomograms": "in", "positions": "p.csv", "radius": 5,
            "output_path": "spheres",
        },
        "both": {"kind": "merge", "folders": {1: "spheres", 2: "in"}, "output_path": "both"},
    },
    "train": {"model": "train.yaml"},
    "predict": {"stage": "predict.yaml"},
}  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(ODD_NAMES),
    st.sampled_from(("/", "..", ".", "../out", "/dev/null", "in", "scaled", "auto", "cuda:0")),
    st.dates(),
    st.binary(max_size=5),
    st.sampled_from(("\0", "a\0b", "a\ud800", 10**25, -(10**400), 5000 * "x", 5000 * "9")),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.one_of(st.text(max_size=6), st.integers(), st.none()), inner, max_size=3
        )
    ),
    max_leaves=6,
)


def places(content, at=()):
    """The keys that lead to each value of nested mappings and lists."""
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*at, key))


def near(draw, value):
    """Another value of the same kind: what a user may well have written there."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw(st.sampled_from((value + 1, max(1, value - 1), 2 * value)))
    if isinstance(value, float):
        return value * draw(st.sampled_from((0.5, 0.9, 1.1)))
    if isinstance(value, str):
        return draw(
            st.sampled_from((value, f"{value}/", f"./{value}", "é ü", "a b", "$(touch pwned)"))
        )
    if isinstance(value, list):
        return draw(st.permutations(value))
    if isinstance(value, dict):
        return dict(draw(st.permutations(list(value.items()))))
    return value


def changed(draw, content, most=3, mildly=False):
    """A copy of a configuration in which a few values are others, missing or under another key.

    mildly: other values are of the same kind; some keys are missing, none has another name
    """
    content = yaml.safe_load(yaml.safe_dump(content))
    for _ in range(draw(st.integers(0, most))):
        *path, last = draw(st.sampled_from(list(places(content)) or [("a",)]))
        block = content
        for key in path:
            block = block[key]
        how = draw(st.sampled_from(("value", "value", "value", "remove", "rename")))
        if mildly and (how != "remove" or not isinstance(block, dict)):
            block[last] = near(draw, block[last])
        elif how == "value":
            block[last] = draw(VALUES)
        elif isinstance(block, dict) and how == "remove":
            block.pop(last, None)
        elif isinstance(block, dict):
            name = draw(st.one_of(st.text(max_size=5), st.integers(), st.sampled_from(ODD_NAMES)))
            block[name] = block.pop(last, None)
    return content


# What a file does whose values Snakemake takes for Python: the campaign hears of it.
RUNS_A_COMMAND = "?__import__('os').system('true')"
ODD_TAGS = (
    *("", "", "!", "!a", "!!a", "!!python/name:os.system", "!!python/object/apply:os.system"),
    *("!!int", "!!float", "!!bool", "!!null", "!!timestamp", "!!binary", "!!str", "!!seq", "!!map"),
    *("!!set", "!!omap", "!!pairs", "!!merge", "!!value"),
)
ODD_TEXTS = (
    '""', '"-"', '"+"', '"."', '"0x"', '"0b_"', '":"', '"1:"', "a", "~", "[]", "{}", "[1, {a: b}]",
    "<<", "=", "yes", "2024-13-01", "2001-12-14t21:59:43+99:99", ".inf", ".nan", "1e400", "&a [*a]",
    "*a", "&a {<<: *a}", 400 * "9", 5000 * "9", "0x" + 5000 * "f", "1" + 3000 * ":59", "9:59:59.5",
    "1" + 3000 * ":59" + ".5", '"\\0"', '"a\\0b"', '"\\ud800"', '"\\e[31m"', '"\\U00110000"',
    "18446744073709551616", f'"{RUNS_A_COMMAND}"', "in", "../out", 500 * "[", 5000 * "x",
    '"\\UFFFFFFFF"',
)  # fmt: skip
ODD_YAML = st.builds("{} {}".format, st.sampled_from(ODD_TAGS), st.sampled_from(ODD_TEXTS))
USES_YTE = st.sampled_from(
    (
        *("__use_yte__: true", '"__use_yte__": 1', "? __use_yte__\n: yes", "!!str __use_yte__: a"),
        *("<<: {__use_yte__: true}", "a: &y __use_yte__\n*y : true", "__use_yte__: false"),
    )
)
PROGRAMS = USES_YTE.map(lambda line: f"{line}\np: {RUNS_A_COMMAND!r}")


@st.composite
def odd_yaml(draw):
    """YAML whose keys and values have odd tags, numbers and texts, or Python in them."""
    pairs = st.builds("{}: {}".format, st.sampled_from("abc"), ODD_YAML)
    pairs |= st.builds("? {}\n: {}".format, ODD_YAML, ODD_YAML)
    lines = draw(st.lists(st.one_of(pairs, PROGRAMS), min_size=1, max_size=4))
    if draw(st.integers(0, 9)) == 0:
        lines[:0] = [f"%YAML {draw(st.sampled_from(('1', '2', 5000 * '9')))}.1", "---"]
    return "\n".join(lines).encode()


# What holds others, {}, in a list or a mapping, or merges them.
HOLDS = ("[{}]", "{{k: [{}]}}", "!!pairs [k: [{}]]", "!!omap [k: [{}]]", "{{<<: [{}]}}",
         "[{{<<: [{}]}}]")  # fmt: skip
MOST_OF_IT = 900_000  # characters


@st.composite
def growing_yaml(draw):
    """YAML of less than a megabyte of which far more would be made, if nobody counted.

    A value of many or long parts, and over and over one that holds the one before many times; or
    many values of a tag that is written once.
    """
    sizes = st.sampled_from((1, 10, 1000, 15_000, 200_000))
    size, times = draw(sizes), draw(sizes)
    few = min(size, 15_000)
    first = draw(
        st.sampled_from(
            (
                size * "x",
                f"{{? {size * 'x'}\n  : 1}}",
                f"{{{', '.join(f'k{number}: 1' for number in range(few))}}}",
                f"[{few * '1, '}]",
                None,
            )
        )
    )
    if first is None:
        lines = [f"%TAG !e! tag:{size * 'x'}", "---", f"a: [{min(times, 90_000) * '!e!a b, '}]"]
        return "\n".join(lines).encode()
    lines, left = [f"a0: &a0 {first}"], MOST_OF_IT - len(first)
    for number in range(1, draw(st.sampled_from((2, 2, 2, 10, 1200)))):
        held = number if draw(st.integers(0, 9)) == 0 else number - 1  # itself, or the one before
        others = times * f"*a{held}, "
        lines.append(f"a{number}: &a{number} {draw(st.sampled_from(HOLDS)).format(others)}")
        left -= len(lines[-1])
        if left < 0:
            lines.pop()
            break
    return "\n".join(lines).encode()


def with_odd_yaml(draw, text):
    """A configuration in YAML with one value, or what stands before all, replaced by an odd one."""
    if draw(st.integers(0, 3)) == 0:
        return f"{draw(PROGRAMS)}\n{text}"
    lines = text.splitlines()
    at = draw(st.integers(0, len(lines) - 1))
    begin, mark, _ = lines[at].partition(":" if ":" in lines[at] else "-")
    lines[at] = f"{begin}{mark} {draw(ODD_YAML)}"
    return "\n".join(lines)


@st.composite
def yaml_contents(draw):
    """Three files, one after the other: config.yaml, predict.yaml and train.yaml."""
    given = PREDICTION | {"data_folder": "in", "trained_model": "in/model.ckpt"}
    given |= {"mask_folder": None}
    trained = TRAINING | {"data_folder": "in", "labels_folder": "labels", "pretrained_model": None}
    files, mildly = [CONFIG, given, trained], draw(st.integers(0, 3)) > 0
    if mildly:
        which = draw(st.sampled_from((0, 1, 1, 2, 2)))
        files[which] = changed(draw, files[which], 2, mildly)
    else:
        files = [changed(draw, file) for file in files]
    texts = [yaml.safe_dump(file, allow_unicode=True) for file in files]
    if not mildly and draw(st.booleans()):
        which = draw(st.integers(0, 2))
        texts[which] = with_odd_yaml(draw, texts[which])
    texts = [text.encode() for text in texts]
    if not mildly and draw(st.integers(0, 2)) == 0:
        which = draw(st.integers(0, 2))
        texts[which] = draw(damaged(st.just(texts[which])))
    return b"\0---\0".join(texts)


def read_configurations(path):
    """Read a configuration with its stages and plan what is to be done, in the file's folder."""
    here, folder = os.getcwd(), path.parent
    config, *stages = [*path.read_bytes().split(b"\0---\0"), b"", b""]
    os.chdir(folder)
    try:
        for name in ("in", "labels"):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "TS_1.mrc").write_bytes(
                struct.pack("<4i", 30, 20, 10, 2) + bytes(1008)
            )
        (folder / "in" / "model.ckpt").write_bytes(b"a checkpoint")
        (folder / "p.csv").write_text("tomo,z,y,x\nTS_1,1,1,1\n")
        for name, text in zip(("config", "predict", "train"), (config, *stages), strict=False):
            (folder / f"{name}.yaml").write_bytes(text)
        found, _ = read_configuration(read_as_snakemake("config.yaml"), ["config.yaml"])
        planned(found)
    finally:
        os.chdir(here)


def read_as_snakemake(path):
    """A configuration, read as in a run: by Snakemake, after the check that comes before it."""
    check_syntax([path])
    return load_configfile(path)


@contextmanager
def at_most_bytes(count):
    """Refuse the block more than so many bytes of addresses, beside those that there are."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def read_any_yaml(path):
    """Take YAML for a configuration, which it is not, within the memory that any of these takes."""
    with at_most_bytes(MOST_BYTES):
        read_configuration(read_as_snakemake(path), [str(path)])


def names_a_configuration(path, said):
    """Whether each mistake begins with the configuration file that it is in, as it is spelled."""
    heading, *mistakes = said.splitlines()
    if mistakes and all(mistake.startswith("  config.yaml") for mistake in mistakes):
        return "in the configuration" in heading  # perhaps none that can be read
    content = yaml.safe_load((path.parent / "config.yaml").read_bytes())
    entries = [content.get(section) for section in ("train", "predict")]
    stages = [str(file) for each in entries if isinstance(each, dict) for file in each.values()]
    files = ["config.yaml", *map(os.path.expanduser, stages)]  # ~ is replaced as it is read
    # Of a line with a name of thousands of signs, the middle is left out.
    begins = tuple(f"  {printable(file)}"[:300] for file in files)
    assert "in the configuration" in heading, heading
    return mistakes and all(mistake.startswith(begins) for mistake in mistakes)


# Keys whose values are folders to write into.
OUTPUT_KEYS = ("output_path", "prediction_folder", "patches_folder", "temp_dir", "log_dir")


def planned(stages):
    """Plan all that a configuration asks for; every output must lie in a folder that it names.

    Or in a folder for checks, logs and benchmarks. In the working folder itself, nothing is written
    but the overview.
    """
    given = [plan.training(stages, name) for name in stages.train]
    given += [plan.prediction(stages, name) for name in stages.predict]
    given += [plan.labelling(stages, name) for name in stages.label]
    given += [plan.scaling(stages, name) for name in stages.scale]
    given += plan.checks(stages).values()
    files = plan.targets(stages)
    plan.with_aliases(files, plan.aliases(files))
    plan.overview(stages)
    sections = (stages.simulate, stages.scale, stages.label, stages.train, stages.predict)
    entries = [entry for section in sections for entry in section.values()]
    folders = [entry[key] for key in OUTPUT_KEYS for entry in entries if entry.get(key)]
    folders += [
        entry["labels_folder"]
        for entry in stages.train.values()
        if entry["labels_folder_for_filtering"]
    ]
    outputs = {file for each in files.values() for file in each}
    check_inside(outputs - {"overview.html", "overview.tsv"}, [*folders, "checks"])
    for key in ("logs", "benchmarks", "admitted"):
        own = {each["paths"][key] for each in given if key in each["paths"]}
        check_inside(own, ["checks" if key == "admitted" else key])


def check_inside(files, folders):
    """Every file must lie in one of the folders."""
    tops = {os.path.realpath(folder) for folder in folders}
    for file in files:
        inside = [os.path.commonpath((os.path.realpath(file), top)) == top for top in tops]
        assert any(inside), f"{file} lies in none of {tops}"


# Checkpoints


def checkpoint_content(**others):
    """What a small checkpoint holds; others: sizes of the network that are not the usual ones."""
    from networks import random_network

    network = random_network(**others)
    sizes = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in vars(network.sizes).items()
    }
    heads = {key: sizes.pop(key) for key in ("out_channels", "filters")}
    settings = {
        "config": {"parameters": {"network": heads}},
        "backbone_config": {"parameters": {"network": sizes}},
    }
    return {"state_dict": network.state_dict(), "hyper_parameters": settings}


def saved(content):
    import torch

    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


OPCODES = st.lists(
    st.one_of(
        st.sampled_from([bytes([code]) for code in b"()]}.02NIKMGRcibuesaltotQh"]),
        st.sampled_from(
            (b"cos\nsystem\n", b"cbuiltins\neval\n", b"X\x03\0\0\0abc", b"\x80\x02", b"R")
        ),
        st.binary(max_size=4),
    ),
    max_size=25,
).map(b"".join)


@st.composite
def good_checkpoint(draw):
    """What a checkpoint of another program's version holds: of any network, with more than we need.

    Of other precision, with settings that we do not know.
    """
    import torch

    from networks import KINDS

    content = checkpoint_content(**KINDS[draw(st.sampled_from(sorted(KINDS)))])
    dtype = draw(st.sampled_from((torch.float32, torch.float16, torch.bfloat16, torch.float64)))
    state = content["state_dict"]
    real = sorted(name for name, value in state.items() if value.is_floating_point())
    state |= {name: state[name].to(dtype) for name in real}
    if draw(st.booleans()):
        state[draw(st.sampled_from(real))] *= draw(st.sampled_from((0, -1, 1e-7, 1e4)))
    extra = st.dictionaries(st.text(max_size=6), VALUES, max_size=2)
    content |= {"epoch": draw(st.integers()), "callbacks": draw(extra)}
    content["hyper_parameters"] |= draw(extra)
    return content


def laughing(depth, width=10):
    """A list of lists of lists ..., in a few bytes as it holds the same one so many times."""
    found = [1]
    for _ in range(depth):
        found = [found] * width
    return found


def odd_objects():
    """What a pickle may hold where settings have a number, a text, a list or a mapping."""
    import torch

    endless = []
    endless.append(endless)
    return (
        OrderedDict(a=1), OrderedDict(a=np.float64(0.5)), np.float64(0.5), np.int64(5), np.ones(3),
        torch.ones(()), torch.ones(2), torch.Size([1, 2]), {1, 2}, b"\xff", 1 + 2j, endless,
        laughing(5), laughing(7), laughing(20), (1, [2]), {(1, 2): 3}, {10**5000: 1}, 10**5000,
        -(10**400), 2**31, 2**62, 2**63, 10**9, [10**9] * 4, [2**62] * 4, [True] * 4, [1.0] * 4,
        "\ud800", {"\ud800": 1}, "a\0b\r\n", 10**6 * "x", 3 * [10**6 * "x"], datetime.date(1, 1, 1),
    )  # fmt: skip


def with_object(draw, settings):
    """A copy of nested settings with an odd object at one place, or at a new one."""
    settings = yaml.safe_load(yaml.safe_dump(settings))
    found = list(places(settings))
    found += [
        (*path, "other") for path in found if isinstance(reduce(getitem, path, settings), dict)
    ]
    *path, last = draw(st.sampled_from(found))
    reduce(getitem, path, settings)[last] = draw(st.sampled_from(odd_objects()))
    return settings


def backbone_alone(content):
    """A pretrained backbone as CryoSiam stores it, of the content of a trained model."""
    begin, settings = "_model_backbone.", content["hyper_parameters"]
    state = {
        name.replace(begin, "_model."): weights
        for name, weights in content["state_dict"].items()
        if name.startswith(begin)
    }
    return content | {
        "state_dict": state,
        "hyper_parameters": {"config": settings["backbone_config"]},
    }


@st.composite
def checkpoint_contents(draw, pretrained=False):
    """A checkpoint with other settings or weights, of another pickle, or with damaged bytes.

    pretrained: half of them are of a backbone alone
    """
    import torch

    if pretrained:
        import train_model  # noqa: F401 - its libraries' seconds are none of the reading
    alone = backbone_alone if pretrained and draw(st.booleans()) else lambda content: content
    hows = ("settings", "sizes", "objects", "weights", "pickle", "bytes", "lying")
    how = draw(st.sampled_from((*("good",) * 8, *("objects",) * 4, *hows)))
    if how == "good":
        return saved(alone(draw(good_checkpoint())))
    content = alone(checkpoint_content())
    if how == "objects":
        content["hyper_parameters"] = with_object(draw, content["hyper_parameters"])
    elif how == "sizes":
        settings = content["hyper_parameters"]
        block = settings[draw(st.sampled_from(sorted(settings)))]
        sizes = block["parameters"]["network"]
        sizes[draw(st.sampled_from(sorted(sizes)))] = draw(
            st.one_of(
                VALUES,
                st.builds(laughing, st.integers(0, 30)),
                st.integers(0, 2**20000),
                st.integers(1, 10**6).map(lambda length: length * "x"),
            )
        )
    elif how == "settings":
        content["hyper_parameters"] = changed(draw, content["hyper_parameters"])
    elif how == "weights":
        name = draw(st.sampled_from(sorted(content["state_dict"])))
        content["state_dict"][name] = draw(
            st.one_of(
                VALUES,
                st.sampled_from(
                    (torch.zeros(0), torch.zeros(2, 2), torch.ones(3, dtype=torch.complex64),
                     torch.tensor(float("nan")), torch.ones(4, dtype=torch.bool),
                     torch.zeros(1).expand(1000, 1000, 1000),
                     torch.ones(2, 2).to_sparse(), torch.zeros(3, device="meta"))
                ),
            )
        )  # fmt: skip
    whole = saved(content)
    if how == "bytes":
        return draw(damaged(st.just(whole)))
    if how in ("pickle", "lying"):
        return with_pickle(whole, *draw(st.tuples(st.integers(0, 2000), OPCODES)), how == "lying")
    return whole


RUN = {
    "settings": {"seed": 0, "parameters": {"data": {"min": 0.0, "patch_size": [16, 16, 16]}}},
    "files": [["TS_1_patches.h5", 1000, 1700000000]],
    "processes": 1,
}


@st.composite
def last_contents(draw):
    """What a training of RUN left to go on from, with other values, or another's checkpoint."""
    how = draw(st.sampled_from(("good", "settings", "objects", "another's")))
    if how == "another's":
        return draw(checkpoint_contents())
    state = {"run": RUN, "best_loss": 0.5, "best_epoch": 1, "finished": draw(st.booleans())}
    callbacks = {"Checkpoints": state}
    if how == "settings":
        callbacks = changed(draw, callbacks)
    elif how == "objects":
        callbacks = with_object(draw, callbacks)
    kinds = st.sampled_from(({}, {"out_channels": 1}))
    return saved(checkpoint_content(**draw(kinds)) | {"callbacks": callbacks})


def with_pickle(content, at, opcodes, lying):
    """A checkpoint whose pickle is changed at a place, in an archive whose checksums are right.

    lying: the archive's directory gives sizes that are not those of its members
    """
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(file, "w") as target:
        for name in source.namelist():
            stored = source.read(name)
            if name.endswith("data.pkl"):
                stored = stored[:at] + opcodes + stored[at + len(opcodes) :]
            target.writestr(name, stored)
    packed = bytearray(file.getvalue())
    if lying:
        directory = packed.rfind(b"PK\x01\x02")
        struct.pack_into("<2I", packed, directory + 20, 2**31, 2**31 + at)
    return bytes(packed)


def read_model(path):
    """Describe a network, load it and let it score a few voxels."""
    import torch

    from inspect_model import inspect_model

    asked = {"in_channels": None, "spatial_dims": None}
    inspect_model(path, path.with_name("model.json"), settings=asked)
    network = load_network(path)
    sizes = network.sizes
    with torch.inference_mode():
        network(torch.zeros(1, sizes.in_channels, *(sizes.stride,) * sizes.spatial_dims))


def read_pretrained(path):
    """Begin a training with a checkpoint, and write down and store what becomes of its settings."""
    import torch
    from lightning.pytorch.loggers import TensorBoardLogger

    from cryoseg.fine_tuning import starting_network
    from cryoseg.training import SegmentationTraining
    from train_model import write_settings
    from training_jobs import configuration

    config = configuration(network={"dense_dim": 5, "filters": [5, 6]})
    network, backbone_config = starting_network(config, path)
    write_settings(path.parent, config, backbone_config, path, [])
    module = SegmentationTraining(network, config, backbone_config)
    TensorBoardLogger(path.parent, None, "run_1").log_hyperparams(module.hparams_initial)
    model = path.with_name("trained.ckpt")
    content = {"state_dict": network.state_dict(), "hyper_parameters": dict(module.hparams)}
    torch.save(content, model)
    torch.load(model, weights_only=True)  # so of plain values and tensors alone
    assert all(
        torch.equal(weights, network.state_dict()[name])
        for name, weights in load_network(model).state_dict().items()
    )


def read_last(path):
    read_callback_state(path, "Checkpoints")


def read_start(path):
    """Decide how a training of RUN starts where this is its last.ckpt; take the weights if so."""
    from cryoseg.fine_tuning import load_weights
    from cryoseg.resuming import find_start
    from networks import random_network

    for continued in (False, True):
        folder = path.with_name(f"continued {continued}")
        folder.mkdir()
        shutil.copyfile(path, folder / "last.ckpt")
        start = find_start(folder, RUN, continued)
        if start.weights:
            load_weights(random_network(), start.weights)


def names_last(path, said):
    """Whether a message names the last.ckpt of a training, or the name that it was given."""
    return str(path.with_name("continued True") / "last") in said


# HDF5 files

# A pipe of this name lies beside each file: who follows a link to it waits, which is noticed.
ELSEWHERE = "elsewhere.h5"
ODD_DTYPES = (
    "?", "i1", "u1", "<u2", ">i4", "i8", "u8", "<f2", ">f4", "f8", "f16", "c8", "S3", "V4",
    "a mapping", "texts", "lists", "references", "an enumeration",
)  # fmt: skip
ODD_ATTRIBUTES = (
    0, -1, 2**63, 1e308, float("nan"), float("inf"), True, "", "ä", "{}", "[1]", "7", '{"data": 1}',
    50000 * "[", 60000 * "x", b"\xff", (1, 2), (1.0, float("nan"), -2.0), ((1, 2, 3),) * 2,
    ("a", "b", "c"), np.zeros(0), np.zeros((0, 3)), np.void(b"ab"), 1 + 2j, None,
)  # fmt: skip


def hdf5_dtype(name):
    """The type of a name of ODD_DTYPES."""
    import h5py

    special = {
        "a mapping": np.dtype([("a", "u1"), ("b", "f4")]),
        "texts": h5py.string_dtype(),
        "lists": h5py.vlen_dtype(np.uint8),
        "references": h5py.ref_dtype,
        "an enumeration": h5py.enum_dtype({"OUT": 0, "IN": 1}, "i1"),
    }
    return special[name] if name in special else np.dtype(name)


def put_odd(draw, file, name):
    """Put something else where an open HDF5 file has a dataset."""
    import h5py

    old = file[name]
    shape, values = old.shape, old[()]
    del file[name]
    wild = st.tuples(*(st.integers(0, 7) for _ in shape)).map(tuple)
    how = draw(
        st.sampled_from(("dtype", "dtype", "shape", "values", "huge", "missing", "group", "null",
                         "scalar", "soft", "external", "virtual", "raw", "filter", "chunks"))
    )  # fmt: skip
    if how == "dtype":
        dtype = hdf5_dtype(draw(st.sampled_from(ODD_DTYPES)))
        plain = dtype.kind in "biuf" and not h5py.check_enum_dtype(dtype)
        with np.errstate(all="ignore"):
            file.create_dataset(name, shape, dtype, data=values.astype(dtype) if plain else None)
    elif how == "shape":
        file.create_dataset(name, draw(wild), old.dtype if old else values.dtype)
    elif how == "values":
        odd = draw(st.sampled_from((255, 254, 3, 1)))
        file[name] = np.where(np.arange(values.size).reshape(shape) % 7, values, odd).astype(
            values.dtype
        )
    elif how == "huge":
        edge = draw(st.sampled_from((2**14, 2**20, 2**31, 2**62)))
        size = (*shape[:-1], edge) if edge > 2**20 else (edge,) * len(shape)
        file.create_dataset(name, size, values.dtype, chunks=(1,) * len(shape))
    elif how == "group":
        file.create_group(name)
    elif how == "null":
        file[name] = h5py.Empty(values.dtype)
    elif how == "scalar":
        file[name] = 7
    elif how == "soft":
        file[f"other {name}"] = values
        where = (name, f"/other {name}", "nothing", "/")
        file[name] = h5py.SoftLink(draw(st.sampled_from(where)))
    elif how == "external":
        where = draw(st.sampled_from((ELSEWHERE, "/etc/passwd", "nothing.h5")))
        file[name] = h5py.ExternalLink(where, name)
    elif how == "virtual":
        layout = h5py.VirtualLayout(shape, values.dtype)
        layout[...] = h5py.VirtualSource(ELSEWHERE, name, shape)
        file.create_virtual_dataset(name, layout)
    elif how == "raw":
        where = draw(st.sampled_from((ELSEWHERE, "/etc/passwd")))
        file.create_dataset(name, shape, values.dtype, external=[(where, 0, values.nbytes)])
    elif how == "filter":
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk(shape)
        number = draw(st.sampled_from((300, 305, 511, 32000, 40000)))
        settings.set_filter(number, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple(shape)
        kind = h5py.h5t.py_create(values.dtype)
        h5py.h5d.create(file.id, name.encode(), kind, space, settings)
    elif how == "chunks":
        edge = draw(st.sampled_from((7, 300, 1024)))
        free = (None,) * len(shape)
        file.create_dataset(name, shape, values.dtype, chunks=(edge,) * len(shape), maxshape=free)


def with_oddities(draw, file):
    """Change up to two things in an open HDF5 file: datasets and attributes."""
    for _ in range(draw(st.sampled_from((0, 0, 0, 1, 1, 2)))):
        names = sorted(n for n in file if _is_plain(file, n) and not n.startswith("other"))
        if names and draw(st.booleans()):
            put_odd(draw, file, draw(st.sampled_from(names)))
        elif draw(st.booleans()):
            file.require_dataset(draw(st.sampled_from(("a\nb", "é", "notes"))), (3,), "f4")
        else:
            name = draw(st.sampled_from((*sorted(file.attrs), "voxel_size", "origin")))
            file.attrs.pop(name, None)
            value = draw(st.sampled_from(ODD_ATTRIBUTES))
            if value is not None:
                file.attrs[name] = value


def _is_plain(file, name):
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return False
    there = file[name]
    if not isinstance(there, h5py.Dataset) or there.is_virtual or there.external:
        return False
    return there.ndim in (2, 3, 4) and 0 < there.size < 10**5 and there.dtype.kind in "biuf"


def in_memory(write):
    """The bytes of an HDF5 file that write(file) fills."""
    import h5py

    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()


@st.composite
def label_file(draw):
    """A file of masks or labels, as others or as we write them, with up to two odd things in it."""

    def write(file):
        dtype = hdf5_dtype(draw(st.sampled_from(("u1", "u1", "i1", "<u2", ">i2", "f4", "?"))))
        values = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, SHAPE).astype(dtype)
        packed = draw(st.sampled_from((None, "gzip", "lzf")))
        file.create_dataset("labels", data=values, compression=packed)
        if draw(st.booleans()):
            file.attrs["voxel_size"] = (10.0, 10.0, 10.0)
        with_oddities(draw, file)

    return in_memory(write)


SCORED = {"data": {"min": 0, "max": 1, "mean": 0, "std": 1}}


@st.composite
def scores_file(draw):
    """A file of scores, with up to two odd things in it."""
    from cryoseg.scores import ScoresWriter

    channels = draw(st.sampled_from((1, 2, 4)))
    chance = np.random.default_rng(draw(st.integers(0, 9)))
    attributes = {name: (0.0, 0.0, 0.0) for name in ("voxel_size", "origin", "nstart")}
    attributes |= {"settings": SCORED, "versions": {}, "inputs": {}, "checkpoint_sha256": "ab"}
    content = io.BytesIO()
    keep = {name: draw(st.booleans()) for name in ("probabilities", "distances", "runners_up")}
    with ScoresWriter(content, SHAPE, channels, attributes, **keep) as writer:
        for dataset in writer.file.values():
            most = channels if dataset.dtype == np.uint8 else 60000
            dataset[...] = chance.integers(0, most, dataset.shape)
        with_oddities(draw, writer.file)
    return content.getvalue()


@st.composite
def patch_file(draw):
    """A file of patches, with up to two odd things in it."""
    from cryoseg.patches import INTEGERS, INTENSITIES, PatchWriter, patch_corners

    channels = draw(st.sampled_from((1, 3)))
    corners = patch_corners("t", SHAPE, (4, 4, 4), 0.5)
    counts = np.ones((len(corners), channels), int)
    about = {"voxel_size": (10.0, 10.0, 10.0), "intensities": (0.0, 1.0)}
    volume = np.random.default_rng(draw(st.integers(0, 9))).integers(0, 3, SHAPE)
    content = io.BytesIO()
    with PatchWriter(content, "t", SHAPE, (4, 4, 4), corners, counts, about) as writer:
        writer.write("image", volume.astype(np.float32), INTENSITIES)
        if draw(st.booleans()):
            writer.write("noisy", volume.astype(np.float16), INTENSITIES)
        writer.write("labels", volume.astype(np.uint8), INTEGERS)
        distances = np.repeat(volume[None].astype(np.int8), channels, 0)
        writer.write("distances", distances, INTEGERS)
        with_oddities(draw, writer._file)
    return content.getvalue()


LABEL_DEMANDS = {
    "predict_a": {"section": "predict", "min": 0, "max": 1},
    "train_a": DEMANDS["train_a"] | {"filtered": True, "selected_labels": [1, 2]},
    "evaluate_a": {"section": "evaluate", "classes": 3},
}


def tomogram_beside(path):
    """A good tomogram of SHAPE beside a file, and a pipe that no link may lead into."""
    from cryoseg.volumes import write_mrc

    os.mkfifo(path.with_name(ELSEWHERE))
    tomogram = path.with_name("t.mrc")
    values = np.linspace(0, 1, np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
    write_mrc(tomogram, values, voxel_size=10.0)
    write_mrc(path.with_name("true.mrc"), (values > 0.5).astype(np.uint8), voxel_size=10.0)
    return tomogram


def read_labels(path):
    """All that the workflow does with masks and labels: each reader answers by itself."""
    from cryoseg.label_volumes import FilteredLabels, count_values, merge_masks, new_labels
    from evaluate_labels import evaluate_labels

    tomogram = tomogram_beside(path)
    evaluation = {"tolerance_nm": 1.0, "class_names": None, "stages": ["a", "b"], "particles": None}

    def check():
        companions = dict.fromkeys(LABEL_DEMANDS, path)
        found = check_tomogram(tomogram, "t", LABEL_DEMANDS, companions).findings
        unjudged = [each for each in found if "cannot be judged" in each.sentence]
        assert not unjudged, unjudged

    def mask():
        for shape in (SHAPE, (5, 9, 6)):
            open_mask(path, shape)[slice(0, 4), slice(0, 5), slice(1, 6)]

    def filtering():
        volume = open_label_volume(path)
        FilteredLabels(volume, new_labels(path, count_values(volume), [1, 2], True))[slice(0, 2)]

    def merging():
        merge_masks({1: open_label_volume(path), 2: open_label_volume(path)}, rim=1.0)

    def evaluating():
        good, table = path.with_name("true.mrc"), path.with_name("t_evaluation.tsv")
        for found, true in ((path, good), (good, path), (path, path)):
            evaluate_labels(found, true, table, mask=path, compared=[path], settings=evaluation)

    each_answers(path, check, mask, filtering, merging, evaluating)


def each_answers(path, *readers):
    """Call the readers one after the other; raises the first InputError, once all have answered."""
    refused = []
    for read in readers:
        try:
            read()
        except InputError as error:
            refused.append(error)
    unnamed = [str(error) for error in refused if str(path) not in str(error)]
    assert not unnamed, f"messages name no file: {unnamed}"
    if refused:
        raise refused[0]


def read_scores(path):
    """What the steps after scoring do with its file."""
    from cryoseg.prediction_tally import count_prediction
    from cryoseg.scores import open_scores
    from label_voxels import label_voxels

    tomogram = tomogram_beside(path)
    settings = {"threshold": None, "postprocessing": False, "3d_postprocessing": False,
                "postprocessing_sizes": {1: 3}}  # fmt: skip

    def labelling():
        with open_scores(path) as scores:
            internal = "probs" in scores and "distances" in scores
        label_voxels(
            path, tomogram, path.with_name("t_preds.h5"), mrc=path.with_name("t_preds.mrc"),
            settings=settings | {"save_internal_files": internal}, scored=SCORED,
        )  # fmt: skip

    def counting():
        with open_scores(path) as scores:
            labels = np.ones(scores["probability"].shape, np.uint8)
            count_prediction(labels, scores)

    each_answers(path, labelling, counting)


def read_patches(path):
    """What a training does with a file of patches."""
    from cryoseg.patches import PatchFile

    tomogram_beside(path)
    patches = PatchFile(path)
    for number in range(len(patches)):
        for read in (patches.image, patches.noisy, patches.labels, patches.distances):
            read(number)


class TooFewError(Exception):
    """So few inputs can be read that the code behind reading is hardly tried."""


class CrashError(Exception):
    """The interpreter itself died over a file."""


class Apart:
    """Reads files in another process, so that a crash is seen; a new one follows each crash.

    Whoever waits for it looks at the time, and ends it.

    seconds: of a processor that it took for all files so far
    """

    def __init__(self, read):
        self.read, self._process, self.seconds = read, None, 0.0
        self._before = 0.0  # what the processes waited that have ended

    def queued(self):
        """As the function of that name, of both processes."""
        both = ["self"] if self._process is None else ["self", self._process.pid]
        waited = [queued(each) for each in both]
        return None if None in waited else sum(waited) + self._before

    def __call__(self, path):
        if self._process is None:
            with DEEDS.unheard():
                self._begin()
        try:
            self._pipe.send((path, os.getcwd()))
            outcome, said, done, seconds = self._pipe.recv()
        except BaseException as error:
            self._before += queued(self._process.pid) or 0.0
            self._process.kill()
            self._process.join()
            status, self._process = self._process.exitcode, None
            if isinstance(error, (EOFError, ConnectionError)):
                raise CrashError(f"the process that read it ended with {status}") from error
            raise
        DEEDS.found += done
        self.seconds += seconds
        if outcome == "refused":
            raise InputError(said)
        assert outcome == "read", said

    def _begin(self):
        context = multiprocessing.get_context("fork")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=self._answer, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def _answer(self, pipe):
        """What the other process does: read what it is told to, tell how that ended and its deeds.

        The interpreter that waits is told of nothing that this one does.
        """
        while True:
            (path, here), started = pipe.recv(), time.process_time()
            os.chdir(here)
            DEEDS.begin(path.parent)
            try:
                self.read(path)
                outcome, said = "read", ""
            except InputError as error:
                outcome, said = "refused", str(error)
            except BaseException:
                outcome, said = "failed", traceback.format_exc()
            done = DEEDS.end()
            pipe.send((outcome, said, done, time.process_time() - started))


# The campaign

TARGETS = {
    "mrc": Target(mrc_contents(), read_mrc, ".mrc", least=1 / 4),
    "star": Target(mostly(STAR_TABLES), read_places, ".star", least=1 / 4),
    "csv": Target(mostly(CSV_TABLES), read_places, ".csv", least=1 / 4),
    "yaml": Target(
        yaml_contents(), read_configurations, ".files", names_a_configuration, least=1 / 3
    ),
    "yaml text": Target(
        st.one_of(
            odd_yaml(), damaged(odd_yaml()), growing_yaml(), st.binary(max_size=300),
            st.text(max_size=300).map(str.encode),
        ),
        read_any_yaml,
        ".yaml",
    ),
    "checkpoint": Target(checkpoint_contents(), read_model, ".ckpt", least=1 / 3),
    "pretrained": Target(
        checkpoint_contents(pretrained=True), read_pretrained, ".ckpt", least=1 / 3
    ),
    "last checkpoint": Target(checkpoint_contents(), read_last, ".ckpt"),
    "last of a run": Target(last_contents(), read_start, ".ckpt", names_last, least=1 / 3),
    "labels": Target(label_file(), Apart(read_labels), "_preds.h5", least=1 / 3),
    "scores": Target(scores_file(), Apart(read_scores), "_scores.h5", least=1 / 3),
    "patches": Target(patch_file(), Apart(read_patches), "_patches.h5", least=1 / 3),
    "labels bytes": Target(damaged(label_file()), Apart(read_labels), "_preds.h5"),
    "scores bytes": Target(damaged(scores_file()), Apart(read_scores), "_scores.h5"),
    "patches bytes": Target(damaged(patch_file()), Apart(read_patches), "_patches.h5"),
}  # fmt: skip


# The working folder of a campaign, in that of its files.
HERE = "here"


def trial(target, folder, counts, **options):
    """A hypothesis test that makes one input of a target in a folder and reads it.

    counts:  {read, refused, slowest, longest}, counted further by it: the latter two are seconds of
             a processor, and as Spent counts them
    options: of hypothesis.settings
    """
    settings = hypothesis.settings(
        database=None,
        deadline=None,
        # To explain a find, each line that runs would be noted, which makes reading slow.
        phases=[each for each in hypothesis.Phase if each is not hypothesis.Phase.explain],
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=True,
        print_blob=False,
        **options,
    )

    @settings
    @hypothesis.given(target.contents)
    def try_one(content):
        with tempfile.TemporaryDirectory(dir=folder) as own:
            path = Path(own) / f"input{target.ending}"
            path.write_bytes(content)
            started = processor_seconds(target)
            spent = Spent(getattr(target.read, "queued", queued))
            outcome = "read" if answered(target.read, path, target.names) else "refused"
            counts[outcome] += 1
            counts["slowest"] = max(counts["slowest"], processor_seconds(target) - started)
            counts["longest"] = max(counts["longest"], spent.seconds)
        left = [*os.listdir(folder), *os.listdir()]
        assert left in ([], [HERE]), f"written outside: {left}"

    return try_one


def nothing_yet():
    """What trial counts, at its beginning."""
    return {"read": 0, "refused": 0, "slowest": 0.0, "longest": 0.0}


def processor_seconds(target):
    """Of this process, and of the one in which a target's files are read."""
    apart = target.read.seconds if isinstance(target.read, Apart) else 0.0
    return time.process_time() + apart


def campaign(target, examples, seed, folder):
    """Try so many inputs of a target in a folder; returns {answer: how many}.

    Raises what a reader raised that was no InputError, with the smallest input that does so.
    """
    counts = nothing_yet()
    here = Path(folder, HERE)
    here.mkdir()
    with chdir(here):  # where what a C library writes by a relative path is found
        hypothesis.seed(seed)(trial(target, folder, counts, max_examples=examples))()
    if counts["read"] < target.least * sum(counts[each] for each in ("read", "refused")):
        raise TooFewError(f"too few of the inputs can be read: {counts}")
    assert counts["longest"] <= SECONDS, counts
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=2000, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default=",".join(TARGETS), help="kinds, with commas between")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    np.seterr(all="ignore")
    print(f"{'kind':16}    tried     read  refused  processor s longest s", flush=True)
    total, longest = 0, 0.0
    for name in options.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            counts = campaign(TARGETS[name], options.examples, options.seed, folder)
        tried = counts["read"] + counts["refused"]
        total, longest = total + tried, max(longest, counts["longest"])
        print(f"{name:16} {tried:8} {counts['read']:8} {counts['refused']:8}", end="  ")
        print(f"{counts['slowest']:9.2f} {counts['longest']:9.2f}", flush=True)
    print(f"{total} inputs, each read or refused with the reason (seed {options.seed}),", end=" ")
    print(f"none after more than {longest:.2f} s, where {SECONDS} are a hang")


if __name__ == "__main__":
    main()

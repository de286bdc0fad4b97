"""Volumes on disk: MRC files that are mapped, not loaded, masks, and outputs written aside."""

import errno
import filecmp
import hashlib
import logging
import math
import mmap
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import numpy as np
from mrcfile import utils as mrc_format

import cryoseg
from cryoseg import mrc_headers
from cryoseg.errors import InputError, brief, quoted
from cryoseg.folders import FULL, REFUSED, folder_gone, not_writable
from cryoseg.hdf5_files import damage_named, open_hdf5, volume_in
from cryoseg.process_identity import number_is_taken, place_of_numbers

logger = logging.getLogger(__name__)

# A slab small enough for any machine, large enough that Python's own time does not count.
SLAB_BYTES = 32 * 2**20
ANGSTROM3_PER_NM3 = 1000
# A disk with fewer bytes than these is full.
FULL_BELOW = 2**16
# Attributes of an HDF5 file that say where it lies, and what may hold three numbers.
PLACE, NUMBERS = ("voxel_size", "origin", "nstart"), (np.generic, tuple, int, float)
# Slabs are thinner than chunks: a layer of chunks that is kept is decompressed once, not for each.
LAYER_CACHE = {"rdcc_nbytes": 64 * 2**20, "rdcc_nslots": 10007}


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume and where it lies in space; slice it, ``volume[z, y, x]``, to read voxels.

    data:       Z x Y x X, mapped from the file, in the file's own type and byte order
    voxel_size: (z, y, x) in Angstrom, as the header has it; see is_known_size
    origin:     (x, y, z) as the header has it, in Angstrom
    nstart:     (x, y, z) as the header has it, in voxels
    path:       the file
    mapping:    the memory map that ``data`` views; None for an array in memory
    """

    data: np.ndarray = field(repr=False)
    voxel_size: tuple[float, float, float]
    origin: tuple[float, float, float]
    nstart: tuple[int, int, int]
    path: Path
    mapping: mmap.mmap | None = field(default=None, repr=False)

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype.newbyteorder("=")

    def __getitem__(self, box):
        """A copy of the voxels of ``box``: one slice (along Z) or three, steps not below 1.

        The pages that were mapped to read them are given back: through ``data`` alone, a process
        that walks through a tomogram ends up as large as the tomogram.
        """
        along_z, *within = np.index_exp[box]
        sections = range(*along_z.indices(self.shape[0]))
        # The sizes are worked out, as a dataset's data[0] would be read from the file.
        within = (*within, slice(None), slice(None))[:2]
        sizes = [
            len(range(*part.indices(n))) for part, n in zip(within, self.shape[1:], strict=True)
        ]
        voxels = np.empty((len(sections), *sizes), self.dtype)
        for part in slabs((len(sections), *self.shape[1:]), self.dtype.itemsize):
            some = sections[part]
            voxels[part] = self.data[(slice(some.start, some.stop, some.step), *within)]
            if self.mapping is not None:
                self.mapping.madvise(mmap.MADV_DONTNEED)
        return voxels


def is_known_size(voxel_size):
    """Whether a voxel size (z, y, x), as files have it, is one: finite and above 0 on each axis."""
    return all(math.isfinite(size) and size > 0 for size in voxel_size)


def voxel_nm3(voxel_size):
    """Volume of a voxel in nm^3 from its (z, y, x) in Angstrom; None where that is unknown."""
    return math.prod(voxel_size) / ANGSTROM3_PER_NM3 if is_known_size(voxel_size) else None


def slabs(shape, voxel_bytes=4):
    """Slices along Z that cut a volume into pieces of about 32 MiB, one section at least."""
    depth = max(1, SLAB_BYTES // max(1, shape[1] * shape[2] * voxel_bytes))
    for start in range(0, shape[0], depth):
        yield slice(start, min(start + depth, shape[0]))


def open_volume(path):
    """Map the MRC volume at ``path`` (whatever its extension) into memory, read-only.

    Modes 0, 1, 2, 6 and 12 are read; bytes are signed unless IMOD's stamp says otherwise.
    Small faults of the header are logged as warnings.
    Raises InputError for a file that is missing, empty, truncated or no real-valued volume.
    """
    path = Path(path)
    header, byte_count = mrc_headers.read_header(path)
    dtype = mrc_headers.voxel_type(path, header)
    shape = mrc_headers.volume_shape(path, header)
    start = header.nbytes + int(header.nsymbt)
    expected = start + dtype.itemsize * math.prod(shape)  # of a damaged header, beyond 64 bits
    if byte_count < expected:
        raise InputError(
            f"{path}: the file is truncated: {shape[0]} x {shape[1]} x {shape[2]} voxels of "
            f"{dtype.name} need {expected} bytes, the file has {byte_count}; copy it anew"
        )
    if byte_count > expected:
        logger.warning("%s: %d bytes after the data are ignored", path, byte_count - expected)
    with open(path, "rb") as file:
        try:
            mapping = mmap.mmap(file.fileno(), expected, access=mmap.ACCESS_READ)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            raise MemoryError(f"{path}: tried to allocate {expected} bytes to map it") from error
    return Volume(
        data=np.ndarray(shape, dtype, mapping, start),
        mapping=mapping,
        voxel_size=mrc_headers.voxel_size(header),
        origin=tuple(float(header.origin[axis]) for axis in "xyz"),
        nstart=tuple(int(header[f"n{axis}start"]) for axis in "xyz"),
        path=path,
    )


def write_mrc(path, data, like=None, voxel_size=None, about=()):
    """Write a volume as MRC, slab by slab; the file appears at ``path`` when it is complete.

    data:       Z x Y x X, anything that slices (array, memory map, HDF5 dataset); float16 and
                float32, int16, uint16 and int8 keep their type; uint8 and bool become mode 0,
                as IMOD and ChimeraX expect of labels, or mode 6 where a value exceeds 127
    like:       the Volume whose voxel size, origin and nstart the file gets
    voxel_size: (z, y, x) in Angstrom, or one number; wins over that of ``like``
    about:      lines for the header's text, of at most 80 characters, nine at most
    """
    dtype = _stored_type(data)
    with written_aside(path, 1024 + math.prod(data.shape) * dtype.itemsize) as aside:
        # Lays out the header; the data block is a hole in the file until it is filled.
        with mrcfile.new_mmap(aside, data.shape, mrc_format.mode_from_dtype(dtype)) as mrc:
            header = mrc.header.copy()
        # Without the time: the same input, the same file.
        lines = [f"Written by cryoseg {cryoseg.__version__}", *about]
        header.label[: len(lines)] = lines
        header.nlabl = len(lines)
        _place(header, like, voxel_size)
        with open(aside, "r+b") as file:
            file.seek(header.nbytes)
            statistics = _write_slabs(file, data, dtype)
            for name, value in zip(("dmin", "dmax", "dmean", "rms"), statistics, strict=True):
                header[name] = value
            file.seek(0)
            file.write(header.tobytes())


def _stored_type(data):
    dtype = np.dtype(data.dtype)
    if dtype not in (np.dtype(np.uint8), np.dtype(bool)):
        return dtype.newbyteorder("<")
    largest = max(int(np.max(data[piece])) for piece in slabs(data.shape, 1))
    return np.dtype(np.int8 if largest <= 127 else "<u2")


def _place(header, like, voxel_size):
    """Write voxel size, origin and nstart into the header."""
    if like is not None:
        voxel_size = like.voxel_size if voxel_size is None else voxel_size
        for axis, origin, start in zip("xyz", like.origin, like.nstart, strict=True):
            header.origin[axis] = origin
            header[f"n{axis}start"] = start
    if voxel_size is not None:
        for axis, size in zip("zyx", np.broadcast_to(voxel_size, 3), strict=True):
            header.cella[axis] = size * header[f"n{axis}"]


def _write_slabs(file, data, dtype):
    """Append the voxels to the open file; returns minimum, maximum, mean and deviation."""
    count, mean, square_sum = 0, 0.0, 0.0
    low, high = np.inf, -np.inf
    for piece in slabs(data.shape, dtype.itemsize):
        slab = np.ascontiguousarray(data[piece], dtype=dtype)
        file.write(slab.data)
        low, high = min(low, slab.min()), max(high, slab.max())
        # Chan, Golub and LeVeque's update: no cancellation where the mean is large.
        slab_mean = slab.mean(dtype=np.float64)
        shift = slab_mean - mean
        share = slab.size / (count + slab.size)
        square_sum += slab.var(dtype=np.float64) * slab.size + shift**2 * count * share
        mean += shift * share
        count += slab.size
    return low, high, mean, np.sqrt(square_sum / count)


# {whole path: what is to get this name, once it is written, or None} for Waiting, and the working
# folder when it began, as that may get another name meanwhile.
_waiting, _here = {}, ""


def _whole(path):
    return os.path.normpath(os.path.join(_here, path))


class Waiting:
    """Files that are written aside for some paths and wait for their names; see names_waiting."""

    def __init__(self, paths):
        global _here
        if not _waiting:
            _here = os.getcwd()
        self._wholes = {_whole(path): path for path in paths}
        _waiting.update(dict.fromkeys(self._wholes))

    def __iter__(self):
        """The paths for which files wait."""
        return iter([path for whole, path in self._wholes.items() if _waiting[whole]])

    def place_of(self, path):
        """Where the file of a path is now: aside, or where it was not written aside, the path."""
        return _waiting.get(_whole(path)) or path

    def name(self, path, over=None):
        """Give the file of a path its name.

        over: stamp_of_file of the one that may be replaced
        Raises FileExistsError where another one with other bytes has it, which is to stay, and
        InputError as written_aside does.
        """
        aside, path = self.place_of(path), Path(path)
        try:
            if over is not None and stamp_of_file(path) == over:
                os.replace(aside, path)
            else:
                _name_anew(aside, path)
        except FileExistsError:
            raise
        except FileNotFoundError as error:
            raise InputError(what_was_written_is_gone(path)) from error
        except OSError as error:
            if reason := _why_not_written(error, path, (aside,), None):
                raise InputError(reason) from error
            raise
        self._drop(_whole(path))

    def drop_all(self):
        for whole in self._wholes:
            self._drop(whole)
            del _waiting[whole]

    def _drop(self, whole):
        if aside := _waiting[whole]:
            with suppress(OSError):  # as for written_aside
                aside.unlink()
        _waiting[whole] = None


@contextmanager
def names_waiting(paths):
    """Let files that are written aside for these paths in the block wait for their names.

    Yields them as Waiting. Those that have got no name at the end are gone.
    """
    files = Waiting(paths)
    try:
        yield files
    finally:
        files.drop_all()


def _name_anew(aside, path):
    """Give a file a name that no file has, or one of the same bytes; else FileExistsError."""
    try:
        os.link(aside, path)  # renaming would replace what is there
    except FileExistsError:
        if not (path.is_file() and filecmp.cmp(aside, path, shallow=False)):
            raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(aside, path)


def stamp_of_file(path):
    """What is another value once a file is replaced or written to; None where there is none."""
    try:
        return stamp_of_status(os.stat(path))
    except FileNotFoundError:
        return None


def stamp_of_status(status):
    """As stamp_of_file, of what os.stat tells."""
    return status.st_ino, status.st_size, status.st_mtime_ns


def mtime_of_stamp(stamp):
    """The time of change that a stamp_of_file has, in nanoseconds since 1970."""
    return stamp[2]


def what_was_written_is_gone(path):
    """What to tell of a file that was written aside for a path, and was taken away since."""
    if not os.path.isdir(os.path.dirname(path) or "."):
        return folder_gone(path)
    return (
        f"{path}: what was written for it is gone; see that nobody removes it or its folder while "
        "a run works there, then give the same command again"
    )


def put_there(path):
    """What to tell of a file of others that lies where a job is about to leave its own."""
    return (
        f"{path}: put there by others while this job ran, which would replace it; move it to "
        "another folder, then give the same command again"
    )


@contextmanager
def written_aside(path, byte_count=None):
    """Yield a path to write to; the file gets its own name when complete, see names_waiting too.

    byte_count: how large the file will be, where that is known

    The name of the yielded path ends as that of ``path`` does. It lies in the same folder, or in
    the folder that the environment variable CRYOSEG_SCRATCH names (a node's own disk, as in
    ``$TMPDIR``), from where it is copied in one go. After an exception nothing is left, and what
    stood at ``path`` before still stands there. Raises InputError where the disk is full, or where
    the folder cannot be written to.
    """
    path, whole, waits = Path(path), _whole(path), False
    aside = path.with_name(_aside_name(path.name))
    written = (_scratch_folder() or path.parent) / aside.name
    try:
        for folder in {aside.parent, written.parent}:
            _remove_orphans(folder, path.name)
        yield written
        if written != aside:
            shutil.copyfile(written, aside)
        with open(aside, "rb") as file:
            os.fsync(file.fileno())
        if waits := whole in _waiting:
            _waiting[whole] = aside
        else:
            os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        if reason := _why_not_written(error, path, (aside, written), byte_count):
            raise InputError(reason) from error
        raise
    finally:
        for each in {aside, written} - ({aside} if waits else set()):
            with suppress(OSError):  # such as that its folder is gone, with all that was in it
                each.unlink()


def _why_not_written(error, path, places, byte_count):
    """What a user must mend for a file to be written, or None where the error is another one.

    places: where it is written to, last of all where it begins
    """
    number = getattr(error, "errno", None)
    there = [each for each in places if os.path.exists(each)]  # where one may look
    folder = there[-1].parent if there else path.parent
    begun = [each.stat() for each in set(there) if each.parent == folder]
    held = sum(status.st_size for status in begun)
    free = shutil.disk_usage(folder).free if os.path.isdir(folder) else 0
    # HDF5 tells the system's number within its message, PyTorch tells none at all.
    told = any(f"errno = {each}," in str(error) for each in FULL)
    silent = isinstance(error, RuntimeError) and os.path.isdir(folder) and free < FULL_BELOW
    # What was written in vain is taken away.
    free += sum(512 * status.st_blocks for status in begun)
    if number in FULL or told or silent:
        needed = f"{byte_count} bytes" if byte_count else _more_than(held, folder)
        if number == errno.EDQUOT or f"errno = {errno.EDQUOT}," in str(error):
            return (
                f"{path}: your quota is used up in {folder}: {needed} are needed; remove what you "
                "no longer need there, or have it raised, then give the same command again"
            )
        # Some libraries remove what they could not complete; what was free did not suffice.
        needed = needed if byte_count else _more_than(max(held, free), folder)
        return (
            f"{path}: no space is left in {folder}: {needed} are needed, {free} are free; make "
            "space, then give the same command again"
        )
    # HDF5 names the file within its message only, PyTorch neither the file nor the system's number.
    ours = getattr(error, "filename", None) in {str(each) for each in (*places, path, path.parent)}
    ours = ours or any(str(each) in str(error) for each in places)
    refused = isinstance(error, RuntimeError) and not os.access(path.parent, os.W_OK | os.X_OK)
    if not ours and not refused:
        return None
    if number in REFUSED:
        return not_writable(path, number)
    if not os.path.isdir(path.parent):
        return folder_gone(path)
    return not_writable(path, errno.EACCES) if refused else None


def _more_than(byte_count, folder):
    """How many bytes a file needs that did not get so many in a folder, in words."""
    if byte_count or not os.path.isdir(folder):
        return f"more than {byte_count} bytes"
    return f"at least {os.statvfs(folder).f_frsize} bytes"  # a block, for the smallest file too


@contextmanager
def copied_near(path):
    """Yield a path to read a file in pieces from: a copy on the node's own disk, if asked for.

    That is in the folder that CRYOSEG_SCRATCH names, as for ``written_aside``. Where it names none
    the file itself is read; also, and that is said, where there is no room or it cannot be copied.
    The copy goes at the end.
    """
    path = Path(path)
    folder = _scratch_folder()
    if folder and shutil.disk_usage(folder).free < 2 * path.stat().st_size:
        # As much is left for what is written there.
        logger.info("CRYOSEG_SCRATCH: %s has no room for a copy of %s", folder, path)
        folder = None
    if folder is None:
        yield path
        return
    _remove_orphans(folder, path.name)
    copy = folder / _aside_name(path.name)
    near = copy
    try:
        try:
            shutil.copyfile(path, copy)
        except OSError as error:  # such as that other jobs have filled the disk meanwhile
            logger.info("CRYOSEG_SCRATCH: %s is read where it lies, not copied: %s", path, error)
            near = path
        yield near
    finally:
        copy.unlink(missing_ok=True)


def _scratch_folder():
    """The folder that CRYOSEG_SCRATCH names, or None; said where it cannot be used."""
    asked = os.environ.get("CRYOSEG_SCRATCH", "")
    folder = os.path.expandvars(asked)
    if not asked or "$" in folder:  # a variable that this machine does not set
        return None
    if not os.access(folder, os.W_OK | os.X_OK):
        logger.info("CRYOSEG_SCRATCH: %s is no folder to write to on this machine", folder)
        return None
    return Path(folder)


def _aside_name(name, number=None):
    """Name of what a process writes until it gets ``name``; None stands for this process.

    On a shared file system, process numbers alone are not unique; nor are they beside containers.
    """
    where = hashlib.sha256(place_of_numbers().encode()).hexdigest()[:8]
    return f".{where}-{os.getpid() if number is None else number}-{name}"


def _remove_orphans(folder, name):
    """Remove what processes of this machine that were killed left of an earlier try."""
    begin, end = _aside_name(name, "/").split("/")  # which is in no name
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        number = entry.name[len(begin) : -len(end)]
        ours = entry.name.startswith(begin) and entry.name.endswith(end) and number.isdecimal()
        if ours and not number_is_taken(int(number)):
            with suppress(OSError):  # somebody else's, or another try was faster
                os.unlink(entry.path)


def open_mask(path, shape):
    """Open a mask of a tomogram of ``shape`` (Z, Y, X): dataset ``labels`` of an HDF5 file, or MRC.

    Returns something to slice, ``mask[z, y, x]`` with three slices, which reads what is asked
    for and gives uint8: 1 where the file has a whole number other than 0 (255 read as a signed
    byte is -1), or a real number of 0.5 or more, else 0. A mask of another size is
    resized by nearest neighbour, with a warning.
    Raises InputError where there is no such mask.
    """
    path = Path(path)
    stored = open_labels(path)
    if tuple(stored.shape) != tuple(shape):
        logger.warning(
            "%s: the mask is %s voxels, the tomogram %s; the mask is resized by nearest neighbour",
            path, " x ".join(map(str, stored.shape)), " x ".join(map(str, shape)),
        )  # fmt: skip
    return Mask(stored, tuple(shape))


def open_labels(path):
    """Open labels to slice: dataset ``labels`` of an HDF5 file (.h5, .hdf5), or an MRC volume.

    Returns an array-like, Z x Y x X, read where it is sliced; InputError if there is none.
    """
    path = Path(path)
    if path.suffix not in (".h5", ".hdf5"):
        return open_volume(path)
    file = open_hdf5(path, **LAYER_CACHE)
    labels = volume_in(file, path, "labels")
    if labels is None:
        there = quoted(sorted(map(str, file)))
        raise InputError(
            f"{path}: there is no dataset 'labels' but {there}; give a file of predictions"
        )
    return labels


def as_list(paths):
    """One path or several, as Snakemake hands them over, as a list."""
    return [paths] if isinstance(paths, (str, Path)) else list(paths)


def open_label_volume(path):
    """Open labels as a Volume, with their place in space: see open_labels for the files.

    An HDF5 file has its place in its attributes voxel_size (one number stands for all axes),
    origin and nstart, if anywhere; one that is not three finite numbers is unknown, 0, with a
    warning.
    """
    path = Path(path)
    if path.suffix not in (".h5", ".hdf5"):
        return open_volume(path)
    labels = open_labels(path)
    with damage_named(path):
        attributes = {name: labels.file.attrs.get(name, (0, 0, 0)) for name in PLACE}
    place = {name: _three_numbers(path, name, value) for name, value in attributes.items()}
    return Volume(data=labels, path=path, **place)


def _three_numbers(path, name, value):
    found = np.asarray(value) if isinstance(value, (np.ndarray, *NUMBERS)) else np.zeros(0)
    if name == "voxel_size" and found.size == 1:
        found = np.repeat(found, 3)
    if found.shape == (3,) and found.dtype.kind in "iuf" and np.isfinite(found).all():
        return tuple(found.tolist())
    logger.warning(
        "%s: attribute %s is %s; it needs three finite numbers, z, y, x, and counts as unknown",
        path,
        name,
        brief(value),
    )
    return (0, 0, 0)


class Mask:
    """A mask that is read where it is sliced; see open_mask."""

    dtype = np.dtype(np.uint8)
    ndim = 3

    def __init__(self, stored, shape):
        self._stored = stored
        self.shape = shape

    def __getitem__(self, slices):
        """Values of the box ``slices`` (three slices) as uint8, 0 or 1."""
        boxes, inner = [], []
        for wanted, old, new in zip(slices, self._stored.shape, self.shape, strict=True):
            index = nearest_index(np.arange(*wanted.indices(new)), old, new)
            first, last = (index.min(), index.max()) if index.size else (0, -1)
            boxes.append(slice(first, last + 1))
            inner.append(index - first)
        values = self._stored[tuple(boxes)]
        inside = values != 0 if values.dtype.kind in "iub" else values >= 0.5
        return inside.astype(np.uint8)[np.ix_(*inner)]


def nearest_index(index, old, new):
    """Nearest voxel of an axis with ``old`` voxels for voxel ``index`` of one with ``new``.

    The two axes have the same ends: floor((index + 0.5) * old / new), in whole numbers.
    """
    return (2 * index + 1) * old // (2 * new)

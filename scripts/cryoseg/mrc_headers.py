"""Headers of MRC files, read strictly where it matters and leniently where it does not."""

import logging

import numpy as np
from mrcfile import utils as mrc_format
from mrcfile.dtypes import HEADER_DTYPE

from cryoseg.errors import InputError

logger = logging.getLogger(__name__)

# https://bio3d.colorado.edu/imod/doc/mrc_format.txt, bytes 152 to 159
IMOD_STAMP = 1146047817
IMOD_SIGNED_BYTES = 1
# https://www.ccpem.ac.uk/mrc_format/mrc2014.php and IMOD's list, complex and packed ones included
MODES = (0, 1, 2, 3, 4, 6, 12, 16, 101)


def read_header(path):
    """Return the header (numpy record) and the size of the file in bytes; ``path`` is a Path.

    Small faults of the header are logged as warnings.
    Raises InputError for a file that is missing or too short to be an MRC file.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; check the folder and the name")
    byte_count = path.stat().st_size
    if byte_count < 1024:
        raise InputError(
            f"{path}: the file has {byte_count} bytes, an MRC header alone has 1024; copy it anew"
        )
    with open(path, "rb") as file:
        header = np.frombuffer(file.read(1024), HEADER_DTYPE).reshape(()).view(np.recarray)
    # Old programs leave these out, so their lack alone is no reason to refuse a file.
    if header.map.tobytes()[:3] != b"MAP":
        logger.warning("%s: the header lacks the letters MAP; is this an MRC file?", path)
    try:
        order = mrc_format.byte_order_from_machine_stamp(header.machst)
    except ValueError as error:
        logger.warning("%s: %s; little-endian is assumed", path, error)
        order = "<"
    return _in_order(path, header, order), byte_count


def _in_order(path, header, order):
    """The header in byte order ``order``, or in the other one where only that gives a mode."""
    swapped = ">" if order == "<" else "<"
    given, other = (header.view(header.dtype.newbyteorder(each)) for each in (order, swapped))
    if int(given.mode) not in MODES and int(other.mode) in MODES:
        logger.warning("%s: the machine stamp contradicts the mode; bytes are swapped", path)
        return other
    return given


def voxel_type(path, header):
    """numpy type of the voxels, byte order included.

    Bytes are signed unless IMOD's stamp says otherwise. Raises InputError for complex and
    unknown modes.
    """
    mode = int(header.mode)
    if mode in (3, 4):
        raise InputError(f"{path}: MRC mode {mode} holds complex numbers; give a real-space volume")
    try:
        dtype = mrc_format.data_dtype_from_header(header)
    except ValueError as error:
        raise InputError(
            f"{path}: MRC mode {mode} is not read (0, 1, 2, 6 and 12 are); "
            "convert the file, or check that it is an MRC file at all"
        ) from error
    stamp, flags = np.frombuffer(header.extra2.tobytes()[40:48], header.mode.dtype)
    if mode == 0 and stamp == IMOD_STAMP and not flags & IMOD_SIGNED_BYTES:
        logger.warning("%s: bytes are read as unsigned, as IMOD's flags in the header say", path)
        return np.dtype(np.uint8)
    return dtype


def volume_shape(path, header):
    """(Z, Y, X) in voxels; InputError for images, stacks of volumes and impossible sizes."""
    shape = tuple(int(header[name]) for name in ("nz", "ny", "nx"))
    size = " x ".join(map(str, shape))
    if min(shape) < 1 or int(header.nsymbt) < 0:
        raise InputError(f"{path}: the header gives a size of {size} voxels; copy the file anew")
    if mrc_format.spacegroup_is_volume_stack(header.ispg):
        raise InputError(f"{path}: this is a stack of volumes ({size}); give one volume per file")
    if header.ispg == 0 and shape[0] == 1:
        raise InputError(f"{path}: this is a single 2D image ({size}); give a volume")
    axes = tuple(int(header[name]) for name in ("mapc", "mapr", "maps"))
    if axes not in ((1, 2, 3), (0, 0, 0)):
        logger.warning("%s: axis order %s is ignored; slowest axis is taken as z", path, axes)
    return shape


def voxel_size(header):
    """(z, y, x) in Angstrom; 0 for an axis whose size the header does not know."""
    counts = [int(header[f"m{axis}"]) for axis in "zyx"]
    lengths = [float(header.cella[axis]) for axis in "zyx"]
    return tuple(
        length / count if count > 0 else 0.0 for length, count in zip(lengths, counts, strict=True)
    )

"""Positions of particles, read from STAR and CSV files and brought into the voxels of a tomogram.

RELION's conventions: a particle lies at coordinate minus origin (shift), and its three angles give
the matrix that turns the average's frame into the tomogram's. Voxel 0 has its middle at 0.
"""

import logging
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np

from cryoseg.errors import InputError, brief, shortened
from cryoseg.folders import nearest, some
from cryoseg.volumes import is_known_size

log = logging.getLogger("cryoseg")

# What STAR files call the axes, z first as everywhere here.
COORDINATES = ("rlnCoordinateZ", "rlnCoordinateY", "rlnCoordinateX")
CENTRED = tuple(f"rlnCenteredCoordinate{axis}Angst" for axis in "ZYX")
SHIFTS_ANGSTROM = tuple(f"rlnOrigin{axis}Angst" for axis in "ZYX")
SHIFTS_VOXELS = tuple(f"rlnOrigin{axis}" for axis in "ZYX")
ANGLES = tuple(f"rlnAngle{name}" for name in ("Rot", "Tilt", "Psi"))
# RELION 4 extracts subtomograms that are already turned; their shifts and angles count from there.
BOX_ANGLES = tuple(f"rlnTomoSubtomogram{name}" for name in ("Rot", "Tilt", "Psi"))
STAR_TOMOGRAMS = ("rlnTomoName", "rlnMicrographName")
STAR_CLASS = "rlnClassNumber"
CSV_COORDINATES = (("centroid-0", "centroid-1", "centroid-2"), ("z", "y", "x"))
CSV_TOMOGRAM, CSV_CLASS = "tomo", "semantic_class"
# What stands in the place of a coordinate that nobody knows.
NO_NUMBER = ("", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "None", "<NA>")
SEPARATORS = {".csv": ",", ".tsv": "\t"}
# What the names of tomograms in these files may end in. Only these are taken off: in
# TS_01_10.00Apx the part behind the point belongs to the name.
ENDINGS = (
    ".mrc",
    ".mrcs",
    ".rec",
    ".st",
    ".ali",
    ".map",
    ".em",
    ".hdf",
    ".h5",
    ".tomostar",
    ".star",
)
# Bytes of a file's name on any file system; what is longer is the name of none.
LONGEST_FILE_NAME = 255


@dataclass(frozen=True, eq=False)
class Positions:
    """Particles as a file has them; all arrays have a row per particle.

    path:            the file
    points:          (n, 3) z, y, x in voxels, or in Angstrom from the tomogram's middle if centred
    centred:         whether they are counted from the middle (RELION 5)
    shifts_angstrom: (n, 3) z, y, x, to be subtracted
    shifts_voxels:   (n, 3) the same in voxels
    turns:           (n, 3, 3) matrices that turn x, y, z of the average into x, y, z of the
                     tomogram; None where the file has no angles
    tomograms:       (n,) names as they stand in the file; None where it has none
    classes:         (n,) classes as text; None where the file has none
    """

    path: Path
    points: np.ndarray
    centred: bool
    shifts_angstrom: np.ndarray
    shifts_voxels: np.ndarray
    turns: np.ndarray | None = None
    tomograms: np.ndarray | None = None
    classes: np.ndarray | None = None

    def __len__(self):
        return len(self.points)

    def __getitem__(self, chosen):
        """The positions that a boolean array or a list of row numbers chooses."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {k: v[chosen] for k, v in values.items() if isinstance(v, np.ndarray)}
        return Positions(**values | arrays)

    def voxels(self, shape, voxel_size, coordinate_voxel_size=None):
        """Where the particles lie in a tomogram: (n, 3) z, y, x in its voxels.

        shape, voxel_size:     of the tomogram, z, y, x; in Angstrom, see is_known_size
        coordinate_voxel_size: Angstrom per voxel that the file's coordinates count in; None for
                               the tomogram's own
        Raises InputError where a voxel size is needed and not known.
        """
        in_angstrom = self.centred or self.shifts_angstrom.any() or coordinate_voxel_size
        if in_angstrom and not is_known_size(voxel_size):
            raise InputError(
                f"{self.path}: coordinates or shifts are in Angstrom or in other voxels, and the "
                "tomogram's header has no voxel size; write it into the header"
            )
        size = np.array(voxel_size) if is_known_size(voxel_size) else np.ones(3)
        scale = coordinate_voxel_size / size if coordinate_voxel_size else np.ones(3)
        points = (self.points - self.shifts_voxels) * scale
        if self.centred:
            # RELION divides the size as a real number: 5 voxels have their middle at 2.5.
            points = self.points / size + np.array(shape) / 2 - self.shifts_voxels * scale
        return points - self.shifts_angstrom / size


def read_positions(path):
    """Read a STAR file (.star) or a table (.csv, .tsv) with a line of column names.

    STAR: rlnCoordinateX/Y/Z or rlnCenteredCoordinateX/Y/ZAngst, and if there are any
    rlnTomoName or rlnMicrographName, rlnClassNumber, rlnOriginX/Y/Z(Angst), rlnAngleRot/Tilt/Psi
    and rlnTomoSubtomogramRot/Tilt/Psi. CSV: centroid-0/1/2 or z, y, x, and if there are any tomo
    and semantic_class. Other columns do not matter.
    Raises InputError for a file that is missing or damaged, or lacks coordinates.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; check the folder and the name")
    ending = path.suffix.lower()
    if ending == ".star":
        return _from_star(path, _star_table(path))
    if ending in SEPARATORS:
        return _from_csv(path, _csv_table(path, SEPARATORS[ending]))
    raise InputError(
        f"{path}: positions are read from .star, .csv and .tsv files; rename or convert the file"
    )


def _star_table(path):
    """The block of a STAR file that has coordinates, as a pandas table."""
    import starfile

    text = [*STAR_TOMOGRAMS, STAR_CLASS]
    try:
        blocks = starfile.read(path, always_dict=True, parse_as_string=text)
    except Exception as error:  # whatever its parser stumbles over
        raise InputError(f"{path}: no STAR file can be read here ({brief(error)})") from error
    tables = [block for block in blocks.values() if hasattr(block, "columns")]
    for table in tables:
        if any(set(names) <= set(table.columns) for names in (COORDINATES, CENTRED)):
            return table
    found = [name for table in tables for name in table.columns]
    raise InputError(
        f"{path}: no table has rlnCoordinateX, Y and Z, nor rlnCenteredCoordinateXAngst, YAngst "
        f"and ZAngst; its columns are {_few(found, 12) or 'none'}"
    )


def _from_star(path, table):
    # As RELION does: where a file has both, the coordinates of version 5 count.
    centred = set(CENTRED) <= set(table.columns)
    box_angles = _columns(path, table, BOX_ANGLES)
    box_turns = relion_matrices(box_angles)
    shifts = {}
    for names in (SHIFTS_ANGSTROM, SHIFTS_VOXELS):
        # A matrix turns x, y, z; the columns are z, y, x.
        along_box = _columns(path, table, names)[:, ::-1]
        shifts[names] = np.einsum("nij,nj->ni", box_turns, along_box)[:, ::-1]
    if shifts[SHIFTS_ANGSTROM].any():
        shifts[SHIFTS_VOXELS][:] = 0  # the same shifts, left over from an older version
    turned = set(ANGLES) & set(table.columns) or box_angles.any()
    angles = _columns(path, table, ANGLES)
    return Positions(
        path=path,
        points=_columns(path, table, CENTRED if centred else COORDINATES),
        centred=centred,
        shifts_angstrom=shifts[SHIFTS_ANGSTROM],
        shifts_voxels=shifts[SHIFTS_VOXELS],
        turns=box_turns @ relion_matrices(angles) if turned else None,
        tomograms=_text(path, table, STAR_TOMOGRAMS),
        classes=_text(path, table, [STAR_CLASS]),
    )


def _csv_table(path, separator):
    import pandas

    text = {CSV_TOMOGRAM: str, CSV_CLASS: str}
    # Tomograms and classes may be called NA and null; only a coordinate is missing then.
    missing = {name: NO_NUMBER for names in CSV_COORDINATES for name in names}
    read = partial(
        pandas.read_csv, path, sep=separator, skipinitialspace=True, na_values=missing,
        keep_default_na=False,
    )  # fmt: skip
    try:
        # As they stand there: in a table, pandas gives those that are called alike other names.
        heading = list(read(header=None, nrows=1, dtype=str).iloc[0])
        table = read(dtype=text)
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no table can be read here ({brief(error)})") from error
    for name in (CSV_TOMOGRAM, CSV_CLASS, *(name for names in CSV_COORDINATES for name in names)):
        _check_single(path, name, heading.count(name))
    return table


def _from_csv(path, table):
    for names in CSV_COORDINATES:
        if set(names) <= set(table.columns):
            break
    else:
        raise InputError(
            f"{path}: there are no columns centroid-0, centroid-1, centroid-2 nor z, y, x; its "
            f"columns are {_few(table.columns, 12)}; name those with the positions so"
        )
    points = _columns(path, table, names)
    return Positions(
        path=path,
        points=points,
        centred=False,
        shifts_angstrom=np.zeros_like(points),
        shifts_voxels=np.zeros_like(points),
        tomograms=_text(path, table, [CSV_TOMOGRAM]),
        classes=_text(path, table, [CSV_CLASS]),
    )


def _columns(path, table, names):
    """(n, 3) numbers of three columns; zeros for a column that is not there."""
    values = np.zeros((len(table), len(names)))
    for index, name in enumerate(names):
        if name not in table.columns:
            continue
        try:
            values[:, index] = _column(path, table, name).to_numpy(dtype=float)
        except (TypeError, ValueError) as error:
            what = f"column {name} holds more than numbers ({brief(error)})"
            raise InputError(f"{path}: {what}") from error
    wrong = int(np.count_nonzero(~np.isfinite(values).all(axis=1)))
    if wrong:
        raise InputError(
            f"{path}: {wrong} of {len(values)} rows lack a number in {', '.join(names)}; "
            "complete or remove them"
        )
    return values


def _text(path, table, names):
    """The first of the columns that is there, as an array of text; None if none is."""
    for name in names:
        if name in table.columns:
            column = _column(path, table, name)
            return np.array([str(value).strip() for value in column], dtype=object)
    return None


def _column(path, table, name):
    """A column of a pandas table; InputError where it is not clear which."""
    column = table[name]
    if column.ndim > 1:  # a table of all that are called so
        _check_single(path, name, column.shape[1])
    return column


def _check_single(path, name, count):
    if count > 1:
        raise InputError(f"{path}: there are {count} columns {name}; keep one of them")


def _few(names, most=5):
    """The first few names for a message, in short, whatever a file calls columns or tomograms."""
    return shortened(some(map(brief, names), most))


def relion_matrices(angles):
    """Matrices (n, 3, 3) that turn x, y, z of an average into x, y, z of the tomogram.

    angles: (n, 3) rot, tilt, psi in degrees. As intrinsic rotations about z, y and z they turn
            the particle into the average's frame, so the matrix is the transpose of that.
    """
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("ZYZ", angles, degrees=True).inv().as_matrix().reshape(-1, 3, 3)


def possible_names(text):
    """The names that a tomogram may have which a file of positions calls ``text``.

    Folders are taken off, and endings from the end, one after the other: a/TS_1.mrc.tomostar
    gives TS_1.mrc.tomostar, TS_1.mrc and TS_1.
    """
    name = text.replace("\\", "/").rsplit("/", 1)[-1]
    names = [name]
    while (
        len(name) <= LONGEST_FILE_NAME
        and (ending := next((e for e in ENDINGS if name.lower().endswith(e)), None))
        and name != ending
    ):
        name = name[: -len(ending)]
        names.append(name)
    return names


def positions_in(positions, name, name_suffix="", per_tomogram=False):
    """Those of the positions that belong to one tomogram.

    name:         the tomogram's file name without its ending
    name_suffix:  what that name has after the one in the file of positions
    per_tomogram: whether the file is of this tomogram alone, so that it needs no names
    Raises InputError where the file tells of no tomograms at all.
    """
    if positions.tomograms is None:
        if per_tomogram:
            return positions
        raise InputError(
            f"{positions.path}: no column says which tomogram a position belongs to "
            f"({', '.join(STAR_TOMOGRAMS)} in STAR files, {CSV_TOMOGRAM} in tables); add one, or "
            "give each tomogram a file of its own, with {tomogram} in its name"
        )
    wanted = {text for text in set(positions.tomograms) if _is_called(name, text, name_suffix)}
    return positions[np.array([text in wanted for text in positions.tomograms], dtype=bool)]


def _is_called(name, text, name_suffix):
    return any(name in (each, each + name_suffix) for each in possible_names(text))


def no_positions(positions, name):
    """What is wrong where ``positions_in`` finds none for a tomogram, as a sentence."""
    if positions.tomograms is None:
        return f"{name}: {positions.path} has no positions"
    names = sorted({possible_names(text)[-1] for text in positions.tomograms})
    have = f"it has those of {_few(names)}{nearest(name, names)}" if names else "it is empty"
    return f"{name}: {positions.path} has no positions of this tomogram; {have}"


def count_outside(points, shape):
    """How many of the points (n, 3), in voxels, lie outside a volume of ``shape``."""
    inside = (points >= -0.5) & (points <= np.array(shape) - 0.5)
    return int(np.count_nonzero(~inside.all(axis=1)))

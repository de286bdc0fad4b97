"""Convex hulls of voxel masks.

A voxel is the point at its centre: the hull is that of the centres, and a voxel belongs to it
whose centre lies in it. So a convex body that was cut into voxels is its own hull; taken as
cubes, voxels would add a rim to every oblique face.
"""

import numpy as np

# Far less than the distance of a voxel's centre from a line or plane through others that it does
# not lie on, far more than the rounding of coordinates below 10,000.
TOLERANCE = 1e-6
# A section whose hull is mostly gap: stray voxels just outside a face would become a full slice.
LEAST_FILL = 0.25


def fill_slices(mask):
    """Replace each z-slice by its convex hull, in place.

    mask: (Z, Y, X) bool
    A slice that fills less than a quarter of its hull, such as a few voxels that stick out of
    a face, stays as it is. Returns how many slices that were.
    """
    sparse = 0
    for section in mask:
        if section.any():
            hull = _between(*_rows_between(*_chains(section)), section.shape)
            if _is_sparse(section, hull):
                sparse += 1
            else:
                section[:] = hull
    return sparse


def fill_volume(mask):
    """Replace the mask by its convex hull in 3D, in place.

    mask: (Z, Y, X) bool
    Slices that fill less than a quarter of their own hull do not count, unless all are so.
    Returns how many slices that were.
    """
    corners, sparse_corners = [], []
    for z, section in enumerate(mask):
        if section.any():
            chains = _chains(section)
            hull = _between(*_rows_between(*chains), section.shape)
            level = np.insert(np.hstack(chains), 0, z, axis=0).T  # (n, 3)
            (sparse_corners if _is_sparse(section, hull) else corners).append(level)
    if corners or sparse_corners:
        facets = _facets(np.concatenate(corners or sparse_corners))
        for z, section in enumerate(mask):
            section[:] = _between(*_cut(facets, z, section.shape), section.shape)
    return len(sparse_corners)


def _is_sparse(section, hull):
    return np.count_nonzero(section) < LEAST_FILL * np.count_nonzero(hull)


def _chains(section):
    """The hull's corners, first those on its left, then those on its right: (rows, columns) each.

    section: (Y, X) mask, not empty
    """
    rows = np.flatnonzero(section.any(axis=1))
    filled = section[rows]
    left = filled.argmax(axis=1)
    right = section.shape[1] - 1 - filled[:, ::-1].argmax(axis=1)
    return _lower_chain(rows, left), _lower_chain(rows, -right) * [[1], [-1]]


def _rows_between(left, right):
    """Rows from first to last, and between which columns (real numbers) the hull crosses each."""
    rows = np.arange(left[0, 0], left[0, -1] + 1)
    return rows, np.interp(rows, *left), np.interp(rows, *right)


def _lower_chain(positions, values):
    """Corners of the lower convex hull of a function: (2, n) whole numbers.

    Andrew's monotone chain (Information Processing Letters 9, 1979).
    """
    chain = []
    for x, y in zip(positions.tolist(), values.tolist(), strict=True):
        while len(chain) > 1:
            (x1, y1), (x2, y2) = chain[-2:]
            if (y2 - y1) * (x - x1) < (y - y1) * (x2 - x1):
                break
            chain.pop()
        chain.append((x, y))
    return np.array(chain).T


def _facets(corners):
    """Planes of the hull of (n, 3) points: a z + b y + c x + d <= 0 inside.

    Three groups, of planes that bound a row at its end, at its start and not at all, each as
    coefficients (a, b, c, d) of shape (4, planes, 1).
    """
    # Here, since few jobs need a hull in 3D, and it takes a third of a second to load.
    from scipy.spatial import ConvexHull

    if np.linalg.matrix_rank(corners - corners[0]) < 3:
        # A flat hull has no inside for Qhull; this thickens it by less than _cut allows for.
        nudges = np.vstack([np.eye(3), -np.eye(3)]) * TOLERANCE / 4
        corners = (corners + nudges[:, None]).reshape(-1, 3)
    planes = ConvexHull(corners).equations
    # Qhull gives triangles; those of one face share their plane up to rounding.
    _, one_each = np.unique(planes.round(9), axis=0, return_index=True)
    planes = planes[one_each]
    c = planes[:, 2]
    # A plane this steep moves by less than the tolerance along the longest row.
    return [planes[which].T[..., None] for which in (c > 1e-9, c < -1e-9, np.abs(c) <= 1e-9)]


def _cut(facets, z, shape):
    """Rows of slice z that the hull may meet, and between which columns."""
    rows = np.arange(shape[0])
    (end, start, along) = ((a * z + b * rows + d, c) for a, b, c, d in facets)
    last = (-end[0] / end[1]).min(axis=0, initial=shape[1])
    first = (-start[0] / start[1]).max(axis=0, initial=-1)
    met = (along[0] <= TOLERANCE).all(axis=0)
    return rows[met], first[met], last[met]


def _between(rows, first, last, shape):
    """(Y, X) mask of the voxels of the rows that lie between the columns first and last."""
    columns = np.arange(shape[1])
    section = np.zeros(shape, bool)
    # Nearly parallel planes meet a row far beyond it, further than an integer reaches.
    first, last = np.clip([first, last], -1, shape[1])
    first = np.ceil(first - TOLERANCE).astype(np.int32)[:, None]
    last = np.floor(last + TOLERANCE).astype(np.int32)[:, None]
    section[rows] = (columns >= first) & (columns <= last)
    return section

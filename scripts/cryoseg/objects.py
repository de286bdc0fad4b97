"""Predicted objects against the true positions of particles."""

import cc3d
import numpy as np

from cryoseg.labels import IGNORED
from cryoseg.metrics import ratio
from cryoseg.postprocessing import CONNECTIVITY
from cryoseg.volumes import slabs

# By this the CZII challenge weighs recall against precision, for each type of particle; its final
# score weighs the types too, which is not done here:
# https://www.kaggle.com/competitions/czii-cryo-et-object-identification
BETA = 4


def find_objects(compared, labels):
    """Middles of predicted objects of some labels: label -> (n, 3) float64 z, y, x in voxels.

    compared: metrics.Compared
    labels:   those whose connected components (26 neighbours) are objects
    """
    table = np.zeros(256, np.uint8)
    table[labels] = labels
    concerned = np.empty(compared.shape, np.uint8)
    for piece in slabs(compared.shape, 2):
        _, found = compared[piece]
        concerned[piece] = table[found]
    components, count = cc3d.connected_components(
        concerned, connectivity=CONNECTIVITY, return_N=True
    )
    if not count:
        return {label: np.zeros((0, 3)) for label in labels}
    middles = cc3d.statistics(components)["centroids"][1:]
    label_of = np.zeros(count + 1, np.uint8)
    for piece in slabs(concerned.shape, components.itemsize):
        inside = concerned[piece] != 0
        label_of[components[piece][inside]] = concerned[piece][inside]
    return {label: middles[label_of[1:] == label].astype(float) for label in labels}


def counted_at(compared, points):
    """Whether points lie in voxels that count: (n,) bool; outside the volume none does.

    compared: metrics.Compared; points: (n, 3) z, y, x in voxels
    """
    voxels = np.rint(points).astype(int)
    inside = ((voxels >= 0) & (voxels < compared.shape)).all(axis=1)
    counted = np.zeros(len(points), bool)
    for piece in slabs(compared.shape, 2):
        here = np.flatnonzero(inside & (voxels[:, 0] >= piece.start) & (voxels[:, 0] < piece.stop))
        if here.size:
            true, _ = compared[piece]
            z, y, x = voxels[here].T
            counted[here] = true[z - piece.start, y, x] != IGNORED
    return counted


def match(positions, objects, radius):
    """Pair true positions with predicted objects within a radius of them, one to one.

    positions: (n, 3); objects: (m, 3); radius: in the same unit, a distance of just that counts
    Returns (k, 2) integers, rows of positions and objects. There are as many pairs as there can
    be, and of all such pairings this one has the least sum of distances.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial import KDTree

    if not len(positions) or not len(objects):
        return np.zeros((0, 2), int)
    # A sparse matrix of distances would take a distance of 0 for none.
    reach = radius * (1 + 1e-9)
    near = KDTree(positions).query_ball_tree(KDTree(objects), reach)
    rows = np.repeat(np.arange(len(positions)), [len(each) for each in near])
    columns = np.array([each for some in near for each in some], dtype=int)
    if not rows.size:
        return np.zeros((0, 2), int)
    # Each cluster of what lies close together is a small problem of its own.
    nodes = len(positions) + len(objects)
    links = coo_array((np.ones(rows.size), (rows, len(positions) + columns)), (nodes, nodes))
    _, cluster_of = connected_components(links, directed=False)
    pairs = []
    for cluster in np.unique(cluster_of[rows]):
        own = cluster_of[rows] == cluster
        ours, theirs = np.unique(rows[own]), np.unique(columns[own])
        distances = np.linalg.norm(positions[ours][:, None] - objects[theirs][None], axis=2)
        # One pair more is worth any sum of distances.
        too_far = 2 * reach * (min(len(ours), len(theirs)) + 1)
        cost = np.where(distances <= reach, distances, too_far)
        chosen = linear_sum_assignment(cost)
        pairs += [
            (ours[i], theirs[j]) for i, j in zip(*chosen, strict=True) if cost[i, j] < too_far
        ]
    return np.array(sorted(pairs), dtype=int).reshape(-1, 2)


def object_measures(true, found, matched):
    """Recall, precision, F1 and F4 of objects from their numbers: a dict, NaN where of nothing.

    true: positions; found: objects; matched: pairs of both
    F-beta is (1 + beta^2) matched / (beta^2 true + found): precision and recall, recall counting
    beta times as much (C. J. van Rijsbergen, Information Retrieval, 1979). F4 has beta 4; of the
    numbers of all tomograms together it is the CZII challenge's score of a type of particle.
    """
    return {
        "object_recall": ratio(matched, true),
        "object_precision": ratio(matched, found),
        "object_f1": ratio(2 * matched, true + found),
        "object_f4": ratio((1 + BETA**2) * matched, BETA**2 * true + found),
    }

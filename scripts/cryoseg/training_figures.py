"""Pictures of a training: curves of its losses, a sheet of augmented samples, the split."""

import math
from collections import Counter

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from cryoseg.labels import IGNORED
from cryoseg.volumes import written_aside

# Of the training and the validation part; told apart by colour-blind eyes.
PART_COLOURS = ["#0072B2", "#E69F00"]
MOST_BARS = 60


def draw_curves(rows):
    """Draw losses, Dice and learning rate against the epoch.

    rows: one dict per epoch, with "epoch" and any of train_loss, val_loss, dice_1 ..., lr
    Returns a matplotlib Figure.
    """
    figure = _figure(12, 3.6)
    losses, dice, rate = figure.subplots(1, 3)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    for name in (n for n in columns if "loss" in n):
        style = "--" if name.startswith("val_") else "-"
        losses.plot(*_points(rows, name), style, label=name, marker=".", markersize=3)
    for name in (n for n in columns if n.startswith("dice_")):
        dice.plot(*_points(rows, name), label=f"class {name[5:]}", marker=".", markersize=3)
    rate.plot(*_points(rows, "lr"))
    losses.set(title="loss", yscale="log", xlabel="epoch")
    dice.set(title="Dice in validation", ylim=(0, 1), xlabel="epoch")
    rate.set(title="learning rate", xlabel="epoch")
    for axes in (losses, dice):
        if axes.lines:
            axes.legend(fontsize="x-small")
    return figure


def _points(rows, name):
    """Epochs and values of the rows that have the number."""
    pairs = [(row["epoch"], row[name]) for row in rows if not math.isnan(row.get(name, math.nan))]
    return zip(*pairs, strict=True) if pairs else ([], [])


def draw_samples(names, images, labels, distances):
    """Draw the middle section of augmented samples: image, labels, distance, a row each.

    names:     N titles
    images:    (N, Z, Y, X); labels: (N, Z, Y, X) uint8, 255 drawn white
    distances: (N, Z, Y, X) in [-1, 1], NaN where they are not known; None where none are learnt
    Returns a matplotlib Figure.
    """
    columns = 2 if distances is None else 3
    figure = _figure(2.4 * columns, 2.6 * len(names))
    grid = figure.subplots(len(names), columns, squeeze=False)
    middle = images.shape[1] // 2
    classes = max([int(labels[labels != IGNORED].max(initial=0)), 1])
    for row, name in enumerate(names):
        shown = np.ma.masked_equal(labels[row, middle], IGNORED)
        grid[row, 0].imshow(images[row, middle], cmap="gray")
        grid[row, 1].imshow(shown, cmap="viridis", vmin=0, vmax=classes, interpolation="nearest")
        if distances is not None:
            grid[row, 2].imshow(distances[row, middle], cmap="RdBu", vmin=-1, vmax=1)
        grid[row, 0].set_title(name, fontsize="x-small")
        for axes in grid[row]:
            axes.set_axis_off()
    legends = [f"labels 0 to {classes}, ignored white", "distance, blue inside, white unknown"]
    for axes, legend in zip(grid[0, 1:], legends, strict=False):
        axes.set_title(legend, fontsize="x-small")
    return figure


def draw_split(counts):
    """Draw how many patches of each tomogram train and validate.

    counts: {"train": {tomogram: patches}, "validation": {...}}
    Where there are more than MOST_BARS tomograms, those with fewest patches share the last bar.
    Returns a matplotlib Figure.
    """
    total = Counter()
    for part in counts.values():
        total.update(part)
    names = [name for name, _ in total.most_common(MOST_BARS)]
    shown = sorted(names) + ([None] if len(total) > len(names) else [])
    figure = _figure(9, 1.3 + 0.26 * len(shown))
    axes = figure.subplots()
    left = [0] * len(shown)
    for (part, tomograms), colour in zip(counts.items(), PART_COLOURS, strict=True):
        others = sum(patches for name, patches in tomograms.items() if name not in names)
        widths = [others if name is None else tomograms.get(name, 0) for name in shown]
        several = "tomogram" if len(tomograms) == 1 else "tomograms"
        legend = f"{part}: {len(tomograms)} {several}, {sum(tomograms.values())} patches"
        axes.barh(range(len(shown)), widths, left=left, color=colour, height=0.75, label=legend)
        left = [one + width for one, width in zip(left, widths, strict=True)]
    others = f"{len(total) - len(names)} others"
    axes.set_yticks(range(len(shown)), [others if name is None else name for name in shown],
                    parse_math=False, fontsize="small")  # fmt: skip
    axes.invert_yaxis()
    axes.set(xlabel="patches")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize="small")
    return figure


def _figure(width, height):
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_figure(path, figure):
    """Write a figure as PNG; the file gets its name when it is complete."""
    with written_aside(path) as aside:
        write_png(aside, figure)


def write_png(path, figure):
    """Write a figure as PNG, at once."""
    figure.savefig(path, dpi=110)

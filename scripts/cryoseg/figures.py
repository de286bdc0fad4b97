"""Pictures of a prediction: tomogram, lamella and classes in three planes."""

from dataclasses import dataclass
from math import ceil

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke

# Okabe and Ito's palette, told apart by colour-blind eyes; its yellow is kept for the lamella.
CLASS_COLOURS = ["#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2"]
LAMELLA_COLOUR = "#F0E442"
OPACITY = 0.65  # of classes: the tomogram beneath stays visible
DIMMED = 0.55  # what is left of the light outside the lamella
CONTRAST = (0.5, 99.5)  # percentiles that become black and white

# All in inches. The largest panel is this wide; the others have the same scale.
PANEL, GAP, LEFT, TOP, MARGIN, LEGEND_ROW = 4.0, 0.12, 0.42, 1.0, 0.2, 0.26
LEGEND_COLUMNS = 8
PIXELS_PER_INCH = 150


@dataclass(frozen=True)
class Section:
    """A plane through the volumes, as it is drawn: rows upwards, columns to the right.

    caption: which plane it is; size: (height, width) in nm
    """

    caption: str
    tomogram: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    size: tuple[float, float]


def draw_sections(tomogram, mask, labels, voxel_size, title, class_names=None):
    """Draw a tomogram, its lamella mask and its classes in three planes: xy, xz and yz.

    tomogram, mask, labels: of one shape, sliced with three slices, so that only three sections
                            are read; mask: 0 is outside; labels: 0 is background
    voxel_size:             (z, y, x) in Angstrom; where one is 0 the scale bar counts voxels
    class_names:            names of labels 1, 2, ..., or None

    The planes meet in the middle of the volume, in z in the middle of the lamella there.
    Returns a matplotlib Figure.
    """
    known = min(voxel_size) > 0
    voxel_nm = np.array(voxel_size) / 10 if known else np.ones(3)
    sections = read_sections(tomogram, mask, labels, voxel_nm)
    handles = _legend_handles(sections, class_names or [])
    figure, panels = _panels([section.size for section in sections], len(handles))
    values = np.concatenate([section.tomogram.ravel() for section in sections])
    contrast = np.percentile(values.astype(np.float32), CONTRAST)
    for row, section in zip(panels, sections, strict=True):
        _draw_row(row, section, contrast)
    for panel, name in zip(panels[0], ("tomogram", "lamella", "classes"), strict=True):
        panel.set_title(name, fontsize=12, pad=5)
    _draw_scale_bar(panels[0][0], sections[0].size, "nm" if known else "voxels")
    _write_title(figure, title, tomogram.shape, voxel_nm if known else None)
    columns = min(len(handles), LEGEND_COLUMNS)
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=11)
    return figure


def read_sections(tomogram, mask, labels, voxel_nm):
    """The three Sections, xy, xz and yz, in that order; see draw_sections."""
    z, y, x = (length // 2 for length in tomogram.shape)
    inside = np.flatnonzero(np.asarray(mask[:, y : y + 1, :]).any(axis=(1, 2)))
    if inside.size:
        z = int(inside[inside.size // 2])
    depth_nm, height_nm, width_nm = voxel_nm * tomogram.shape
    planes = [
        (f"xy    z = {z}", (slice(z, z + 1), slice(None), slice(None)), (height_nm, width_nm)),
        (f"xz    y = {y}", (slice(None), slice(y, y + 1), slice(None)), (depth_nm, width_nm)),
        (f"yz    x = {x}", (slice(None), slice(None), slice(x, x + 1)), (depth_nm, height_nm)),
    ]
    return [
        Section(
            caption,
            *(np.asarray(volume[place]).squeeze(axis) for volume in (tomogram, mask, labels)),
            size=size,
        )
        for axis, (caption, place, size) in enumerate(planes)
    ]


def _panels(sizes, entries):
    """A Figure and its axes, rows of three; sizes: (height, width) of each row in nm.

    entries: how many the legend has, below the panels
    """
    scale = PANEL / max(width for _, width in sizes)
    width = LEFT + 3 * PANEL + 2 * GAP + MARGIN
    height = TOP + sum(size[0] * scale + GAP for size in sizes)
    height += LEGEND_ROW * (1 + ceil(entries / LEGEND_COLUMNS))
    figure = Figure(figsize=(width, height), dpi=PIXELS_PER_INCH, facecolor="white")
    FigureCanvasAgg(figure)
    rows, top = [], height - TOP
    for panel_height, panel_width in sizes:
        top -= panel_height * scale
        rows.append([
            figure.add_axes([
                (LEFT + column * (PANEL + GAP)) / width, top / height,
                panel_width * scale / width, panel_height * scale / height,
            ])
            for column in range(3)
        ])  # fmt: skip
        top -= GAP
    return figure, rows


def _draw_row(row, section, contrast):
    """Draw one plane three times: as it is, with the lamella, with the classes."""
    low, high = contrast
    span = high - low if high > low else 1.0
    grey = np.clip((section.tomogram.astype(np.float32) - low) / span, 0, 1)
    grey = np.repeat(grey[..., None], 3, axis=-1)
    inside = section.mask != 0
    dimmed = np.where(inside[..., None], grey, grey * DIMMED)
    for panel, image in zip(row, (grey, dimmed, _coloured(grey, section.labels)), strict=True):
        height, width = section.size
        panel.imshow(image, origin="lower", extent=(0, width, 0, height), aspect="auto")
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    if inside.any() and not inside.all():
        extent = (0, section.size[1], 0, section.size[0])
        row[1].contour(inside, [0.5], colors=LAMELLA_COLOUR, linewidths=1.2, extent=extent)
    row[0].set_ylabel(section.caption, fontsize=11)


def _coloured(grey, labels):
    """The grey image (rows, columns, 3) with the labelled voxels in their class's colour."""
    image = grey.copy()
    for label in np.unique(labels[labels > 0]):
        where = labels == label
        image[where] = OPACITY * np.array(class_colour(label)) + (1 - OPACITY) * image[where]
    return image


def class_colour(label):
    """Colour (red, green, blue) of a label from 1 on; from the seventh on darker ones follow."""
    turn, place = divmod(int(label) - 1, len(CLASS_COLOURS))
    return tuple(part * 0.6 ** (turn % 3) for part in to_rgb(CLASS_COLOURS[place]))


def scale_bar_length(width):
    """The longest of 1, 2, 5, 10, 20, 50 ... that is at most a quarter of ``width``."""
    power = 10.0 ** np.floor(np.log10(width / 4))
    return max(step * power for step in (1, 2, 5) if step * power <= width / 4 * (1 + 1e-9))


def _draw_scale_bar(panel, size, unit):
    height, width = size
    length = scale_bar_length(width)
    x, y = 0.04 * width, 0.045 * width
    ends = [x, x + length], [y, y]
    panel.plot(*ends, color="black", linewidth=6, solid_capstyle="butt")
    panel.plot(*ends, color="white", linewidth=4, solid_capstyle="butt")
    text = panel.text(x + length / 2, y * 1.5, f"{length:g} {unit}", color="white", ha="center",
                      va="bottom", fontsize=11, fontweight="bold")  # fmt: skip
    text.set_path_effects([Stroke(linewidth=2, foreground="black"), Normal()])
    panel.set(xlim=(0, width), ylim=(0, height))


def _write_title(figure, title, shape, voxel_nm):
    height = figure.get_figheight()
    depth, rows, columns = shape
    if voxel_nm is None:
        size = "voxel size unknown"
    elif np.ptp(voxel_nm) < 1e-3 * voxel_nm.max():
        size = f"{10 * voxel_nm[0]:.4g} Å per voxel"
    else:
        size = " × ".join(f"{10 * each:.4g}" for each in voxel_nm[::-1]) + " Å per voxel"
    left = LEFT / figure.get_figwidth()
    # parse_math: a name with two dollar signs is not a formula.
    figure.text(left, 1 - 0.16 / height, title, fontsize=14, va="top", parse_math=False)
    figure.text(left, 1 - 0.46 / height, f"{columns} × {rows} × {depth} voxels (x y z), {size}",
                fontsize=10, va="top", color="0.35")  # fmt: skip


def _legend_handles(sections, class_names):
    """The lamella, all classes that have a name and all that are seen."""
    names = dict(enumerate(class_names, start=1))
    seen = {label for section in sections for label in np.unique(section.labels).tolist()} - {0}
    handles = [Line2D([], [], color=LAMELLA_COLOUR, linewidth=2.5, label="lamella")]
    for label in sorted(seen | set(names)):
        name = names.get(label, f"class {label}")
        handles.append(Patch(color=class_colour(label), label=name))
    return handles

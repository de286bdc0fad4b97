"""Pictures of a prediction: tomogram, lamella and classes in three planes."""

from dataclasses import dataclass
from io import BytesIO
from math import ceil

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import Normal, Stroke
from skimage.transform import resize

from cryoseg.labels import class_name
from cryoseg.volumes import is_known_size

# Okabe and Ito's palette, told apart by colour-blind eyes; its yellow is kept for the lamella.
CLASS_COLOURS = ["#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2"]
LAMELLA_COLOUR = "#F0E442"
LAMELLA_ON_WHITE = "#BBAA00"  # the same hue, to be seen in charts
OPACITY = 0.65  # of classes: the tomogram beneath stays visible
DIMMED = 0.55  # what is left of the light outside the lamella
CONTRAST = (0.5, 99.5)  # percentiles that become black and white

# All in inches. The largest panel is this wide; the others have the same scale.
PANEL, GAP, LEFT, TOP, MARGIN, LEGEND_ROW = 4.0, 0.12, 0.42, 1.0, 0.2, 0.26
CHARTS, CHART_NAMES, CHART_GAP = 3.2, 1.2, 0.9
LEGEND_COLUMNS = 8  # beside each other below three panels
PIXELS_PER_INCH = 120
# Of a thumbnail: pixels of its longer side, and what makes a JPEG of it some 5 kB.
THUMBNAIL, JPEG_QUALITY = 144, 65


@dataclass(frozen=True)
class Section:
    """A plane through the volumes, as it is drawn: rows upwards, columns to the right.

    caption: which plane it is; size: (height, width) in nm; mask, labels: None where there are none
    """

    caption: str
    tomogram: np.ndarray
    mask: np.ndarray | None
    labels: np.ndarray | None
    size: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Charts:
    """What is drawn below the sections.

    volumes:    (name, colour, volume, share of the whole) of each class, from top to bottom
    whole:      what that whole is, with its volume
    unit:       of the volumes
    histograms: (name, colour, counts) of each class; counts: voxels by probability, from 0 to 1
    thresholds: (colour, probability below which voxels are background) of each threshold
    """

    volumes: list
    whole: str
    unit: str
    histograms: list
    thresholds: list


def draw_sections(
    tomogram, mask, labels, voxel_size, title, class_names=None, richest=None, charts=None
):
    """Draw a tomogram, its lamella mask and its classes in three planes: xy, xz and yz.

    tomogram, mask, labels: of one shape, sliced with three slices, so that only the sections are
                            read; mask: 0 is outside; labels: 0 is background. mask or labels may
                            be None and are left out then
    voxel_size:             (z, y, x) in Angstrom; where it is unknown the scale bar counts voxels
    class_names:            names of labels 1, 2, ..., or None
    richest:                z of one more xy section, None for none
    charts:                 Charts, None for none

    The planes meet in the middle of the volume, in z in the middle of the lamella there.
    Returns a matplotlib Figure.
    """
    known = is_known_size(voxel_size)
    voxel_nm = np.array(voxel_size) / 10 if known else np.ones(3)
    sections = read_sections(tomogram, mask, labels, voxel_nm, richest)
    columns = ["tomogram", *(["lamella"] if mask is not None else ())]
    columns += ["classes"] if labels is not None else ()
    handles = _legend_handles(sections, class_names or [])
    figure, panels, below = _panels(
        [section.size for section in sections], len(columns), len(handles), charts
    )
    values = np.concatenate([section.tomogram.ravel() for section in sections])
    contrast = np.percentile(values.astype(np.float32), CONTRAST)
    for row, section in zip(panels, sections, strict=True):
        _draw_row(row, section, contrast)
    for panel, name in zip(panels[0], columns, strict=True):
        panel.set_title(name, fontsize=12, pad=5)
    _draw_scale_bar(panels[0][0], sections[0].size, "nm" if known else "voxels")
    _write_title(figure, title, tomogram.shape, voxel_nm if known else None)
    if charts is not None:
        _draw_volumes(below[0], charts)
        _draw_histograms(below[1], charts)
    if handles:
        height = figure.get_figheight()
        place = (0.5, (CHARTS if charts is not None else 0) / height)
        beside = min(len(handles), _legend_columns(len(columns)))
        figure.legend(handles=handles, loc="lower center", bbox_to_anchor=place, frameon=False,
                      ncols=beside, fontsize=11)  # fmt: skip
    return figure


def read_sections(tomogram, mask, labels, voxel_nm, richest=None):
    """The Sections xy, xz and yz, in that order, and one at z = ``richest``; see draw_sections."""
    z, y, x = (length // 2 for length in tomogram.shape)
    if mask is not None:
        inside = np.flatnonzero(np.asarray(mask[:, y : y + 1, :]).any(axis=(1, 2)))
        if inside.size:
            z = int(inside[inside.size // 2])
    depth_nm, height_nm, width_nm = voxel_nm * tomogram.shape
    across, up = (slice(None), slice(None)), slice(None)
    planes = [
        (0, f"xy    z = {z}", (slice(z, z + 1), *across), (height_nm, width_nm)),
        (1, f"xz    y = {y}", (up, slice(y, y + 1), up), (depth_nm, width_nm)),
        (2, f"yz    x = {x}", (*across, slice(x, x + 1)), (depth_nm, height_nm)),
    ]
    if richest is not None and richest != z:
        place = (slice(richest, richest + 1), *across)
        planes.append((0, f"xy    z = {richest}, most labels", place, (height_nm, width_nm)))
    return [
        Section(
            caption,
            *(
                None if volume is None else np.asarray(volume[place]).squeeze(axis)
                for volume in (tomogram, mask, labels)
            ),
            size=size,
        )
        for axis, caption, place, size in planes
    ]


def _legend_columns(panels):
    return LEGEND_COLUMNS * panels // 3


def _panels(sizes, columns, entries, charts):
    """A Figure, its axes in rows, and those of the charts below.

    sizes:   (height, width) of each row in nm; columns: panels in a row
    entries: how many the legend has, below the panels
    """
    scale = PANEL / max(width for _, width in sizes)
    width = LEFT + columns * PANEL + (columns - 1) * GAP + MARGIN
    height = TOP + sum(size[0] * scale + GAP for size in sizes)
    height += LEGEND_ROW * (1 + ceil(entries / _legend_columns(columns)))
    height += CHARTS if charts is not None else 0
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
            for column in range(columns)
        ])  # fmt: skip
        top -= GAP
    if charts is None:
        return figure, rows, []
    names = CHART_NAMES + LEFT
    chart_width = (width - names - CHART_GAP - 2 * MARGIN) / 2
    below = [
        figure.add_axes([
            left / width, 0.55 / height, chart_width / width, (CHARTS - 1.0) / height,
        ])
        for left in (names, names + chart_width + CHART_GAP)
    ]  # fmt: skip
    return figure, rows, below


def _draw_row(row, section, contrast):
    """Draw one plane: as it is, and, where there are some, with the lamella, with the classes."""
    grey = _grey(section.tomogram, contrast)
    images = [grey]
    inside = None if section.mask is None else section.mask != 0
    if inside is not None:
        images.append(np.where(inside[..., None], grey, grey * DIMMED))
    if section.labels is not None:
        images.append(_coloured(grey, section.labels))
    for panel, image in zip(row, images, strict=True):
        height, width = section.size
        # Enlarged, voxels keep their edges, and files stay a quarter of the size.
        enlarged = 2 * max(image.shape[:2]) <= PANEL * PIXELS_PER_INCH
        panel.imshow(image, origin="lower", extent=(0, width, 0, height), aspect="auto",
                     interpolation="nearest" if enlarged else "auto")  # fmt: skip
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    if inside is not None and inside.any() and not inside.all():
        extent = (0, section.size[1], 0, section.size[0])
        row[1].contour(inside, [0.5], colors=LAMELLA_COLOUR, linewidths=1.2, extent=extent)
    row[0].set_ylabel(section.caption, fontsize=11)


def _grey(tomogram, contrast):
    """A section as (rows, columns, 3) from 0 to 1; contrast: the values of black and white."""
    low, high = contrast
    span = high - low if high > low else 1.0
    grey = np.clip((tomogram.astype(np.float32) - low) / span, 0, 1)
    return np.repeat(grey[..., None], 3, axis=-1)


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
    drawn = [section.labels for section in sections if section.labels is not None]
    handles = []
    if sections[0].mask is not None:
        handles.append(Line2D([], [], color=LAMELLA_COLOUR, linewidth=2.5, label="lamella"))
    if drawn:
        seen = {label for labels in drawn for label in np.unique(labels).tolist()} - {0}
        for label in sorted(seen | set(names)):
            handles.append(Patch(color=class_colour(label), label=class_name(label, class_names)))
    return handles


def _draw_volumes(axes, charts):
    """Bars of the classes' volumes, the first on top, each with its number and share."""
    places = range(len(charts.volumes))
    names, colours, volumes, shares = zip(*charts.volumes, strict=True)
    axes.barh(places, volumes, color=colours, height=0.7)
    axes.set_yticks(places, names, parse_math=False)
    size = min(9, 9 * 14 / len(places))
    largest = max(volumes) or 1
    for place, volume, share in zip(places, volumes, shares, strict=True):
        axes.text(volume + 0.02 * largest, place, f"{volume:,.0f}  ({100 * share:.2g} %)",
                  va="center", fontsize=size)  # fmt: skip
    # As if there were four rows at least: a single bar need not fill the chart.
    axes.set(xlim=(0, 1.6 * largest), ylim=(max(len(places), 4) - 0.4, -0.6), xticks=[])
    axes.set_title(f"volume in {charts.unit}, and share of {charts.whole}", fontsize=10, loc="left")
    _plain(axes)
    axes.tick_params(axis="y", labelsize=size)
    axes.spines["bottom"].set_visible(False)


def _draw_histograms(axes, charts):
    """Lines of how many voxels each class won with which probability."""
    for name, colour, counts in charts.histograms:
        edges = np.linspace(0, 1, len(counts) + 1)
        axes.stairs(np.where(counts > 0, counts, np.nan), edges, color=colour, label=name, lw=1.4)
    for colour, threshold in charts.thresholds:
        axes.axvline(threshold, color=colour, linestyle="--", linewidth=1)
        axes.text(threshold + 0.01, 0.98, "threshold", rotation=90, va="top", fontsize=8,
                  color=colour, transform=axes.get_xaxis_transform())  # fmt: skip
    if charts.histograms:
        axes.set_yscale("log")
    axes.set(xlim=(0, 1))
    axes.set_title("voxels by probability of the class that won", fontsize=10, loc="left")
    _plain(axes)


def _plain(axes):
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def draw_thumbnail(tomogram, mask, labels, voxel_size, z):
    """A small picture of the xy section at ``z``, (rows, columns, 3) uint8, the first row on top.

    Arguments as of draw_sections: classes in their colours; without labels, the lamella with what
    is outside of it dark. Its longer side has THUMBNAIL pixels at most.
    """
    place = (slice(z, z + 1), slice(None), slice(None))
    section, inside, found = (
        None if volume is None else np.asarray(volume[place])[0]
        for volume in (tomogram, mask, labels)
    )
    contrast = np.percentile(section.astype(np.float32), CONTRAST)
    image = _grey(section, contrast)
    if inside is not None:
        image = np.where(inside[..., None] != 0, image, image * DIMMED)
    if found is not None:
        image = _coloured(image, found)
    size = np.array(section.shape) * (voxel_size[1:] if is_known_size(voxel_size) else (1, 1))
    wanted = np.maximum(1, np.rint(size * THUMBNAIL / size.max())).astype(int)
    small = resize(image, np.minimum(wanted, THUMBNAIL), order=1, anti_aliasing=True)
    return np.rint(np.clip(small[::-1], 0, 1) * 255).astype(np.uint8)


def jpeg_bytes(image):
    """A picture, (rows, columns, 3) uint8, as the bytes of a JPEG file."""
    buffer = BytesIO()
    imsave(buffer, image, format="jpeg", pil_kwargs={"quality": JPEG_QUALITY})
    return buffer.getvalue()

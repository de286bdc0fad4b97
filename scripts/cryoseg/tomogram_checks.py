"""What is wrong, or may be, with a tomogram and with what belongs to it, found in one reading.

Nothing that is wrong with a file ends a check: it is what a check finds.
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cryoseg import mrc_headers
from cryoseg.checks import Intensities, judge_alike, judge_intensities
from cryoseg.findings import ERROR, WARNING, Finding, finding_of, overheard
from cryoseg.intensities import statistics
from cryoseg.label_making import particles_in
from cryoseg.label_volumes import count_values, new_labels
from cryoseg.labels import IGNORED, wrong_labels
from cryoseg.patches import patch_corners
from cryoseg.volumes import is_known_size, open_label_volume, open_mask, open_volume, slabs

PERCENTAGES = (0.1, 50, 99.9)
# Sections of one value are padding, which is thin, or what a copy that was cut short did not fill.
WARN_CONSTANT = 0.1
# Voxels of a tomogram are as long along each axis but for rounding.
WARN_UNEQUAL = 0.01
# Noise alone is not skewed; a lamella's protein makes 0.1 to 1.5, less where noise hides it.
CLEAR_SKEWNESS = 0.1
# A guess that chance gives once in some ten thousand tomograms is no guess worth a warning.
CLEAR_DEVIATIONS = 4


@dataclass
class Check:
    """What a check measured and found.

    values:   {column: value} of a tomogram; None for what could not be measured
    findings: about the tomogram and what belongs to it, each sentence once, errors first
    """

    values: dict
    findings: list[Finding] = field(default_factory=list)


def check_tomogram(path, name, demands, companions, positions=()):
    """Check a tomogram and what belongs to it.

    path, name: MRC file, and what files of positions call the tomogram
    demands:    {name: demand} of those that read it; a demand is {section, min, max}, of a training
                also {out_channels, patch_size, filtered, selected_labels, relabel}; of an
                evaluation {section}, and for its true labels {classes}, of the model or None
    companions: {name: file} of demands: a mask or labels
    positions:  (files, settings, name of the demand or None) of each entry that makes labels of
                positions, and of each evaluation that looks for them; settings: see
                label_making.particles_in
    """
    check, own = Check({"tomogram": name, "path": str(path)}), {}
    with overheard(path) as shared:
        check.values["bytes"] = Path(path).stat().st_size
        header, _ = mrc_headers.read_header(Path(path))
        check.values["mode"] = int(header.mode)
        volume = open_volume(path)
        check.values |= _place(volume)
        shared += judge_voxel_size(path, volume.voxel_size)
        own |= _judge_voxels(volume, demands, check.values, shared)
        for each, demand in demands.items():
            about, found = _judge_companion(volume, demand, companions.get(each))
            check.values |= {f"{column}_{each}": value for column, value in about.items()}
            own.setdefault(each, []).extend(found)
        for files, settings, each in positions:
            found = _judge_positions(volume, name, files, settings, each is not None)
            if each is None:  # as they stop neither a prediction nor a training, warnings
                shared += [Finding(WARNING, it.sentence, it.remedy) for it in found]
            else:
                own[each] += found
    check.findings += _gather(demands, shared, own)
    return check


def check_of_no_file(name, what):
    """The Check of a tomogram that is no file: ``what`` says what is there."""
    return Check({"tomogram": name}, [finding_of(ERROR, what)])


def _judge_voxels(volume, demands, values, shared):
    """Read the voxels; {name: findings} of each demand, the others are appended to ``shared``.

    What was measured is put into ``values``.
    """
    path, own = volume.path, {}
    demands = {name: demand for name, demand in demands.items() if "min" in demand}
    ranges = [(demand["min"], demand["max"]) for demand in demands.values()]
    measured = statistics(volume, PERCENTAGES, ranges)
    values |= _intensities(measured)
    shared += judge_sections(path, measured.constant_sections, volume.shape[0])
    for (name, demand), outside in zip(demands.items(), measured.outside, strict=True):
        values[f"outside_{name}"] = outside / measured.voxels
        own[name] = _judge_range(path, measured, outside, demand)
    if not any(finding.level == ERROR for found in own.values() for finding in found):
        shared += judge_polarity(path, measured)
    return own


def _gather(demands, shared, own):
    """All findings, each sentence once, errors first; errors with the demands that they stop."""
    stopped, first = {}, {}
    for each in demands:
        for finding in [*shared, *own.get(each, ())]:
            if finding.level == ERROR:
                stopped.setdefault(finding.sentence, set()).add(each)
    found = [*shared, *(finding for findings in own.values() for finding in findings)]
    for finding in sorted(found, key=lambda finding: finding.level):
        first.setdefault(finding.sentence, finding)
    for finding in first.values():
        names = stopped.get(finding.sentence, set())
        alone = names != set(demands)
        yield replace(finding, stops=tuple(sorted(names))) if alone else finding


def _place(volume):
    return {
        "type": volume.dtype.name,
        **dict(zip("zyx", volume.shape, strict=True)),
        **{f"voxel_size_{a}": s for a, s in zip("zyx", volume.voxel_size, strict=True)},
        **{f"origin_{axis}": at for axis, at in zip("xyz", volume.origin, strict=True)},
    }


def _intensities(measured):
    names = [f"{percentage:g} %" if percentage != 50 else "median" for percentage in PERCENTAGES]
    ordered = dict(zip(names, (measured.percentiles[each] for each in PERCENTAGES), strict=True))
    return {
        "min": measured.lowest,
        **ordered,
        "max": measured.highest,
        "nan": measured.nan,
        "infinite": measured.infinite,
        "constant_sections": measured.constant_sections,
        "skewness": measured.skewness,
        "polarity": polarity(measured),
    }


def judge_voxel_size(path, voxel_size):
    """Findings about a voxel size (z, y, x) in Angstrom, as a header has it."""
    text = " x ".join(f"{size:g}" for size in voxel_size)
    if not is_known_size(voxel_size):
        sentence = f"{path}: the header has no voxel size ({text} Angstrom)"
        remedy = "write it into the header: positions, radii and scale bars need it"
        return [Finding(WARNING, sentence, remedy)]
    if set(voxel_size) == {1.0}:
        sentence = f"{path}: the header says 1 Angstrom per voxel"
        remedy = "programs write that where they do not know it; correct it if it is not so"
        return [Finding(WARNING, sentence, remedy)]
    if max(voxel_size) > (1 + WARN_UNEQUAL) * min(voxel_size):
        sentence = f"{path}: voxels are {text} Angstrom (z, y, x), not cubes"
        remedy = "networks were trained on cubes; correct the header, or resample the tomogram"
        return [Finding(WARNING, sentence, remedy)]
    return []


def judge_sections(path, constant, sections):
    """Findings about sections that hold one value each, where some others do not."""
    if not WARN_CONSTANT * sections <= constant < sections:
        return []
    sentence = f"{path}: {constant} of {sections} sections hold one value each"
    return [Finding(WARNING, sentence, "if that is not padding, the copy was cut: copy it anew")]


def polarity(measured):
    """A guess whether protein is "white" or "black" in a volume of these Statistics, or "unclear".

    Dense matter is the smaller part of ice and cytoplasm, and beads are denser still: where it is
    dark, the tail of the intensities is on the dark side.
    """
    skewness = measured.skewness
    if skewness is None:
        return "unclear"
    # The standard deviation of the skewness of n independent normal numbers is sqrt(6 / n).
    least = max(CLEAR_SKEWNESS, CLEAR_DEVIATIONS * math.sqrt(6 / measured.squares))
    if abs(skewness) < least:
        return "unclear"
    return "white" if skewness > 0 else "black"


def judge_polarity(path, measured):
    """Findings about a volume of these Statistics, which a network will read."""
    if polarity(measured) != "black":
        return []
    sentence = (
        f"{path}: protein seems to be black, as the tail of the intensities is on the dark side "
        f"(skewness {measured.skewness:.2f})"
    )
    remedy = "if so, scale with invert: true, as networks are trained on white; it is only a guess"
    return [Finding(WARNING, sentence, remedy)]


def _judge_range(path, measured, outside, demand):
    """Findings about a demand's min..max, as the jobs themselves will have them."""
    wrong = measured.nan + measured.infinite
    low, high = measured.lowest, measured.highest
    found = Intensities(low, high, wrong, outside, measured.voxels)
    return judge_intensities(path, found, demand["min"], demand["max"])


def _judge_companion(volume, demand, file):
    """(measured values, findings) of the mask or the labels that an entry reads."""
    about, found = {}, []
    if file is None:
        return about, found
    with overheard(file) as found:
        judge = _judge_labels if demand["section"] == "train" else _judge_mask
        if "classes" in demand:
            judge = _judge_true_labels
        for finding in judge(volume, file, demand, about):
            found.append(finding)
    return about, found


def _judge_mask(volume, file, demand, about):
    """Findings about a mask; puts into ``about`` what was measured."""
    stored = open_label_volume(file)
    about["mask_shape"] = " x ".join(map(str, stored.shape))
    if stored.shape == volume.shape:  # else its voxels are of another size for good reason
        yield from judge_alike(volume.path, volume, f"mask {file} is", stored)
    mask = open_mask(file, volume.shape)  # warns itself of a mask that it must resize
    inside = sum(int(mask[piece, :, :].sum(dtype=np.int64)) for piece in slabs(mask.shape))
    if inside == 0:
        sentence = f"{file}: no voxel is inside the mask"
        nothing = "predicted" if demand["section"] == "predict" else "evaluated"
        yield Finding(WARNING, sentence, f"nothing will be {nothing}; is it this tomogram's mask?")
    elif inside == math.prod(mask.shape):
        sentence = f"{file}: every voxel is inside the mask"
        yield Finding(WARNING, sentence, "it leaves nothing out; is it a mask?")


def _judge_labels(volume, file, demand, about):
    """Findings about labels; puts into ``about`` what was measured."""
    labels, name = open_label_volume(file), volume.path
    about["labels_shape"] = " x ".join(map(str, labels.shape))
    yield from judge_alike(name, volume, "labels are", labels)
    patch_corners(name, volume.shape, demand["patch_size"], overlap=0)
    counts = count_values(labels)
    about["label_voxels"] = ", ".join(f"{label}: {count}" for label, count in counts.items())
    if demand["filtered"]:
        new = new_labels(file, counts, demand["selected_labels"], demand["relabel"])
        becomes = dict.fromkeys(new.values(), 0)
        for label, count in counts.items():
            becomes[new.get(label, 0)] = becomes.get(new.get(label, 0), 0) + count
        counts = {label: count for label, count in becomes.items() if count}
    classes = max(2, demand["out_channels"])
    wrong = sorted(label for label in counts if label >= classes and label != IGNORED)
    if wrong:
        yield wrong_labels(file, sum(counts[label] for label in wrong), wrong, classes)
    elif not set(counts) - {0, IGNORED}:
        sentence = f"{file}: no voxel has a label of 1 or more (255 is ignored)"
        yield Finding(WARNING, sentence, "are these the labels of this tomogram?")


def _judge_true_labels(volume, file, demand, about):
    """Findings about the true labels of an evaluation; puts into ``about`` what was measured."""
    labels = open_label_volume(file)
    about["labels_shape"] = " x ".join(map(str, labels.shape))
    yield from judge_alike(volume.path, volume, f"true labels {file} are", labels)
    counts = count_values(labels)
    about["label_voxels"] = ", ".join(f"{label}: {count}" for label, count in counts.items())
    classes = demand["classes"] or IGNORED
    beyond = sorted(label for label in counts if label > IGNORED)
    unknown = sorted(label for label in counts if classes <= label < IGNORED)
    if beyond:
        sentence = f"{file}: {_voxels_of(beyond, counts)}"
        yield Finding(ERROR, sentence, "true labels must be 0 to 254, or 255 to be ignored")
    if unknown:
        sentence = f"{file}: {_voxels_of(unknown, counts)}, and the model knows 0 to {classes - 1}"
        remedy = "they count as not found; are these the labels of this model's classes?"
        yield Finding(WARNING, sentence, remedy)
    if not set(counts) - {0, IGNORED}:
        sentence = f"{file}: no voxel has a label of 1 or more (255 is ignored)"
        yield Finding(WARNING, sentence, "are these the true labels of this tomogram?")


def _voxels_of(labels, counts):
    """Text: how many voxels have some labels."""
    shown = ", ".join(map(str, labels[:5]))
    return f"{sum(counts[label] for label in labels)} voxels have label {shown}"


def _judge_positions(volume, name, files, settings, all_outside):
    """Findings about positions; all_outside: whether all may lie outside, as in evaluations."""
    with overheard(" and ".join(map(str, files))) as found:
        particles_in(volume, name, files, settings, all_outside)
    return found

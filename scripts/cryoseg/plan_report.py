"""What the rules that draw, and the overview, are given."""

from cryoseg.folders import identity, spelled
from cryoseg.plan_checks import check_names
from cryoseg.plan_parts import aliases, with_aliases
from cryoseg.training_stages import training_folders

OVERVIEW = ("overview.html", "overview.tsv")
TRAINING_PICTURES = ("curves.png", "augmented_samples.png", "split.png")
# Figures of up to 5 MB each, which a report in one file has within it.
MOST_IN_REPORT = 30


def drawing(stages, name):
    """The settings of the step that draws the predictions of a stage."""
    stage = stages.predict[name]
    return {
        "stage": name,
        "class_names": stage["class_names"],
        "lamella": stages.makes_masks(name) or stage["parameters"]["network"]["postprocessing"],
        "logs": _logs(stages, name),
        "benchmarks": f"benchmarks/{name}/score_voxels",
    }


def figures_in_report(stages):
    """Whether the figures are few enough for a report."""
    return len(summaries(stages)) <= MOST_IN_REPORT


def names_to_draw(stages, name):
    """Sorted names of the tomograms that a stage draws.

    Not those that a stage draws which reads this one's masks: its figures show both.
    """
    shown = {each for other in _within(stages, name) for each in stages.names_to_predict(other)}
    return [each for each in stages.names_to_predict(name) if each not in shown]


def _within(stages, name):
    """Names of the stages that read the labels of this one as masks."""
    own = identity(stages.predict[name]["prediction_folder"])
    return [
        other
        for other, stage in stages.predict.items()
        if stage["mask_folder"] and identity(stage["mask_folder"]) == own
    ]


def _no_files(stages):
    """{stage: {tomogram: what is there instead of its file}} of what cannot be drawn."""
    found = {}
    for name in stages.predict:
        lost = stages.no_files_to_predict(name)
        shown = set().union(*map(stages.no_files_to_predict, _within(stages, name)))
        found[name] = {each: lost[each] for each in sorted(lost) if each not in shown}
    return {name: lost for name, lost in found.items() if lost}


def _logs(stages, name):
    """Folders of the logs of all steps from a tomogram to the labels of a stage."""
    stage, found = stages.predict[name], []
    writer = stages.tomograms_to_predict(name).writer
    if writer is not None and writer.section == "scale":
        found.append(f"logs/{writer.name}/scale_tomogram")
    masks = stage["mask_folder"] and stages.writer_of(stage["mask_folder"])
    found.append(f"logs/{check_names(stages)['predict', name]}/check_tomogram")
    steps = ("score_voxels", "label_voxels")
    if masks and masks.section == "predict":
        found += [f"logs/{masks.name}/{step}" for step in steps]
    return found + [f"logs/{name}/{step}" for step in steps]


def overview(stages):
    """What rules/report.smk is given."""
    files = {"summaries": summaries(stages)}
    awkward = aliases(files)
    return {
        "summaries": with_aliases(files, awkward)["summaries"],
        "aliases": awkward,
        "settings": {
            "stages": {
                spelled(stage["prediction_folder"]): name for name, stage in stages.predict.items()
            },
            "no_files": _no_files(stages),
        },
    }


def summaries(stages):
    """The files that the overview is made of, one for each tomogram that is drawn."""
    return [
        f"{spelled(stage['prediction_folder'])}/pictures/summaries/{each}.json"
        for name, stage in stages.predict.items()
        for each in names_to_draw(stages, name)
    ]


def overview_files(stages):
    """The files of the target overview."""
    files = [
        f"{training_folders(entry)['logs']}/pictures/{picture}"
        for entry in stages.train.values()
        for picture in TRAINING_PICTURES
    ]
    # The summaries too: the page is made without those that failed, and they are to be tried again.
    return files + ([*summaries(stages), *OVERVIEW] if stages.predict else [])

"""What can be wrong with an evaluate block of a prediction stage beyond single values."""

import os

from cryoseg import folders
from cryoseg.evaluation_stages import CONFIGURATION, evaluation_folder
from cryoseg.folders import identity, some, unusable_path
from cryoseg.label_checks import position_mistakes
from cryoseg.label_stages import by_label, sources


def evaluation_mistakes(stage, file):
    """Values of a stage that are wrong together with its evaluate block; file: the stage's own."""
    wanted, own = stage["evaluate"], stage.get("prediction_folder")
    if own and wanted["choose_thresholds"]:
        written = f"{evaluation_folder(stage)}/{CONFIGURATION}"
        if identity(file) == identity(written):
            yield (
                f"evaluate.choose_thresholds would write this file, {written}, anew; copy it to "
                "another place, and name that in config.yaml"
            )
    for key in ("labels_folder", "compare_with"):
        if own and wanted[key] and identity(wanted[key]) == identity(own):
            yield f"evaluate.{key} {wanted[key]} is the prediction_folder itself; name another"
    if wanted["choose_thresholds"] and stage["parameters"]["network"]["postprocessing"]:
        yield (
            "evaluate.choose_thresholds tells nothing of masks that are cleaned afterwards; set "
            "parameters.network.postprocessing or choose_thresholds to false"
        )
    if wanted["positions"] is None:
        given = [key for key in ("labels", "match_radius_nm") if wanted[key] is not None]
        if given:
            yield f"evaluate.{given[0]} needs evaluate.positions; name the file of positions"
        return
    if wanted["match_radius_nm"] is None:
        yield "evaluate.match_radius_nm is missing; positions need the radius that finds them"
    if isinstance(wanted["positions"], dict) and wanted["labels"] is not None:
        yield (
            "evaluate.labels must be null where positions is a mapping, which gives the labels "
            "already"
        )
    if isinstance(wanted["match_radius_nm"], dict):
        labels = set(by_label(wanted["positions"])) - {None}
        if isinstance(wanted["labels"], dict):
            labels = set(wanted["labels"].values())
        if lacking := sorted(labels - set(by_label(wanted["match_radius_nm"]))):
            yield (
                f"evaluate.match_radius_nm has no value for the label {some(map(str, lacking))}; "
                "add it"
            )


def evaluation_file_mistakes(stages, name, begin):
    """Files that an evaluation wants and will not find; the stage's tomograms can be listed."""
    wanted = stages.predict[name]["evaluate"]
    begin = f"{begin}evaluate."
    unreadable = list(_unreadable(stages, name, begin))
    yield from unreadable
    if unreadable:
        return
    names = stages.names_to_evaluate(name)
    if not names:
        folder, ending = stages.true_labels(name)
        yield (
            f"{begin}labels_folder: {folder} holds no NAME{ending} for any tomogram of the stage; "
            "name the labels as the tomograms"
        )
        return
    if wanted["mask_folder"]:
        yield from _lacking_masks(stages, name, names, begin)
    if wanted["compare_with"] and not stages.compared_predictions(name)[2]:
        yield (
            f"{begin}compare_with: {wanted['compare_with']} predicts none of {some(names)}; "
            "compare stages that predict the same tomograms"
        )
    if wanted["positions"] is not None:
        yield from position_mistakes(sources(wanted["positions"]).values(), names, begin)


def _unreadable(stages, name, begin):
    wanted = stages.predict[name]["evaluate"]
    other = stages.compared_folder(name)
    if wanted["compare_with"] in stages.predict and other is None:
        return  # that stage's own mistake
    for key, folder in (
        ("labels_folder", wanted["labels_folder"]),
        ("mask_folder", wanted["mask_folder"]),
        ("compare_with", other),
    ):
        if not folder or stages.writer_of(folder):
            continue
        if reason := unusable_path(folder):
            yield f"{begin}{key} {folder} {reason}"
        elif reason := folders.unreadable(folder):
            what = ", or no stage" if key == "compare_with" else ""
            yield f"{begin}{key} is {folder}, {reason}{what}"


def _lacking_masks(stages, name, names, begin):
    place, ending = stages.evaluation_masks(name)
    writer = stages.writer_of(place)
    made = stages.names_by(writer) if writer else set()
    lacking = [
        each for each in names if each not in made and not os.path.exists(f"{place}/{each}{ending}")
    ]
    if lacking:
        yield (
            f"{begin}mask_folder: {place} holds no NAME{ending} for {some(lacking)}; make these "
            "masks, or leave out their true labels"
        )

"""What the rules of a stage's evaluation are given."""

from cryoseg.evaluation_stages import CONFIGURATION, chooses_thresholds, evaluation_folder
from cryoseg.folders import spelled
from cryoseg.label_stages import sources
from cryoseg.plan_checks import check_names, evaluation_demands, evaluation_section
from cryoseg.plan_labels import one_or_by_label, particles_to_find
from cryoseg.plan_parts import aliases, records, volume, with_aliases

# Of each tomogram a table NAME_evaluation.tsv and so on.
TABLES = ("evaluation", "thresholds", "sizes")


def evaluation(stages, name):
    """What rules/evaluate.smk is given for a stage."""
    stage = stages.predict[name]
    wanted, network = stage["evaluate"], stage["parameters"]["network"]
    folder, ending = stages.true_labels(name)
    paths = {
        "evaluation": evaluation_folder(stage),
        "predictions": stages.writer_of(stage["prediction_folder"]).folder,
        "truth": folder,
        "truth_ending": ending,
    }
    if masks := stages.evaluation_masks(name):
        paths |= {"counted": masks[0], "counted_ending": masks[1]}
    demands = evaluation_demands(stages, name)
    if demands:
        check, section = check_names(stages)["predict", name], evaluation_section(name)
        paths |= {"checks": f"checks/{check}", "admitted": f"checks/{check}/{section}"}
    names, compared = stages.names_to_evaluate(name), stages.compared_predictions(name)
    files = {
        **{step: [f"{paths['evaluation']}/{each}_{step}.tsv" for each in names] for step in TABLES},
        "compared": [f"{compared[0]}/{each}{compared[1]}" for each in compared[2]]
        if compared
        else [],
    }
    awkward = aliases(files)
    files = with_aliases(files, awkward)
    labels = {"class_names": stages.predict[name]["class_names"]}
    which = {"stages": [name, wanted["compare_with"]] if compared else [name]}
    positions = [] if wanted["positions"] is None else sources(wanted["positions"])
    return {
        "name": name,
        # Of a folder that is compared with, the model is not known.
        "models": [
            model_file(stages.predict[each]) for each in which["stages"] if each in stages.predict
        ],
        "paths": paths | records(name),
        "tables": {step: files[step] for step in TABLES},
        "aliases": awkward,
        "masked": masks is not None,
        "checked": bool(demands),
        "admit": {"demands": sorted(demands)},
        "compared": dict(zip(compared[2], files["compared"], strict=True)) if compared else {},
        "positions": list(positions.values()) if positions else [],
        "evaluate": labels
        | which
        | {"tolerance_nm": wanted["tolerance_nm"]}
        | {"particles": _particles(wanted) if positions else None},
        "summarise": which | {"no_files": _no_files_with_labels(stages, name)},
        "chooses": chooses_thresholds(stage),
        "try_thresholds": {"threshold": network["threshold"]},
        "try_sizes": {key: network[key] for key in ("threshold", "postprocessing_sizes")},
        "choose_thresholds": labels,
        "choose_sizes": labels | {"stage": stage},
        "volume": volume(stages.tomograms_to_predict(name)),
    }


def _no_files_with_labels(stages, name):
    """{tomogram: what is there instead of its file} of those that have true labels."""
    lost = stages.no_files_to_predict(name)
    return {each: lost[each] for each in stages.those_with_labels(name, sorted(lost))}


def _particles(wanted):
    radius = {"match_radius_nm": one_or_by_label(wanted["match_radius_nm"])}
    return particles_to_find(wanted) | radius


def model_file(stage):
    """What inspect_model writes of a stage's model."""
    return f"{spelled(stage['prediction_folder'])}/scores/model.json"


def evaluation_files(stages, name):
    """The tables of a stage's evaluation that can be asked for."""
    folder = evaluation_folder(stages.predict[name])
    files = [f"{folder}/{each}_evaluation.tsv" for each in stages.names_to_evaluate(name)]
    tables = ["summary", "comparison"] if stages.compared_predictions(name) else ["summary"]
    return files + [f"{folder}/{table}.{end}" for table in tables for end in ("tsv", "html")]


def threshold_files(stages, name):
    """What can be asked for where thresholds are chosen for a stage."""
    folder = evaluation_folder(stages.predict[name])
    return [f"{folder}/{file}" for file in (CONFIGURATION, "thresholds.png")]

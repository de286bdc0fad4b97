"""What the rules of each entry are given, and the files that can be asked for.

Plain values only, each step with what it depends on and nothing else: a change in them is a reason
to run the step again. plan_labels.py, plan_training.py and plan_evaluation.py do this for
labels, trainings and evaluations.
"""

import json
import os

from cryoseg.evaluation_stages import chooses_thresholds
from cryoseg.folders import spelled
from cryoseg.plan_checks import (
    admissions,
    check_names,
    checked_for,
    checks,
    companions_of,
    positions_of,
    tomogram_of,
)
from cryoseg.plan_evaluation import evaluation, evaluation_files, threshold_files
from cryoseg.plan_labels import labelling
from cryoseg.plan_parts import INTENSITY_KEYS, aliases, records, volume, with_aliases
from cryoseg.plan_report import drawing, figures_in_report, overview, overview_files
from cryoseg.plan_training import training
from cryoseg.training_stages import training_folders

__all__ = [
    "aliases",
    "checked_for",
    "checks",
    "companions_of",
    "evaluation",
    "figures_in_report",
    "labelling",
    "overview",
    "positions_of",
    "tomogram_of",
    "training",
    "with_aliases",
]  # for the rules, which know this module only

# List of the files that a run could not make, see cryoseg.unmade.
UNMADE = "logs/unmade.json"
NETWORK_KEYS = ("in_channels", "spatial_dims")
LABEL_KEYS = ("threshold", "postprocessing", "3d_postprocessing", "postprocessing_sizes")


def simulation(stages, name):
    """What rules/demo.smk is given for an entry under simulate."""
    entry = dict(stages.simulate[name])
    folder = spelled(entry.pop("output_path"))
    del entry["number"]
    paths = {"tomograms": folder, "labels": f"{folder}/labels", "lamella": f"{folder}/lamella"}
    return {
        "paths": paths | records(name),
        "settings": entry,
        "volume": {"shape": entry["shape"], "files": []},
    }


def simulated_settings(settings, tomogram):
    """Arguments of a simulation for one tomogram: the entry's, with the tomogram's own seed."""
    number = int(tomogram.rpartition("_")[2])
    return settings | {"seed": settings["seed"] + number - 1}


def scaling(stages, name):
    """What rules/scale.smk is given for an entry under scale."""
    entry, tomograms = stages.scale[name], stages.tomograms_to_scale(name)
    paths = {
        "tomograms": tomograms.folder,
        "extension": tomograms.extension,
        "scaled": spelled(entry["output_path"]),
    }
    keys = ("invert", "lower_end_percentage", "upper_end_percentage")
    return {
        "paths": paths | records(name),
        "settings": {key: entry[key] for key in keys},
        "volume": volume(tomograms),
    }


def prediction(stages, name):
    """What rules/predict.smk is given for an entry under predict."""
    stage, tomograms, masks = stages.predict[name], stages.tomograms_to_predict(name), None
    network, speed = stage["parameters"]["network"], stage["hyper_parameters"]
    keep = {"save_internal_files": stage["save_internal_files"]}
    paths = {
        "tomograms": tomograms.folder,
        "extension": tomograms.extension,
        "checkpoint": stages.checkpoint(stage["trained_model"]),
        "predictions": spelled(stage["prediction_folder"]),
        "admitted": admissions(stages, "predict", name),
    }
    if masks := stages.masks(name):
        paths |= {"masks": masks[0], "mask_ending": masks[1]}
    intensities = {key: stage["parameters"]["data"][key] for key in INTENSITY_KEYS}
    return {
        "paths": paths | records(name),
        "masked": masks is not None,
        "mrc": stage["save_original_file_extension"],
        "asked_of_model": _asked_of_model(network) | {"masks": int(stages.makes_masks(name))},
        "inspect": {key: network[key] for key in NETWORK_KEYS},
        "score": {"data": intensities, "precision": speed["precision"]} | keep | _ranks(stage),
        "label": {key: network[key] for key in LABEL_KEYS} | _by_label(network) | keep,
        "speed": _as_resources(speed),
        "draw": drawing(stages, name),
        "volume": volume(tomograms),
    }


def _as_resources(speed):
    """What only changes how fast a stage goes, as text or whole numbers.

    Snakemake passes them to a script as resources, and does not compare those with the last run's.
    """
    tile_size, memory_gb = speed["tile_size"], speed["memory_gb"]
    return {
        "gpu": 0 if speed["device"] == "cpu" else 1,
        "device": speed["device"],
        "memory_gb": memory_gb if memory_gb == "auto" else f"{memory_gb:g}",
        "tile_size": "auto" if tile_size is None else ",".join(map(str, tile_size)),
        "batch_size": speed["batch_size"],
    }


def _asked_of_model(network):
    """What label_voxels will ask of the model, as resources: it is no reason to score again."""
    given = network | _by_label(network)
    return {
        "one_channel": int(network["postprocessing"]),
        "out_channels": network["out_channels"] or 0,
        "postprocessing_sizes": json.dumps(given["postprocessing_sizes"]),
        "threshold": json.dumps(given["threshold"]),
    }


def _by_label(network):
    """Sizes and thresholds given by label, the labels as numbers and in order."""
    given = {key: network[key] for key in ("threshold", "postprocessing_sizes")}
    return {
        key: {int(label): value[label] for label in sorted(value, key=int)}
        for key, value in given.items()
        if isinstance(value, dict)
    }


def _ranks(stage):
    """What thresholds by class need of the scores; nothing more where there is one for all."""
    by_class = isinstance(stage["parameters"]["network"]["threshold"], (list, dict))
    return {"runners_up": True} if by_class or chooses_thresholds(stage) else {}


def targets(stages):
    """Lists of the files that can be asked for, by target."""
    steps = ("simulate", "scale", "label", "train", "predict", "evaluate")
    files = {step: [] for step in (*steps, "thresholds", "demo")}
    for name in stages.simulate:
        given = simulation(stages, name)
        names = stages.names_by(stages.writer_of(given["paths"]["tomograms"]))
        for key in ("tomograms", "labels", "lamella"):
            files["simulate"] += [f"{given['paths'][key]}/{each}.mrc" for each in sorted(names)]
    for name, entry in stages.scale.items():
        folder = spelled(entry["output_path"])
        files["scale"] += [f"{folder}/{each}.mrc" for each in stages.names_to_scale(name)]
    for name, entry in stages.label.items():
        folder = spelled(entry["output_path"])
        files["label"] += [f"{folder}/{each}.mrc" for each in stages.names_to_label(name)]
    files["train"] = [stages.best_model(name) for name in stages.train]
    for name, stage in stages.predict.items():
        folder, extension = spelled(stage["prediction_folder"]), stage["file_extension"]
        ends = ["_preds.h5", f"_preds{extension}"][: 1 + stage["save_original_file_extension"]]
        for each in stages.names_to_predict(name):
            files["predict"] += [f"{folder}/{each}{end}" for end in ends]
        files["predict"] += _refused(stages, name)
    names = sorted(set(check_names(stages).values()))
    files["check"] = [f"checks/{check}.{end}" for check in names for end in ("tsv", "html")]
    for name in stages.stages_to_evaluate():
        files["evaluate"] += [*evaluation_files(stages, name), *_refused(stages, name)]
        if chooses_thresholds(stages.predict[name]):
            files["thresholds"] += threshold_files(stages, name)
    refused = [file for name in stages.predict for file in _refused(stages, name)]
    files["overview"] = [*overview_files(stages), *files["check"], *files["evaluate"], *refused]
    if stages.simulate:
        files["demo"] = files["overview"]
    return files | {"all": [file for step in steps for file in files[step]]}


def _refused(stages, name):
    """Admissions of a stage's tomograms that are no files: none is given, so the run names them."""
    folder = admissions(stages, "predict", name)
    return [f"{folder}/{each}.admitted" for each in stages.no_files_to_predict(name)]


def calibrations(stages):
    """Measurements of the stages whose model is there, and of trainings that can begin."""
    return [
        f"{spelled(stage['prediction_folder'])}/scores/calibration.json"
        for stage in stages.predict.values()
        if os.path.exists(stages.checkpoint(stage["trained_model"]))
    ] + [
        f"{training_folders(entry)['logs']}/calibration.json"
        for name, entry in stages.train.items()
        if not os.path.exists(stages.best_model(name)) and _can_begin(stages, entry)
    ]


def _can_begin(stages, entry):
    pretrained = entry["pretrained_model"]
    return pretrained is None or os.path.exists(stages.checkpoint(pretrained))


def all_outputs(stages, files):
    """The files of all targets, and what calibrate measures, each once."""
    asked = [file for target in files.values() for file in target]
    return list(dict.fromkeys([*asked, *calibrations(stages)]))


def asked_for(files, target):
    """The files of a target; where there are none, the run ends rather than do nothing.

    SystemExit, and not InputError, as Snakemake would show a traceback of anything else.
    """
    if not files[target]:
        raise SystemExit(
            f"the configuration names nothing for the target {target}; "
            "see config/config.yaml, and config/demo.yaml for the demo"
        )
    return files[target]

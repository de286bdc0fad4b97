"""What the rules of each entry are given, and the files that can be asked for.

Plain values only, each step with what it depends on and nothing else: a change in them is a reason
to run the step again.
"""

import json

from cryoseg.errors import InputError
from cryoseg.folders import WILDCARD, spelled
from cryoseg.stages import Tomograms

NETWORK_KEYS = ("in_channels", "spatial_dims", "out_channels")
INTENSITY_KEYS = ("min", "max", "mean", "std")
LABEL_KEYS = ("threshold", "postprocessing", "3d_postprocessing", "postprocessing_sizes")
# Labels 1, 2, ... of simulated tomograms; see cryoseg.simulation.
SIMULATED_CLASSES = ["membrane", "large particle", "small particle", "filament"]


def simulation(stages, name):
    """What rules/demo.smk is given for an entry under simulate."""
    entry = dict(stages.simulate[name])
    folder = spelled(entry.pop("output_path"))
    del entry["number"]
    paths = {"tomograms": folder, "labels": f"{folder}/labels", "lamella": f"{folder}/lamella"}
    drawn = drawn_stage(stages, name)
    if drawn is not None:
        folder, ending = stages.masks(drawn)
        paths |= {
            "pictures": f"{paths['tomograms']}/pictures",
            "predicted": stages.tomograms_to_predict(drawn).folder,
            "masks": folder,
            "mask_ending": ending,
            "predictions": spelled(stages.predict[drawn]["prediction_folder"]),
        }
    return {
        "paths": paths | _records(name),
        "settings": entry,
        "draw": None if drawn is None else {"class_names": SIMULATED_CLASSES},
        "volume": {"shape": entry["shape"], "files": []},
    }


def simulated_settings(settings, tomogram):
    """Arguments of a simulation for one tomogram: the entry's, with the tomogram's own seed."""
    number = int(tomogram.rpartition("_")[2])
    return settings | {"seed": settings["seed"] + number - 1}


def drawn_stage(stages, name):
    """The last stage that predicts an entry's simulated tomograms within masks, or None."""
    found = None
    for stage, entry in stages.predict.items():
        tomograms = stages.tomograms_to_predict(stage)
        while isinstance(tomograms.made, Tomograms):
            tomograms = tomograms.made
        writer = tomograms.writer
        if entry["mask_folder"] and writer and (writer.section, writer.name) == ("simulate", name):
            found = stage
    return found


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
        "paths": paths | _records(name),
        "settings": {key: entry[key] for key in keys},
        "volume": _volume(tomograms),
    }


def prediction(stages, name):
    """What rules/predict.smk is given for an entry under predict."""
    stage, tomograms, masks = stages.predict[name], stages.tomograms_to_predict(name), None
    network, speed = stage["parameters"]["network"], stage["hyper_parameters"]
    keep = {"save_internal_files": stage["save_internal_files"]}
    paths = {
        "tomograms": tomograms.folder,
        "extension": tomograms.extension,
        "checkpoint": spelled(stage["trained_model"]),
        "predictions": spelled(stage["prediction_folder"]),
    }
    if masks := stages.masks(name):
        paths |= {"masks": masks[0], "mask_ending": masks[1]}
    intensities = {key: stage["parameters"]["data"][key] for key in INTENSITY_KEYS}
    return {
        "paths": paths | _records(name),
        "masked": masks is not None,
        "mrc": stage["save_original_file_extension"],
        "labelling": _labelling(network),
        "inspect": {key: network[key] for key in NETWORK_KEYS},
        "score": {"data": intensities, "precision": speed["precision"]} | keep,
        "label": {key: network[key] for key in LABEL_KEYS} | _by_label(network) | keep,
        "speed": _as_resources(speed),
        "volume": _volume(tomograms),
    }


def _records(name):
    """Folders of logs and benchmarks of an entry."""
    return {"logs": f"logs/{name}", "benchmarks": f"benchmarks/{name}"}


def _volume(tomograms):
    """Where the size of a tomogram can be read, as job_resources.voxel_count wants it."""
    return {"shape": tomograms.shape, "files": tomograms.files}


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


def _labelling(network):
    """What label_voxels will ask of the model, as resources: it is no reason to score again."""
    sizes = _by_label(network).get("postprocessing_sizes", network["postprocessing_sizes"])
    return {
        "one_channel": int(network["postprocessing"]),
        "postprocessing_sizes": json.dumps(sizes),
    }


def _by_label(network):
    """Sizes given by label, the labels as numbers and in order."""
    sizes = network["postprocessing_sizes"]
    if not isinstance(sizes, dict):
        return {}
    return {"postprocessing_sizes": {int(label): sizes[label] for label in sorted(sizes, key=int)}}


def targets(stages):
    """Lists of the files that can be asked for, by target."""
    files = {"simulate": [], "scale": [], "predict": [], "demo": []}
    for name in stages.simulate:
        given = simulation(stages, name)
        names = stages.names_by(stages.writer_of(given["paths"]["tomograms"]))
        for key in ("tomograms", "labels", "lamella"):
            files["simulate"] += [f"{given['paths'][key]}/{each}.mrc" for each in sorted(names)]
        if given["draw"]:
            drawn = set(stages.names_to_predict(drawn_stage(stages, name))) & names
            files["demo"] += [f"{given['paths']['pictures']}/{each}.png" for each in sorted(drawn)]
    for name, entry in stages.scale.items():
        folder = spelled(entry["output_path"])
        files["scale"] += [f"{folder}/{each}.mrc" for each in stages.tomograms_to_scale(name).names]
    for name, stage in stages.predict.items():
        folder, extension = spelled(stage["prediction_folder"]), stage["file_extension"]
        ends = ["_preds.h5", f"_preds{extension}"][: 1 + stage["save_original_file_extension"]]
        for each in stages.names_to_predict(name):
            files["predict"] += [f"{folder}/{each}{end}" for end in ends]
    return files | {"all": files["simulate"] + files["scale"] + files["predict"]}


def asked_for(files, target):
    """The files of a target. Raises InputError where there are none, rather than do nothing."""
    if not files[target]:
        raise InputError(
            f"the configuration names nothing for the target {target}; "
            "see config/config.yaml, and config/demo.yaml for the demo"
        )
    return files[target]


def aliases(files):
    """Other names for the files whose own name Snakemake takes for a pattern, as in x{1}.mrc.

    Such a name can be the value of a wildcard, but not a target. Returns alias to name.
    """
    awkward = sorted({file for each in files.values() for file in each if WILDCARD.search(file)})
    return {f"alias-{number}.of": file for number, file in enumerate(awkward)}


def with_aliases(files, others):
    """The lists of files, with ``others`` (see aliases) in place of awkward names."""
    alias_of = {file: alias for alias, file in others.items()}
    return {target: [alias_of.get(file, file) for file in each] for target, each in files.items()}

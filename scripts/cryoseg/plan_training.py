"""What the rules of an entry under train are given."""

from cryoseg import schema_check
from cryoseg.folders import spelled
from cryoseg.job_resources import TRAIN_THREADS
from cryoseg.plan_checks import admissions
from cryoseg.plan_parts import aliases, records, volume, with_aliases
from cryoseg.training_stages import PATCH_KEYS, training_folders

FOLDER_KEYS = (
    "data_folder",
    "labels_folder",
    "labels_folder_for_filtering",
    "noisy_data_folder",
    "patches_folder",
    "temp_dir",
    "log_dir",
    "pretrained_model",
)
# What changes where and how fast a model is trained, and not the model.
PLACE_KEYS = ("nodes", "gpu_devices")
SPEED_KEYS = ("cache_rate", "device", "num_workers", "checkpoint_minutes")


def training(stages, name):
    """What rules/train.smk is given for an entry."""
    entry, tomograms = stages.train[name], stages.tomograms_to_train(name)
    folders = training_folders(entry)
    labels, filtered = stages.labels_to_train(name), stages.labels_to_filter(name)
    noisy, pretrained = stages.noisy_tomograms(name), entry["pretrained_model"]
    patches = [f"{folders['patches']}/{each}_patches.h5" for each in stages.names_to_train(name)]
    awkward = aliases({"patches": patches})
    data, network = entry["parameters"]["data"], entry["parameters"]["network"]
    channels = {"out_channels": network["out_channels"]}
    paths = {
        "tomograms": tomograms.folder,
        "extension": tomograms.extension,
        "labels": labels[0],
        "label_ending": labels[1],
        "distances": folders["distances"],
        "patches": folders["patches"],
        "models": f"{folders['logs']}/model",
        "admitted": admissions(stages, "train", name),
        "training_logs": folders["logs"],
        "training_pictures": f"{folders['logs']}/pictures",
    }
    if filtered:
        paths |= {"unfiltered": filtered[0], "unfiltered_ending": filtered[1]}
    if noisy:
        paths |= {"noisy": noisy[0], "noisy_ending": noisy[1]}
    if pretrained:
        paths |= {"pretrained": stages.checkpoint(pretrained)}
    return {
        "paths": paths | records(name),
        "name": name,
        "prepares": stages.prepared_by(name) == name,
        "filtered": filtered is not None,
        "noisy": noisy is not None,
        "filter": {key: entry[key] for key in ("selected_labels", "relabel")},
        "distances": channels,
        "cut": {key: data[key] for key in PATCH_KEYS} | channels,
        "train": {"config": training_configuration(stages, name)},
        "names": stages.names_to_train(name),
        "patches": with_aliases({"patches": patches}, awkward)["patches"],
        "aliases": awkward,
        "pretrained": pretrained is not None,
        "continue_training": entry["continue_training"],
        "speed": _as_resources(entry),
        "threads": _threads(entry),
        "job": _size(entry),
        "volume": volume(tomograms),
    }


def training_configuration(stages, name):
    """What a training depends on, as CryoSiam's files have it, each thing in one spelling.

    Without what only changes where and how fast it runs, and without continue_training, which must
    not train a finished model anew when it is taken back.
    """
    entry, schema = stages.train[name], schema_check.schema("training")
    config = schema_check.with_effect(entry, schema) | {"prediction_folder": None}
    del config["continue_training"], config["test_files"]
    for key in FOLDER_KEYS:
        config[key] = config[key] and spelled(config[key])
    validation = set(entry["val_files"] or ())
    files = [each + entry["file_extension"] for each in stages.names_to_train(name)]
    config["train_files"] = [file for file in files if file not in validation]
    config["val_files"] = entry["val_files"] and sorted(validation)
    for key in PLACE_KEYS:
        del config["parameters"][key]
    for key in SPEED_KEYS:
        del config["hyper_parameters"][key]
    if entry["pretrained_model"] is None:
        sizes = schema["properties"]["parameters"]["properties"]["backbone"]
        parameters = config["parameters"]
        parameters["backbone"] = schema_check.fill(parameters["backbone"] or {}, sizes)
    return config


def _size(entry):
    """What the memory of a training depends on, as job_resources.train_memory wants it."""
    speed, parameters = entry["hyper_parameters"], entry["parameters"]
    return {
        "batch_size": speed["batch_size"],
        "patch_size": parameters["data"]["patch_size"],
        "patch_overlap": parameters["data"]["patch_overlap"],
        "channels": parameters["network"]["out_channels"],
        "device": speed["device"],
        "processes": _per_node(entry),
        "cache_rate": speed["cache_rate"],
    }


def _per_node(entry):
    """Processes that train on each node, as many as its GPUs."""
    devices = entry["parameters"]["gpu_devices"]
    return len(devices) if isinstance(devices, list) else devices


def _threads(entry):
    """Processors that a training asks for: on several nodes, those of each of its processes."""
    several = entry["parameters"]["nodes"] > 1
    return max(1, TRAIN_THREADS // _per_node(entry)) if several else TRAIN_THREADS


def _as_resources(entry):
    """Where and how fast a model is trained, as text or whole numbers.

    Snakemake passes them to a script as resources, and does not compare those with the last run's.
    """
    speed, devices = entry["hyper_parameters"], entry["parameters"]["gpu_devices"]
    listed, nodes = isinstance(devices, list), entry["parameters"]["nodes"]
    count, on_gpu = _per_node(entry), speed["device"] != "cpu"
    several = {}
    if nodes > 1:
        # The job's own process starts the others with srun, so it must not be in a step of srun
        # itself, which is what mpi means. Without tasks_per_gpu, Slurm's executor would ask for all
        # tasks on each GPU; tasks per node it knows for two and more only.
        several = {
            "mpi": "srun",
            "tasks": count * nodes,
            "tasks_per_gpu": 0,
            "slurm_extra": f"--ntasks-per-node={count}",
        } | ({"gres": f"gpu:{count}"} if on_gpu else {})
    return several | {
        # GPUs of a job on several nodes are asked for by node.
        "gpu": count if on_gpu and nodes == 1 else 0,
        "nodes": nodes,
        "device": speed["device"],
        # A comma tells one GPU's index, "2,", from a number of GPUs.
        "gpu_devices": ",".join(map(str, devices)) + "," * (count == 1) if listed else devices,
        "num_workers": speed["num_workers"],
        "cache_rate": f"{speed['cache_rate']:g}",
        "checkpoint_minutes": f"{speed['checkpoint_minutes']:g}",
    }

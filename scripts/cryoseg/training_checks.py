"""What can be wrong with an entry under train beyond single values."""

import os
from collections import Counter

from cryoseg import folders
from cryoseg.folders import identity, nearest, some, unusable_path
from cryoseg.name_checks import look_alikes

FILE_KEYS = ("train_files", "val_files", "test_files")
RANGES = (
    "low_pass_sigma_range",
    "high_pass_sigma_range",
    "high_pass_sigma2_range",
    "noise_sigma_range",
    "scale_intensity_factors",
    "elastic",
    "zoom",
)


def training_mistakes(entry):
    """Values of a training that are wrong together, each as the end of a message."""
    data, transforms = entry["parameters"]["data"], entry["parameters"]["transforms"]
    if data["min"] >= data["max"]:
        yield (
            f"parameters.data.min is {data['min']:g} and max {data['max']:g}; min must be below max"
        )
    for key in RANGES:
        low, high = transforms[key] or (0, 0)
        if low > high:
            yield (
                f"parameters.transforms.{key} goes from {low:g} down to {high:g}; "
                "write the lower value first"
            )
    if (transforms["high_pass_sigma_range"] is None) != (
        transforms["high_pass_sigma2_range"] is None
    ):
        yield (
            "parameters.transforms.high_pass_sigma_range and high_pass_sigma2_range belong "
            "together; give both or neither"
        )
    yield from _network_mistakes(entry)
    if entry["hyper_parameters"]["patience"] is not None and not (
        entry["validation_ratio"] or entry["val_files"]
    ):
        yield (
            "hyper_parameters.patience is set, but validation_ratio is 0 and there are no "
            "val_files, so there is nothing to validate with; set patience to null, or one of those"
        )
    if transforms["use_noisy_input"] and not entry["noisy_data_folder"]:
        yield (
            "parameters.transforms.use_noisy_input is true, but noisy_data_folder is empty; "
            "name the folder of the noisy tomograms"
        )
    yield from _selection_mistakes(entry)
    yield from _weight_mistakes(entry)
    yield from _overlap_mistakes(entry)


def _network_mistakes(entry):
    """Sizes of the network that do not go together, or with the patches."""
    network, backbone = entry["parameters"]["network"], entry["parameters"]["backbone"] or {}
    kernel, padding = network["kernel_size"], network["padding"]
    if 2 * padding + 1 != kernel:
        remedy = f"set padding to {kernel // 2}" if kernel % 2 else "make kernel_size odd"
        yield (
            f"parameters.network.kernel_size is {kernel} and padding {padding}, which changes the "
            f"size of a patch; {remedy}"
        )
    if entry["pretrained_model"]:
        return  # its backbone is not known yet
    # As in network.NetworkSizes, which takes seconds to import.
    stride = 8 if backbone.get("decoder_type", "fpn") == "fpn" else 16
    stride *= 1 if backbone.get("no_max_pool", True) else 2
    if any(edge % stride for edge in entry["parameters"]["data"]["patch_size"]):
        yield (
            f"parameters.data.patch_size is {entry['parameters']['data']['patch_size']}; its edges "
            f"must be multiples of {stride}, the network's stride"
        )


def _selection_mistakes(entry):
    """Labels that are selected where nothing is filtered, or that the network has no class for."""
    selected, relabel = entry["selected_labels"], entry["relabel"]
    if not entry["labels_folder_for_filtering"]:
        for key, value in (("selected_labels", selected), ("relabel", relabel)):
            if value not in (None, False):
                yield (
                    f"{key} is {value}, but labels_folder_for_filtering is empty; name the folder "
                    f"of the labels to filter, or leave {key} out"
                )
        return
    channels = entry["parameters"]["network"].get("out_channels")
    if selected is None or channels is None:
        return
    listed = selected if isinstance(selected, list) else [1]
    if repeated := [label for label, count in Counter(listed).items() if count > 1]:
        yield f"selected_labels names {repeated[0]} more than once"
    highest, largest = len(set(listed)) if relabel else max(listed), max(channels - 1, 1)
    if highest > largest:
        wanted = "" if relabel else ", or use relabel: true"
        yield (
            f"selected_labels leads to the label {highest}, but a network with "
            f"parameters.network.out_channels {channels} has the classes 0 to {largest}; "
            f"set out_channels to {highest + 1}{wanted}"
        )


def _weight_mistakes(entry):
    """Weights that are to be kept, but come from nowhere; sizes that are given twice."""
    network = entry["parameters"]["network"]
    if entry["pretrained_model"]:
        if entry["parameters"]["backbone"] is not None:
            yield (
                "parameters.backbone gives the sizes of a backbone from scratch, but "
                "pretrained_model has its own; leave out one of the two"
            )
        return
    for part in ("backbone", "decoder"):
        if not network[f"unfreeze_{part}"]:
            yield (
                f"parameters.network.unfreeze_{part} is false, but there is no pretrained_model "
                f"whose {part} could be kept; set it to true, or name a pretrained_model"
            )


def _overlap_mistakes(entry):
    """Files that are listed twice, or both for training and for validation."""
    if both := sorted(set(entry["train_files"] or ()) & set(entry["val_files"] or ())):
        yield (
            f"{some(both)}: in train_files and in val_files; what a model is trained on must not "
            "validate it: remove each from one of them"
        )
    for key in FILE_KEYS:
        for file, count in Counter(entry[key] or ()).items():
            if count > 1:
                yield f"{key}: {file} is listed {count} times; once is enough"


def training_file_mistakes(stages, name, begin):
    """Files that a training wants and will not find; its tomograms can be listed."""
    entry, tomograms = stages.train[name], stages.tomograms_to_train(name)
    known = [each + tomograms.extension for each in tomograms.names]
    writer = tomograms.writer
    place = f"among the files that {writer} writes" if writer else f"in {tomograms.folder}"
    unknown = set()
    for key in FILE_KEYS:
        for file in sorted(set(entry[key] or ()) - set(known)):
            unknown.add(file)
            yield f"{begin}{key}: {file} is not {place}{nearest(file, known)}"
    if unknown:
        return
    names = stages.names_to_train(name)
    if not set(names) - {
        file.removesuffix(tomograms.extension) for file in entry["val_files"] or ()
    }:
        yield f"{begin}all tomograms are given to val_files or test_files; leave some to train on"
        return
    yield from _label_mistakes(stages, name, names, begin)
    if entry["parameters"]["transforms"]["use_noisy_input"] and entry["noisy_data_folder"]:
        remedy = "add them, or leave the tomograms out with train_files"
        read = ("noisy_data_folder", "noisy tomogram", stages.noisy_tomograms, remedy)
        yield from _companion_mistakes(stages, name, names, begin, read)


def _label_mistakes(stages, name, names, begin):
    """Tomograms without labels."""
    entry = stages.train[name]
    filtering = entry["labels_folder_for_filtering"]
    key = "labels_folder_for_filtering" if filtering else "labels_folder"
    if key not in entry:
        return
    method = stages.labels_to_filter if filtering else stages.labels_to_train
    remedy = "make these labels, or leave the tomograms out with train_files"
    yield from _companion_mistakes(stages, name, names, begin, (key, "labels", method, remedy))


def _companion_mistakes(stages, name, names, begin, read):
    """Tomograms without a file that belongs to them."""
    key, what, place_of, remedy = read
    entry = stages.train[name]
    writer = stages.writer_of(entry[key])
    if writer is None and (reason := folders.unreadable(entry[key])):
        yield f"{begin}{key} is {entry[key]}, {reason}"
        return
    folder, ending = place_of(name)
    if (
        identity(folder) == identity(entry.get("data_folder", ""))
        and ending == entry["file_extension"]
    ):
        yield f"{begin}{key} {folder} is data_folder too; a tomogram is not its own {what}"
        return
    made = stages.names_by(writer) if writer else set()
    lacking = [
        each
        for each in names
        if each not in made and not os.path.exists(f"{folder}/{each}{ending}")
    ]
    if lacking:
        makes = f"{writer} makes no {what}" if writer else f"{folder} holds no NAME{ending}"
        near = "" if writer else look_alikes(folder, ending, lacking)
        yield f"{begin}{key}: {makes} for {some(lacking)}{near}; {remedy}"


def checkpoint_mistakes(stages, path, begin, key):
    """A checkpoint that is not there and that no training will write."""
    if reason := unusable_path(path):
        yield f"{begin}{key} {path} {reason}"
    if stages.trainer_of(path) is not None or os.path.isfile(path):
        return
    found = "is no file" if os.path.exists(path) else "does not exist"
    written = [stages.best_model(each) for each in stages.train if stages.writes_model(each)]
    remedy = nearest(path, written) or "; name the model's checkpoint (.ckpt)"
    yield f"{begin}{key} {path} {found}{remedy}"

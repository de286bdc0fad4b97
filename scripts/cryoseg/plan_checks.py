"""What the rules that check tomograms are given: one folder of tomograms each.

Entries that read the same folder share its check. What a step of this workflow writes beside the
tomograms, such as masks and labels, is checked by the steps that read it: a check that waited for
it might wait for itself.
"""

import re
from collections import Counter
from hashlib import sha256

from cryoseg.folders import identity, spelled
from cryoseg.label_stages import sources
from cryoseg.plan_labels import POSITION_KEYS, labelling, particles_to_find
from cryoseg.plan_parts import aliases, records, volume, with_aliases
from cryoseg.volume_folders import Tomograms

SECTIONS = ("train", "predict")
# File systems take names of 255 bytes; rules and groups of jobs add to these.
LONGEST_NAME = 80


def check_names(stages):
    """{(section, entry): name of the check of the tomograms that it reads}.

    The name is that of the folder, whoever reads it: files below checks/NAME are inputs of scores,
    which another entry must not rename.
    """
    read = {
        (section, name): _place(_tomograms(stages, section, name))
        for section in SECTIONS
        for name in getattr(stages, section)
    }
    plain = {place: _plain_name(place) for place in set(read.values())}
    count = Counter(name.lower() for name in plain.values())
    unique = {
        place: f"{name}_{sha256(place.encode()).hexdigest()[:8]}"
        if count[name.lower()] > 1 or len(name) == LONGEST_NAME
        else name
        for place, name in plain.items()
    }
    return {reader: unique[place] for reader, place in read.items()}


def _tomograms(stages, section, name):
    method = {"train": stages.tomograms_to_train, "predict": stages.tomograms_to_predict}
    return method[section](name)


def _place(tomograms):
    """A folder and its extension as text, the same however the folder is spelled."""
    ending = "" if tomograms.extension == ".mrc" else tomograms.extension
    return spelled(identity(tomograms.folder)) + ending


def _plain_name(place):
    name = re.sub(r"\W+", "_", place, flags=re.ASCII).strip("_")[-LONGEST_NAME:]
    return name if name[:1].isalpha() else f"tomograms_{name}"[:LONGEST_NAME]


def admissions(stages, section, name):
    """Folder of the files that admit tomograms to an entry.

    Its own, whether one job admits to it and to others or not: another folder would be a reason to
    make anew all that was made of the tomograms.
    """
    return f"checks/{check_names(stages)[section, name]}/{section}_{name}"


def checks(stages):
    """{name: what rules/check.smk is given} of each folder of tomograms that is read."""
    readers = {}
    for reader, check in check_names(stages).items():
        readers.setdefault(check, []).append(reader)
    # In one order, however the configuration has them.
    return {check: _checking(stages, check, sorted(readers[check])) for check in readers}


def _checking(stages, check, readers):
    tomograms = min(
        (_tomograms(stages, *reader) for reader in readers), key=lambda each: each.folder
    )
    read_by, demands, companions, no_files, stopped, alike = {}, {}, {}, {}, {}, {}
    for section, name in readers:
        demand, place = _demand(stages, section, name), _companions(stages, section, name)
        called = _called(section, name, demand, place)
        demands[called] = demand
        if place:
            companions[called] = place
        alike.setdefault((section, _judged(demand, place)), []).append((name, called))
        if section == "train":
            stopped[called] = [f"the training {name}"]
            names = stages.names_to_train(name)
        else:
            stopped.setdefault(called, []).append(name)
            lost = stages.no_files_to_predict(name)
            no_files |= lost
            names = [*stages.names_to_predict(name), *lost]
        for tomogram in names:
            read_by.setdefault(tomogram, set()).add(called)
        if section == "predict" and stages.predict[name]["evaluate"]:
            evaluated = stages.names_to_evaluate(name)
            for called, (demand, place) in evaluation_demands(stages, name).items():
                demands[called], stopped[called] = demand, [f"the evaluation of {name}"]
                if place:
                    companions[called] = place
                for tomogram in evaluated:
                    read_by.setdefault(tomogram, set()).add(called)
    findings = [f"checks/{check}/{tomogram}.json" for tomogram in sorted(read_by)]
    awkward = aliases({"findings": findings})
    paths = {
        "tomograms": tomograms.folder,
        "extension": tomograms.extension,
        "checks": f"checks/{check}",
        "table": f"checks/{check}.tsv",
        "page": f"checks/{check}.html",
    }
    return {
        "name": check,
        "paths": paths | records(check),
        "admissions": list(_admissions(alike)),
        "readers": stopped,
        "read_by": {tomogram: sorted(wanted) for tomogram, wanted in read_by.items()},
        "demands": demands,
        "companions": companions,
        "positions": [
            *_positions(stages, tomograms),
            *(each for _, name in readers for each in _true_positions(stages, name, demands)),
        ],
        "no_files": no_files,
        "findings": with_aliases({"findings": findings}, awkward)["findings"],
        "aliases": awkward,
        "folders": {
            "names": [*tomograms.names, *tomograms.no_files],
            "tomograms": _on_disk(tomograms),
            "companions": [
                [*place, _beside(demands[called])] for called, place in companions.items()
            ],
        },
        "volume": volume(tomograms),
    }


def _judged(demand, place):
    """What decides whether a tomogram meets a demand, as text: without files beside it, its range.

    place: (folder, ending) of the files beside the tomograms, or None
    """
    return repr((demand, place) if place else (demand["min"], demand["max"]))


def _admissions(alike):
    """What admits tomograms: one job for all entries of a section whose demands are judged alike.

    alike: {(section, how they are judged): [(entry, name of its demand)]}
    """
    count = Counter(section for section, _ in alike)
    for (section, _), entries in alike.items():
        first, _ = entries[0]
        yield {
            "rule": f"admit_to_{section}" + (f"_{first}" if count[section] > 1 else ""),
            "folders": [f"{section}_{name}" for name, _ in entries],
            "demands": sorted({called for _, called in entries}),
        }


def _on_disk(tomograms):
    """[folder, extension] of what tomograms are made of, or None if a step writes that too."""
    while isinstance(tomograms.made, Tomograms):
        tomograms = tomograms.made
    return None if tomograms.writer else [tomograms.folder, tomograms.extension]


def _demand(stages, section, name):
    """What an entry wants of its tomograms."""
    entry = getattr(stages, section)[name]
    data, network = entry["parameters"]["data"], entry["parameters"]["network"]
    demand = {"section": section, "min": float(data["min"]), "max": float(data["max"])}
    if section == "predict":
        return demand
    return demand | {
        "out_channels": network["out_channels"],
        "patch_size": data["patch_size"],
        "filtered": bool(entry["labels_folder_for_filtering"]),
        "selected_labels": entry["selected_labels"],
        "relabel": entry["relabel"],
    }


def _beside(demand):
    """What the files are that an entry wants beside its tomograms."""
    return "labels" if demand["section"] == "train" or "classes" in demand else "masks"


def evaluation_section(name):
    """What the evaluation of a stage is called where a check says what it stops."""
    return f"evaluate_{name}"


def evaluation_demands(stages, name):
    """{what it is called: (demand, (folder, ending) or None)} of a stage's evaluation.

    Of what no step writes: its true labels, its masks, its positions.
    """
    stage, section = stages.predict[name], evaluation_section(name)
    demands = {}
    truth, masks = stages.true_labels(name), stages.evaluation_masks(name)
    if not stages.writer_of(truth[0]):
        demand = {"classes": _classes_predicted(stages, stage)}
        demands[section] = (demand, truth)
    if masks and not stages.writer_of(masks[0]):
        demands[f"{section}_within"] = ({}, masks)
    if stage["evaluate"]["positions"] is not None:
        demands[f"{section}_positions"] = ({}, None)
    return {
        called: (demand | {"section": section}, place)
        for called, (demand, place) in demands.items()
    }


def _classes_predicted(stages, stage):
    """How many classes a stage's model has, background included; None where only it can tell."""
    trainer = stages.trainer_of(stage["trained_model"])
    network = stages.train[trainer] if trainer else stage
    channels = network["parameters"]["network"]["out_channels"]
    return None if channels is None else max(2, channels)


def _true_positions(stages, name, demands):
    """As _positions, of the evaluation of a stage; ``demand`` is what its findings belong to."""
    called = f"{evaluation_section(name)}_positions"
    if called not in demands:
        return
    wanted = stages.predict[name]["evaluate"]
    yield {
        "names": dict.fromkeys(stages.names_to_evaluate(name)),
        "files": list(sources(wanted["positions"]).values()),
        "settings": particles_to_find(wanted),
        "demand": called,
    }


def _called(section, name, demand, place):
    """What a demand is called in the table: stages that want the same are one, whoever they are.

    So nothing is checked anew for one more stage that wants what the others do.
    """
    if section == "train":
        return f"train_{name}"
    masks = f"_within_{place[0]}" if place else ""
    return f"predict_{demand['min']:g}..{demand['max']:g}{masks}"


def _companions(stages, section, name):
    """(folder, ending) of the masks or labels that an entry reads and no step writes, or None."""
    if section == "predict":
        place = stages.masks(name)
    else:
        place = stages.labels_to_filter(name) or stages.labels_to_train(name)
    return None if place is None or stages.writer_of(place[0]) else place


def _positions(stages, tomograms):
    """[{names, files, settings}] of the entries that label these tomograms at positions."""
    folders, found = set(), []
    while isinstance(tomograms, Tomograms):  # scaled ones have the size of those they are made of
        folders.add(identity(tomograms.folder))
        tomograms = tomograms.made
    for name, entry in sorted(stages.label.items()):
        if entry["kind"] == "merge":
            continue
        if identity(stages.tomograms_to_label(name).folder) not in folders:
            continue
        given = labelling(stages, name)
        keys = (*POSITION_KEYS, "labels_of_files", "labels", "per_tomogram")
        found.append(
            {
                "names": dict.fromkeys(stages.names_to_label(name)),
                "files": given["positions"],
                "settings": {key: given["settings"][key] for key in keys},
            }
        )
    return found


def tomogram_of(given, tomogram):
    """File of a tomogram that its check reads; none of a link to nothing, nor of a folder."""
    paths = given["paths"]
    known = tomogram in given["no_files"]
    return [] if known else f"{paths['tomograms']}/{{tomogram}}{paths['extension']}"


def companions_of(given, tomogram):
    """Files beside a tomogram that its check reads, with {tomogram} for its name."""
    if tomogram in given["no_files"]:
        return []
    wanted = given["read_by"].get(tomogram, ())
    places = [given["companions"][each] for each in wanted if each in given["companions"]]
    return [f"{folder}/{{tomogram}}{ending}" for folder, ending in places]


def positions_of(given, tomogram):
    """Files of positions that its check reads."""
    if tomogram in given["no_files"]:
        return []
    each = [every["files"] for every in given["positions"] if tomogram in every["names"]]
    return [file for files in each for file in files]


def checked_for(given, tomogram):
    """What a tomogram is checked for, as scripts/check_tomogram.py wants it."""
    wanted = given["read_by"].get(tomogram, ())
    if tomogram in given["no_files"]:
        demands = {each: given["demands"][each] for each in wanted}
        return {"demands": demands, "no_file": given["no_files"][tomogram]}
    return {
        "demands": {each: given["demands"][each] for each in wanted},
        "companions": [each for each in wanted if each in given["companions"]],
        "positions": [
            {"files": len(each["files"])}
            | {key: value for key, value in each.items() if key not in ("names", "files")}
            for each in given["positions"]
            if tomogram in each["names"]
        ],
    }

"""What calibrate measured, where that was with the network and the settings of now."""

from pathlib import Path

from cryoseg.errors import InputError
from cryoseg.paces import START_SECONDS, benchmark_seconds
from cryoseg.provenance import canonical, read_record
from cryoseg.small_files import read_json


def scoring_calibration(step):
    """What rules/predict.smk measured for a step score_voxels, or None."""
    (scores,) = step.outputs["scores"]
    place = Path(scores).with_name("calibration.json")
    try:
        record = read_record(place) or {"settings": None}
        if canonical(record["settings"]) != canonical(step.settings):
            return None
        measured = [each["sha256"] for each in record["inputs"] if each["name"] == "checkpoint"]
        model = read_json(place.with_name("model.json"))
        return read_json(place) if measured == [model["sha256"]] else None
    except (FileNotFoundError, InputError):
        return None


def training_calibration(step):
    """What rules/train.smk measured for a step train_model, or None."""
    (checkpoint,) = step.outputs["checkpoint"]
    place = Path(checkpoint).parents[1] / "calibration.json"
    try:
        record = read_record(place) or {"settings": None}
        same = canonical(record["settings"]) == canonical(step.settings)
        return read_json(place) if same else None
    except (FileNotFoundError, InputError):
        return None


def begin_seconds(table, calibration):
    """Seconds before a job's script begins its work: what calibrate took beside its own work.

    table: that Snakemake wrote of the calibration
    """
    took = benchmark_seconds(table)
    return START_SECONDS["inspect_model"] if took is None else max(took - calibration["seconds"], 0)

"""Turn the scores of one tomogram into a lamella mask or classes."""

import json
import logging
from pathlib import Path

from cryoseg.errors import InputError, quoted
from cryoseg.joblog import log_to
from cryoseg.postprocessing import label_scores
from cryoseg.predictions import both_steps, write_predictions
from cryoseg.provenance import header_lines, input_hashes, recorded
from cryoseg.scores import open_scores
from cryoseg.versions import versions
from cryoseg.volumes import open_mask, open_volume, write_mrc, written_aside

log = logging.getLogger("cryoseg")


def label_voxels(scores, tomogram, labels, mask=None, mrc=None, *, settings, scored):
    """Write the predictions of a tomogram.

    scores:   what score_voxels wrote of it
    labels:   HDF5 file to write, `{tomogram}_preds.h5`
    mask:     file with the mask outside which labels are 0, if any
    mrc:      MRC file to write too, which lies on the tomogram, if any
    settings: {threshold (null: by the model), postprocessing, 3d_postprocessing,
              postprocessing_sizes, save_internal_files}
    scored:   settings of score_voxels that the scores must be of
    """
    name = Path(labels).name.removesuffix("_preds.h5")
    volume = open_volume(tomogram)
    with open_scores(scores) as source:
        if source["probability"].shape != volume.shape:
            raise InputError(
                f"{scores}: the scores are {source['probability'].shape}, {tomogram} is "
                f"{volume.shape}; delete the scores, so that they are computed anew"
            )
        made_with = json.loads(source.attrs["settings"]).get("data")
        if made_with != scored["data"]:
            raise InputError(
                f"{scores}: the scores were computed with parameters.data {quoted(made_with)}, "
                f"the stage has {scored['data']}; delete them, so that they are computed anew"
            )
        inside = open_mask(mask, volume.shape) if mask else None
        found, used = label_scores(name, source, inside, settings)
        about = {
            "tomogram": name,
            "inputs": both_steps(source, "inputs", input_hashes(mask=mask)),
            "settings": both_steps(source, "settings", used),
            "versions": both_steps(source, "versions", versions("connected-components-3d")),
        }
        with written_aside(labels) as aside:
            write_predictions(aside, found, source, about, settings["save_internal_files"])
        made_of = json.loads(about["inputs"])["score_voxels"]
        made_of["checkpoint"] = source.attrs["checkpoint_sha256"]
    if mrc:
        told = header_lines(json.loads(about["settings"]), made_of)
        write_mrc(mrc, found, like=volume, about=told)


if __name__ == "__main__":
    with log_to(snakemake.log[0]), recorded(snakemake, headers=["tomogram"]):
        label_voxels(**snakemake.input, **snakemake.output, **snakemake.params)

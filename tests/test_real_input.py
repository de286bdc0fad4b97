"""A real tomogram goes through scaling and both stages, and the result lies on it.

The models were trained on small simulations, so what they find in it means nothing.
"""

import shutil

import h5py
import mrcfile
import numpy as np
import pytest

from test_workflow import RAW, Lab


@pytest.mark.slow
def test_a_real_tomogram_is_predicted_and_the_labels_lie_on_it(real_data, data, tmp_path):
    lab = Lab(tmp_path)
    (source,) = (path for path in real_data.glob("*.mrc") if path.stem.endswith("A"))
    (tmp_path / RAW).mkdir()
    shutil.copy(source, tmp_path / RAW)
    for stage in ("lamella", "semantic"):
        shutil.copy(data / f"{stage}.ckpt", tmp_path)
        lab.write_stage(stage)
    scaling = {"input_path": RAW, "output_path": "scaled", "invert": True}
    stages = {name: f"config/{name}.yaml" for name in ("lamella", "semantic")}
    lab.write_config(scale={"raw": scaling}, predict=stages)
    lab.run()
    results = tmp_path / "predictions" / "semantic"
    with (
        mrcfile.open(source) as tomogram,
        mrcfile.open(results / f"{source.stem}_preds.mrc") as labels,
        h5py.File(results / f"{source.stem}_preds.h5") as predictions,
    ):
        assert labels.data.shape == tomogram.data.shape
        for field in ("cella", "origin", "nxstart", "nystart", "nzstart", "mx", "my", "mz"):
            assert labels.header[field] == tomogram.header[field], field
        assert labels.data.dtype == np.int8
        np.testing.assert_array_equal(labels.data, predictions["labels"][...])
        assert labels.data.any()

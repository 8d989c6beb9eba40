"""Files of every release so far are read, and predict what they did when they were written."""

import json

import numpy as np
import pandas as pd
import pytest

from sktorch_mlp import load
from tests.estimators.helpers import outputs
from tests.estimators.stored import FOLDER

FILES = sorted(FOLDER.glob("*/*.safetensors"))


@pytest.mark.parametrize("path", FILES, ids=[f"{path.parent.name}-{path.stem}" for path in FILES])
def test_a_stored_file(path):
    assert path.stat().st_size < 50_000
    model = load(path)
    expected = json.loads(path.with_suffix(".json").read_text())
    rows = pd.DataFrame(expected["rows"]["data"], columns=expected["rows"]["columns"])
    rows = rows if hasattr(model, "feature_names_in_") else rows.to_numpy()
    # Of other processors the last bits differ; those of float32 are 1e-7.
    np.testing.assert_allclose(outputs(model, rows), expected["outputs"], rtol=1e-5, atol=1e-6)
    assert model.history_
    if hasattr(model, "partial_fit"):
        model.set_params(early_stopping=False).partial_fit(rows, model.predict(rows))
        assert model.history_[-1]["epoch"] == len(model.loss_curve_)


def test_there_are_files_of_all_estimators():
    classes = {type(load(path)).__name__ for path in FILES}
    assert classes == {"MLPTorchClassifier", "MLPTorchRegressor", "TabularMLPClassifier", "TabularMLPRegressor"}

"""Files that a release has written, with predictions: what later ones have to read. To write those of a release:

python -m tests.estimators.stored
"""

import json
import warnings
from pathlib import Path

import pandas as pd

import sktorch_mlp
from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor
from tests.estimators.helpers import LABELS, NUMBERS, X, outputs
from tests.estimators.tables import SMALL, table

FOLDER = Path(__file__).parents[1] / "data" / "files"
ROWS = pd.DataFrame(X, columns=["sepal length", "sepal width", "petal length", "petal width"])
NAMES = pd.Series(["setosa", "versicolor", "virginica"], dtype=object)[LABELS].to_numpy()


def _models():
    """Fitted estimators by name, and their rows."""
    common = {"hidden_layer_sizes": (6, 5), "max_iter": 30, "random_state": 0}
    drawn = {"hyperparameters": {"dropout": [0.0, 0.3], "hidden_layer_sizes": [(8,), (6, 4)]}, "n_candidates": 3}
    frame, levels = table()
    yield "classifier", MLPTorchClassifier(normalization="batch", dropout=0.1, **common).fit(ROWS, NAMES), ROWS
    yield "regressor", MLPTorchRegressor(solver="sgd", early_stopping=True, **common).fit(X, NUMBERS), ROWS
    yield "tabular_classifier", TabularMLPClassifier(**SMALL, **drawn).fit(frame, levels), frame
    waves = {"numerical_embedding": "periodic", "dtype": "float64"}
    yield "tabular_regressor", TabularMLPRegressor(**SMALL, **waves).fit(frame, frame["height"] + frame["flag"]), frame


def store():
    """Write the files of this release, and what they predict."""
    folder = FOLDER / sktorch_mlp.__version__
    folder.mkdir(parents=True, exist_ok=True)
    for name, model, rows in _models():
        model.save(folder / f"{name}.safetensors")
        few = rows.iloc[:12]
        expected = {"rows": json.loads(few.to_json(orient="split")), "outputs": outputs(model, few).tolist()}
        (folder / f"{name}.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    store()

"""Try what pip has installed, with nothing but what it requires: `python tests/smoke.py`, with the package installed.

CI runs this in an environment that has the built wheel alone. What needs an extra is tried as well: it works, or says which.
"""

import pickle
import warnings
from importlib import import_module
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import sktorch_mlp
from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor, stacked_fits
from sktorch_mlp.callbacks import LiveMetrics

X, Y = load_iris(return_X_y=True)
COMMON = {"hidden_layer_sizes": (16,), "max_iter": 20, "random_state": 0}
OURS = COMMON | {"device": "cpu"}  # where the numbers are those of scikit-learn


def check_files():
    """The package is that of pip, has its types, and brings no other folder, such as the tests."""
    installed = distribution("sktorch-mlp")
    names = {str(name) for name in installed.files}
    assert Path(sktorch_mlp.__file__) == Path(installed.locate_file("sktorch_mlp/__init__.py")), sktorch_mlp.__file__
    assert "sktorch_mlp/py.typed" in names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"sktorch_mlp"}
    assert installed.version == sktorch_mlp.__version__
    assert any(name.endswith("licenses/LICENSE") for name in names)


def check_answers():
    """Both MLPs have the weights and predictions of scikit-learn, also after a pickle."""
    for ours, theirs in ((MLPTorchClassifier, MLPClassifier), (MLPTorchRegressor, MLPRegressor)):
        model, reference = ours(**OURS).fit(X, Y), theirs(**COMMON).fit(X, Y)
        np.testing.assert_allclose(model.coefs_[0], reference.coefs_[0], rtol=1e-6, atol=1e-9)  # 20 epochs of rounding
        outputs = "predict_proba" if hasattr(model, "predict_proba") else "predict"
        expected = getattr(reference, outputs)(X)
        np.testing.assert_allclose(getattr(model, outputs)(X), expected, rtol=1e-6, atol=1e-9)
        twin = pickle.loads(pickle.dumps(model))
        np.testing.assert_array_equal(twin.predict(X), model.predict(X))


def search(mlp):
    """A grid search over a pipeline."""
    pipeline = make_pipeline(StandardScaler(), mlp)
    return GridSearchCV(pipeline, {f"{type(mlp).__name__.lower()}__alpha": [1e-4, 10.0]}, cv=3).fit(X, Y)


def check_search():
    """A search finds the same alone, in stacks, and with scikit-learn's MLP."""
    expected = search(MLPClassifier(**COMMON))
    alone = search(MLPTorchClassifier(**OURS))
    with stacked_fits():
        stacked = search(MLPTorchClassifier(**OURS))
    for found in (alone, stacked):
        np.testing.assert_allclose(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])


def check_tables():
    """Frames with strings and missing values, also after a pickle; skorch trains what we hand over."""
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"]).mask(np.arange(600).reshape(150, 4) % 7 == 0)
    frame["e"] = np.array(["red", "green", None], dtype=object)[np.arange(150) % 3]
    names = np.array(["setosa", "versicolor", "virginica"])[Y]
    for estimator, y in ((TabularMLPClassifier, names), (TabularMLPRegressor, X[:, 0])):
        model = estimator(n_estimators=2, random_state=0, device="cpu").fit(frame, y)
        assert model.score(frame, y) > 0.7
        np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(frame), model.predict(frame))
    net = MLPTorchClassifier(**OURS).fit(X, Y).to_skorch()
    assert net.predict(X).shape == (150,)


#: Optional library, the extra that has it, what needs it, and a call that does.
OPTIONAL = [
    ("matplotlib", "plot", "LossCurveDisplay", lambda model: sktorch_mlp.LossCurveDisplay.from_estimator(model)),
    ("matplotlib", "plot", "SearchDisplay", lambda model: sktorch_mlp.SearchDisplay.from_search(search(model))),
    ("rich", "progress", "LiveMetrics", lambda model: LiveMetrics()),
    ("safetensors", "safetensors", "Saving or loading an estimator", lambda model: model.save("model.safetensors")),
    (
        "safetensors",
        "safetensors",
        "Saving or loading an estimator",
        lambda model: sktorch_mlp.load("model.safetensors"),
    ),
    ("skl2onnx", "onnx", "sktorch_mlp.onnx", lambda model: import_module("sktorch_mlp.onnx")),
]


def check_optional():
    """What needs a library that is not installed says how to get it."""
    model = MLPTorchClassifier(**OURS).fit(X, Y)
    for library, extra, feature, call in OPTIONAL:
        if find_spec(library) is None:
            message = error_of(call, model)
            print(f"  {message}")
            assert message == f'{feature} needs {library}: pip install "sktorch-mlp[{extra}]"'


def error_of(call, model):
    """Message of the ImportError of a call."""
    try:
        call(model)
    except ImportError as error:
        return str(error)
    return "no error"


def main():
    """Run all checks."""
    warnings.simplefilter("ignore")  # few epochs
    for check in (check_files, check_answers, check_search, check_tables, check_optional):
        print(check.__doc__.partition("\n")[0])
        check()
    print("ok")


if __name__ == "__main__":
    main()

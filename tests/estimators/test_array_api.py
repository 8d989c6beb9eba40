"""Tensors in, tensors out: fits and predictions under scikit-learn's array API dispatch.

scipy decides about it when it is imported, by a variable. `test_dispatch.py` runs these tests in a process that has it.
"""

import copy
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import sklearn
import torch
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.callback import ScoringMonitor
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._array_api import get_namespace_and_device, move_estimator_to, move_to

from sktorch_mlp import TabularMLPClassifier, TabularMLPRegressor, stacked_fits
from sktorch_mlp._data.rows import Rows
from tests.estimators.helpers import KINDS, LABELS, MULTILABEL, NUMBERS, TARGETS, TWO_NUMBERS, WEIGHTS, X, ours
from tests.simulated.devices import on_device

if os.environ.get("SCIPY_ARRAY_API") != "1":
    pytest.skip("test_dispatch.py runs these with SCIPY_ARRAY_API=1", allow_module_level=True)
strict = pytest.importorskip("array_api_strict")

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

NAMESPACES = {
    "torch": torch.asarray,
    "strict": strict.asarray,
    "strict device1": lambda array: strict.asarray(array, device=strict.Device("device1")),
}
METHODS = ("predict", "predict_proba", "predict_log_proba")
SMALL_TABLE = {"n_estimators": 2, "hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}


@pytest.fixture(autouse=True)
def dispatch():
    """Have scikit-learn dispatch by the library of arrays."""
    with sklearn.config_context(array_api_dispatch=True):
        yield


def to_numpy(array):
    return move_to(array, xp=np, device="cpu")


def methods_of(model):
    return [getattr(model, name) for name in METHODS if hasattr(model, name)]


def check_same(model, given, expected, rows=X):
    """A model answers in the library and on the device of what it is given, with the numbers of another."""
    for method, reference in zip(methods_of(model), methods_of(expected), strict=True):
        predicted = method(given)
        assert get_namespace_and_device(predicted) == get_namespace_and_device(given)
        predicted, wanted = to_numpy(predicted), to_numpy(reference(rows))
        assert predicted.dtype == wanted.dtype
        if method.__name__ == "predict_log_proba":  # PyTorch's logarithm may have another last bit
            assert_allclose(predicted, wanted, rtol=4 * np.finfo(wanted.dtype).eps)
        else:
            assert_array_equal(predicted, wanted)


# Predictions follow X --------------------------------------------------------------------


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
def test_predictions_follow_X(kind, namespace, dtype):
    rows, make = (X * 40).astype(dtype), NAMESPACES[namespace]
    expected = ours(kind).fit(rows, TARGETS[kind])
    model = ours(kind).fit(make(rows), make(TARGETS[kind]))
    check_same(model, make(rows), expected, rows)
    assert all(isinstance(array, np.ndarray) for array in (*model.coefs_, *model.intercepts_))


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize(
    "labels",
    [LABELS > 0, LABELS > 0.5, LABELS.astype(np.float32), 7 * LABELS.astype(np.int8), np.zeros(len(LABELS), int), MULTILABEL],
    ids=["bool", "binary", "float32", "int8", "one class", "multilabel"],
)  # fmt: skip
def test_labels_are_those_of_y(namespace, labels):
    make = NAMESPACES[namespace]
    model = ours("classifier").fit(make(X), make(labels))
    check_same(model, make(X), ours("classifier").fit(X, labels))
    assert to_numpy(model.predict(make(X))).dtype == labels.dtype
    if labels.ndim == 1 and labels.any():
        theirs = LogisticRegression().fit(make(X), make(labels)).predict(make(X))
        assert model.predict(make(X)).dtype == theirs.dtype


@pytest.mark.parametrize("theirs", [LogisticRegression(), LinearDiscriminantAnalysis()], ids=["logistic", "lda"])
def test_texts_as_labels_stay_with_numpy_as_in_scikit_learn(theirs):
    names = np.array(["a", "b", "c"])[LABELS]
    tensor = torch.asarray(X)
    model = ours("classifier", max_iter=300).fit(tensor, names)
    if isinstance(theirs, LogisticRegression):
        assert type(theirs.fit(tensor, names).predict(tensor)) is np.ndarray
    predicted = model.predict(tensor)
    assert type(predicted) is np.ndarray
    assert_array_equal(predicted, ours("classifier", max_iter=300).fit(X, names).predict(X))
    assert isinstance(model.predict_proba(tensor), torch.Tensor)
    assert model.score(tensor, names) == ours("classifier", max_iter=300).fit(X, names).score(X, names)


def test_labels_of_another_byte_order():
    model = ours("classifier").fit(torch.asarray(X), LABELS.astype(">i8"))
    assert_array_equal(model.predict(torch.asarray(X)), ours("classifier").fit(X, LABELS).predict(X))


def test_two_outputs_of_a_regressor():
    model = ours("regressor").fit(torch.asarray(X), torch.asarray(TWO_NUMBERS))
    check_same(model, torch.asarray(X), ours("regressor").fit(X, TWO_NUMBERS))


@pytest.mark.parametrize("class_", [TabularMLPClassifier, TabularMLPRegressor])
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_tables(class_, namespace):
    make = NAMESPACES[namespace]
    y = LABELS if class_ is TabularMLPClassifier else NUMBERS
    model = class_(**SMALL_TABLE).fit(make(X), make(y), make(WEIGHTS))
    expected = class_(**SMALL_TABLE).fit(X, y, WEIGHTS)
    check_same(model, make(X), expected)
    assert model.score(make(X), make(y), make(WEIGHTS)) == pytest.approx(expected.score(X, y, WEIGHTS))
    assert_array_equal(model.oof_prediction_, expected.oof_prediction_)


# Fits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", NAMESPACES)
@pytest.mark.parametrize("other", ["torch", "strict", "numpy", "list"])
@pytest.mark.parametrize("kind", KINDS)
def test_targets_and_weights_follow_X(kind, namespace, other):
    make = NAMESPACES[namespace]
    make_other = {**NAMESPACES, "numpy": np.asarray, "list": list}[other]
    y, weights = make_other(TARGETS[kind]), make_other(WEIGHTS)
    model = ours(kind).fit(make(X), y, weights)
    expected = ours(kind).fit(X, TARGETS[kind], WEIGHTS)
    check_same(model, make(X), expected)
    if other != "list":  # which metrics of scikit-learn do not move
        expected = expected.score(X, TARGETS[kind], WEIGHTS)
        assert model.score(make(X), y, weights) == pytest.approx(expected, rel=1e-12)


def test_targets_of_a_device_for_rows_of_the_host():
    y, weights = NAMESPACES["strict device1"](LABELS), torch.asarray(WEIGHTS)
    model, expected = ours("classifier").fit(X, y, weights), ours("classifier").fit(X, LABELS, WEIGHTS)
    check_same(model, X, expected)
    assert model.score(X, y, weights) == expected.score(X, LABELS, WEIGHTS)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_partial_fit(namespace):
    make = NAMESPACES[namespace]
    model, expected = ours("classifier"), ours("classifier")
    for _ in range(3):
        model.partial_fit(make(X), make(LABELS), make(WEIGHTS), classes=make(np.arange(3)))
        expected.partial_fit(X, LABELS, WEIGHTS, classes=np.arange(3))
    check_same(model, make(X), expected)


@pytest.mark.parametrize(
    "params",
    [
        {"early_stopping": True},
        {"early_stopping": True, "scoring": "balanced_accuracy"},
        {"solver": "lbfgs"},
        {"dtype": "float32", "class_weight": "balanced"},
        {"warm_start": True, "normalization": "batch", "dropout": 0.1},
    ],
    ids=lambda params: "-".join(params),
)
def test_fits_are_those_of_arrays(params):
    tensors, arrays = map(torch.asarray, (X, LABELS, WEIGHTS)), (X, LABELS, WEIGHTS)
    model, expected = ours("classifier", **params).fit(*tensors), ours("classifier", **params).fit(*arrays)
    check_same(model, torch.asarray(X), expected)


def test_validation_data():
    tensors, arrays = [torch.asarray(part) for part in (X, LABELS)], (X, LABELS)
    model = ours("classifier", scoring="balanced_accuracy").fit(*tensors, X_val=tensors[0], y_val=tensors[1])
    expected = ours("classifier", scoring="balanced_accuracy").fit(*arrays, X_val=X, y_val=LABELS)
    assert model.validation_scores_ == expected.validation_scores_
    assert model.validation_loss_curve_ == expected.validation_loss_curve_


T = torch.from_numpy(X)
TENSORS = {
    "bfloat16": lambda: T.bfloat16(),
    "float16": lambda: T.half(),
    "uint8": lambda: (40 * T).byte(),
    "bool": lambda: T > 1,
    "columns": lambda: T.T.contiguous().T,
    "requires_grad": lambda: T.clone().requires_grad_(),
    "sparse": lambda: T.to_sparse(),
    "negative bit": lambda: torch.complex(T, -T).conj().imag,
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_of_rarer_kinds(name):
    tensor = TENSORS[name]()
    with sklearn.config_context(array_api_dispatch=False):
        expected = ours("classifier").fit(tensor, LABELS).predict_proba(tensor)
    predicted = ours("classifier").fit(tensor, LABELS).predict_proba(tensor)
    assert type(predicted) is torch.Tensor
    assert not predicted.requires_grad
    assert_allclose(predicted.numpy(), expected, rtol=1e-6 if name == "float16" else 1e-12)


def test_inference_tensors():
    with torch.inference_mode():
        tensor = T.clone()
        model = ours("classifier", activation=torch.nn.functional.softplus).fit(tensor, LABELS)
        predicted = model.predict_proba(tensor)
    expected = ours("classifier", activation=torch.nn.functional.softplus).fit(T, LABELS).predict_proba(T)
    assert_array_equal(predicted.numpy(), expected.numpy())


def test_frames_sparse_matrices_and_lists_give_arrays():
    for rows in (pd.DataFrame(X), sp.csr_array(X), X.tolist()):
        predicted = ours("classifier").fit(rows, LABELS).predict_proba(rows)
        assert type(predicted) is np.ndarray
        assert_allclose(predicted, ours("classifier").fit(X, LABELS).predict_proba(X))


# Wrong input -----------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_errors_are_those_of_arrays(namespace):
    make = NAMESPACES[namespace]
    model = ours("classifier").fit(make(X), make(LABELS))
    with pytest.raises(ValueError, match="Input X contains NaN"):
        ours("classifier").fit(make(np.full_like(X, np.nan)), make(LABELS))
    with pytest.raises(ValueError, match="X contains infinity"):
        model.predict(make(np.full_like(X, np.inf)))
    with pytest.raises(ValueError, match="X has 3 features, but MLPTorchClassifier is expecting 4"):
        model.predict(make(X[:, :3]))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        ours("classifier").fit(make(X), make(LABELS[:-1]))
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        model.predict(make(X[0]))
    with pytest.raises(sklearn.exceptions.NotFittedError):
        ours("classifier").predict(make(X))


def test_complex_tensors_are_refused():
    with pytest.raises(ValueError, match="Complex data not supported"):
        ours("classifier").fit(torch.complex(T, T), LABELS)


# Another library than that of the fit -----------------------------------------------------

REFUSED = r"{}\.{}\(\) must use the same namespace and the same device as those passed to fit\(\)"


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_tensors_refuses_other_arrays_as_scikit_learn_does(kind):
    model = ours(kind).fit(T, TARGETS[kind])
    for method in methods_of(model):
        for rows in (X, X.tolist(), strict.asarray(X)):
            with pytest.raises(ValueError, match=REFUSED.format(type(model).__name__, method.__name__)):
                method(rows)


def test_the_remedy_of_the_error():
    pipeline = make_pipeline(StandardScaler(), ours("classifier")).fit(T, LABELS)
    mlp, before = pipeline[-1], pipeline[-1].coefs_[0].copy()
    moved = move_estimator_to(pipeline, np, "cpu")
    assert_array_equal(moved.predict_proba(X), pipeline.predict_proba(T))
    moved[-1].partial_fit(X, LABELS)
    assert_array_equal(mlp.coefs_[0], before)
    xp, _, device = get_namespace_and_device(NAMESPACES["strict device1"](X))
    moved = move_estimator_to(mlp, xp, device)
    check_same(moved, NAMESPACES["strict device1"](X), copy.copy(mlp), T)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_model_without_such_a_fit_takes_arrays_of_any_library(pickled):
    with sklearn.config_context(array_api_dispatch=pickled):
        model = ours("classifier").fit(T, LABELS)
    if pickled:
        model = pickle.loads(pickle.dumps(model))
    expected = ours("classifier").fit(X, LABELS)
    for make in (np.asarray, *NAMESPACES.values()):
        check_same(model, make(X), expected)


def test_the_last_fit_counts():
    model = ours("classifier").fit(T, LABELS).fit(X, LABELS)
    assert type(model.predict(X)) is np.ndarray
    with pytest.raises(ValueError, match="must use the same namespace"):
        model.predict(T)
    with sklearn.config_context(array_api_dispatch=False):
        assert type(model.predict(T)) is np.ndarray


# Around the estimators --------------------------------------------------------------------


def test_callbacks_and_scorers_of_scikit_learn():
    monitor = ScoringMonitor(scoring="accuracy")
    model = ours("classifier").fit(X, LABELS)  # of another library
    model.set_callbacks(monitor).fit(T, torch.asarray(LABELS))
    assert len(monitor.get_logs().data_as_pandas) == 1 + model.n_iter_


@pytest.mark.parametrize("stacked", [False, True])
def test_searches(stacked):
    pipeline = make_pipeline(StandardScaler(), ours("classifier"))
    grid = {"mlptorchclassifier__alpha": [1e-4, 1.0]}
    expected = GridSearchCV(pipeline, grid, cv=3).fit(X, LABELS)
    search = GridSearchCV(pipeline, grid, cv=3)
    if stacked:
        with stacked_fits():
            search.fit(T, torch.asarray(LABELS))
    else:
        search.fit(T, torch.asarray(LABELS))
    assert_allclose(search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    assert isinstance(search.predict(T), torch.Tensor)


def test_cross_validation():
    results = cross_validate(ours("regressor"), T, torch.asarray(NUMBERS), cv=3)
    expected = cross_validate(ours("regressor"), X, NUMBERS, cv=3)
    assert_allclose(results["test_score"], expected["test_score"])


def test_the_example_of_the_guide(capsys):
    """Its fences say "py", as the other examples run without dispatch."""
    page = (Path(__file__).parents[2] / "docs/guide/devices.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```py\n(.*?)```", page, flags=re.DOTALL)
    (block,) = (block for block in blocks if "array_api_dispatch" in block)
    namespace = {}
    exec(compile(block, "devices.md", "exec"), namespace)
    assert capsys.readouterr().out == "<class 'torch.Tensor'> cpu\n"
    assert namespace["accuracy"] > 0.9


# Copies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [LABELS, LABELS > 0, MULTILABEL], ids=["multiclass", "binary", "multilabel"])
def test_a_pipeline_stays_on_the_device(labels, devices):
    """The targets are encoded on the host, and weights and losses are published there. Rows and predictions stay."""
    mlp = ours("classifier", device="cuda", dtype="float64")
    rows, y = on_device(X), on_device(labels)
    pipeline = make_pipeline(StandardScaler(), mlp).fit(rows, y)
    weights = [*mlp.coefs_, *mlp.intercepts_]
    # The factor of its penalty for each of three batches, the loss of each epoch, and numbers that are checked.
    copies = [copy.n_values for copy in devices.to_host if copy.call != "item"]
    assert sorted(copies) == sorted([labels.size, 3, *[1] * mlp.n_iter_, *map(np.size, weights)])
    devices.clear()
    predicted = [method(rows) for method in methods_of(pipeline)]
    assert all(each.device == rows.device for each in predicted)
    pipeline.score(rows, y)
    assert {copy.n_values for copy in devices.to_host} == {1}
    expected = make_pipeline(StandardScaler(), ours("classifier")).fit(X, labels)
    for each, method in zip(predicted, methods_of(expected), strict=True):
        assert_allclose(each.cpu().numpy(), method(X))


def test_a_regressor_stays_on_the_device(devices):
    mlp = ours("regressor", device="cuda", dtype="float64")
    rows, y = on_device(X), on_device(NUMBERS)
    mlp.fit(rows, y)
    devices.clear()
    predicted = mlp.predict(rows)
    mlp.score(rows, y)
    assert {copy.n_values for copy in devices.to_host} == {1}  # numbers of the score
    assert_allclose(predicted.cpu().numpy(), ours("regressor").fit(X, NUMBERS).predict(X))


def test_a_model_of_the_host_answers_on_the_device(devices):
    """One copy of the rows goes to the host, where the model predicts."""
    mlp = ours("classifier", device="cpu").fit(on_device(X), LABELS)
    devices.clear()
    predicted = mlp.predict_proba(on_device(X))
    assert [copy.n_values for copy in devices.to_host] == [1, X.size]  # first whether all are finite
    assert [copy.n_values for copy in devices.to_device] == [3 * len(X)]
    assert predicted.device == on_device(X).device


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_labels_and_predictions_on_mps_are_float32(device, devices):
    """It has no float64, in which labels and the predictions of a model of the host may be."""
    rows = on_device(X.astype(np.float32), "mps")
    for kind in KINDS:
        model = ours(kind, device=device).fit(rows, TARGETS[kind].astype(float))
        for method in methods_of(model):
            assert (method(rows).device, method(rows).dtype) == (rows.device, torch.float32)
        expected = ours(kind, dtype="float32").fit(X, TARGETS[kind].astype(float)).predict(X)
        assert_allclose(model.predict(rows).cpu().numpy(), expected, rtol=1e-4, atol=1e-4)


def test_tensors_of_the_host_share_their_memory(monkeypatch):
    """Nothing is copied of a tensor in the precision of the fit."""
    addresses = []
    original = Rows.from_array.__func__

    def from_array(cls, values, *args, **kwargs):
        addresses.append(values.data_ptr())
        return original(cls, values, *args, **kwargs)

    monkeypatch.setattr(Rows, "from_array", classmethod(from_array))
    ours("classifier").fit(T, LABELS).predict(T)
    assert addresses == [T.data_ptr()] * 2


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bool, torch.int64])
def test_tensors_of_narrow_types_give_what_float64_gives(dtype):
    values = (torch.from_numpy(X) > 1).to(dtype)
    expected = ours("classifier").fit(values.double(), LABELS)
    estimator = ours("classifier").fit(values, LABELS)
    assert_array_equal(estimator.coefs_[0], expected.coefs_[0])
    assert_array_equal(estimator.predict_proba(values), expected.predict_proba(values.double()))


def test_chunks_of_tensors():
    chunks = [(torch.from_numpy(X[part]), torch.from_numpy(LABELS[part])) for part in (slice(20), slice(20, None))]
    estimator = ours("classifier", shuffle=False).fit(chunks)
    assert_array_equal(estimator.coefs_[0], ours("classifier", shuffle=False).fit(X, LABELS).coefs_[0])
    assert isinstance(estimator.predict(torch.from_numpy(X)), torch.Tensor)


def test_arrays_on_disk_are_of_no_library(tmp_path):
    stored = zarr.create_array(tmp_path / "X.zarr", shape=X.shape, chunks=(20, 4), dtype=X.dtype)
    stored[:] = X
    estimator = ours("classifier").fit(stored, LABELS)
    expected = estimator.predict_proba(X)
    assert_array_equal(estimator.predict_proba(stored), expected)
    assert_array_equal(estimator.predict_proba(torch.from_numpy(X)), expected)

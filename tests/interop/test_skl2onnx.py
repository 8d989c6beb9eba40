"""Our converters inside those of skl2onnx, beside scikit-learn's predictions."""

import re

import numpy as np
import pytest
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier, StackingClassifier, VotingClassifier, VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor
from tests.interop.onnx_runs import outputs, run

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning")

X, Y = load_iris(return_X_y=True)
#: A normalization, since skl2onnx's converter for scikit-learn's MLP would leave it out.
MLP = MLPTorchClassifier(
    (6,), max_iter=20, learning_rate_init=0.03, normalization="batch", activation="silu", random_state=0
)
TABULAR = TabularMLPClassifier(n_estimators=2, hidden_layer_sizes=(8,), max_iter=4, random_state=0)
REGRESSORS = [
    MLPTorchRegressor(hidden_layer_sizes=(5,), max_iter=5, normalization="layer", random_state=0),
    TabularMLPRegressor(n_estimators=2, hidden_layer_sizes=(8,), max_iter=4, random_state=0),
]
NO_ZIPMAP = {"options": {"zipmap": False}}

COMPOSED = {
    "pipeline": make_pipeline(StandardScaler(), MLP),
    "pipeline of tables": make_pipeline(MinMaxScaler(), TABULAR),
    "search": GridSearchCV(MLP, {"alpha": [0.1, 1.0]}, cv=2),
    "search of a pipeline": GridSearchCV(
        make_pipeline(StandardScaler(), MLP), {"mlptorchclassifier__alpha": [0.1]}, cv=2
    ),
    "pipeline of a search": make_pipeline(StandardScaler(), GridSearchCV(TABULAR, {"n_estimators": [1, 2]}, cv=2)),
    "calibrated": CalibratedClassifierCV(MLP, cv=2),  # by a sigmoid; skl2onnx does not interpolate in isotonic ones
    "calibrated tables": CalibratedClassifierCV(TABULAR, cv=2),
    "vote": VotingClassifier(
        [("a", MLP), ("b", TABULAR), ("c", MLPClassifier(max_iter=5))], voting="soft", flatten_transform=False
    ),
    "one vs rest": OneVsRestClassifier(MLP),
    "stacking": StackingClassifier([("a", MLP), ("b", TABULAR)], cv=2),
    "bagging": BaggingClassifier(MLP, n_estimators=2, random_state=0),
}


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("name", COMPOSED)
def test_compositions_predict_the_same(name, n_classes):
    y = np.array(["a", "b", "c"])[np.minimum(Y, n_classes - 1)]
    model = COMPOSED[name].fit(X, y)
    for dtype, atol in ((np.float32, 1e-5), (np.float64, 1e-6)):  # ensembles on tables compute in float32
        label, probabilities = run(model, X.astype(dtype), **NO_ZIPMAP)
        np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=atol)
        np.testing.assert_array_equal(label, model.predict(X))


def test_regressors_in_an_ensemble():
    model = VotingRegressor([(str(i), each) for i, each in enumerate(REGRESSORS)]).fit(X, Y)
    (predicted,) = run(model, X.astype(np.float32))
    np.testing.assert_allclose(predicted[:, 0], model.predict(X), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [MLP, TABULAR], ids=["network", "ensemble"])
@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (Y, [0, 1, 2]),
        (Y + 2**40, [2**40, 2**40 + 1, 2**40 + 2]),
        (Y > 0, [0, 1]),
        (Y * 1.0, [0, 1, 2]),
        (Y.astype(np.uint8), [0, 1, 2]),
        (np.array(["no", "yes", "é"])[Y], ["no", "yes", "é"]),
        (np.array(["no", "yes", "é"], dtype=object)[Y], ["no", "yes", "é"]),
    ],
    ids=["int", "large int", "bool", "float", "uint8", "str", "object"],
)
def test_labels_of_all_types(model, y, labels):
    model.fit(X, y)
    rows = X.astype(np.float32)
    label, probabilities = run(model, rows, **NO_ZIPMAP)
    assert list(np.unique(label)) == [value for value in labels if value in list(label)]
    np.testing.assert_array_equal(label, model.predict(rows))
    zipped_label, zipped = run(model, rows)  # as it is by default
    np.testing.assert_array_equal(zipped_label, label)
    np.testing.assert_array_equal([[row[value] for value in labels] for row in zipped], probabilities)
    _, *columns = run(model, rows, options={"zipmap": "columns"})
    np.testing.assert_array_equal(np.column_stack(columns), probabilities)


def test_options_are_those_of_scikit_learns_mlp():
    y = np.array(["a", "b", "c"])[Y]
    ours, theirs = MLP.fit(X, y), MLPClassifier((6,), max_iter=5, random_state=0).fit(X, y)
    rows = X.astype(np.float32)
    for options in (
        {},
        {"zipmap": False},
        {"zipmap": "columns"},
        {"nocl": True},
        {"zipmap": False, "output_class_labels": True},
    ):
        mine, others = (to_onnx(model, rows[:1], options=options).graph.output for model in (ours, theirs))
        assert [output.name for output in mine] == [output.name for output in others], options
        assert [output.type for output in mine] == [output.type for output in others], options
    label, _ = run(ours, rows, options={"nocl": True})
    np.testing.assert_array_equal(np.array(["a", "b", "c"])[label], ours.predict(rows))


def test_labels_have_the_outputs_of_scikit_learns_mlp():
    y = np.column_stack([Y == 0, Y > 1, X[:, 0] > 5]).astype(int)
    theirs = MLPClassifier((6,), max_iter=5, random_state=0).fit(X, y)
    rows = X.astype(np.float32)
    for ours in (MLP.fit(X, y), TABULAR.fit(X, y)):
        for options in ({}, {"zipmap": False}, {"zipmap": "columns"}):
            found = run(ours, rows, options=options)
            for mine, others in zip(found, run(theirs, rows, options=options), strict=True):
                assert np.shape(mine) == np.shape(others)
            np.testing.assert_array_equal(found[0], ours.predict(rows))


@pytest.mark.parametrize("n_outputs", [1, 2])
def test_numbers_have_the_outputs_of_scikit_learns_mlp(n_outputs):
    y = Y if n_outputs == 1 else np.column_stack([Y, -Y])
    for ours in REGRESSORS:
        exported = to_onnx(ours.fit(X, y), X[:1].astype(np.float32))
        (output,) = exported.graph.output
        assert output.name == "variable"
        assert output.type.tensor_type.shape.dim[1].dim_value == n_outputs
    theirs = to_onnx(MLPRegressor(max_iter=5).fit(X, Y), X[:1].astype(np.float32))
    assert theirs.graph.output[0].name == "variable"


@pytest.mark.parametrize("n_classes", [2, 3])
def test_logits_are_an_option(n_classes):
    model = MLP.fit(X, np.minimum(Y, n_classes - 1))
    label, logits = run(model, X, options={"zipmap": False, "logits": True})
    exponentials = np.exp(logits)
    np.testing.assert_allclose(exponentials / exponentials.sum(1, keepdims=True), model.predict_proba(X))
    np.testing.assert_array_equal(label, model.predict(X))
    labels = MLP.fit(X, np.column_stack([Y == 0, Y > 1]).astype(int))
    label, logits = run(labels, X, options={"zipmap": False, "logits": True})
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), labels.predict_proba(X))
    np.testing.assert_array_equal(label, labels.predict(X))
    with pytest.raises(NameError, match="logits"):
        run(TABULAR.fit(X, Y), X, options={"logits": True})


def test_several_inputs_are_the_columns():
    frame, _ = load_iris(return_X_y=True, as_frame=True)
    model = MLP.fit(frame, Y)
    exported = to_onnx(model, frame[:1], **NO_ZIPMAP)
    feed = {value.name: frame[[name]].to_numpy() for value, name in zip(exported.graph.input, frame, strict=True)}
    np.testing.assert_allclose(outputs(exported, feed)[1], model.predict_proba(frame))


@pytest.mark.parametrize("model", [MLP, TABULAR], ids=["network", "ensemble"])
def test_columns_in_another_order_are_refused(model):
    frame, _ = load_iris(return_X_y=True, as_frame=True)
    model = model.fit(frame, Y)
    first, second, *others = frame
    with pytest.raises(ValueError, match=re.escape(f"input {second!r} is column 0, but in fit it was column 1")):
        to_onnx(model, frame[[second, first, *others]][:1], **NO_ZIPMAP)
    renamed = frame.set_axis(["a", "b", "c", "d"], axis=1)
    exported = to_onnx(model, renamed[:1], **NO_ZIPMAP)
    feed = {name: renamed[[name]].to_numpy() for name in renamed}
    np.testing.assert_allclose(outputs(exported, feed)[1], model.predict_proba(frame), atol=1e-6)


def test_a_shape_that_is_not_told_is_that_of_the_fit():
    for model in (MLP.fit(X, Y), TABULAR.fit(X, Y)):
        exported = to_onnx(model, initial_types=[("X", FloatTensorType([None, None]))], **NO_ZIPMAP)
        assert exported.graph.output[1].type.tensor_type.shape.dim[1].dim_value == 3


def test_what_has_no_form_is_refused():
    with pytest.raises(ValueError, match="The inputs have 3 columns, but X in fit had 4"):
        run(MLP.fit(X, Y), X[:, :3])
    with pytest.raises(ValueError, match="The inputs have 3 columns, but the table in fit had 4"):
        run(TABULAR.fit(X, Y), X[:, :3])
    with pytest.raises(ValueError, match="An input has strings"):
        run(MLP.fit(X, Y), X.astype(str).astype(object))
    with pytest.raises(ValueError, match="one class, 7"):
        run(MLP.fit(X, Y * 0 + 7), X)
    for model in (MLPTorchClassifier(), TabularMLPRegressor()):
        with pytest.raises(NotFittedError):
            to_onnx(model, X[:1], options={"zipmap": False} if hasattr(model, "predict_proba") else None)

"""Bad calls: refused with the errors of scikit-learn's MLP, in its words."""

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from tests.estimators.helpers import KINDS, LABELS, MULTILABEL, NUMBERS, TARGETS, TWO_NUMBERS, WEIGHTS, X, ours, pair

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def replaced(values, value):
    """A copy with one value replaced."""
    values = np.array(values, dtype=float)
    values.flat[5] = value
    return values


def refit(estimator, y, **parameters):
    """Fit, change parameters, fit again."""
    estimator.fit(X, LABELS)
    return estimator.set_params(**parameters).fit(X, y)


names = np.array(["setosa", "versicolor", "virginica"])[LABELS]
frame = pd.DataFrame(X, columns=list("abcd"))
BAD_ROWS = {
    "no rows": X[:0],
    "no features": X[:, :0],
    "1d": X[:, 0],
    "3d": X[:, :, np.newaxis],
    "one number": 3.0,
    "none": None,
    "complex": X + 1j,
    "strings": np.full(X.shape, "a"),
    "objects": np.full(X.shape, "a", dtype=object),
    "ragged": [[1.0, 2.0], [3.0]],
    "dictionary": {"a": X[:, 0]},
    "frame with a column of strings": frame.assign(a="x"),
    "frame with missing numbers": frame.astype("Float64").mask(frame > 1),
    "frame with names of mixed type": frame.rename(columns={"a": 1}),
    "1d tensor": torch.zeros(len(X)),
    "complex tensor": torch.zeros(X.shape, dtype=torch.complex64),
    **{f"{value}": replaced(X, value) for value in (np.nan, np.inf, -np.inf)},
    **{f"{value} in float32": replaced(X, value).astype(np.float32) for value in (np.nan, np.inf)},
    **{f"{value} in csr": sp.csr_array(replaced(X, value)) for value in (np.nan, np.inf)},
    "nan in list": replaced(X, np.nan).tolist(),
    "nan in frame": pd.DataFrame(replaced(X, np.nan), columns=list("abcd")),
    "nan in tensor": torch.from_numpy(replaced(X, np.nan)),
}
BAD_WEIGHTS = {
    "too few": WEIGHTS[:-1],
    "two columns": np.column_stack([WEIGHTS, WEIGHTS]),
    "strings": np.full(len(X), "a"),
    "complex": WEIGHTS + 1j,
    "all zero": np.zeros(len(X)),
    **{f"{value}": replaced(WEIGHTS, value) for value in (np.nan, np.inf)},
}
BAD_TARGETS = {
    "too few": lambda y: y[:-1],
    "too many": lambda y: np.append(y, y[0]),
    "none": lambda y: None,
    "no rows": lambda y: y[:0],
    "one number": lambda y: 3,
    "3d": lambda y: np.zeros((len(y), 2, 2)),
    "complex": lambda y: y + 1j,
    "nan": lambda y: replaced(y, np.nan),
    "inf": lambda y: replaced(y, np.inf),
    "nan in list": lambda y: replaced(y, np.nan).tolist(),
    "nan in tensor": lambda y: torch.from_numpy(replaced(y, np.nan)),
    "missing number": lambda y: pd.Series(y).astype("Float64").mask(y > 1),
    "object nan": lambda y: replaced(y, np.nan).astype(object),
    "object words": lambda y: np.array(["a", 1] * 25, dtype=object),
}
CALLS = {
    **{f"fit X {name}": lambda est, y, rows=rows: est.fit(rows, y) for name, rows in BAD_ROWS.items()},
    **{f"predict X {name}": lambda est, y, rows=rows: est.fit(X, y).predict(rows) for name, rows in BAD_ROWS.items()},
    **{
        f"weight {name}": lambda est, y, bad=bad: est.set_params(shuffle=False).fit(X, y, bad)
        for name, bad in BAD_WEIGHTS.items()
    },
    **{f"y {name}": lambda est, y, change=change: est.fit(X, change(y)) for name, change in BAD_TARGETS.items()},
    "partial_fit X of other features": lambda est, y: est.fit(X, y).partial_fit(X[:, :3], y),
    "partial_fit early_stopping": lambda est, y: est.fit(X, y).set_params(early_stopping=True).partial_fit(X, y),
    "predict other features": lambda est, y: est.fit(X, y).predict(X[:, :3]),
    "predict other features in csr": lambda est, y: est.fit(X, y).predict(sp.csr_array(X[:, :3])),
    "predict before fit": lambda est, y: est.predict(X),
    "score before fit": lambda est, y: est.score(X, y),
    "score too few": lambda est, y: est.fit(X, y).score(X, y[:-1]),
    "validation set too small": lambda est, y: est.set_params(early_stopping=True, validation_fraction=0.01).fit(X, y),
    "validation set of no rows": lambda est, y: est.set_params(early_stopping=True, validation_fraction=0).fit(X, y),
    "too few rows to validate": lambda est, y: est.set_params(early_stopping=True, batch_size=1).fit(X[:2], y[[0, -1]]),
    "warm start with other features": lambda est, y: est.set_params(warm_start=True).fit(X, y).fit(X[:, :3], y),
}
CLASSIFIER_CALLS = {
    "y continuous": lambda est, y: est.fit(X, NUMBERS),
    "y continuous in two columns": lambda est, y: est.fit(X, np.column_stack([NUMBERS, NUMBERS])),
    "y of several classes in two columns": lambda est, y: est.fit(X, np.column_stack([y, y])),
    "y sparse in one column": lambda est, y: est.fit(X, sp.csr_array((y > 0).astype(int).reshape(-1, 1))),
    "y missing string": lambda est, y: est.fit(X, pd.Series(names).mask(y > 1)),
    "y sparse numbers": lambda est, y: est.fit(X, sp.csr_array(MULTILABEL * 1.5)),
    "y object integers": lambda est, y: est.fit(X, y.astype(object)),
    "y object booleans": lambda est, y: est.fit(X, (y > 0).astype(object)),
    "y mixed type": lambda est, y: est.fit(X, np.array(["a", 1] * 25, dtype=object)),
    "y ragged": lambda est, y: est.fit(X, [[0], [0, 1]] * 25),
    "predict_proba before fit": lambda est, y: est.predict_proba(X),
    "predict_log_proba before fit": lambda est, y: est.predict_log_proba(X),
    "predict_proba nan": lambda est, y: est.fit(X, y).predict_proba(replaced(X, np.nan)),
    "a class of one row to validate": lambda est, y: est.set_params(early_stopping=True).fit(X, y == np.arange(50)),
    "partial_fit without classes": lambda est, y: est.partial_fit(X, y),
    "partial_fit with other classes": lambda est, y: est.partial_fit(X, y, classes=[0, 1, 2]).partial_fit(
        X, y, classes=[0, 1, 2, 3]
    ),
    "partial_fit with unseen labels": lambda est, y: est.partial_fit(X, y, classes=[0, 1]),
    "partial_fit with unseen labels later": lambda est, y: est.partial_fit(X, y, classes=[0, 1, 2]).partial_fit(
        X, y + 1
    ),
    "partial_fit with unseen strings": lambda est, y: est.partial_fit(
        X, names, classes=["setosa", "virginica", "rose"]
    ),
    "partial_fit with lbfgs": lambda est, y: est.set_params(solver="lbfgs").partial_fit(X, y, classes=[0, 1, 2]),
    "warm start with fewer classes": lambda est, y: refit(est, np.minimum(y, 1), warm_start=True),
    "warm start with more classes": lambda est, y: refit(est, y + (np.arange(50) % 2), warm_start=True),
    "warm start with other classes": lambda est, y: refit(est, y - 1, warm_start=True),
    "warm start with a multilabel y": lambda est, y: refit(est, MULTILABEL[:, :2], warm_start=True),
}
CASES = [
    *((kind, name) for kind in KINDS for name in CALLS),
    *(("classifier", name) for name in CLASSIFIER_CALLS),
]
ERRORS = (ValueError, TypeError, AttributeError, ZeroDivisionError)


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
def test_a_bad_call_raises_what_scikit_learn_raises(kind, name):
    call = (CALLS | CLASSIFIER_CALLS)[name]
    model, reference = pair(kind)
    with pytest.raises(ERRORS) as expected:
        call(reference, TARGETS[kind])
    with pytest.raises(ERRORS) as raised:
        call(model, TARGETS[kind])
    assert isinstance(raised.value, type(expected.value))
    # Refused for the same reason: ours calls scikit-learn's checks and keeps the wording of its other errors.
    reasons = [str(error.value).replace("MLPTorch", "MLP").partition("\n")[0] for error in (raised, expected)]
    assert reasons[0] == reasons[1]


@pytest.mark.parametrize("early_stopping", [False, True], ids=["", "early stopping"])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_batch_that_sum_to_zero(kind, early_stopping):
    model, reference = pair(kind, shuffle=False, batch_size=5, early_stopping=early_stopping, validation_fraction=0.5)
    sample_weight = (np.arange(len(X)) % 10 == 0).astype(float)
    with pytest.raises(ZeroDivisionError, match="sum to zero"):
        reference.fit(X, TARGETS[kind], sample_weight)
    with pytest.raises(ZeroDivisionError, match=r"sum to zero.*larger batch_size"):
        model.fit(X, TARGETS[kind], sample_weight)


def test_held_out_rows_need_weight():
    sample_weight = np.zeros(len(X))
    sample_weight[1] = 1.0  # which is not held out
    for estimator in pair("classifier", early_stopping=True, batch_size="auto"):
        with pytest.raises(ValueError, match="Sample weights must contain at least one non-zero number"):
            estimator.fit(X, LABELS, sample_weight=sample_weight)


@pytest.mark.parametrize("y", [np.array(["1", "2"] * 25), np.array(["a", "b"] * 25)], ids=["digits", "words"])
def test_a_regressor_refuses_strings_as_targets(y):
    with pytest.raises((ValueError, TypeError)):  # scikit-learn's is a TypeError of NumPy's subtraction
        ours("regressor").fit(X, y)


def test_a_poisson_loss_refuses_negative_targets():
    with pytest.raises(ValueError, match=r"'poisson' requires y >= 0.*squared_error"):
        ours("regressor", loss="poisson").fit(X, NUMBERS - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_is_absent_with_lbfgs(kind):
    model = ours(kind, solver="lbfgs")
    assert not hasattr(model, "partial_fit")  # scikit-learn's regressor has it, for want of a pair of parentheses
    with pytest.raises(AttributeError, match="partial_fit"):
        model.partial_fit(X, TARGETS[kind])
    assert hasattr(model.set_params(solver="sgd"), "partial_fit")


def test_partial_fit_refuses_other_outputs():
    model = ours("regressor").fit(X, NUMBERS)
    with pytest.raises(ValueError, match="layers of"):
        model.partial_fit(X, TWO_NUMBERS)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_validation_data_are_refused_where_they_have_no_use(method):
    X_val = {"X_val": X, "y_val": LABELS}
    if method == "fit":
        with pytest.raises(ValueError, match=r"X_val and y_val are not used by solver='lbfgs'\. Use a stochastic"):
            ours("classifier", solver="lbfgs").fit(X, LABELS, **X_val)
    else:
        with pytest.raises(ValueError, match=r"without validation data\. Pass X_val and y_val"):
            ours("classifier", early_stopping=True).partial_fit(X, LABELS, classes=[0, 1, 2])


WRONG_VALIDATION = {
    "no y_val": (LABELS, {"X_val": X}, "X_val is provided, but y_val was not"),
    "no X_val": (LABELS, {"y_val": LABELS}, "y_val is provided, but X_val was not"),
    "weights alone": (LABELS, {"sample_weight_val": WEIGHTS}, "sample_weight_val is provided"),
    "other lengths": (LABELS, {"X_val": X, "y_val": LABELS[1:]}, "inconsistent numbers of samples"),
    "weights of another length": (
        LABELS,
        {"X_val": X, "y_val": LABELS, "sample_weight_val": WEIGHTS[1:]},
        "X_val, y_val or sample_weight_val: sample_weight",
    ),
    "negative weights": (
        LABELS,
        {"X_val": X, "y_val": LABELS, "sample_weight_val": -WEIGHTS},
        "X_val, y_val or sample_weight_val: Negative values",
    ),
    "other features": (LABELS, {"X_val": X[:, 1:], "y_val": LABELS}, "X_val, y_val or sample_weight_val: .*3 features"),
    "nan": (LABELS, {"X_val": replaced(X, np.nan), "y_val": LABELS}, "X_val, y_val or sample_weight_val: .*NaN"),
    "unknown class": (LABELS, {"X_val": X, "y_val": LABELS + 1}, r"y_val has classes \[3\], which y does not have"),
    "unknown class, class_weight": (
        LABELS,
        {"X_val": X, "y_val": LABELS + 1, "class_weight": {0: 1.0}},
        r"y_val has classes \[3\]",
    ),
    "multilabel for multiclass": (LABELS, {"X_val": X, "y_val": MULTILABEL}, "y_val has the shape"),
    "multiclass for multilabel": (MULTILABEL, {"X_val": X, "y_val": LABELS}, "y_val has the shape"),
    "one of three labels": (MULTILABEL, {"X_val": X, "y_val": MULTILABEL[:, :1]}, "y_val has the shape"),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
@pytest.mark.parametrize("name", WRONG_VALIDATION)
def test_wrong_validation_data_are_named(name):
    y, given, match = WRONG_VALIDATION[name]
    given = dict(given)
    model = ours("classifier", class_weight=given.pop("class_weight", None))
    with pytest.raises(ValueError, match=match):
        model.fit(X, y, **given)


def test_values_of_validation_that_float32_cannot_hold_are_named():
    with pytest.raises(ValueError, match=r"X_val, y_val or sample_weight_val: .*too large for dtype\('float32'\)"):
        ours("classifier", dtype="float32").fit(X, LABELS, X_val=X * 1e200, y_val=LABELS)


@pytest.mark.parametrize(("name", "y", "y_val"), [("y", names, NUMBERS), ("y_val", NUMBERS, names)], ids=["y", "y_val"])
def test_numbers_of_validation_are_numbers(name, y, y_val):
    with pytest.raises(ValueError, match=f"{name} must be numeric, but has dtype"):
        ours("regressor").fit(X, y, X_val=X, y_val=y_val)


def test_numbers_of_validation_have_as_many_columns():
    with pytest.raises(ValueError, match="y_val has 2 columns, but y has 1"):
        ours("regressor").fit(X, NUMBERS, X_val=X, y_val=TWO_NUMBERS)


def test_wrong_data_leave_a_fitted_model_as_it_was():
    model = ours("classifier").fit(X, LABELS)
    before = dict(vars(model))
    for wrong in (
        {"X": X[:, 1:], "y": LABELS[1:]},
        {"X": X[:, 1:], "y": LABELS, "X_val": X, "y_val": LABELS},
        {"X": frame, "y": LABELS > 5, "sample_weight": WEIGHTS[1:]},
    ):
        with pytest.raises(ValueError, match=r"features|samples|sample_weight"):
            model.fit(**wrong)
        assert vars(model) == before

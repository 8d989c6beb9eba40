"""Frames with columns that are not numbers, and tensors of rarer kinds: taken, or refused in our words."""

import datetime
import math

import pandas as pd
import polars
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier

from tests.estimators.helpers import (
    LABELS,
    MULTILABEL,
    NUMBERS,
    RTOL,
    SMALL,
    WARNS_EACH_TIME,
    WEIGHTS,
    WITH_ZEROS,
    X,
    ours,
)

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    *WARNS_EACH_TIME,
    pytest.mark.filterwarnings("ignore:Sparse (CSC|BSR) tensor support is in beta:UserWarning"),
]

# Frames --------------------------------------------------------------------------------

frame = pd.DataFrame(X, columns=list("abcd"))
day = pd.Timestamp("2020-02-29")
COLUMNS = {
    "datetime": (TypeError, day),
    "datetime with a zone": (TypeError, day.tz_localize("UTC")),
    "missing datetime": (TypeError, pd.NaT),
    "timedelta": (TypeError, pd.Timedelta("1D")),
    "period": (TypeError, pd.Period("2020")),
    "interval": (TypeError, pd.Interval(0, 1)),
    "date": (TypeError, datetime.date(2020, 2, 29)),
    "text": (ValueError, "x"),
    "text and numbers": (ValueError, ["x", 1.0] * 25),
    "categories": (ValueError, pd.Categorical(["u", "v"] * 25)),
    "lists": (ValueError, [[1.0, 2.0]] * 50),
}
CALLS = {
    "fit": lambda model, bad: model.fit(bad, LABELS),
    "partial_fit": lambda model, bad: model.partial_fit(bad, LABELS, classes=[0, 1, 2]),
    "X_val": lambda model, bad: model.fit(frame, LABELS, X_val=bad, y_val=LABELS),
    "predict": lambda model, bad: model.fit(frame, LABELS).predict(bad),
    "score": lambda model, bad: model.fit(frame, LABELS).score(bad, LABELS),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_are_not_numbers_are_named(name, call):
    error, values = COLUMNS[name]
    # Numbers as objects, and missing ones, stand beside it.
    bad = frame.assign(b=values, c=frame["c"].astype(object), d=frame["d"].astype("Float64"))
    with pytest.raises(error, match=r"X has columns that are not numbers: \['b'\]\. Encode or drop them") as raised:
        CALLS[call](ours("classifier"), bad)
    assert str(raised.value).startswith("X_val, ") == (call == "X_val")


@pytest.mark.parametrize("name", COLUMNS)
def test_the_class_of_the_error_is_scikit_learns(name):
    error, values = COLUMNS[name]
    with pytest.raises(error):
        MLPClassifier(**SMALL).fit(frame.assign(b=values), LABELS)


def test_all_columns_that_are_not_numbers_are_named():
    bad = frame.assign(b=day, d="x")
    with pytest.raises((TypeError, ValueError), match=r"X has columns that are not numbers: \['b', 'd'\]"):
        ours("classifier").fit(bad, LABELS)


def test_other_errors_of_frames_are_left_alone():
    missing = frame.mask(frame > 1)
    for bad, match in (
        (missing, "Input X contains NaN"),
        (missing.astype("Float64"), "Input X contains NaN"),
        (missing.astype(object).where(frame <= 1, None), "Input X contains NaN"),
        (frame[list("abd")], "feature names should"),
        (pd.concat([frame, frame], axis=1), "unique column names"),
    ):
        with pytest.raises(ValueError, match=match) as raised:
            ours("classifier").fit(frame, LABELS).predict(bad)
        assert "not numbers" not in str(raised.value)


@pytest.mark.parametrize("call", CALLS)
def test_tables_of_pyarrow_have_the_errors_of_frames(call):
    pyarrow = pytest.importorskip("pyarrow")
    for column, match in (
        (["x"] * 50, r"X has columns that are not numbers: \['b'\]\. Encode or drop them"),
        ([None] + [1.0] * 49, "Input X contains NaN"),
        ([None] * 50, "Input X contains NaN"),
        ([math.inf] * 50, "Input X contains infinity"),
    ):
        table = pyarrow.Table.from_pandas(frame)
        bad = table.set_column(1, "b", pyarrow.array(column))
        model = ours("classifier").fit(table, LABELS) if call in ("predict", "score") else ours("classifier")
        with pytest.raises(ValueError, match=match):
            CALLS[call](model, bad)


@pytest.mark.parametrize("call", CALLS)
def test_frames_that_are_not_in_memory_are_refused(call):
    with pytest.raises(TypeError, match=r"X is a LazyFrame.*X\.collect"):
        CALLS[call](ours("classifier"), polars.from_pandas(frame).lazy())


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_lists_of_objects_are_looked_at_before_a_prediction(kind):
    model = ours(kind).fit(X, LABELS)
    row = X[0].tolist()
    for missing in ([None], [None, "1"]):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            model.predict([row, [*missing, *row[len(missing) :]]])
    with pytest.raises(ValueError, match="Input X contains infinity"):
        model.predict([[10**30, math.inf, *row[2:]]])


# Tensors -------------------------------------------------------------------------------

T = torch.from_numpy(WITH_ZEROS).clone()
COMPLEX = torch.complex(T, -T)
TENSORS = {
    "coo": T.to_sparse,
    "csr": T.to_sparse_csr,
    "csc": T.to_sparse_csc,
    "bsr": lambda: T.to_sparse_bsr((10, 2)),
    "coo requires_grad": lambda: T.clone().requires_grad_().to_sparse(),
    "coo float32": lambda: T.float().to_sparse(),
    "negative bit": lambda: COMPLEX.conj().imag,
    "real part of a conjugate": lambda: COMPLEX.conj().real,
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_taken_as_their_arrays(name):
    tensor = TENSORS[name]()
    array = tensor.detach().to_dense().resolve_neg().numpy()
    assert_array_equal(array, WITH_ZEROS.astype(array.dtype))
    model, reference = ours("classifier").fit(tensor, LABELS), MLPClassifier(**SMALL).fit(array, LABELS)
    assert_allclose(model.predict_proba(tensor), reference.predict_proba(array), rtol=RTOL[array.dtype.type])


def test_sparse_tensors_as_targets_and_weights():
    labels, multilabel, weights = map(torch.from_numpy, (LABELS, MULTILABEL, WEIGHTS))
    expected = ours("classifier").fit(X, LABELS, WEIGHTS).predict_proba(X)
    model = ours("classifier").fit(X, labels.to_sparse(), weights.to_sparse())
    assert_array_equal(model.predict_proba(X), expected)
    expected = ours("classifier").fit(X, MULTILABEL).predict_proba(X)
    assert_array_equal(ours("classifier").fit(X, multilabel.to_sparse()).predict_proba(X), expected)


def refused(name, dtype, device="cpu"):
    return rf"^{name} is a tensor of {dtype} and .*on the device '{device}', which cannot become an array\. Pass"


def test_tensors_without_an_array_are_refused_by_name():
    meta = {"X": T.to("meta"), "y": torch.from_numpy(LABELS).to("meta"), "sample_weight": T[:, 0].to("meta")}
    good = {"X": X, "y": LABELS}
    for name, tensor in meta.items():
        with pytest.raises(TypeError, match=refused(name, tensor.dtype, "meta")):
            ours("classifier").fit(**good | {name: tensor})
    with pytest.raises(TypeError, match=refused("X", torch.float64, "meta")):
        ours("regressor").fit(X, NUMBERS).predict(meta["X"])
    with pytest.raises(TypeError, match=r"^X_val, y_val or sample_weight_val: X is a tensor of torch.float64"):
        ours("classifier").fit(X, LABELS, X_val=meta["X"], y_val=LABELS)


@pytest.mark.parametrize("make", [COMPLEX.conj, COMPLEX.to_sparse], ids=["conjugate", "sparse"])
def test_complex_tensors_are_refused_as_complex_arrays(make):
    with pytest.raises(ValueError, match="Complex data not supported"):
        ours("classifier").fit(make(), LABELS)

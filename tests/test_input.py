"""What users hand in, good and bad, and what they get back; beside scikit-learn's MLP wherever it takes the same."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_iris
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import check_array
from sklearn.utils._param_validation import InvalidParameterError, generate_invalid_param_val, make_constraint
from torch import nn

import sktorch_mlp
from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, _classifier

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Two once-a-process warnings of PyTorch that are kept from users; see torch_always_warns.
    pytest.mark.filterwarnings("ignore:Sparse (CSR tensor support is in beta|invariant checks are impl):UserWarning"),
]


@pytest.fixture(autouse=True, scope="module")
def torch_always_warns():
    """Have PyTorch repeat the warnings that it gives once a process, of read-only arrays above all."""
    ours("classifier").fit(sp.csr_array(halves), labels)  # takes the two of sparse tensors, which must not repeat later
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


SMALL = {"hidden_layer_sizes": (5,), "max_iter": 4, "batch_size": 20, "random_state": 0}
OURS = {"device": "cpu"}  # "auto" would take a GPU, and float32, where there is one
KINDS = ("classifier", "regressor")

# Ours and scikit-learn's sum in another order; a few epochs leave about 1e-15 in float64, 3e-7 in float32.
# L-BFGS on float32 rows multiplies in float32, and scipy decides by what is left of the differences.
RTOL = {np.float64: 1e-10, np.float32: 1e-5, "lbfgs on float32": 1e-4}

X, labels = (part[::3] for part in load_iris(return_X_y=True))
X = X / 4
numbers = X @ [1.0, 2.0, 3.0, 4.0] / 10
targets = {"classifier": labels, "regressor": numbers}
multilabel = np.column_stack([labels == 0, X[:, 0] > 1.4, X[:, 1] > 0.75]).astype(int)
weight = np.random.RandomState(0).uniform(0.1, 3, len(X))
halves = np.where(X > 1, X, 0)  # with zeros, for sparse matrices
whole = np.round(X * 40)  # integers up to 80


def pair(kind, **parameters):
    """Our estimator and scikit-learn's with the same parameters."""
    class_ = MLPClassifier if kind == "classifier" else MLPRegressor
    return ours(kind, **parameters), class_(**SMALL | parameters)


def ours(kind, **parameters):
    """Our estimator."""
    class_ = MLPTorchClassifier if kind == "classifier" else MLPTorchRegressor
    return class_(**SMALL | OURS | parameters)


def outputs(estimator, rows):
    """Probabilities of a classifier, predictions of a regressor."""
    return estimator.predict_proba(rows) if hasattr(estimator, "predict_proba") else estimator.predict(rows)


def weights(estimator):
    """All weights of a fitted estimator, copied into one array."""
    return np.concatenate([array.ravel() for array in (*estimator.coefs_, *estimator.intercepts_)])


def unsorted(matrix):
    """The same CSR or CSC matrix with the entries of each row or column in reverse order."""
    matrix = matrix.copy()
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        for part in (matrix.indices, matrix.data):
            part[start:stop] = part[start:stop][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


def read_only(array):
    """A copy that cannot be written to."""
    array = array.copy()
    array.flags.writeable = False
    return array


def with_int64_indices(matrix):
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


def with_read_only_parts(matrix):
    matrix.data, matrix.indices, matrix.indptr = map(read_only, (matrix.data, matrix.indices, matrix.indptr))
    return matrix


# X as users have it ------------------------------------------------------------------------

frame = pd.DataFrame(X, columns=list("abcd"))
whole_frame = pd.DataFrame(whole, columns=list("abcd"))
strided = np.zeros((2 * len(X), 8))
strided[::2, ::2] = X

INPUTS = {
    **{dtype: whole.astype(dtype) for dtype in ("uint8", "int8", "int16", "uint16", "int32", "int64", "uint64")},
    **{dtype: X.astype(dtype) for dtype in ("float16", "float32", "float64", "longdouble")},
    **{f"big-endian {dtype}": X.astype(dtype) for dtype in (">f8", ">f4")},
    "big-endian integers": whole.astype(">i4"),
    "bool": X > 1,
    "object": X.astype(object),
    "list": X.tolist(),
    "tuples": tuple(map(tuple, X)),
    "Fortran order": np.asfortranarray(X),
    "Fortran order float32": np.asfortranarray(X, dtype=np.float32),
    "rows reversed": np.ascontiguousarray(X[::-1])[::-1],
    "columns reversed": np.ascontiguousarray(X[:, ::-1])[:, ::-1],
    "every second of both": strided[::2, ::2],
    "broadcast": np.broadcast_to(X[:, :1], X.shape),
    "read-only": read_only(X),
    "read-only float32": read_only(X.astype(np.float32)),
    "read-only Fortran order": read_only(np.asfortranarray(X)),
    "read-only reversed": read_only(X)[::-1],
    "frame": frame,
    "frame of float32": frame.astype(np.float32),
    "frame of mixed floats": frame.astype({"a": np.float32, "b": np.float16}),
    "frame without names": pd.DataFrame(X),
    "frame of Int64": whole_frame.astype("Int64"),
    "frame of Float64": frame.astype("Float64"),
    "frame of Float32": frame.astype("Float32"),
    "frame of boolean": (frame > 1).astype("boolean"),
    "frame of categories": whole_frame.astype(int).astype("category"),
    "frame of sparse columns": pd.DataFrame(halves, columns=list("abcd")).astype(pd.SparseDtype("float64", 0.0)),
    **{
        format_.__name__: format_(halves)
        for format_ in (sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.csc_array, sp.coo_array)
    },
    **{format_.__name__: format_(halves) for format_ in (sp.lil_array, sp.dok_array, sp.bsr_array, sp.dia_array)},
    "csr float32": sp.csr_array(halves.astype(np.float32)),
    "csc float32": sp.csc_array(halves.astype(np.float32)),
    "csr of integers": sp.csr_array((halves > 0).astype(int)),
    "csr of booleans": sp.csr_array(halves > 0),
    "csr int64 indices": with_int64_indices(sp.csr_array(halves)),
    "csc int64 indices": with_int64_indices(sp.csc_array(halves)),
    "csr unsorted": unsorted(sp.csr_array(halves)),
    "csc unsorted": unsorted(sp.csc_array(halves)),
    "csr duplicates": sp.csr_array(
        (np.tile([1.0, 2.0, 0.5], 50), np.tile([3, 1, 3], 50), np.arange(0, 151, 3)), shape=(50, 4)
    ),
    "coo duplicates": sp.coo_array((np.tile(weight, 2), (np.tile(range(50), 2), np.repeat([1, 1], 50))), shape=(50, 4)),
    "csr stored zeros": sp.csr_array((np.zeros(50), np.zeros(50, int), np.arange(51)), shape=(50, 4)),
    "csr empty": sp.csr_array((50, 4)),
    "csr read-only": with_read_only_parts(sp.csr_array(halves)),
}


def parts(values):
    """The arrays that an input is made of."""
    if sp.issparse(values):
        attributes = ("data", "indices", "indptr", "coords", "offsets", "rows")
        return [getattr(values, name) for name in attributes if hasattr(values, name)] or [values.toarray()]
    return [np.asarray(values)]


@pytest.mark.parametrize("fit", [{}, {"solver": "lbfgs"}, {"early_stopping": True}], ids=str)
@pytest.mark.parametrize("rows", INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_input_is_taken_as_scikit_learn_takes_it(kind, rows, fit):
    before = copy.deepcopy(parts(rows))
    mine, theirs = (estimator.fit(rows, targets[kind]) for estimator in pair(kind, **fit))
    result, expected = outputs(mine, rows), outputs(theirs, rows)
    assert type(result) is np.ndarray
    dtype = np.float32 if expected.dtype == np.float32 else np.float64  # longdouble results would gain nothing
    tolerance = RTOL[dtype]
    validated = check_array(rows, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32))
    if "solver" in fit and validated.dtype == np.float32:  # where scikit-learn ends in float64
        dtype, tolerance = np.float32, RTOL["lbfgs on float32"]
    assert mine.coefs_[0].dtype == result.dtype == dtype
    assert_allclose(result, expected, rtol=tolerance)
    if kind == "classifier":
        assert_array_equal(mine.predict(rows), theirs.predict(rows))
    for part, part_before in zip(parts(rows), before, strict=True):
        assert_array_equal(part, part_before)  # the user's data are as they were


@pytest.mark.parametrize("trained_on", [np.float64, np.float32])
@pytest.mark.parametrize("rows", INPUTS.values(), ids=INPUTS)
@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
def test_prediction_is_promoted_as_scikit_learn_promotes_it(rows, trained_on):
    mine, theirs = (estimator.fit(X.astype(trained_on), labels) for estimator in pair("classifier"))
    result, expected = outputs(mine, rows), outputs(theirs, rows)
    assert result.dtype == (np.float32 if expected.dtype == np.float32 else np.float64)
    assert_allclose(result, expected, rtol=RTOL[trained_on])


@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("kind", KINDS)
def test_memmap(kind, mode, tmp_path):
    path = tmp_path / "X.npy"
    np.save(path, X)
    on_disk = np.load(path, mmap_mode=mode)
    result = outputs(ours(kind).fit(on_disk, read_only(targets[kind]), read_only(weight)), on_disk)
    assert_array_equal(result, outputs(ours(kind).fit(X, targets[kind], weight), X))
    assert_array_equal(on_disk, X)


SAMPLE_WEIGHTS = {
    "list": weight.tolist(),
    "integers": np.round(weight).astype(int) + 1,
    "booleans": X[:, 1] > 0.5,
    "one number": 2.0,
    "series": pd.Series(weight),
    "nullable series": pd.Series(weight).astype("Float64"),
    "read-only": read_only(weight),
    "reversed": np.ascontiguousarray(weight[::-1])[::-1],
    "big-endian": weight.astype(">f8"),
    "some zero": np.where(weight > 1.5, weight, 0),
    "some negative": weight - 0.2,
}


@pytest.mark.parametrize("sample_weight", SAMPLE_WEIGHTS.values(), ids=SAMPLE_WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_sample_weight(kind, sample_weight):
    mine, theirs = (estimator.fit(X, targets[kind], sample_weight) for estimator in pair(kind))
    assert_allclose(weights(mine), weights(theirs), rtol=RTOL[np.float64])


@pytest.mark.parametrize("kind", KINDS)
def test_sample_weight_of_float32(kind):
    mine = ours(kind).fit(X, targets[kind], weight.astype(np.float32))
    expected = ours(kind).fit(X, targets[kind], weight.astype(np.float32).astype(np.float64))
    assert_array_equal(weights(mine), weights(expected))  # more exact than scikit-learn, which sums them in float32


# Feature names -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_feature_names(kind):
    mine = ours(kind).fit(frame, targets[kind])
    assert_array_equal(mine.feature_names_in_, list("abcd"))
    assert mine.n_features_in_ == 4
    with pytest.raises(ValueError, match="feature names should match"):
        mine.predict(frame[list("abdc")])
    with pytest.raises(ValueError, match="feature names should match"):
        mine.partial_fit(frame.rename(columns={"a": "e"}), targets[kind])
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MLPTorch"):
        predicted = mine.predict(X)
    assert_allclose(predicted, mine.predict(frame), rtol=1e-13)  # a frame lies in column order: other sums
    mine.fit(X, targets[kind])
    assert not hasattr(mine, "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but MLPTorch.* was fitted without"):
        mine.predict(frame)


def test_predictions_of_early_stopping_do_not_warn_of_missing_names():
    ours("classifier", early_stopping=True).fit(frame, labels)  # the warning would be an error here


# Labels and targets ------------------------------------------------------------------------

names = np.array(["setosa", "versicolor", "virginica"])[labels]
LABELS = {
    "strings": names,
    "object strings": names.astype(object),
    "list of strings": names.tolist(),
    "bytes-like integers": labels.astype(np.uint8),
    "int32": labels.astype(np.int32),
    "negative integers": 7 - 5 * labels,
    "whole floats": labels.astype(float),
    "whole float32": labels.astype(np.float32),
    "big-endian": labels.astype(">i8"),
    "one integer": np.full(len(X), 3),
    "one string": np.full(len(X), "a"),
    "two strings": np.where(labels > 0, "yes", "no"),
    "two booleans": labels > 0,
    "two integers": np.where(labels > 0, -1, 1),
    "two floats": np.where(labels > 0, 1.0, -1.0),
    "series of strings": pd.Series(names),
    "series of objects": pd.Series(names, dtype=object),
    "series of categories": pd.Series(names, dtype="category"),
    "series of Int64": pd.Series(labels, dtype="Int64"),
    "series of boolean": pd.Series(labels > 0, dtype="boolean"),
    "series of another index": pd.Series(labels, index=range(100, 150)[::-1]),
    "read-only reversed": read_only(labels)[::-1],
    "multilabel": multilabel,
    "multilabel floats": multilabel.astype(float),
    "multilabel booleans": multilabel.astype(bool),
    "multilabel Fortran order": np.asfortranarray(multilabel),
    "multilabel frame": pd.DataFrame(multilabel),
    "multilabel of two columns": multilabel[:, :2],
    "multilabel csr": sp.csr_array(multilabel),
    "multilabel csc": sp.csc_array(multilabel),
    "multilabel csr_matrix": sp.csr_matrix(multilabel),
}


def dense(values):
    return values.toarray() if sp.issparse(values) else values


@pytest.mark.parametrize("method", ["fit", "early stopping", "partial_fit", "lbfgs"])
@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS)
def test_labels(y, method):
    def trained(estimator):
        if method == "partial_fit":
            classes = range(dense(y).shape[1]) if np.ndim(dense(y)) == 2 else np.unique(y)
            return estimator.partial_fit(X, y, classes=classes).partial_fit(X, y)
        return estimator.fit(X, y)

    settings = {"fit": {}, "partial_fit": {}, "lbfgs": {"solver": "lbfgs"}, "early stopping": {"early_stopping": True}}
    mine, theirs = (trained(estimator) for estimator in pair("classifier", **settings[method]))
    assert_array_equal(mine.classes_, theirs.classes_)
    assert mine.classes_.dtype == theirs.classes_.dtype
    assert mine.n_outputs_ == theirs.n_outputs_
    assert mine.out_activation_ == theirs.out_activation_
    assert_allclose(mine.predict_proba(X), theirs.predict_proba(X), rtol=RTOL[np.float64])
    result, expected = mine.predict(X), theirs.predict(X)
    assert type(result) is type(expected)  # sparse where y was
    assert result.dtype == expected.dtype
    assert_array_equal(dense(result), dense(expected))
    assert mine.score(X, y) == theirs.score(X, y)


def test_labels_are_predicted_as_they_were_given():
    predicted = (
        MLPTorchClassifier(max_iter=200, learning_rate_init=0.02, random_state=0, **OURS).fit(X, names).predict(X)
    )
    assert predicted.dtype == names.dtype
    assert np.mean(predicted == names) > 0.9


NUMBERS = {
    "list": numbers.tolist(),
    "integers": np.round(10 * numbers).astype(int),
    "booleans": numbers > 1,
    "float32": numbers.astype(np.float32),
    "float16": numbers.astype(np.float16),
    "longdouble": numbers.astype(np.longdouble),
    "big-endian": numbers.astype(">f8"),
    "objects": numbers.astype(object),
    "series": pd.Series(numbers),
    "series of Float64": pd.Series(numbers).astype("Float64"),
    "reversed": np.ascontiguousarray(numbers[::-1])[::-1],
    "read-only": read_only(numbers),
    "two columns": np.column_stack([numbers, X[:, 0]]),
    "two columns Fortran order": np.asfortranarray(np.column_stack([numbers, X[:, 0]])),
    "two columns frame": pd.DataFrame({"first": numbers, "second": X[:, 0]}),
}


@pytest.mark.parametrize("fit", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"loss": "poisson"}], ids=str)
@pytest.mark.parametrize("y", NUMBERS.values(), ids=NUMBERS)
def test_targets_of_a_regressor(y, fit):
    mine, theirs = pair("regressor", **fit)
    mine.fit(X, y)
    # scikit-learn's Poisson loss refuses longdouble; ours casts all targets to the dtype of X.
    theirs.fit(X, y.astype(np.float64) if getattr(y, "dtype", None) == np.longdouble else y)
    result, expected = mine.predict(X), theirs.predict(X)
    assert type(result) is np.ndarray
    assert result.shape == expected.shape
    # scikit-learn subtracts targets in their own dtype, so float16 and float32 targets cost it nothing but order.
    assert_allclose(result, expected, rtol=RTOL[np.float64])


@pytest.mark.parametrize("kind", KINDS)
def test_column_y_is_flattened_with_a_warning(kind):
    with pytest.warns(DataConversionWarning, match="column-vector y was passed"):
        mine = ours(kind).fit(X, targets[kind].reshape(-1, 1))
    assert_array_equal(weights(mine), weights(ours(kind).fit(X, targets[kind])))
    assert mine.predict(X).ndim == 1


# PyTorch tensors ---------------------------------------------------------------------------

TENSORS = {
    "float64": torch.from_numpy(X),
    "float32": torch.from_numpy(X).float(),
    "float16": torch.from_numpy(X).half(),
    "bfloat16": torch.from_numpy(X).bfloat16(),
    "int64": torch.from_numpy(whole).long(),
    "uint8": torch.from_numpy(whole).byte(),
    "bool": torch.from_numpy(X > 1),
    "requires_grad": torch.from_numpy(X).clone().requires_grad_(),
    "float32 requires_grad": torch.from_numpy(X).float().requires_grad_(),
    "transposed": torch.from_numpy(np.asfortranarray(X)),
    "every second": torch.from_numpy(strided)[::2, ::2],
    "parameter": nn.Parameter(torch.from_numpy(X).clone()),
}


def as_array(tensor):
    """The array of the same values; NumPy has no bfloat16, float32 holds all its values."""
    tensor = tensor.detach()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


@pytest.mark.parametrize("tensor", TENSORS.values(), ids=TENSORS)
@pytest.mark.parametrize("kind", KINDS)
def test_tensor_is_its_array(kind, tensor):
    before = tensor.detach().clone()
    array = as_array(tensor)
    mine, theirs = pair(kind)
    mine.fit(tensor, targets[kind])
    theirs.fit(array, targets[kind])
    result, expected = outputs(mine, tensor), outputs(theirs, array)
    assert type(result) is np.ndarray
    assert result.dtype == expected.dtype
    assert_allclose(result, expected, rtol=RTOL[expected.dtype.type])
    assert_array_equal(result, outputs(mine, array))
    assert tensor.grad is None
    assert torch.equal(tensor.detach(), before)


LABEL_TENSORS = {
    "int64": torch.from_numpy(labels),
    "int32": torch.from_numpy(labels).int(),
    "uint8": torch.from_numpy(labels).byte(),
    "float32": torch.from_numpy(labels).float(),
    "bfloat16": torch.from_numpy(labels).bfloat16(),
    "bool": torch.from_numpy(labels > 0),
    "multilabel": torch.from_numpy(multilabel),
    "multilabel float32": torch.from_numpy(multilabel).float(),
}


@pytest.mark.parametrize("y", LABEL_TENSORS.values(), ids=LABEL_TENSORS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_label_tensors(method, y):
    mine, theirs = pair("classifier")
    given, equivalent = {"sample_weight": torch.from_numpy(weight)}, {"sample_weight": weight}
    if method == "partial_fit":
        classes = torch.unique(y) if y.ndim == 1 else torch.arange(y.shape[1])
        given["classes"], equivalent["classes"] = classes, as_array(classes)
    getattr(mine, method)(torch.from_numpy(X), y, **given)
    getattr(theirs, method)(X, as_array(y), **equivalent)
    assert_array_equal(mine.classes_, theirs.classes_)
    assert mine.classes_.dtype == theirs.classes_.dtype
    assert_allclose(mine.predict_proba(torch.from_numpy(X)), theirs.predict_proba(X), rtol=RTOL[np.float64])
    assert type(mine.predict(X)) is np.ndarray
    assert_array_equal(mine.predict(X), theirs.predict(X))
    mine_score = mine.score(torch.from_numpy(X), y, torch.from_numpy(weight))
    assert_allclose(mine_score, theirs.score(X, as_array(y), weight), rtol=RTOL[np.float64])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_number_tensors(method, dtype):
    y = torch.from_numpy(np.column_stack([numbers, X[:, 0]])).to(dtype)
    y = y.requires_grad_() if dtype.is_floating_point else y
    sample_weight = torch.from_numpy(weight).requires_grad_()
    mine, theirs = pair("regressor")
    getattr(mine, method)(torch.from_numpy(X), y, sample_weight)
    getattr(theirs, method)(X, as_array(y), weight)
    assert_allclose(mine.predict(X), theirs.predict(X), rtol=RTOL[np.float64])
    assert_allclose(mine.score(X, y, sample_weight), theirs.score(X, as_array(y), weight), rtol=RTOL[np.float64])
    assert y.grad is None


# Bad input ---------------------------------------------------------------------------------


def replaced(values, value):
    """A copy with one value replaced."""
    values = np.array(values, dtype=float)
    values.flat[5] = value
    return values


def refit(estimator, y, **parameters):
    """Fit, change parameters, fit again."""
    estimator.fit(X, labels)
    return estimator.set_params(**parameters).fit(X, y)


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
    "too few": weight[:-1],
    "two columns": np.column_stack([weight, weight]),
    "strings": np.full(len(X), "a"),
    "complex": weight + 1j,
    "all zero": np.zeros(len(X)),
    **{f"{value}": replaced(weight, value) for value in (np.nan, np.inf)},
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
    **{f"weight {name}": lambda est, y, bad=bad: est.set_params(shuffle=False).fit(X, y, bad) for name, bad in BAD_WEIGHTS.items()},
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
}  # fmt: skip
CLASSIFIER_CALLS = {
    "y continuous": lambda est, y: est.fit(X, numbers),
    "y continuous in two columns": lambda est, y: est.fit(X, np.column_stack([numbers, numbers])),
    "y of several classes in two columns": lambda est, y: est.fit(X, np.column_stack([y, y])),
    "y sparse in one column": lambda est, y: est.fit(X, sp.csr_array((y > 0).astype(int).reshape(-1, 1))),
    "y missing string": lambda est, y: est.fit(X, pd.Series(names).mask(y > 1)),
    "y sparse numbers": lambda est, y: est.fit(X, sp.csr_array(multilabel * 1.5)),
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
    "partial_fit with unseen labels later": lambda est, y: est.partial_fit(X, y, classes=[0, 1, 2]).partial_fit(X, y + 1),
    "partial_fit with unseen strings": lambda est, y: est.partial_fit(X, names, classes=["setosa", "virginica", "rose"]),
    "partial_fit with lbfgs": lambda est, y: est.set_params(solver="lbfgs").partial_fit(X, y, classes=[0, 1, 2]),
    "warm start with fewer classes": lambda est, y: refit(est, np.minimum(y, 1), warm_start=True),
    "warm start with more classes": lambda est, y: refit(est, y + (np.arange(50) % 2), warm_start=True),
    "warm start with other classes": lambda est, y: refit(est, y - 1, warm_start=True),
    "warm start with a multilabel y": lambda est, y: refit(est, multilabel[:, :2], warm_start=True),
}  # fmt: skip

ERRORS = (ValueError, TypeError, AttributeError, ZeroDivisionError)
CASES = [
    *(pytest.param(kind, call, id=f"{kind}-{name}") for kind in KINDS for name, call in CALLS.items()),
    *(pytest.param("classifier", call, id=f"classifier-{name}") for name, call in CLASSIFIER_CALLS.items()),
]


@pytest.mark.parametrize(("kind", "call"), CASES)
@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
def test_bad_call_raises_what_scikit_learn_raises(kind, call):
    mine, theirs = pair(kind)
    with pytest.raises(ERRORS) as expected:
        call(theirs, targets[kind])
    with pytest.raises(ERRORS) as raised:
        call(mine, targets[kind])
    assert isinstance(raised.value, type(expected.value))
    # Refused for the same reason: ours calls scikit-learn's checks and keeps the wording of its other errors.
    reasons = [str(error.value).replace("MLPTorch", "MLP").partition("\n")[0] for error in (raised, expected)]
    assert reasons[0] == reasons[1]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_batch_that_sum_to_zero(kind, early_stopping):
    mine, theirs = pair(kind, shuffle=False, batch_size=5, early_stopping=early_stopping, validation_fraction=0.5)
    sample_weight = (np.arange(len(X)) % 10 == 0).astype(float)
    with pytest.raises(ZeroDivisionError, match="sum to zero"):
        theirs.fit(X, targets[kind], sample_weight)
    with pytest.raises(ZeroDivisionError, match=r"sum to zero.*larger batch_size"):
        mine.fit(X, targets[kind], sample_weight)


@pytest.mark.parametrize("y", [np.array(["1", "2"] * 25), np.array(["a", "b"] * 25)], ids=["digits", "words"])
def test_regressor_refuses_strings_as_targets(y):
    with pytest.raises((ValueError, TypeError)):  # scikit-learn's is a TypeError of NumPy's subtraction
        ours("regressor").fit(X, y)


@pytest.mark.parametrize("format_", [sp.csr_array, sp.csc_array, sp.csr_matrix])
@pytest.mark.parametrize("fit", [{}, {"loss": "poisson"}, {"early_stopping": True}], ids=str)
def test_sparse_targets_of_a_regressor(fit, format_):
    y = np.column_stack([numbers, halves[:, 0]])
    mine = ours("regressor", **fit).fit(X, format_(y))
    expected = ours("regressor", **fit).fit(X, y)  # what scikit-learn makes of most of them too
    assert_array_equal(mine.predict(X), expected.predict(X))


# Parameters --------------------------------------------------------------------------------

VALUES = {
    "object": object(),
    "None": None,
    "string": "nonsense",
    "bytes": b"adam",
    "empty list": [],
    "dict": {},
    "-1": -1,
    "0": 0,
    "0.5": 0.5,
    "1.5": 1.5,
    "2": 2,
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "True": True,
    "NumPy True": np.bool_(True),
    "NumPy integer": np.int64(3),
    "NumPy float": np.float32(0.5),
    "array": np.array([3, 2]),
    "array of floats": np.array([3.0, 2.0]),
    "0-d array": np.array(3),
    "with a negative": [3, -1],
    "with a zero": (3, 0),
    "with a fraction": [3.5],
    "with a string": ["a"],
    "nested": [[3, 2]],
    "range": range(2, 4),
}


def invalid_values(constraints):
    """One value against each constraint from which scikit-learn can make one."""
    for constraint in map(make_constraint, constraints):
        try:
            yield generate_invalid_param_val(constraint)
        except NotImplementedError:
            continue


def outcome_of_fit(estimator, y):
    """The class of the error of a fit, or the number of its iterations."""
    try:
        return estimator.fit(X, y).n_iter_
    except (ValueError, TypeError, InvalidParameterError) as error:
        return type(error)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("name", MLPRegressor._parameter_constraints)
@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger:UserWarning")
def test_parameters_are_accepted_and_refused_as_in_scikit_learn(name, solver, capsys):
    kinds = KINDS if name in MLPClassifier._parameter_constraints else KINDS[1:]
    differing = []
    for kind in kinds:
        generated = invalid_values(pair(kind)[1]._parameter_constraints[name])
        for value in (*VALUES.values(), *generated):
            mine, theirs = pair(kind, **{"max_iter": 2, "solver": solver, name: value})
            outcomes = outcome_of_fit(mine, targets[kind]), outcome_of_fit(theirs, targets[kind])
            if outcomes[0] != outcomes[1]:
                differing.append((kind, value, *outcomes))
    assert not differing


@pytest.mark.parametrize("name", MLPClassifier._parameter_constraints)
def test_partial_fit_checks_parameters(name):
    for value in invalid_values(MLPClassifier._parameter_constraints[name]):
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of MLPTorchClassifier must be"):
            ours("classifier", **{name: value}).partial_fit(X, labels, classes=[0, 1, 2])


@pytest.mark.parametrize("parameter", ["nonsense", "quantile"])
def test_unknown_parameter(parameter):
    with pytest.raises(TypeError, match=parameter):
        MLPTorchClassifier(**{parameter: 1})
    with pytest.raises(ValueError, match=f"Invalid parameter '{parameter}'"):
        MLPTorchClassifier().set_params(**{parameter: 1})


@pytest.mark.parametrize(
    ("parameters", "error", "match"),
    [
        ({"dtype": "float16"}, InvalidParameterError, "dtype.*'auto'"),
        ({"dtype": torch.float32}, InvalidParameterError, "dtype.*'auto'"),
        ({"dtype": np.float32}, InvalidParameterError, "dtype.*'auto'"),
        ({"device": 3}, InvalidParameterError, "device"),
        ({"device": None}, InvalidParameterError, "device"),
        ({"device": "nonsense"}, ValueError, "device='nonsense'.*'auto', 'cpu', 'cuda'"),
        ({"device": ""}, ValueError, "device=''.*'auto', 'cpu', 'cuda'"),
        ({"device": "meta"}, ValueError, "device='meta'.*device='cpu'"),
        ({"device": "xla"}, ValueError, "device='xla'.*device='cpu'"),
        ({"device": "cuda:99"}, ValueError, "device='cuda:99' is not available.*device='cpu'"),
        ({"device": torch.device("cuda", 99)}, ValueError, "device='cuda:99' is not available.*device='cpu'"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", KINDS)
def test_device_and_dtype_are_checked(kind, parameters, error, match):
    with pytest.raises(error, match=match):
        ours(kind).set_params(**parameters).fit(X, targets[kind])


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")], ids=repr)
def test_names_of_the_cpu(device):
    mine = ours("classifier", device=device).fit(X, labels).partial_fit(X, labels)
    assert_array_equal(weights(mine), weights(ours("classifier").fit(X, labels).partial_fit(X, labels)))
    assert mine.device_.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda")], ids=str)
def test_absent_cuda_is_refused_and_the_way_out_named(device):
    with pytest.raises(ValueError, match=r"device='cuda.* is not available on this machine.*Use device='auto' or"):
        ours("classifier").set_params(device=device).fit(X, labels)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("trained_on", [np.float32, np.float64])
def test_dtype_decides_the_precision(trained_on, dtype):
    mine = ours("classifier", dtype=dtype).fit(X.astype(trained_on), labels)
    assert {array.dtype for array in (*mine.coefs_, *mine.intercepts_)} == {np.dtype(dtype)}
    assert mine.predict_proba(X).dtype == dtype
    assert_allclose(mine.predict_proba(X), pair("classifier")[1].fit(X, labels).predict_proba(X), rtol=1e-5)  # float32


def test_poisson_refuses_negative_targets():
    with pytest.raises(ValueError, match=r"'poisson' requires y >= 0.*squared_error"):
        ours("regressor", loss="poisson").fit(X, numbers - 1)


@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_is_absent_with_lbfgs(kind):
    mine = ours(kind, solver="lbfgs")
    assert not hasattr(mine, "partial_fit")  # scikit-learn's regressor has it, for want of a pair of parentheses
    with pytest.raises(AttributeError, match="partial_fit"):
        mine.partial_fit(X, targets[kind])
    assert hasattr(mine.set_params(solver="sgd"), "partial_fit")


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("sizes", [(6,), (5, 5), (), 4], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_further_training_refuses_other_layers(kind, sizes, method):
    mine = ours(kind, warm_start=True).fit(X, targets[kind])
    before = weights(mine)
    mine.set_params(hidden_layer_sizes=sizes)
    with pytest.raises(ValueError, match=r"hidden_layer_sizes.*warm_start=False"):
        getattr(mine, method)(X, targets[kind])
    assert_array_equal(weights(mine), before)
    mine.set_params(warm_start=False).fit(X, targets[kind])
    assert_array_equal(weights(mine), weights(ours(kind, hidden_layer_sizes=sizes).fit(X, targets[kind])))


def test_further_training_refuses_other_outputs():
    mine = ours("regressor").fit(X, numbers)
    with pytest.raises(ValueError, match="layers of"):
        mine.partial_fit(X, np.column_stack([numbers, numbers]))


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_numbers_too_large_for_float32_are_refused(sparse):
    large = sp.csr_array(X * 1e300) if sparse else X * 1e300
    mine = ours("classifier", dtype="float32")
    with pytest.raises(ValueError, match="too large for dtype"), np.errstate(over="ignore"):
        mine.fit(large, labels)
    mine.fit(X, labels)
    with pytest.raises(ValueError, match="too large for dtype"), np.errstate(over="ignore"):
        mine.predict(large)


@pytest.mark.parametrize(("first", "then"), [(X, X[:, :3]), (X[:, :3], X)], ids=["fewer", "more"])
def test_partial_fit_after_lbfgs_has_no_moments_of_an_older_network(first, then):
    # PyTorch's fused Adam does not look at the shapes: with moments too short it would write beyond them.
    mine = ours("classifier").fit(first, labels)
    mine.set_params(solver="lbfgs").fit(then, labels)
    expected = ours("classifier", solver="lbfgs").fit(then, labels)
    for estimator in (mine, expected):
        estimator.set_params(solver="adam").partial_fit(then, labels)
    assert_array_equal(weights(mine), weights(expected))


@pytest.mark.parametrize(("first", "then"), [(np.float32, np.float64), (np.float64, np.float32)])
@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_keeps_the_precision_of_the_model(kind, first, then):
    mine, theirs = pair(kind)
    for estimator in (mine, theirs):
        estimator.fit(X.astype(first), targets[kind]).partial_fit(X.astype(then), targets[kind])
    assert mine.coefs_[0].dtype == theirs.coefs_[0].dtype == first
    assert_allclose(outputs(mine, X), outputs(theirs, X), rtol=1e-5)  # float32 took part in both


@pytest.mark.parametrize("format_", [np.asarray, sp.csr_array])
@pytest.mark.parametrize("kind", KINDS)
def test_prediction_of_many_rows(kind, format_):
    mine, theirs = (estimator.fit(X, targets[kind]) for estimator in pair(kind))
    many = format_(np.tile(X, (101, 1)) * np.linspace(0.5, 1.5, 5050)[:, np.newaxis])  # more than two blocks
    assert_allclose(outputs(mine, many), outputs(theirs, many), rtol=RTOL[np.float64])


# Divergence --------------------------------------------------------------------------------

DIVERGING = {
    "adam, huge rate": ({"learning_rate_init": 1e300}, X),
    "sgd, unscaled": ({"solver": "sgd", "batch_size": 10}, X * 1e160),
    "sgd, huge rate": ({"solver": "sgd", "learning_rate_init": 1e200, "momentum": 0}, X),
    "lbfgs, unscaled": ({"solver": "lbfgs"}, X * 1e200),
}


@pytest.mark.parametrize(("parameters", "rows"), DIVERGING.values(), ids=DIVERGING)
@pytest.mark.parametrize("activation", ["relu", "identity"])
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_divergence_is_an_error_that_says_what_to_do(parameters, rows, activation, sparse):
    mine = ours("regressor", max_iter=50, activation=activation, **parameters)
    where = "after [0-9]+ iterations of L-BFGS" if mine.solver == "lbfgs" else r"at epoch [1-9]"
    with pytest.raises(ValueError, match=f"The loss is (nan|inf) {where}.*StandardScaler.*learning_rate_init"):
        mine.fit(sp.csr_array(rows) if sparse else rows, numbers)
    with pytest.raises(NotFittedError):
        mine.predict(X)


FAILURES = {
    "sums that overflow": (np.full(X.shape, 1.7e308), None, ValueError),
    "weights that sum to zero": (X, np.repeat([1.0, 0.0, 1.0], [20, 20, 10]), ZeroDivisionError),
}


@pytest.mark.parametrize(("rows", "sample_weight", "error"), FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("warm_start", [False, True], ids=["partial_fit", "warm start"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_further_fit_leaves_the_model_as_it_was(kind, solver, warm_start, rows, sample_weight, error):
    def state(estimator):
        return estimator.n_iter_, estimator.t_, estimator.loss_, estimator.best_loss_, [*estimator.loss_curve_]

    mine = ours(kind, solver=solver, warm_start=warm_start, learning_rate_init=0.01, shuffle=False)
    mine.fit(X, targets[kind])
    module = mine.module_
    predicted, before, state_before = outputs(mine, X), weights(mine), state(mine)
    again = mine.fit if warm_start else mine.partial_fit
    with pytest.raises(error):
        again(rows, targets[kind], sample_weight)
    assert_array_equal(outputs(mine, X), predicted)
    assert_array_equal(weights(mine), before)
    assert mine.module_ is module
    assert state(mine) == state_before

    again(X, targets[kind])
    assert np.isfinite(mine.loss_curve_).all()
    assert not np.array_equal(weights(mine), before)


# Random state ------------------------------------------------------------------------------

FITS = {
    "adam": {},
    "sgd": {"solver": "sgd"},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True},
    "one batch": {"batch_size": 50},
    "no shuffling": {"shuffle": False},
}


@pytest.mark.parametrize("rows", [X, sp.csr_array(X)], ids=["dense", "sparse"])
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_leaves_the_global_random_states_alone(kind, fit, rows):
    before, torch_before = np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    mine = ours(kind, **fit).fit(rows, targets[kind])
    mine.predict(rows)
    if "solver" not in fit and "early_stopping" not in fit:
        mine.partial_fit(rows, targets[kind])
    after = np.random.get_state()  # noqa: NPY002
    assert after[0] == before[0]
    assert_array_equal(after[1], before[1])
    assert after[2:] == before[2:]
    assert torch.equal(torch.get_rng_state(), torch_before)


@pytest.fixture
def global_stream():
    """NumPy's global stream, put back after the test."""
    state = np.random.get_state()  # noqa: NPY002
    yield np.random
    np.random.set_state(state)  # noqa: NPY002


@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_seed_follows_the_global_stream_as_scikit_learn_does(kind, fit, global_stream):
    trained, next_numbers = [], []
    for estimator in pair(kind, **fit | {"random_state": None}):
        global_stream.seed(0)
        estimator.fit(X, targets[kind])
        if estimator.solver != "lbfgs" and not estimator.early_stopping:
            estimator.partial_fit(X, targets[kind])
        trained.append(weights(estimator))
        next_numbers.append(global_stream.random_sample())
    assert_allclose(*trained, rtol=1e-8)  # small weights are differences of rounded ones
    assert next_numbers[0] == next_numbers[1]  # as many were drawn


def test_a_random_state_instance_is_used_up_as_scikit_learn_does():
    trained = []
    for class_, extra in ((MLPTorchClassifier, OURS), (MLPClassifier, {})):
        stream = np.random.RandomState(7)
        estimators = [class_(**SMALL | {"random_state": stream}, **extra).fit(X, labels) for _ in range(2)]
        trained.append([weights(estimator) for estimator in estimators])
    assert_allclose(*trained, rtol=1e-8)
    assert not np.allclose(*trained[0])


@pytest.mark.parametrize("format_", [np.asarray, sp.csr_array, sp.csc_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fit", FITS.values(), ids=FITS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_call_same_bits(kind, fit, dtype, format_):
    rows = format_(X.astype(dtype))
    first, second = (ours(kind, **fit).fit(rows, targets[kind], weight) for _ in range(2))
    assert_array_equal(weights(first), weights(second))
    assert_array_equal(outputs(first, rows), outputs(second, rows))
    assert first.loss_ == second.loss_


# Ctrl-C ------------------------------------------------------------------------------------


def interrupt(monkeypatch, owner, method, at):
    """Have Ctrl-C arrive at the beginning of the call of this number."""
    original, calls = getattr(owner, method), iter(range(1, 10**6))

    def interrupted(self, *args):
        if next(calls) == at:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(owner, method, interrupted)


SOLVERS = {"adam": sktorch_mlp._solvers.Adam, "sgd": sktorch_mlp._solvers.SGD}
STEPS = 3  # an epoch's, 50 rows in batches of 20


def fit_interrupted(estimator, *args, method="fit"):
    """Train, and expect the warning of an interruption at the line below, and no other."""
    with pytest.warns(UserWarning, match="Training interrupted by user") as record:
        getattr(estimator, method)(*args)
    assert [warning.filename for warning in record] == [__file__]
    return estimator


@pytest.mark.parametrize("early_stopping", [False, True], ids=["", "early stopping"])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_training_keeps_the_epochs_before(kind, solver, early_stopping, monkeypatch):
    settings = {"solver": solver, "early_stopping": early_stopping, "learning_rate_init": 0.01}
    expected = ours(kind, **settings, max_iter=2).fit(X, targets[kind])
    interrupt(monkeypatch, SOLVERS[solver], "step", 2 * STEPS + 1)
    mine = fit_interrupted(ours(kind, **settings, max_iter=9), X, targets[kind])
    assert_array_equal(weights(mine), weights(expected))
    assert mine.n_iter_ == 2
    assert mine.loss_curve_ == expected.loss_curve_
    assert mine.validation_scores_ == expected.validation_scores_
    assert_array_equal(mine.predict(X), expected.predict(X))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_goes_on_after_an_interruption(kind, solver, monkeypatch):
    settings = {"solver": solver, "shuffle": False, "max_iter": 5}
    expected = ours(kind, **settings).fit(X, targets[kind])
    interrupt(monkeypatch, SOLVERS[solver], "step", 2 * STEPS + 1)
    mine = fit_interrupted(ours(kind, **settings), X, targets[kind])
    for _ in range(3):
        mine.partial_fit(X, targets[kind])
    assert_array_equal(weights(mine), weights(expected))
    assert mine.loss_curve_ == expected.loss_curve_


@pytest.mark.parametrize(
    ("at", "method", "early_stopping"),
    [
        *((at, "fit", early_stopping) for at in (1, 2, STEPS + 2) for early_stopping in (False, True)),
        *((at, "partial_fit", False) for at in (1, 2)),
    ],
)
def test_interruption_within_an_epoch(at, method, early_stopping, monkeypatch):
    mine = ours("regressor", learning_rate_init=0.01, early_stopping=early_stopping, warm_start=True)
    interrupt(monkeypatch, SOLVERS["adam"], "step", at)
    fit_interrupted(mine, X, numbers, method=method)
    assert np.isfinite(mine.predict(X)).all()
    assert mine.n_iter_ == len(mine.loss_curve_) == at // (STEPS + 1)
    before = weights(mine)
    mine.fit(X, numbers)  # the warm start goes on
    assert mine.n_iter_ == SMALL["max_iter"]
    assert mine.loss_curve_[-1] < mine.loss_curve_[0]
    assert not np.array_equal(weights(mine), before)


@pytest.mark.parametrize("at", [4, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_lbfgs_keeps_the_last_iteration(kind, at, monkeypatch):
    with monkeypatch.context() as patched:
        interrupt(patched, sktorch_mlp._gradients.Gradient, "__call__", at)
        mine = fit_interrupted(ours(kind, solver="lbfgs", max_iter=50, warm_start=True), X, targets[kind])
    assert 0 < mine.n_iter_ < at
    expected = ours(kind, solver="lbfgs", max_iter=mine.n_iter_).fit(X, targets[kind])
    assert_array_equal(weights(mine), weights(expected))
    assert mine.loss_ == expected.loss_
    loss = mine.loss_
    assert mine.fit(X, targets[kind]).loss_ < loss  # the warm start goes on


def test_lbfgs_interrupted_at_once_keeps_the_start(monkeypatch):
    with monkeypatch.context() as patched:
        interrupt(patched, sktorch_mlp._gradients.Gradient, "__call__", 1)
        mine = fit_interrupted(ours("classifier", solver="lbfgs"), X, labels)
    assert mine.n_iter_ == 0
    assert_allclose(mine.predict_proba(X).sum(axis=1), 1)
    stream = np.random.RandomState(SMALL["random_state"])
    assert_array_equal(mine.coefs_[0], stream.uniform(-((6 / 9) ** 0.5), (6 / 9) ** 0.5, (4, 5)))


# Weights and module ------------------------------------------------------------------------

MODELS = {
    "softmax": ("classifier", {}, labels),
    "logistic": ("classifier", {"activation": "tanh"}, labels > 0),
    "multilabel": ("classifier", {"activation": "logistic"}, multilabel),
    "identity": ("regressor", {"activation": "identity"}, numbers),
    "two targets": ("regressor", {"hidden_layer_sizes": (5, 4)}, np.column_stack([numbers, X[:, 0]])),
    "exponential": ("regressor", {"loss": "poisson"}, numbers),
    "no hidden layer": ("classifier", {"hidden_layer_sizes": ()}, labels),
    "sgd": ("classifier", {"solver": "sgd"}, labels),
    "lbfgs": ("classifier", {"solver": "lbfgs"}, labels),
    "early stopping": ("classifier", {"early_stopping": True}, labels),
    "float32": ("classifier", {"dtype": "float32"}, labels),
}
HIDDEN = {
    "identity": (nn.Identity, lambda z: z),
    "tanh": (nn.Tanh, np.tanh),
    "relu": (nn.ReLU, lambda z: np.maximum(z, 0)),
    "logistic": (nn.Sigmoid, lambda z: 1 / (1 + np.exp(-z))),
}


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def activated(estimator, logits):
    """What predict_proba or predict make of logits, written with NumPy."""
    outputs_of = {"identity": lambda z: z, "logistic": HIDDEN["logistic"][1], "softmax": softmax, "exp": np.exp}
    result = outputs_of[estimator.out_activation_](logits)
    if hasattr(estimator, "classes_"):
        return np.hstack([1 - result, result]) if result.shape[1] == 1 else result
    return result.ravel() if result.shape[1] == 1 else result


def by_hand(estimator):
    """Predictions for X from coefs_ and intercepts_, written with NumPy."""
    units = X
    for layer, (coef, intercept) in enumerate(zip(estimator.coefs_, estimator.intercepts_, strict=True)):
        units = (HIDDEN[estimator.activation][1](units) if layer else units) @ coef + intercept
    return activated(estimator, units)


def by_module(estimator):
    """Predictions for X from module_."""
    module = estimator.module_
    with torch.no_grad():
        logits = module(torch.from_numpy(X).to(module[0].weight.dtype))
    return activated(estimator, logits.numpy())


def assert_consistent(estimator):
    """predict, coefs_ and module_ are the same model."""
    rtol = 1e-5 if estimator.coefs_[0].dtype == np.float32 else 1e-12
    atol = rtol * 1e-2  # a prediction near 0 is the difference of larger numbers
    predicted = outputs(estimator, X)
    assert_allclose(predicted, by_hand(estimator), rtol=rtol, atol=atol)
    assert_allclose(predicted, by_module(estimator), rtol=rtol, atol=atol)
    assert_allclose(outputs(estimator, sp.csr_array(X)), predicted, rtol=rtol, atol=atol)


def further(estimator, y, rows=X):
    """One more epoch, or for what cannot be trained so a warm start."""
    if estimator.solver == "lbfgs" or estimator.early_stopping:
        return estimator.set_params(warm_start=True).fit(rows, y)
    return estimator.partial_fit(rows, y)


@pytest.fixture(params=MODELS)
def model(request):
    """An unfitted estimator and its y."""
    kind, parameters, y = MODELS[request.param]
    return ours(kind, **parameters), y


@pytest.mark.parametrize("rows", [X, sp.csr_array(X)], ids=["dense", "sparse"])
def test_module_is_the_fitted_network(model, rows):
    estimator, y = model
    estimator.fit(rows, y)
    module = estimator.module_
    hidden = [nn.Linear, HIDDEN[estimator.activation][0]] * (len(estimator.coefs_) - 1)
    assert type(module) is nn.Sequential
    assert [type(part) for part in module] == [*hidden, nn.Linear]
    assert_consistent(estimator)
    for _ in range(2):
        further(estimator, y, rows)
        assert_consistent(estimator)
    assert_consistent(pickle.loads(pickle.dumps(estimator)))
    assert_consistent(further(pickle.loads(pickle.dumps(estimator)), y, rows))
    assert_consistent(further(estimator, y, X if rows is not X else sp.csr_array(X)))  # from sparse to dense, and back
    assert_consistent(further(estimator, y, rows))


@pytest.mark.parametrize("rows", [X, sp.csr_array(X)], ids=["dense", "sparse"])
@pytest.mark.parametrize("prepare", [lambda est: est, copy.deepcopy], ids=["fitted", "copied"])
def test_module_shares_memory_with_the_weights(model, rows, prepare):
    estimator, y = model
    estimator = prepare(estimator.fit(rows, y))
    linears = [part for part in estimator.module_ if isinstance(part, nn.Linear)]
    assert len(linears) == len(estimator.coefs_)
    for linear, coef, intercept in zip(linears, estimator.coefs_, estimator.intercepts_, strict=True):
        assert np.shares_memory(linear.weight.detach().numpy(), coef)
        assert np.shares_memory(linear.bias.detach().numpy(), intercept)
        assert linear.weight.requires_grad
    predicted = outputs(estimator, X)
    with torch.no_grad():
        linears[-1].weight.mul_(2)
    assert not np.allclose(outputs(estimator, X), predicted)
    assert_consistent(estimator)


WRITES = {
    "in place": lambda est: [np.multiply(coef, 1.5, out=coef) for coef in est.coefs_],
    "one value": lambda est: est.intercepts_[-1].__setitem__(0, 0.75),
    "one layer replaced": lambda est: est.coefs_.__setitem__(-1, est.coefs_[-1] * 1.5),
    "all replaced": lambda est: vars(est).update(
        coefs_=[np.asfortranarray(coef) * 1.5 for coef in est.coefs_], intercepts_=[i + 0.5 for i in est.intercepts_]
    ),
    "reversed": lambda est: vars(est).update(coefs_=[(coef * 1.5)[::-1, ::-1] for coef in est.coefs_]),
    "read-only": lambda est: vars(est).update(coefs_=[read_only(coef * 1.5) for coef in est.coefs_]),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_written_weights_are_predicted_with(model, write):
    estimator, y = model
    estimator.fit(X, y)
    predicted = outputs(estimator, X)
    assert_consistent(estimator)  # module_ has been looked at before
    write(estimator)
    assert not np.allclose(outputs(estimator, X), predicted)
    assert_consistent(estimator)
    assert_consistent(further(estimator, y))


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_written_weights_are_trained_on(solver, write):
    mine, theirs = (estimator.fit(X, labels) for estimator in pair("classifier", solver=solver))
    write(mine)
    if write is WRITES["read-only"]:  # which scikit-learn cannot train on
        write = WRITES["one layer replaced"]
        mine.coefs_ = [*theirs.coefs_[:-1], read_only(theirs.coefs_[-1] * 1.5)]
    write(theirs)
    for _ in range(2):
        mine.partial_fit(X, labels)
        theirs.partial_fit(X, labels)
    assert_allclose(mine.predict_proba(X), theirs.predict_proba(X), rtol=RTOL[np.float64])


@pytest.mark.parametrize("rows", [X, sp.csr_array(X)], ids=["dense", "sparse"])
def test_module_does_not_write_to_read_only_weights(rows):
    # A model from joblib.load(..., mmap_mode="r") has such weights; to write to those ends the process.
    estimator = ours("classifier").fit(rows, labels)
    estimator.coefs_ = [read_only(coef) for coef in estimator.coefs_]
    estimator.intercepts_ = [read_only(intercept) for intercept in estimator.intercepts_]
    before = weights(estimator)
    module = estimator.module_
    with torch.no_grad():
        module[0].weight.mul_(2)
        module[0].bias.mul_(2)
    assert_array_equal(weights(estimator), before)


def test_module_follows_the_activation():
    estimator = ours("classifier").fit(X, labels)
    assert_consistent(estimator)
    assert_consistent(estimator.set_params(activation="tanh"))  # predict takes the new one, as scikit-learn's does


def test_a_fresh_process_is_not_warned():
    # PyTorch gives some warnings once a process, so that a test in this one might come too late.
    script = """
import warnings
import numpy as np, scipy.sparse as sp
from sktorch_mlp import MLPTorchClassifier
warnings.simplefilter("error")
X = np.eye(20)
X.flags.writeable = False
for rows in (X, X[::-1], sp.csr_array(X), sp.csc_array(X)):
    for solver in ("adam", "sgd", "lbfgs"):
        model = MLPTorchClassifier((3,), solver=solver, tol=1e9, n_iter_no_change=1, device="cpu")
        model.fit(rows, np.arange(20) > 9).predict(rows)
        model.module_
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""


def test_module_before_fit():
    estimator = ours("classifier")
    assert not hasattr(estimator, "module_")
    with pytest.raises(NotFittedError):
        estimator.module_  # noqa: B018


@pytest.mark.parametrize(
    "y", [[0, 1, 2, 1], [3, 3, 7], [5, 5], [True, False], np.array([1, 0, 255], np.uint8)], ids=str
)
def test_labels_of_integers_are_learned_as_by_scikit_learns_binarizer(y):
    ours, theirs = _classifier._fit_label_binarizer(np.array(y)), LabelBinarizer().fit(y)
    assert vars(ours).keys() == vars(theirs).keys()
    np.testing.assert_array_equal(ours.classes_, theirs.classes_)
    assert ours.classes_.dtype == theirs.classes_.dtype
    assert (ours.y_type_, ours.sparse_input_) == (theirs.y_type_, theirs.sparse_input_)
    np.testing.assert_array_equal(ours.transform(y), theirs.transform(y))

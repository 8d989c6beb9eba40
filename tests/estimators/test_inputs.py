"""X and sample weights as users have them: taken as scikit-learn's MLP takes them."""

import copy

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.utils import check_array
from torch import nn

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._estimators.inputs import Inputs, validate_training
from tests.estimators.helpers import (
    INTEGERS,
    KINDS,
    LABELS,
    NUMBERS,
    RTOL,
    TARGETS,
    TWO_NUMBERS,
    WARNS_EACH_TIME,
    WEIGHTS,
    WITH_ZEROS,
    X,
    ours,
    outputs,
    pair,
    read_only,
    weights_of,
)
from tests.pairwise import pairwise

pytestmark = [pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"), *WARNS_EACH_TIME]


def unsorted(matrix):
    """The same CSR or CSC matrix with the entries of each row or column in reverse order."""
    matrix = matrix.copy()
    for start, stop in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        for part in (matrix.indices, matrix.data):
            part[start:stop] = part[start:stop][::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


def with_int64_indices(matrix):
    matrix.indices, matrix.indptr = matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)
    return matrix


def with_read_only_parts(matrix):
    matrix.data, matrix.indices, matrix.indptr = map(read_only, (matrix.data, matrix.indices, matrix.indptr))
    return matrix


frame = pd.DataFrame(X, columns=list("abcd"))
frame_of_integers = pd.DataFrame(INTEGERS, columns=list("abcd"))
strided = np.zeros((2 * len(X), 8))
strided[::2, ::2] = X

ARRAYS = {
    **{dtype: INTEGERS.astype(dtype) for dtype in ("uint8", "int8", "int16", "uint16", "int32", "int64", "uint64")},
    **{dtype: X.astype(dtype) for dtype in ("float16", "float32", "float64", "longdouble")},
    **{f"big-endian {dtype}": X.astype(dtype) for dtype in (">f8", ">f4")},
    "big-endian integers": INTEGERS.astype(">i4"),
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
}
FRAMES = {
    "frame": frame,
    "frame of float32": frame.astype(np.float32),
    "frame of mixed floats": frame.astype({"a": np.float32, "b": np.float16}),
    "frame without names": pd.DataFrame(X),
    "frame of Int64": frame_of_integers.astype("Int64"),
    "frame of Float64": frame.astype("Float64"),
    "frame of Float32": frame.astype("Float32"),
    "frame of boolean": (frame > 1).astype("boolean"),
    "frame of categories": frame_of_integers.astype(int).astype("category"),
    "frame of sparse columns": pd.DataFrame(WITH_ZEROS, columns=list("abcd")).astype(pd.SparseDtype("float64", 0.0)),
}
MATRICES = {
    **{format_.__name__: format_(WITH_ZEROS) for format_ in (sp.csr_matrix, sp.csc_matrix, sp.coo_matrix)},
    **{format_.__name__: format_(WITH_ZEROS) for format_ in (sp.csr_array, sp.csc_array, sp.coo_array)},
    **{format_.__name__: format_(WITH_ZEROS) for format_ in (sp.lil_array, sp.dok_array, sp.bsr_array, sp.dia_array)},
    "csr float32": sp.csr_array(WITH_ZEROS.astype(np.float32)),
    "csc float32": sp.csc_array(WITH_ZEROS.astype(np.float32)),
    "csr of integers": sp.csr_array((WITH_ZEROS > 0).astype(int)),
    "csr of booleans": sp.csr_array(WITH_ZEROS > 0),
    "csr int64 indices": with_int64_indices(sp.csr_array(WITH_ZEROS)),
    "csc int64 indices": with_int64_indices(sp.csc_array(WITH_ZEROS)),
    "csr unsorted": unsorted(sp.csr_array(WITH_ZEROS)),
    "csc unsorted": unsorted(sp.csc_array(WITH_ZEROS)),
    "csr duplicates": sp.csr_array(
        (np.tile([1.0, 2.0, 0.5], 50), np.tile([3, 1, 3], 50), np.arange(0, 151, 3)), shape=(50, 4)
    ),
    "coo duplicates": sp.coo_array(
        (np.tile(WEIGHTS, 2), (np.tile(range(50), 2), np.repeat([1, 1], 50))), shape=(50, 4)
    ),
    "csr stored zeros": sp.csr_array((np.zeros(50), np.zeros(50, int), np.arange(51)), shape=(50, 4)),
    "csr empty": sp.csr_array((50, 4)),
    "csr read-only": with_read_only_parts(sp.csr_array(WITH_ZEROS)),
}
INPUTS = ARRAYS | FRAMES | MATRICES
FITS = {"adam": {}, "lbfgs": {"solver": "lbfgs"}, "early stopping": {"early_stopping": True}}


def parts(values):
    """The arrays that an input is made of."""
    if sp.issparse(values):
        attributes = ("data", "indices", "indptr", "coords", "offsets", "rows")
        return [getattr(values, name) for name in attributes if hasattr(values, name)] or [values.toarray()]
    return [np.asarray(values)]


@pytest.mark.parametrize(("rows", "fit", "kind"), pairwise(INPUTS, FITS, KINDS))
def test_rows_are_taken_as_in_scikit_learn(rows, fit, kind):
    rows = INPUTS[rows]
    before = copy.deepcopy(parts(rows))
    model, reference = (estimator.fit(rows, TARGETS[kind]) for estimator in pair(kind, **FITS[fit]))
    result, expected = outputs(model, rows), outputs(reference, rows)
    assert type(result) is np.ndarray
    dtype = np.float32 if expected.dtype == np.float32 else np.float64  # longdouble results would gain nothing
    tolerance = RTOL[dtype]
    validated = check_array(rows, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32))
    if fit == "lbfgs" and validated.dtype == np.float32:  # where scikit-learn ends in float64
        dtype, tolerance = np.float32, RTOL["lbfgs on float32"]
    assert model.coefs_[0].dtype == result.dtype == dtype
    assert_allclose(result, expected, rtol=tolerance)
    if kind == "classifier":
        assert_array_equal(model.predict(rows), reference.predict(rows))
    for part, part_before in zip(parts(rows), before, strict=True):
        assert_array_equal(part, part_before)  # the user's data are as they were


@pytest.fixture(scope="module", params=[np.float64, np.float32], ids=["trained on float64", "trained on float32"])
def fitted_pair(request):
    """Both classifiers, fitted in a precision; for predictions alone."""
    model, reference = pair("classifier")
    model.set_params(device="cpu")  # made before the fixture that keeps "auto" off a GPU
    return [est.fit(X.astype(request.param), LABELS) for est in (model, reference)], RTOL[request.param]


@pytest.mark.parametrize("rows", INPUTS)
@pytest.mark.filterwarnings("ignore:X has feature names:UserWarning")
def test_predictions_have_the_precision_of_scikit_learns(rows, fitted_pair):
    (model, reference), tolerance = fitted_pair
    result, expected = outputs(model, INPUTS[rows]), outputs(reference, INPUTS[rows])
    assert result.dtype == (np.float32 if expected.dtype == np.float32 else np.float64)
    assert_allclose(result, expected, rtol=tolerance)


@pytest.mark.parametrize("mode", ["r", "c"])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_mapped_from_a_file(kind, mode, tmp_path):
    path = tmp_path / "X.npy"
    np.save(path, X)
    on_disk = np.load(path, mmap_mode=mode)
    result = outputs(ours(kind).fit(on_disk, read_only(TARGETS[kind]), read_only(WEIGHTS)), on_disk)
    assert_array_equal(result, outputs(ours(kind).fit(X, TARGETS[kind], WEIGHTS), X))
    assert_array_equal(on_disk, X)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_numbers_too_large_for_float32_are_refused(sparse):
    large = sp.csr_array(X * 1e300) if sparse else X * 1e300
    model = ours("classifier", dtype="float32")
    with pytest.raises(ValueError, match="too large for dtype"), np.errstate(over="ignore"):
        model.fit(large, LABELS)
    model.fit(X, LABELS)
    with pytest.raises(ValueError, match="too large for dtype"), np.errstate(over="ignore"):
        model.predict(large)


# Sample weights ------------------------------------------------------------------------

SAMPLE_WEIGHTS = {
    "list": WEIGHTS.tolist(),
    "integers": np.round(WEIGHTS).astype(int) + 1,
    "booleans": X[:, 1] > 0.5,
    "one number": 2.0,
    "series": pd.Series(WEIGHTS),
    "nullable series": pd.Series(WEIGHTS).astype("Float64"),
    "read-only": read_only(WEIGHTS),
    "reversed": np.ascontiguousarray(WEIGHTS[::-1])[::-1],
    "big-endian": WEIGHTS.astype(">f8"),
    "some zero": np.where(WEIGHTS > 1.5, WEIGHTS, 0),
    "some negative": WEIGHTS - 0.2,
}


@pytest.mark.parametrize("sample_weight", SAMPLE_WEIGHTS)
@pytest.mark.parametrize("kind", KINDS)
def test_sample_weights_are_taken_as_in_scikit_learn(kind, sample_weight):
    model, reference = (est.fit(X, TARGETS[kind], SAMPLE_WEIGHTS[sample_weight]) for est in pair(kind))
    assert_allclose(weights_of(model), weights_of(reference), rtol=RTOL[np.float64])


FLOAT32_WEIGHTS = {
    "plain": WEIGHTS.astype(np.float32),
    "some zero": np.where(WEIGHTS > 1.5, WEIGHTS, 0).astype(np.float32),
    "big-endian": WEIGHTS.astype(">f4"),
    "reversed": np.ascontiguousarray(WEIGHTS[::-1], dtype=np.float32)[::-1],
    "tensor": torch.from_numpy(WEIGHTS).float(),
}
WEIGHTED_FITS = {
    "batches": {},
    "one batch": {"batch_size": len(X)},
    "one batch, RandomState": {"batch_size": len(X), "random_state": np.random.RandomState(3)},
    "in order": {"shuffle": False},
    "sgd": {"solver": "sgd", "alpha": 0.5},
    "early stopping": {"early_stopping": True, "batch_size": "auto"},
    "lbfgs": {"solver": "lbfgs"},
}


@pytest.mark.parametrize(
    ("sample_weight", "fit", "kind", "format_"),
    pairwise(FLOAT32_WEIGHTS, WEIGHTED_FITS, KINDS, [np.asarray, sp.csr_array]),
)
def test_sample_weights_of_float32_are_summed_as_in_scikit_learn(sample_weight, fit, kind, format_):
    """Which is in float32, so in the order of the rows, also where they are one batch."""
    given = FLOAT32_WEIGHTS[sample_weight]
    model, reference = map(clone, pair(kind, **WEIGHTED_FITS[fit]))  # with a RandomState each
    model.fit(format_(X), TARGETS[kind], given)
    reference.fit(format_(X), TARGETS[kind], as_array(given) if torch.is_tensor(given) else given)
    # In float64 the weights would differ by 1e-9. The line search of L-BFGS amplifies rounding.
    assert_allclose(weights_of(model), weights_of(reference), rtol=0, atol=1e-13 if fit != "lbfgs" else 1e-11)
    if fit != "lbfgs":
        assert_allclose(model.loss_curve_, reference.loss_curve_, rtol=1e-13)


def test_sample_weights_of_float32_in_partial_fit():
    model, reference = pair("classifier")
    for _ in range(3):
        model.partial_fit(X, LABELS, FLOAT32_WEIGHTS["plain"], [0, 1, 2])
        reference.partial_fit(X, LABELS, FLOAT32_WEIGHTS["plain"], [0, 1, 2])
    assert_allclose(weights_of(model), weights_of(reference), rtol=0, atol=1e-13)


# Feature names -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_feature_names(kind):
    model = ours(kind).fit(frame, TARGETS[kind])
    assert_array_equal(model.feature_names_in_, list("abcd"))
    assert model.n_features_in_ == 4
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict(frame[list("abdc")])
    with pytest.raises(ValueError, match="feature names should match"):
        model.partial_fit(frame.rename(columns={"a": "e"}), TARGETS[kind])
    with pytest.warns(UserWarning, match="X does not have valid feature names, but MLPTorch"):
        predicted = model.predict(X)
    assert_allclose(predicted, model.predict(frame), rtol=1e-13)  # a frame lies in column order: other sums
    model.fit(X, TARGETS[kind])
    assert not hasattr(model, "feature_names_in_")
    with pytest.warns(UserWarning, match="X has feature names, but MLPTorch.* was fitted without"):
        model.predict(frame)


@pytest.mark.parametrize("scoring", [None, "accuracy"])
def test_early_stopping_does_not_warn_of_missing_names(scoring):
    ours("classifier", early_stopping=True, scoring=scoring).fit(frame, LABELS)  # a warning would be an error


# Tensors -------------------------------------------------------------------------------

TENSORS = {
    "float64": torch.from_numpy(X),
    "float32": torch.from_numpy(X).float(),
    "float16": torch.from_numpy(X).half(),
    "bfloat16": torch.from_numpy(X).bfloat16(),
    "int64": torch.from_numpy(INTEGERS).long(),
    "uint8": torch.from_numpy(INTEGERS).byte(),
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


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_is_taken_as_its_array(kind, name):
    tensor = TENSORS[name]
    before = tensor.detach().clone()
    array = as_array(tensor)
    model, reference = pair(kind)
    model.fit(tensor, TARGETS[kind])
    reference.fit(array, TARGETS[kind])
    result, expected = outputs(model, tensor), outputs(reference, array)
    assert type(result) is np.ndarray
    assert result.dtype == expected.dtype
    assert_allclose(result, expected, rtol=RTOL[expected.dtype.type])
    assert_array_equal(result, outputs(model, array))
    assert tensor.grad is None
    assert torch.equal(tensor.detach(), before)


LABEL_TENSORS = {
    "int64": torch.from_numpy(LABELS),
    "int32": torch.from_numpy(LABELS).int(),
    "uint8": torch.from_numpy(LABELS).byte(),
    "float32": torch.from_numpy(LABELS).float(),
    "bfloat16": torch.from_numpy(LABELS).bfloat16(),
    "bool": torch.from_numpy(LABELS > 0),
    "multilabel": torch.from_numpy(np.column_stack([LABELS == 0, X[:, 0] > 1.4]).astype(int)),
    "multilabel float32": torch.from_numpy(np.column_stack([LABELS == 0, X[:, 0] > 1.4])).float(),
}


@pytest.mark.parametrize("name", LABEL_TENSORS)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_tensors_of_labels(method, name):
    y = LABEL_TENSORS[name]
    model, reference = pair("classifier")
    given, equivalent = {"sample_weight": torch.from_numpy(WEIGHTS)}, {"sample_weight": WEIGHTS}
    if method == "partial_fit":
        classes = torch.unique(y) if y.ndim == 1 else torch.arange(y.shape[1])
        given["classes"], equivalent["classes"] = classes, as_array(classes)
    getattr(model, method)(torch.from_numpy(X), y, **given)
    getattr(reference, method)(X, as_array(y), **equivalent)
    assert_array_equal(model.classes_, reference.classes_)
    assert model.classes_.dtype == reference.classes_.dtype
    assert_allclose(model.predict_proba(torch.from_numpy(X)), reference.predict_proba(X), rtol=RTOL[np.float64])
    assert type(model.predict(X)) is np.ndarray
    assert_array_equal(model.predict(X), reference.predict(X))
    score = model.score(torch.from_numpy(X), y, torch.from_numpy(WEIGHTS))
    assert_allclose(score, reference.score(X, as_array(y), WEIGHTS), rtol=RTOL[np.float64])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_tensors_of_numbers(method, dtype):
    y = torch.from_numpy(TWO_NUMBERS).to(dtype)
    y = y.requires_grad_() if dtype.is_floating_point else y
    sample_weight = torch.from_numpy(WEIGHTS).clone().requires_grad_()
    model, reference = pair("regressor")
    getattr(model, method)(torch.from_numpy(X), y, sample_weight)
    getattr(reference, method)(X, as_array(y), WEIGHTS)
    assert_allclose(model.predict(X), reference.predict(X), rtol=RTOL[np.float64])
    score = model.score(X, y, sample_weight)
    assert_allclose(score, reference.score(X, as_array(y), WEIGHTS), rtol=RTOL[np.float64])
    assert y.grad is None


# Validated input -----------------------------------------------------------------------


def test_validation_does_not_copy_floats():
    for dtype in (np.float32, np.float64):
        rows = X.astype(dtype)
        validated = validate_training(MLPTorchClassifier(), Inputs(rows, LABELS), np.dtype(np.float32), reset=True)
        assert np.shares_memory(validated.X, rows)  # cast batch by batch
    validated = validate_training(MLPTorchClassifier(), Inputs(INTEGERS.astype(np.uint16), LABELS), None, reset=True)
    assert validated.X.dtype == np.float64  # PyTorch has no rows of uint16


@pytest.mark.parametrize("position", [0, -1])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_predictions_of_one_row_find_what_is_not_finite(value, position):
    """The check of one row is not scikit-learn's."""
    model = ours("regressor").fit(X, NUMBERS)
    row = X[:1].copy()
    row[0, position] = value
    with pytest.raises(ValueError, match=r"infinity|NaN"):
        model.predict(row)
    for n_features in (3, 5):
        with pytest.raises(ValueError, match=f"X has {n_features} features"):
            model.predict(np.ones((1, n_features)))
    large = np.full((1, 4), 1e308)  # finite, but their sum is not
    assert_array_equal(model.predict(large), model.predict(np.repeat(large, 2, 0))[:1])

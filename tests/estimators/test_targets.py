"""Training targets, losses and weights made of y, against scikit-learn's encoders and weights of classes."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import log_loss, mean_absolute_error, mean_pinball_loss, mean_poisson_deviance, mean_squared_error
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.class_weight import compute_sample_weight
from torch.nn import functional

from sktorch_mlp._estimators.targets import (
    ClassTargets,
    NumericTargets,
    check_known_classes,
    count_columns,
    fit_label_binarizer,
)
from sktorch_mlp._nn.losses import OUTPUT_ACTIVATIONS
from tests.estimators.helpers import LABELS, MULTILABEL, NUMBERS, TWO_NUMBERS, WEIGHTS, X

CLASSES = {
    "integers": LABELS,
    "strings": np.array(["b", "c", "a"])[LABELS],
    "floats": LABELS.astype(float),
    "not from zero": 7 - 5 * LABELS,
    "binary": (LABELS > 0).astype(int),
    "binary strings": np.array(["yes", "no"])[(LABELS > 0).astype(int)],
    "booleans": LABELS > 0,
    "one class": np.full(len(LABELS), "a"),
    "multilabel": MULTILABEL,
    "sparse multilabel": sp.csr_array(MULTILABEL),
}
SMOOTHING = 0.2


def class_targets(y, loss="log_loss", label_smoothing=0.0, class_weight=None):
    return ClassTargets(LabelBinarizer().fit(y), loss, label_smoothing, class_weight, y)


def indicators(y):
    """scikit-learn's indicators, of shape (n_rows, n_columns)."""
    encoded = LabelBinarizer().fit_transform(y)
    return encoded.toarray() if sp.issparse(encoded) else encoded


def is_multiclass(y):
    return y.ndim == 1 and len(np.unique(y)) > 2


# Encoding ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CLASSES)
def test_labels_are_encoded_as_by_the_label_binarizer(name, dtype):
    y = CLASSES[name]
    encoded = class_targets(y).encode(y, dtype)
    assert encoded.flags.c_contiguous
    assert encoded.dtype == (np.int64 if is_multiclass(y) else dtype)
    if is_multiclass(y):  # one row of class indices
        encoded = np.eye(len(np.unique(y)))[:, encoded[0]]
    assert_array_equal(encoded.T, indicators(y))


@pytest.mark.parametrize("name", CLASSES)
def test_smooth_labels_are_spread_over_the_alternatives(name):
    y = CLASSES[name]
    encoded = class_targets(y, label_smoothing=SMOOTHING).encode(y, np.float64)
    expected = indicators(y).astype(float)
    if name != "one class":
        n_alternatives = expected.shape[1] if is_multiclass(y) else 2
        expected = (1 - SMOOTHING) * expected + SMOOTHING / n_alternatives
    assert_allclose(encoded.T, expected, rtol=1e-15)
    if is_multiclass(y):
        assert_allclose(encoded.sum(0), 1)


@pytest.mark.parametrize(
    "y",
    [[0, 1, 2, 1], [3, 3, 7], [5, 5], [True, False], np.array([1, 0, 255], np.uint8), ["b", "a"], [[0, 1], [1, 1]]],
    ids=["multiclass", "binary", "one class", "booleans", "uint8", "strings", "multilabel"],
)
def test_a_label_binarizer_is_as_if_fitted_by_scikit_learn(y):
    y = np.array(y)
    binarizer, expected = fit_label_binarizer(y), LabelBinarizer().fit(y)
    assert vars(binarizer).keys() == vars(expected).keys()
    assert_array_equal(binarizer.classes_, expected.classes_)
    assert binarizer.classes_.dtype == expected.classes_.dtype
    assert (binarizer.y_type_, binarizer.sparse_input_) == (expected.y_type_, expected.sparse_input_)
    assert_array_equal(binarizer.transform(y), expected.transform(y))


@pytest.mark.parametrize("y", [NUMBERS, TWO_NUMBERS, sp.csr_array(TWO_NUMBERS)], ids=["one", "two", "sparse"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_are_transposed(y, dtype):
    encoded = NumericTargets(count_columns(y), "squared_error", 0.5).encode(y, dtype)
    assert encoded.dtype == dtype
    assert encoded.flags.c_contiguous
    expected = y.toarray() if sp.issparse(y) else y
    assert_array_equal(encoded, expected.reshape(len(NUMBERS), -1).T.astype(dtype))


def test_numbers_must_be_numbers():
    with pytest.raises(ValueError, match=r"y must be numeric, but has dtype <U3. Convert it to float"):
        NumericTargets(1, "squared_error", 0.5).encode(NUMBERS.astype("U3"), np.float64)
    negative = NUMBERS - NUMBERS.mean()
    with pytest.raises(ValueError, match=r"'poisson' requires y >= 0.*squared_error"):
        NumericTargets(1, "poisson", 0.5).encode(negative, np.float64)
    assert NumericTargets(1, "poisson", 0.5).encode(NUMBERS * 0, np.float64).max() == 0  # zeros are counts


# Losses --------------------------------------------------------------------------------


def mean_loss(loss, logits, targets):
    """Mean loss and score of unit-major logits, through the four steps of a training step."""
    logits, targets = torch.from_numpy(logits.copy()), torch.from_numpy(targets)
    predictions = logits if loss.of_logits else OUTPUT_ACTIVATIONS[loss.out_activation](logits)
    terms = torch.empty(1, logits.shape[-1], dtype=torch.float64)
    loss.to_delta_(predictions, targets, terms)
    return loss.row_losses(terms, targets).mean().item()


@pytest.mark.parametrize("label_smoothing", [0.0, SMOOTHING], ids=["hard", "smooth"])
@pytest.mark.parametrize("name", ["strings", "binary strings", "multilabel"])
def test_the_loss_of_labels_is_the_log_loss(name, label_smoothing):
    y = CLASSES[name]
    targets = class_targets(y, label_smoothing=label_smoothing)
    loss = targets.make_loss(has_sample_weight=False)
    expected_outputs = indicators(y).shape[1]
    assert loss.n_outputs == expected_outputs
    assert loss.out_activation == ("softmax" if is_multiclass(y) else "logistic")
    logits = np.random.RandomState(0).normal(size=(expected_outputs, len(X)))
    truth = targets.encode(y, np.float64)
    if name == "strings" and not label_smoothing:
        expected = log_loss(y, torch.softmax(torch.from_numpy(logits.T), 1).numpy())
    elif name == "strings":
        expected = functional.cross_entropy(torch.from_numpy(logits.T), torch.from_numpy(truth.T)).item()
    else:
        row_losses = functional.binary_cross_entropy_with_logits(
            torch.from_numpy(logits), torch.from_numpy(truth), reduction="none"
        )
        expected = row_losses.sum(0).mean().item()
    assert_allclose(mean_loss(loss, logits, truth), expected, rtol=1e-12)


METRICS = {
    "squared_error": lambda y, p: mean_squared_error(y, p) / 2,
    "absolute_error": mean_absolute_error,
    "quantile": lambda y, p: mean_pinball_loss(y, p, alpha=0.8),
    "huber": lambda y, p: functional.huber_loss(torch.from_numpy(p), torch.from_numpy(y)).item(),
    "poisson": lambda y, p: mean_poisson_deviance(y, np.exp(p)) / 2,
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("y", [NUMBERS, TWO_NUMBERS], ids=["one output", "two outputs"])
def test_the_loss_of_numbers_is_scikit_learns_metric(name, y):
    targets = NumericTargets(count_columns(y), name, 0.8)
    loss = targets.make_loss(has_sample_weight=False)
    assert loss.out_activation == ("exp" if name == "poisson" else "identity")
    y = y.reshape(len(y), -1)
    logits = y + np.random.RandomState(0).normal(size=y.shape) * 2
    result = mean_loss(loss, logits.T, targets.encode(y, np.float64))
    if name == "poisson":  # summed over outputs, as in scikit-learn's MLP
        result /= y.shape[1]
        expected = np.mean([METRICS[name](column, p) for column, p in zip(y.T, logits.T, strict=True)])
    else:
        expected = METRICS[name](y, logits)
    assert_allclose(result, expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["strings", "binary", "multilabel", "numbers"])
def test_a_function_takes_the_place_of_the_loss(name):
    def function(logits, y):
        return (logits.reshape(len(y), -1) ** 2).mean(1)

    numeric = name == "numbers"
    targets = NumericTargets(1, function, 0.5) if numeric else class_targets(CLASSES[name], function)
    loss = targets.make_loss(has_sample_weight=True)
    replaced = NumericTargets(1, "squared_error", 0.5) if numeric else class_targets(CLASSES[name])
    replaced = replaced.make_loss(has_sample_weight=True)
    assert loss.of_logits
    assert (loss.n_outputs, loss.out_activation) == (replaced.n_outputs, replaced.out_activation)
    logits = np.random.RandomState(0).normal(size=(loss.n_outputs, len(X)))
    encoded = targets.encode(NUMBERS if numeric else CLASSES[name], np.float64)
    assert_allclose(mean_loss(loss, logits, encoded), (logits**2).mean(), rtol=1e-12)


def test_a_function_smooths_the_labels_itself():
    with pytest.raises(ValueError, match="label_smoothing cannot be used with a loss function"):
        class_targets(LABELS, functional.cross_entropy, SMOOTHING)


@pytest.mark.parametrize(
    ("name", "stratifies"),
    [("integers", False), ("binary", True), ("one class", True), ("multilabel", False)],
)
def test_rows_of_one_encoded_column_are_stratified(name, stratifies):
    """So does scikit-learn: it stratifies by targets of one column."""
    assert class_targets(CLASSES[name]).stratifies == stratifies
    assert not NumericTargets(1, "squared_error", 0.5).stratifies


# Weights -------------------------------------------------------------------------------

CLASS_WEIGHTS = {
    "dict": (LABELS, {0: 1.0, 1: 3.0, 2: 0.5}),
    "dict of some": (LABELS, {1: 3.0}),
    "balanced": (np.sort(LABELS)[np.r_[0:30, 0:20]], "balanced"),
    "names": (CLASSES["strings"], {"a": 1.0, "b": 3.0, "c": 0.5}),
    "binary": (CLASSES["binary"], {0: 5.0, 1: 1.0}),
    "booleans, balanced": (CLASSES["booleans"], "balanced"),
    "multilabel": (MULTILABEL, [{0: 1.0, 1: 3.0}, {0: 2.0, 1: 1.0}, {0: 1.0, 1: 0.25}]),
    "multilabel, balanced": (MULTILABEL, "balanced"),
    "sparse multilabel": (sp.csr_array(MULTILABEL), [{0: 1.0, 1: 3.0}, {0: 2.0, 1: 1.0}, {0: 1.0, 1: 0.25}]),
}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "sample weights"])
@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_weights_of_classes_are_those_of_compute_sample_weight(name, weighted):
    y, class_weight = CLASS_WEIGHTS[name]
    targets = class_targets(y, class_weight=class_weight)
    sample_weight = WEIGHTS.astype(np.float32) if weighted else None
    expected = compute_sample_weight(class_weight, y.toarray() if sp.issparse(y) else y)
    if weighted:
        expected = expected * sample_weight
    assert targets.has_row_weights(sample_weight)
    assert not targets.loss_has_default_score  # accuracy does not know of them
    weights = targets.row_weights(y, sample_weight)
    assert weights.dtype == np.float64
    assert_allclose(weights, expected, rtol=1e-14)


def test_weights_of_classes_are_those_of_training():
    """Rows of validation are weighted by the classes of the training rows, in which a class may be rarer."""
    y, _ = CLASS_WEIGHTS["balanced"]
    weights = class_targets(y, class_weight="balanced").row_weights(y[::3], None)
    assert_allclose(weights, compute_sample_weight("balanced", y)[::3], rtol=1e-14)


def test_without_class_weights_rows_have_their_own():
    for targets in (class_targets(LABELS), NumericTargets(1, "squared_error", 0.5)):
        assert targets.loss_has_default_score
        assert targets.row_weights(LABELS, WEIGHTS) is WEIGHTS
        assert targets.row_weights(LABELS, None) is None
        assert targets.has_row_weights(WEIGHTS)
        assert not targets.has_row_weights(None)


def test_wrong_weights_of_classes_are_scikit_learns_errors():
    for y, class_weight in [(LABELS, {7: 2.0}), (MULTILABEL, [{0: 1.0, 1: 1.0}]), (MULTILABEL, {0: 1.0})]:
        with pytest.raises(ValueError, match=r"class_weight|classes") as raised:
            class_targets(y, class_weight=class_weight)
        with pytest.raises(ValueError, match=r"class_weight|classes") as expected:
            compute_sample_weight(class_weight, y)
        assert type(raised.value) is type(expected.value)


# Checks --------------------------------------------------------------------------------


def test_known_classes():
    known = LabelBinarizer().fit([0, 1, 2])
    check_known_classes(np.array([0, 1]), known, same=False)
    check_known_classes(LABELS, known, same=True)
    with pytest.raises(ValueError, match=r"`y` has classes not in `self.classes_`. `self.classes_` has \[0 1 2\]"):
        check_known_classes(np.array([0, 3]), known, same=False)
    with pytest.raises(ValueError, match="warm_start can only be used where `y` has the same classes"):
        check_known_classes(np.array([0, 1]), known, same=True)


VALIDATION = {
    "unknown class": (LABELS, LABELS + 1, r"y_val has classes \[3\], which y does not have. Known are \[0 1 2\]"),
    "unknown string": (CLASSES["strings"], np.array(["a", "d"]), r"y_val has classes \['d'\]"),
    "multilabel for multiclass": (LABELS, MULTILABEL, r"shape \(50, 3\), but with this y it must be \(50,\)"),
    "multiclass for multilabel": (MULTILABEL, LABELS, r"shape \(50,\), but with this y it must be \(50, 3\)"),
    "fewer labels": (MULTILABEL, MULTILABEL[:, :2], r"shape \(50, 2\), but with this y it must be \(50, 3\)"),
}


@pytest.mark.parametrize("name", VALIDATION)
def test_labels_of_validation_must_be_known(name):
    y, y_val, match = VALIDATION[name]
    with pytest.raises(ValueError, match=match):
        class_targets(y).check_validation(y_val)


def test_targets_of_validation_may_lack_classes_but_not_columns():
    class_targets(LABELS).check_validation(LABELS[:1])
    class_targets(MULTILABEL).check_validation(MULTILABEL[:1] * 0)
    NumericTargets(2, "squared_error", 0.5).check_validation(TWO_NUMBERS[:3])
    with pytest.raises(ValueError, match="y_val has 1 columns, but y has 2"):
        NumericTargets(2, "squared_error", 0.5).check_validation(NUMBERS)

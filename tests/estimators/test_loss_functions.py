"""Functions as losses: those that fit the outputs give what they should, the others are refused."""

import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.model_selection import GridSearchCV
from torch import nn
from torch.nn import functional

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, stacked_fits
from tests.estimators.by_hand import (
    ADAM,
    BINARY,
    IN_ORDER,
    LABELS,
    NUMBERS,
    NUMBERS_X,
    PARAMS,
    TWO_NUMBERS,
    WEIGHTS,
    X,
    Y,
    adam,
    assert_learned_as,
    modules,
    train_by_hand,
)

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

ROOT = Path(__file__).parents[2]
CLASSES = {"two classes": BINARY, "three classes": Y, "labels": LABELS}


# The guide's function ------------------------------------------------------------------


@pytest.fixture(scope="module")
def focal():
    """The function of docs/guide/training.md."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/guide/training.md").read_text(), flags=re.DOTALL)
    (block,) = [block for block in blocks if "def focal(" in block]
    namespace = {}
    exec(block.partition("clf = ")[0], namespace)
    return namespace["focal"]


def focal_by_hand(outputs, y):
    """Mean over outputs of (1 - p)² log(1 / p), where p is the probability of what is true."""
    if outputs.shape[1] == 3 and y.ndim == 1:
        p = torch.softmax(outputs, 1).gather(1, y[:, None])
    else:
        truth = y.reshape(outputs.shape)
        p = torch.where(truth == 1, torch.sigmoid(outputs), torch.sigmoid(-outputs))
    return ((1 - p) ** 2 * -p.log()).mean(1)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("name", CLASSES)
def test_the_guides_focal_loss_is_that_of_autograd(name, weighted, focal):
    y = CLASSES[name]
    module = modules(1 if y is BINARY else 3)
    weights = WEIGHTS if weighted else None
    losses = train_by_hand(module, X, y, focal_by_hand, adam, weights=weights)
    model = MLPTorchClassifier(**IN_ORDER, **ADAM, alpha=0.0, loss=focal).fit(X, y, sample_weight=weights)
    assert_learned_as(model, module, losses)


@pytest.mark.parametrize("name", ["two classes", "three classes"])
def test_the_guides_focal_loss_learns_the_frequencies_of_classes(name, focal):
    y = CLASSES[name]
    model = MLPTorchClassifier((8,), max_iter=200, learning_rate_init=0.01, random_state=0, loss=focal).fit(X, y)
    assert_allclose(model.predict_proba(X).mean(0), np.bincount(y) / len(y), atol=0.1)  # focal keeps off 0 and 1
    assert model.score(X, y) > 0.95


# Functions that do not fit -------------------------------------------------------------

CROSS_ENTROPIES = {
    "function": functional.cross_entropy,
    "module": nn.CrossEntropyLoss(),
    "rows": nn.CrossEntropyLoss(reduction="none"),
    "partial": partial(functional.cross_entropy, reduction="none"),
    "partial of partial": partial(partial(functional.cross_entropy), label_smoothing=0.1),
}


@pytest.mark.parametrize("loss", CROSS_ENTROPIES)
@pytest.mark.parametrize("name", ["two classes", "labels"])
def test_cross_entropy_is_refused_where_outputs_are_logistic(name, loss):
    message = (
        r"loss=.*(cross_entropy|CrossEntropyLoss).* is for the softmax.*binary_cross_entropy_with_logits, or loss="
    )
    with pytest.raises(ValueError, match=message):
        MLPTorchClassifier(**PARAMS, loss=CROSS_ENTROPIES[loss]).fit(X, CLASSES[name])


def of_softmax(logits, y):
    """The guide's focal loss as it once was."""
    loss = functional.cross_entropy(logits, y, reduction="none")
    return (1 - torch.exp(-loss)) ** 2 * loss


OTHER_ROWS = "depends on which other rows there are"
MISFITS = {
    "cross-entropy, two classes": (BINARY, lambda p, y: functional.cross_entropy(p, y), f"{OTHER_ROWS}.*does not"),
    "focal, two classes": (BINARY, of_softmax, rf"{OTHER_ROWS}.*shape \(40,\).*binary_cross_entropy_with_logits"),
    "focal, labels": (LABELS, of_softmax, r"stays the same when all logits.*shape \(40, 3\).*binary_cross_entropy"),
    "sum": (Y, partial(functional.cross_entropy, reduction="sum"), f'{OTHER_ROWS}.*reduction="none" or "mean"'),
    "sum, labels": (LABELS, nn.BCEWithLogitsLoss(reduction="sum"), f'{OTHER_ROWS}.*reduction="none" or "mean"'),
    "shares": (NUMBERS, lambda p, y: (p - y) ** 2 / ((p - y) ** 2).sum(), OTHER_ROWS),
    "centered": (NUMBERS, lambda p, y: (p - p.mean() - y) ** 2, OTHER_ROWS),
    "spread": (NUMBERS, lambda p, y: (p - y).std(), OTHER_ROWS),
    "sum of errors": (TWO_NUMBERS, nn.MSELoss(reduction="sum"), OTHER_ROWS),
}


def fit(y, loss, **params):
    if y is NUMBERS or y is TWO_NUMBERS:
        return MLPTorchRegressor(**PARAMS | params, loss=loss).fit(NUMBERS_X, y)
    return MLPTorchClassifier(**PARAMS | params, loss=loss).fit(X, y)


@pytest.mark.parametrize("name", MISFITS)
def test_functions_that_do_not_give_losses_of_rows_are_refused(name):
    y, loss, message = MISFITS[name]
    with pytest.raises(ValueError, match=message):
        fit(y, loss)


PLACES = {
    "single rows": {"batch_size": 1, "max_iter": 1},
    "pairs": {"batch_size": 2, "max_iter": 1},
    "lbfgs": {"solver": "lbfgs"},
    "early stopping": {"early_stopping": True},
    "float32": {"dtype": "float32"},
}


@pytest.mark.parametrize("place", PLACES)
def test_they_are_refused_wherever_they_train(place):
    with pytest.raises(ValueError, match=OTHER_ROWS):
        fit(BINARY, of_softmax, **PLACES[place])


def test_a_first_batch_of_one_class_does_not_hide_them():
    """The cross-entropy that takes a batch for one sample is zero there."""
    order = np.argsort(BINARY)
    with pytest.raises(ValueError, match=OTHER_ROWS):
        MLPTorchClassifier(**IN_ORDER | {"batch_size": 10}, loss=of_softmax).fit(X[order], BINARY[order])


def test_they_are_refused_in_stacks():
    with stacked_fits(), pytest.raises(ValueError, match=OTHER_ROWS):
        GridSearchCV(MLPTorchClassifier(**PARAMS, loss=of_softmax), {"alpha": [0.0, 0.1]}, error_score="raise").fit(
            X, BINARY
        )


def test_errors_of_a_function_tell_of_what_shape_its_arguments_were():
    with pytest.raises(ValueError, match="must be the same") as raised:
        fit(Y, functional.binary_cross_entropy_with_logits)
    assert raised.value.__notes__ == [
        "`loss` was called as loss(predictions, targets), with predictions of shape (40, 3) and targets of shape (40,)."
    ]


# Functions that do ---------------------------------------------------------------------

CLASS_WEIGHTS = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
FITTING = {
    "weighted mean": (Y, nn.CrossEntropyLoss(weight=CLASS_WEIGHTS)),
    "mean of some classes": (Y, nn.CrossEntropyLoss(ignore_index=2)),
    "smoothed": (Y, nn.CrossEntropyLoss(label_smoothing=0.1)),
    "margin": (Y, nn.MultiMarginLoss()),
    "weighted labels": (LABELS, nn.BCEWithLogitsLoss(pos_weight=CLASS_WEIGHTS)),
    "means of labels": (LABELS, nn.MultiLabelSoftMarginLoss(reduction="none")),
    "two classes": (BINARY, nn.SoftMarginLoss()),
    "large": (Y, lambda p, y: 1e9 * functional.cross_entropy(p, y, reduction="none")),
    "negative": (NUMBERS, lambda p, y: (p - y) ** 2 - 1e3),
    "mean of two outputs": (TWO_NUMBERS, nn.L1Loss()),
    "random": (Y, lambda p, y: functional.cross_entropy(functional.dropout(p, 0.5), y, reduction="none")),
}


OF_FLOAT64 = {"weighted mean", "weighted labels"}


@pytest.mark.parametrize("name", FITTING)
def test_functions_of_rows_are_taken(name):
    y, loss = FITTING[name]
    assert np.isfinite(fit(y, loss).loss_)


@pytest.mark.parametrize("name", [name for name in FITTING if name not in OF_FLOAT64])
def test_functions_of_rows_are_taken_in_float32(name):
    y, loss = FITTING[name]
    assert np.isfinite(fit(y, loss, dtype="float32").loss_)


@pytest.mark.parametrize("name", [name for name in FITTING if name != "mean of some classes"])  # there of none
def test_functions_of_rows_are_taken_row_by_row(name):
    y, loss = FITTING[name]
    assert np.isfinite(fit(y, loss, batch_size=1, max_iter=1).loss_)


def test_a_weighted_mean_is_that_of_class_weights():
    weighted = fit(Y, nn.CrossEntropyLoss(weight=CLASS_WEIGHTS), alpha=0.0)
    expected = fit(Y, "log_loss", alpha=0.0, class_weight=dict(enumerate(CLASS_WEIGHTS.tolist())))
    assert_allclose(weighted.predict_proba(X), expected.predict_proba(X), rtol=1e-8)  # sums in another order


def test_a_function_is_checked_once():
    calls = []

    def counted(logits, y):
        calls.append(len(y))
        return functional.cross_entropy(logits, y, reduction="none")

    fit(Y, counted)
    n_steps = PARAMS["max_iter"] * 3  # of 40, 40 and 10 rows
    assert len(calls) == n_steps + 3  # the first batch with each row twice, and its halves

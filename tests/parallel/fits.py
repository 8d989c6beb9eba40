"""Fits that the tests of stacks share, and how they are compared."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import joblib
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_digits
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, scale

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.loop import train
from sktorch_mlp._training.stacks import fits_trained_by

#: These fits are too short to converge, and some batches are larger than the folds.
FILTERS = [
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:Got `batch_size` less than 1 or larger",
]

X, Y = load_digits(return_X_y=True)
X, Y = X[:203] / 16, Y[:203]
Y3 = Y % 3
NUMBERS_X, NUMBERS = load_diabetes(return_X_y=True)
NUMBERS_X, NUMBERS = scale(NUMBERS_X)[:203], scale(NUMBERS)[:203]
#: Of 203 rows, so the folds differ by one.
FOLDS = KFold(3, shuffle=True, random_state=0)

MLP = MLPTorchClassifier((8,), max_iter=6, batch_size=40, random_state=0)
REGRESSOR = MLPTorchRegressor(hidden_layer_sizes=(8,), max_iter=6, batch_size=40, random_state=0)
PIPELINE = make_pipeline(StandardScaler(), MLP)
PIPELINE_GRID = {"mlptorchclassifier__alpha": [0.0, 0.1], "mlptorchclassifier__learning_rate_init": [0.001, 0.01, 0.1]}

FitFunction = Callable[[], Any]


def fits_of(base: Any, grid: Sequence[dict[str, Any]], X: Any, y: Any, weights: Any = None) -> list[FitFunction]:
    """Make a function for each candidate and fold that fits it."""

    def fit_of(params: dict[str, Any], rows: np.ndarray) -> FitFunction:
        own_weights = None if weights is None else weights[rows]
        return lambda: clone(base).set_params(**params).fit(X[rows], y[rows], own_weights)

    return [fit_of(params, rows) for params in grid for rows, _ in FOLDS.split(X)]


def in_parallel(functions: Sequence[FitFunction]) -> list[Any]:
    """Call all functions, in one parallel call."""
    return joblib.Parallel()(joblib.delayed(function)() for function in functions)


def assert_same_fits(fitted: Sequence[Any], expected: Sequence[Any], rtol: float = 1e-9) -> None:
    """Compare what estimators have learned in stacks and alone.

    Products of a stack sum in another order, and rounding grows over the steps.
    """
    for ours, theirs in zip(fitted, expected, strict=True):
        for name in ("n_iter_", "t_", "best_n_iter_"):
            assert getattr(ours, name) == getattr(theirs, name)
        for name in ("loss_curve_", "validation_loss_curve_", "validation_scores_"):
            assert (getattr(ours, name) is None) == (getattr(theirs, name) is None)
            if getattr(theirs, name) is not None:
                np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=rtol)
        rates = [[record["learning_rate"] for record in model.history_] for model in (ours, theirs)]
        assert rates[0] == rates[1]
        for a, b in zip(_arrays(ours), _arrays(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-11)


def _arrays(model: Any) -> list[np.ndarray]:
    norms = [array for norm in model.normalizations_ for array in norm.values()]
    return [*model.coefs_, *model.intercepts_, *norms]


@contextmanager
def counted_fits() -> Iterator[list[Fit]]:
    """Let the fits of this thread train alone, and collect them."""
    fits: list[Fit] = []

    def train_alone(fit: Fit) -> None:
        fits.append(fit)
        train([fit])

    with fits_trained_by(train_alone):
        yield fits


class _HandedOverError(Exception):
    """The fit has been handed over."""


def untrained_fit(function: FitFunction) -> Fit:
    """Return the fit that a function would train."""
    fits: list[Fit] = []

    def hand_over(fit: Fit) -> None:
        fits.append(fit)
        raise _HandedOverError

    with fits_trained_by(hand_over), suppress(_HandedOverError):
        function()
    (fit,) = fits
    return fit


def press_ctrl_c() -> None:
    """Interrupt the main thread as Ctrl-C does."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

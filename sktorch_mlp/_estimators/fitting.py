"""Fits of the estimators: options, scores, observers; training, and what to warn of."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from numbers import Integral
from typing import Any, Protocol

import numpy as np
import torch
from sklearn import config_context, get_config
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring

from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._data.shuffling import BlockShuffler, Shuffler
from sktorch_mlp._interop.sklearn_callbacks import SklearnObserver
from sktorch_mlp._nn.losses import Loss
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import to_numpy
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.lbfgs import train_lbfgs
from sktorch_mlp._training.observers import FitObserver
from sktorch_mlp._training.progress import DivergenceError, Progress, TrainingOptions
from sktorch_mlp._training.stacks import train_fit
from sktorch_mlp._training.threads import call_with_threads, on_one_blas_thread

from .compat import has_callbacks, scorer_takes_weights
from .inputs import Inputs
from .messages import warn
from .parameters import MLPParameters, has_planned_schedule
from .targets import Targets

#: Warnings to give once the model is fitted.
Warnings = list[tuple[str, type[Warning]]]
#: ``scoring(network, k)`` scores the k-th network of a stack.
Scoring = Callable[[StackedMLP, int], float]

#: How often an epoch may read an array on disk without a warning.
_MANY_TIMES = 4

_INTERRUPTED = ("Training interrupted by user.", UserWarning)
_BATCH_SIZE_CLIPPED = (
    "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped",
    UserWarning,
)


class Snapshot(Protocol):
    """Makes an estimator fitted with the k-th network of a stack in training."""

    def __call__(self, network: StackedMLP, k: int) -> Any: ...


def make_fit(
    params: MLPParameters,
    network: StackedMLP,
    loss: Loss,
    data: TrainingData,
    progress: Progress,
    scoring: Scoring | None,
    random_state: np.random.RandomState,
    max_iter: int,
) -> Fit:
    """Make a fit, as yet without optimizer and observer, which depend on it."""
    (train_rows,) = data.train.indices
    n_rows = len(train_rows)
    is_stochastic = params.solver != "lbfgs"
    batch_size = min(200 if isinstance(params.batch_size, str) else int(params.batch_size), n_rows)
    # A plateau of the training loss is no reason to miss the low rates at the end of a plan.
    trains_to_the_end = has_planned_schedule(params) and not params.early_stopping and is_stochastic
    options = TrainingOptions(
        alpha=params.alpha,
        batch_size=batch_size,
        max_iter=max_iter,
        tol=params.tol,
        n_iter_no_change=math.inf if trains_to_the_end else params.n_iter_no_change,
        verbose=bool(params.verbose),
        early_stopping=params.early_stopping,
        gradient_clip_norm=math.inf if params.gradient_clip_norm is None else float(params.gradient_clip_norm),
        max_fun=params.max_fun,
        scoring=scoring,
        scores_loss=params.scoring == "loss",
    )
    # The order of a single batch does not matter, nor does a stream that ends with the fit.
    ignores_order = batch_size == n_rows and not data.train.sums_weights_in_order
    shuffles = params.shuffle and not (ignores_order and isinstance(params.random_state, Integral))
    stream = random_state if shuffles and is_stochastic else None
    shuffler = _make_shuffler(params, data.train, stream, batch_size)
    return Fit(network, loss, data, shuffler, options, progress)


def _make_shuffler(
    params: MLPParameters, train: Samples, stream: np.random.RandomState | None, batch_size: int
) -> Shuffler:
    """Make the order of the training rows. Warn where a file has to be read many times for it, which takes hours."""
    rows, (train_rows,) = train.rows, train.indices
    if isinstance(params.shuffle, str):  # "blocks"
        return BlockShuffler(train_rows, stream, rows.block_rows, rows.streamed_at_once(len(train_rows), batch_size))
    times_read = 1.0 if stream is None else rows.times_read(len(train_rows), batch_size)
    if times_read > _MANY_TIMES:
        warn(
            f"shuffle=True takes rows from all chunks of the file, so that an epoch reads X about {times_read:.0f} times. "
            "Pass shuffle='blocks', or store X uncompressed in a file of HDF5 or Zarr.",
            UserWarning,
        )
    return Shuffler(train_rows, stream)


def make_scoring(
    estimator: Any,
    targets: Targets,
    training: Inputs,
    validation: Inputs,
    data: TrainingData,
    snapshot: Snapshot,
) -> Scoring | None:
    """Make the function that scores networks in training on the validation rows; None if the loss does, or nothing."""
    has_loss_score = estimator.scoring == "loss" or (estimator.scoring is None and targets.loss_has_default_score)
    if data.validation is None or has_loss_score:
        return None
    X, y, sample_weight = validation
    if X is None:
        (rows,) = data.validation.indices
        X, y, sample_weight = (None if values is None else values[rows] for values in training)
    X = to_numpy(X, "X")  # not all scores take tensors
    scorer = check_scoring(estimator, estimator.scoring)
    weights = {"sample_weight": sample_weight} if sample_weight is not None and scorer_takes_weights(scorer) else {}
    config = get_config()  # in a stack another thread scores

    def score(network: StackedMLP, k: int) -> float:
        fitted = snapshot(network, k)
        fitted.__dict__.pop("feature_names_in_", None)  # X has been validated
        try:
            with config_context(**config):
                value = scorer(fitted, X, y, **weights)
        except Exception as error:
            arguments = ", ".join(["estimator", "X", "y", *weights])
            error.add_note(f"`scoring` was called as scoring({arguments}) on the validation rows.")
            raise
        try:
            value = float(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"scoring must return a number, got {value} ({type(value)}) instead. (scorer={scorer})"
            ) from error
        if math.isnan(value):
            raise ValueError(
                f"scoring={estimator.scoring!r} gives nan for the validation rows at epoch {fitted.n_iter_}. Choose "
                "another score, or validation rows for which it is defined."
            )
        return value

    return score


def make_observers(estimator: Any, fit: Fit, given: Inputs, snapshot: Snapshot) -> list[FitObserver]:
    """Make the observers of a fit: callbacks of scikit-learn and of skorch."""
    observers: list[FitObserver] = []
    context = estimator._init_callback_context(max_subtasks=estimator.max_iter)
    if has_callbacks(estimator):
        observers.append(SklearnObserver(estimator, context, *given, lambda network, k: vars(snapshot(network, k))))
    if estimator.callbacks:
        from sktorch_mlp._interop.skorch_callbacks import SkorchObserver  # loads skorch, which only callbacks need

        observers.append(SkorchObserver(estimator.callbacks, fit, estimator.learning_rate_init))
    return observers


def run_lbfgs(params: MLPParameters, fit: Fit) -> tuple[int, float, Warnings]:
    """Train by L-BFGS; return iterations, loss and warnings.

    Raises
    ------
    DivergenceError
    """
    # scipy works on vectors of all parameters between steps, however small those are.
    train = on_one_blas_thread(partial(train_lbfgs, fit))
    result = call_with_threads(train, fit.network.n_coefs * fit.n_rows, fit.options.max_iter)
    if not (math.isfinite(result.fun) or result.interrupted) or not _all_finite(fit.network.flat):
        raise DivergenceError(f"The loss is {result.fun} after {result.nit} iterations of L-BFGS.")
    n_iter = min(int(result.nit), params.max_iter)
    if result.interrupted:
        return n_iter, float(result.fun), [_INTERRUPTED]
    if result.status == 0:
        return n_iter, float(result.fun), []
    remedy = (
        f"Increase max_iter (now {params.max_iter}) or scale the data, with StandardScaler for example."
        if n_iter == params.max_iter
        else "Scale the data, with StandardScaler for example, or increase max_fun."
    )
    failure = f"lbfgs failed to converge after {n_iter} iteration(s) (status={result.status}):"
    return n_iter, float(result.fun), [(f"{failure}\n{result.message}\n\n{remedy}", ConvergenceWarning)]


def run_stochastic(params: MLPParameters, fit: Fit, *, incremental: bool = False) -> Warnings:
    """Train by mini-batches; return warnings. Where it is `incremental`, nobody expects it to converge.

    Raises
    ------
    DivergenceError
    """
    options, progress = fit.options, fit.progress
    messages: Warnings = []
    if not isinstance(params.batch_size, str) and params.batch_size > fit.n_rows:
        messages += [_BATCH_SIZE_CLIPPED]
    n_steps = fit.n_rows / options.batch_size * options.max_iter
    call_with_threads(partial(train_fit, fit), fit.network.n_coefs * options.batch_size, n_steps)

    is_finite = _all_finite(fit.network.flat)
    if progress.stop_reason == "diverged" or not is_finite:
        last_loss = progress.loss_curve[-1] if progress.loss_curve else math.nan
        what_happened = f"The loss is {last_loss} at epoch {progress.n_iter}."
        if not (options.early_stopping and is_finite and math.isfinite(progress.best_validation_score)):
            raise DivergenceError(what_happened)
        # As in scikit-learn, early stopping still has the parameters of its best epoch.
        messages += [(f"{DivergenceError(what_happened)} Kept the best epoch before.", ConvergenceWarning)]
    elif progress.stop_reason == "interrupted":
        messages += [_INTERRUPTED]
    elif progress.stop_reason == "max_iter" and not (incremental or has_planned_schedule(params)):
        unconverged = f"Stochastic Optimizer: Maximum iterations ({params.max_iter}) reached and the "
        messages += [(unconverged + "optimization hasn't converged yet.", ConvergenceWarning)]
    return messages


def _all_finite(values: torch.Tensor) -> bool:
    """Whether all are finite. Their sum says so in one pass, unless it overflows."""
    return bool(values.sum().isfinite() or values.isfinite().all())

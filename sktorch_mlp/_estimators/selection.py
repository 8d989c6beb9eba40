"""Packs: candidates with hyperparameters drawn at random, and their weights in the ensemble."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
import scipy.special
import scipy.stats
from sklearn.model_selection import ParameterSampler

from .candidates import Candidate
from .compat import Interval, InvalidParameterError, StrOptions, validate_parameter_constraints
from .parameters import check_layer_sizes
from .plain import Converter
from .recipe import Settings

#: What ``hyperparameters="auto"`` draws from: networks that are about as good as those of the default, but others.
AUTO_HYPERPARAMETERS: dict[str, Any] = {
    "hidden_layer_sizes": [(256, 256), (256, 256), (384, 384), (512,), (256, 256, 256)],
    "learning_rate_init": scipy.stats.loguniform(1e-3, 4e-3),
    "weight_decay": scipy.stats.loguniform(0.03, 0.3),
    "dropout": scipy.stats.uniform(0.05, 0.25),
}
#: Hyperparameters without effect where there is no embedding.
EMBEDDING_HYPERPARAMETERS = {"numerical_embedding", "n_bins", "n_frequencies"}
#: Networks that are added to the ensemble one after the other, each of any candidate.
_N_ROUNDS = 50
#: Rows that selection looks at, at most.
_MOST_ROWS = 20_000

_CONSTRAINTS: dict[str, list[Any]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "numerical_embedding": [StrOptions({"auto", "piecewise_linear", "periodic"}), None],
    "n_bins": [Interval(Integral, 1, None, closed="left")],
    "n_frequencies": [Interval(Integral, 1, None, closed="left")],
    "batch_size": [Interval(Integral, 1, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
}


def check_hyperparameters(hyperparameters: Any, n_candidates: int | None) -> None:
    """Raise if a hyperparameter is unknown, or candidates have nothing to differ in.

    Raises
    ------
    InvalidParameterError
    """
    if hyperparameters is None and n_candidates is not None:
        raise InvalidParameterError(
            f"n_candidates={n_candidates!r} is for hyperparameters='auto' or a dict of them, but hyperparameters is None."
        )
    if isinstance(hyperparameters, Mapping) and (unknown := set(hyperparameters) - set(_CONSTRAINTS)):
        raise InvalidParameterError(
            f"hyperparameters has the unknown names {sorted(unknown, key=str)}. Known are {sorted(_CONSTRAINTS)}."
        )


def draw_candidates(
    default: Settings,
    hyperparameters: Any,
    n_candidates: int,
    n_train: int,
    random_state: np.random.RandomState,
    *,
    has_embedding: bool = True,
) -> list[Settings]:
    """The default, and candidates that differ from it at random.

    Parameters
    ----------
    default : Settings
    hyperparameters : "auto" or dict
        Lists and distributions by name, as `sklearn.model_selection.RandomizedSearchCV` takes them.
    n_candidates : int
        With the default; fewer where the lists have fewer combinations.
    n_train : int
        Rows a network trains on.
    random_state : RandomState
    has_embedding : bool, default=True
        Whether candidates can differ in their embedding.

    Raises
    ------
    InvalidParameterError
        If a value is not valid.
    """
    space = AUTO_HYPERPARAMETERS if isinstance(hyperparameters, str) else hyperparameters
    names = space.keys() if has_embedding else space.keys() - EMBEDDING_HYPERPARAMETERS
    space = {name: _as_options(name, values) for name, values in space.items() if name in names}
    n_drawn = n_candidates - 1
    if all(isinstance(values, list) for values in space.values()):
        n_drawn = min(n_drawn, int(np.prod([len(values) for values in space.values()])))
    candidates = [default]
    for drawn in ParameterSampler(space, n_drawn, random_state=random_state):
        validate_parameter_constraints(_CONSTRAINTS, drawn, "hyperparameters")
        if "hidden_layer_sizes" in drawn:
            drawn["hidden_layer_sizes"] = check_layer_sizes(drawn["hidden_layer_sizes"])
        if "batch_size" in drawn:
            drawn["batch_size"] = min(int(drawn["batch_size"]), n_train)
        candidates.append(replace(default, **drawn))
    return list(dict.fromkeys(candidates))


def _as_options(name: str, values: Any) -> Any:
    if hasattr(values, "rvs"):
        return values
    if isinstance(values, str | Set) or not isinstance(values, Iterable):  # a set has no order that stays
        raise InvalidParameterError(
            f"hyperparameters must have a list or a distribution of scipy for each name, got {values!r} for {name!r}."
        )
    options = list(values)
    if not options:
        raise InvalidParameterError(f"hyperparameters has an empty list for {name!r}. Leave the name out.")
    return options


def row_losses(outputs: np.ndarray, targets: np.ndarray, out_activation: str) -> np.ndarray:
    """Log-loss of each row, or squared error.

    Parameters
    ----------
    outputs : ndarray of shape (n_rows, n_outputs)
    targets : ndarray of shape (n_targets, n_rows)
        As in training.
    out_activation : str
    """
    if out_activation == "identity":
        return ((outputs - targets.T) ** 2).mean(1)
    tiny = np.finfo(np.float32).eps
    if out_activation == "softmax":
        return -np.log(outputs[np.arange(len(outputs)), targets[0]].clip(tiny))
    known = np.where(targets.T > 0.5, outputs, 1 - outputs)
    return -np.log(known.clip(tiny)).sum(1)


def scale_logits(outputs: np.ndarray, factor: float, out_activation: str) -> np.ndarray:
    """Activated outputs of logits that are multiplied by a factor."""
    if out_activation == "identity":
        return outputs * factor
    if out_activation == "logistic":
        return scipy.special.expit(factor * scipy.special.logit(outputs))
    with np.errstate(divide="ignore"):
        return scipy.special.softmax(factor * np.log(outputs), axis=1)


def greedy_weights(
    outputs: Sequence[np.ndarray],
    targets: np.ndarray,
    row_weights: np.ndarray | None,
    out_activation: str,
    logit_factors: Sequence[float] = (1.0,),
) -> np.ndarray:
    """Weights of candidates by greedy selection with replacement (Caruana et al., 2004).

    Begins with the best, and adds the one with which the average is best, again and again; the best average of all
    decides. Candidates that are worse than the best one by more than a standard error take no part, as an average
    gains from every further one where few networks have seen a row, and so from one that is worse.

    Parameters
    ----------
    outputs : sequence of ndarray of shape (n_rows, n_outputs)
        Predictions of each candidate for rows it has not seen.
    targets : ndarray of shape (n_targets, n_rows)
    row_weights : ndarray of shape (n_rows,) or None
    out_activation : str
    logit_factors : sequence of float, default=(1.0,)
        Predictions of single networks that are averaged later are too sure of themselves. So the logits of a candidate
        are scaled by the factor with which its loss is lowest.

    Returns
    -------
    weights : ndarray of shape (n_candidates,)
        They sum to one.
    """
    n_rows = len(outputs[0])
    step = max(1, n_rows // _MOST_ROWS)
    targets = targets[:, ::step]
    row_weights = None if row_weights is None else row_weights[::step]

    def losses_of(values: np.ndarray) -> np.ndarray:
        return np.nan_to_num(row_losses(values, targets, out_activation), nan=np.inf)

    def mean(losses: np.ndarray) -> float:
        return float(np.average(losses, weights=row_weights))

    pool, pool_losses = [], []
    for values in outputs:
        scaled = [scale_logits(values[::step], factor, out_activation) for factor in logit_factors]
        losses = [losses_of(each) for each in scaled]
        best = int(np.argmin([mean(each) for each in losses]))
        pool.append(scaled[best])
        pool_losses.append(losses[best])
    best = int(np.argmin([mean(losses) for losses in pool_losses]))
    takes_part = [
        c for c, losses in enumerate(pool_losses) if c == best or _is_as_good(losses - pool_losses[best], row_weights)
    ]

    counts, total = np.zeros(len(pool)), np.zeros_like(pool[0])
    best_loss, best_counts = np.inf, counts
    for n_chosen in range(1, _N_ROUNDS + 1):
        means = [mean(losses_of((total + pool[c]) / n_chosen)) for c in takes_part]
        chosen = takes_part[int(np.argmin(means))]
        counts, total = counts.copy(), total + pool[chosen]
        counts[chosen] += 1
        if min(means) < best_loss:
            best_loss, best_counts = min(means), counts
    return best_counts / best_counts.sum()


def _is_as_good(differences: np.ndarray, row_weights: np.ndarray | None) -> bool:
    """Whether losses exceed those of the best by no more than a standard error."""
    mean = np.average(differences, weights=row_weights)
    variance = np.average((differences - mean) ** 2, weights=row_weights)
    return bool(mean <= math.sqrt(variance / len(differences)))


def _frame_to_plain(frame: pd.DataFrame) -> dict[str, Any]:
    columns = {
        name: column.to_numpy() if column.dtype.kind in "biuf" else column.tolist() for name, column in frame.items()
    }
    return {"index": frame.index.to_numpy(), "columns": columns}


def _frame_from_plain(state: dict[str, Any]) -> pd.DataFrame:
    index = state["index"]
    columns = {
        name: pd.Series(values, index, object) if isinstance(values, list) else values
        for name, values in state["columns"].items()
    }
    return pd.DataFrame(columns, index)


#: Index and columns of a leaderboard: arrays of numbers, lists of anything else.
LEADERBOARD = Converter(_frame_to_plain, _frame_from_plain)


def leaderboard(candidates: Sequence[Candidate], weights: np.ndarray) -> pd.DataFrame:
    """One row for each candidate, best first."""
    rows = [
        {"candidate": i}
        | asdict(candidate.settings)
        | {
            "validation_loss": candidate.loss,
            "weight": weight,
            "n_iter": candidate.n_epochs,
            "seconds": candidate.seconds,
        }
        for i, (candidate, weight) in enumerate(zip(candidates, weights.tolist(), strict=True))
    ]
    board = pd.DataFrame(rows)
    embeddings = [row["numerical_embedding"] for row in rows]
    board["numerical_embedding"] = pd.Series(embeddings, dtype=object)  # which keeps None
    return board.sort_values("validation_loss", ignore_index=True)

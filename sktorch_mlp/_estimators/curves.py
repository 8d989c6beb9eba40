"""Loss curves of fitted estimators, for pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted


@dataclass(eq=False)
class LossCurve:
    """Losses of one network or of several that trained side by side.

    Attributes
    ----------
    name : str
    loss : ndarray of shape (n_networks, n_epochs)
        Training loss; nan after the last epoch of a network.
    validation_loss, validation_score : ndarray of shape (n_networks, n_epochs) or None
        None without validation rows.
    best_epoch : ndarray of shape (n_networks,) or None
        Epoch whose weights were kept, counted from 1; without early stopping that of the lowest validation loss. None
        without validation rows.
    step : str, default="epoch"
        What a column is: an epoch, or an iteration of L-BFGS.
    """

    name: str
    loss: np.ndarray
    validation_loss: np.ndarray | None = None
    validation_score: np.ndarray | None = None
    best_epoch: np.ndarray | None = None
    step: str = "epoch"

    def best_point(self) -> tuple[int, float] | None:
        """Epoch and loss at which to mark the best epoch; that of several networks is the median, on their mean."""
        if self.best_epoch is None:
            return None
        epoch = round(float(np.median(self.best_epoch)))
        losses = self.loss if self.validation_loss is None else self.validation_loss
        return epoch, float(mean_over_networks(losses)[epoch - 1])


def mean_over_networks(values: np.ndarray) -> np.ndarray:
    """Mean over the networks that train in an epoch; nan where none does."""
    n_networks = (~np.isnan(values)).sum(0)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.nansum(values, axis=0) / n_networks
    return mean


def check_drawable(curves: Sequence[LossCurve], *, score: bool, log: bool) -> None:
    """Raise if something is asked for that the curves do not have.

    Raises
    ------
    ValueError
    """
    if score and all(curve.validation_score is None for curve in curves):
        raise ValueError(
            "score=True needs validation scores, but there are none. Fit with early_stopping=True or X_val and y_val, or "
            "set score=False."
        )
    for curve in curves if log else ():
        known = [np.nanmin(losses) for losses in (curve.loss, curve.validation_loss) if losses is not None]
        if min(known) < 0:
            of = f" of {curve.name}" if curve.name else ""
            raise ValueError(f"log=True needs losses above 0, but one{of} is {min(known):g}. Set log=False.")


def final_estimator(estimator: Any) -> Any:
    """Look through searches to their best estimator, and through pipelines and the like to the last one in them.

    Raises
    ------
    NotFittedError
        If the estimator, or one that it contains, is not fitted.
    ValueError
        If a search has not refitted its best estimator.
    """
    check_is_fitted(estimator)
    if hasattr(estimator, "cv_results_"):
        if not hasattr(estimator, "best_estimator_"):
            raise ValueError(
                f"This {type(estimator).__name__} has no best_estimator_, since refit is {estimator.refit!r}. Fit it with "
                "refit=True, or pass an estimator of your own."
            )
        return final_estimator(estimator.best_estimator_)
    if hasattr(estimator, "steps"):
        return final_estimator(estimator.steps[-1][1])
    if hasattr(estimator, "regressor_"):  # of TransformedTargetRegressor
        return final_estimator(estimator.regressor_)
    return estimator


def loss_curves(estimator: Any, name: str | None = None) -> list[LossCurve]:
    """Curves of a fitted estimator: one, or for an ensemble of several candidates one for each.

    Parameters
    ----------
    estimator : estimator
        One of ours, one with `loss_curve_` such as scikit-learn's MLP, or a pipeline or search around it.
    name : str, default=None
        None for that of the class.

    Raises
    ------
    NotFittedError
    ValueError
        If there is no curve.
    """
    estimator = final_estimator(estimator)
    name = type(estimator).__name__ if name is None else name
    records = getattr(estimator, "history_", None) or _records_of_curves(estimator)
    if not records:
        raise ValueError(
            f"This {type(estimator).__name__} has no loss curve: no history_ and no loss_curve_. Pass an MLPTorchClassifier, "
            "an MLPTorchRegressor, a TabularMLPClassifier or a TabularMLPRegressor that has trained."
        )
    if "candidate" not in records[0]:
        step = "iteration" if getattr(estimator, "solver", None) == "lbfgs" else "epoch"
        return [_curve(name, [records], getattr(estimator, "best_n_iter_", None), step)]
    members = set(estimator._member_keys)  # others of a pack have no weight
    networks: dict[Any, dict[Any, list[dict[str, Any]]]] = {}
    for record in records:
        if (record["candidate"], record["estimator"]) in members:
            networks.setdefault(record["candidate"], {}).setdefault(record["estimator"], []).append(record)
    return [
        _curve(name if len(networks) == 1 else f"{name}, candidate {candidate}", list(by_estimator.values()))
        for candidate, by_estimator in networks.items()
    ]


def curves_of_several(estimators: Any) -> list[LossCurve]:
    """Curves of several fitted estimators, with names that differ.

    Parameters
    ----------
    estimators : dict of str to estimator, or list of estimator

    Raises
    ------
    NotFittedError
    ValueError
        If it is something else, or empty, or one has no curve.
    """
    if hasattr(estimators, "get_params") or not isinstance(estimators, Mapping | Sequence) or not estimators:
        raise ValueError(
            "from_estimators takes a list of fitted estimators, or a dict of names and estimators, that is not empty. Got "
            f"{estimators!r}. For a single one call from_estimator."
        )
    if isinstance(estimators, Mapping):
        return [curve for name, estimator in estimators.items() for curve in loss_curves(estimator, str(name))]
    curves = [curve for estimator in estimators for curve in loss_curves(estimator)]
    names = [curve.name for curve in curves]
    for i, curve in enumerate(curves):
        if names.count(names[i]) > 1:
            curve.name = f"{names[i]} {names[: i + 1].count(names[i])}"
    return curves


def _records_of_curves(estimator: Any) -> list[dict[str, Any]]:
    """Records made of the attributes of scikit-learn's MLP."""
    scores = getattr(estimator, "validation_scores_", None) or []
    losses = getattr(estimator, "loss_curve_", [])
    return [
        {"loss": loss} | ({"validation_score": scores[i]} if i < len(scores) else {}) for i, loss in enumerate(losses)
    ]


def _curve(
    name: str, networks: Sequence[Sequence[dict[str, Any]]], best_epoch: int | None = None, step: str = "epoch"
) -> LossCurve:
    """Make the curve of networks with these records."""
    loss, validation_loss, validation_score = (
        _rows([record.get(key, np.nan) for record in records] for records in networks)
        for key in ("loss", "validation_loss", "validation_score")
    )
    curve = LossCurve(name, loss, _if_known(validation_loss), _if_known(validation_score), step=step)
    if best_epoch is not None:
        curve.best_epoch = np.array([best_epoch])
    elif "candidate" in networks[0][0] and curve.validation_score is not None:  # each keeps the epoch of its best score
        curve.best_epoch = 1 + np.nanargmax(curve.validation_score, axis=1)
    elif curve.validation_loss is not None:
        curve.best_epoch = 1 + np.nanargmin(curve.validation_loss, axis=1)
    return curve


def _rows(values: Iterable[list[float]]) -> np.ndarray:
    """Rows of different lengths, filled with nan."""
    rows = list(values)
    array = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, numbers in zip(array, rows, strict=True):
        row[: len(numbers)] = numbers
    return array


def _if_known(values: np.ndarray) -> np.ndarray | None:
    return None if np.isnan(values).all() else values

"""Scores of a fitted search by one or two of its parameters, for pictures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

#: What halving searches vary beside their parameters.
RESOURCES = "n_resources"


@dataclass(eq=False)
class SearchResults:
    """The best candidate for each value of a parameter, or for each pair of values of two.

    Attributes
    ----------
    x_name : str
    x_values : list
        Numbers, or texts if not all values are numbers.
    mean, std : ndarray of shape (n_points,)
        Of the test scores over folds.
    score_name : str
    hue_name : str or None
    hue_values : list or None
    best : int or None
        Point of the best candidate of the search; None if it is not among these or not known.
    is_drawn : bool
        Whether the candidates were drawn at random, so that neighbors differ in more than x.
    """

    x_name: str
    x_values: list[Any]
    mean: np.ndarray
    std: np.ndarray
    score_name: str = "score"
    hue_name: str | None = None
    hue_values: list[Any] | None = None
    best: int | None = None
    is_drawn: bool = False

    def positions(self) -> tuple[np.ndarray, list[str] | None]:
        """Places on the axis, and what is written there if the values are texts."""
        if all(map(is_number, self.x_values)):
            return np.asarray(self.x_values, dtype=float), None
        texts = list(dict.fromkeys(self.x_values))
        return np.array([texts.index(text) for text in self.x_values], dtype=float), texts

    def lines(self) -> dict[Any, np.ndarray]:
        """Points of each value of the second parameter, from left to right."""
        hues = [None] * len(self.mean) if self.hue_values is None else self.hue_values
        order, _ = self.positions()
        distinct = list(dict.fromkeys(hues))
        if all(map(is_number, distinct)):
            distinct.sort()
        rows = {hue: np.array([i for i, each in enumerate(hues) if each == hue]) for hue in distinct}
        return {hue: own[np.argsort(order[own], kind="stable")] for hue, own in rows.items()}


def scale_of(values: Sequence[Any]) -> str:
    """Scale of an axis: "log" for numbers that span decades, "symlog" if one of these is 0, else "linear"."""
    numbers = [float(value) for value in values if is_number(value)]
    positive = [number for number in numbers if number > 0]
    if len(numbers) < len(values) or not positive or min(numbers) < 0:
        return "linear"
    # Numbers drawn uniformly may span decades as well, but few of them are small.
    spans_decades = max(positive) >= 100 * min(positive) and statistics.median_low(positive) < max(positive) / 4
    if not spans_decades:
        return "linear"
    return "log" if len(positive) == len(numbers) else "symlog"


def search_results(search: Any, x: str | None, hue: str | None, metric: str | None) -> SearchResults:
    """Take the scores of a search apart.

    Raises
    ------
    NotFittedError
    ValueError
        If it is no search, or a name is unknown.
    """
    cv_results = _cv_results(search)
    metric_name, mean, std = _scores(search, cv_results, metric)
    values = _values(cv_results)
    x, hue = _choose(values, x, hue)
    rounds = cv_results.get("iter", np.zeros(len(mean), int))
    points: dict[tuple[str, str], int] = {}
    for row, score in enumerate(mean):
        names = [name for name in (x, hue) if name is not None]
        if math.isnan(score) or any(values[name][row] is _NOT_SET for name in names):
            continue
        key = repr(values[x][row]), "" if hue is None else repr(values[hue][row])
        # Scores on more rows come first: those of an earlier round are of another kind.
        if key not in points or (rounds[row], score) > (rounds[points[key]], mean[points[key]]):
            points[key] = row
    if not points:
        raise ValueError("The search has no scores: all its candidates have failed. Look at its cv_results_.")
    rows = list(points.values())
    best = getattr(search, "best_index_", None)
    return SearchResults(
        x_name=x,
        x_values=_as_numbers_or_texts([values[x][row] for row in rows]),
        mean=mean[rows],
        std=std[rows],
        score_name=metric_name,
        hue_name=hue,
        hue_values=None if hue is None else _as_numbers_or_texts([values[hue][row] for row in rows]),
        best=rows.index(best) if best in rows else None,
        is_drawn=hasattr(search, "param_distributions"),
    )


#: Stands for the value of a parameter that a candidate does not have, in a list of grids.
_NOT_SET = object()


def _cv_results(search: Any) -> dict[str, Any]:
    if not hasattr(search, "cv_results_"):
        if not hasattr(search, "estimator") or not hasattr(search, "scoring"):
            raise ValueError(
                f"This {type(search).__name__} is not a search, which has cv_results_. Pass a fitted GridSearchCV, "
                "RandomizedSearchCV, HalvingGridSearchCV or HalvingRandomSearchCV."
            )
        check_is_fitted(search, "cv_results_")
    results: dict[str, Any] = search.cv_results_
    return results


def _scores(search: Any, cv_results: dict[str, Any], metric: str | None) -> tuple[str, np.ndarray, np.ndarray]:
    """Name, mean and standard deviation of the scores."""
    known = [key.removeprefix("mean_test_") for key in cv_results if key.startswith("mean_test_")]
    if metric is None:
        refit = search.refit
        metric = known[0] if len(known) == 1 else refit if isinstance(refit, str) else None
    if metric not in known:
        raise ValueError(f"metric={metric!r} is not a score of the search. Its scores are {known}: pass one of them.")
    name = metric
    if metric == "score" and isinstance(search.scoring, str):
        name = search.scoring
    return name, np.asarray(cv_results[f"mean_test_{metric}"]), np.asarray(cv_results[f"std_test_{metric}"])


def _values(cv_results: dict[str, Any]) -> dict[str, list[Any]]:
    """Values of each parameter, one for each candidate."""
    candidates = cv_results["params"]
    names = list(dict.fromkeys(name for candidate in candidates for name in candidate))
    values = {name: [candidate.get(name, _NOT_SET) for candidate in candidates] for name in names}
    if RESOURCES in cv_results:
        values[RESOURCES] = list(cv_results[RESOURCES])
    return values


def _choose(values: dict[str, list[Any]], x: str | None, hue: str | None) -> tuple[str, str | None]:
    """Complete the names of x and hue; without any, choose what varies."""
    if not values:
        raise ValueError("The search has no parameters to draw its scores over. Give it a grid that is not empty.")
    chosen = {"x": x, "hue": hue}
    known = [_resolve(name, argument, values) for argument, name in chosen.items() if name is not None]
    if len(set(known)) < len(known):
        raise ValueError(f"x and hue are both {known[0]!r}. Pass two parameters, or only x.")
    if x is not None:
        return known[0], known[1] if hue is not None else None
    n_values = {name: len(set(map(repr, values[name]))) for name in values if name not in known}
    if not n_values:
        raise ValueError(f"hue={hue!r} is the only parameter of the search. Pass it as x.")
    varied = [name for name, n in n_values.items() if n > 1 and name != RESOURCES] or list(n_values)
    numeric = [name for name in varied if all(map(is_number, values[name]))]
    best_x = max(numeric or varied, key=lambda name: n_values[name])
    if hue is not None:
        return best_x, known[0]
    others = [name for name in varied if name != best_x]
    if not others and n_values.get(RESOURCES, 1) > 1 and best_x != RESOURCES:
        return best_x, RESOURCES
    return best_x, others[0] if len(others) == 1 else None


def _resolve(name: str, argument: str, values: dict[str, list[Any]]) -> str:
    """Full name of a parameter, which may be given without the names of the steps before it."""
    found = [full for full in values if full == name] or [full for full in values if full.endswith(f"__{name}")]
    if len(found) != 1:
        what = "is the end of several parameters" if found else "is not a parameter"
        raise ValueError(
            f"{argument}={name!r} {what} of the search. Its parameters are {list(values)}: pass one of them."
        )
    return found[0]


def is_number(value: Any) -> bool:
    """Whether a value has a place on an axis."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and math.isfinite(value)


def _as_numbers_or_texts(values: Sequence[Any]) -> list[Any]:
    return list(values) if all(map(is_number, values)) else [_text(value) for value in values]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    if hasattr(value, "get_params") and not isinstance(value, type):
        return type(value).__name__
    return str(getattr(value, "__name__", value))

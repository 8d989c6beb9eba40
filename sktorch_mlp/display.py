"""Pictures of fits and searches, in the manner of scikit-learn's displays. They need matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np

from ._estimators.axes import axes_for, right_axes, shifted, show_legend, show_whole_numbers
from ._estimators.curves import LossCurve, check_drawable, curves_of_several, loss_curves, mean_over_networks
from ._estimators.search_results import SearchResults, is_number, scale_of, search_results

__all__ = ["LossCurveDisplay", "SearchDisplay"]

#: What lines differ in beside their colors, for those who print without.
_MARKERS, _LINESTYLES = "osD^vPX<>p", ("-", "--", "-.", ":")
_BEST = {"linestyle": "none", "marker": "*", "markersize": 13, "markeredgecolor": "black", "zorder": 5}
#: More values of a second parameter that are numbers become colors.
_MOST_LINES = 6
_SPREADS = ("errorbar", "fill_between", None)


class LossCurveDisplay:
    """Losses over the epochs of one fit or of several.

    Make one with `from_estimator` or `from_estimators`.

    Parameters
    ----------
    curves : list of LossCurve
        What to draw: each has a name and arrays `loss`, `validation_loss`, `validation_score` of shape
        (n_networks, n_epochs).

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the losses.
    score_ax_ : matplotlib Axes or None
        Axes of the validation scores, on the right.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : list of matplotlib Line2D
        Lines of losses and scores.
    bands_ : list of matplotlib PolyCollection
        Spread over the networks of ensembles.

    See Also
    --------
    SearchDisplay : Scores of a search by its parameters.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sktorch_mlp import LossCurveDisplay, MLPTorchClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> model = MLPTorchClassifier(early_stopping=True, max_iter=500, random_state=0).fit(X, y)
    >>> display = LossCurveDisplay.from_estimator(model, score=True)
    >>> display.ax_.get_ylabel(), display.score_ax_.get_ylabel()
    ('Loss', 'Validation score')
    >>> plt.close(display.figure_)
    """

    lines_: list[Any]
    bands_: list[Any]

    def __init__(self, *, curves: Sequence[LossCurve]) -> None:
        self.curves = curves

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: Any = None,
        name: str | None = None,
        score: bool = False,
        log: bool = False,
        members: str | None = "band",
        line_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the losses of a fitted estimator.

        Parameters
        ----------
        estimator : estimator
            One of ours, fitted by any solver or by `partial_fit`; scikit-learn's MLP; or a pipeline, a search or a
            `TransformedTargetRegressor`, which are looked through.
        ax : matplotlib Axes, default=None
            Axes to draw on; None for new ones.
        name : str, default=None
            Name in the legend; None for none.
        score : bool, default=False
            Whether to draw the validation score as well, on an axis of its own on the right.
        log : bool, default=False
            Whether the axis of the losses is logarithmic.
        members : {'band', 'lines'} or None, default='band'
            How to show the networks of an ensemble beside their mean: by a band from the lowest to the highest, by thin
            lines, or not at all.
        line_kw : dict, default=None
            Arguments of all calls of ``ax.plot``.

        Returns
        -------
        display : LossCurveDisplay
            With the axes and lines.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If it has no losses, or not what `score` or `log` asks for.
        ImportError
            Without matplotlib.
        """
        display = cls(curves=loss_curves(estimator, name or ""))
        return display.plot(ax, score=score, log=log, members=members, line_kw=line_kw)

    @classmethod
    def from_estimators(
        cls,
        estimators: Mapping[str, Any] | Sequence[Any],
        *,
        ax: Any = None,
        score: bool = False,
        log: bool = False,
        members: str | None = "band",
        line_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the losses of several fitted estimators.

        Parameters
        ----------
        estimators : dict of str to estimator, or list of estimator
            Those of a list have the names of their classes, numbered where they are alike.
        ax, score, log, members, line_kw : default=None, False, False, 'band', None
            As in `from_estimator`.

        Returns
        -------
        display : LossCurveDisplay
            With the axes and lines.

        Raises
        ------
        NotFittedError, ValueError, ImportError
            As `from_estimator`.
        """
        display = cls(curves=curves_of_several(estimators))
        return display.plot(ax, score=score, log=log, members=members, line_kw=line_kw)

    def plot(
        self,
        ax: Any = None,
        *,
        name: str | None = None,
        score: bool = False,
        log: bool = False,
        members: str | None = "band",
        line_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the losses.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None for new ones.
        name : str, default=None
            Name in the legend, of a single curve; None for its own.
        score, log, members, line_kw : default=False, False, 'band', None
            As in `from_estimator`.

        Returns
        -------
        display : LossCurveDisplay
            This object.
        """
        check_drawable(self.curves, score=score, log=log)
        if members not in ("band", "lines", None):
            raise ValueError(f"members must be 'band', 'lines' or None, got {members!r}.")
        self.ax_ = ax = axes_for(self, ax)
        self.figure_, self.lines_, self.bands_ = ax.figure, [], []
        self.score_ax_ = right_axes(ax) if score else None
        for curve in self.curves:
            name_of_curve = name if name is not None and len(self.curves) == 1 else curve.name
            self._plot_curve(curve, f"{name_of_curve}: " if name_of_curve else "", members, line_kw or {})
        show_whole_numbers(ax)
        ax.set(xlabel=" or ".join(sorted({curve.step for curve in self.curves})).capitalize(), ylabel="Loss")
        if log:
            ax.set_yscale("log")
        show_legend(ax, self.score_ax_)
        return self

    def _plot_curve(self, curve: LossCurve, prefix: str, members: str | None, line_kw: dict[str, Any]) -> None:
        """Draw the lines of a curve, in one color."""
        n_before = len({line.get_color() for line in self.ax_.get_lines()})
        every = max(1, curve.loss.shape[1] // 6)
        style: dict[str, Any] = {
            "marker": _MARKERS[n_before % len(_MARKERS)],
            "markevery": (n_before * every // 4 % every, every),  # lest those of alike curves hide each other
            "markersize": 5,
        }
        parts = [
            (self.ax_, curve.loss, "training loss", "--"),
            (self.ax_, curve.validation_loss, "validation loss", "-"),
            (self.score_ax_, curve.validation_score, "validation score", ":"),
        ]
        for ax, values, label, linestyle in parts:
            if ax is not None and values is not None:
                steps = np.arange(1, values.shape[1] + 1)
                kwargs = style | {"linestyle": linestyle, "label": prefix + label} | line_kw
                (line,) = ax.plot(steps, mean_over_networks(values), **kwargs)
                style["color"] = line.get_color()
                self.lines_.append(line)
                if len(values) > 1:
                    self._plot_members(ax, steps, values, line, members)
        best = curve.best_point()
        if best is not None:
            is_first = all(line.get_label() != "best epoch" for line in self.ax_.get_lines())
            marked = {"color": style["color"], "label": "best epoch" if is_first else "_best epoch"} | _BEST
            self.lines_ += self.ax_.plot(*best, **marked)

    def _plot_members(self, ax: Any, steps: np.ndarray, values: np.ndarray, line: Any, members: str | None) -> None:
        """Draw the networks of an ensemble."""
        color = line.get_color()
        if members == "band":
            low, high = np.fmin.reduce(values), np.fmax.reduce(values)
            self.bands_.append(ax.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0))
        elif members == "lines":
            linestyle = line.get_linestyle()
            self.lines_ += ax.plot(steps, values.T, color=color, linestyle=linestyle, linewidth=0.7, alpha=0.5)


class SearchDisplay:
    """Scores of a search by one or two of its parameters.

    Make one with `from_search`.

    Parameters
    ----------
    results : SearchResults
        What to draw: a point for each value of the parameters, with the mean of its test score over the folds and their
        standard deviation.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the scores.
    figure_ : matplotlib Figure
        Figure of the axes.
    lines_ : list of matplotlib Line2D
        A line for each value of the second parameter.
    errorbars_ : list of matplotlib ErrorbarContainer
        With the spread as bars.
    bands_ : list of matplotlib PolyCollection
        With the spread as a band.

    See Also
    --------
    LossCurveDisplay : Losses of a fit.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sktorch_mlp import MLPTorchClassifier, SearchDisplay
    >>> X, y = load_iris(return_X_y=True)
    >>> grid = {"alpha": [1e-4, 1e-2, 1.0], "activation": ["relu", "tanh"]}
    >>> search = GridSearchCV(MLPTorchClassifier(max_iter=500, tol=0.01, random_state=0), grid).fit(X, y)
    >>> display = SearchDisplay.from_search(search)
    >>> display.ax_.get_xlabel(), display.ax_.get_xscale(), len(display.lines_)
    ('alpha', 'log', 2)
    >>> plt.close(display.figure_)
    """

    lines_: list[Any]
    errorbars_: list[Any]
    bands_: list[Any]

    def __init__(self, *, results: SearchResults) -> None:
        self.results = results

    @classmethod
    def from_search(
        cls,
        search: Any,
        *,
        x: str | None = None,
        hue: str | None = None,
        metric: str | None = None,
        ax: Any = None,
        negate_score: bool = False,
        score_name: str | None = None,
        std_display_style: str | None = "errorbar",
        line_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the scores of a fitted search.

        Parameters
        ----------
        search : estimator
            A fitted `GridSearchCV`, `RandomizedSearchCV` or one of the halving searches.
        x : str, default=None
            Parameter on the axis; the name of its step may be left out. "n_resources" is that of a halving search.
        hue : str, default=None
            A second parameter, one line for each value. Without `x` and `hue` they are chosen among those that vary.
            Where others vary too, a point is the best candidate with these values; in a halving search, of the last
            round that had some.
        metric : str, default=None
            Score of a search with several; None for that of its `refit`.
        ax : matplotlib Axes, default=None
            Axes to draw on; None for new ones.
        negate_score : bool, default=False
            Whether to draw the negated score, of "neg_log_loss" and the like.
        score_name : str, default=None
            Name on the axis of scores; None for that of the metric.
        std_display_style : {'errorbar', 'fill_between'} or None, default='errorbar'
            How to show the standard deviation over the folds.
        line_kw : dict, default=None
            Arguments of all calls that draw lines.

        Returns
        -------
        display : SearchDisplay
            With the axes and lines.

        Raises
        ------
        NotFittedError
            If the search is not fitted.
        ValueError
            If it is no search, or a name is unknown.
        ImportError
            Without matplotlib.
        """
        display = cls(results=search_results(search, x, hue, metric))
        return display.plot(
            ax,
            negate_score=negate_score,
            score_name=score_name,
            std_display_style=std_display_style,
            line_kw=line_kw,
        )

    def plot(
        self,
        ax: Any = None,
        *,
        negate_score: bool = False,
        score_name: str | None = None,
        std_display_style: str | None = "errorbar",
        line_kw: dict[str, Any] | None = None,
    ) -> Self:
        """Draw the scores.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on; None for new ones.
        negate_score, score_name, std_display_style, line_kw : default=False, None, 'errorbar', None
            As in `from_search`.

        Returns
        -------
        display : SearchDisplay
            This object.
        """
        if std_display_style not in _SPREADS:
            raise ValueError(f"std_display_style must be one of {_SPREADS}, got {std_display_style!r}.")
        self.ax_ = ax = axes_for(self, ax)
        self.figure_, self.lines_, self.errorbars_, self.bands_ = ax.figure, [], [], []
        results = self.results
        x, texts = results.positions()
        y = -results.mean if negate_score else results.mean
        lines = results.lines()
        if len(lines) > _MOST_LINES and all(map(is_number, lines)):
            self._plot_colors(x, y, std_display_style)
        else:
            for i, (hue, rows) in enumerate(lines.items()):
                label = None if hue is None else f"{hue:g}" if is_number(hue) else hue
                # So many points to the right, lest bars hide each other. A band is where it is.
                shift = 0.0 if std_display_style == "fill_between" else 5 * (i - (len(lines) - 1) / 2)
                style = {"transform": shifted(ax, shift), "label": label} | (line_kw or {})
                self._plot_line(i, rows, x, y, std_display_style, style)
        # What is shifted does not count for the limits.
        ax.update_datalim(np.column_stack([np.tile(x, 2), np.concatenate([y - results.std, y + results.std])]))
        ax.autoscale_view()
        scale = scale_of(results.x_values)
        ax.set_xscale(scale, **({"linthresh": x[x > 0].min()} if scale == "symlog" else {}))
        if texts is not None:
            is_long = sum(map(len, texts)) > 50
            ax.set_xticks(range(len(texts)), texts, **({"rotation": 30, "ha": "right"} if is_long else {}))
        ax.set(xlabel=_short(results.x_name), ylabel=score_name or _score_name(results.score_name, negate=negate_score))
        handles = sorted(ax.get_legend_handles_labels()[0], key=lambda handle: handle.get_label() == "best")
        if handles:
            ax.legend(handles=handles, title=_short(results.hue_name) if results.hue_name and self.lines_ else None)
        return self

    def _plot_line(
        self, i: int, rows: np.ndarray, x: np.ndarray, y: np.ndarray, spread: str | None, style: dict[str, Any]
    ) -> None:
        """Draw the i-th line with its spread."""
        ax, x, y, std = self.ax_, x[rows], y[rows], self.results.std[rows]
        linestyle = "none" if self.results.is_drawn else _LINESTYLES[i % len(_LINESTYLES)]
        (line,) = ax.plot(x, y, **{"marker": _MARKERS[i % len(_MARKERS)], "linestyle": linestyle} | style)
        self.lines_.append(line)
        color, transform = line.get_color(), style["transform"]
        if spread == "fill_between":
            self.bands_.append(ax.fill_between(x, y - std, y + std, color=color, alpha=0.2, linewidth=0))
        elif spread == "errorbar":
            bars = {"fmt": "none", "ecolor": color, "capsize": 3, "transform": transform}
            self.errorbars_.append(ax.errorbar(x, y, std, **bars))
        is_best = rows == self.results.best
        if is_best.any():
            ax.plot(x[is_best], y[is_best], color="white", label="best", transform=transform, **_BEST)

    def _plot_colors(self, x: np.ndarray, y: np.ndarray, spread: str | None) -> None:
        """Draw points with the second parameter as their color, dark to light."""
        ax, results = self.ax_, self.results
        hues: list[Any] = results.hue_values or []
        if spread is not None:
            self.errorbars_.append(ax.errorbar(x, y, results.std, fmt="none", ecolor="0.7", zorder=1))
        norm = "log" if scale_of(hues) == "log" else "linear"
        points = ax.scatter(x, y, c=hues, cmap="viridis", norm=norm, edgecolors="black", linewidths=0.5)
        self.figure_.colorbar(points, ax=ax, label=_short(str(results.hue_name)))
        if results.best is not None:
            ax.plot(x[results.best], y[results.best], color="white", label="best", **_BEST)


def _short(name: str) -> str:
    """A parameter without the names of the steps before it."""
    return name.rpartition("__")[2]


def _score_name(name: str, *, negate: bool) -> str:
    """A score in words, as scikit-learn has them."""
    words = name.replace("_", " ")
    if words.startswith("neg "):
        words = words[4:] if negate else f"negative {words[4:]}"
    elif negate:
        words = f"negative {words}"
    return words[:1].upper() + words[1:]

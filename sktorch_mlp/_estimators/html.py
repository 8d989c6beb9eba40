"""The view of an estimator in a notebook: scikit-learn's, with links to our documentation, and what is fitted."""

from __future__ import annotations

import html
from abc import abstractmethod

import numpy as np
from sklearn.utils import estimator_html_repr
from sklearn.utils.validation import check_is_fitted

from .compat import BaseEstimator
from .curves import LossCurve, loss_curves, mean_over_networks
from .summary import HEADER, LayerTable, Summary, cells_of

#: Where releases serve their documentation: the one place to change, which `docs/conf.py` reads too. (There is none before
#: the first release.)
DOCS_URL = "https://sktorch-mlp.readthedocs.io/en/stable/"

#: Width and height of the spark line, and the most points that it is drawn through.
_WIDTH, _HEIGHT, _MOST_POINTS = 160, 32, 80

# Colors are those of the text around, so that light and dark notebooks need no others.
_STYLE = """
.sktorch-fitted {font-family: monospace; font-size: 0.9em; line-height: 1.4; margin: 0.4em; max-width: 100%}
.sktorch-fitted summary {cursor: pointer}
.sktorch-fitted .loss {display: flex; flex-wrap: wrap; align-items: center; column-gap: 1em}
.sktorch-fitted table {border-collapse: collapse; margin: 0.4em 0 0.4em 1em; background: none; color: inherit}
.sktorch-fitted :is(th, td) {border: none; padding: 0.1em 0.8em 0.1em 0; text-align: left; vertical-align: top;
  background: none; color: inherit}
.sktorch-fitted :is(th, td):not(:last-child) {white-space: nowrap}
.sktorch-fitted :is(th, td):is(:nth-child(2), :nth-child(3)) {text-align: right}
.sktorch-fitted th {font-weight: normal; opacity: 0.65}
"""


class NotebookViewMixin(BaseEstimator):
    """The summary of an estimator, and its view in a notebook."""

    _doc_link_module = "sktorch_mlp"
    _doc_link_template = DOCS_URL + "api/{estimator_module}.{estimator_name}.html"

    @abstractmethod
    def _summarize(self) -> Summary:
        """Summarize the fitted networks."""

    def summary(self) -> Summary:
        """Table of the layers: their units, parameters, and what follows them; then totals, device and precision.

        Returns
        -------
        summary : Summary
            Its attributes are `networks`, lists of layers, and `n_parameters`, `device` and `dtype`. ``print`` shows it
            as a table.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            If a parameter that was set since does not fit the layers.
        """
        check_is_fitted(self)
        return self._summarize()

    def _html_repr(self) -> str:
        """What scikit-learn shows of an estimator that stands alone; in a pipeline it shows its own view."""
        view = str(estimator_html_repr(self))
        try:
            summary = self.summary()
        except ValueError:  # not fitted, or the parameters now are of another network
            return view
        try:
            curves = loss_curves(self)
        except ValueError:  # weights without a fit
            curves = []
        return view + fitted_view(summary, curves)


def fitted_view(summary: Summary, curves: list[LossCurve]) -> str:
    """HTML of a fitted estimator: a line with the shape, totals and the loss; unfolded, the layers."""
    shapes = ", ".join(
        (f"{network.n_networks} × " if network.n_networks > 1 else "") + network.shape for network in summary.networks
    )
    tables = "".join(map(_table, summary.networks))
    sparks = "".join(map(_spark, curves[:3]))  # of a pack not all
    return (
        f"<style>{_STYLE}</style><div class='sktorch-fitted'><details><summary>Layers: {html.escape(shapes)}</summary>"
        f"{tables}</details><div>{html.escape(summary.totals)}</div>{sparks}</div>"
    )


def _table(network: LayerTable) -> str:
    rows = [("th", HEADER), *(("td", cells_of(layer)) for layer in network.layers)]
    lines = ["".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) for tag, cells in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def _spark(curve: LossCurve) -> str:
    """The mean loss of the networks of a curve as a small picture, with the best or last value in words."""
    what, losses = ("loss", curve.loss) if curve.validation_loss is None else ("validation loss", curve.validation_loss)
    mean = mean_over_networks(losses)
    n_steps = len(mean)
    best = curve.best_point()
    marked = n_steps if best is None else best[0]
    steps = np.unique([*np.linspace(1, n_steps, _MOST_POINTS).round().astype(int), marked])
    steps = steps[np.isfinite(mean[steps - 1])]
    if not len(steps):
        return ""
    marked = marked if marked in steps else int(steps[-1])
    x, y = _to_pixels(steps, _WIDTH), _HEIGHT - _to_pixels(mean[steps - 1], _HEIGHT)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    point = list(steps).index(marked)
    when = f"after {n_steps} {curve.step}{'s' if n_steps > 1 else ''}"
    if best is not None:
        when = f"in the best {curve.step}, {marked} of {n_steps}"
    text = f"{what} {mean[marked - 1]:.4g} {when}"
    return (
        f"<div class='loss'><svg role='img' aria-label='{text}' width='{_WIDTH}' height='{_HEIGHT + 8}' "
        f"viewBox='-4 -4 {_WIDTH + 8} {_HEIGHT + 8}'><polyline points='{points}' fill='none' stroke='currentColor' "
        f"stroke-width='1.5' stroke-linejoin='round'/><circle cx='{x[point]:.1f}' cy='{y[point]:.1f}' r='3' "
        f"fill='currentColor'/></svg><span>{text}</span></div>"
    )


def _to_pixels(values: np.ndarray, size: int) -> np.ndarray:
    """Scale values to the size of a picture; equal ones are in the middle."""
    low, high = values.min(), values.max()
    if not high > low:
        return np.full(len(values), size / 2)
    scaled: np.ndarray = size * (values - low) / (high - low)
    return scaled

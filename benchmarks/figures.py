"""Pictures of the results; matplotlib is imported only when one is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colors, which the color-blind can tell apart.
_BLUE, _SKY, _GREEN, _ORANGE, _VERMILION = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00"
_STYLE: dict[Any, Any] = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_WIDTH = 8.0  # inches, some 800 pixels in a README


def check_matplotlib() -> None:
    """Say what to install before time is spent on a picture that cannot be drawn.

    Raises
    ------
    SystemExit
        If matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise SystemExit("--figure needs matplotlib: pip install matplotlib") from None


@contextmanager
def _figure(path: Path, height: float) -> Iterator[Figure]:
    """A figure to draw into, which is then written."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        yield figure
        figure.savefig(path, dpi=150)


def bars(rows: Sequence[dict[str, Any]], path: Path, label: str) -> None:
    """Draw ratios as bars from 1, with their spread, on a logarithmic axis.

    Columns in which lower is better are left out, as are results that differ.

    Parameters
    ----------
    rows : sequence of dict
        Of a summary. Titles are broken at their first comma.
    path : Path
        Its suffix is the format.
    label : str
        Of the axis.
    """
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator, NullLocator

    drawn = [drawn_ratios(row) for row in rows]
    titles = list(dict.fromkeys(title for ratios in drawn for title in ratios))
    colors = dict(zip(titles, (_BLUE, _SKY, _GREEN, _ORANGE, _VERMILION), strict=False))
    with _figure(path, height=1.0 + sum(0.16 * len(ratios) + 0.2 for ratios in drawn)) as figure:
        axes = figure.add_subplot()
        ticks, bottom = [], 0.0
        for ratios in drawn:
            ticks.append(bottom + (len(ratios) - 1) / 2)
            for title, ratio in ratios.items():
                axes.barh(bottom, ratio["median"] - 1, left=1, height=0.85, color=colors[title])
                axes.plot([ratio["min"], ratio["max"]], [bottom] * 2, color="black", linewidth=1)
                bottom += 1
            bottom += 1.2
        axes.set_yticks(ticks, [row["title"].replace(", ", "\n", 1) + " †" * row["busy"] for row in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(bottom - 1.2, -1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(axis="x", color="0.85")
        axes.set_axisbelow(True)
        axes.axvline(1, color="black", linewidth=1)
        axes.set_xlabel(label + "\n† the machine was busy" * any(row["busy"] for row in rows))
        handles = [Patch(color=colors[title], label=title) for title in titles]
        n_columns = 3 if max(map(len, titles), default=0) <= 30 else 2
        figure.legend(handles=handles, loc="outside upper center", ncols=n_columns, frameon=False)


def drawn_ratios(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The ratios of a row that become bars, by their columns."""
    return {
        title: ratio
        for title, ratio in row["ratios"].items()
        if ratio is not None and not ratio["lower_is_better"] and not ratio["mismatches"]
    }


@dataclass(frozen=True)
class Curve:
    """Times of one implementation.

    Attributes
    ----------
    panel : str
        Label of its x axis.
    label : str
        In the legend.
    sizes : list of int
    seconds : list of float
    is_ours : bool
    is_second : bool
        Whether it is the implementation's second in its panel.
    """

    panel: str
    label: str
    sizes: list[int]
    seconds: list[float]
    is_ours: bool
    is_second: bool


def panels(curves: Sequence[Curve], path: Path) -> None:
    """Draw seconds a fit in log-log scale, a panel a quantity.

    Parameters
    ----------
    curves : sequence of Curve
    path : Path
        Its suffix is the format.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    names = list(dict.fromkeys(curve.panel for curve in curves))
    n_columns = min(len(names), 3)
    n_rows = -(-len(names) // n_columns)
    with _figure(path, height=0.4 + 3.0 * n_rows) as figure:
        grid = figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).ravel()
        panels = dict(zip(names, grid, strict=False))
        for axes in grid[len(names) :]:
            axes.remove()
        for curve in curves:
            color, marker = _BLUE if curve.is_ours else _VERMILION, "s" if curve.is_second else "o"
            style = "--" if curve.is_second else "-"
            panels[curve.panel].plot(
                curve.sizes, curve.seconds, style, marker=marker, markersize=4, color=color, label=curve.label
            )
        for name, axes in panels.items():
            axes.set(xscale="log", yscale="log", xlabel=name)
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(color="0.85")
        first = panels[names[0]]
        for name in names[::n_columns]:
            panels[name].set_ylabel("seconds a fit")
        low, high = first.get_ylim()
        if high / low < 100:  # else a label at powers of ten is enough
            first.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            first.yaxis.set_major_formatter("{x:g}")
        legend = {
            label: handle
            for axes in panels.values()
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            legend.values(), legend.keys(), loc="outside upper center", ncols=min(len(legend), 4), frameon=False
        )

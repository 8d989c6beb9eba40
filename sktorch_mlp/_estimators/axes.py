"""Axes of matplotlib. It is imported by these functions alone, when a picture is drawn."""

from __future__ import annotations

from typing import Any

from sktorch_mlp._interop.extras import needed_by

#: Label of the axes of scores, by which they are found again.
_SCORES = "validation score"

#: What lines show, in the order of a legend.
_KINDS = ("training loss", "validation loss", _SCORES, "best epoch")


def axes_for(display: Any, ax: Any) -> Any:
    """Axes to draw on: new ones for None.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    with needed_by(type(display).__name__, extra="plot"):
        import matplotlib.pyplot as plt
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    return ax


def right_axes(ax: Any) -> Any:
    """Axes of scores on the right of some axes, the same for all displays on them."""
    for other in ax.figure.axes:
        if other.get_label() == _SCORES and ax.get_shared_x_axes().joined(ax, other):
            return other
    right = ax.twinx()
    right.set(label=_SCORES, ylabel=_SCORES.capitalize())
    return right


def show_whole_numbers(ax: Any) -> None:
    """Have ticks at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def show_legend(ax: Any, score_ax: Any) -> None:
    """One legend for the curves on axes of losses and of scores, whose labels are "name: kind", or kinds alone.

    For several names it has names and kinds apart, since lines of a name have one color and marker.
    """
    from matplotlib.lines import Line2D

    lines = [line for each in (ax, score_ax) if each is not None for line in each.get_legend_handles_labels()[0]]
    named: dict[str, Any] = {}
    kinds: dict[str, Any] = {}
    for line in lines:
        name, _, kind = line.get_label().rpartition(": ")
        named.setdefault(name, line)
        kinds.setdefault(kind, line)
    named.pop("", None)
    place: dict[str, Any] = {"fontsize": "small"} if len(lines) > 4 else {}
    if score_ax is not None:  # between scores, which rise, and losses, which fall; those of several leave no place
        place |= {"loc": "center right"}
    if len(named) > 1:
        if score_ax is not None:
            place |= {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "ncols": 4}
        lines = [
            Line2D([], [], color=line.get_color(), marker=line.get_marker(), markersize=5, label=name)
            for name, line in named.items()
        ]
        for kind, line in sorted(kinds.items(), key=lambda item: _KINDS.index(item[0])):
            is_point = line.get_linestyle() == "None"
            point = {"marker": line.get_marker(), "markersize": line.get_markersize()} if is_point else {}
            lines.append(Line2D([], [], color="0.4", linestyle=line.get_linestyle(), label=kind, **point))
    if ax.get_legend() is not None:
        ax.get_legend().remove()
    (score_ax or ax).legend(handles=lines, **place)  # that on the right is covered by nothing


def shifted(ax: Any, points: float) -> Any:
    """Coordinates of the data, moved to the right."""
    from matplotlib.transforms import ScaledTranslation

    return ax.transData + ScaledTranslation(points / 72, 0, ax.figure.dpi_scale_trans)

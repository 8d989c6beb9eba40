"""Results as JSON and as markdown tables.

A command measures rows; a *summary* is what is kept of them: plain dicts and lists, with
medians and spreads. Tables and figures are made of summaries, so that they can be made
again from a file.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .machine import MAX_LOAD, MAX_SPREAD
from .runner import Measurement, Ratio, Row
from .tolerances import FitResult

Summary = dict[str, Any]


def summarize(head: Summary, rows: Iterable[Row], with_rounds: bool = False) -> Summary:
    """Medians and spreads of all rows.

    Parameters
    ----------
    head : dict
        What concerns all rows.
    rows : iterable of Row
    with_rounds : bool, default=False
        Whether to add each round's measurement, result and ratio.
    """
    return {**head, "rows": [_row(row, with_rounds) for row in rows]}


def _row(row: Row, with_rounds: bool) -> dict[str, Any]:
    return {
        "title": row.title,
        "facts": row.facts,
        "load": None if row.load is None else round(row.load, 2),
        "busy": row.load is not None and row.load > MAX_LOAD,
        "values": {name: _values(measurements, with_rounds) for name, measurements in row.measurements.items()},
        "ratios": {title: ratio and _ratio(ratio, with_rounds) for title, ratio in row.ratios.items()},
    }


def _values(measurements: Sequence[Measurement], with_rounds: bool) -> dict[str, Any]:
    values = [m.value for m in measurements]
    return _statistics(values) | (
        {"rounds": values, "results": [m.result for m in measurements]} if with_rounds else {}
    )


def _ratio(ratio: Ratio, with_rounds: bool) -> dict[str, Any]:
    return {
        "baseline": ratio.comparison.baseline,
        "ours": ratio.comparison.ours,
        **_statistics(ratio.rounds),
        "lower_is_better": ratio.comparison.lower_is_better,
        "mark": ratio.comparison.mark if ratio.is_worse else "",
        "spread": _rounded(ratio.spread),
        "unsteady": ratio.spread > MAX_SPREAD,
        "mismatches": ratio.mismatches,
    } | ({"rounds": ratio.rounds} if with_rounds else {})


def _statistics(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": _rounded(statistics.median(values)),
        "min": _rounded(min(values)),
        "max": _rounded(max(values)),
    }


def _rounded(value: float) -> float:
    """Six digits: more than any timing has."""
    return float(f"{value:.6g}")


def to_json(summary: Summary) -> str:
    """Write a summary, each row on a line of its own."""
    head = json.dumps({name: value for name, value in summary.items() if name != "rows"}, indent=1)
    rows = ",\n".join("  " + json.dumps(row, default=_plain, ensure_ascii=False) for row in summary["rows"])
    return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def _plain(result: Any) -> Any:
    if isinstance(result, FitResult):
        return {"loss": None if math.isnan(result.loss) else result.loss, "n_iter": result.n_iter}
    return {"shape": np.shape(result)}


# Tables --------------------------------------------------------------------------------


def ratio_table(summary: Summary, heading: str, rows: Sequence[dict[str, Any]] | None = None) -> str:
    """A markdown table of ratios, and below it what to know of a busy machine.

    Parameters
    ----------
    summary : dict
    heading : str
        Of the first column, the titles.
    rows : sequence of dict, default=None
        Those of the summary that are in the table; all if None.
    """
    rows = summary["rows"] if rows is None else rows
    is_timed = summary["unit"] == "seconds"  # other programs do not change sizes
    lines = [
        [row["title"] + " †" * (is_timed and row["busy"]), *(cell(ratio) for ratio in row["ratios"].values())]
        for row in rows
    ]
    notes = [*(load_notes(rows, summary["machine"]) if is_timed else []), *_spread_notes(rows)]
    below = ["", " ".join([*notes, "Such ratios may flatter either side."])] if notes else []
    return "\n".join([markdown([heading, *rows[0]["ratios"]], lines), *below])


def cell(ratio: dict[str, Any] | None) -> str:
    """A ratio with its spread, marked where ours is worse; a dash where there is none."""
    if ratio is None:
        return "–"
    if ratio["mismatches"]:
        return "RESULTS DIFFER"
    text = spread(ratio)
    return (f"**{ratio['mark']}: {text}**" if ratio["mark"] else text) + " ‡" * ratio["unsteady"]


def load_notes(rows: Sequence[dict[str, Any]], machine: dict[str, Any]) -> list[str]:
    """Say what † means, or that the load is known from before the start only."""
    loads = [row["load"] for row in rows if row["load"] is not None]
    before = machine["load_average"] or 0.0
    if any(row["busy"] for row in rows):
        return [f"† The machine was busy: other programs used up to {max(loads):.1f} cores."]
    if not loads and before > MAX_LOAD:
        return [f"The machine was busy before the start (load average {before:.1f}); the load since is not known."]
    return []


def _spread_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Say what ‡ means."""
    spreads = [ratio["spread"] for row in rows for ratio in row["ratios"].values() if ratio and ratio["unsteady"]]
    return [f"‡ The rounds of one side differ by a factor of up to {max(spreads):.1f}."] if spreads else []


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Write a markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def spread(values: dict[str, float]) -> str:
    """Median (lowest–highest)."""
    return f"{values['median']:.2f} ({values['min']:.2f}–{values['max']:.2f})"

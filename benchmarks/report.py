"""Results as a markdown table and as JSON."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from threadpoolctl import threadpool_info

from .gates import Outcome
from .runner import Row, Verdict

_PACKAGES = ("sktorch-mlp", "numpy", "scipy", "scikit-learn", "torch", "skorch")


def environment(device: str) -> dict[str, Any]:
    """Versions and machine, as they are before the first timing."""
    return {
        "versions": {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}},
        "machine": {
            "system": platform.system(),
            "cpu": _cpu_name(),
            "cores": joblib.cpu_count(),
            "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,  # how busy others keep it
            "device": device if torch.device(device).type != "cuda" else torch.cuda.get_device_name(device),
            "torch_threads": torch.get_num_threads(),
            "blas_threads": [
                {key: library[key] for key in ("internal_api", "version", "num_threads")}
                for library in threadpool_info()
                if library["user_api"] == "blas"
            ],
        },
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def to_json(rows: Iterable[Row], unit: str, **facts: Any) -> str:
    """All there is to know, every measurement included.

    Parameters
    ----------
    rows : iterable of Row
    unit : str
        Of the measurements.
    **facts : object
        What concerns all rows.
    """
    return json.dumps({**facts, "unit": unit, "rows": [_record(row) for row in rows]}, indent=1, default=_plain) + "\n"


def _record(row: Row) -> dict[str, Any]:
    return {
        "title": row.title,
        **row.facts,
        "contestants": {
            name: {"values": [m.value for m in own], "results": [m.result for m in own]}
            for name, own in row.measurements.items()
        },
        "comparisons": [
            {
                "name": title,
                "rival": verdict.comparison.rival,
                "ours": verdict.comparison.ours,
                "ratios": verdict.ratios,
                "median": verdict.ratio,
                "min": min(verdict.ratios),
                "max": max(verdict.ratios),
                "mismatches": verdict.mismatches,
            }
            for title, verdict in row.verdicts.items()
            if verdict is not None
        ],
    }


def _plain(result: Any) -> Any:
    if isinstance(result, Outcome):
        return {"loss": None if math.isnan(result.loss) else result.loss, "n_iter": result.n_iter}
    return {"shape": np.shape(result)}


def table(rows: Sequence[Row], heading: str) -> str:
    """A markdown table of ratios: a row a row, a column a comparison.

    Parameters
    ----------
    rows : sequence of Row
    heading : str
        Of the first column, the titles.
    """
    lines = [[row.title, *map(cell, row.verdicts.values())] for row in rows]
    return markdown([heading, *rows[0].verdicts], lines)


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Write a markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def cell(verdict: Verdict | None) -> str:
    """A ratio with its spread, marked where ours is worse; a dash where there is none."""
    if verdict is None:
        return "–"
    if verdict.mismatches:
        return "RESULTS DIFFER"
    text = spread(verdict.ratios)
    return f"**{verdict.comparison.mark}: {text}**" if verdict.is_lost else text


def spread(values: Sequence[float]) -> str:
    """Median (lowest–highest)."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"

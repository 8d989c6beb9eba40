"""Results as a markdown table and as JSON."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import torch
from threadpoolctl import threadpool_info

from .problems import Problem
from .runner import Contestant, Timing, Verdict

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


def record(problem: Problem, timings: dict[Contestant, list[Timing]], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """All there is to know about one problem, for JSON."""
    return {
        "problem": problem.name,
        "rows": problem.rows,
        "features": problem.features,
        "n_classes": problem.n_classes,
        "hidden_layer_sizes": list(problem.hidden_layer_sizes),
        "batch_size": problem.batch_size,
        "epochs": problem.epochs,
        "contestants": {
            contestant.name: {
                "seconds": [timing.seconds for timing in own],
                "losses": [timing.loss for timing in own],
                "microseconds_per_step": 1e6 * statistics.median(t.seconds for t in own) / problem.n_steps,
            }
            for contestant, own in timings.items()
        },
        "comparisons": [
            {
                "name": verdict.comparison.name,
                "rival": verdict.comparison.rival.name,
                "ours": verdict.comparison.ours.name,
                "ratios": verdict.ratios,
                "median": verdict.ratio,
                "min": min(verdict.ratios),
                "max": max(verdict.ratios),
                "mismatches": verdict.mismatches,
            }
            for verdict in verdicts
        ],
    }


def table(rows: Sequence[tuple[Problem, Sequence[Verdict]]]) -> str:
    """Write a markdown table: a row a problem, a column a comparison."""
    names = [verdict.comparison.name for verdict in rows[0][1]]
    lines = [["problem", *names], ["---"] * (len(names) + 1)]
    lines += [[str(problem), *map(_cell, verdicts)] for problem, verdicts in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(verdict: Verdict) -> str:
    if verdict.mismatches:
        return "LOSSES DIFFER"
    cell = f"{verdict.ratio:.2f} ({min(verdict.ratios):.2f}–{max(verdict.ratios):.2f})"
    return cell if verdict.ratio >= 1 else f"**slower: {cell}**"

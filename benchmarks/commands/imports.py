"""Time the import of sktorch_mlp against that of PyTorch and scikit-learn, in new interpreters."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable

from benchmarks.report import Summary, ratio_table
from benchmarks.runner import Comparison, Row, measure_row
from benchmarks.tolerances import Agreement

UNIT = "seconds"
OURS, DEPENDENCIES = "import sktorch_mlp", "import torch, sklearn.neural_network"
# Ours imports both as well, so it cannot be faster: nothing is marked.
COLUMN = Comparison(f"ours / {DEPENDENCIES}", DEPENDENCIES, OURS, Agreement.NONE, lower_is_better=True, mark="")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True)


def run(args: argparse.Namespace, interpret: Callable[[list[str]], None] = _run) -> list[Row]:
    """Time whole interpreters, start and end included.

    Parameters
    ----------
    args : Namespace
        The command line, see `measure_row`.
    interpret : callable
        Runs a command line.
    """
    calls = {
        statement: lambda seed, statement=statement: interpret([sys.executable, "-c", statement])
        for statement in (DEPENDENCIES, OURS)
    }
    for call in calls.values():
        call(0)  # files come from the disk only once
    return [measure_row(OURS, {}, calls, [COLUMN], {}, args)]


def tables(summary: Summary) -> str:
    """Write the ratio."""
    return f"Median (lowest–highest) of {summary['repeats']} rounds.\n\n{ratio_table(summary, 'statement')}"

"""Time the import of sktorch_mlp against that of PyTorch and scikit-learn, in new interpreters."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from .gates import Agreement
from .report import table
from .runner import Comparison, Row, compare, race

UNIT = "seconds"
OURS, DEPENDENCIES = "import sktorch_mlp", "import torch, sklearn.neural_network"
# Ours imports both as well, which it cannot do faster: not a row to be won or lost.
COLUMN = Comparison(f"ours / {DEPENDENCIES}", DEPENDENCIES, OURS, Agreement.NONE, lower_is_better=True, mark="")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add nothing."""


def run(args: argparse.Namespace) -> list[Row]:
    """Time whole interpreters, start and end included."""
    calls = {statement: partial(_interpret, statement) for statement in (DEPENDENCIES, OURS)}
    for call in calls.values():
        call(0)  # files come from the disk only once
    measurements = race(calls, args.repeats)
    return [Row(OURS, {}, measurements, compare([COLUMN], measurements))]


def _interpret(statement: str, seed: int) -> None:
    subprocess.run([sys.executable, "-c", statement], check=True)


def summary(rows: Sequence[Row], args: argparse.Namespace) -> str:
    """The table."""
    return f"Median (lowest–highest) of {args.repeats} rounds.\n\n{table(rows, 'statement')}"

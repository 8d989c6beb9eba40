"""Series of problems that differ in one quantity: rows, epochs or parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

from .problems import PROBLEMS, Problem


@dataclass(frozen=True)
class Series:
    """Problems that differ in one quantity.

    Attributes
    ----------
    quantity : str
        "rows", "epochs" or "parameters".
    label : str
        Of which series of this quantity this is; "" if there is only one.
    points : list of (int, Problem)
        The quantity and its problem, in ascending order.
    """

    quantity: str
    label: str
    points: list[tuple[int, Problem]]

    def __str__(self) -> str:
        return f"{self.quantity}, {self.label}" if self.label else self.quantity


def all_series(scale: float) -> list[Series]:
    """All of them; `scale` shrinks the largest sizes, for smoke tests."""
    rows = sizes((1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000), scale, at_least=200)
    epochs = sizes((1, 3, 10, 30, 100, 300, 1_000), scale)
    units = sizes((10, 32, 128, 512, 2_048, 8_192), scale, at_least=10)
    binary, digits = replace(PROBLEMS["binary"], epochs=1), PROBLEMS["digits"]
    one_layer, two_layers = (
        [replace(binary, rows=1_000, hidden_layer_sizes=(n,) * n_layers) for n in units] for n_layers in (1, 2)
    )
    return [
        Series("rows", "", [(n, replace(binary, rows=n)) for n in rows]),
        Series("epochs", "", [(n, replace(digits, epochs=n)) for n in epochs]),
        Series("parameters", "one layer", [(_n_parameters(problem), problem) for problem in one_layer]),
        Series("parameters", "two layers", [(_n_parameters(problem), problem) for problem in two_layers]),
    ]


def sizes(full: Iterable[int], scale: float, at_least: int = 1) -> list[int]:
    """Sizes scaled, each once, in ascending order."""
    return sorted({max(round(size * scale), at_least) for size in full})


def _n_parameters(problem: Problem) -> int:
    return sum((n_in + 1) * n_out for n_in, n_out in pairwise(problem.layer_units))

"""Who runs, and who is held against whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from .gates import Agreement
from .problems import Problem
from .rivals import Fitted, ours, products, sklearn_mlp, skorch_net, torch_loop
from .runner import Comparison


@dataclass(frozen=True)
class Contestant:
    """Who is measured.

    Attributes
    ----------
    name : str
    fit : callable
        ``fit(problem, X, y, seed, device)``.
    X_dtype : type
        Precision of the X it is given; the cast is not timed.
    only_basic : bool
        Whether it takes part only in problems that are basic.
    """

    name: str
    fit: Callable[..., Fitted]
    X_dtype: type[np.floating]
    only_basic: bool = False

    def supports(self, problem: Problem) -> bool:
        """Whether it takes part in a problem."""
        return problem.is_basic or not self.only_basic


_ALL = [
    Contestant("scikit-learn, X float64", sklearn_mlp.fit, np.float64),
    Contestant("scikit-learn, X float32", sklearn_mlp.fit, np.float32),
    Contestant("skorch", skorch_net.fit, np.float32, only_basic=True),
    Contestant("PyTorch", torch_loop.fit, np.float32, only_basic=True),
    Contestant("products", products.fit, np.float32, only_basic=True),
    Contestant("ours, X float64", ours.fit, np.float64),
    Contestant("ours, X float32", ours.fit, np.float32),
    Contestant('ours, dtype="float32"', partial(ours.fit, dtype="float32"), np.float64),
    Contestant('ours, dtype="bfloat16"', partial(ours.fit, dtype="bfloat16"), np.float32, only_basic=True),
]
CONTESTANTS = {contestant.name: contestant for contestant in _ALL}

X_FLOAT64 = Comparison("scikit-learn, X float64", "scikit-learn, X float64", "ours, X float64", Agreement.FLOAT64)
X_FLOAT32 = Comparison("scikit-learn, X float32", "scikit-learn, X float32", "ours, X float32", Agreement.FLOAT32)
CAST = Comparison(
    'scikit-learn, dtype="float32"', "scikit-learn, X float64", 'ours, dtype="float32"', Agreement.FLOAT32
)

#: Columns, by the names of the rivals on the command line.
RIVALS = {
    "sklearn": [X_FLOAT64, X_FLOAT32, CAST],
    "skorch": [Comparison("skorch", "skorch", "ours, X float32", Agreement.SIMILAR)],
    "torch": [Comparison("PyTorch", "PyTorch", "ours, X float32", Agreement.SIMILAR)],
    "products": [Comparison("products", "products", "ours, X float32", Agreement.NONE, lower_is_better=True, mark="")],
    "bfloat16": [Comparison("float32 / bfloat16", "ours, X float32", 'ours, dtype="bfloat16"', Agreement.SIMILAR)],
}
#: Those that every machine can run.
USUAL_RIVALS = [name for name in RIVALS if name != "bfloat16"]


def comparisons(rivals: Iterable[str], device: str, names: dict[str, str]) -> list[Comparison]:
    """Columns of some rivals.

    Parameters
    ----------
    rivals : iterable of str
        Keys of `RIVALS`.
    device : str
    names : dict
        What the command calls columns, where not by the rival's name.
    """
    columns = [replace(c, name=names.get(c.name, c.name)) for rival in rivals for c in RIVALS[rival]]
    return [on_device(column, device) for column in columns]


def on_device(comparison: Comparison, device: str) -> Comparison:
    """Expect float32 away from the CPU: it is our default there, whatever X is."""
    in_float64 = comparison.agreement is Agreement.FLOAT64
    return replace(comparison, agreement=Agreement.FLOAT32) if in_float64 and device != "cpu" else comparison


def entrants(columns: Sequence[Comparison]) -> list[Contestant]:
    """Who takes part in some columns, each once."""
    names = dict.fromkeys(name for column in columns for name in (column.rival, column.ours))
    return [CONTESTANTS[name] for name in names]

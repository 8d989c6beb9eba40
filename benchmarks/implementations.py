"""What is measured, and which columns compare it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from . import ours
from .baselines import Fitted, products, sklearn_mlp, skorch_net, torch_loop
from .problems import Problem
from .runner import Comparison
from .tolerances import Agreement


@dataclass(frozen=True)
class Implementation:
    """A way to fit a problem.

    Attributes
    ----------
    name : str
    fit : callable
        ``fit(problem, X, y, seed, device)``.
    X_dtype : type
        Precision of the X it is given; the cast is not timed.
    only_basic : bool
        Whether it can do basic problems only.
    """

    name: str
    fit: Callable[..., Fitted]
    X_dtype: type[np.floating]
    only_basic: bool = False

    def supports(self, problem: Problem) -> bool:
        """Whether it can do a problem."""
        return problem.is_basic or not self.only_basic


_ALL = [
    Implementation("scikit-learn, X float64", sklearn_mlp.fit, np.float64),
    Implementation("scikit-learn, X float32", sklearn_mlp.fit, np.float32),
    Implementation("skorch", skorch_net.fit, np.float32, only_basic=True),
    Implementation("PyTorch", torch_loop.fit, np.float32, only_basic=True),
    Implementation("products", products.fit, np.float32, only_basic=True),
    Implementation("ours, X float64", ours.fit, np.float64),
    Implementation("ours, X float32", ours.fit, np.float32),
    Implementation('ours, dtype="float32"', partial(ours.fit, dtype="float32"), np.float64),
    Implementation('ours, dtype="bfloat16"', partial(ours.fit, dtype="bfloat16"), np.float32, only_basic=True),
]
IMPLEMENTATIONS = {implementation.name: implementation for implementation in _ALL}

X_FLOAT64 = Comparison("scikit-learn, X float64", "scikit-learn, X float64", "ours, X float64", Agreement.FLOAT64)
X_FLOAT32 = Comparison("scikit-learn, X float32", "scikit-learn, X float32", "ours, X float32", Agreement.FLOAT32)
CAST = Comparison(
    'scikit-learn, dtype="float32"', "scikit-learn, X float64", 'ours, dtype="float32"', Agreement.FLOAT32
)

#: Columns, by the names of the baselines on the command line.
BASELINES = {
    "sklearn": [X_FLOAT64, X_FLOAT32, CAST],
    "skorch": [Comparison("skorch", "skorch", "ours, X float32", Agreement.SIMILAR)],
    "torch": [Comparison("PyTorch", "PyTorch", "ours, X float32", Agreement.SIMILAR)],
    "products": [Comparison("products", "products", "ours, X float32", Agreement.NONE, lower_is_better=True, mark="")],
    "bfloat16": [Comparison("float32 / bfloat16", "ours, X float32", 'ours, dtype="bfloat16"', Agreement.SIMILAR)],
}
#: Those that every machine can run.
USUAL_BASELINES = [name for name in BASELINES if name != "bfloat16"]


def columns_of(baselines: Iterable[str], device: str, names: dict[str, str]) -> list[Comparison]:
    """Columns of some baselines.

    Parameters
    ----------
    baselines : iterable of str
        Keys of `BASELINES`.
    device : str
    names : dict
        What the command calls columns, where not by the baseline's name.
    """
    columns = [replace(c, name=names.get(c.name, c.name)) for baseline in baselines for c in BASELINES[baseline]]
    return [on_device(column, device) for column in columns]


def on_device(comparison: Comparison, device: str) -> Comparison:
    """Expect float32 away from the CPU: it is our default there, whatever X is."""
    in_float64 = comparison.agreement is Agreement.FLOAT64
    return replace(comparison, agreement=Agreement.FLOAT32) if in_float64 and device != "cpu" else comparison


def implementations_of(
    columns: Sequence[Comparison], implementations: Mapping[str, Implementation] = IMPLEMENTATIONS
) -> list[Implementation]:
    """Those that some columns compare, each once."""
    names = dict.fromkeys(name for column in columns for name in (column.baseline, column.ours))
    return [implementations[name] for name in names]

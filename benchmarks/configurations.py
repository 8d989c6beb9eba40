"""Ways to fit a problem: every solver, activation, kind of target and way to train."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .problems import Problem

SOLVERS: dict[str, dict[str, Any]] = {
    "adam": {},
    "sgd": {"solver": "sgd"},
    "sgd without Nesterov": {"solver": "sgd", "nesterovs_momentum": False},
    "sgd without momentum": {"solver": "sgd", "momentum": 0},
    "lbfgs": {"solver": "lbfgs"},
}
STOCHASTIC = ("adam", "sgd")
ACTIVATIONS = ("relu", "identity", "logistic", "tanh")
KINDS = ("classifier", "multilabel", "regressor")


@dataclass(frozen=True)
class Configuration:
    """What is fitted, and how; what is not said is the default.

    Attributes
    ----------
    solver : str
        Key of `SOLVERS`.
    activation, kind : str
    early_stopping, weighted, incremental : bool
    """

    solver: str = "adam"
    activation: str = "relu"
    kind: str = "classifier"
    early_stopping: bool = False
    weighted: bool = False
    incremental: bool = False

    def of(self, problem: Problem) -> Problem:
        """Configure a problem."""
        params = dict(SOLVERS[self.solver])
        solver = params.pop("solver", problem.solver)
        return replace(
            problem,
            solver=solver,
            batch_size=problem.rows if solver == "lbfgs" else problem.batch_size,
            epochs=4 * problem.epochs if solver == "lbfgs" else problem.epochs,  # an iteration is few passes
            kind=self.kind,
            params={"activation": self.activation, "early_stopping": self.early_stopping, **params},
            weighted=self.weighted,
            incremental=self.incremental,
        )

    def __str__(self) -> str:
        flags = {
            "early stopping": self.early_stopping,
            "sample weights": self.weighted,
            "partial_fit": self.incremental,
        }
        return ", ".join([self.solver, self.activation, self.kind, *(name for name, is_on in flags.items() if is_on)])


def configurations(every_activation: bool) -> Iterator[Configuration]:
    """Every solver with relu, the main ones with every kind and with weights, the rest with Adam and SGD.

    Parameters
    ----------
    every_activation : bool
        Whether every solver meets every activation, or only Adam does.
    """
    for solver in SOLVERS:
        for activation in ACTIVATIONS if every_activation or solver == "adam" else ACTIVATIONS[:1]:
            yield Configuration(solver, activation)
    for solver in (*STOCHASTIC, "lbfgs"):
        for kind in KINDS[1:]:
            yield Configuration(solver, kind=kind)
        yield Configuration(solver, weighted=True)
    for solver in STOCHASTIC:
        for kind in KINDS:
            yield Configuration(solver, kind=kind, early_stopping=True)
        yield Configuration(solver, incremental=True)
        yield Configuration(solver, kind="regressor", incremental=True)

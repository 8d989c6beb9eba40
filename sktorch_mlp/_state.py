"""What a fit leaves for the next one to go on from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from ._network import StackedMLP
from ._solvers import Solver
from ._training import DivergenceError, Progress

Made = TypeVar("Made")


@dataclass(eq=False)
class FitState:
    """Network, solver and progress of an estimator.

    Attributes
    ----------
    sparse_input : bool
        How the network, and with it the moments of the solver, lie in memory.
    network : StackedMLP
        Not there after unpickling: `coefs_` and `intercepts_` have all there is to know.
    solver : Solver or None
        None if there is nothing to go on from.
    progress : Progress
    """

    sparse_input: bool
    _network: StackedMLP | None
    solver: Solver | None = None
    progress: Progress = field(default_factory=Progress)
    _arrays: list[np.ndarray] = field(default_factory=list)
    _kept: dict[str, tuple[list[object], Any]] = field(default_factory=dict)

    @property
    def network(self) -> StackedMLP:
        """The network, once there is one."""
        assert self._network is not None
        return self._network

    @network.setter
    def network(self, network: StackedMLP) -> None:
        self._network, self._arrays = network, []

    def publish(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """`coefs_` and `intercepts_` of the network; on the CPU the arrays share its memory."""
        coefs, intercepts = self.network.views(self.network.flat.detach())
        coefs_ = [coef[0].T.cpu().numpy() for coef in coefs]
        intercepts_ = [intercept[0].cpu().numpy() for intercept in intercepts]
        self._arrays = coefs_ + intercepts_
        return coefs_, intercepts_

    def holds(self, arrays: Sequence[np.ndarray]) -> bool:
        """Whether the network has the values of these arrays, being what they are views of."""
        return (
            self._network is not None and self.network.flat.device.type == "cpu" and _same_objects(arrays, self._arrays)
        )

    def keep(self, name: str, made_of: list[object], make: Callable[[], Made]) -> Made:
        """Something made of weight arrays, made again when one is replaced; to be a view of them, not a copy."""
        parts, made = self._kept.get(name, ([], None))
        if not _same_objects(parts, made_of):
            made = make()
            self._kept[name] = made_of, made
        return made

    @contextmanager
    def unchanged_by_errors(self) -> Iterator[None]:
        """Leave a model that was good before a failing fit as it was."""
        parameters, solver, mark = self.network.flat.detach().clone(), self.solver, self.progress.mark()
        try:
            yield
        except BaseException as error:  # a KeyboardInterrupt if a stack is told to stop
            self.network.flat.data.copy_(parameters)
            self.progress.rewind(mark)
            met_infinity = isinstance(error, DivergenceError) and self.solver is solver
            self.solver = None if met_infinity else solver
            raise

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what would store the weights twice."""
        return vars(self) | {"_network": None, "_arrays": [], "_kept": {}}


def _same_objects(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))

"""What a fit leaves for the next one to go on from."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from ._device import is_available
from ._network import NORM_NAMES, Dropout, StackedMLP
from ._progress import DivergenceError, Progress
from ._solvers import Solver

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
    generator : Generator or None
        Where the masks of dropout come from, once there have been any.
    """

    sparse_input: bool
    _network: StackedMLP | None
    solver: Solver | None = None
    progress: Progress = field(default_factory=Progress)
    generator: torch.Generator | None = None
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

    def publish(self) -> tuple[list[np.ndarray], list[np.ndarray], list[dict[str, np.ndarray]]]:
        """`coefs_`, `intercepts_` and `normalizations_`; on the CPU the arrays share the memory of the network."""
        coefs, intercepts = self.network.views(self.network.flat.detach())
        coefs_ = [coef[0].T.cpu().numpy() for coef in coefs]
        intercepts_ = [intercept[0].cpu().numpy() for intercept in intercepts]
        norms_ = [
            {name: view[0].detach().cpu().numpy() for name, view in zip(NORM_NAMES, views, strict=False)}
            for views in self.network.norm_states()
        ]
        self._arrays = [*coefs_, *intercepts_, *(array for norm in norms_ for array in norm.values())]
        return coefs_, intercepts_, norms_

    def drop_out(self, rates: Sequence[float], random_state: np.random.RandomState) -> None:
        """Let the network drop units at these rates; the stream of masks goes on where there has been one."""
        network = self.network
        if not any(rates):
            network.dropout = None
            return
        if self.generator is None or self.generator.device != network.flat.device:
            seed = int(random_state.randint(np.iinfo(np.int32).max))
            self.generator = torch.Generator(network.flat.device).manual_seed(seed)
        network.dropout = Dropout([rates], [self.generator])

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
        parameters, solver, mark = self.network.state(0), self.solver, self.progress.mark()
        solver_state = None if solver is None else solver.state(0)
        rewind_dropout = None if self.network.dropout is None else self.network.dropout.mark()
        try:
            yield
        except BaseException as error:  # a KeyboardInterrupt if a stack is told to stop
            self.network.load_state(0, parameters)
            self.progress.rewind(mark)
            if rewind_dropout is not None:
                rewind_dropout()
            if solver is not None and solver_state is not None:
                solver.restore([solver_state])
            met_infinity = isinstance(error, DivergenceError) and self.solver is solver
            self.solver = None if met_infinity else solver
            raise

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what would store the weights twice; a generator is stored as its state."""
        generator = self.generator
        stream = None if generator is None else (generator.device, generator.get_state().numpy())
        return vars(self) | {"_network": None, "_arrays": [], "_kept": {}, "generator": stream}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.generator is not None:
            device, stream = state["generator"]
            self.generator = torch.Generator(device) if is_available(device) else None
            if self.generator is not None:
                self.generator.set_state(torch.from_numpy(stream))


def _same_objects(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))

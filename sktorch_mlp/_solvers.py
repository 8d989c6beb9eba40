"""Update rules with scikit-learn's arithmetic, in place on the flat parameter; L-BFGS through scipy."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ._network import StackedMLP, lean

#: What a step is called with: a number or tensor for the whole stack, or a number a network.
Rate = Any


def per_network(values: Sequence[float], like: Tensor) -> float | Tensor:
    """One number for a stack of one on the CPU, else a ([n_networks, 1]) tensor beside `like`."""
    if len(values) == 1 and like.device.type == "cpu":
        return float(values[0])
    return _column(torch.tensor(values, dtype=like.dtype, device=like.device))


def _column(values: Tensor) -> Tensor:
    """One number a network, to go with parameters: 0-d for a stack of one, else (n_networks, 1)."""
    return values.squeeze(0) if len(values) == 1 else values.unsqueeze(-1)


def add_scaled_(target: Tensor, source: Tensor, scale: float | Tensor) -> Tensor:
    """``target += scale * source`` in one call, whatever `scale` is."""
    if isinstance(scale, Tensor):
        return target.addcmul_(source, scale)
    return target.add_(source, alpha=scale)


class Solver(ABC):
    """A stochastic update rule; its settings are those of the networks, one each.

    Parameters
    ----------
    learning_rate_init : sequence of float
        Learning rate of each network.

    Attributes
    ----------
    learning_rate : list of float
        Learning rates now.
    """

    #: names of the per-network settings, sequences of one value a network
    settings: tuple[str, ...] = ("learning_rate_init", "learning_rate")
    #: names of the tensors of the parameters' shape that a step carries to the next
    moments: tuple[str, ...] = ()

    def __init__(self, learning_rate_init: Sequence[float]) -> None:
        self.learning_rate_init = list(learning_rate_init)
        self.learning_rate = [float(rate) for rate in learning_rate_init]

    def bind(self, network: StackedMLP) -> None:
        """Make ready to update this network; moments go to its device and precision."""
        for name in self.moments:
            moment = getattr(self, name, None)
            if moment is None:
                moment = torch.zeros_like(network.flat.detach())
            setattr(self, name, moment.to(network.flat.detach()))
        self._params = lean(network.flat.detach())
        self._grads = lean(network.grad)
        self._prepare()

    def kind(self) -> Hashable:
        """Solvers of equal kind can update one stack."""
        return type(self)

    @abstractmethod
    def _prepare(self) -> None:
        """Derive what a step needs from the settings and moments."""

    @abstractmethod
    def rates(self, n_steps: int) -> Iterable[Rate]:
        """What the next `n_steps` steps are to be called with, one after the other.

        Tensors are the same at every call with the same `n_steps`, only their values
        change, so that a step can be recorded once and replayed.
        """

    @abstractmethod
    def step(self, rate: Rate) -> None:
        """Update the parameters from the gradient."""

    def epoch_ends(self, n_rows_seen: Sequence[int]) -> None:  # noqa: B027 - most have no schedule
        """Follow the schedule after an epoch, given the rows each network has seen in all."""

    def on_plateau(self, network: int) -> tuple[bool, str]:
        """Stop at a plateau, or go on with a smaller learning rate.

        Returns
        -------
        stop : bool
        message : str
            What was decided, for the log.
        """
        return True, "Stopping."

    def settings_of(self, network: int) -> tuple[Any, ...]:
        """Settings of one network."""
        return tuple(getattr(self, name)[network] for name in self.settings)

    def state(self, network: int) -> dict[str, Any]:
        """Settings and moments of one network."""
        state: dict[str, Any] = dict(zip(self.settings, self.settings_of(network), strict=True))
        return state | {name: getattr(self, name)[network].clone() for name in self.moments}

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Become the solver of the networks with these states; to be bound again."""
        for name in self.settings:
            setattr(self, name, [state[name] for state in states])
        for name in self.moments:
            setattr(self, name, torch.stack([state[name] for state in states]))

    def keep(self, networks: Sequence[int]) -> None:
        """Reduce to these networks; to be bound again."""
        self.restore([self.state(network) for network in networks])

    def __getstate__(self) -> dict[str, Any]:
        """Settings and moments; moments on the CPU, so that they load where there is no GPU.

        What `bind` made from a network is left out: it is made again.
        """
        state = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in state.items()}


class SGD(Solver):
    """Gradient descent with a velocity that holds the learning rate, as scikit-learn's.

    PyTorch's SGD keeps a velocity without it, which differs once the rate changes.

    Parameters
    ----------
    learning_rate_init : sequence of float
    momentum : sequence of float
    nesterov : bool
    schedule : {"constant", "invscaling", "adaptive"}
        "invscaling" divides by ``(rows seen + 1) ** power_t``; "adaptive" divides by 5
        at each plateau, down to 1e-6.
    power_t : sequence of float
    """

    settings = (*Solver.settings, "momentum", "power_t")
    moments = ("velocity",)
    velocity: Tensor

    def __init__(
        self,
        learning_rate_init: Sequence[float],
        momentum: Sequence[float],
        nesterov: bool,
        schedule: str,
        power_t: Sequence[float],
    ) -> None:
        super().__init__(learning_rate_init)
        self.momentum, self.nesterov = list(momentum), nesterov
        self.schedule, self.power_t = schedule, list(power_t)

    def kind(self) -> Hashable:
        return type(self), self.nesterov, self.schedule

    def _prepare(self) -> None:
        self._schedule = _Schedule(self._params)
        self._momentum = per_network(self.momentum, self._params)
        self._velocity = lean(self.velocity)

    def rates(self, n_steps: int) -> Iterable[Rate]:
        descent = [-rate for rate in self.learning_rate]
        return self._schedule.follow([descent] * n_steps)

    def step(self, rate: Rate) -> None:
        if not any(self.momentum):
            add_scaled_(self._params, self._grads, rate)
            return
        add_scaled_(self._velocity.mul_(self._momentum), self._grads, rate)
        if self.nesterov:
            add_scaled_(self._params, self._velocity, self._momentum)
            add_scaled_(self._params, self._grads, rate)
        else:
            self._params.add_(self._velocity)

    def epoch_ends(self, n_rows_seen: Sequence[int]) -> None:
        if self.schedule == "invscaling":
            self.learning_rate = [
                init / (seen + 1) ** power
                for init, seen, power in zip(self.learning_rate_init, n_rows_seen, self.power_t, strict=True)
            ]

    def on_plateau(self, network: int) -> tuple[bool, str]:
        if self.schedule != "adaptive":
            return super().on_plateau(network)
        if self.learning_rate[network] <= 1e-6:
            return True, "Learning rate too small. Stopping."
        self.learning_rate[network] /= 5.0
        return False, f"Setting learning rate to {self.learning_rate[network]:f}"


class Adam(Solver):
    """Adam (Kingma and Ba, 2014) with epsilon outside the bias correction, as scikit-learn's.

    A step is ``params -= rate * m / (sqrt(v) + epsilon)`` with
    ``rate = learning_rate_init * sqrt(1 - beta_2**t) / (1 - beta_1**t)``.

    Parameters
    ----------
    learning_rate_init, beta_1, beta_2, epsilon : sequence of float
    """

    settings = (*Solver.settings, "beta_1", "beta_2", "epsilon", "n_steps")
    moments = ("first_moment", "second_moment")
    _settings: tuple[Any, ...]
    _runs: list[Any]
    first_moment: Tensor
    second_moment: Tensor

    def __init__(
        self,
        learning_rate_init: Sequence[float],
        beta_1: Sequence[float],
        beta_2: Sequence[float],
        epsilon: Sequence[float],
    ) -> None:
        super().__init__(learning_rate_init)
        self.beta_1, self.beta_2, self.epsilon = list(beta_1), list(beta_2), list(epsilon)
        self.n_steps = [0] * len(learning_rate_init)

    def _prepare(self) -> None:
        params = self._params
        self._schedule = _Schedule(params)
        self._moments = lean(self.first_moment), lean(self.second_moment)
        self._fused = _fused_adam(params) if params.ndim == 1 or params.device.type == "cpu" else None
        settings = (self.beta_1, self.beta_2, self.epsilon)
        if self._fused is None:
            self._settings = tuple(per_network(values, params) for values in settings)
            self._scratch = torch.empty_like(params)
        else:
            # The kernel's own bias correction is 1 after infinitely many steps, as beta**inf is 0.
            n_steps = torch.tensor(float("inf"), device=params.device)
            flat = [torch.atleast_2d(t) for t in (params, self._grads, *self._moments)]
            self._runs = []  # networks next to each other with the same settings: one call for them
            for _, run in itertools.groupby(range(len(self.epsilon)), self.settings_of):
                networks = list(run)
                tensors = [[t[networks[0] : networks[-1] + 1]] for t in flat]
                own_settings = [values[networks[0]] for values in settings]
                self._runs.append((networks[0], (*tensors, list[Tensor](), [n_steps]), *own_settings))

    def rates(self, n_steps: int) -> Iterable[Rate]:
        rates = self._corrected_rates(n_steps)
        return rates if self._fused is not None and self._params.ndim > 1 else self._schedule.follow(rates)

    def _corrected_rates(self, n_steps: int) -> Iterator[list[float]]:
        for _ in range(n_steps):
            ts = [n + 1 for n in self.n_steps]
            hyperparameters = zip(self.learning_rate_init, self.beta_1, self.beta_2, ts, strict=True)
            yield [rate * (1 - beta_2**t) ** 0.5 / (1 - beta_1**t) for rate, beta_1, beta_2, t in hyperparameters]
            self.n_steps = ts  # only now the step has been taken

    def step(self, rate: Rate) -> None:
        if self._fused is not None:
            for start, tensors, beta_1, beta_2, epsilon in self._runs:
                self._fused(
                    *tensors,
                    lr=rate[start] if isinstance(rate, list) else rate,
                    beta1=beta_1,
                    beta2=beta_2,
                    eps=epsilon,
                    weight_decay=0.0,
                    amsgrad=False,
                    maximize=False,
                )
            return
        beta_1, beta_2, epsilon = self._settings
        first, second = self._moments
        first.lerp_(self._grads, 1 - beta_1)
        second.lerp_(torch.mul(self._grads, self._grads, out=self._scratch), 1 - beta_2)
        torch.sqrt(second, out=self._scratch).add_(epsilon).div_(-rate)
        self._params.addcdiv_(first, self._scratch)


class _Schedule:
    """Hands the rates of coming steps to the steps: as numbers, or in tensors that stay in place."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._tensors: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def follow(self, rates: Iterable[list[float]]) -> Iterable[Rate]:
        """Each step's rates, given as one number a network, in the form that `step` takes."""
        if self._like.ndim == 1 and self._like.device.type == "cpu":
            return (rate for (rate,) in rates)
        values = torch.tensor(list(rates), dtype=self._like.dtype)
        if len(values) not in self._tensors:
            tensor = torch.empty_like(values, device=self._like.device)
            self._tensors[len(values)] = tensor, [_column(rate) for rate in tensor]
        tensor, columns = self._tensors[len(values)]
        tensor.copy_(values)
        return columns


def _fused_adam(params: Tensor) -> Callable[..., None] | None:
    """PyTorch's one-call Adam, a quarter of the time of five calls; None where it is missing.

    It is what ``torch.optim.Adam(fused=True)`` calls, but no documented function.
    """
    # On CUDA, where the rate is a tensor, the kernel takes it for float32 whatever it is.
    has_kernel = params.device.type == "cpu" or (params.device.type == "cuda" and params.dtype == torch.float32)
    return getattr(torch, "_fused_adam_", None) if has_kernel else None


def minimize_lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
) -> scipy.optimize.OptimizeResult:
    """Minimise an objective that gives its value and gradient, with scikit-learn's options.

    Parameters
    ----------
    objective : callable
        ``objective(x) -> (value, gradient)`` on float64 arrays.
    start : ndarray of shape (n_parameters,)
    max_iter, max_fun : int
        Most iterations and most evaluations.
    tol : float
        Largest component of the projected gradient at which to stop.

    Returns
    -------
    OptimizeResult
        scipy's; after Ctrl-C that of the last iteration, with ``interrupted=True``.
    """
    reached = scipy.optimize.OptimizeResult(x=start, fun=np.inf, nit=0, success=False, interrupted=True)

    def remember(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        reached.update(x=intermediate_result.x.copy(), fun=intermediate_result.fun, nit=reached.nit + 1)

    options = {"maxiter": max_iter, "maxfun": max_fun, "gtol": tol}
    try:
        result = scipy.optimize.minimize(
            objective, start, method="L-BFGS-B", jac=True, options=options, callback=remember
        )
    except KeyboardInterrupt:
        return reached
    result.interrupted = False
    return result

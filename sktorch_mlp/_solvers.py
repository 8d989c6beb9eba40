"""Update rules with scikit-learn's arithmetic, in place on the flat parameter; L-BFGS through scipy."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

from ._network import StackedMLP, lean
from ._schedules import Schedule

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
    schedules : sequence of Schedule
        Learning rates of each network.
    """

    #: names of the per-network settings, sequences of one value a network
    settings: tuple[str, ...] = ("schedules",)
    #: names of the tensors of the parameters' shape that a step carries to the next
    moments: tuple[str, ...] = ()
    #: whether its steps are nothing but kernels on a GPU, in tensors that stay in place
    can_be_captured = True

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self.schedules = list(schedules)

    @property
    def learning_rate(self) -> list[float]:
        """Learning rates now, one a network."""
        return [schedule.learning_rate for schedule in self.schedules]

    def bind(self, network: StackedMLP, n_steps: int) -> None:
        """Make ready to update this network, `n_steps` times an epoch; moments go to its device and precision."""
        for name in self.moments:
            moment = getattr(self, name, None)
            if moment is None:
                moment = torch.zeros_like(network.flat.detach())
            setattr(self, name, moment.to(network.flat.detach()))
        self._n_steps = n_steps
        self._params, self._grads = lean(network.flat.detach()), lean(network.grad)
        self._n_coefs = network.n_coefs
        self._prepare()

    def kind(self) -> Hashable:
        """Solvers of equal kind can update one stack; None if this one can update but one network."""
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

    def next_learning_rates(self, n_steps: int) -> Iterator[tuple[float, ...]]:
        """Learning rates of the coming steps, one a network."""
        return zip(*(schedule.next_rates(n_steps, self._n_steps) for schedule in self.schedules), strict=True)

    def settings_of(self, network: int) -> tuple[Any, ...]:
        """Settings of one network, to be compared and sorted."""
        values = (getattr(self, name)[network] for name in self.settings)
        return tuple(value.key() if isinstance(value, Schedule) else value for value in values)

    def state(self, network: int) -> dict[str, Any]:
        """Settings and moments of one network."""
        state: dict[str, Any] = {name: copy.copy(getattr(self, name)[network]) for name in self.settings}
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
    schedules : sequence of Schedule
    momentum : sequence of float
    nesterov : bool
    """

    settings = (*Solver.settings, "momentum")
    moments = ("velocity",)
    velocity: Tensor

    def __init__(self, schedules: Sequence[Schedule], momentum: Sequence[float], nesterov: bool) -> None:
        super().__init__(schedules)
        self.momentum, self.nesterov = list(momentum), nesterov

    def kind(self) -> Hashable:
        return type(self), self.nesterov

    def _prepare(self) -> None:
        self._feed = _Feed(self._params)
        self._momentum = per_network(self.momentum, self._params)
        self._velocity = lean(self.velocity)

    def rates(self, n_steps: int) -> Iterable[Rate]:
        return self._feed([-rate for rate in rates] for rates in self.next_learning_rates(n_steps))

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


class Adam(Solver):
    """Adam (Kingma and Ba, 2014) with epsilon outside the bias correction, as scikit-learn's.

    A step is ``params -= rate * m / (sqrt(v) + epsilon)`` with
    ``rate = learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t)``.

    Parameters
    ----------
    schedules : sequence of Schedule
    beta_1, beta_2, epsilon : sequence of float
    """

    settings = (*Solver.settings, "beta_1", "beta_2", "epsilon", "n_steps")
    moments = ("first_moment", "second_moment")
    first_moment: Tensor
    second_moment: Tensor
    _runs: list[Any]

    def __init__(
        self,
        schedules: Sequence[Schedule],
        beta_1: Sequence[float],
        beta_2: Sequence[float],
        epsilon: Sequence[float],
    ) -> None:
        super().__init__(schedules)
        self.beta_1, self.beta_2, self.epsilon = list(beta_1), list(beta_2), list(epsilon)
        self.n_steps = [0] * len(self.schedules)

    def _prepare(self) -> None:
        params = self._params
        self._feed = _Feed(params)
        self._moments = lean(self.first_moment), lean(self.second_moment)
        self._fused = self._fused_kernel()
        #: whether rates are handed to the kernel as lists of one number a network
        self._in_runs = self._fused is not None and params.ndim > 1
        if self._fused is None:
            self._betas = per_network(self.beta_1, params), per_network(self.beta_2, params)
            self._epsilon: Any = per_network(self.epsilon, params)
            self._scratch = torch.empty_like(params)
            return
        self._epsilon = self.epsilon if self._in_runs else self.epsilon[0]
        # The kernel's own bias correction is 1 after infinitely many steps, as beta**inf is 0.
        n_steps = torch.tensor(float("inf"), device=params.device)
        flat = [torch.atleast_2d(t) for t in (params, self._grads, *self._moments)]
        self._runs = []  # networks next to each other with the same settings: one call for them
        for _, run in itertools.groupby(range(len(self.epsilon)), self._run_of):
            networks = list(run)
            first, rows = networks[0], slice(networks[0], networks[-1] + 1)
            tensors = [[t[rows]] for t in flat]
            self._runs.append(
                (first, rows, (*tensors, list[Tensor](), [n_steps]), self.beta_1[first], self.beta_2[first])
            )

    def _run_of(self, network: int) -> tuple[Any, ...]:
        """Neighbours with equal keys have equal settings, and will have equal rates."""
        alone = network if self.schedules[network].follows_training else -1
        return alone, self.settings_of(network)

    def _fused_kernel(self) -> Callable[..., None] | None:
        on_cpu = self._params.device.type == "cpu"
        return _fused_adam(self._params) if self._params.ndim == 1 or on_cpu else None

    def rates(self, n_steps: int) -> Iterable[Rate]:
        rates = self._corrected_rates(n_steps)
        return rates if self._in_runs else self._feed(rates)

    def _corrected_rates(self, n_steps: int) -> Iterator[list[float]]:
        for rates in self.next_learning_rates(n_steps):
            ts = [n + 1 for n in self.n_steps]
            hyperparameters = zip(rates, self.beta_1, self.beta_2, ts, strict=True)
            yield [rate * (1 - beta_2**t) ** 0.5 / (1 - beta_1**t) for rate, beta_1, beta_2, t in hyperparameters]
            self.n_steps = ts  # only now the step has been taken

    def step(self, rate: Rate) -> None:
        self._move(rate, self._epsilon)

    def _move(self, rate: Rate, epsilon: Any) -> None:
        if self._fused is not None:
            for first, _, tensors, beta_1, beta_2 in self._runs:
                self._fused(
                    *tensors,
                    lr=rate[first] if self._in_runs else rate,
                    beta1=beta_1,
                    beta2=beta_2,
                    eps=epsilon[first] if self._in_runs else epsilon,
                    weight_decay=0.0,
                    amsgrad=False,
                    maximize=False,
                )
            return
        beta_1, beta_2 = self._betas
        first_moment, second_moment = self._moments
        first_moment.lerp_(self._grads, 1 - beta_1)
        second_moment.lerp_(torch.mul(self._grads, self._grads, out=self._scratch), 1 - beta_2)
        torch.sqrt(second_moment, out=self._scratch).add_(epsilon).div_(-rate)
        self._params.addcdiv_(first_moment, self._scratch)


class AdamW(Adam):
    """Adam with decoupled decay of the coefficients (Loshchilov and Hutter, 2019), as `torch.optim.AdamW`.

    Before a step of Adam, with epsilon inside the bias correction, the coefficients shrink by
    ``learning_rate * weight_decay``; intercepts and normalizations do not.

    Parameters
    ----------
    schedules : sequence of Schedule
    beta_1, beta_2, epsilon, weight_decay : sequence of float
    """

    settings = (*Adam.settings, "weight_decay")

    def __init__(
        self,
        schedules: Sequence[Schedule],
        beta_1: Sequence[float],
        beta_2: Sequence[float],
        epsilon: Sequence[float],
        weight_decay: Sequence[float],
    ) -> None:
        super().__init__(schedules, beta_1, beta_2, epsilon)
        self.weight_decay = list(weight_decay)

    def _prepare(self) -> None:
        super()._prepare()
        self._epsilon_feed, self._decay_feed = _Feed(self._params), _Feed(self._params)
        self._coefs = self._params[..., : self._n_coefs]
        self._coef_rows = torch.atleast_2d(self._coefs)

    def _fused_kernel(self) -> Callable[..., None] | None:
        # Epsilon changes from step to step, and a CUDA graph would keep the number it was recorded with.
        return super()._fused_kernel() if self._params.device.type == "cpu" else None

    def rates(self, n_steps: int) -> Iterable[Rate]:
        plans = self._plans(n_steps)
        if self._in_runs:
            return plans
        if self._feed.hands_numbers:
            return (tuple(values for (values,) in plan) for plan in plans)
        feeds = self._feed, self._epsilon_feed, self._decay_feed
        columns = zip(*plans, strict=True)
        return list(zip(*(feed(column) for feed, column in zip(feeds, columns, strict=True)), strict=True))

    def _plans(self, n_steps: int) -> Iterator[tuple[list[float], list[float], list[float]]]:
        """Of each coming step rates, epsilons, and what coefficients are multiplied by, one of each a network."""
        for rates in self.next_learning_rates(n_steps):
            keep = [1 - rate * decay for rate, decay in zip(rates, self.weight_decay, strict=True)]
            ts = [n + 1 for n in self.n_steps]
            seconds = [(1 - beta_2**t) ** 0.5 for beta_2, t in zip(self.beta_2, ts, strict=True)]
            epsilons = [epsilon * second for epsilon, second in zip(self.epsilon, seconds, strict=True)]
            hyperparameters = zip(rates, seconds, self.beta_1, ts, strict=True)
            yield [rate * second / (1 - beta_1**t) for rate, second, beta_1, t in hyperparameters], epsilons, keep
            self.n_steps = ts

    def step(self, rate: Rate) -> None:
        rates, epsilons, keep = rate
        if self._in_runs:
            for first, rows, *_ in self._runs:
                self._coef_rows[rows].mul_(keep[first])
        else:
            self._coefs.mul_(keep)
        self._move(rates, epsilons)


class TorchOptimizer(Solver):
    """Any optimiser of PyTorch's kind, for one network; its parameters are the tensors of each layer.

    Parameters
    ----------
    schedules : sequence of Schedule
        One.
    optimizer_class : type of torch.optim.Optimizer
    params : dict
        What it takes beside parameters and ``lr``.
    """

    can_be_captured = False

    def __init__(
        self, schedules: Sequence[Schedule], optimizer_class: type[torch.optim.Optimizer], params: dict[str, Any]
    ) -> None:
        super().__init__(schedules)
        self.optimizer_class, self.params = optimizer_class, params
        self.optimizer_state: dict[str, Any] | None = None

    def kind(self) -> Hashable:
        return None

    def bind(self, network: StackedMLP, n_steps: int) -> None:
        parameters = []
        for flat in (network.flat.detach(), network.grad):
            coefs, intercepts = network.views(flat)
            norms = (tensor for pair in network.norm_views(flat) for tensor in pair)
            parameters.append([tensor[0] for tensor in (*coefs, *intercepts, *norms)])
        self._parameters = [torch.nn.Parameter(parameter) for parameter in parameters[0]]
        for parameter, grad in zip(self._parameters, parameters[1], strict=True):
            parameter.grad = grad
        super().bind(network, n_steps)

    def _prepare(self) -> None:
        state = self._state_dict()
        make: Any = self.optimizer_class
        self._optimizer = make(self._parameters, lr=self.learning_rate[0], **self.params)
        if state is not None:
            self._optimizer.load_state_dict(state)

    def state(self, network: int) -> dict[str, Any]:
        return super().state(network) | {"optimizer_state": copy.deepcopy(self._state_dict())}

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        super().restore(states)
        self.optimizer_state = states[0]["optimizer_state"]
        self.__dict__.pop("_optimizer", None)

    def _state_dict(self) -> dict[str, Any] | None:
        optimizer = getattr(self, "_optimizer", None)
        return self.optimizer_state if optimizer is None else optimizer.state_dict()

    def rates(self, n_steps: int) -> Iterable[Rate]:
        return (rate for (rate,) in self.next_learning_rates(n_steps))

    def step(self, rate: Rate) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()

    def __getstate__(self) -> dict[str, Any]:
        state = _to_cpu(copy.copy(self._state_dict()))
        return super().__getstate__() | {"optimizer_state": state}


def _to_cpu(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _to_cpu(value) for name, value in state.items()}
    return state.cpu() if isinstance(state, Tensor) else state


class _Feed:
    """Hands the numbers of coming steps to the steps: as numbers, or in tensors that stay in place."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self.hands_numbers = like.device.type == "cpu" and like.ndim == 1
        self._tensors: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def __call__(self, values: Iterable[Sequence[float]]) -> Iterable[Rate]:
        """Each step's values, given as one number a network, in the form that `step` takes."""
        if self.hands_numbers:
            return (value for (value,) in values)
        stacked = torch.tensor(list(values), dtype=self._like.dtype)
        if len(stacked) not in self._tensors:
            tensor = torch.empty_like(stacked, device=self._like.device)
            self._tensors[len(stacked)] = tensor, [_column(rate) for rate in tensor]
        tensor, columns = self._tensors[len(stacked)]
        tensor.copy_(stacked)
        return columns


def _fused_adam(params: Tensor) -> Callable[..., None] | None:
    """PyTorch's one-call Adam, a quarter of the time of five calls; None where it is missing.

    It is what ``torch.optim.Adam(fused=True)`` calls, but no documented function.
    """
    # On CUDA, where the rate is a tensor, the kernel takes it for float32 whatever it is.
    has_kernel = params.device.type == "cpu" or (params.device.type == "cuda" and params.dtype == torch.float32)
    return getattr(torch, "_fused_adam_", None) if has_kernel else None


#: status of scipy's result after StopIteration
_STOPPED_BY_CALLBACK = 99


def minimize_lbfgs(
    objective: Callable[[np.ndarray], tuple[float, np.ndarray]],
    start: np.ndarray,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    on_iteration: Callable[[np.ndarray, float], bool] = lambda x, value: False,
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
    on_iteration : callable, default=nothing
        ``on_iteration(x, value)`` is called after each iteration; True to stop.

    Returns
    -------
    OptimizeResult
        scipy's; after Ctrl-C that of the last iteration, with ``interrupted=True``.
    """
    reached = scipy.optimize.OptimizeResult(x=start, fun=np.inf, nit=0, success=False, interrupted=True)

    def remember(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        reached.update(x=intermediate_result.x.copy(), fun=intermediate_result.fun, nit=reached.nit + 1)
        if on_iteration(reached.x, float(reached.fun)):
            raise StopIteration

    options = {"maxiter": max_iter, "maxfun": max_fun, "gtol": tol}
    try:
        result = scipy.optimize.minimize(
            objective, start, method="L-BFGS-B", jac=True, options=options, callback=remember
        )
    except KeyboardInterrupt:
        return reached
    result.interrupted = False
    if result.status == _STOPPED_BY_CALLBACK:
        result.status = 0  # as asked
    return result

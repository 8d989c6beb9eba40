"""Optimizers of a stack, in place on its flat parameter: the base class, SGD, and those of PyTorch."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import StateDict, join_states, select_networks, squeeze_stack

from .schedules import Schedule, schedule_from_plain, schedule_to_plain

#: A number for a stack of one on the CPU, else a tensor of one number for each network, (n_networks, 1) or 0-d.
Scalar = float | Tensor
#: One number for each network.
PerNetwork = Sequence[float]
#: Takes one step.
Step = Callable[[], None]


def add_scaled_(target: Tensor, source: Tensor, scale: Scalar) -> Tensor:
    """Compute ``target += scale * source`` in one call."""
    if isinstance(scale, Tensor):
        return target.addcmul_(source, scale)
    return target.add_(source, alpha=scale)


class Optimizer(ABC):
    """A stochastic update rule for a stack; settings are sequences of one value for each network.

    Parameters
    ----------
    schedules : sequence of Schedule
        Learning rates of each network.
    """

    #: Names of the arguments of `__init__` that are sequences of one value for each network.
    settings: ClassVar[tuple[str, ...]] = ("schedules",)
    #: Names of the other arguments, which all networks share.
    shared_settings: ClassVar[tuple[str, ...]] = ()
    #: Names of the tensors that a step passes on to the next; their first axis is that of the networks.
    moments: ClassVar[tuple[str, ...]] = ()
    #: Whether a CUDA graph can record its steps: they are nothing but kernels, in tensors that stay in place.
    can_be_captured: ClassVar[bool] = True

    def __init__(self, schedules: Sequence[Schedule]) -> None:
        self.schedules = list(schedules)
        for name in self.moments:  # made by `allocate`
            setattr(self, name, None)

    @property
    def n_networks(self) -> int:
        """Number of networks."""
        return len(self.schedules)

    def stack_key(self) -> Hashable:
        """Key that is equal for optimizers that can be one; None if it can update only one network."""
        return type(self), *(getattr(self, name) for name in self.shared_settings)

    def settings_key(self, network: int) -> tuple[Any, ...]:
        """Settings of one network, which can be compared and sorted."""
        values = (getattr(self, name)[network] for name in self.settings)
        return tuple(value.key() if isinstance(value, Schedule) else value for value in values)

    # Steps -----------------------------------------------------------------------------

    def bind(self, network: StackedMLP, n_steps_of_epoch: int) -> None:
        """Get ready to update this network."""
        self.allocate(network)
        self._n_steps_of_epoch = n_steps_of_epoch
        self._params, self._grads = squeeze_stack(network.flat.detach()), squeeze_stack(network.grad)
        self._n_coefs = network.n_coefs
        self._prepare()

    def release(self) -> None:
        """Let go of what `bind` has made of a network, whose memory would be kept."""
        for name in [name for name in vars(self) if name.startswith("_")]:
            delattr(self, name)

    def allocate(self, network: StackedMLP) -> None:
        """Make moments where there are none, and move others to the device and precision of the network."""
        flat = network.flat.detach()
        for name in self.moments:
            moment = getattr(self, name)
            setattr(self, name, self._new_moment(name, network) if moment is None else moment.to(flat))

    def fits(self, n_parameters: int) -> bool:
        """Whether it has no moments, or those of a network with so many parameters."""
        moments = (getattr(self, name) for name in self.moments)
        return all(moment is None or moment.shape[-1] == n_parameters for moment in moments)

    def _new_moment(self, name: str, network: StackedMLP) -> Tensor:
        """The moment of this name before the first step."""
        return torch.zeros_like(network.flat.detach())

    @abstractmethod
    def _prepare(self) -> None:
        """Derive what steps need from parameters, gradient, settings and moments."""

    @abstractmethod
    def steps(self, n_steps: int) -> Iterable[Step]:
        """Return the coming steps. Each updates the parameters from the gradient when it is called.

        Off the CPU the tensors of the steps are the same at every call with the same `n_steps`, only their
        values change, so that steps can be recorded once and replayed.
        """

    def _next_rates(self, n_steps: int) -> Iterator[tuple[float, ...]]:
        """Learning rates of the coming steps, one for each network."""
        return zip(*(s.next_rates(n_steps, self._n_steps_of_epoch) for s in self.schedules), strict=True)

    # State -----------------------------------------------------------------------------

    def state_dict(self) -> StateDict:
        """Moments and schedules. Tensors are not copied."""
        state: StateDict = {name: getattr(self, name) for name in self.moments}
        return state | {"schedules": [schedule.state_dict() for schedule in self.schedules]}

    def load_state_dict(self, state: StateDict) -> None:
        """Set moments, which are copied, and schedules to a state; before the next step `bind` anew."""
        for name in self.moments:
            setattr(self, name, None if state[name] is None else state[name].clone())
        for schedule, own_state in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(own_state)

    def select(self, networks: Sequence[int]) -> Self:
        """Optimizer of some networks. Schedules are shared, moments are copied."""
        settings = {name: [getattr(self, name)[k] for k in networks] for name in self.settings}
        selected = type(self)(**settings, **{name: getattr(self, name) for name in self.shared_settings})
        selected.load_state_dict(select_networks(self.state_dict(), networks))
        return selected

    @classmethod
    def join(cls, optimizers: Sequence[Optimizer]) -> Self:
        """Optimizer of a stack made from those of its networks, with moments. Schedules are shared."""
        settings = {name: [value for o in optimizers for value in getattr(o, name)] for name in cls.settings}
        joined = cls(**settings, **{name: getattr(optimizers[0], name) for name in cls.shared_settings})
        joined.load_state_dict(join_states([optimizer.state_dict() for optimizer in optimizers]))
        return joined

    def __getstate__(self) -> dict[str, Any]:
        """Settings and state as plain values: arrays for tensors, which load where there is no GPU.

        Attributes that `bind` made from a network are left out: it makes them again.
        """
        state = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        state |= {name: _to_arrays(state[name]) for name in self.moments}
        return state | {"schedules": [schedule_to_plain(schedule) for schedule in self.schedules]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        vars(self).update({name: _to_tensors(state[name]) for name in self.moments})
        self.schedules = [schedule_from_plain(schedule) for schedule in state["schedules"]]


class SGD(Optimizer):
    """Gradient descent with a velocity that contains the learning rate, as in scikit-learn.

    ``v = momentum * v - rate * g`` and ``w += v``, or with Nesterov ``w += momentum * v - rate * g``. The
    velocity of PyTorch's SGD does without the rate, which differs once the rate changes.

    Parameters
    ----------
    schedules : sequence of Schedule
    momentum : sequence of float
    nesterov : bool
    """

    settings = (*Optimizer.settings, "momentum")
    shared_settings = ("nesterov",)
    moments = ("velocity",)
    velocity: Tensor

    def __init__(self, schedules: Sequence[Schedule], momentum: PerNetwork, nesterov: bool) -> None:
        super().__init__(schedules)
        self.momentum, self.nesterov = list(momentum), nesterov

    def _prepare(self) -> None:
        self._feed = ScalarFeed(self._params)
        self._momentum = per_network(self.momentum, self._params)
        self._velocity = squeeze_stack(self.velocity)

    def steps(self, n_steps: int) -> Iterable[Step]:
        rates = self._feed([-rate for rate in rates] for rates in self._next_rates(n_steps))
        step = self._step if any(self.momentum) else self._plain_step
        return (partial(step, rate) for rate in rates)

    def _plain_step(self, negative_rate: Scalar) -> None:
        add_scaled_(self._params, self._grads, negative_rate)

    def _step(self, negative_rate: Scalar) -> None:
        add_scaled_(self._velocity.mul_(self._momentum), self._grads, negative_rate)
        if self.nesterov:
            add_scaled_(self._params, self._velocity, self._momentum)
            add_scaled_(self._params, self._grads, negative_rate)
        else:
            self._params.add_(self._velocity)


class TorchOptimizer(Optimizer):
    """Any optimizer class of PyTorch, for one network; its parameters are the tensors of each layer.

    Parameters
    ----------
    schedules : sequence of Schedule
        One.
    optimizer_class : type of torch.optim.Optimizer
    params : dict
        Arguments of the class beside parameters and ``lr``.
    """

    shared_settings = ("optimizer_class", "params")
    can_be_captured = False

    def __init__(
        self, schedules: Sequence[Schedule], optimizer_class: type[torch.optim.Optimizer], params: dict[str, Any]
    ) -> None:
        super().__init__(schedules)
        self.optimizer_class, self.params = optimizer_class, params
        self.optimizer_state: dict[str, Any] | None = None

    def stack_key(self) -> Hashable:
        """Return None: it can update only one network."""
        return None

    def bind(self, network: StackedMLP, n_steps_of_epoch: int) -> None:
        """Get ready to update this network."""
        parameters, grads = (_layer_tensors(network, flat) for flat in (network.flat.detach(), network.grad))
        self._parameters = [torch.nn.Parameter(parameter) for parameter in parameters]
        for parameter, grad in zip(self._parameters, grads, strict=True):
            parameter.grad = grad
        super().bind(network, n_steps_of_epoch)

    def release(self) -> None:
        """Let go of the parameters; the state of PyTorch's optimizer stays."""
        self.optimizer_state = self._inner_state()
        super().release()

    def _prepare(self) -> None:
        state = self._inner_state()
        make: Any = self.optimizer_class
        self._optimizer = make(self._parameters, lr=self.schedules[0].learning_rate, **self.params)
        if state is not None:
            self._optimizer.load_state_dict(state)

    def steps(self, n_steps: int) -> Iterable[Step]:
        return (partial(self._step, rate) for (rate,) in self._next_rates(n_steps))

    def _step(self, rate: float) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()

    def state_dict(self) -> StateDict:
        """State of the optimizer, which is copied, and schedules."""
        return super().state_dict() | {"optimizer_state": [copy.deepcopy(self._inner_state())]}

    def load_state_dict(self, state: StateDict) -> None:
        """Set optimizer and schedules to a state, which is copied."""
        super().load_state_dict(state)
        (self.optimizer_state,) = copy.deepcopy(state["optimizer_state"])  # PyTorch would train on these tensors
        self.__dict__.pop("_optimizer", None)

    def fits(self, n_parameters: int) -> bool:
        """Whether it has no state, or that of a network with so many parameters."""
        sizes = [_n_numbers(state) for state in (self._inner_state() or {}).get("state", {}).values()]
        return max(sizes, default=0) <= 1 or sum(sizes) == n_parameters

    def _inner_state(self) -> dict[str, Any] | None:
        optimizer = getattr(self, "_optimizer", None)
        return self.optimizer_state if optimizer is None else optimizer.state_dict()

    def __getstate__(self) -> dict[str, Any]:
        class_, inner_state = class_to_plain(self.optimizer_class), _to_arrays(self._inner_state())
        return super().__getstate__() | {"optimizer_class": class_, "optimizer_state": inner_state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.optimizer_class = class_from_plain(state["optimizer_class"])
        self.optimizer_state = _to_tensors(state["optimizer_state"])


def _n_numbers(state: dict[str, Any]) -> int:
    """Numbers of the parameter that an optimizer of PyTorch has this state for; 0 or 1 if that does not say."""
    sizes = {name: value.numel() for name, value in state.items() if isinstance(value, Tensor)}
    if "row_var" in sizes:  # of a matrix Adafactor has a mean for each row and each column
        return sizes["row_var"] * sizes["col_var"]
    return max(sizes.values(), default=0)


def class_to_plain(class_: Any) -> Any:
    """Name of a class of `torch.optim` in a dict; anything else as it is."""
    name = getattr(class_, "__name__", "")
    return {"torch.optim": name} if getattr(torch.optim, name, None) is class_ else class_


def class_from_plain(value: Any) -> Any:
    """Class of `torch.optim` of which `class_to_plain` has made a dict; anything else as it is."""
    return getattr(torch.optim, value["torch.optim"]) if isinstance(value, dict) else value


def _layer_tensors(network: StackedMLP, flat: Tensor) -> list[Tensor]:
    coefs, intercepts = network.views(flat)
    norms = (tensor for pair in network.norm_views(flat) for tensor in pair)
    return [tensor[0] for tensor in (*coefs, *intercepts, *norms)]


class ScalarFeed:
    """Brings the numbers of coming steps into the form that calls take: numbers, or tensors that stay in place."""

    def __init__(self, params: Tensor) -> None:
        self._params = params
        self._hands_out_numbers = params.device.type == "cpu" and params.ndim == 1
        self._tensors: dict[int, tuple[Tensor, list[Tensor]]] = {}

    def __call__(self, values: Iterable[PerNetwork]) -> Iterable[Scalar]:
        """Scalars of the steps, given one number for each network and step."""
        if self._hands_out_numbers:
            return (value for (value,) in values)
        stacked = torch.tensor(list(values), dtype=self._params.dtype, device="cpu")
        if len(stacked) not in self._tensors:
            tensor = torch.empty_like(stacked, device=self._params.device)
            self._tensors[len(stacked)] = tensor, [_column(row) for row in tensor]
        tensor, columns = self._tensors[len(stacked)]
        if tensor.device.type == "cuda":  # a copy of other memory would wait for all steps before it
            stacked = stacked.pin_memory()
        tensor.copy_(stacked, non_blocking=True)
        return columns


def per_network(values: PerNetwork, params: Tensor) -> Scalar:
    """One scalar of settings that stay."""
    if len(values) == 1 and params.device.type == "cpu":
        return float(values[0])
    return _column(torch.tensor(values, dtype=params.dtype, device=params.device))


def _column(values: Tensor) -> Tensor:
    """One number for each network, to go with parameters: 0-d for a stack of one, else (n_networks, 1)."""
    return values.squeeze(0) if len(values) == 1 else values.unsqueeze(-1)


def _to_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_arrays(item) for name, item in value.items()}
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _to_tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _to_tensors(item) for name, item in value.items()}
    # Steps write to them, which an array that is mapped from a file would not survive.
    return torch.from_numpy(np.require(value, requirements="W")) if isinstance(value, np.ndarray) else value

"""Adam and AdamW: their numbers from step to step, and their arithmetic by PyTorch's kernel or in five calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from sktorch_mlp._nn.tensors import StateDict, squeeze_stack
from sktorch_mlp._nn.threads import share_elementwise

from . import compat
from .optimizers import Optimizer, PerNetwork, Scalar, ScalarFeed, Step, per_network
from .schedules import Schedule

#: Multiply-adds of a product that take as long as the update of one parameter.
_OPERATIONS_PER_PARAMETER = 64

#: On a GPU the kernel has one block of threads for 65,536 parameters, or for a tensor of fewer; up to 36 tensors are one
#: launch. So parameters go there in parts, 32 at most, up to as many as would have 32 blocks anyway.
_GPU_PARTS, _LEAST_PART, _MOST_IN_PARTS = 32, 512, 2**21


class AdamScalars(NamedTuple):
    """Numbers of a step of Adam, one for each network.

    Attributes
    ----------
    rate : sequence of float
        Learning rate with the bias correction, ``rate * sqrt(1 - beta_2**t) / (1 - beta_1**t)``.
    epsilon : sequence of float
        Added to the root of the second moment.
    shrink : sequence of float or None
        Factor of the coefficients before the step; None for no decay.
    """

    rate: PerNetwork
    epsilon: PerNetwork
    shrink: PerNetwork | None = None


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2014) with epsilon outside the bias correction, as in scikit-learn.

    ``m = beta_1 * m + (1 - beta_1) * g``, ``v = beta_2 * v + (1 - beta_2) * g**2`` and
    ``w -= rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (sqrt(v) + epsilon)``.

    Parameters
    ----------
    schedules : sequence of Schedule
    beta_1, beta_2, epsilon : sequence of float

    Attributes
    ----------
    n_steps : list of int
        Steps taken, t.
    first_moment, second_moment : Tensor of shape (n_networks, n_parameters)
    """

    settings = (*Optimizer.settings, "beta_1", "beta_2", "epsilon")
    moments: ClassVar[tuple[str, ...]] = ("first_moment", "second_moment")
    first_moment: Tensor
    second_moment: Tensor

    def __init__(
        self, schedules: Sequence[Schedule], beta_1: PerNetwork, beta_2: PerNetwork, epsilon: PerNetwork
    ) -> None:
        super().__init__(schedules)
        self.beta_1, self.beta_2, self.epsilon = list(beta_1), list(beta_2), list(epsilon)
        self.n_steps = [0] * self.n_networks

    def settings_key(self, network: int) -> tuple[Any, ...]:
        """Settings of one network and its number of steps, on which its rates depend."""
        return *super().settings_key(network), self.n_steps[network]

    def state_dict(self) -> StateDict:
        """Moments, schedules and numbers of steps."""
        return super().state_dict() | {"n_steps": list(self.n_steps)}

    def load_state_dict(self, state: StateDict) -> None:
        """Set moments, schedules and numbers of steps to a state."""
        super().load_state_dict(state)
        self.n_steps = list(state["n_steps"])

    def _prepare(self) -> None:
        kernel = self._fused_kernel()
        self._update = _AdamUpdate(self) if kernel is None else _FusedAdamUpdate(self, kernel)

    def _fused_kernel(self) -> Callable[..., None] | None:
        """PyTorch's kernel for Adam, where it can update this stack."""
        can_update = self._params.ndim == 1 or self._params.device.type == "cpu"
        return compat.fused_adam(self._params) if can_update else None

    def steps(self, n_steps: int) -> Iterable[Step]:
        return self._update.steps(self._scalars(n_steps))

    def _scalars(self, n_steps: int) -> Iterator[AdamScalars]:
        for rates in self._next_rates(n_steps):
            ts = [n + 1 for n in self.n_steps]
            values = zip(rates, self.beta_1, self.beta_2, ts, strict=True)
            corrected = [rate * (1 - beta_2**t) ** 0.5 / (1 - beta_1**t) for rate, beta_1, beta_2, t in values]
            yield AdamScalars(corrected, self.epsilon)
            self.n_steps = ts  # only now the step has been taken


class AdamW(Adam):
    """Adam with decoupled weight decay of the coefficients (Loshchilov and Hutter, 2019), as `torch.optim.AdamW`.

    Before a step of Adam, with epsilon inside the bias correction, coefficients shrink by
    ``rate * weight_decay``; intercepts and normalizations do not.

    Parameters
    ----------
    schedules : sequence of Schedule
    beta_1, beta_2, epsilon, weight_decay : sequence of float
    """

    settings = (*Adam.settings, "weight_decay")

    def __init__(
        self,
        schedules: Sequence[Schedule],
        beta_1: PerNetwork,
        beta_2: PerNetwork,
        epsilon: PerNetwork,
        weight_decay: PerNetwork,
    ) -> None:
        super().__init__(schedules, beta_1, beta_2, epsilon)
        self.weight_decay = list(weight_decay)

    def _fused_kernel(self) -> Callable[..., None] | None:
        # Epsilon changes from step to step, and a CUDA graph would keep the number it was recorded with.
        return super()._fused_kernel() if self._params.device.type == "cpu" else None

    def _scalars(self, n_steps: int) -> Iterator[AdamScalars]:
        for rates in self._next_rates(n_steps):
            ts = [n + 1 for n in self.n_steps]
            roots = [(1 - beta_2**t) ** 0.5 for beta_2, t in zip(self.beta_2, ts, strict=True)]
            values = zip(rates, roots, self.beta_1, ts, strict=True)
            yield AdamScalars(
                [rate * root / (1 - beta_1**t) for rate, root, beta_1, t in values],
                [epsilon * root for epsilon, root in zip(self.epsilon, roots, strict=True)],
                [1 - rate * decay for rate, decay in zip(rates, self.weight_decay, strict=True)],
            )
            self.n_steps = ts


class _AdamUpdate:
    """Adam's arithmetic in five calls, for all networks at once."""

    def __init__(self, optimizer: Adam) -> None:
        self._params, self._grads = optimizer._params, optimizer._grads
        self._coefs = self._params[..., : optimizer._n_coefs]
        self._first_moment = squeeze_stack(optimizer.first_moment)
        self._second_moment = squeeze_stack(optimizer.second_moment)
        self._scratch = torch.empty_like(self._params)
        self._beta_1 = per_network(optimizer.beta_1, self._params)
        self._beta_2 = per_network(optimizer.beta_2, self._params)
        self._feeds = [ScalarFeed(self._params) for _ in AdamScalars._fields]

    def steps(self, scalars: Iterable[AdamScalars]) -> Iterable[Step]:
        """Return steps with these numbers."""
        if self._params.ndim == 1 and self._params.device.type == "cpu":
            return (
                partial(self._step, rate, epsilon, None if shrink is None else shrink[0])
                for (rate,), (epsilon,), shrink in scalars
            )
        fields = zip(*scalars, strict=True)
        columns = (
            [None] * len(values) if values[0] is None else feed(values)
            for feed, values in zip(self._feeds, fields, strict=True)
        )
        return [partial(self._step, *numbers) for numbers in zip(*columns, strict=True)]

    def _step(self, rate: Scalar, epsilon: Scalar, shrink: Scalar | None) -> None:
        if shrink is not None:
            self._coefs.mul_(shrink)
        grads, m, v, scratch = self._grads, self._first_moment, self._second_moment, self._scratch
        m.lerp_(grads, 1 - self._beta_1)
        v.lerp_(torch.mul(grads, grads, out=scratch), 1 - self._beta_2)
        denominator = torch.sqrt(v, out=scratch).add_(epsilon).div_(-rate)
        self._params.addcdiv_(m, denominator)


class _FusedAdamUpdate:
    """Adam's arithmetic by PyTorch's kernel: one call for networks next to each other with equal settings."""

    def __init__(self, optimizer: Adam, kernel: Callable[..., None]) -> None:
        tensors = optimizer._params, optimizer._grads, optimizer.first_moment, optimizer.second_moment
        params, *others = (torch.atleast_2d(tensor) for tensor in tensors)
        assert all(other.shape == params.shape for other in others)  # the kernel would write anywhere
        self._on_cpu = params.device.type == "cpu"
        self._feed = ScalarFeed(optimizer._params)
        # The kernel's own bias correction is 1 after infinitely many steps, as beta**inf is 0.
        n_steps = torch.tensor(float("inf"), dtype=torch.float32, device=params.device)
        #: first network, its coefficients and those of its neighbors, arguments of the kernel
        self._groups: list[tuple[int, Tensor, Callable[..., None]]] = []
        for rows in _equal_neighbors(optimizer):
            first = rows.start
            tensor_lists = [_parts(tensor[rows]) for tensor in (params, *others)]
            call = partial(
                kernel,
                *tensor_lists,
                [],
                [n_steps] * len(tensor_lists[0]),
                beta1=optimizer.beta_1[first],
                beta2=optimizer.beta_2[first],
                weight_decay=0.0,
                amsgrad=False,
                maximize=False,
            )
            shared = share_elementwise(call, _OPERATIONS_PER_PARAMETER * params[rows].numel())
            self._groups.append((first, params[rows, : optimizer._n_coefs], shared))

    def steps(self, scalars: Iterable[AdamScalars]) -> Iterable[Step]:
        """Return steps with these numbers."""
        if self._on_cpu:
            return (partial(self._step, *numbers) for numbers in scalars)
        # A graph keeps numbers, but not the values of tensors; without decay only the rate changes.
        numbers = list(scalars)
        rates = self._feed([step.rate for step in numbers])
        return [partial(self._step, [rate], step.epsilon, None) for rate, step in zip(rates, numbers, strict=True)]

    def _step(self, rate: Sequence[Scalar], epsilon: PerNetwork, shrink: PerNetwork | None) -> None:
        for first, coefs, call in self._groups:
            if shrink is not None:
                coefs.mul_(shrink[first])
            call(lr=rate[first], eps=epsilon[first])


def _parts(values: Tensor) -> list[Tensor]:
    """Tensors for the kernel that together are the values of one tensor."""
    n = values.numel()
    if values.device.type == "cpu" or n > _MOST_IN_PARTS:
        return [values]
    size = max(_LEAST_PART, -(-n // _GPU_PARTS))
    return [*values.view(-1).split(size + -size % 4)]  # the kernel reads four at a time


def _equal_neighbors(optimizer: Adam) -> list[slice]:
    """Runs of networks with equal settings whose rates will be equal."""
    starts, last_key = [], None
    for network in range(optimizer.n_networks):
        key = optimizer.settings_key(network)
        if key != last_key or optimizer.schedules[network].depends_on_training:
            starts.append(network)
        last_key = key
    return [slice(start, stop) for start, stop in zip(starts, [*starts[1:], optimizer.n_networks], strict=True)]

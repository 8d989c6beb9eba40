"""Hidden activations: in place forward, in place backward, and as a module."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_aten = torch.ops.aten  # what autograd calls, with an output to write to

#: An activation by name, or any elementwise function of a tensor.
ActivationLike = str | Callable[[Tensor], Tensor]


class Activation(NamedTuple):
    """One elementwise activation.

    Attributes
    ----------
    apply_ : callable
        Activates a tensor, in place where it can and autograd is off, and returns it.
    backprop_ : callable or None
        ``backprop_(delta, units)`` multiplies `delta` in place by the derivative; it may
        destroy `units`, which saves a buffer. None leaves it to autograd.
    module : callable
        Makes the same activation as a module.
    of_input : bool, default=False
        Whether the derivative takes as `units` what went in, rather than what came out.
    """

    apply_: Callable[[Tensor], Tensor]
    backprop_: Callable[[Tensor, Tensor], object] | None
    module: Callable[[], nn.Module]
    of_input: bool = False


def _in_place(
    function_: Callable[[Tensor], Tensor], function: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    def apply_(units: Tensor) -> Tensor:
        return function(units) if torch.is_grad_enabled() else function_(units)

    return apply_


def _tanh_(units: Tensor) -> Tensor:
    """In place; on the CPU numpy's, which takes a fifth to a tenth of the time of PyTorch's."""
    if units.device.type == "cpu":
        array = units.numpy()
        np.tanh(array, out=array)
        return units
    return units.tanh_()


def _backward(operator: Any, *settings: Any) -> Callable[[Tensor, Tensor], object]:
    """An operator of autograd's as `backprop_`; it writes over its first argument."""

    def backprop_(delta: Tensor, units: Tensor) -> None:
        operator(delta, units, *settings, grad_input=delta)

    return backprop_


def _elu_backward(alpha: float, scale: float) -> Callable[[Tensor, Tensor], object]:
    def backprop_(delta: Tensor, activated: Tensor) -> None:
        _aten.elu_backward.grad_input(delta, alpha, scale, 1.0, True, activated, grad_input=delta)

    return backprop_


def _mish_backward_(delta: Tensor, units: Tensor) -> None:
    delta.copy_(_aten.mish_backward(delta, units))  # it has no form that writes to an output


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(
        lambda units: units,
        lambda delta, activated: None,
        nn.Identity,
    ),
    "logistic": Activation(
        _in_place(torch.sigmoid_, torch.sigmoid),
        lambda delta, activated: delta.mul_(activated.addcmul_(activated, activated, value=-1)),
        nn.Sigmoid,
    ),
    "tanh": Activation(
        _in_place(_tanh_, torch.tanh),
        lambda delta, activated: delta.addcmul_(delta, activated.square_(), value=-1),
        nn.Tanh,
    ),
    "relu": Activation(
        _in_place(torch.relu_, torch.relu),
        lambda delta, activated: delta.mul_(activated.sign_()),
        nn.ReLU,
    ),
    "leaky_relu": Activation(
        _in_place(functional.leaky_relu_, functional.leaky_relu),
        _backward(_aten.leaky_relu_backward.grad_input, 0.01, True),
        nn.LeakyReLU,
    ),
    "elu": Activation(
        _in_place(functional.elu_, functional.elu),
        _elu_backward(1.0, 1.0),
        nn.ELU,
    ),
    "selu": Activation(
        _in_place(functional.selu_, functional.selu),
        _elu_backward(1.6732632423543772, 1.0507009873554805),  # Klambauer et al. (2017)
        nn.SELU,
    ),
    "gelu": Activation(functional.gelu, _backward(_aten.gelu_backward.grad_input), nn.GELU, of_input=True),
    "silu": Activation(functional.silu, _backward(_aten.silu_backward.grad_input), nn.SiLU, of_input=True),
    "mish": Activation(functional.mish, _mish_backward_, nn.Mish, of_input=True),
}


class _Function(nn.Module):
    """An elementwise function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, units: Tensor) -> Tensor:
        return self.function(units)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


def activation(like: ActivationLike) -> Activation:
    """The activation of a name, or of a function."""
    if isinstance(like, str):
        return ACTIVATIONS[like]
    return Activation(like, None, (lambda: like) if isinstance(like, nn.Module) else partial(_Function, like))


def check_activations(activations: Iterable[Any]) -> None:
    """Raise if one is neither a name nor an elementwise function.

    Raises
    ------
    ValueError
        If a name is unknown, or a function is not elementwise.
    TypeError
        If one is neither of the two.
    """
    for like in activations:
        if isinstance(like, str):
            if like not in ACTIVATIONS:
                raise ValueError(f"activation={like!r} is unknown. Use one of {sorted(ACTIVATIONS)} or a function.")
        elif not callable(like) or isinstance(like, type):
            raise TypeError(
                f"activation must be a name, an elementwise function of a tensor or a sequence of these, got {like!r}."
            )
        elif isinstance(like, nn.Module) and any(True for _ in like.parameters()):
            raise ValueError(f"{like} has parameters, which would not be trained. Use a function without.")
        else:
            _check_elementwise(like)


def function_key(like: Any) -> Hashable:
    """What is equal for activations, or other functions, that do the same, copies of a partial among them."""
    if isinstance(like, partial):
        return function_key(like.func), repr(like.args), repr(like.keywords)
    return like if isinstance(like, Hashable) else id(like)


def _check_elementwise(function: Callable[[Tensor], Tensor]) -> None:
    units = torch.linspace(-3, 3, 12, requires_grad=True)
    with torch.enable_grad():
        try:
            flat, square = function(units.clone()), function(units.clone().view(3, 4))
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(f"The activation {function} cannot be applied to a tensor of units: {error}") from error
    if isinstance(flat, Tensor) and not flat.requires_grad:
        raise ValueError(f"The activation {function} has no derivative that PyTorch could take.")
    is_elementwise = (
        isinstance(flat, Tensor)
        and flat.dtype == units.dtype
        and flat.shape == units.shape
        and square.shape == (3, 4)
        and torch.allclose(flat, square.flatten(), equal_nan=True)
    )
    if not is_elementwise:
        raise ValueError(f"The activation {function} is not elementwise: it must treat each unit of a tensor alike.")

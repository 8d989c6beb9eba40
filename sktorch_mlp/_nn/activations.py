"""Hidden activations: forward and backward in place, and as a module."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import compat

#: The name of an activation, or any elementwise function of a tensor.
ActivationLike = str | Callable[[Tensor], Tensor]

#: Outputs from which the kernel of a GPU for the first axis takes longer than that for the last and two copies.
_MANY_OUTPUTS = 32


class Activation(NamedTuple):
    """An elementwise activation.

    Attributes
    ----------
    forward_ : callable
        Activates a tensor, in place where it can and autograd is off, and returns it.
    backward_ : callable or None
        ``backward_(delta, units)`` multiplies `delta` in place by the derivative. It may
        overwrite `units`, which saves a buffer. None leaves the derivative to autograd.
    module : callable
        Makes the same activation as a module.
    needs_input : bool, default=False
        Whether `backward_` takes as `units` the input of the activation rather than its output.
    rounds_alike : bool, default=False
        Whether the last bit of an element does not depend on where in memory it stands. Exponentials of PyTorch are others in
        its vectors than beside them.
    """

    forward_: Callable[[Tensor], Tensor]
    backward_: compat.Backward | None
    module: Callable[[], nn.Module]
    needs_input: bool = False
    rounds_alike: bool = False


def _in_place(
    function_: Callable[[Tensor], Tensor], function: Callable[[Tensor], Tensor]
) -> Callable[[Tensor], Tensor]:
    def forward_(units: Tensor) -> Tensor:
        return function(units) if torch.is_grad_enabled() else function_(units)

    return forward_


def _tanh_(units: Tensor) -> Tensor:
    """In place; numpy's on the CPU, which takes a fifth to a tenth of the time of PyTorch's."""
    if units.device.type == "cpu":
        array = units.numpy()
        np.tanh(array, out=array)
        return units
    return units.tanh_()


ACTIVATIONS: dict[str, Activation] = {
    "identity": Activation(
        lambda units: units,
        lambda delta, output: None,
        nn.Identity,
        rounds_alike=True,
    ),
    "logistic": Activation(
        _in_place(torch.sigmoid_, torch.sigmoid),
        lambda delta, output: delta.mul_(output.addcmul_(output, output, value=-1)),
        nn.Sigmoid,
    ),
    "tanh": Activation(
        _in_place(_tanh_, torch.tanh),
        lambda delta, output: delta.addcmul_(delta, output.square_(), value=-1),
        nn.Tanh,
        rounds_alike=True,  # numpy's
    ),
    "relu": Activation(
        _in_place(torch.relu_, torch.relu),
        compat.relu_backward(),
        nn.ReLU,
        rounds_alike=True,
    ),
    "leaky_relu": Activation(
        _in_place(functional.leaky_relu_, functional.leaky_relu),
        compat.leaky_relu_backward(0.01),
        nn.LeakyReLU,
        rounds_alike=True,
    ),
    "elu": Activation(
        _in_place(functional.elu_, functional.elu),
        compat.elu_backward(1.0, 1.0),
        nn.ELU,
    ),
    "selu": Activation(
        _in_place(functional.selu_, functional.selu),
        compat.elu_backward(1.6732632423543772, 1.0507009873554805),  # Klambauer et al. (2017)
        nn.SELU,
    ),
    "gelu": Activation(functional.gelu, compat.gelu_backward(), nn.GELU, needs_input=True),
    "silu": Activation(functional.silu, compat.silu_backward(), nn.SiLU, needs_input=True),
    "mish": Activation(functional.mish, compat.mish_backward(), nn.Mish, needs_input=True),
}


class FunctionModule(nn.Module):
    """An elementwise function as a module.

    Parameters
    ----------
    function : callable
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, units: Tensor) -> Tensor:
        """Apply the function."""
        return self.function(units)

    def extra_repr(self) -> str:
        """Name the function."""
        return getattr(self.function, "__name__", repr(self.function))


def get_activation(activation: ActivationLike) -> Activation:
    """Look up a name, or wrap a function."""
    if isinstance(activation, str):
        return ACTIVATIONS[activation]
    if isinstance(activation, nn.Module):
        module = activation
        return Activation(activation, None, lambda: module)
    return Activation(activation, None, partial(FunctionModule, activation))


def check_activations(activations: Iterable[Any]) -> None:
    """Raise if one is neither a name nor an elementwise function.

    Raises
    ------
    ValueError
        If a name is unknown, or a function is not elementwise.
    TypeError
        If one is neither of the two.
    """
    for activation in activations:
        if isinstance(activation, str):
            if activation not in ACTIVATIONS:
                raise ValueError(
                    f"activation={activation!r} is unknown. Use one of {sorted(ACTIVATIONS)} or a function."
                )
        elif not callable(activation) or isinstance(activation, type):
            raise TypeError(
                "activation must be a name, an elementwise function of a tensor or a sequence of these, got "
                f"{activation!r}."
            )
        elif isinstance(activation, nn.Module) and any(True for _ in activation.parameters()):
            raise ValueError(
                f"The activation {activation} has parameters, which would not be trained. Use a function without."
            )
        else:
            _check_elementwise(activation)


def function_key(function: Any) -> Hashable:
    """Key that is equal for functions that do the same, copies of a partial among them."""
    if isinstance(function, partial):
        return function_key(function.func), repr(function.args), repr(function.keywords)
    return function if isinstance(function, Hashable) else id(function)


def _check_elementwise(function: Callable[[Tensor], Tensor]) -> None:
    # Tensors made in inference mode have no gradient.
    with torch.inference_mode(False), torch.enable_grad():
        units = torch.linspace(-3, 3, 12, requires_grad=True, device="cpu")
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


def softmax_(logits: Tensor) -> Tensor:
    """Turn unit-major logits into probabilities, in place."""
    if logits.is_cpu:
        return torch.softmax(logits, -2, out=logits)
    by_row = logits.mT
    if by_row.is_contiguous():
        torch.softmax(by_row, -1, out=by_row)
    elif logits.shape[-2] < _MANY_OUTPUTS:
        torch.softmax(logits, -2, out=logits)
    else:
        logits.copy_(torch.softmax(by_row, -1).mT)
    return logits

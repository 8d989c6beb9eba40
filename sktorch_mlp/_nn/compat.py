"""Operators of PyTorch that are not documented: the derivatives of activations that autograd itself calls.

They write into the gradient, so that a training step makes no buffer. Where one is gone, the derivative is
written out or taken by autograd, which is slower and gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

#: ``backward_(delta, units)`` multiplies `delta` in place by the derivative.
Backward = Callable[[Tensor, Tensor], object]


def operator(name: str, overload: str = "grad_input") -> Any:
    """The operator of this name in ``torch.ops.aten``; None where PyTorch has none."""
    return getattr(getattr(torch.ops.aten, name, None), overload, None)


def leaky_relu_backward(negative_slope: float) -> Backward:
    """Derivative of leaky ReLU at its output."""
    aten = operator("leaky_relu_backward")
    if aten is None:
        return lambda delta, output: delta.copy_(torch.where(output > 0, delta, delta * negative_slope))
    return lambda delta, output: aten(delta, output, negative_slope, True, grad_input=delta)


def elu_backward(alpha: float, scale: float) -> Backward:
    """Derivative of ELU, and of SELU with its two constants, at the output."""
    aten = operator("elu_backward")
    if aten is None:
        return lambda delta, output: delta.mul_(torch.where(output > 0, scale, output + alpha * scale))
    return lambda delta, output: aten(delta, alpha, scale, 1.0, True, output, grad_input=delta)


def gelu_backward() -> Backward:
    """Derivative of GELU at its input."""
    aten = operator("gelu_backward")
    return _by_autograd(functional.gelu) if aten is None else lambda delta, x: aten(delta, x, grad_input=delta)


def silu_backward() -> Backward:
    """Derivative of SiLU at its input."""
    aten = operator("silu_backward")
    return _by_autograd(functional.silu) if aten is None else lambda delta, x: aten(delta, x, grad_input=delta)


def mish_backward() -> Backward:
    """Derivative of Mish at its input; the operator cannot write into the gradient."""
    aten = operator("mish_backward", "default")
    return _by_autograd(functional.mish) if aten is None else lambda delta, x: delta.copy_(aten(delta, x))


def _by_autograd(function: Callable[[Tensor], Tensor]) -> Backward:
    def backward_(delta: Tensor, x: Tensor) -> None:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            (gradient,) = torch.autograd.grad(function(leaf), leaf, delta)
        delta.copy_(gradient)

    return backward_

"""What PyTorch has but does not document: derivatives of activations, threads of the calling thread, its BLAS and oneDNN, a setter.

The derivatives are those that autograd itself calls. They write into the gradient, so that a training step makes no
buffer. Where one is gone, the derivative is written out or taken by autograd, which is slower and gives the same
numbers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from .concurrent import call_without_signals

#: ``backward_(delta, units)`` multiplies `delta` in place by the derivative.
Backward = Callable[[Tensor, Tensor], object]

#: ``linear(x, weight, bias)`` is that of `torch.nn.functional`.
Linear = Callable[[Tensor, Tensor, "Tensor | None"], Tensor]

#: ``set(n_threads)`` sets threads.
ThreadSetter = Callable[[int], Any]


#: ``set_grad_enabled(is_enabled)`` in one step, which Ctrl-C cannot come into.
set_grad_enabled: Callable[[bool], Any] = getattr(torch._C, "_set_grad_enabled", torch.set_grad_enabled)


@cache
def own_thread_setters() -> tuple[ThreadSetter, ThreadSetter]:
    """Functions that set the threads of OpenMP and of MKL, for the calling thread alone; MKL's returns the one before.

    `torch.set_num_threads` calls both, and also sets what threads begin with that use PyTorch for the first time. Such
    a thread would keep for good what another one has set for a moment. Where the libraries do not show the functions,
    it takes their place.
    """
    return call_without_signals(_find_own_thread_setters)


def _find_own_thread_setters() -> tuple[ThreadSetter, ThreadSetter]:
    set_openmp = _library_function("omp_set_num_threads")
    set_mkl = _library_function("MKL_Set_Num_Threads_Local") if torch.backends.mkl.is_available() else _no_setting
    if set_openmp is None or set_mkl is None or not _sets_pytorchs_threads(set_openmp):
        return torch.set_num_threads, _no_setting
    return set_openmp, set_mkl


def _sets_pytorchs_threads(set_openmp: ThreadSetter) -> bool:
    before = torch.get_num_threads()
    try:
        set_openmp(before + 1)
        return torch.get_num_threads() == before + 1
    finally:
        set_openmp(before)


@cache
def has_own_kernels() -> bool:
    """Whether the products of PyTorch take kernels made for this processor, as far as can be known.

    MKL asks whether Intel has made the processor. If not it takes others, with 80 to 95 % of the speed that OpenBLAS has
    there, and half of it for narrow matrices, and where the processor has AVX-512.
    """
    if not torch.backends.mkl.is_available():
        return True
    is_intel = call_without_signals(partial(_library_function, "mkl_serv_intel_cpu_true"))
    return is_intel is None or bool(is_intel())


@cache
def onednn_linear() -> Linear | None:
    """Products of float32 by oneDNN, which `torch.compile` takes in the code that it makes; None where they would not be quicker.

    oneDNN compiles kernels for whatever processor there is. With AVX-512 they take less than half the time of those that MKL has
    for processors of others.
    """
    has_kernels = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability() == "AVX512"
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if has_own_kernels() or not has_kernels or operator is None:
        return None
    return lambda x, weight, bias: operator(x, weight, bias, "none", [], "")


def _library_function(name: str) -> Any:
    """A function of the library of PyTorch's operators, or of what that contains; None where it cannot be found."""
    with suppress(OSError):
        for path in (Path(torch.__file__).parent / "lib").glob("*torch_cpu.*"):
            return getattr(ctypes.CDLL(str(path)), name, None)
    return None


def _no_setting(n_threads: int) -> int:
    """There is nothing to set."""
    return n_threads


def operator(name: str, overload: str = "grad_input") -> Any:
    """The operator of this name in ``torch.ops.aten``; None where PyTorch has none."""
    return getattr(getattr(torch.ops.aten, name, None), overload, None)


def relu_backward() -> Backward:
    """Derivative of ReLU at its output."""
    aten = operator("threshold_backward")
    if aten is None:
        return lambda delta, output: delta.mul_(output.sign())
    return lambda delta, output: aten(delta, output, 0, grad_input=delta)


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

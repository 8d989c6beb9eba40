"""Products of single matrices and of stacks, by PyTorch or, small ones on a CPU, by numpy's BLAS.

The operands of a training step are the same buffers at every step. So a product is bound to
them once, and what depends on shapes, precision and device is decided then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import Context, copy_context
from functools import partial
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

from .compat import has_own_kernels
from .onednn import multiplies_batch, multiplies_prediction
from .products import Product, compute_shared, share_product
from .tensors import empty_for_others

_P = ParamSpec("_P")
_R = TypeVar("_R")

#: Where numpy gives no warning, and no variable has been set.
_QUIET_CONTEXT = Context()
_QUIET_CONTEXT.run(np.seterr, all="ignore")

#: A product that writes to the same buffer at every call.
BoundProduct = Callable[[], object]

#: Multiply-adds up to which numpy's BLAS has one thread, by itself on any processor: those of a product of matrices,
#: and of one in which a vector takes part.
ONE_BLAS_THREAD, ONE_BLAS_THREAD_FOR_VECTORS = 2**18, 9_000

#: Multiply-adds of two matrices up to which numpy's BLAS is quicker, by up to three times: those of the kernels of
#: OpenBLAS for small matrices. Beyond, the buffers of two libraries would take the cache from each other.
_SMALL = 1_000_000

#: The same where PyTorch's BLAS takes kernels that are not made for the processor, unless a matrix is narrow.
_SMALL_IF_FOREIGN = 3_000_000

#: Rows or columns of a narrow matrix. Up to so many rows or outputs it is also quicker to add a summand in a call of its
#: own, which PyTorch does in the same one.
_NARROW = 16

#: Columns and summands of products of a GPU with 7 to 16 rows from which there are slow ones.
_LEAST_SLOW = 96


def call_quietly(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Call a function in which numpy's products overflow without a warning, as PyTorch's do. What is not finite is reported elsewhere.

    It has a context of its own. Ctrl-C at the beginning of `errstate.__exit__` would leave that of the caller quiet for good.
    """

    def call() -> _R:
        np.seterr(all="ignore")  # of this context
        return function(*args, **kwargs)

    return copy_context().run(call)


def call_own_quietly(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """The same in a fifth of the time, for a function that calls none of the user's, which may read variables of the context."""
    return _QUIET_CONTEXT.copy().run(function, *args, **kwargs)


def bind_mm(a: Tensor, b: Tensor, out: Tensor, *, n_rows: int = 0, bfloat16: bool = False) -> BoundProduct:
    """Return a call that writes ``a @ b`` to `out`, to be called within `call_quietly`.

    Parameters
    ----------
    a : Tensor of shape ([n_networks,] n, n_inner)
    b : Tensor of shape ([n_networks,] n_inner, n_columns)
    out : Tensor of shape ([n_networks,] n, n_columns)
    n_rows : int, default=0
        Rows of the mini-batch that it is about, if any.
    bfloat16 : bool, default=False
        Whether to round operands and result, which are float32.
    """
    if bfloat16:
        return partial(_mm_bfloat16, a, b, out)
    if multiplies_batch(a, b, n_rows):
        return _bind_torch(Product(a, b, out, by_onednn=True))
    if _is_quicker_by_numpy(a, b):
        return _bind_numpy(a, b, out)
    return _bind_torch(Product(a, b, out))


def bind_addmm(summand: Tensor, a: Tensor, b: Tensor, out: Tensor, *, bfloat16: bool = False) -> BoundProduct:
    """Return a call that writes ``a @ b + summand`` to `out`, of which columns are rows of a mini-batch; see `bind_mm`."""
    if bfloat16:
        return partial(_addmm_bfloat16, summand, a, b, out)
    if multiplies_batch(a, b, b.shape[-1]):
        return _bind_torch(Product(a, b, out, summand, by_onednn=True))
    if _adds_by_numpy(a, b):
        multiply = _bind_numpy(a, b, out)
        return lambda: (multiply(), out.add_(summand))
    return _bind_torch(Product(a, b, out, summand))


def bind_vecdot(a: Tensor, b: Tensor, out: Tensor) -> BoundProduct:
    """Return a call that writes ``(a * b).sum(-1)`` to `out`; see `bind_mm`."""
    if out.device.type == "cpu" and a.ndim == 1 and len(a) <= ONE_BLAS_THREAD_FOR_VECTORS:
        return partial(np.dot, a.numpy(), b.numpy(), out.numpy())
    return partial(torch.linalg.vecdot, a, b, out=out)


def bind_row_sums(a: Tensor, out: Tensor) -> BoundProduct:
    """Return a call that writes ``a.sum(-1)`` to `out`, as a product with ones where that is quicker; see `bind_mm`."""
    if out.device.type == "cpu" and a.stride(-1) == 1 and math.prod(a.shape[-2:]) <= _SMALL:
        multiply = np.dot if a.ndim == 2 else np.matmul
        return partial(multiply, a.numpy(), a.new_ones(a.shape[-1]).numpy(), out.numpy())
    return partial(torch.sum, a, -1, out=out)


class Scratch:
    """Memory for rows, and for the results of two products, the last one and the one before, whose turn is next.

    The first use of new memory takes longer than a small layer computes, so this is kept for other products.
    """

    def __init__(self) -> None:
        self._last = self._before = self._rows = torch.empty(0)

    def empty(self, n_units: int, n_rows: int, like: Tensor) -> Tensor:
        """A result with any values. The one made before is not touched, but the one before that is."""
        self._last, self._before = _enlarged(self._before, n_units * n_rows, like), self._last
        return self._last[: n_units * n_rows].view(n_units, n_rows)

    def rows(self, n_rows: int, n_features: int, like: Tensor) -> Tensor:
        """Rows with any values. Those made before are touched."""
        self._rows = _enlarged(self._rows, n_rows * n_features, like)
        return self._rows[: n_rows * n_features].view(n_rows, n_features)


def _enlarged(memory: Tensor, size: int, like: Tensor) -> Tensor:
    if memory.numel() >= size and memory.dtype == like.dtype:
        return memory
    return empty_for_others(like, size)


def addmm(summand: Tensor, a: Tensor, b: Tensor, scratch: Scratch, *, bfloat16: bool = False) -> Tensor:
    """Return ``a @ b + summand`` of a prediction, on a CPU in memory of `scratch`; see `bind_addmm`."""
    if not (a.is_cpu or bfloat16):  # one kernel adds a row, and two a column
        return torch.addmm(summand.squeeze(-1), b.mT, a.mT).mT
    out = scratch.empty(len(a), b.shape[-1], a)
    if bfloat16:
        return _addmm_bfloat16(summand, a, b, out)
    compute_shared(Product(a, b, out, summand, multiplies_prediction(len(a), b, b.shape[1])))
    return out


def _is_quicker_by_numpy(a: Tensor, b: Tensor) -> bool:
    """Whether numpy multiplies two matrices, or each pair of two stacks, in less time than PyTorch."""
    sizes = *a.shape[-2:], b.shape[-1]
    most = _SMALL if min(sizes) <= _NARROW or has_own_kernels() else _SMALL_IF_FOREIGN
    return a.device.type == "cpu" and math.prod(sizes) <= most


def _adds_by_numpy(a: Tensor, b: Tensor) -> bool:
    """The same where a summand is added in a call of its own."""
    is_narrow = min(a.shape[-2], b.shape[-1]) <= _NARROW
    return (is_narrow or (a.ndim == 2 and not has_own_kernels())) and _is_quicker_by_numpy(a, b)


def _bind_torch(product: Product) -> BoundProduct:
    if product.out.device.type == "cpu":
        return share_product(product)
    return product.bind_transposed() if _is_slow_on_gpu(product) else product.bind()


def _is_slow_on_gpu(product: Product) -> bool:
    """Whether a GPU's BLAS may take 25 to 60 µs for a product that takes 10 as the transposed one and a copy, as does that of CUDA 13."""
    n_rows, n_inner = product.a.shape[-2:]
    is_known = product.out.dtype == torch.float32 and product.out.ndim == 2 and product.out.stride(-1) == 1
    return is_known and 6 < n_rows <= _NARROW and min(n_inner, product.b.shape[-1]) >= _LEAST_SLOW


def _bind_numpy(a: Tensor, b: Tensor, out: Tensor) -> BoundProduct:
    if out.stride(-1) != 1:  # column-major: the transposed product
        a, b, out = b.mT, a.mT, out.mT
    arrays = a.numpy(), b.numpy(), out.numpy()
    return partial(np.dot if a.ndim == 2 else np.matmul, *arrays)


def _addmm_bfloat16(summand: Tensor, a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    return torch.add(torch.matmul(a.bfloat16(), b.bfloat16()), summand, out=out)


def _mm_bfloat16(a: Tensor, b: Tensor, out: Tensor) -> Any:
    return out.copy_(torch.matmul(a.bfloat16(), b.bfloat16()))

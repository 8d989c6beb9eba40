"""Matrix products: of one network or a stack, in the precision of the operands or in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Products(NamedTuple):
    """The two products of a training step.

    Attributes
    ----------
    addmm : callable
        ``addmm(summand, a, b, out=None)``
    mm : callable
        ``mm(a, b, out=None)``
    """

    addmm: Callable[..., Tensor]
    mm: Callable[..., Tensor]


def products(*, stacked: bool, bfloat16: bool) -> Products:
    """The products of stacks or of single matrices; with `bfloat16` operands are rounded, and results float32."""
    if bfloat16:
        return Products(_addmm_bfloat16, _mm_bfloat16)
    return Products(torch.baddbmm, torch.bmm) if stacked else Products(torch.addmm, torch.mm)


def _addmm_bfloat16(summand: Tensor, a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    return torch.add(torch.matmul(a.bfloat16(), b.bfloat16()), summand, out=out)


def _mm_bfloat16(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(torch.matmul(a.bfloat16(), b.bfloat16()))

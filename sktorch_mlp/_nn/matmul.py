"""Matrix products of one network or of a stack, in the precision of the operands or in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Matmul(NamedTuple):
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


def matmul(*, stacked: bool, bfloat16: bool) -> Matmul:
    """Choose the products of stacks or of single matrices; `bfloat16` rounds operands, and results are float32."""
    if bfloat16:
        return Matmul(_addmm_bfloat16, _mm_bfloat16)
    return Matmul(torch.baddbmm, torch.bmm) if stacked else Matmul(torch.addmm, torch.mm)


def _addmm_bfloat16(summand: Tensor, a: Tensor, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    return torch.add(torch.matmul(a.bfloat16(), b.bfloat16()), summand, out=out)


def _mm_bfloat16(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    return out.copy_(torch.matmul(a.bfloat16(), b.bfloat16()))

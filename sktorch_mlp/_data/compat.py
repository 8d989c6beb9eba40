"""Private names of PyTorch that this package reads, with the reason for each and its fallback."""

from __future__ import annotations

import torch


def cpu_has_bfloat16() -> bool:
    """Return whether the CPU multiplies matrices of bfloat16, by ``torch.ops.mkldnn._is_mkldnn_bf16_supported``.

    PyTorch has no public name for it. Where this one is gone the answer is no, as emulated products are slower
    than those of float32.
    """
    is_supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return is_supported is not None and bool(is_supported())

"""PyTorch's private name for bfloat16 on a CPU: that it is there, and what happens without it."""

from types import SimpleNamespace

import pytest
import torch

from sktorch_mlp._data import compat


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch was built without oneDNN")
def test_pytorch_says_whether_the_cpu_has_bfloat16():
    is_supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    assert is_supported is not None, (
        f"PyTorch {torch.__version__} has no torch.ops.mkldnn._is_mkldnn_bf16_supported any more: sktorch_mlp refuses "
        "dtype='bfloat16' on every CPU. Find its new name for sktorch_mlp._data.compat."
    )
    assert compat.cpu_has_bfloat16() is is_supported()


def test_without_the_name_a_cpu_has_no_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True))
    assert compat.cpu_has_bfloat16() is True
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace())
    assert compat.cpu_has_bfloat16() is False

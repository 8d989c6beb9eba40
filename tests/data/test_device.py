"""The choice of device and precision."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from sktorch_mlp._data.device import is_available, resolve_device, training_dtype


@pytest.fixture
def auto_is_the_cpu():
    """Here "auto" is what it is for users."""


def test_auto_is_the_best_there_is():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto").type == expected


@pytest.mark.parametrize("name", ["cpu", torch.device("cpu"), "cpu:0"], ids=str)
def test_cpu(name):
    assert resolve_device(name) == torch.device("cpu")


@pytest.mark.parametrize("name", ["nonsense", "cpu:x", ""])
def test_unknown_devices(name):
    with pytest.raises(ValueError, match=r"is not a device that PyTorch knows\. Use 'auto', 'cpu', 'cuda'"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda:99", "meta", torch.device("cuda", 99), "xla"], ids=str)
def test_absent_devices(name):
    with pytest.raises(ValueError, match=r"not available on this machine: PyTorch .* Use device='auto'"):
        resolve_device(name)
    assert not is_available(torch.device(name))


def test_absent_backends(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    for name in ("cuda", "mps"):
        with pytest.raises(ValueError, match=r"sees 0 CUDA device\(s\) and no MPS device"):
            resolve_device(name)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("mps")
    with pytest.raises(ValueError, match=r"sees 0 CUDA device\(s\) and an MPS device"):
        resolve_device("cuda")


def test_cuda_is_the_current_of_several_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)
    for name in ("auto", "cuda"):
        assert resolve_device(name) == torch.device("cuda", 2)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"sees 3 CUDA device\(s\)"):
        resolve_device("cuda:3")


@pytest.mark.parametrize(
    ("dtype", "name", "expected"),
    [
        ("auto", "cpu", None),
        ("auto", "cuda", np.float32),
        ("auto", "mps", np.float32),
        ("float32", "cpu", np.float32),
        ("float64", "cuda", np.float64),
    ],
)
def test_precisions(dtype, name, expected):
    assert training_dtype(dtype, torch.device(name)) == expected


def test_mps_has_no_float64():
    with pytest.raises(ValueError, match=r"dtype='float64' is not supported on Apple's MPS device\. Use"):
        training_dtype("float64", torch.device("mps"))


@pytest.mark.parametrize("name", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("has_bfloat16", [False, True])
@pytest.mark.usefixtures("devices")
def test_bfloat16_is_for_devices_that_have_it(name, has_bfloat16, monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", SimpleNamespace(_is_mkldnn_bf16_supported=lambda: has_bfloat16))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    if has_bfloat16 and name != "mps":
        assert training_dtype("bfloat16", torch.device(name)) == np.float32
    else:
        with pytest.raises(ValueError, match=f"not supported by this '{name}' device. Use dtype='float32'"):
            training_dtype("bfloat16", torch.device(name))

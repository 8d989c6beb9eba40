"""Choice of device and precision."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch

from . import compat


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device of a name; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises
    ------
    ValueError
        If the device is unknown or not there.
    """
    if isinstance(device, str) and device == "auto":
        return best_device()
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise ValueError(
            f"device={device!r} is not a device that PyTorch knows. Use 'auto', 'cpu', 'cuda', 'cuda:1', 'mps' or a torch.device."
        ) from error
    if resolved.type == "cuda" and resolved.index is None and torch.cuda.is_available():
        resolved = torch.device("cuda", torch.cuda.current_device())
    if not is_available(resolved):
        raise ValueError(
            f"device={str(device)!r} is not available on this machine: {_available_devices()}. Use device='auto' or "
            "device='cpu'."
        )
    return torch.device("cpu") if resolved.type == "cpu" else resolved  # "cpu:0" is the same place


def is_available(device: torch.device) -> bool:
    """Return whether tensors can be placed on the device here and now."""
    if device.type == "cuda":
        return torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()
    if device.type == "mps":
        return torch.backends.mps.is_available()
    return device.type == "cpu"


def available_or_cpu(device: torch.device) -> torch.device:
    """Return the device that an estimator was fitted on, or with a warning the CPU where it is not available."""
    if is_available(device):
        return device
    warnings.warn(
        f"The estimator was fitted on {str(device)!r}, which is not available here. It will predict on the CPU.",
        stacklevel=3,
    )
    return torch.device("cpu")


def best_device() -> torch.device:
    """Return the device that "auto" stands for."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def free_memory(device: torch.device) -> float:
    """Bytes that are free on the device; of the CPU, and where PyTorch does not say, as many as one likes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return math.inf


def _available_devices() -> str:
    n_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = "an" if torch.backends.mps.is_available() else "no"
    return f"PyTorch {torch.__version__} sees {n_cuda} CUDA device(s) and {mps} MPS device"


def training_dtype(dtype: str, device: torch.device) -> np.dtype | None:
    """Return the precision to train in; None for that of X, if X is float32 or float64.

    "auto" does on the CPU what scikit-learn does: float32 input trains in float32, all
    other input in float64. On a GPU it is float32, as most GPUs are slow in float64 or
    lack it. With "bfloat16" it is float32, in all but the products of training.

    Raises
    ------
    ValueError
        If float64 or bfloat16 is asked for on a device that lacks it.
    """
    if dtype == "bfloat16":
        _check_bfloat16(device)
        return np.dtype(np.float32)
    if dtype == "auto":
        return None if device.type == "cpu" else np.dtype(np.float32)
    if dtype == "float64" and device.type == "mps":
        raise ValueError("dtype='float64' is not supported on Apple's MPS device. Use dtype='float32' or device='cpu'.")
    return np.dtype(dtype)


def _check_bfloat16(device: torch.device) -> None:
    if device.type == "cuda":
        with torch.cuda.device(device):  # it asks the current one
            is_supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        is_supported = device.type == "cpu" and compat.cpu_has_bfloat16()
    if not is_supported:
        raise ValueError(f"dtype='bfloat16' is not supported by this {device.type!r} device. Use dtype='float32'.")

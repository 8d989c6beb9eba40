"""A device that is the CPU: tensors of a subclass say cuda:0, and what moves values from there to the host is counted."""

import contextlib
from collections import Counter
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from sktorch_mlp._training import steps

DEVICE, HOST = torch.device("cuda", 0), torch.device("cpu")
#: Methods that take values to the host whatever the arguments are.
TAKES_VALUES = {"numpy", "__array__", "__dlpack__", "tolist", "item"}
PROPERTIES = {Tensor.device: DEVICE, Tensor.is_cuda: True, Tensor.is_cpu: False}


class OnDevice(Tensor):
    """A tensor on the simulated device."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


#: Numbers of values that went from the device to the host, by the name of the call.
copied_to_host = Counter()


def _plain(value):
    return value.as_subclass(Tensor) if isinstance(value, OnDevice) else value


def _placed(value):
    is_plain = isinstance(value, Tensor) and not isinstance(value, OnDevice)
    return value.as_subclass(OnDevice) if is_plain else value


def _target(func_name, args, kwargs):
    """The device to which a call moves its tensor."""
    if func_name in ("cpu", "cuda"):
        return HOST if func_name == "cpu" else DEVICE
    named = [a for a in (*args[1:], kwargs.get("device")) if isinstance(a, str | torch.device)]
    return torch.device(named[0]) if named else DEVICE if isinstance(args[0], OnDevice) else HOST


def _call(func, args, kwargs):
    name = getattr(func, "__name__", "")
    with torch._C.DisableTorchFunctionSubclass():
        if name == "__get__" and getattr(func, "__self__", None) in PROPERTIES:
            return PROPERTIES[func.__self__]
        if name in ("__get__", "__set__", "requires_grad_", "backward"):  # of this very tensor
            return _placed(func(*args, **kwargs))
        is_on_device = any(isinstance(leaf, OnDevice) for leaf in tree_leaves((args, kwargs)))
        if is_on_device and name in TAKES_VALUES:
            copied_to_host[name] += args[0].numel()
        if name in ("to", "cpu", "cuda"):
            source, target = args[0], _target(name, args, kwargs)
            if isinstance(source, OnDevice) and target.type == "cpu":
                copied_to_host[name] += source.numel()
            args = [HOST if isinstance(a, str | torch.device) else _plain(a) for a in args]
            result = (
                args[0] if name != "to" else func(*args, **kwargs | ({"device": HOST} if "device" in kwargs else {}))
            )
            return _placed(result) if target.type == "cuda" else result
        if name == "copy_" and isinstance(args[1], OnDevice) and not isinstance(args[0], OnDevice):
            copied_to_host[name] += args[1].numel()
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs, is_on_device = kwargs | {"device": HOST}, True
        result = func(*tree_map(_plain, args), **tree_map(_plain, kwargs))
        if (name.endswith("_") and not name.endswith("__")) or kwargs.get("out") is not None:
            return kwargs.get("out", args[0])  # in place
        return tree_map(_placed, result) if is_on_device and name not in TAKES_VALUES else result


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        devices = [a for a in (*args[1:], kwargs.get("device")) if isinstance(a, str | torch.device)]
        names_device = any("cuda" in str(device) for device in devices)
        if names_device or any(isinstance(leaf, OnDevice) for leaf in tree_leaves((args, kwargs))):
            return _call(func, args, kwargs)
        return func(*args, **kwargs)


@contextlib.contextmanager
def simulated_device():
    """Have a device "cuda:0". Steps are not recorded as graphs, which would need a real one."""
    available = {"is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0}
    copied_to_host.clear()
    with (
        mock.patch.multiple(torch.cuda, **available),
        mock.patch.object(steps, "CapturedFunction", lambda function, device: function),
        _Mode(),
    ):
        yield


def on_device(array):
    """A tensor there."""
    return torch.from_numpy(array).as_subclass(OnDevice)

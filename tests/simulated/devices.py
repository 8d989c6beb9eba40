"""Devices that are the CPU: two of CUDA and Apple's MPS, to test without a GPU what is placed, copied and recorded.

A tensor of a device is a subclass over memory of the host. What the API of PyTorch says of devices is simulated in
`__torch_function__` (where a tensor is, what moves it there), and what kernels do in `__torch_dispatch__`, through which
every kernel passes that is called with such a tensor, by PyTorch's own functions too. What a real device refuses is
refused with its error; what makes the host wait for the device is counted, and so is each copy between the two.

A graph records kernels with the memory that they were called with, as CUDA's does, and a replay runs no Python but these.
The numbers are those of the CPU. Of time and of memory that has been given back nothing is simulated.

Some of what a device would take is refused, as nothing here needs it: tensors of the host without axes in calculations, and
copies from pinned memory and new tensors that are not empty while a graph is recorded.

PyTorch may be built for CUDA or not. Where it is, its optimizers ask whether a graph is recorded.
"""

import contextlib
import threading
from functools import cache
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .graphs import Generator, Graph, check_generator, current_device, record, written
from .state import (
    HOST,
    N_CUDA_DEVICES,
    convert,
    is_pinned,
    is_tensor,
    leaves,
    pin,
    refuse_float64_of_mps,
    resolve,
    thread,
    traffic,
)
from .streams import (
    Event,
    Stream,
    current_stream,
    forget,
    host_has_waited_for,
    is_watching,
    note_use,
    stream_context,
)

#: Kernels whose result the host reads, or whose size depends on values, for which it waits.
WAITS = {"nonzero", "masked_select", "equal", "allclose", "bincount", "_unique2", "unique_dim", "unique_consecutive"}
#: Kernels that take indices as a list, in which there may be masks and tensors of the host.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
#: Calls that make a tensor from the values of another one or of numbers.
TAKES_VALUES = {torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor}


# Devices and tensors ---------------------------------------------------------------------


class DeviceTensor(Tensor):
    """A tensor on a device.

    Attributes
    ----------
    memory : Tensor
        The same memory as a tensor of the host.
    placement : torch.device
    """

    @staticmethod
    def __new__(cls, memory, placement):
        if placement.type == "mps":
            refuse_float64_of_mps(memory.dtype)
        made = Tensor._make_subclass(cls, memory)
        made.memory, made.placement = memory, placement
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _launch(func, args, kwargs or {})

    def record_stream(self, stream):
        """Nothing: memory that has been given back is not simulated."""


def on_device(array, device="cuda"):
    """A tensor there, of which no copy is counted."""
    return DeviceTensor(torch.from_numpy(array).clone(), resolve(device))


def _placement(value):
    return value.placement if isinstance(value, DeviceTensor) else HOST


def _memory(value):
    return value.memory if isinstance(value, DeviceTensor) else value


# Calls of the API ------------------------------------------------------------------------


class _Mode(TorchFunctionMode):
    """Sees the calls that have no tensor of a device as yet: what makes one, or moves one there."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return _call(func, args, kwargs or {})


def _call(func, args, kwargs):
    source = args[0] if args else None
    if func in MOVES:
        return _move(func, source, *args[1:], **kwargs)
    if func in OF_HOST_TENSORS and is_tensor(source) and _placement(source) == HOST:
        return OF_HOST_TENSORS[func](source)
    if func is torch._has_compatible_shallow_copy_type:  # so modules that are moved get new parameters
        return _placement(source) == _placement(args[1])
    if func in OF_DEVICE_TENSORS and isinstance(source, DeviceTensor):
        with torch._C.DisableTorchFunctionSubclass():
            return OF_DEVICE_TENSORS[func](*args, **kwargs)
    if func is Tensor.new_tensor:
        kwargs = {"device": source.device} | kwargs
    if kwargs.get("device") is not None and resolve(kwargs["device"]).type in ("cpu", "cuda", "mps"):
        return _make(func, args, kwargs)
    check_generator(kwargs.get("generator"), _placement(source))
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _make(func, args, kwargs):
    """A tensor on the device that a call names."""
    device = resolve(kwargs["device"])
    if thread.graph is not None and func not in (torch.empty, torch.empty_like, Tensor.new_empty):
        raise NotImplementedError(f"{func.__name__} of a device is not simulated while a graph is recorded")
    check_generator(kwargs.get("generator"), device)
    placed = [leaf for leaf in leaves(args, kwargs) if isinstance(leaf, DeviceTensor)]
    made = func(*convert(_memory, args), **convert(_memory, kwargs) | {"device": HOST})
    if func in TAKES_VALUES:
        source = args[-1] if func is Tensor.new_tensor else args[0]
        if _placement(source) != device:
            traffic.note(_placement(source), device, func.__name__, made.numel(), made.dtype)
            host_has_waited_for(_placement(source) if device == HOST else device)
            made = made.clone()
    elif placed and func not in (torch.sparse_csr_tensor, Tensor.new_empty, Tensor.new_zeros, Tensor.new_ones):
        assert getattr(func, "__name__", "").endswith("_like"), f"{func} is not simulated"
    return made if device == HOST else DeviceTensor(made, device)


def _move(func, source, *args, **kwargs):
    """`Tensor.to`, `cpu` and `cuda`. Gradients do not pass."""
    copies = kwargs.pop("copy", False)
    if func is not Tensor.to:
        args = (HOST,) if func is Tensor.cpu else args or ("cuda",)
    if args and is_tensor(args[0]):
        device, dtype = _placement(args[0]), args[0].dtype
    else:
        device, dtype, _, _ = torch._C._nn._parse_to(*args, **kwargs)
        device = _placement(source) if device is None else resolve(device)
    if device == _placement(source):
        with torch._C.DisableTorchFunctionSubclass():
            return source.to(dtype or source.dtype, copy=copies)
    dtype = dtype or source.dtype
    traffic.note(_placement(source), device, func.__name__, source.numel(), dtype)
    host_has_waited_for(_placement(source) if device == HOST else device)
    memory = _memory(source.detach()).to(dtype, copy=True)
    return memory if device == HOST else DeviceTensor(memory, device)


def _tolist(source):
    traffic.note(source.placement, HOST, "tolist", source.numel(), source.dtype)
    host_has_waited_for(source.placement)
    return source.memory.tolist()


def _refuse_numpy(source, *args, **kwargs):
    raise TypeError(
        f"can't convert {source.placement} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host "
        "memory first."
    )


def _refuse_dlpack(source, *args, **kwargs):
    raise BufferError(f"A tensor of {source.placement} is not memory of the host.")


def _refuse_pickle(source, *args):
    raise AssertionError(f"a tensor of {source.placement} in a pickle, which does not open without the device")


def _set_data(source, data):
    Tensor.data.__set__(source, data)
    source.memory = data.memory


def _deepcopy(source, memo):
    return DeviceTensor(source.memory.clone(), source.placement).requires_grad_(source.requires_grad)


MOVES = {Tensor.to, Tensor.cpu, Tensor.cuda}
OF_HOST_TENSORS = {
    Tensor.pin_memory: lambda source: pin(source.clone()),
    Tensor.is_pinned: is_pinned,
}
OF_DEVICE_TENSORS = {
    Tensor.device.__get__: lambda source: source.placement,
    Tensor.is_cuda.__get__: lambda source: source.placement.type == "cuda",
    Tensor.is_mps.__get__: lambda source: source.placement.type == "mps",
    Tensor.is_cpu.__get__: lambda source: False,
    Tensor.get_device: lambda source: source.placement.index,
    Tensor.tolist: _tolist,
    Tensor.numpy: _refuse_numpy,
    Tensor.__array__: _refuse_numpy,
    Tensor.__dlpack__: _refuse_dlpack,
    Tensor.__reduce_ex__: _refuse_pickle,
    Tensor.__deepcopy__: _deepcopy,
    Tensor.data.__set__: _set_data,
    Tensor.__repr__: lambda source, **_: f"{source.memory!r} on {source.placement}",
}


# Kernels ---------------------------------------------------------------------------------


@cache
def _describe(kernel):
    """Name of a kernel, and whether it is none but makes a view."""
    schema = kernel._schema
    aliases = [value.alias_info for value in schema.returns if value.alias_info is not None]
    return schema.name.removeprefix("aten::"), any(not alias.is_write for alias in aliases)


def _launch(kernel, args, kwargs):
    """Run a kernel on the memory of its tensors, or record it."""
    name, is_view = _describe(kernel)
    tensors = list(filter(is_tensor, leaves(args, kwargs)))
    if name == "copy_" and len(set(map(_placement, tensors))) > 1:
        return _copy(*args, **kwargs)
    if name in INDEXING:
        tensors = _check_indices(name, tensors, args)
    elif name == "fill_":  # the value has no axes, and may be a number
        tensors = tensors[:1]
    devices = dict.fromkeys(map(_placement, tensors))
    if len(devices) > 1:
        found = " and ".join(f"{device}" for device in devices)
        raise RuntimeError(
            f"{name}: Expected all tensors to be on the same device, but found at least two devices, {found}!"
        )
    (device,) = devices
    if name == "_local_scalar_dense":
        traffic.note(device, HOST, "item", 1, tensors[0].dtype)
        host_has_waited_for(device)
    elif name in WAITS:
        traffic.wait(name)
        host_has_waited_for(device)
    memories, named = convert(_memory, args), convert(_memory, kwargs)
    with torch._C.DisableTorchFunction():
        if is_view or thread.graph is None:
            results = kernel(*memories, **named)
        else:
            results = thread.graph.record(kernel, memories, named, device)
        if not is_view and thread.graph is None and is_watching(device):
            note_use(device, name, (memories, named), (written(kernel, memories, named), results))
    traffic.kernels[str(device)] += not is_view
    owners = {id(tensor.memory): tensor for tensor in tensors if isinstance(tensor, DeviceTensor)}

    def place(result):
        if not is_tensor(result):
            return result
        if id(result) in owners:  # in place
            owner = owners[id(result)]
            assert owner.shape == result.shape, f"{name} changes the shape of a tensor, which is not simulated"
            return owner
        return DeviceTensor(result, device)

    return convert(place, results)


def _copy(target, source, non_blocking=False):
    """`copy_` between two devices, or one and the host."""
    is_async = non_blocking and any(is_pinned(tensor) for tensor in (target, source) if _placement(tensor) == HOST)
    traffic.note(_placement(source), _placement(target), "copy_", source.numel(), target.dtype, waits=not is_async)
    device = _placement(source) if _placement(target) == HOST else _placement(target)
    if is_watching(device):
        note_use(device, "copy_", _memory(source), _memory(target))
    if is_async and thread.stream is not None:
        thread.stream.defer_copy(_memory(target), _memory(source))
        return target
    if not is_async:
        host_has_waited_for(device)
    _memory(target).copy_(_memory(source))
    return target


def _check_indices(name, tensors, args):
    """Count what indices cost; return the tensors that must be on one device."""
    target, indices = args[0], [index for index in args[1] if index is not None]
    of_host = [index for index in indices if _placement(index) == HOST]
    for index in of_host:
        traffic.note(HOST, _placement(target), "index", index.numel(), index.dtype)
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    is_filled = name != "index" and len(indices) == 1 and args[2].numel() == 1  # `masked_fill_` takes its place
    if masks and not is_filled:
        traffic.wait("mask as index")
    if not isinstance(target, DeviceTensor):
        return tensors
    numbers = [value for value in args[2:3] if value.ndim == 0]
    may_be_of_host = set(map(id, of_host + numbers))
    return [tensor for tensor in tensors if id(tensor) not in may_be_of_host]


# The simulation --------------------------------------------------------------------------

_CUDA = {
    "is_available": lambda: True,
    "device_count": lambda: N_CUDA_DEVICES,
    "current_device": lambda: thread.current,
    "is_bf16_supported": lambda including_emulation=True: True,
    "mem_get_info": lambda device=None: (2**33, 2**34),
    "synchronize": lambda device=None: traffic.wait("synchronize"),
    "device": current_device,
    "graph": record,
    "Stream": Stream,
    "Event": Event,
    "stream": stream_context,
    "current_stream": current_stream,
    "is_current_stream_capturing": lambda: current_stream().is_capturing(),
    "CUDAGraph": Graph,
}


def _run_with_devices(run):
    """Let a thread have the devices, as modes of PyTorch are for one thread."""

    def run_thread(self):
        with _Mode():
            run(self)

    return run_thread


@contextlib.contextmanager
def simulated_devices():
    """Have the devices "cuda:0", "cuda:1" and "mps" in this thread and those that start now; gives the traffic."""
    traffic.clear()
    forget()
    with (
        mock.patch.multiple(torch.cuda, **_CUDA),
        mock.patch.object(torch.accelerator, "current_stream", current_stream),
        mock.patch.object(torch.backends.mps, "is_available", cache(lambda: True)),  # PyTorch asks for `__wrapped__`
        mock.patch.object(torch, "Generator", Generator),
        mock.patch.object(threading.Thread, "run", _run_with_devices(threading.Thread.run)),
        _Mode(),
    ):
        yield traffic

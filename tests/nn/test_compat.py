"""What PyTorch does not document: that it is there, does what the package needs, and can be done without."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional

from sktorch_mlp._nn import compat
from tests.interrupts import alarms_that_raise, needs_signals

#: The operators: overload, derivative made from it, the activation, whether the derivative is taken at the output.
OPERATORS = {
    "threshold_backward": ("grad_input", compat.relu_backward, functional.relu, True),
    "leaky_relu_backward": ("grad_input", lambda: compat.leaky_relu_backward(0.01), functional.leaky_relu, True),
    "elu_backward": ("grad_input", lambda: compat.elu_backward(1.0, 1.0), functional.elu, True),
    "gelu_backward": ("grad_input", compat.gelu_backward, functional.gelu, False),
    "silu_backward": ("grad_input", compat.silu_backward, functional.silu, False),
    "mish_backward": ("default", compat.mish_backward, functional.mish, False),
}


@pytest.fixture
def without_operators(monkeypatch):
    """PyTorch as it would be without undocumented operators."""
    monkeypatch.setattr(torch.ops, "aten", SimpleNamespace())
    assert compat.operator("gelu_backward") is None


@pytest.mark.parametrize("name", OPERATORS)
def test_pytorch_has_the_operator(name):
    overload = OPERATORS[name][0]
    assert compat.operator(name, overload) is not None, (
        f"PyTorch {torch.__version__} has no torch.ops.aten.{name}.{overload} any more: sktorch_mlp._nn.compat takes its "
        "slower fallback. Find the operator's new name, or make the fallback the rule."
    )


def _assert_is_the_derivative(backward_, activation, *, at_output):
    units = torch.cat([torch.linspace(-4, 4, 40), torch.tensor([-30.0, 30.0])]).double().requires_grad_()
    delta = torch.linspace(1, 2, len(units), dtype=torch.float64)
    output = activation(units)
    (expected,) = torch.autograd.grad(output, units, delta)
    with torch.no_grad():
        backward_(delta, (output if at_output else units).detach())
    torch.testing.assert_close(delta, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OPERATORS)
def test_the_operator_writes_the_derivative_into_the_gradient(name):
    _, make, activation, at_output = OPERATORS[name]
    _assert_is_the_derivative(make(), activation, at_output=at_output)


@pytest.mark.usefixtures("without_operators")
@pytest.mark.parametrize("name", OPERATORS)
def test_without_the_operator_the_numbers_are_the_same(name):
    _, make, activation, at_output = OPERATORS[name]
    _assert_is_the_derivative(make(), activation, at_output=at_output)


@pytest.mark.usefixtures("without_operators")
def test_without_the_operator_selu_keeps_its_constants():
    backward_ = compat.elu_backward(1.6732632423543772, 1.0507009873554805)
    _assert_is_the_derivative(backward_, functional.selu, at_output=True)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the system does not say who made the processor")
@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="the products of this PyTorch are not MKL's")
def test_mkl_has_kernels_for_processors_of_intel():
    is_intels = "GenuineIntel" in Path("/proc/cpuinfo").read_text()
    assert compat.has_own_kernels.__wrapped__() == is_intels


def _no_library(path):
    raise OSError("there is none")


@pytest.fixture(params=[lambda path: object(), _no_library], ids=["without the function", "not found"])
def little_library(request, monkeypatch):
    """A library of PyTorch in which there is nothing, or none."""
    monkeypatch.setattr(compat.ctypes, "CDLL", request.param)


@pytest.mark.usefixtures("little_library")
def test_kernels_are_taken_to_be_made_for_a_processor_of_which_nothing_is_known():
    assert compat.has_own_kernels.__wrapped__() is True


@pytest.mark.usefixtures("little_library")
def test_threads_are_set_by_pytorch_where_its_library_does_not_show_how():
    assert compat.own_thread_setters.__wrapped__()[0] is torch.set_num_threads


@needs_signals
def test_what_a_handler_raises_is_not_taken_for_a_library_that_is_not_found(monkeypatch):
    n_threads = torch.get_num_threads()
    with alarms_that_raise(OSError("of the handler")) as send_alarm:

        def alarmed(path):
            send_alarm()
            raise OSError("there is none")

        monkeypatch.setattr(compat.ctypes, "CDLL", alarmed)
        for function in (compat.own_thread_setters, compat.has_own_kernels):
            with pytest.raises(OSError, match="of the handler"):
                function.__wrapped__()
    assert torch.get_num_threads() == n_threads


def test_what_is_tried_with_threads_is_undone_and_is_of_another_thread():
    n_threads = torch.get_num_threads()
    assert compat.own_thread_setters.__wrapped__()[0] is not torch.set_num_threads
    assert torch.get_num_threads() == n_threads

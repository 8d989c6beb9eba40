"""Activations against PyTorch's modules, and what is refused as one."""

from functools import partial

import pytest
import torch
from torch import nn

from sktorch_mlp._nn.activations import (
    ACTIVATIONS,
    FunctionModule,
    check_activations,
    function_key,
    get_activation,
)
from tests.nn.helpers import MODULES


def _units():
    """Values around the kink at 0, and far from it."""
    return torch.cat([torch.linspace(-4, 4, 41, dtype=torch.float64), torch.tensor([-30.0, 30.0])]).view(1, -1)


def test_each_activation_has_a_module_of_pytorch():
    assert MODULES.keys() == ACTIVATIONS.keys()
    assert all(type(activation.module()) is MODULES[name] for name, activation in ACTIVATIONS.items())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives_are_those_of_the_module(name):
    activation, units = ACTIVATIONS[name], _units().requires_grad_()
    expected = MODULES[name]()(units)
    delta = torch.linspace(1, 2, units.numel(), dtype=torch.float64).view_as(units)
    (expected_delta,) = torch.autograd.grad(expected, units, delta)
    with torch.no_grad():
        given = units.detach().clone()
        output = activation.forward_(given.clone())
        torch.testing.assert_close(output, expected, rtol=1e-14, atol=1e-14)
        activation.backward_(delta, given if activation.needs_input else output)
    torch.testing.assert_close(delta, expected_delta, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_with_autograd_on_nothing_happens_in_place(name):
    units = _units().requires_grad_()
    given = units * 1
    output = ACTIVATIONS[name].forward_(given)
    torch.testing.assert_close(given, units, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(output.sum(), units)
    (expected,) = torch.autograd.grad(MODULES[name]()(units).sum(), units)
    torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


def test_functions_and_modules_are_activations():
    module = nn.Softsign()
    assert get_activation(module).module() is module
    wrapped = get_activation(torch.sin)
    assert wrapped.backward_ is None
    assert repr(wrapped.module()) == "FunctionModule(sin)"
    assert isinstance(wrapped.module(), FunctionModule)
    torch.testing.assert_close(wrapped.module()(torch.ones(2)), torch.ones(2).sin())


def _in_place(units):
    return units.mul_(2).tanh_()


@pytest.mark.parametrize(
    "activation",
    [
        "relu",
        nn.functional.softplus,
        nn.Softsign(),
        partial(nn.functional.leaky_relu, negative_slope=0.2),
        _in_place,
        torch.sign,  # its derivative is 0 everywhere, but there is one
    ],
    ids=["name", "function", "module", "partial", "in place", "sign"],
)
def test_elementwise_functions_are_accepted(activation):
    check_activations([activation])


@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        ("relux", ValueError, r"activation='relux' is unknown\. Use one of \['elu', .*or a function"),
        (3, TypeError, "activation must be a name, an elementwise function .* got 3"),
        (nn.ReLU, TypeError, "must be a name, an elementwise function .* got <class"),
        (nn.PReLU(), ValueError, r"PReLU\(num_parameters=1\) has parameters, which would not be trained"),
        (partial(torch.softmax, dim=5), ValueError, "cannot be applied to a tensor of units: .*out of range"),
        (partial(torch.softmax, dim=-1), ValueError, "is not elementwise"),
        (lambda units: torch.zeros(units.shape), ValueError, "has no derivative that PyTorch could take"),
        (lambda units: units.double(), ValueError, "is not elementwise"),
        (lambda units: None, ValueError, "is not elementwise"),
    ],
    ids=["name", "number", "class", "parameters", "fails", "softmax", "constant", "dtype", "nothing"],
)
def test_other_activations_are_refused(activation, error, message):
    with pytest.raises(error, match=message):
        check_activations(["tanh", activation])


def test_equal_keys_are_for_functions_that_do_the_same():
    def leaky(slope):
        return partial(nn.functional.leaky_relu, negative_slope=slope)

    assert function_key(leaky(0.1)) == function_key(leaky(0.1))
    assert function_key(leaky(0.1)) != function_key(leaky(0.2))
    assert function_key(torch.sin) == torch.sin
    assert function_key(torch.sin) != function_key(torch.cos)

    class Unhashable:
        __hash__ = None

    one, other = Unhashable(), Unhashable()
    assert function_key(one) == function_key(one) != function_key(other)

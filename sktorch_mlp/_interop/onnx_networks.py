"""A network as nodes of ONNX. Operators are those that runtimes have in float64, too."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from sktorch_mlp._nn.activations import ActivationLike
from sktorch_mlp._nn.modules import EPSILON

from .description import Network
from .onnx_graph import Graph


def write_logits(graph: Graph, network: Network, units: str) -> str:
    """Write a network; return the name of its logits (n_rows, n_outputs).

    Parameters
    ----------
    graph : Graph
    network : Network
    units : str
        Name of its input (n_rows, n_features).

    Raises
    ------
    ValueError
        If an activation is a function.
    """
    check_activations(network.activations)
    for layer, (coef, intercept) in enumerate(zip(network.coefs, network.intercepts, strict=True)):
        units = graph("Add", graph("MatMul", units, graph.constant(coef)), graph.constant(intercept))
        if layer < len(network.activations):
            if network.norms:
                units = _normalize(graph, units, network.norms[layer])
            units = write_activation(graph, network.activations[layer], units)
    return units


def check_activations(activations: tuple[ActivationLike, ...]) -> None:
    """Raise if an activation has no ONNX form.

    Raises
    ------
    ValueError
    """
    for activation in activations:
        if not isinstance(activation, str):
            name = getattr(activation, "__name__", repr(activation))
            raise ValueError(
                f"activation={name} is a function, which has no ONNX form. Use one of {sorted(ACTIVATIONS)}."
            )


def write_activation(graph: Graph, activation: ActivationLike, units: str) -> str:
    """Write an activation that `check_activations` has passed."""
    assert isinstance(activation, str)
    return ACTIVATIONS[activation](graph, units)


def write_outputs(graph: Graph, activation: str, logits: str) -> str:
    """Write an output activation, over the last axis."""
    if activation == "identity":
        return logits
    if activation == "softmax":
        return graph("Softmax", logits, axis=-1)
    return graph({"logistic": "Sigmoid", "exp": "Exp"}[activation], logits)


def _normalize(graph: Graph, units: str, norm: dict[str, np.ndarray]) -> str:
    if "running_mean" in norm:
        scale = norm["weight"] / np.sqrt(norm["running_var"] + EPSILON)
        centered = graph("Sub", units, graph.constant(norm["running_mean"]))
        return graph("Add", graph("Mul", centered, graph.constant(scale)), graph.constant(norm["bias"]))
    n_units = len(norm["weight"])
    average = graph.constant(np.full((n_units, 1), 1 / n_units))  # a mean as a product is the same in all versions
    centered = graph("Sub", units, graph("MatMul", units, average))
    variance = graph("MatMul", graph("Mul", centered, centered), average)
    normalized = graph("Div", centered, graph("Sqrt", graph("Add", variance, graph.constant(EPSILON))))
    return graph("Add", graph("Mul", normalized, graph.constant(norm["weight"])), graph.constant(norm["bias"]))


# Activations ---------------------------------------------------------------------------


def _leaky_relu(graph: Graph, units: str) -> str:
    return graph("Max", units, graph("Mul", units, graph.constant(0.01)))


def _elu(graph: Graph, units: str) -> str:
    zero = graph.constant(0)
    below = graph("Sub", graph("Exp", graph("Min", units, zero)), graph.constant(1))
    return graph("Add", graph("Max", units, zero), below)


def _selu(graph: Graph, units: str) -> str:
    alpha, scale = 1.6732632423543772, 1.0507009873554805  # Klambauer et al. (2017)
    zero = graph.constant(0)
    below = graph("Sub", graph("Exp", graph("Min", units, zero)), graph.constant(1))
    above = graph("Mul", graph("Max", units, zero), graph.constant(scale))
    return graph("Add", above, graph("Mul", below, graph.constant(scale * alpha)))


def _gelu(graph: Graph, units: str) -> str:
    scaled = graph("Mul", units, graph.constant(1 / math.sqrt(2)))
    erf = graph.cast(graph("Erf", graph.cast(scaled, np.float32)))  # onnxruntime has no Erf of float64
    return graph("Mul", graph("Mul", units, graph.constant(0.5)), graph("Add", erf, graph.constant(1)))


def _silu(graph: Graph, units: str) -> str:
    # Without a Sigmoid: onnxruntime up to 1.30 fuses one into an operator that it does not have in float64.
    return graph("Div", units, graph("Add", graph("Exp", graph("Neg", units)), graph.constant(1)))


def _mish(graph: Graph, units: str) -> str:
    decay = graph("Exp", graph("Neg", graph("Abs", units)))
    log = graph("Log", graph("Add", decay, graph.constant(1)))
    softplus = graph("Add", graph("Max", units, graph.constant(0)), log)
    return graph("Mul", units, graph("Tanh", softplus))


def _operator(op_type: str) -> Callable[[Graph, str], str]:
    return lambda graph, units: graph(op_type, units)


ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
    "identity": lambda graph, units: units,
    "logistic": _operator("Sigmoid"),
    "tanh": _operator("Tanh"),
    "relu": _operator("Relu"),
    "leaky_relu": _leaky_relu,
    "elu": _elu,
    "selu": _selu,
    "gelu": _gelu,
    "silu": _silu,
    "mish": _mish,
}

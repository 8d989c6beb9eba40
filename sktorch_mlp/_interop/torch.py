"""Plain modules of PyTorch: a network as a Sequential of its own, and what network a Sequential is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sktorch_mlp._nn.activations import ACTIVATIONS, ActivationLike, FunctionModule, check_activations
from sktorch_mlp._nn.modules import EPSILON, MOMENTUM, NORM_NAMES, sequential

from .compat import has_forward_hooks
from .description import Network, Outputs

#: Modules that apply an output activation, by the name of it.
_OUTPUT_MODULES: dict[str, Any] = {
    "logistic": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "exp": lambda: FunctionModule(torch.exp),
}

#: Output activations by what is read of the last module, where that is no softmax.
_OUT_ACTIVATIONS: dict[Any, str] = {
    None: "identity",
    "identity": "identity",
    "logistic": "logistic",
    torch.exp: "exp",
}

_SUPPORTED = (
    "A Sequential of Linear layers is supported, between two of which there may be, in this order, BatchNorm1d or LayerNorm, "
    "an elementwise activation without parameters, and Dropout. It may end with Softmax, LogSoftmax or Sigmoid."
)


# To PyTorch ----------------------------------------------------------------------------


def to_sequential(network: Network, device: torch.device, *, activate: bool = False) -> nn.Sequential:
    """Copy a network into modules, in evaluation mode.

    Parameters
    ----------
    network : Network
    device : torch.device
    activate : bool, default=False
        Whether to append the output activation. One output for two classes becomes two, whose softmax are the
        probabilities of both.
    """
    if activate and network.outputs.is_binary:
        network = _with_two_outputs(network)
    with torch.inference_mode(False):  # the modules outlive it
        modules = sequential(
            [_copied(coef, device).T.contiguous() for coef in network.coefs],
            [_copied(intercept, device) for intercept in network.intercepts],
            copy.deepcopy(network.activations),
            [[_copied(norm[name], device) for name in NORM_NAMES if name in norm] for norm in network.norms],
            network.dropout,
        )
        if activate and network.outputs.activation in _OUTPUT_MODULES:
            modules.append(_OUTPUT_MODULES[network.outputs.activation]())
    return modules.eval()


def _copied(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.tensor(array, device=device)


def _with_two_outputs(network: Network) -> Network:
    """Give the first class an output that is always 0: softmax(0, z) is 1 - sigmoid(z) and sigmoid(z)."""
    coef, intercept = network.coefs[-1], network.intercepts[-1]
    return replace(
        network,
        coefs=[*network.coefs[:-1], np.hstack([np.zeros_like(coef), coef])],
        intercepts=[*network.intercepts[:-1], np.hstack([np.zeros_like(intercept), intercept])],
        outputs=replace(network.outputs, activation="softmax"),
    )


# From PyTorch --------------------------------------------------------------------------


@dataclass
class _Layer:
    """A Linear and what follows it."""

    linear: nn.Linear
    norm: nn.Module | None = None
    activation: ActivationLike | None = None
    dropout: float | None = None
    is_softmax: bool = False

    @property
    def out_activation(self) -> str | None:
        """The output activation if this is the last layer; None if what follows the Linear is none."""
        if self.norm is not None or self.dropout is not None:
            return None
        if self.is_softmax:
            return "softmax" if self.activation is None else None
        return _OUT_ACTIVATIONS.get(self.activation)


def read_sequential(module: Any) -> Network:
    """Read modules as a network, whose output activation is that of the last module, "identity" if it has none.

    Raises
    ------
    TypeError
        If it is no module.
    ValueError
        If a module is not supported where it stands.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"from_torch takes a torch.nn.Sequential, but got {type(module).__name__}. {_SUPPORTED}")
    if not _is_sequential(module):
        raise ValueError(
            f"from_torch takes a torch.nn.Sequential, but got {type(module).__name__}, whose forward may do anything. "
            f"{_SUPPORTED}"
        )
    _check_hooks(module)
    layers: list[_Layer] = []
    for name, part in _flatten(module):
        problem = _add(layers, part)
        if problem:
            raise ValueError(f"Module {name}, {_in_one_line(part)}, {problem}. {_SUPPORTED}")
    if not layers:
        raise ValueError(f"The module has no Linear. {_SUPPORTED}")
    *hidden, last = layers
    if last.out_activation is None:
        raise ValueError(f"What follows the last Linear is no output activation. {_SUPPORTED}")
    _check_units(layers)
    _check_values(module)
    norms = [_read_norm(layer) for layer in hidden]
    if len({tuple(norm) for norm in norms}) > 1:
        names = [type(layer.norm).__name__ if layer.norm is not None else None for layer in hidden]
        raise ValueError(f"The hidden layers have different normalizations, {names}. All have to have the same.")
    return Network(
        coefs=[_array(layer.linear.weight).T for layer in layers],
        intercepts=[_array_or(layer.linear.bias, 0.0, layer.linear.weight) for layer in layers],
        activations=tuple("identity" if layer.activation is None else layer.activation for layer in hidden),
        outputs=Outputs(last.out_activation),
        norms=norms if norms and norms[0] else (),
        dropout=tuple(layer.dropout or 0.0 for layer in hidden),
    )


def _check_hooks(module: nn.Module) -> None:
    """Raise if a hook may change what a module gives: the network has no place for it."""
    for name, part in module.named_modules():
        if has_forward_hooks(part):
            raise ValueError(
                f"{f'Module {name}' if name else 'The module'}, {_in_one_line(part)}, has a forward hook or pre-hook, which "
                "may change what it gives. Remove it: by its handle; or where it makes the weight, by "
                "torch.nn.utils.prune.remove, remove_weight_norm or remove_spectral_norm."
            )


def _check_values(module: nn.Module) -> None:
    """Raise if a tensor has no values."""
    for name, tensor in module.state_dict().items():
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the device meta, without values. Call module.to_empty(device='cpu'), then load_state_dict."
            )


def _in_one_line(part: nn.Module) -> str:
    """The module with its settings; of one that has others within, its class."""
    return type(part).__name__ if "\n" in str(part) else str(part)


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _flatten(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Modules in their order, those of nested Sequentials as well, with their places."""
    assert isinstance(module, nn.Sequential)
    for place, part in enumerate(module):
        if _is_sequential(part):
            yield from _flatten(part, f"{prefix}{place}.")
        else:
            yield f"{prefix}{place}", part


def _add(layers: list[_Layer], part: nn.Module) -> str:
    """Add a module to the layers found so far; return what is wrong with it, if anything."""
    if layers and layers[-1].is_softmax:
        return "comes after Softmax"
    if type(part) is nn.Linear:
        if any(layer.linear is part for layer in layers):
            return "is there twice"
        layers.append(_Layer(part))
        return ""
    if not layers:
        return "stands where the first Linear is expected"
    layer = layers[-1]
    if isinstance(part, nn.Softmax | nn.LogSoftmax):
        layer.is_softmax = True
        return "" if part.dim in (1, -1) else "is not over the units of a row (dim=1)"
    if isinstance(part, nn.BatchNorm1d | nn.LayerNorm):
        if any(what is not None for what in (layer.norm, layer.activation, layer.dropout)):
            return "does not directly follow a Linear"
        layer.norm = part
        return _problem_of_norm(part)
    if type(part) is nn.Dropout:
        if layer.dropout is not None:
            return "is a second Dropout in one layer"
        layer.dropout = part.p
        return "" if part.p < 1 else "drops all units"
    activation, problem = _read_activation(part)
    if not problem and (layer.activation is not None or layer.dropout is not None):
        return "follows another activation, or Dropout"
    layer.activation = activation
    return problem


def _read_activation(part: nn.Module) -> tuple[ActivationLike | None, str]:
    """The activation that a module applies, by its name if it has one here; and what is wrong with it."""
    if isinstance(part, FunctionModule):
        return part.function, ""
    part = copy.deepcopy(part).eval()
    if hasattr(part, "inplace"):  # units are not wanted again
        setattr(part, "inplace", False)  # noqa: B010 - unknown to the type checker
    for name, activation in ACTIVATIONS.items():
        known = activation.module()
        if type(part) is type(known) and repr(part) == repr(known):  # which tells the settings
            return name, ""
    if not type(part).__module__.startswith("torch.nn.modules.activation"):
        return None, "is not supported"
    try:
        check_activations([part])
    except ValueError as error:
        return None, f"cannot be an activation: {error}"
    return part, ""


def _problem_of_norm(norm: nn.BatchNorm1d | nn.LayerNorm) -> str:
    if norm.eps != EPSILON:
        return f"has eps={norm.eps}, but {EPSILON} is the only one"
    if isinstance(norm, nn.LayerNorm):
        return "" if len(norm.normalized_shape) == 1 else "normalizes over more than the units of a row"
    if norm.running_mean is None:
        return "has no running statistics to predict with"
    return "" if norm.momentum == MOMENTUM else f"has momentum={norm.momentum}, but {MOMENTUM} is the only one"


def _check_units(layers: list[_Layer]) -> None:
    """Raise if the units of one layer are not those that the next one takes."""
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        n_units = layer.linear.out_features
        n_normalized = n_units
        if isinstance(layer.norm, nn.BatchNorm1d):
            n_normalized = layer.norm.num_features
        elif isinstance(layer.norm, nn.LayerNorm):
            (n_normalized,) = layer.norm.normalized_shape
        n_taken = n_units if following is None else following.linear.in_features
        if not n_units == n_normalized == n_taken:
            raise ValueError(f"{layer.linear} is followed by {layer.norm or following.linear} of another size.")  # type: ignore[union-attr]


def _read_norm(layer: _Layer) -> dict[str, np.ndarray]:
    """Tensors of a normalization; what it lacks is that of one that does nothing."""
    norm: Any = layer.norm
    if norm is None:
        return {}
    like = layer.linear.bias if layer.linear.bias is not None else layer.linear.weight[:, 0]
    affine = {"weight": _array_or(norm.weight, 1.0, like), "bias": _array_or(norm.bias, 0.0, like)}
    if isinstance(norm, nn.LayerNorm):
        return affine
    return affine | {name: _array(getattr(norm, name)) for name in ("running_mean", "running_var")}


def _array(tensor: Tensor) -> np.ndarray:
    """Copy into an array of float32, or float64 where the tensor is."""
    tensor = tensor.detach().cpu()
    array: np.ndarray = tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32).numpy().copy()
    return array


def _array_or(tensor: Tensor | None, value: float, like: Tensor) -> np.ndarray:
    return np.full(len(like), value, _array(like[:1]).dtype) if tensor is None else _array(tensor)


# Classes -------------------------------------------------------------------------------


def with_classes(network: Network, classes: Any) -> Network:
    """Say what the classes of a network's outputs are, and bring the outputs into their sorted order.

    Several outputs that end with Sigmoid are labels; others are classes, of which the second one of two is what a
    single output stands for.

    Parameters
    ----------
    network : Network
        As `read_sequential` gives it.
    classes : array-like of shape (n_classes,) or None
        In the order of the outputs; None for 0, 1, ….

    Raises
    ------
    ValueError
        If classes and outputs do not go together.
    """
    n_outputs, activation = network.layer_units[-1], network.outputs.activation
    is_multilabel = activation == "logistic" and n_outputs > 1
    if activation == "exp":
        raise ValueError("The module ends with an exponential, which gives no probabilities.")
    if activation == "softmax" and n_outputs == 1:
        raise ValueError("The module ends with the softmax of one output, which is 1 for all rows. Use Sigmoid.")
    n_classes = max(2, n_outputs)
    known = np.arange(n_classes) if classes is None else np.asarray(classes)
    if known.shape != (n_classes,) or len(np.unique(known)) != n_classes:
        raise ValueError(
            f"The module has {n_outputs} outputs, so classes must be {n_classes} distinct labels, but got {classes!r}."
        )
    if is_multilabel and not np.array_equal(known, np.arange(n_classes)):
        raise ValueError(
            f"The module ends with Sigmoid after {n_outputs} outputs, which are labels; those are columns 0, 1, … of y. "
            "Leave out classes."
        )
    order = np.argsort(known)
    coef, intercept = network.coefs[-1], network.intercepts[-1]
    if n_outputs == 2 and not is_multilabel:  # softmax of two is the logistic of their difference
        coef, intercept = coef[:, 1:] - coef[:, :1], intercept[1:] - intercept[:1]
    if n_outputs > 2:
        coef, intercept = coef[:, order], intercept[order]
    elif order[0] == 1:
        coef, intercept = -coef, -intercept
    is_softmax = n_outputs > 2 and not is_multilabel
    return replace(
        network,
        coefs=[*network.coefs[:-1], coef],
        intercepts=[*network.intercepts[:-1], intercept],
        outputs=Outputs("softmax" if is_softmax else "logistic", known[order], is_multilabel),
    )


def with_numbers(network: Network) -> Network:
    """Check that the outputs of a network are numbers.

    Raises
    ------
    ValueError
        If they are probabilities.
    """
    if network.outputs.activation not in ("identity", "exp"):
        raise ValueError(
            f"The module ends with {network.outputs.activation} outputs, which are probabilities. Use MLPTorchClassifier."
        )
    return network

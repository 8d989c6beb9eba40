"""Tables of the layers of fitted networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sktorch_mlp._nn.activations import ActivationLike

HEADER = ("layer", "units", "parameters", "then")


class Layer(NamedTuple):
    """A layer of a network.

    Attributes
    ----------
    name : str
        "input", "embedding", "hidden 1", … or "output".
    units : int
        Outputs of the layer.
    n_parameters : int
        Numbers that training changes.
    then : tuple of str
        What follows the product: normalization, activation, dropout.
    """

    name: str
    units: int
    n_parameters: int = 0
    then: tuple[str, ...] = ()


def describe_layers(
    layer_units: Sequence[int],
    activations: Sequence[ActivationLike],
    out_activation: str,
    *,
    normalization: str | None = None,
    dropout: Sequence[float] = (),
) -> list[Layer]:
    """Describe the layers of a network.

    Parameters
    ----------
    layer_units : sequence of int
        Units of all layers, input and output included.
    activations : sequence of str or callable
        One for each hidden layer.
    out_activation : str
    normalization : str, default=None
    dropout : sequence of float, default=()
        Rate of each hidden layer.
    """
    layers = [Layer("input", layer_units[0])]
    for i, (activation, units) in enumerate(zip(activations, layer_units[1:-1], strict=True)):
        then = [] if normalization is None else [f"{normalization} normalization"]
        then.append(activation if isinstance(activation, str) else getattr(activation, "__name__", repr(activation)))
        if dropout and dropout[i]:
            then.append(f"dropout {dropout[i]:.3g}")
        n_scales = 0 if normalization is None else 2 * units
        layers.append(Layer(f"hidden {i + 1}", units, (layer_units[i] + 1) * units + n_scales, tuple(then)))
    n_in, n_out = layer_units[-2:]
    return [*layers, Layer("output", n_out, (n_in + 1) * n_out, (out_activation,))]


@dataclass(frozen=True)
class LayerTable:
    """The layers of networks of one shape.

    Attributes
    ----------
    layers : list of Layer
    n_networks : int, default=1
    """

    layers: list[Layer]
    n_networks: int = 1

    @property
    def n_parameters(self) -> int:
        """Parameters of one network."""
        return sum(layer.n_parameters for layer in self.layers)

    @property
    def shape(self) -> str:
        """Units of its layers."""
        return " → ".join(str(layer.units) for layer in self.layers)


@dataclass(frozen=True)
class Summary:
    """Layers and totals of a fitted estimator, as `summary` returns it. Printed, it is a table.

    Attributes
    ----------
    networks : list of LayerTable
        One; of an ensemble one for each shape.
    device : str
    dtype : str
        Precision of the parameters.
    """

    networks: list[LayerTable]
    device: str
    dtype: str

    @property
    def n_parameters(self) -> int:
        """Parameters of all networks."""
        return sum(network.n_networks * network.n_parameters for network in self.networks)

    @property
    def totals(self) -> str:
        """Parameters, networks, device and precision in one line."""
        n_networks = sum(network.n_networks for network in self.networks)
        networks = f" in {n_networks} networks" if n_networks > 1 else ""
        return f"{self.n_parameters:,} parameters{networks}, {self.dtype} on {self.device}"

    def __str__(self) -> str:
        return "\n\n".join([*map(_table, self.networks), self.totals])

    __repr__ = __str__


def cells_of(layer: Layer) -> tuple[str, str, str, str]:
    """A row of the table."""
    return layer.name, f"{layer.units:,}", f"{layer.n_parameters:,}", ", ".join(layer.then)


def _table(network: LayerTable) -> str:
    """The layers of a network as aligned columns."""
    rows = [HEADER, *map(cells_of, network.layers)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    if network.n_networks > 1:
        lines.append(f"each of {network.n_networks} networks: {network.n_parameters:,} parameters")
    return "\n".join(lines)


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    name, units, parameters, then = row
    return f"{name:<{widths[0]}}  {units:>{widths[1]}}  {parameters:>{widths[2]}}  {then}".rstrip()

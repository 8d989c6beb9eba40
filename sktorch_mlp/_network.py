"""The stacked MLP: layers, normalization, dropout, forward pass. Knows no training.

Every tensor has a leading axis for the networks of the stack, and units stand
before rows: activations are ``(n_networks, n_units, n_rows)``. Sums over rows
and softmaxes over units are then several times cheaper than row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ._activations import ActivationLike, activation, function_key
from ._arrays import as_tensor

#: What a normalization adds to a variance, PyTorch's default.
EPSILON = 1e-5

#: Features up to which the product for the first layer's gradient is faster (up to three
#: times) into input-major memory.
_NARROW = 16


def lean(tensor: Tensor) -> Tensor:
    """Drop the network axis of a stack of one, so that 2-D calls can be used (3 µs each)."""
    return tensor[0] if tensor.shape[0] == 1 else tensor


class Dropout:
    """Masks of hidden units, each network's drawn from a stream of its own.

    Parameters
    ----------
    rates : sequence of sequence of float
        Of each network, the probability with which a unit of each hidden layer is dropped.
    generators : sequence of Generator
        One a network, on the device of the network.
    """

    def __init__(self, rates: Sequence[Sequence[float]], generators: Sequence[torch.Generator]) -> None:
        self.rates, self.generators = list(rates), list(generators)

    def is_on(self, layer: int) -> bool:
        """Whether units of this hidden layer are dropped, in any network."""
        return any(rates[layer] for rates in self.rates)

    def kept(self, layer: int, like: Tensor) -> Tensor:
        """The share of units kept, of shape ([n_networks,] 1, 1)."""
        dropped = like.new_tensor([_in_bits(rates[layer]) for rates in self.rates]) / _N_VALUES
        return lean((1 - dropped)[:, None, None])

    def draw_(self, layer: int, mask: Tensor) -> None:
        """Fill a ([n_networks,] n_units, n_rows) tensor with ones for units that are kept, else zeros."""
        for rates, generator, own in zip(self.rates, self.generators, _by_network(mask), strict=True):
            n_dropped = _in_bits(rates[layer])
            if own.device.type != "cpu":
                own.bernoulli_(1 - n_dropped / _N_VALUES, generator=generator)
                continue
            # 16 bits a unit, four units a number: a fifth of the time of `bernoulli_`.
            bits = torch.empty(-(-own.numel() // 4), dtype=torch.int64).random_(-(2**63), None, generator=generator)
            values = bits.view(torch.int16)[: own.numel()].view_as(own)
            torch.ge(values, n_dropped - _N_VALUES // 2, out=own)

    def mark(self) -> Callable[[], None]:
        """Note where the streams stand; the result puts them back there."""
        states = [generator.get_state() for generator in self.generators]

        def rewind() -> None:
            for generator, state in zip(self.generators, states, strict=True):
                generator.set_state(state)

        return rewind

    def of(self, networks: Sequence[int]) -> Dropout:
        """That of these networks."""
        return Dropout([self.rates[k] for k in networks], [self.generators[k] for k in networks])


#: Values of 16 bits, and the resolution of a dropout rate.
_N_VALUES = 2**16


def _in_bits(rate: float) -> int:
    """How many of all values of 16 bits drop a unit."""
    return min(round(rate * _N_VALUES), _N_VALUES - 1)


def _by_network(tensor: Tensor) -> Sequence[Tensor]:
    return [tensor] if tensor.ndim == 2 else tensor.unbind(0)


@dataclass(frozen=True)
class NetworkSpec:
    """What a network is made of; the fields are those of `StackedMLP`."""

    layer_units: tuple[int, ...]
    activations: tuple[ActivationLike, ...]
    normalization: str | None = None
    sparse_input: bool = False
    in_bfloat16: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def make(self, n_networks: int = 1) -> StackedMLP:
        """A stack of such networks, with zeros for weights."""
        return StackedMLP(
            self.layer_units,
            self.activations,
            n_networks,
            normalization=self.normalization,
            sparse_input=self.sparse_input,
            in_bfloat16=self.in_bfloat16,
            dtype=self.dtype,
            device=self.device,
        )


class StackedMLP(nn.Module):
    """K multilayer perceptrons of one shape, held in one flat parameter.

    Parameters
    ----------
    layer_units : sequence of int
        Units of every layer, from the input features to the outputs.
    activation : str, callable or sequence of these
        Hidden activation: a key of ``ACTIVATIONS`` or an elementwise function, or one for
        each hidden layer.
    n_networks : int, default=1
        Number of networks in the stack, K.
    normalization : {None, "batch", "layer"}, default=None
        What normalizes the sums of a hidden layer before they are activated.
    sparse_input : bool, default=False
        Whether the input will be sparse. The first layer is then stored input-major, as
        it is for few features.
    in_bfloat16 : bool, default=False
        Whether products in training are of operands rounded to bfloat16.
    dtype, device : optional
        Where and in what precision the parameters live.

    Attributes
    ----------
    flat : Parameter of shape (n_networks, n_parameters)
        All coefficients layer by layer, then all intercepts, then scales and shifts of the
        normalizations, so that an update is one call and the L2 penalty concerns one
        slice, ``[:, :n_coefs]``.
    running : Tensor of shape (n_networks, n_statistics)
        Running means and variances of batch normalization, which no gradient moves.
    dropout : Dropout or None
        What drops hidden units in training.
    """

    running: Tensor

    def __init__(
        self,
        layer_units: Sequence[int],
        activation: ActivationLike | Sequence[ActivationLike],
        n_networks: int = 1,
        *,
        normalization: str | None = None,
        sparse_input: bool = False,
        in_bfloat16: bool = False,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.layer_units = tuple(layer_units)
        self.activations = per_hidden_layer(activation, len(self.layer_units) - 2)
        self.normalization = normalization
        self.sparse_input = sparse_input
        self.in_bfloat16 = in_bfloat16
        self.dropout: Dropout | None = None
        self._input_major = sparse_input or self.layer_units[0] <= _NARROW
        self.n_coefs = sum(n_in * n_out for n_in, n_out in pairwise(self.layer_units))
        n_plain = self.n_coefs + sum(self.layer_units[1:])
        hidden_units = self.layer_units[1:-1] if normalization is not None else ()
        starts = list(accumulate(hidden_units, initial=0))
        #: where a layer's scales lie in `flat`, or its means in `running`, and how many they are
        self._norm_slices = [slice(start, start + n) for start, n in zip(starts[:-1], hidden_units, strict=True)]
        self._n_plain, self._n_normalized = n_plain, starts[-1]
        flat = torch.zeros(n_networks, n_plain + 2 * starts[-1], dtype=dtype, device=device)
        running = flat.new_zeros(n_networks, 2 * starts[-1] if normalization == "batch" else 0)
        if normalization is not None:
            flat[:, n_plain : n_plain + starts[-1]] = 1  # scales
            running[:, starts[-1] :] = 1  # variances
        self.flat = nn.Parameter(flat)
        self.register_buffer("running", running)

    @property
    def n_networks(self) -> int:
        """Number of networks in the stack."""
        return self.flat.shape[0]

    @property
    def grad(self) -> Tensor:
        """Gradient of `flat`, made at the first access."""
        if self.flat.grad is None:
            self.flat.grad = torch.zeros_like(self.flat)
        return self.flat.grad

    @property
    def spec(self) -> NetworkSpec:
        """What others of its shape are made of."""
        tensor = self.flat.dtype, self.flat.device
        return NetworkSpec(
            self.layer_units, self.activations, self.normalization, self.sparse_input, self.in_bfloat16, *tensor
        )

    @property
    def can_be_captured(self) -> bool:
        """Whether its training steps can be recorded for a GPU: they draw nothing, and take no gradient by autograd."""
        return self.dropout is None and all(isinstance(like, str) for like in self.activations)

    def kind(self) -> Hashable:
        """Networks of equal kind can be networks of one stack."""
        dropout = None if self.dropout is None else tuple(map(self.dropout.is_on, range(len(self.activations))))
        return replace(self.spec, activations=()), tuple(map(function_key, self.activations)), dropout

    def views(self, flat: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Each layer's coefficients and intercepts, as views.

        Parameters
        ----------
        flat : Tensor of shape (n_networks, n_parameters), default=None
            What to look into: the parameters (None), or a gradient of their shape.

        Returns
        -------
        coefs : list of Tensor of shape (n_networks, n_out, n_in)
        intercepts : list of Tensor of shape (n_networks, n_out)
        """
        flat = self.flat if flat is None else flat
        coefs, intercepts = [], []
        coef_start, intercept_start = 0, self.n_coefs
        for layer, (n_in, n_out) in enumerate(pairwise(self.layer_units)):
            block = flat[:, coef_start : coef_start + n_in * n_out]
            if layer == 0 and self._input_major:
                coefs.append(block.unflatten(1, (n_in, n_out)).mT)
            else:
                coefs.append(block.unflatten(1, (n_out, n_in)))
            intercepts.append(flat[:, intercept_start : intercept_start + n_out])
            coef_start += n_in * n_out
            intercept_start += n_out
        return coefs, intercepts

    def norm_views(self, flat: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Each normalization's scales and shifts, (n_networks, n_units) each, as views of `flat`."""
        if self.normalization is None:
            return []
        flat = self.flat if flat is None else flat
        scales, shifts = flat[:, self._n_plain :].split([self._n_normalized] * 2, 1)
        return [(scales[:, units], shifts[:, units]) for units in self._norm_slices]

    def running_views(self) -> list[tuple[Tensor, Tensor]]:
        """Each batch normalization's running means and variances, (n_networks, n_units) each, as views."""
        if self.normalization != "batch":
            return []
        means, variances = self.running.split([self._n_normalized] * 2, 1)
        return [(means[:, units], variances[:, units]) for units in self._norm_slices]

    def norm_states(self) -> list[tuple[Tensor, ...]]:
        """All tensors of each normalization, in the order of `NORM_NAMES`, as views."""
        running = self.running_views()
        return [(*pair, *(running[layer] if running else ())) for layer, pair in enumerate(self.norm_views())]

    def forward(self, X: Tensor) -> Tensor:
        """Logits of all networks as in prediction, of shape (n_networks, n_outputs, n_rows).

        Parameters
        ----------
        X : Tensor of shape (n_rows, n_features) or (n_networks, n_rows, n_features)
        """
        functions = hidden_functions(self.activations, self.norm_states())
        units = X.mT
        for layer, (coef, intercept) in enumerate(zip(*self.views(), strict=True)):
            units = coef @ (functions[layer - 1](units) if layer else units) + intercept.unsqueeze(-1)
        return units

    @torch.no_grad()
    def load(
        self,
        network: int,
        coefs: Sequence[Any],
        intercepts: Sequence[Any],
        norms: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Copy scikit-learn's arrays, coefs of shape (n_in, n_out), and those of normalizations into one network."""
        for view, values in zip(self.views()[0], coefs, strict=True):
            view[network].copy_(as_tensor(values).T)
        for view, values in zip(self.views()[1], intercepts, strict=True):
            view[network].copy_(as_tensor(values))
        for views, arrays in zip(self.norm_states() if norms else [], norms, strict=True):
            for view, name in zip(views, NORM_NAMES, strict=False):
                view[network].copy_(as_tensor(arrays[name]))

    def state(self, network: int) -> Tensor:
        """All that one network has learned, as one tensor."""
        parameters = self.flat.detach()[network]
        return torch.cat([parameters, self.running[network]]) if self.running.shape[1] else parameters.clone()

    @torch.no_grad()
    def load_state(self, network: int, state: Tensor) -> None:
        """Go back to what `state` has given."""
        n_parameters = self.flat.shape[1]
        self.flat[network].copy_(state[:n_parameters])
        self.running[network].copy_(state[n_parameters:])

    @torch.no_grad()
    def keep(self, networks: Sequence[int]) -> None:
        """Reduce the stack to the networks of these indices."""
        self.become(torch.stack([self.state(k) for k in networks]))
        self.dropout = None if self.dropout is None else self.dropout.of(networks)

    @torch.no_grad()
    def become(self, states: Tensor) -> None:
        """Be the stack of the networks with these states, of shape (n_networks, n_state)."""
        n_parameters = self.flat.shape[1]
        self.flat = nn.Parameter(states[:, :n_parameters].clone())
        self.running = states[:, n_parameters:].clone()

    @staticmethod
    def join(networks: Sequence[StackedMLP]) -> StackedMLP:
        """A stack with the values of networks of equal kind, one each."""
        stack = networks[0].single(0)
        stack.become(torch.stack([network.state(0) for network in networks]))
        dropouts = [network.dropout for network in networks if network.dropout is not None]
        if dropouts:
            stack.dropout = Dropout([d.rates[0] for d in dropouts], [d.generators[0] for d in dropouts])
        return stack

    def single(self, network: int) -> StackedMLP:
        """A copy of one network, as a stack of one, without its dropout."""
        own = self.spec.make()
        own.load_state(0, self.state(network))
        return own

    def member(self, network: int) -> nn.Sequential:
        """One network as plain PyTorch modules that share its memory, ready to predict."""
        coefs, intercepts = self.views(self.flat.detach())
        return sequential(
            [coef[network] for coef in coefs],
            [intercept[network] for intercept in intercepts],
            self.activations,
            [[view[network].detach() for view in views] for views in self.norm_states()],
            () if self.dropout is None else self.dropout.rates[network],
        ).eval()


#: PyTorch's names of what a normalization has learned; the last two are batch normalization's.
NORM_NAMES = ("weight", "bias", "running_mean", "running_var")


def per_hidden_layer(values: Any, n_hidden: int) -> tuple[Any, ...]:
    """One value for all hidden layers, or a sequence of one for each, as a tuple of one for each."""
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,) * n_hidden


def hidden_functions(
    activations: Sequence[ActivationLike], norms: Sequence[Sequence[Tensor]]
) -> list[Callable[[Tensor], Tensor]]:
    """What each hidden layer does with its sums in prediction; in place where it can be.

    Parameters
    ----------
    activations : sequence of str or callable
    norms : sequence of sequence of Tensor of shape ([n_networks,] n_units)
        The tensors of each normalization, in the order of `NORM_NAMES`; they may change
        in place.
    """
    applies = [activation(like).apply_ for like in activations]
    if not norms:
        return applies
    return [_normalized(apply_, norm) for apply_, norm in zip(applies, norms, strict=False)]


def _normalized(apply_: Callable[[Tensor], Tensor], norm: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    weight, bias, *running = (tensor.unsqueeze(-1) for tensor in norm)

    def function(units: Tensor) -> Tensor:
        if running:
            mean, variance = running
        else:
            variance, mean = torch.var_mean(units, -2, correction=0, keepdim=True)
        return apply_((units - mean) * torch.rsqrt(variance + EPSILON) * weight + bias)

    return function


def sequential(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[ActivationLike],
    norms: Sequence[Sequence[Tensor]] = (),
    dropout: Sequence[float] = (),
) -> nn.Sequential:
    """Plain modules around the given tensors; the last Linear gives logits.

    Parameters
    ----------
    weights : sequence of Tensor of shape (n_out, n_in)
    biases : sequence of Tensor of shape (n_out,)
    activations : sequence of str or callable
        One for each hidden layer.
    norms : sequence of sequence of Tensor, default=()
        The tensors of each normalization: two of a layer's, four of a batch's.
    dropout : sequence of float, default=()
        Rate of each hidden layer.
    """
    modules: list[nn.Module] = []
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        modules.append(_with_parameters(nn.Linear(weight.shape[1], weight.shape[0], device="meta"), weight, bias))
        if layer == len(activations):
            break
        if norms:
            modules.append(_normalization(*norms[layer]))
        modules.append(activation(activations[layer]).module())
        if dropout and dropout[layer]:
            modules.append(nn.Dropout(dropout[layer]))
    return nn.Sequential(*modules)


def _normalization(weight: Tensor, bias: Tensor, *running: Tensor) -> nn.Module:
    if not running:
        return _with_parameters(nn.LayerNorm(len(weight), EPSILON, device="meta"), weight, bias)
    module = _with_parameters(nn.BatchNorm1d(len(weight), EPSILON, device="meta"), weight, bias)
    module.running_mean, module.running_var = running
    module.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=weight.device)
    return module


def _with_parameters(module: Any, weight: Tensor, bias: Tensor) -> Any:
    """A module made on "meta", which allocates nothing, around these tensors."""
    module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
    return module

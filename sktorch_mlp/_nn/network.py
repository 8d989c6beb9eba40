"""The stacked MLP: its layers in one flat parameter, and its forward pass. Knows no training.

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

from .activations import ActivationLike, function_key, get_activation
from .dropout import Dropout
from .embeddings import TableEmbedding
from .modules import EPSILON, NORM_NAMES, sequential
from .tensors import as_tensor, join_states, select_networks, without_gradients

_CPU = torch.device("cpu")

#: Features up to which the product for the first layer's gradient is faster (up to three
#: times) into input-major memory.
_NARROW = 16


@dataclass(frozen=True)
class NetworkSpec:
    """Shape and precision of a network.

    Attributes
    ----------
    layer_units : tuple of int
        Units of every layer, from the input features to the outputs.
    activations : tuple of str or callable
        One for each hidden layer: a key of ``ACTIVATIONS`` or an elementwise function.
    normalization : {None, "batch", "layer"}, default=None
        Applied to the sums of a hidden layer before its activation.
    sparse_input : bool, default=False
        Whether the input will be sparse. The first layer is then stored input-major, as
        it is for few features.
    bfloat16 : bool, default=False
        Whether training rounds operands and results of its products to bfloat16.
    dtype : torch.dtype, default=torch.float32
        Precision of the parameters.
    device : torch.device, default=CPU
        Device of the parameters.
    embedding : TableEmbedding, default=None
        Makes the inputs of the first layer from the columns of X; None where they are these columns.
    """

    layer_units: tuple[int, ...]
    activations: tuple[ActivationLike, ...]
    normalization: str | None = None
    sparse_input: bool = False
    bfloat16: bool = False
    dtype: torch.dtype = torch.float32
    device: torch.device = _CPU
    embedding: TableEmbedding | None = None

    @property
    def n_coefs(self) -> int:
        """Number of coefficients of all layers."""
        return sum(n_in * n_out for n_in, n_out in pairwise(self.layer_units))

    @property
    def is_input_major(self) -> bool:
        """Whether the coefficients of the first layer are stored (n_in, n_out)."""
        return self.sparse_input or self.layer_units[0] <= _NARROW

    def stack_key(self) -> Hashable:
        """Key that is equal for networks of one shape, and for functions that do the same."""
        return replace(self, activations=()), tuple(map(function_key, self.activations))


class StackedMLP(nn.Module):
    """K multilayer perceptrons of one shape, held in one flat parameter.

    Parameters
    ----------
    spec : NetworkSpec
    n_networks : int, default=1
        Number of networks in the stack, K. All weights are zero.

    Attributes
    ----------
    flat : Parameter of shape (n_networks, n_parameters)
        All coefficients layer by layer, then all intercepts, then scales and shifts of the
        normalizations, then the embedding, so that an update is one call and the L2
        penalty concerns one slice, ``[:, :n_coefs]``.
    running : Tensor of shape (n_networks, n_statistics)
        Running means and variances of batch normalization, which no gradient moves.
    bin_scales : Tensor of shape (n_networks, 1)
        Factor of the inputs that are bins; with an embedding only.
    dropout : Dropout or None
        Masks of hidden units in training.
    """

    running: Tensor
    bin_scales: Tensor

    def __init__(self, spec: NetworkSpec, n_networks: int = 1) -> None:
        super().__init__()
        self.spec = spec
        self.dropout: Dropout | None = None
        self.n_coefs = spec.n_coefs
        self._n_affine = self.n_coefs + sum(spec.layer_units[1:])
        hidden_units = spec.layer_units[1:-1] if spec.normalization is not None else ()
        starts = list(accumulate(hidden_units, initial=0))
        n_normalized = self._n_normalized = starts[-1]
        #: place of each layer among the scales in `flat`, and among the means in `running`
        self._norm_slices = [slice(start, start + n) for start, n in zip(starts[:-1], hidden_units, strict=True)]
        self._n_embedding = 0 if spec.embedding is None else spec.embedding.n_parameters
        n_parameters = self._n_affine + 2 * n_normalized + self._n_embedding
        flat = torch.zeros(n_networks, n_parameters, dtype=spec.dtype, device=spec.device)
        running = flat.new_zeros(n_networks, 2 * n_normalized if spec.normalization == "batch" else 0)
        if spec.normalization is not None:
            flat[:, self._n_affine : self._n_affine + n_normalized] = 1  # scales
            running[:, n_normalized:] = 1  # variances
        self.flat = nn.Parameter(flat)
        self.register_buffer("running", running)
        if spec.embedding is not None:
            self.register_buffer("bin_scales", flat.new_ones(n_networks, 1))

    @property
    def n_networks(self) -> int:
        """Number of networks in the stack."""
        return self.flat.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.flat.device

    @property
    def grad(self) -> Tensor:
        """Gradient of `flat`, made at the first access."""
        if self.flat.grad is None:
            self.flat.grad = torch.zeros_like(self.flat)
        return self.flat.grad

    @property
    def can_be_captured(self) -> bool:
        """Whether a CUDA graph can record its training steps: they take no gradient by autograd."""
        return all(isinstance(activation, str) for activation in self.spec.activations)

    def stack_key(self) -> Hashable:
        """Key that is equal for networks that can be in one stack."""
        n_hidden = len(self.spec.activations)
        dropout = None if self.dropout is None else tuple(map(self.dropout.is_on, range(n_hidden)))
        return self.spec.stack_key(), dropout

    def views(self, flat: Tensor | None = None) -> tuple[list[Tensor], list[Tensor]]:
        """Coefficients and intercepts of each layer, as views.

        Parameters
        ----------
        flat : Tensor of shape (n_networks, n_parameters), default=None
            Tensor to look into: the parameters (None), or a gradient of their shape.

        Returns
        -------
        coefs : list of Tensor of shape (n_networks, n_out, n_in)
        intercepts : list of Tensor of shape (n_networks, n_out)
        """
        flat = self.flat if flat is None else flat
        coefs, intercepts = [], []
        coef_start, intercept_start = 0, self.n_coefs
        for layer, (n_in, n_out) in enumerate(pairwise(self.spec.layer_units)):
            block = flat[:, coef_start : coef_start + n_in * n_out]
            if layer == 0 and self.spec.is_input_major:
                coefs.append(block.unflatten(1, (n_in, n_out)).mT)
            else:
                coefs.append(block.unflatten(1, (n_out, n_in)))
            intercepts.append(flat[:, intercept_start : intercept_start + n_out])
            coef_start += n_in * n_out
            intercept_start += n_out
        return coefs, intercepts

    def norm_views(self, flat: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
        """Scales and shifts of each normalization, (n_networks, n_units) both, as views of `flat`."""
        if self.spec.normalization is None:
            return []
        flat = self.flat if flat is None else flat
        norms = flat[:, self._n_affine : self._n_affine + 2 * self._n_normalized]
        scales, shifts = norms.split([self._n_normalized] * 2, 1)
        return [(scales[:, units], shifts[:, units]) for units in self._norm_slices]

    def embedding_view(self, flat: Tensor | None = None) -> Tensor:
        """Parameters of the embedding, (n_networks, n_parameters), as a view of `flat`."""
        flat = self.flat if flat is None else flat
        return flat[:, flat.shape[1] - self._n_embedding :]

    def running_views(self) -> list[tuple[Tensor, Tensor]]:
        """Running means and variances of each batch normalization, (n_networks, n_units) both, as views."""
        if self.spec.normalization != "batch":
            return []
        means, variances = self.running.split([self._n_normalized] * 2, 1)
        return [(means[:, units], variances[:, units]) for units in self._norm_slices]

    def norm_tensors(self) -> list[tuple[Tensor, ...]]:
        """All tensors of each normalization, in the order of `NORM_NAMES`, as views."""
        running = self.running_views()
        return [(*pair, *(running[layer] if running else ())) for layer, pair in enumerate(self.norm_views())]

    def forward(self, X: Tensor) -> Tensor:
        """Logits of all networks as in prediction, of shape (n_networks, n_outputs, n_rows).

        Parameters
        ----------
        X : Tensor of shape (n_rows, n_features) or (n_networks, n_rows, n_features)
            Inputs of the first layer.
        """
        functions = hidden_functions(self.spec.activations, self.norm_tensors())
        units = X.mT
        for layer, (coef, intercept) in enumerate(zip(*self.views(), strict=True)):
            units = coef @ (functions[layer - 1](units) if layer else units) + intercept.unsqueeze(-1)
        return units

    @without_gradients
    def set_weights(
        self,
        network: int,
        coefs: Sequence[Any],
        intercepts: Sequence[Any],
        norms: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Copy arrays of scikit-learn's shapes, coefs (n_in, n_out), and of normalizations into one network."""
        for view, values in zip(self.views()[0], coefs, strict=True):
            view[network].copy_(as_tensor(values).T)
        for view, values in zip(self.views()[1], intercepts, strict=True):
            view[network].copy_(as_tensor(values))
        for views, arrays in zip(self.norm_tensors() if norms else [], norms, strict=True):
            for view, name in zip(views, NORM_NAMES, strict=False):
                view[network].copy_(as_tensor(arrays[name]))

    def select(self, networks: Sequence[int]) -> StackedMLP:
        """Copy some networks into a stack of their own, with their streams of dropout masks."""
        stack = StackedMLP(self.spec, len(networks))
        stack.load_state_dict(select_networks(self.state_dict(), networks))
        stack.dropout = None if self.dropout is None else self.dropout.select(networks)
        return stack

    @staticmethod
    def join(networks: Sequence[StackedMLP]) -> StackedMLP:
        """Copy networks of equal key into one stack, with their streams of dropout masks."""
        stack = StackedMLP(networks[0].spec, sum(network.n_networks for network in networks))
        stack.load_state_dict(join_states([network.state_dict() for network in networks]))
        dropouts = [network.dropout for network in networks if network.dropout is not None]
        stack.dropout = Dropout.join(dropouts) if dropouts else None
        return stack

    def member(self, network: int) -> nn.Sequential:
        """One network as plain PyTorch modules that share its memory, ready to predict."""
        coefs, intercepts = self.views(self.flat.detach())
        return sequential(
            [coef[network] for coef in coefs],
            [intercept[network] for intercept in intercepts],
            self.spec.activations,
            [[view[network].detach() for view in views] for views in self.norm_tensors()],
            () if self.dropout is None else self.dropout.rates[network],
        ).eval()


def per_hidden_layer(values: Any, n_hidden: int) -> tuple[Any, ...]:
    """Repeat one value for all hidden layers, or take a sequence of one for each."""
    return tuple(values) if isinstance(values, Sequence) and not isinstance(values, str) else (values,) * n_hidden


def hidden_functions(
    activations: Sequence[ActivationLike], norms: Sequence[Sequence[Tensor]]
) -> list[Callable[[Tensor], Tensor]]:
    """Functions that prediction applies to the sums of each hidden layer; in place where they can be.

    Parameters
    ----------
    activations : sequence of str or callable
    norms : sequence of sequence of Tensor of shape ([n_networks,] n_units)
        The tensors of each normalization, in the order of `NORM_NAMES`. They may change
        in place.
    """
    activate = [get_activation(activation).forward_ for activation in activations]
    if not norms:
        return activate
    return [_normalized(forward_, norm) for forward_, norm in zip(activate, norms, strict=False)]


def _normalized(forward_: Callable[[Tensor], Tensor], norm: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
    weight, bias, *running = (tensor.unsqueeze(-1) for tensor in norm)

    def function(units: Tensor) -> Tensor:
        if running:
            mean, variance = running
        else:
            variance, mean = torch.var_mean(units, -2, correction=0, keepdim=True)
        return forward_((units - mean) * torch.rsqrt(variance + EPSILON) * weight + bias)

    return function

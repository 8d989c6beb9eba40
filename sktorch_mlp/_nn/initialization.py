"""Initial weights: those of scikit-learn, and those of `torch.nn.init`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from .activations import ActivationLike
from .network import per_hidden_layer

#: Functions that fill the (n_out, n_in) weights of a layer in place.
WEIGHT_INITS: dict[str, Callable[..., Tensor]] = {
    "glorot_uniform": nn.init.xavier_uniform_,
    "glorot_normal": nn.init.xavier_normal_,
    "he_uniform": partial(nn.init.kaiming_uniform_, nonlinearity="relu"),
    "he_normal": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
    "orthogonal": nn.init.orthogonal_,
    "torch": partial(nn.init.kaiming_uniform_, a=5**0.5),
}


def initial_parameters(
    layer_units: Sequence[int],
    activation: ActivationLike | Sequence[ActivationLike],
    random_state: np.random.RandomState,
    weight_init: str | tuple[str, float] = "auto",
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Draw coefficients and intercepts.

    "auto" draws as scikit-learn does, in its order: uniform in ±sqrt(6 / (fan_in + fan_out))
    after Glorot and Bengio (2010), with 2 in place of 6 for the logistic activation.
    Intercepts are drawn too.

    Parameters
    ----------
    layer_units : sequence of int
    activation : str, callable or sequence of these
    random_state : RandomState
    weight_init : str or ("normal", std), default="auto"
        "auto" or a key of ``WEIGHT_INITS``. With a key, intercepts are 0, except for
        "torch", which is the default of `torch.nn.Linear`.

    Returns
    -------
    coefs : list of ndarray of shape (n_in, n_out)
    intercepts : list of ndarray of shape (n_out,)
    """
    if weight_init == "auto":
        return _sklearn_parameters(layer_units, activation, random_state)
    generator = torch.Generator("cpu").manual_seed(int(random_state.randint(np.iinfo(np.int32).max)))
    draw_ = WEIGHT_INITS[weight_init] if isinstance(weight_init, str) else partial(nn.init.normal_, std=weight_init[1])
    coefs, intercepts = [], []
    for n_in, n_out in pairwise(layer_units):
        weight = torch.empty(n_out, n_in, dtype=torch.float64, device="cpu")
        bias = torch.zeros(n_out, dtype=torch.float64, device="cpu")
        draw_(weight, generator=generator)
        if weight_init == "torch":
            bias.uniform_(-(n_in**-0.5), n_in**-0.5, generator=generator)
        coefs.append(weight.numpy().T)
        intercepts.append(bias.numpy())
    return coefs, intercepts


def _sklearn_parameters(
    layer_units: Sequence[int],
    activation: ActivationLike | Sequence[ActivationLike],
    random_state: np.random.RandomState,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    activations = per_hidden_layer(activation, len(layer_units) - 1)
    coefs, intercepts = [], []
    for layer, (n_in, n_out) in enumerate(pairwise(layer_units)):
        # The output layer goes by the last hidden activation.
        layer_activation = activations[min(layer, len(activations) - 1)] if activations else None
        bound = ((2.0 if layer_activation == "logistic" else 6.0) / (n_in + n_out)) ** 0.5
        coefs.append(random_state.uniform(-bound, bound, (n_in, n_out)))
        intercepts.append(random_state.uniform(-bound, bound, n_out))
    return coefs, intercepts

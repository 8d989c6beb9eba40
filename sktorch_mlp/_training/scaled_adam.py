"""AdamW that learns a scale of each input beside the first coefficients, of which networks see the product alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import tee

import torch
from torch import Tensor

from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import squeeze_stack

from .adam import AdamW
from .optimizers import PerNetwork, Scalar, ScalarFeed, Step, per_network
from .schedules import Schedule

#: In place of a scale of 0, by which coefficients could not be divided.
_TINY = 1e-12


class InputScalingAdamW(AdamW):
    """AdamW on coefficients and scales whose product are the first coefficients of the network.

    ``w = v * s`` with a scale s for each input, at first 1. By the chain rule the gradient of v is ``g * s``, and that of s
    the sum over units of ``g * v``, where g is the gradient of w. Both take steps of AdamW; scales have another rate, and
    no decay. An input that says little gets a small scale, so that all its coefficients fade. This is the scaling layer of
    RealMLP (Holzmüller et al., 2024), without the layer: what predicts, and what is saved, is w.

    Parameters
    ----------
    schedules : sequence of Schedule
    beta_1, beta_2, epsilon, weight_decay : sequence of float
        As those of `AdamW`.
    scale_rate : sequence of float
        Learning rate of the scales / that of all else.

    Attributes
    ----------
    scales, scale_first_moment, scale_second_moment : Tensor of shape (n_networks, n_inputs)
    """

    settings = (*AdamW.settings, "scale_rate")
    moments = (*AdamW.moments, "scales", "scale_first_moment", "scale_second_moment")
    scales: Tensor
    scale_first_moment: Tensor
    scale_second_moment: Tensor

    def __init__(
        self,
        schedules: Sequence[Schedule],
        beta_1: PerNetwork,
        beta_2: PerNetwork,
        epsilon: PerNetwork,
        weight_decay: PerNetwork,
        scale_rate: PerNetwork,
    ) -> None:
        super().__init__(schedules, beta_1, beta_2, epsilon, weight_decay)
        self.scale_rate = list(scale_rate)

    def _new_moment(self, name: str, network: StackedMLP) -> Tensor:
        if name in AdamW.moments:
            return super()._new_moment(name, network)
        value = 1.0 if name == "scales" else 0.0
        return network.flat.detach().new_full((network.n_networks, network.spec.layer_units[0]), value)

    def bind(self, network: StackedMLP, n_steps_of_epoch: int) -> None:
        """Get ready to update this network."""
        super().bind(network, n_steps_of_epoch)
        (coefs, *_), (grads, *_) = (network.views(flat)[0] for flat in (network.flat.detach(), network.grad))
        self._first_coef, self._first_coef_grad = squeeze_stack(coefs), squeeze_stack(grads)
        self._product = torch.empty_like(self._first_coef)
        self._scales = squeeze_stack(self.scales)
        self._scales_of_units = self._scales.unsqueeze(-2)  # the same for all
        self._scale_moments = squeeze_stack(self.scale_first_moment), squeeze_stack(self.scale_second_moment)
        self._scale_grad = torch.empty_like(self._scales)
        self._scale_betas = per_network(self.beta_1, self._scales), per_network(self.beta_2, self._scales)
        self._scale_feeds = ScalarFeed(self._scales), ScalarFeed(self._scales)

    def steps(self, n_steps: int) -> Iterable[Step]:
        for_rates, for_epsilons, for_steps = tee(self._scalars(n_steps), 3)
        rate_feed, epsilon_feed = self._scale_feeds
        negative_rates = rate_feed(
            [-factor * rate for factor, rate in zip(self.scale_rate, scalars.rate, strict=True)]
            for scalars in for_rates
        )
        epsilons = epsilon_feed(scalars.epsilon for scalars in for_epsilons)
        arguments = zip(negative_rates, epsilons, self._update.steps(for_steps), strict=True)
        return (partial(self._step, *numbers_and_step) for numbers_and_step in arguments)

    def _step(self, negative_rate: Scalar, epsilon: Scalar, step: Step) -> None:
        coef, grad, scales = self._first_coef, self._first_coef_grad, self._scales_of_units
        torch.mul(coef, grad, out=self._product)
        torch.sum(self._product, -2, out=self._scale_grad).div_(self._scales)
        grad.mul_(scales)
        coef.div_(scales)
        step()
        self._step_scales(negative_rate, epsilon)
        coef.mul_(scales)

    def _step_scales(self, negative_rate: Scalar, epsilon: Scalar) -> None:
        (m, v), (beta_1, beta_2), grad, scales = self._scale_moments, self._scale_betas, self._scale_grad, self._scales
        m.lerp_(grad, 1 - beta_1)
        v.lerp_(grad.square_(), 1 - beta_2)
        change = torch.sqrt(v, out=grad).add_(epsilon).reciprocal_().mul_(m).mul_(negative_rate)
        scales.add_(change)
        scales.masked_fill_(scales == 0, _TINY)

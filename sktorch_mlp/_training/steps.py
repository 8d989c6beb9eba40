"""Steps of an epoch: gradient, penalty, clipping, update; all networks of a stack side by side."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from sktorch_mlp._data.batches import MiniBatches, Segment
from sktorch_mlp._nn.gradients import Gradient
from sktorch_mlp._nn.losses import Loss
from sktorch_mlp._nn.matmul import BoundProduct, bind_mm, bind_vecdot, call_quietly
from sktorch_mlp._nn.network import StackedMLP
from sktorch_mlp._nn.tensors import squeeze_stack
from sktorch_mlp._nn.threads import share_elementwise

from .cuda_graphs import CapturedFunction
from .observers import BatchHooks
from .optimizers import Optimizer, Scalar, Step, add_scaled_
from .progress import TrainingOptions

#: Multiply-adds of a product that take as long as the penalty's gradient of one coefficient.
_OPERATIONS_PER_COEF = 32


class Penalty:
    """The L2 penalty of a stack on its coefficients, for the mini-batches of a segment.

    That of a batch is ``0.5 * alpha * sum(w**2) / total``, with the sum of its sample weights.

    Attributes
    ----------
    is_zero : bool
    batches : list of (scalar, callable)
        Arguments of `add_gradient`, batch by batch, of all epochs for which the segment can be used.
    """

    def __init__(self, network: StackedMLP, options: Sequence[TrainingOptions], segment: Segment) -> None:
        flat, coefs = network.flat.detach(), slice(0, network.n_coefs)
        self._coefs, self._coef_grads = squeeze_stack(flat[:, coefs]), squeeze_stack(network.grad[:, coefs])
        self._alphas = flat.new_tensor([option.alpha for option in options])
        self.is_zero = not self._alphas.any()
        self._add_scaled_ = share_elementwise(add_scaled_, _OPERATIONS_PER_COEF * self._coefs.nbytes // 4)
        self._weights = segment.weights
        # (n_batches[, n_networks]) each
        self._decays, self._fractions = (_squeeze_last(torch.zeros_like(segment.weights.totals)) for _ in range(2))
        self.update_weights()
        # (n_epochs, n_batches[, n_networks])
        norms = self._decays.new_zeros(segment.most_epochs, *self._decays.shape)
        save_norms = [bind_vecdot(self._coefs, self._coefs, norm) for norm in norms.flatten(0, 1).unbind(0)]
        by_network = norms.movedim((0, 1), (-2, -1)), self._fractions.movedim(0, -1).unsqueeze(-1)
        means = flat.new_zeros(*by_network[0].shape[:-1], 1)
        self._write_means, self._means = bind_mm(*by_network, means), means.squeeze(-1)
        self.batches = list(zip(list(self._decays_by_batch()) * segment.most_epochs, save_norms, strict=True))

    def _decays_by_batch(self) -> Sequence[Scalar]:
        """Alpha over the sum of weights of each batch; numbers if they stay and there is one network."""
        if self._decays.ndim > 1:
            return self._decays.unsqueeze(-1).unbind(0)
        if self._weights.vary:
            return self._decays.unbind(0)
        return [float(decay) for decay in self._decays.tolist()]

    def update_weights(self) -> None:
        """Take the weights that the mini-batches have now."""
        torch.div(squeeze_stack(self._alphas), _squeeze_last(self._weights.totals), out=self._decays)
        torch.mul(self._decays, _squeeze_last(self._weights.batch_fractions) / 2, out=self._fractions)

    def add_gradient(self, decay: Scalar, save_norm: BoundProduct) -> None:
        """Add the penalty of a mini-batch to the gradient, and save the square norm of the coefficients."""
        save_norm()
        self._add_scaled_(self._coef_grads, self._coefs, decay)

    def means(self) -> Tensor:
        """Share of the penalty in the loss of each epoch, ([n_networks,] most_epochs), from the norms saved; a buffer."""
        self._write_means()
        return self._means


def _squeeze_last(values: Tensor) -> Tensor:
    """Drop the network axis, here the last one, of a stack of one."""
    return values.squeeze(-1) if values.shape[-1] == 1 else values


class _ClipNorm:
    """Scales the gradient of each network down to a norm, as `torch.nn.utils.clip_grad_norm_` does."""

    def __init__(self, network: StackedMLP, max_norms: Sequence[float]) -> None:
        self._grads = network.grad
        self._max_norms = network.flat.detach().new_tensor(max_norms).unsqueeze(-1)

    def __call__(self) -> None:
        norms = torch.linalg.vector_norm(self._grads, dim=-1, keepdim=True)
        self._grads.mul_((self._max_norms / (norms + 1e-6)).clamp_(max=1.0))


class _SegmentSteps:
    """Steps through the mini-batches of a segment."""

    def __init__(
        self,
        network: StackedMLP,
        loss: Loss,
        segment: Segment,
        options: Sequence[TrainingOptions],
        optimizer: Optimizer | None,
        hooks: BatchHooks | None,
    ) -> None:
        self._loss, self._segment, self._optimizer, self._hooks = loss, segment, optimizer, hooks
        gradients = {size: Gradient(network, loss, size, keep_outputs=hooks is not None) for size in set(segment.sizes)}
        self._penalty = Penalty(network, options, segment)
        max_norms = [option.gradient_clip_norm for option in options]
        self._clip = _ClipNorm(network, max_norms) if any(map(math.isfinite, max_norms)) else None
        flat, n_epochs = network.flat.detach(), segment.most_epochs
        self._loss_terms = squeeze_stack(flat.new_empty(network.n_networks, n_epochs, sum(segment.sizes)))
        batches = zip(
            [gradients[size] for size in segment.sizes],
            segment.batch_targets,
            segment.weights.fractions,
            segment.weights.totals.unbind(0),
            strict=True,
        )
        loss_terms = [terms for epoch in self._loss_terms.split(1, -2) for terms in epoch.split(segment.sizes, -1)]
        self._batches = [
            (*batch, terms, penalty)
            for batch, terms, penalty in zip([*batches] * n_epochs, loss_terms, self._penalty.batches, strict=True)
        ]
        self._captured: CapturedFunction | None = None
        can_be_captured = segment.can_be_captured and (optimizer is None or optimizer.can_be_captured)
        if can_be_captured and network.can_be_captured and not loss.couples_rows and hooks is None:
            generators = () if network.dropout is None else network.dropout.generators
            self._captured = CapturedFunction(network.device, generators)

    def run(self, n_epochs: int) -> Tensor:
        """Train on the segment so many times; return its share in the loss of each epoch, ([n_networks,] n_epochs)."""
        if self._segment.weights.vary:
            self._penalty.update_weights()
        n_steps = n_epochs * len(self._segment.sizes)
        steps = [_no_step] * n_steps if self._optimizer is None else self._optimizer.steps(n_steps)
        if self._captured is None:
            return self._run_steps(n_epochs, steps)
        return self._captured(self._run_steps, n_epochs, steps)

    def _run_steps(self, n_epochs: int, steps: Iterable[Step]) -> Tensor:
        has_penalty, add_penalty = not self._penalty.is_zero, self._penalty.add_gradient
        clip, hooks = self._clip, self._hooks
        if hooks is not None:
            hooks.on_segment_begin(self._segment.batch_rows)
        own_batches = self._batches[: n_epochs * len(self._segment.sizes)]
        batches = zip(own_batches, self._segment.batches(n_epochs), steps, strict=True)
        for (gradient, targets, fractions, total, loss_terms, penalty), batch, step in batches:
            gradient(batch, targets, fractions, total, loss_terms)
            if has_penalty:
                add_penalty(*penalty)
            if clip is not None:
                clip()
            if hooks is not None:
                hooks.on_grad_computed()
            step()
            if hooks is not None:
                hooks.on_batch_end(gradient.outputs, self._loss.row_losses(loss_terms.clone(), targets))
        loss_terms, penalties = self._loss_terms, self._penalty.means() if has_penalty else None
        if n_epochs < self._segment.most_epochs:
            loss_terms = loss_terms[..., :n_epochs, :]
            penalties = None if penalties is None else penalties[..., :n_epochs]
        losses = self._segment.weights.mean(self._loss.row_losses(loss_terms, self._segment.targets))
        return losses if penalties is None else losses + penalties


def _no_step() -> None:
    """Leave the parameters as they are."""


class Trainer:
    """Trains a stack, an epoch at a time or a few at once.

    Parameters
    ----------
    network : StackedMLP
    loss : Loss
    minibatches : MiniBatches
    options : sequence of TrainingOptions
        One for each network.
    optimizer : Optimizer, default=None
        None leaves the parameters as they are, and the gradient of the last mini-batch.
    hooks : BatchHooks, default=None
        Called around each step.
    """

    def __init__(
        self,
        network: StackedMLP,
        loss: Loss,
        minibatches: MiniBatches,
        options: Sequence[TrainingOptions],
        optimizer: Optimizer | None = None,
        hooks: BatchHooks | None = None,
    ) -> None:
        if optimizer is not None:
            optimizer.bind(network, sum(len(segment.sizes) for segment in minibatches.segments))
        self._minibatches = minibatches
        self._segment_steps = {
            segment: _SegmentSteps(network, loss, segment, options, optimizer, hooks)
            for segment in dict.fromkeys(minibatches.segments)
        }

    def epochs_at_once(self, most: int) -> int:
        """How many of the next epochs can be trained at once, at most `most`."""
        return self._minibatches.epochs_at_once(most)

    def run_epochs(self, n_epochs: int = 1, *, is_followed: bool = False) -> list[list[float]]:
        """Train some epochs.

        Parameters
        ----------
        n_epochs : int, default=1
            As `epochs_at_once` gives it.
        is_followed : bool, default=False
            Whether another epoch will follow, for which to prepare while the device is at work.

        Returns
        -------
        list of list of float
            Loss of each epoch for each network, penalty included: the losses of its batches, averaged over rows.
        """
        segments = self._minibatches.next_epochs(n_epochs, is_followed=is_followed)
        shares = [call_quietly(self._segment_steps[segment].run, n_epochs) for segment in segments]
        total = shares[0] if len(shares) == 1 else torch.stack(shares).sum(0)
        losses = total.tolist()
        return [[loss] for loss in losses] if total.ndim == 1 else [*map(list, zip(*losses, strict=True))]

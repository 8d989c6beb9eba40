"""Steps through mini-batches: gradient, penalty, clipping, update; all networks of a stack side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ._capture import Captured
from ._data import MiniBatches, Segment
from ._gradients import Gradient
from ._losses import Loss
from ._network import StackedMLP, lean
from ._progress import BatchHooks, TrainingOptions
from ._solvers import Rate, Solver, add_scaled_


class _Penalty:
    """The L2 penalty of a stack, for the mini-batches of a segment; it concerns coefficients, not intercepts."""

    def __init__(self, network: StackedMLP, options: Sequence[TrainingOptions], segment: Segment) -> None:
        flat, coefs = network.flat.detach(), slice(0, network.n_coefs)
        self._coefs, self._coef_grads = lean(flat[:, coefs]), lean(network.grad[:, coefs])
        self._alphas = flat.new_tensor([option.alpha for option in options])
        self.is_zero = not self._alphas.any()
        self._segment = segment
        # (n_batches[, n_networks]) each
        self._square_norms, self._decays, self._shares = (_squeeze(torch.zeros_like(segment.totals)) for _ in range(3))
        self.follow_weights()
        #: what `add_gradient` is to be called with, batch by batch
        self.parts = list(zip(self._decays_by_batch(), self._square_norms.unbind(0), strict=True))

    def _decays_by_batch(self) -> Sequence[float | Tensor]:
        """Alpha over each batch's sum of weights; numbers if they stay and there is one network."""
        if self._decays.ndim > 1:
            return self._decays.unsqueeze(-1).unbind(0)
        return self._decays.unbind(0) if self._segment.reweighs else self._decays.tolist()

    def follow_weights(self) -> None:
        """Take the weights that the segment's mini-batches have now."""
        torch.div(lean(self._alphas), _squeeze(self._segment.totals), out=self._decays)
        torch.mul(self._decays, _squeeze(self._segment.shares) / 2, out=self._shares)

    def add_gradient(self, decay: float | Tensor, square_norm: Tensor) -> None:
        """Add a mini-batch's share to the gradient, and note the coefficients' square norm."""
        torch.linalg.vecdot(self._coefs, self._coefs, out=square_norm)
        add_scaled_(self._coef_grads, self._coefs, decay)

    def mean(self) -> Tensor:
        """Its part of the epoch's loss, 0-d or (n_networks,), from the norms noted."""
        return torch.linalg.vecdot(self._square_norms, self._shares, dim=0)


def _squeeze(values: Tensor) -> Tensor:
    """Drop the last axis, that of the networks, of a stack of one."""
    return values.squeeze(-1) if values.shape[-1] == 1 else values


class _Clip:
    """Scales each network's gradient down to a norm, as `torch.nn.utils.clip_grad_norm_` does."""

    def __init__(self, network: StackedMLP, norms: Sequence[float]) -> None:
        self._grads = network.grad
        self._norms = network.flat.detach().new_tensor(norms).unsqueeze(-1)

    def __call__(self) -> None:
        norms = torch.linalg.vector_norm(self._grads, dim=-1, keepdim=True)
        self._grads.mul_((self._norms / (norms + 1e-6)).clamp_(max=1.0))


class _SegmentPass:
    """Steps through the mini-batches of a segment, all networks of a stack side by side."""

    def __init__(
        self,
        network: StackedMLP,
        loss: Loss,
        segment: Segment,
        options: Sequence[TrainingOptions],
        solver: Solver | None,
        hooks: BatchHooks | None,
    ) -> None:
        self._loss, self._segment, self._solver, self._hooks = loss, segment, solver, hooks
        gradients = {size: Gradient(network, loss, size, keep_outputs=hooks is not None) for size in set(segment.sizes)}
        self._penalty = _Penalty(network, options, segment)
        clip_norms = [option.gradient_clip_norm for option in options]
        self._clip = _Clip(network, clip_norms) if any(map(math.isfinite, clip_norms)) else None
        n_networks, n_rows = network.n_networks, sum(segment.sizes)
        self._terms = lean(network.flat.detach().new_empty(n_networks, 1, n_rows))
        self._slots = [
            (gradients[size], *arguments)
            for size, *arguments in zip(
                segment.sizes,
                segment.target_parts,
                segment.scales,
                segment.totals.unbind(0),
                self._terms.split(segment.sizes, -1),
                self._penalty.parts,
                strict=True,
            )
        ]
        self._take_steps: Callable[..., Tensor] = self._take_steps_now
        can_be_captured = segment.can_be_captured and (solver is None or solver.can_be_captured)
        if can_be_captured and network.can_be_captured and not loss.couples_rows and hooks is None:
            self._take_steps = Captured(self._take_steps_now, network.flat.device)

    def __call__(self) -> Tensor:
        """Train on the segment; each network's part of the epoch's loss, 0-d or (n_networks,)."""
        if self._segment.reweighs:
            self._penalty.follow_weights()
        n_steps = len(self._slots)
        rates = itertools.repeat(0.0, n_steps) if self._solver is None else self._solver.rates(n_steps)
        return self._take_steps(rates)

    def _take_steps_now(self, rates: Iterable[Rate]) -> Tensor:
        penalised, add_penalty = not self._penalty.is_zero, self._penalty.add_gradient
        step = None if self._solver is None else self._solver.step
        clip, hooks = self._clip, self._hooks
        if hooks is not None:
            hooks.batches_begin(self._segment.row_parts)
        batches = zip(self._slots, self._segment.batches(), rates, strict=True)
        for (gradient, targets, scale, total, terms, penalty), batch, rate in batches:
            gradient(batch, targets, scale, total, terms)
            if penalised:
                add_penalty(*penalty)
            if clip is not None:
                clip()
            if hooks is not None:
                hooks.gradient_is_there()
            if step is not None:
                step(rate)
            if hooks is not None:
                hooks.batch_ends(gradient.kept_outputs, self._loss.row_losses(terms.clone(), targets))
        loss = self._segment.mean(self._loss.row_losses(self._terms, self._segment.targets))
        return loss + self._penalty.mean() if penalised else loss


class Trainer:
    """Steps through the training rows, an epoch a call, all networks of a stack side by side.

    Parameters
    ----------
    network : StackedMLP
    loss : Loss
    minibatches : MiniBatches
    options : sequence of TrainingOptions
        One a network.
    solver : Solver, default=None
        None to leave the parameters, and the gradient of the last mini-batch.
    hooks : BatchHooks, default=None
        What is called around each step.
    """

    def __init__(
        self,
        network: StackedMLP,
        loss: Loss,
        minibatches: MiniBatches,
        options: Sequence[TrainingOptions],
        solver: Solver | None = None,
        hooks: BatchHooks | None = None,
    ) -> None:
        if solver is not None:
            solver.bind(network, sum(len(segment.sizes) for segment in minibatches.segments))
        self._minibatches = minibatches
        self._passes = {
            segment: _SegmentPass(network, loss, segment, options, solver, hooks)
            for segment in dict.fromkeys(minibatches.segments)
        }

    def run_epoch(self, *, shuffle_ahead: bool = False) -> list[float]:
        """Train one epoch.

        Parameters
        ----------
        shuffle_ahead : bool, default=False
            Whether to shuffle for another epoch already while the device is at work.

        Returns
        -------
        list of float
            Each network's loss, penalty included: the losses of its batches, averaged over rows.
        """
        parts = [self._passes[segment]() for segment in self._minibatches.next_epoch()]
        if shuffle_ahead:
            self._minibatches.shuffle_ahead()
        total = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
        return total.reshape(-1).tolist()

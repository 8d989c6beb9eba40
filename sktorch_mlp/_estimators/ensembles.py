"""Ensembles of fitted networks: stacks of one shape that predict as one network does, and their weighted average."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sktorch_mlp._data.arrays import may_be_closed
from sktorch_mlp._data.device import available_or_cpu
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._nn.activations import get_activation
from sktorch_mlp._nn.embeddings import TableEmbedding, bind_fixed, split_learned
from sktorch_mlp._nn.inputs import DenseBatch
from sktorch_mlp._nn.losses import OUTPUT_ACTIVATIONS
from sktorch_mlp._nn.matmul import Scratch
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._nn.tensors import as_tensor, most_precise_dtype, to_device, without_autocast, without_gradients
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.progress import DivergenceError

from .blocks import predict_blocks
from .plain import from_state
from .summary import Layer, LayerTable, describe_layers

#: Numbers in the largest buffer of a block of rows, and its fewest rows: so it stays in cache.
_BLOCK_SIZE, _BLOCK_ROWS = 2**19, 64


@dataclass(eq=False)
class FittedStack:
    """Fitted networks of one shape.

    Attributes
    ----------
    spec : NetworkSpec
    flat : ndarray of shape (n_networks, n_parameters)
        All parameters, as in `StackedMLP`.
    bin_scales : ndarray of shape (n_networks, 1)
    out_activation : str
        A key of ``OUTPUT_ACTIVATIONS``.
    weights : ndarray of shape (n_networks,)
        Weight of each network in the average.
    """

    spec: NetworkSpec
    flat: np.ndarray
    bin_scales: np.ndarray
    out_activation: str
    weights: np.ndarray

    @classmethod
    def from_networks(cls, networks: Sequence[StackedMLP], out_activation: str) -> FittedStack:
        """Take over trained networks of one shape, with equal weights.

        Raises
        ------
        DivergenceError
            If the parameters of one are no longer finite.
        """
        network = StackedMLP.join(networks)
        scales = (
            network.bin_scales if network.spec.embedding is not None else network.flat.new_ones(network.n_networks, 1)
        )
        flat = network.flat.detach()
        if not bool(flat.isfinite().all()):
            raise DivergenceError(
                "All networks of a candidate train with the same hyperparameters.",
                cause="Learning rates or sample weights may be too large.",
                remedy="Lower learning_rate_init and weight_decay in hyperparameters, or look for sample weights that differ "
                "by many orders of magnitude.",
            )
        weights = np.full(len(flat), 1 / len(flat))
        return cls(network.spec, flat.cpu().numpy(), scales.cpu().numpy(), out_activation, weights)

    @property
    def n_networks(self) -> int:
        """Number of networks."""
        return len(self.flat)

    @property
    def dtype(self) -> np.dtype:
        """Precision of the parameters."""
        return self.flat.dtype

    def member(self, k: int) -> FittedStack:
        """One network, in the same memory."""
        own = slice(k, k + 1)
        return replace(self, flat=self.flat[own], bin_scales=self.bin_scales[own], weights=np.ones(1))

    def network(self) -> StackedMLP:
        """The networks as a stack on the device, on the CPU in the same memory."""
        network = StackedMLP(replace(self.spec, device=torch.device("meta")), self.n_networks)
        network.spec = self.spec
        network.flat = torch.nn.Parameter(as_tensor(self.flat, self.spec.device))
        if self.spec.embedding is not None:
            network.bin_scales = as_tensor(self.bin_scales, self.spec.device)
        return network

    @cached_property
    def _predictor(self) -> _StackPredictor:
        with torch.inference_mode(False), torch.no_grad():  # the predictor outlives it
            return _StackPredictor(self)

    def predict(self, rows: Rows, *, to_the_end: bool = False) -> Tensor:
        """Weighted sum over networks of their activated outputs, (n_rows, n_outputs); see `predict_blocks`."""
        return self._predictor(rows, to_the_end)

    def summarize(self, n_columns: int, dropout: float) -> LayerTable:
        """Describe the layers, for tables of so many columns and networks trained with this dropout."""
        spec = self.spec
        n_hidden = len(spec.activations)
        layers = describe_layers(spec.layer_units, spec.activations, self.out_activation, dropout=[dropout] * n_hidden)
        if spec.embedding is not None:
            n_inputs, n_parameters = spec.embedding.n_inputs, spec.embedding.n_parameters
            layers[:1] = [Layer("input", n_columns), Layer("embedding", n_inputs, n_parameters)]
        return LayerTable(layers, self.n_networks)

    def __getstate__(self) -> dict[str, Any]:
        """Arrays, and what they are the parameters of, as plain values."""
        spec = self.spec
        return {
            "layer_units": list(spec.layer_units),
            "sparse_input": spec.sparse_input,
            "bfloat16": spec.bfloat16,
            "device": str(spec.device),
            "embedding": None if spec.embedding is None else spec.embedding.__getstate__(),
            **{name: getattr(self, name) for name in ("flat", "bin_scales", "out_activation", "weights")},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        layer_units, embedding, device = tuple(state["layer_units"]), state["embedding"], torch.device(state["device"])
        self.spec = NetworkSpec(
            layer_units,
            ("relu",) * (len(layer_units) - 2),
            sparse_input=state["sparse_input"],
            bfloat16=state["bfloat16"],
            dtype=torch.float32 if state["flat"].dtype == np.float32 else torch.float64,
            device=device,
            embedding=None if embedding is None else from_state(TableEmbedding, embedding),
        )
        self.flat, self.bin_scales, self.weights = state["flat"], state["bin_scales"], state["weights"]
        self.out_activation = state["out_activation"]


class _StackPredictor:
    """Predicts with all networks of a stack in one call for each layer.

    The first layers are one matrix, as all networks have the same fixed inputs.
    """

    def __init__(self, stack: FittedStack) -> None:
        network = stack.network()
        coefs, intercepts = network.views(network.flat.detach())
        embedding, n_networks = stack.spec.embedding, stack.n_networks
        self._n_networks, self._embedding = n_networks, embedding
        first = coefs[0]
        n_fixed = first.shape[-1]
        if embedding is not None:
            n_fixed, n_bins = embedding.n_fixed, embedding.n_bins
            self._write_fixed = bind_fixed(embedding, first)
            self._parameters = network.embedding_view(network.flat.detach())
            self._learned_coef = first[..., n_fixed:]
            first = first[..., :n_fixed].clone()
            first[..., n_fixed - n_bins :] *= network.bin_scales.unsqueeze(-1)
        self._n_fixed = n_fixed
        self._first_coef = first.flatten(0, 1)  # which may have no inputs
        self._first_intercept = intercepts[0].reshape(-1, 1)
        activations = [get_activation(activation).forward_ for activation in stack.spec.activations]
        # The rounding of products for one output, and of their activation, depends on which rows are beside a row. In
        # double precision nobody notices.
        precise = most_precise_dtype(first.device)
        dtypes = [first.dtype] * (len(activations) - 1) + [precise]
        self._deeper = [
            (activate_, coef.to(dtype), intercept.unsqueeze(-1).to(dtype))
            for activate_, coef, intercept, dtype in zip(activations, coefs[1:], intercepts[1:], dtypes, strict=False)
        ]
        self._activate_outputs_ = OUTPUT_ACTIVATIONS[stack.out_activation]
        self._weights = to_device(as_tensor(stack.weights), first.device)
        self._n_outputs = coefs[-1].shape[1]
        self._n_coefs = sum(coef.numel() for coef in coefs)
        widest = max(n_fixed, n_networks * max(coef.shape[1] for coef in coefs))
        self._block_rows = max(_BLOCK_ROWS, _BLOCK_SIZE // widest)

    @without_gradients
    def __call__(self, rows: Rows, to_the_end: bool) -> Tensor:
        with torch.inference_mode(False), without_autocast(rows.device):
            return predict_blocks(
                self._predict,
                rows,
                self._block_rows,
                self._weights,
                self._n_outputs,
                len(rows) * self._n_coefs,
                may_share=rows.device.type == "cpu",
                to_the_end=to_the_end,
            )

    def _predict(self, rows: Rows) -> Tensor:
        batch, learned = rows.all_rows(), None
        if self._embedding is not None:
            assert isinstance(batch, DenseBatch)
            columns = batch.rows.mT.contiguous()
            inputs = columns.new_empty(self._n_fixed, columns.shape[1])
            self._write_fixed(columns, inputs)
            batch = DenseBatch(inputs.mT)
            if self._embedding.n_parameters:
                n_learned = self._learned_coef.shape[-1]
                learned = columns.new_empty(self._n_networks, n_learned, columns.shape[1])
                for own, out in zip(self._parameters, learned, strict=True):
                    for part, parameters, part_out in split_learned(self._embedding, own, out):
                        part.write(parameters, columns, part_out)
        units = batch.affine_once(self._first_coef, self._first_intercept, Scratch())
        units = units.unflatten(0, (self._n_networks, -1))
        if learned is not None:
            units = torch.baddbmm(units, self._learned_coef, learned)
        for activate_, coef, intercept in self._deeper:
            units = torch.baddbmm(intercept, coef, activate_(units).to(coef.dtype))
        return torch.tensordot(self._weights, self._activate_outputs_(units.to(self._weights.dtype)), 1).mT


@dataclass(eq=False)
class FittedEnsemble:
    """Networks of one shape or of several, whose predictions are averaged.

    Attributes
    ----------
    stacks : list of FittedStack
        Their weights sum to one, over all stacks.
    held_out : ndarray of shape (n_rows, n_outputs) or None
        Activated outputs of the training rows, by networks that had held them out.
    """

    stacks: list[FittedStack]
    held_out: np.ndarray | None = None

    @classmethod
    def from_shapes(cls, shapes: Sequence[Sequence[StackedMLP]], out_activation: str) -> FittedEnsemble:
        """Take over trained networks, those of one shape together, with equal weights.

        Raises
        ------
        DivergenceError
            If the parameters of one are no longer finite.
        """
        stacks = [FittedStack.from_networks(networks, out_activation) for networks in shapes]
        n_networks = sum(stack.n_networks for stack in stacks)
        for stack in stacks:
            stack.weights *= stack.n_networks / n_networks
        return cls(stacks)

    @classmethod
    def average(cls, ensembles: Sequence[FittedEnsemble], weights: np.ndarray) -> FittedEnsemble:
        """Weighted average of ensembles, whose own weights change; those of weight zero are left out."""
        for ensemble, weight in zip(ensembles, weights, strict=True):
            for stack in ensemble.stacks:
                stack.weights *= weight
        return cls([stack for ensemble in ensembles for stack in ensemble.stacks if stack.weights.any()])

    def __getstate__(self) -> dict[str, Any]:
        return {"stacks": [stack.__getstate__() for stack in self.stacks], "held_out": self.held_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.stacks = [from_state(FittedStack, stack) for stack in state["stacks"]]
        self.held_out = state["held_out"]
        device = available_or_cpu(self.stacks[0].spec.device)
        for stack in self.stacks:
            stack.spec = replace(stack.spec, device=device)

    @property
    def weights(self) -> np.ndarray:
        """Weight of each network."""
        return np.concatenate([stack.weights for stack in self.stacks])

    def members(self) -> list[FittedEnsemble]:
        """Each network on its own, in the same memory."""
        return [FittedEnsemble([stack.member(k)]) for stack in self.stacks for k in range(stack.n_networks)]

    def predict(self, X: Any) -> np.ndarray:
        """Average of the activated outputs, (n_rows, n_outputs), for encoded X, dense or sparse."""
        rows = Rows.from_array(X, self.stacks[0].spec.device, self.stacks[0].dtype)  # those of all stacks
        total: Tensor | None = None
        for stack in self.stacks:
            predicted = stack.predict(rows, to_the_end=may_be_closed(X))
            total = predicted if total is None else total.add_(predicted)
        assert total is not None
        return total.cpu().numpy()


def predict_held_out(ensemble: FittedEnsemble, fits: Sequence[Fit]) -> np.ndarray:
    """Outputs (n_rows, n_outputs) for the validation rows of each network, averaged; nan for rows that have none."""
    samples = fits[0].data.validation or fits[0].data.train
    n_rows = len(samples.rows)
    total = np.zeros((n_rows, fits[0].loss.n_outputs))
    n_predicted = np.zeros(n_rows)
    for member, fit in zip(ensemble.members(), fits, strict=True):
        if fit.data.validation is not None:
            (rows,) = fit.data.validation.indices
            total[rows] += member.stacks[0].predict(samples.rows[rows]).cpu().numpy()
            n_predicted[rows] += 1
    with np.errstate(invalid="ignore"):
        return total / n_predicted[:, np.newaxis]

"""An ensemble on a table as one module of PyTorch, from its columns to averaged predictions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sktorch_mlp._nn.embeddings import TableEmbedding
from sktorch_mlp._nn.tensors import most_precise_dtype

from .description import Columns, Ensemble, Network, Outputs, Stack
from .torch import to_sequential

#: Output activations of rows.
_ACTIVATE: dict[str, Any] = {
    "identity": lambda logits: logits,
    "logistic": torch.sigmoid,
    "softmax": lambda logits: torch.softmax(logits, -1),
}


def to_module(ensemble: Ensemble, device: torch.device) -> nn.Module:
    """Copy an ensemble into a module, in evaluation mode."""
    with torch.inference_mode(False):  # the module outlives it
        module = EnsembleModule(ensemble).eval()
        return (module if most_precise_dtype(device) == torch.float64 else module.float()).to(device)


class EnsembleModule(nn.Module):
    """Predicts from the columns of a table: numbers as they are, nan where missing, and indices of levels, else -1.

    Gives probabilities (n_rows, n_classes), or numbers (n_rows, n_outputs) in the unit of the target.

    Parameters
    ----------
    ensemble : Ensemble
    """

    center: Tensor
    scale: Tensor

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.columns = StandardizedColumns(ensemble.columns)
        self.stacks = nn.ModuleList([StackModule(stack, ensemble.outputs) for stack in ensemble.stacks])
        self._outputs = ensemble.outputs
        if ensemble.center is not None:
            self.register_buffer("center", torch.tensor(ensemble.center))
            self.register_buffer("scale", torch.tensor(ensemble.scale))

    def forward(self, X: Tensor) -> Tensor:
        """Predict for columns (n_rows, n_columns); computes in the precision of the weights."""
        numbers, levels = self.columns(X)
        outputs = torch.stack([stack(numbers, levels) for stack in self.stacks]).sum(0)
        if self._outputs.classes is None:
            return outputs * self.scale + self.center
        if self._outputs.is_binary:
            return torch.cat([1 - outputs, outputs], 1)
        return outputs if self._outputs.is_multilabel else outputs / outputs.sum(1, keepdim=True)


class StandardizedColumns(nn.Module):
    """Chooses the columns that are inputs, and standardizes numbers, in float64 as `fit` does.

    Parameters
    ----------
    columns : Columns
    """

    numbers: Tensor
    center: Tensor
    scale: Tensor
    categories: Tensor

    def __init__(self, columns: Columns) -> None:
        super().__init__()
        self._n_columns, self._largest = columns.n_columns, columns.largest
        self.register_buffer("numbers", torch.tensor(columns.numbers, dtype=torch.int64))
        self.register_buffer("center", torch.tensor(columns.center / 2))
        self.register_buffer("scale", torch.tensor(columns.scale / 2))
        self.register_buffer("categories", torch.tensor(columns.categories, dtype=torch.int64))

    def forward(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized numbers (n_rows, n_numbers), nan where missing, and levels (n_rows, n_categories)."""
        if X.shape[1] != self._n_columns:
            raise ValueError(f"X has {X.shape[1]} columns, but {self._n_columns} are expected.")
        numbers = (X[:, self.numbers].to(self.center) / 2 - self.center) / self.scale
        return numbers.clamp(-self._largest, self._largest), X[:, self.categories].long()


class StackModule(nn.Module):
    """Networks of one shape: the weighted sum of their activated outputs.

    Parameters
    ----------
    stack : Stack
    outputs : Outputs
    """

    weights: Tensor

    def __init__(self, stack: Stack, outputs: Outputs) -> None:
        super().__init__()
        self._activation = outputs.activation
        embedding = stack.embedding
        self.fixed = None if embedding is None else FixedInputs(embedding, stack.coefs[0].dtype)
        n_networks = len(stack.weights)
        self.learned = nn.ModuleList(
            LearnedInputs(embedding, [part[k] for part in stack.learned])
            for k in range(n_networks)
            if embedding is not None and stack.learned
        )
        self.networks = nn.ModuleList(
            to_sequential(
                Network([c[k] for c in stack.coefs], [b[k] for b in stack.intercepts], stack.activations, outputs),
                torch.device("cpu"),
            )
            for k in range(n_networks)
        )
        self.register_buffer("weights", torch.tensor(stack.weights, dtype=torch.float64))
        self._dtype = torch.from_numpy(stack.coefs[0]).dtype

    def forward(self, numbers: Tensor, levels: Tensor) -> Tensor:
        """Sum of outputs (n_rows, n_outputs), in float64."""
        numbers, activate = numbers.to(self._dtype), _ACTIVATE[self._activation]
        total: Any = 0
        fixed = numbers if self.fixed is None else self.fixed(numbers, levels)
        for k, network in enumerate(self.networks):
            inputs = torch.cat([fixed, self.learned[k](numbers, levels)], 1) if self.learned else fixed
            total = total + self.weights[k] * activate(network(inputs).to(self.weights))
        return total


class FixedInputs(nn.Module):
    """Inputs without parameters: numbers clipped smoothly, indicators, levels, bins.

    Parameters
    ----------
    embedding : TableEmbedding
    dtype : numpy.dtype
    """

    category: Tensor
    level: Tensor
    number: Tensor
    slope: Tensor
    offset: Tensor
    is_indicated: Tensor

    def __init__(self, embedding: TableEmbedding, dtype: np.dtype) -> None:
        super().__init__()
        self._indicated, self._signed = list(embedding.indicated), list(embedding.signed)
        category, level = np.array(embedding.one_hot, dtype=np.int64).reshape(-1, 2).T
        number, low, high = np.array(embedding.bins).reshape(-1, 3).T
        is_indicated = np.isin(np.arange(embedding.n_numbers), self._indicated)
        buffers = {
            "category": category,
            "level": level,
            "number": number.astype(np.int64),
            "slope": (1 / (high - low)).astype(dtype),
            "offset": (-low / (high - low)).astype(dtype),
            "is_indicated": is_indicated,
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.tensor(values))

    def forward(self, numbers: Tensor, levels: Tensor) -> Tensor:
        """Inputs (n_rows, n_fixed), for numbers (n_rows, n_numbers) and levels (n_rows, n_categories)."""
        missing = numbers.isnan()
        z = numbers.nan_to_num()
        signed = levels[:, self._signed]
        bins = (z[:, self.number] * self.slope + self.offset).clamp(0, 1)
        is_empty = (missing & self.is_indicated)[:, self.number]
        parts = [
            _clip_smoothly(z),
            missing[:, self._indicated],
            (signed == 0).to(z) - (signed == 1).to(z),
            levels[:, self.category] == self.level,
            bins.masked_fill(is_empty, 0),
        ]
        return torch.cat([part.to(z) for part in parts], 1)


class LearnedInputs(nn.Module):
    """Inputs of one network that have parameters: vectors of levels, and waves.

    Parameters
    ----------
    embedding : TableEmbedding
    parameters : list of ndarray
        As in `Stack.learned`, of one network.
    """

    def __init__(self, embedding: TableEmbedding, parameters: list[np.ndarray]) -> None:
        super().__init__()
        self._categories = embedding.learned
        self.parts = nn.ParameterList([nn.Parameter(torch.tensor(part)) for part in parameters])

    def forward(self, numbers: Tensor, levels: Tensor) -> Tensor:
        """Inputs (n_rows, n_learned), for numbers (n_rows, n_numbers) and levels (n_rows, n_categories)."""
        vectors = [part[levels[:, c] + 1] for c, part in zip(self._categories, self.parts, strict=False)]
        for frequencies, phases in self.parts[len(vectors) :]:
            z = _clip_smoothly(numbers.nan_to_num()).unsqueeze(-1)
            vectors.append(torch.cos(2 * math.pi * (frequencies * z + phases)).flatten(1))
        return torch.cat([numbers[:, :0], *vectors], 1)


def _clip_smoothly(z: Tensor) -> Tensor:
    return z * torch.rsqrt((z / 3).square() + 1)

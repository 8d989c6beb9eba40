"""The input layer of networks on tables: from numbers and levels of categories to the inputs of the first product.

Columns and inputs are unit-major, as activations are. The functions here are those of one network; the first layer is
the linear map of each embedded feature, so embeddings have none of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .inputs import Batch, DenseBatch
from .matmul import bind_mm
from .tensors import squeeze_stack

#: Stands for missing numbers where bins are filled: less than all of them.
_BELOW_ALL = -1e20

#: Standard deviations of the frequencies of periodic embeddings at the beginning: of the lowest and of the highest, with
#: equal ratios between. From long waves to those that are a few bins wide, so that none has to be chosen for a table.
_LOWEST_FREQUENCY, _HIGHEST_FREQUENCY = 0.05, 1.5

#: Standard deviation of the vectors of levels at the beginning: small, so that rare levels say little.
_VECTOR_STD = 0.1


@dataclass(frozen=True, eq=False)
class TableEmbedding:
    """What the inputs of a network are, made from the columns of a table.

    Columns are numbers, scaled robustly, nan where missing; then levels of categories, -1 where missing or unknown.
    Inputs are, in this order:

    - numbers, smoothly clipped to ±3, ``z / sqrt(1 + (z / 3)**2)`` (Holzmüller et al., 2024), 0 where missing;
    - indicators of missing numbers;
    - categories of two levels as 1 and -1, and of few levels one-hot, all 0 where missing or unknown;
    - numbers in bins, ``clip((z - edge) / width, 0, 1)`` for each bin (Gorishniy et al., 2022), all 0 where missing, or
      those of 0 if the number has no indicator;
    - categories of many levels as learned vectors;
    - numbers as learned waves, ``cos(2 pi (frequency * clipped z + phase))`` (Gorishniy et al., 2022).

    Attributes
    ----------
    n_numbers : int
    indicated : tuple of int, default=()
        Numbers with an indicator.
    n_levels : tuple of int, default=()
        Levels of each category.
    signed : tuple of int, default=()
        Categories of two levels that are 1 and -1.
    edges : tuple of ndarray, default=()
        Increasing edges of the bins of each number; fewer than two for no bins. () for no bins at all.
    n_frequencies : int, default=0
        Waves of each number.
    max_one_hot : int, default=64
        Most levels of a category that is one-hot.
    width : int, default=16
        Length of the learned vectors of categories.
    """

    n_numbers: int
    indicated: tuple[int, ...] = ()
    n_levels: tuple[int, ...] = ()
    signed: tuple[int, ...] = ()
    edges: tuple[np.ndarray, ...] = ()
    n_frequencies: int = 0
    max_one_hot: int = 64
    width: int = 16

    @property
    def numerical(self) -> str | None:
        """What numbers are embedded in: "piecewise_linear" bins, "periodic" waves, or None."""
        return "periodic" if self.n_frequencies else "piecewise_linear" if self.edges else None

    @property
    def n_columns(self) -> int:
        """Columns of a table."""
        return self.n_numbers + len(self.n_levels)

    @cached_property
    def fixed_parts(self) -> list[FixedPart]:
        """Inputs without parameters."""
        first = self.n_numbers
        parts: list[FixedPart] = [
            _ClippedNumbers(self.n_numbers),
            _Indicators(self.indicated),
            _Signs([first + c for c in self.signed]),
            _OneHot([(first + c, level) for c, level in self.one_hot]),
            _Bins(self.n_numbers, self.indicated, self.bins),
        ]
        return [part for part in parts if part.n_inputs]

    @cached_property
    def learned_parts(self) -> list[LearnedPart]:
        """Inputs that depend on parameters."""
        parts: list[LearnedPart] = [
            _LearnedLevels(self.n_numbers + c, self.n_levels[c], self.width) for c in self.learned
        ]
        if self.n_frequencies and self.n_numbers:
            parts.append(_Waves(self.n_numbers, self.n_frequencies))
        return parts

    @property
    def one_hot(self) -> list[tuple[int, int]]:
        """Category and level of each input that is one-hot."""
        few = [c for c, n in enumerate(self.n_levels) if n <= self.max_one_hot and c not in self.signed]
        return [(c, level) for c in few for level in range(self.n_levels[c])]

    @property
    def bins(self) -> list[tuple[int, float, float]]:
        """Number and edges of each input that is a bin."""
        return [(number, *edges) for number, part in enumerate(self.edges) for edges in pairwise(part)]

    @property
    def learned(self) -> list[int]:
        """Categories whose levels are learned vectors."""
        return [c for c, n in enumerate(self.n_levels) if n > self.max_one_hot]

    @property
    def n_bins(self) -> int:
        """Inputs that are bins."""
        return sum(max(0, len(edges) - 1) for edges in self.edges)

    @property
    def n_fixed(self) -> int:
        """Inputs without parameters, which come first. The bins are the last ones of them."""
        return sum(part.n_inputs for part in self.fixed_parts)

    @property
    def n_inputs(self) -> int:
        """All inputs."""
        return self.n_fixed + sum(part.n_inputs for part in self.learned_parts)

    @property
    def n_parameters(self) -> int:
        """Parameters of a network."""
        return sum(part.n_parameters for part in self.learned_parts)

    def initial_parameters(self, random_state: np.random.RandomState) -> np.ndarray:
        """Draw the parameters of a network."""
        drawn = [part.initial_parameters(random_state) for part in self.learned_parts]
        return np.concatenate([np.zeros(0), *drawn])

    def __getstate__(self) -> dict[str, Any]:
        """Fields as plain values: lists, and the edges of all numbers in one array. Parts are made of them."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        lists = {name: list(value) for name, value in state.items() if isinstance(value, tuple)}
        return (
            state
            | lists
            | {
                "edges": np.concatenate([np.zeros(0), *self.edges]),  # float64, which has those of float32 exactly
                "n_edges": np.array([len(edges) for edges in self.edges], np.int64),
            }
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = {name: tuple(value) if isinstance(value, list) else value for name, value in state.items()}
        n_edges = state.pop("n_edges")
        vars(self).update(state, edges=tuple(np.split(state["edges"], np.cumsum(n_edges)[:-1])) if len(n_edges) else ())


class FixedPart(Protocol):
    """Inputs without parameters."""

    n_inputs: int

    def bind(self, like: Tensor) -> WriteInputs:
        """Return a function that writes them for columns of the dtype and device of `like`."""


#: ``write(columns, out)`` writes inputs (n_inputs, n_rows) for columns (n_columns, n_rows).
WriteInputs = Callable[[Tensor, Tensor], object]


class LearnedPart(Protocol):
    """Inputs that depend on parameters."""

    n_inputs: int
    n_parameters: int

    def initial_parameters(self, random_state: np.random.RandomState) -> np.ndarray:
        """Draw the parameters of a network."""

    def write(self, parameters: Tensor, columns: Tensor, out: Tensor) -> None:
        """Write inputs (n_inputs, n_rows) for columns (n_columns, n_rows)."""

    def write_gradient(self, parameters: Tensor, columns: Tensor, delta: Tensor, out: Tensor) -> None:
        """Write the gradient at the parameters, (n_parameters,), given that at the inputs, (n_inputs, n_rows)."""


class _ClippedNumbers:
    def __init__(self, n_numbers: int) -> None:
        self.n_inputs = n_numbers

    def bind(self, like: Tensor) -> WriteInputs:
        return lambda columns, out: _clip_smoothly(columns[: self.n_inputs], out)


def _clip_smoothly(z: Tensor, out: Tensor) -> Tensor:
    torch.div(z, 3, out=out)
    return out.square_().add_(1).rsqrt_().mul_(z).nan_to_num_()


class _Indicators:
    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers, self.n_inputs = list(numbers), len(numbers)

    def bind(self, like: Tensor) -> WriteInputs:
        index = torch.tensor(self._numbers, device=like.device)

        def write(columns: Tensor, out: Tensor) -> None:
            numbers = columns.index_select(0, index)
            torch.ne(numbers, numbers, out=out)

        return write


class _Signs:
    def __init__(self, columns: Sequence[int]) -> None:
        self._columns, self.n_inputs = list(columns), len(columns)

    def bind(self, like: Tensor) -> WriteInputs:
        index = torch.tensor(self._columns, device=like.device)

        def write(columns: Tensor, out: Tensor) -> None:
            levels = columns.index_select(0, index)
            torch.eq(levels, 0, out=out)
            out.sub_((levels == 1).to(out.dtype))

        return write


class _OneHot:
    def __init__(self, levels: Sequence[tuple[int, int]]) -> None:
        self._levels, self.n_inputs = levels, len(levels)

    def bind(self, like: Tensor) -> WriteInputs:
        column_of, level_of = torch.tensor(self._levels, device=like.device).T
        wanted = level_of.to(like.dtype).unsqueeze(-1)
        return lambda columns, out: torch.eq(columns.index_select(0, column_of), wanted, out=out)


class _Bins:
    def __init__(self, n_numbers: int, indicated: Sequence[int], bins: Sequence[tuple[int, float, float]]) -> None:
        self._missing = np.zeros((n_numbers, 1))
        self._missing[list(indicated)] = _BELOW_ALL
        self._bins, self.n_inputs = bins, len(bins)

    def bind(self, like: Tensor) -> WriteInputs:
        number_of, low, high = np.array(self._bins).T
        index = torch.tensor(number_of, dtype=torch.int64, device=like.device)
        missing = torch.from_numpy(self._missing).to(like)
        slope, offset = (like.new_tensor(values).unsqueeze(-1) for values in (1 / (high - low), -low / (high - low)))

        def write(columns: Tensor, out: Tensor) -> None:
            numbers = columns[: len(missing)]
            torch.index_select(torch.where(numbers.isnan(), missing, numbers), 0, index, out=out)
            out.mul_(slope).add_(offset).clamp_(0, 1)

        return write


class _LearnedLevels:
    """One vector for each level, and a first one for missing and unknown levels."""

    def __init__(self, column: int, n_levels: int, width: int) -> None:
        self._column, self._shape = column, (n_levels + 1, width)
        self.n_inputs, self.n_parameters = width, (n_levels + 1) * width

    def initial_parameters(self, random_state: np.random.RandomState) -> np.ndarray:
        """Draw from N(0, 0.1²); the first vector, which may never be trained, is 0."""
        vectors = random_state.normal(scale=_VECTOR_STD, size=self._shape)
        vectors[0] = 0
        return vectors.ravel()

    def write(self, parameters: Tensor, columns: Tensor, out: Tensor) -> None:
        """Look the vectors up."""
        out.copy_(parameters.view(self._shape).index_select(0, self._levels(columns)).T)

    def write_gradient(self, parameters: Tensor, columns: Tensor, delta: Tensor, out: Tensor) -> None:
        """Add up the gradients of the rows of each level."""
        out.zero_().view(self._shape).index_add_(0, self._levels(columns), delta.T)

    def _levels(self, columns: Tensor) -> Tensor:
        return columns[self._column].long().add_(1)


class _Waves:
    """Frequencies, then phases, of all numbers."""

    def __init__(self, n_numbers: int, n_frequencies: int) -> None:
        self._n_numbers, self._shape = n_numbers, (2, n_numbers, n_frequencies)
        self.n_inputs, self.n_parameters = n_numbers * n_frequencies, 2 * n_numbers * n_frequencies

    def initial_parameters(self, random_state: np.random.RandomState) -> np.ndarray:
        """Draw frequencies from normal distributions, phases uniformly."""
        scales = np.geomspace(_LOWEST_FREQUENCY, _HIGHEST_FREQUENCY, self._shape[-1])
        frequencies = random_state.normal(scale=scales, size=self._shape[1:])
        return np.stack([frequencies, random_state.uniform(-0.5, 0.5, self._shape[1:])]).ravel()

    def write(self, parameters: Tensor, columns: Tensor, out: Tensor) -> None:
        """Write the cosines."""
        torch.cos(self._angles(parameters, columns)[1].flatten(0, 1), out=out)

    def write_gradient(self, parameters: Tensor, columns: Tensor, delta: Tensor, out: Tensor) -> None:
        """Differentiate by frequencies and phases."""
        numbers, angles = self._angles(parameters, columns)
        delta_angles = angles.sin_().mul_(delta.view_as(angles)).mul_(-2 * math.pi)
        frequency_grad, phase_grad = out.view(self._shape)
        torch.matmul(delta_angles, numbers.unsqueeze(-1), out=frequency_grad.unsqueeze(-1))
        torch.sum(delta_angles, -1, out=phase_grad)

    def _angles(self, parameters: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Clipped numbers (n_numbers, n_rows), and angles (n_numbers, n_frequencies, n_rows)."""
        frequencies, phases = parameters.view(self._shape).unsqueeze(-1)
        z = columns[: self._n_numbers]
        numbers = _clip_smoothly(z, torch.empty_like(z))
        return numbers, (frequencies * numbers.unsqueeze(1)).add_(phases).mul_(2 * math.pi)


def bind_fixed(embedding: TableEmbedding, like: Tensor) -> WriteInputs:
    """Return a function that writes all fixed inputs."""
    parts = embedding.fixed_parts
    writes = [part.bind(like) for part in parts]
    sizes = [part.n_inputs for part in parts]

    def write(columns: Tensor, out: Tensor) -> None:
        for write_part, inputs in zip(writes, out.split(sizes), strict=True):
            write_part(columns, inputs)

    return write


def split_learned(
    embedding: TableEmbedding, parameters: Tensor, inputs: Tensor
) -> Iterator[tuple[LearnedPart, Tensor, Tensor]]:
    """Yield learned parts, each with its parameters (of n_parameters) and its inputs (n_learned, n_rows) of a network."""
    parts = embedding.learned_parts
    own_parameters = parameters.split([part.n_parameters for part in parts])
    own_inputs = inputs.split([part.n_inputs for part in parts])
    yield from zip(parts, own_parameters, own_inputs, strict=True)


class EmbeddedBatches:
    """Turns batches of columns into batches of inputs, in buffers made once.

    Parameters
    ----------
    embedding : TableEmbedding
    parameters : Tensor of shape (n_networks, n_parameters)
        Changes take effect.
    scales : Tensor of shape (n_networks, 1)
        Factor of the bins.
    n_rows : int
        Rows of a batch.
    bfloat16 : bool, default=False
        Whether to round inputs.
    """

    def __init__(
        self, embedding: TableEmbedding, parameters: Tensor, scales: Tensor, n_rows: int, *, bfloat16: bool = False
    ) -> None:
        n_networks = len(scales)
        self._embedding, self._parameters = embedding, parameters
        self._columns = scales.new_empty(n_networks, embedding.n_columns, n_rows)
        self._inputs = scales.new_empty(n_networks, embedding.n_inputs, n_rows)
        n_fixed, n_bins = embedding.n_fixed, embedding.n_bins
        write_fixed = bind_fixed(embedding, scales)
        self._writes: list[Callable[[], object]] = []
        # Network by network: the inputs of one stay in cache from call to call.
        for columns, inputs, own, scale in zip(
            self._columns, self._inputs, parameters, scales.flatten().tolist(), strict=True
        ):
            self._writes.append(partial(write_fixed, columns, inputs[:n_fixed]))
            if scale != 1 and n_bins:
                self._writes.append(partial(inputs[n_fixed - n_bins : n_fixed].mul_, scale))
            for part, values, out in split_learned(embedding, own, inputs[n_fixed:]):
                self._writes.append(partial(part.write, values, columns, out))
        rows = squeeze_stack(self._inputs).mT
        self._rounded = rows.bfloat16() if bfloat16 else None
        self._batch = DenseBatch(rows if self._rounded is None else self._rounded)

    def __call__(self, batch: Batch) -> Batch:
        """Batch of the inputs of these columns; valid until the next call."""
        assert isinstance(batch, DenseBatch)
        self._columns.copy_(batch.rows.mT)
        for write in self._writes:
            write()
        if self._rounded is not None:
            self._rounded.copy_(squeeze_stack(self._inputs).mT)
        return self._batch

    def bind_gradient(self, coef: Tensor, delta: Tensor, grad: Tensor) -> list[Callable[[], object]]:
        """Return calls that write the gradient at the parameters for the batch of the last call.

        Parameters
        ----------
        coef : Tensor of shape ([n_networks,] n_units, n_inputs)
            Coefficients of the first layer.
        delta : Tensor of shape ([n_networks,] n_units, n_rows)
            Gradient at its sums.
        grad : Tensor of shape (n_networks, n_parameters)
        """
        embedding = self._embedding
        if not embedding.n_parameters:
            return []
        n_fixed = embedding.n_fixed
        below = torch.empty_like(self._inputs[:, n_fixed:])
        write_below = bind_mm(coef[..., n_fixed:].mT, delta, squeeze_stack(below), n_rows=delta.shape[-1])
        calls: list[Callable[[], object]] = [write_below]
        for columns, own, own_grad, own_below in zip(self._columns, self._parameters, grad, below, strict=True):
            values = own.split([part.n_parameters for part in embedding.learned_parts])
            for (part, part_grad, part_below), part_values in zip(
                split_learned(embedding, own_grad, own_below), values, strict=True
            ):
                calls.append(partial(part.write_gradient, part_values, columns, part_below, part_grad))
        return calls

"""An ensemble on a table as nodes of ONNX, from the columns of the table to averaged outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sktorch_mlp._data.tables import text_of
from sktorch_mlp._nn.embeddings import TableEmbedding

from .description import Columns, Ensemble, Stack
from .onnx_graph import Graph
from .onnx_networks import check_activations, write_activation, write_outputs


@dataclass(frozen=True)
class Input:
    """One of the inputs of a graph.

    Attributes
    ----------
    name : str
    kind : {"f", "i", "b", "U"}
        Floating numbers, integers, booleans or strings.
    n_columns : int
    """

    name: str
    kind: str
    n_columns: int


@dataclass(frozen=True)
class _Inputs:
    """Names of numbers and levels, as a `TableEmbedding` takes them.

    Attributes
    ----------
    numbers : str
        Standardized, (n_rows, n_numbers), 0 where missing. "" if there are none.
    missing : str
        Booleans of the same shape.
    levels : str
        Indices (n_rows, n_categories), -1 where missing or unknown. "" if there are none.
    """

    numbers: str
    missing: str
    levels: str


def write_ensemble(graph: Graph, ensemble: Ensemble, given: Sequence[Input]) -> str:
    """Write an ensemble; return the name of its averaged outputs (n_rows, n_outputs), in the unit of the target.

    Parameters
    ----------
    graph : Graph
        Of float64.
    ensemble : Ensemble
    given : sequence of Input
        Together they have the columns of the table, in their order.

    Raises
    ------
    ValueError
        If the columns are not those of the table, or not of its kinds.
    """
    inputs = _read_columns(graph, ensemble.columns, given)
    total = ""
    for stack in ensemble.stacks:
        outputs = _write_stack(graph, stack, inputs, ensemble.outputs.activation)
        total = graph("Add", total, outputs) if total else outputs
    if ensemble.center is None:
        return total
    return graph("Add", graph("Mul", total, graph.constant(ensemble.scale)), graph.constant(ensemble.center))


# Columns -------------------------------------------------------------------------------


def _read_columns(graph: Graph, columns: Columns, given: Sequence[Input]) -> _Inputs:
    n_given = sum(each.n_columns for each in given)
    if n_given != columns.n_columns:
        raise ValueError(f"The inputs have {n_given} columns, but the table in fit had {columns.n_columns}.")
    places = [(each, place) for each in given for place in range(each.n_columns)]
    levels = [
        _level(graph, *places[index], level_of)
        for index, level_of in zip(columns.categories, columns.levels, strict=True)
    ]
    numbers, missing = _standardize(graph, columns, given) if len(columns.numbers) else ("", "")
    return _Inputs(numbers, missing, graph.concatenate(levels) if levels else "")


def _standardize(graph: Graph, columns: Columns, given: Sequence[Input]) -> tuple[str, str]:
    """Standardized numbers, 0 where missing, and where they are."""
    raw = _numbers(graph, columns, given)
    missing = graph("IsNaN", raw)
    halves = graph("Mul", raw, graph.constant(0.5))  # whose differences do not overflow
    centered = graph("Sub", halves, graph.constant(columns.center / 2))
    scaled = graph("Div", centered, graph.constant(columns.scale / 2))
    if math.isfinite(columns.largest):
        scaled = graph("Max", graph("Min", scaled, graph.constant(columns.largest)), graph.constant(-columns.largest))
    return graph("Where", missing, graph.constant(0), scaled), missing


def _numbers(graph: Graph, columns: Columns, given: Sequence[Input]) -> str:
    """Columns that are numbers, as they are, (n_rows, n_numbers)."""
    taken: list[str] = []
    place_of: list[int | None] = []  # of each column of the table among those taken
    n_taken = 0
    for each in given:
        if each.kind == "U":
            place_of += [None] * each.n_columns
            continue
        taken.append(graph.cast(each.name))
        place_of += range(n_taken, n_taken + each.n_columns)
        n_taken += each.n_columns
    for index in columns.numbers:
        if place_of[index] is None:
            raise ValueError(f"Column {columns.names[index]!r} has numbers, but the input for it has strings.")
    return graph.columns(graph.concatenate(taken), [place_of[index] for index in columns.numbers])


def _level(graph: Graph, given: Input, place: int, level_of: dict[Any, int]) -> str:
    """Index of the level of each row, (n_rows, 1), -1 where it has none.

    A value has the level that equals it, or else the one that has its text.
    """
    values = given.name if given.n_columns == 1 else graph.columns(given.name, [place])
    if given.kind == "U":
        keys = {key: level for key, level in level_of.items() if isinstance(key, str)}
        return graph(
            "LabelEncoder",
            values,
            op_domain="ai.onnx.ml",
            op_version=2,  # the first with integers to strings, and as new as skl2onnx lets be mixed with others
            keys_strings=list(keys),
            values_int64s=list(keys.values()),
            default_int64=-1,
        )
    dtype = np.float64 if given.kind == "f" else np.int64
    known = _levels_of_numbers(level_of, given.kind) or {0: -1}
    number, level = np.array(list(known), dtype=dtype), np.array([[level + 1] for level in known.values()])
    is_level = graph.cast(graph("Equal", graph.cast(values, dtype), graph.constant(number, dtype)))
    found = graph.cast(graph("MatMul", is_level, graph.constant(level)), np.int64)
    return graph("Sub", found, graph.constant(1, np.int64))


def _levels_of_numbers(level_of: dict[Any, int], kind: str) -> dict[float, int]:
    """Levels by numbers of a kind of input."""
    by_text: dict[float, int] = {}
    by_value: dict[float, int] = {}
    for key, level in level_of.items():
        number = _parse(key, kind) if isinstance(key, str) else key
        if number is not None and _is_possible(number, kind):
            (by_text if isinstance(key, str) else by_value)[number] = level
    return by_text | by_value


def _is_possible(number: float, kind: str) -> bool:
    """Whether an input of a kind can equal a number."""
    if kind == "f":
        return float(number) == number
    return (isinstance(number, int) or number.is_integer()) and abs(number) < 2**63


def _parse(text: str, kind: str) -> float | None:
    """Number that has this text, if one has."""
    if kind == "b":
        return {"False": 0, "True": 1}.get(text)
    try:
        number = float(text) if kind == "f" else int(text)
    except (ValueError, OverflowError):
        return None
    return number if text_of(number) == text else None


# Stacks --------------------------------------------------------------------------------


def _write_stack(graph: Graph, stack: Stack, inputs: _Inputs, activation: str) -> str:
    """Weighted sum of the activated outputs of all networks, (n_rows, n_outputs)."""
    check_activations(stack.activations)
    narrow = graph.with_dtype(stack.coefs[0].dtype)
    n_networks, _, n_units = stack.coefs[0].shape
    fixed, learned = _embed(narrow, stack, inputs)
    n_fixed = stack.coefs[0].shape[1] if stack.embedding is None else stack.embedding.n_fixed
    units = ""
    if fixed:  # all networks have the same, so their first layers are one matrix
        coef = stack.coefs[0][:, :n_fixed].transpose(1, 0, 2).reshape(n_fixed, -1)
        sums = narrow.reshape(narrow("MatMul", fixed, narrow.constant(coef)), 0, n_networks, n_units)
        units = narrow("Transpose", sums, perm=[1, 0, 2])
    if learned:
        product = narrow("MatMul", learned, narrow.constant(stack.coefs[0][:, n_fixed:]))
        units = narrow("Add", units, product) if units else product
    units = narrow("Add", units, narrow.constant(stack.intercepts[0][:, np.newaxis]))
    for name, coef, intercept in zip(stack.activations, stack.coefs[1:], stack.intercepts[1:], strict=True):
        units = narrow("MatMul", write_activation(narrow, name, units), narrow.constant(coef))
        units = narrow("Add", units, narrow.constant(intercept[:, np.newaxis]))
    outputs = write_outputs(graph, activation, graph.cast(units))  # (n_networks, n_rows, n_outputs)
    n_outputs = stack.intercepts[-1].shape[1]
    last = graph("Transpose", outputs, perm=[1, 2, 0])
    return graph.reshape(graph("MatMul", last, graph.constant(stack.weights[:, np.newaxis])), 0, n_outputs)


def _embed(graph: Graph, stack: Stack, inputs: _Inputs) -> tuple[str, str]:
    """Fixed inputs (n_rows, n_fixed) and learned ones (n_networks, n_rows, n_learned); "" where there are none."""
    embedding, numbers, clipped = stack.embedding, "", ""
    if inputs.numbers:
        numbers = graph.cast(inputs.numbers)
        clipped = numbers if embedding is None else _clip_smoothly(graph, numbers)
    if embedding is None:
        return numbers, ""
    fixed = [*_fixed_numbers(graph, embedding, inputs, clipped), *_fixed_levels(graph, embedding, inputs)]
    if embedding.n_bins:
        fixed.append(_bins(graph, embedding, inputs, numbers))
    learned = [
        _vectors(graph, inputs, category, vectors)
        for category, vectors in zip(embedding.learned, stack.learned, strict=False)
    ]
    learned += [_waves(graph, clipped, waves) for waves in stack.learned[len(learned) :]]
    return graph.concatenate(fixed), graph("Concat", *learned, axis=2) if learned else ""


def _fixed_numbers(graph: Graph, embedding: TableEmbedding, inputs: _Inputs, clipped: str) -> Iterator[str]:
    """Clipped numbers, and indicators of missing ones."""
    if clipped:
        yield clipped
    if embedding.indicated:
        yield graph.cast(graph.columns(inputs.missing, embedding.indicated))


def _fixed_levels(graph: Graph, embedding: TableEmbedding, inputs: _Inputs) -> Iterator[str]:
    """Levels as 1 and -1, and one-hot."""
    if embedding.signed:
        levels = graph.columns(inputs.levels, embedding.signed)
        first, second = (graph.cast(graph("Equal", levels, graph.constant(level, np.int64))) for level in (0, 1))
        yield graph("Sub", first, second)
    if embedding.one_hot:
        category, level = np.array(embedding.one_hot).T
        equal = graph("Equal", graph.columns(inputs.levels, category), graph.constant(level, np.int64))
        yield graph.cast(equal)


def _bins(graph: Graph, embedding: TableEmbedding, inputs: _Inputs, numbers: str) -> str:
    number, low, high = np.array(embedding.bins).T
    places = number.astype(np.int64)
    slope, offset = graph.constant(1 / (high - low)), graph.constant(-low / (high - low))
    filled = graph("Add", graph("Mul", graph.columns(numbers, places), slope), offset)
    bins = graph("Max", graph("Min", filled, graph.constant(1)), graph.constant(0))
    is_indicated = graph.constant(np.isin(places, embedding.indicated), np.bool_)
    is_empty = graph("And", graph.columns(inputs.missing, places), is_indicated)
    return graph("Where", is_empty, graph.constant(0), bins)


def _vectors(graph: Graph, inputs: _Inputs, category: int, vectors: np.ndarray) -> str:
    """Vectors of the levels of a category, (n_networks, n_rows, width)."""
    index = graph("Add", graph.columns(inputs.levels, [category]), graph.constant(1, np.int64))
    table = graph.constant(vectors.transpose(1, 0, 2))  # (1 + n_levels, n_networks, width)
    return graph("Transpose", graph("Gather", table, graph.reshape(index, -1), axis=0), perm=[1, 0, 2])


def _waves(graph: Graph, clipped: str, waves: np.ndarray) -> str:
    """Waves of all numbers, (n_networks, n_rows, n_numbers * n_frequencies)."""
    n_networks, _, n_numbers, n_frequencies = waves.shape
    frequencies, phases = waves.reshape(n_networks, 2, 1, -1).swapaxes(0, 1)
    z = graph.columns(clipped, np.repeat(np.arange(n_numbers), n_frequencies))
    # Cosines as sines, a quarter of a turn later: onnxruntime 1.24, for one, has no others in float64.
    turns = graph("Add", graph("Mul", z, graph.constant(frequencies)), graph.constant(phases + 0.25))
    return graph("Sin", graph("Mul", turns, graph.constant(2 * math.pi)))


def _clip_smoothly(graph: Graph, z: str) -> str:
    third = graph("Mul", z, graph.constant(1 / 3))
    return graph("Div", z, graph("Sqrt", graph("Add", graph("Mul", third, third), graph.constant(1))))

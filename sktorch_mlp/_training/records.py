"""Records of epochs as columns, and curves as arrays: the plain form in which they are pickled and saved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

#: An array where all values are of one type, else a list.
Column = np.ndarray | list[Any]
#: Consecutive records with the same names, as columns.
Block = dict[str, Column]

#: dtypes of the arrays, by the types of the values; a drawn learning rate is a float of numpy.
_DTYPES: dict[frozenset[type], type] = {
    frozenset({float}): np.float64,
    frozenset({np.float64}): np.float64,
    frozenset({float, np.float64}): np.float64,
    frozenset({int}): np.int64,
}


def to_columns(records: Iterable[dict[str, Any]]) -> list[Block]:
    """Turn records into columns, anew where their names change."""
    return [
        dict(zip(names, map(to_array, zip(*(record.values() for record in group), strict=True)), strict=True))
        for names, group in groupby(records, key=tuple)
    ]


def from_columns(blocks: Iterable[Block]) -> list[dict[str, Any]]:
    """Make the records of which `to_columns` has made columns."""
    return [
        dict(zip(block, values, strict=True))
        for block in blocks
        for values in zip(*map(to_list, block.values()), strict=True)
    ]


def to_array(values: Sequence[Any]) -> Column:
    """Array of values that are all floats or all integers, else a list."""
    dtype = _DTYPES.get(frozenset(map(type, values)))
    try:
        return list(values) if dtype is None else np.array(values, dtype)
    except OverflowError:  # of an integer beyond 64 bits
        return list(values)


def to_list(column: Column) -> list[Any]:
    """Values of which `to_array` has made an array."""
    return column.tolist() if isinstance(column, np.ndarray) else list(column)

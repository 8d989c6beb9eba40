"""Columns of a raw table: which are numbers and which categories, and both as one matrix of numbers."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np

from .tables import (
    Kind,
    Level,
    as_array_of_numbers,
    as_table,
    bools_as_text,
    columns_of,
    factorize,
    kind_of,
    read_numbers,
    read_values,
    rows_of,
    text_of,
    to_float64,
)

#: Rows read at once, so that what is made of a column on the way does not grow with the table.
_BLOCK_ROWS = 2**16

#: Standardized numbers lie within plus and minus this.
LARGEST = 1e6

#: By subnormal numbers, some processors do not divide.
_SMALLEST_SCALE = 1e-300

#: Of more levels than this, those that occur once are left out: nothing can be learned of them.
_MANY_LEVELS = 1000

#: Strings are free text from this many values on, if most are distinct and have this many words on average.
_TEXT_VALUES, _TEXT_WORDS = 20, 3


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, and how to standardize it.

    Parameters
    ----------
    index : int
        Place in X.
    name : str
        Its name in a frame, "column 3" in an array.
    center : float
        Median.
    scale : float
        Interquartile range; half the range where that is 0, and 1 where that is 0, too.
    has_missing : bool
        Whether values were missing in fit.
    """

    index: int
    name: str
    center: float
    scale: float
    has_missing: bool

    @classmethod
    def learn(cls, index: int, name: str, values: np.ndarray) -> NumberColumn | None:
        """Column of these values in float64; None if they tell nothing."""
        halves = values[~np.isnan(values)] / 2  # a difference of halves does not overflow
        has_missing = len(halves) < len(values)
        if len(halves) == 0 or (not has_missing and halves.min() == halves.max()):
            return None
        low, center, high = np.percentile(halves, [25, 50, 75]).tolist()
        scale = 2 * (high - low) or float(halves.max() - halves.min()) or 1.0
        return cls(index, name, 2 * center, min(max(scale, _SMALLEST_SCALE), sys.float_info.max), has_missing)


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories.

    Parameters
    ----------
    index : int
        Place in X.
    name : str
        Its name in a frame, "column 3" in an array.
    levels : tuple of str, bool, int or float
        Distinct values: in the order of a category dtype, else sorted. Of more than 1000, those that occur once are
        left out.
    has_missing : bool
        Whether fit had rows without a level.
    """

    index: int
    name: str
    levels: tuple[Level, ...]
    has_missing: bool

    @classmethod
    def learn(
        cls, index: int, name: str, codes: np.ndarray, distinct: list[Level], kind: Kind
    ) -> CategoryColumn | None:
        """Column of the values that have these codes; None if they tell nothing."""
        if kind == "mixed":  # as pandas leaves a column of a CSV file that it reads in parts: 1 and "1" are the same
            distinct = [text_of(value) for value in distinct]
        counts: Counter[Level] = Counter()
        n_rows = np.bincount(codes[codes >= 0], minlength=len(distinct))
        for value, n in zip(distinct, n_rows.tolist(), strict=True):
            counts[value] += n
        least = 1 if len(counts) <= _MANY_LEVELS else 2
        levels = [level for level in counts if counts[level] >= least]
        if kind != "category":
            levels.sort()
        has_missing = sum(counts[level] for level in levels) < len(codes)
        return cls(index, name, tuple(levels), has_missing) if levels and len(levels) + has_missing > 1 else None

    @cached_property
    def positions(self) -> dict[Level, int]:
        """Index of each level, by its value and by its text."""
        positions: dict[Level, int] = {text_of(level): position for position, level in enumerate(self.levels)}
        return positions | {level: position for position, level in enumerate(self.levels)}

    def encode(self, values: Any) -> np.ndarray:
        """Index of the level of each value, -1 where it has none.

        A value has the level that equals it, or else the one that prints as the same text: "7" is the level of 7 in
        a column of strings, and "True" that of True in a column of bools.
        """
        codes, distinct = factorize(bools_as_text(values) if isinstance(self.levels[0], str) else values)
        positions = self.positions
        found = [positions.get(value, positions.get(text_of(value), -1)) for value in distinct]
        return np.array([*found, -1]).take(codes)  # the last one is that of code -1


class TableEncoder:
    """Turns a table into a matrix: standardized numbers first, then categories as the index of their level.

    Columns that tell nothing are left out: constant ones, and those without values. One that is constant where it is
    not missing stays.

    Parameters
    ----------
    categorical_features : "from_dtype", array-like or None, default="from_dtype"
        With "from_dtype", columns of categories, strings and bools are categorical; columns of objects, and of arrays
        of objects, by what they contain. Else the names, positions or mask of the categorical columns. Other bools
        then are 0 and 1, and strings are read as numbers.

    Attributes
    ----------
    numbers : list of NumberColumn
    categories : list of CategoryColumn
    """

    numbers: list[NumberColumn]
    categories: list[CategoryColumn]

    def __init__(self, categorical_features: Any = "from_dtype") -> None:
        self.categorical_features = categorical_features

    def __getstate__(self) -> dict[str, Any]:
        """What has been learned as plain values: lists, and arrays of what is a number for each column."""
        numbers, categories = self.numbers, self.categories
        return {
            "numbers": {
                **_common_fields(numbers),
                "center": np.array([number.center for number in numbers], np.float64),
                "scale": np.array([number.scale for number in numbers], np.float64),
            },
            "categories": {**_common_fields(categories), "levels": [list(category.levels) for category in categories]},
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        numbers, categories = state["numbers"], state["categories"]
        self.categorical_features = "from_dtype"  # which only `fit` would use
        self.numbers = [
            NumberColumn(index, name, center, scale, has_missing)
            for (index, name, has_missing), center, scale in zip(
                _common_values(numbers), numbers["center"].tolist(), numbers["scale"].tolist(), strict=True
            )
        ]
        self.categories = [
            CategoryColumn(index, name, tuple(levels), has_missing)
            for (index, name, has_missing), levels in zip(_common_values(categories), categories["levels"], strict=True)
        ]

    def fit(self, X: Any) -> Self:
        """Learn the columns of X.

        Parameters
        ----------
        X : DataFrame, table or ndarray of shape (n_rows, n_columns)
            Of pandas, numpy, or a library that narwhals knows, such as polars and pyarrow.

        Raises
        ------
        TypeError
            If a column has neither numbers nor categories.
        ValueError
            If a column of strings has free text or should be numbers, or numbers are infinite.
        """
        X = as_table(X)
        names = None if isinstance(X, np.ndarray) else list(X.columns)
        columns = columns_of(X)
        by_dtype = isinstance(self.categorical_features, str) and self.categorical_features == "from_dtype"
        named = None if by_dtype else _categorical_mask(self.categorical_features, names, len(columns))
        found: list[NumberColumn | CategoryColumn | None] = []
        for index, column in enumerate(columns):
            name = f"column {index}" if names is None else str(names[index])
            values = read_values(column)
            kind = kind_of(values, name)
            if kind == "number" if named is None else not named[index]:
                read = read_numbers(values, name)
                _check_finite(read[:, None], [name])
                found.append(NumberColumn.learn(index, name, read))
            else:
                if kind == "category":
                    values = values.remove_unused_categories()
                codes, distinct = factorize(bools_as_text(values) if kind == "mixed" else values)
                if named is None and kind in ("string", "mixed"):
                    _check_not_text(codes, distinct, name)
                found.append(CategoryColumn.learn(index, name, codes, distinct, kind))
        self.numbers = [column for column in found if isinstance(column, NumberColumn)]
        self.categories = [column for column in found if isinstance(column, CategoryColumn)]
        return self

    def transform(self, X: Any, dtype: np.dtype | type) -> np.ndarray:
        """Matrix of the columns of X, found by their place and not by their name.

        Parameters
        ----------
        X : DataFrame, table or ndarray of shape (n_rows, n_columns)
            Its dtypes and its library may differ from those in fit.
        dtype : dtype
            float32 or float64.

        Returns
        -------
        matrix : ndarray of shape (n_rows, n_numbers + n_categories)
            Numbers are NaN where missing, categories -1 where missing or unknown.

        Raises
        ------
        TypeError
            If a column has neither numbers nor categories.
        ValueError
            If numbers are infinite, or strings cannot be read as numbers.
        """
        X = as_table(X)
        out = np.empty((X.shape[0], len(self.numbers) + len(self.categories)), dtype)
        parameters = np.array([(number.center, number.scale) for number in self.numbers]).reshape(-1, 2) / 2
        for start in range(0, len(out), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            values, levels = self._read_rows(rows_of(X, rows))
            with np.errstate(over="ignore"):
                values /= 2  # differences of halves do not overflow
                values -= parameters[:, 0]
                values /= parameters[:, 1]
            out[rows, : len(self.numbers)] = np.clip(values, -LARGEST, LARGEST, out=values)
            for j, level_of in enumerate(levels, len(self.numbers)):
                out[rows, j] = level_of
        return out

    def read(self, X: Any) -> np.ndarray:
        """Matrix of the columns of X at their place: numbers as they are, categories as the index of their level.

        Parameters
        ----------
        X : as in `transform`

        Returns
        -------
        matrix : ndarray of shape (n_rows, n_columns), float64
            Columns that were left out are 0.
        """
        X = as_table(X)
        values, levels = self._read_rows(X)
        out = np.zeros(X.shape)
        out[:, [number.index for number in self.numbers]] = values
        for category, level_of in zip(self.categories, levels, strict=True):
            out[:, category.index] = level_of
        return out

    def _read_rows(self, X: Any) -> tuple[np.ndarray, list[np.ndarray]]:
        """Numbers (n_rows, n_numbers) in float64, and the levels of each category."""
        array = as_array_of_numbers(X)
        columns = columns_of(X if array is None else array)
        if array is not None:
            values = to_float64(array[:, [number.index for number in self.numbers]])
        else:
            values = np.empty((X.shape[0], len(self.numbers)))
            for j, number in enumerate(self.numbers):
                values[:, j] = read_numbers(read_values(columns[number.index]), number.name)
        _check_finite(values, [number.name for number in self.numbers])
        levels = []
        for category in self.categories:
            column = read_values(columns[category.index])
            kind_of(column, category.name)  # raises for what is no category
            levels.append(category.encode(column))
        return values, levels


def _common_fields(columns: Sequence[NumberColumn | CategoryColumn]) -> dict[str, Any]:
    """Fields that numbers and categories have, with a value for each column."""
    return {
        "index": np.array([column.index for column in columns], np.int64),
        "name": [column.name for column in columns],
        "has_missing": np.array([column.has_missing for column in columns], bool),
    }


def _common_values(fields: dict[str, Any]) -> Iterator[tuple[int, str, bool]]:
    """Values of these fields, column by column."""
    yield from zip(fields["index"].tolist(), fields["name"], fields["has_missing"].tolist(), strict=True)


# Checks ---------------------------------------------------------------------------------


def _check_finite(values: np.ndarray, names: Sequence[str]) -> None:
    is_infinite = np.isinf(values)
    if is_infinite.any():
        name = names[int(is_infinite.any(axis=0).argmax())]
        raise ValueError(
            f"Input X contains infinity or a value too large for dtype('float64'), in feature {name!r}. "
            "Replace it by a number, or by NaN as missing."
        )


def _check_not_text(codes: np.ndarray, distinct: list[Level], name: str) -> None:
    n_values, n_distinct = np.count_nonzero(codes >= 0), len(distinct)
    if n_values < _TEXT_VALUES or n_distinct <= n_values / 2:
        return
    if sum(len(str(value).split()) for value in distinct) >= _TEXT_WORDS * n_distinct:
        raise ValueError(
            f"Feature {name!r} of X contains free text: {n_distinct} of {n_values} strings are distinct, with several "
            "words each. Drop it, or encode it, as skrub's TableVectorizer does. If it is categorical all the same, "
            "give it the dtype 'category' or name it in categorical_features."
        )


def _categorical_mask(categorical_features: Any, names: list[Any] | None, n_features: int) -> np.ndarray:
    """Mask of the named columns, with the errors of scikit-learn's HistGradientBoosting."""
    mask = np.zeros(n_features, dtype=bool)
    if categorical_features is None:
        return mask
    if isinstance(categorical_features, set | frozenset):
        categorical_features = list(categorical_features)
    chosen = np.asarray(categorical_features)
    if chosen.ndim != 1:
        got = f"{categorical_features!r}, of {chosen.ndim} dimensions"
        raise ValueError(f"categorical_features must be an array-like of bool, int or str, got: {got}.")
    if len(chosen) == 0:
        return mask
    types = {type(item) for item in chosen}
    if chosen.dtype.kind not in "ibUO" or (chosen.dtype.kind == "O" and types != {str}):
        got = chosen.dtype.name if chosen.dtype.kind != "O" else ", ".join(sorted(t.__name__ for t in types))
        raise ValueError(f"categorical_features must be an array-like of bool, int or str, got: {got}.")
    if chosen.dtype.kind == "b":
        if len(chosen) != n_features:
            raise ValueError(
                f"categorical_features set as a boolean mask must have shape (n_features,), got: {chosen.shape}"
            )
        return chosen
    if chosen.dtype.kind == "i":
        if chosen.max() >= n_features or chosen.min() < 0:
            raise ValueError("categorical_features set as integer indices must be in [0, n_features - 1]")
        mask[chosen] = True
        return mask
    if names is None:
        raise ValueError(
            "categorical_features should be passed as an array of integers or as a boolean mask when the model is "
            "fitted on data without feature names."
        )
    for name in chosen:
        if name not in names:
            raise ValueError(
                f"categorical_features has an item value '{name}' which is not a valid feature name of the training "
                f"data. Observed feature names: {names}"
            )
        mask[names.index(name)] = True
    return mask

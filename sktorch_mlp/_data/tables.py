"""Raw tables of several libraries: their columns as arrays, what kind of values these have, and how to read them.

A column of any library becomes a pandas or numpy array first. This is read as numbers in float64, or as codes: distinct
values, and for each row the place of its value among them.
"""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

Level: TypeAlias = str | bool | int | float
Kind: TypeAlias = Literal["number", "bool", "string", "mixed", "category"]

#: Up to so many rows, objects are faster than the arrays of pandas.
_FEW_ROWS = 100


def as_table(X: Any) -> Any:
    """X itself if it is an array or a frame of pandas, else a frame of narwhals.

    Raises
    ------
    TypeError
        If it is none.
    """
    if isinstance(X, np.ndarray | pd.DataFrame):
        return X
    import narwhals as nw  # scikit-learn, from 1.9 on, requires it

    try:
        return nw.from_native(X, eager_only=True)
    except TypeError as error:
        raise TypeError(
            f"X is a {type(X).__name__}, which is no frame that narwhals knows. Pass an array, a DataFrame of pandas or polars, "
            "or a Table of pyarrow."
        ) from error


def as_array_of_numbers(table: Any) -> np.ndarray | None:
    """The table as an array if all its numbers have one dtype, for then they are read together."""
    if isinstance(table, pd.DataFrame):
        first, *others = table.dtypes
        if not isinstance(first, np.dtype) or not all(
            isinstance(dtype, np.dtype) and dtype == first for dtype in others
        ):
            return None
        table = table.to_numpy()
    return table if isinstance(table, np.ndarray) and table.dtype.kind in "biuf" else None


def rows_of(table: Any, rows: slice) -> Any:
    """Some rows of a table."""
    if rows.start == 0 and rows.stop >= table.shape[0]:
        return table  # a frame takes 30 µs to slice
    return table.iloc[rows] if isinstance(table, pd.DataFrame) else table[rows]


def columns_of(table: Any) -> Sequence[Any]:
    """Columns of what `as_table` returns, by place: names in pandas may occur twice."""
    if isinstance(table, np.ndarray):
        return table.T  # type: ignore[return-value] # an array is no Sequence by its type
    return [column for _, column in table.items()] if isinstance(table, pd.DataFrame) else list(table.iter_columns())


def read_values(column: Any) -> Any:
    """Values of a column as an ndarray or an extension array of pandas."""
    if isinstance(column, np.ndarray):
        return column
    if not isinstance(column, pd.Series):
        return _values_by_narwhals(column)
    values = column.array
    if isinstance(values, pd.arrays.NumpyExtensionArray | pd.arrays.SparseArray):
        return np.asarray(values)
    if isinstance(values.dtype, pd.ArrowDtype):
        return read_values(values.__arrow_array__().to_pandas())
    return values


def _values_by_narwhals(column: Any) -> Any:
    import narwhals as nw

    if not column.implementation.is_polars():
        # The way of narwhals would lose the dictionary of a pyarrow column.
        return read_values((column.to_native() if column.implementation.is_pyarrow() else column).to_pandas())
    if column.dtype in (nw.Categorical, nw.Enum):
        # A Categorical of polars has no order of its own, so that its levels are sorted.
        return pd.Categorical(column.cast(nw.String).to_numpy(), categories=getattr(column.dtype, "categories", None))
    return (column.cast(nw.Float64) if column.dtype in (nw.Int128, nw.UInt128) else column).to_numpy()


def kind_of(values: Any, name: str) -> Kind:
    """Kind of the values of a column; objects are looked at.

    Raises
    ------
    TypeError
        If they are neither numbers nor categories.
    """
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return "category"
    if isinstance(dtype, pd.StringDtype) or dtype.kind in "UT":
        return "string"
    if values.ndim == 1 and dtype.kind in "biuf":
        return "bool" if dtype.kind == "b" else "number"
    content = str(dtype) if values.ndim == 1 else f"arrays of {dtype}"
    if values.ndim == 1 and dtype.kind == "O":
        objects = np.asarray(values, dtype=object)
        types = set(map(type, objects[~pd.isna(objects)]))
        kinds = set(map(_kind_of_type, types))
        if None not in kinds:
            return _common_kind(kinds)
        content = ", ".join(sorted(type_.__name__ for type_ in types if _kind_of_type(type_) is None))
    raise TypeError(
        f"Feature {name!r} of X contains {content}; argument must be a string or a number. Drop or encode it: a date "
        "can become its year, month and day, or seconds since a date. skrub's TableVectorizer encodes such features."
    )


def _kind_of_type(type_: type) -> Kind | None:
    if issubclass(type_, str):
        return "string"
    if issubclass(type_, bool | np.bool_):
        return "bool"
    return "number" if issubclass(type_, numbers.Real | Decimal) and not issubclass(type_, np.timedelta64) else None


def _common_kind(kinds: set[Kind | None]) -> Kind:
    """Kind of objects of several kinds; without objects all are missing, and no kind is wrong."""
    if "string" in kinds:
        return "string" if len(kinds) == 1 else "mixed"
    return "bool" if kinds == {"bool"} else "number"


def read_numbers(values: Any, name: str) -> np.ndarray:
    """Values in float64, NaN where missing; strings and categories are read as numbers.

    Raises
    ------
    TypeError
        If they are neither numbers nor categories.
    ValueError
        If a string is no number.
    """
    if kind_of(values, name) in ("number", "bool") and values.dtype.kind != "O":
        return to_float64(values)
    codes, distinct = factorize(values)
    try:
        return np.array([*map(_parse, distinct), np.nan]).take(codes)  # the last one is that of code -1
    except ValueError as error:
        raise ValueError(
            f"Feature {name!r} of X cannot be read as numbers: {error}. Drop or encode it, or make it categorical: "
            "name it in categorical_features before fit."
        ) from error


def _parse(value: Level) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer
        return np.inf


def to_float64(values: Any) -> np.ndarray:
    """Numbers in float64; those that are too large become infinite."""
    with np.errstate(over="ignore"):  # of long doubles
        return np.asarray(values, dtype=np.float64)


def bools_as_text(values: Any) -> Any:
    """Objects with the text of a bool in place of it: True and 1 are equal, but beside strings they are two levels."""
    if not isinstance(values, np.ndarray) or values.dtype != object:
        return values
    is_bool = np.fromiter((isinstance(value, bool | np.bool_) for value in values), bool, len(values))
    return np.where(is_bool, values.astype(str), values) if is_bool.any() else values


def factorize(values: Any) -> tuple[np.ndarray, list[Level]]:
    """Code of each value, -1 where it is missing, and the distinct values; categories in their order."""
    if isinstance(values, pd.Categorical) and len(values.categories) <= _FEW_ROWS * len(values):
        codes, distinct = values.codes, values.categories
    else:  # so that a row is predicted without a look at thousands of categories
        is_foreign = values.dtype.kind in "UT"  # strings of numpy, which pandas does not know
        codes, distinct = pd.factorize(np.asarray(values, object) if is_foreign or len(values) < _FEW_ROWS else values)
    return codes, [_plain(value) for value in distinct.tolist()]


def _plain(value: Any) -> Level:
    """Python value that equals it; of a category that is no string, bool or number, such as an interval, its text."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | bool | int | float):
        return value
    return float(value) if isinstance(value, numbers.Real | Decimal) else str(value)


def text_of(value: Level) -> str:
    """Text of a value: 7.0 has that of 7, as missing values make floats of integers."""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)

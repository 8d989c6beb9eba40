"""Tables in, one narrow matrix of numbers out: scaled numbers, and levels of categories.

The only file here that knows frames. scikit-learn requires narwhals, so it is there for those that are not of pandas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

#: Levels from which those seen once are left out, and a column with so many would be mostly noise.
_MANY_LEVELS = 1000
#: A column of strings is free text from so many values on, if most are distinct and they have so many words.
_TEXT_VALUES, _TEXT_WORDS = 20, 3
#: Scaled numbers are cut off here: far outside all others, and far inside the range of float32.
_FARTHEST = 1e6

_NUMBERS = {"integer", "floating", "mixed-integer-float", "decimal"}
_ENCODE_TIMES = (
    "Turn it into numbers, such as year, month and day, or seconds since a date; skrub's TableVectorizer does."
)


@dataclass(frozen=True)
class NumberColumn:
    """A column of numbers, scaled as ``(value - center) / scale``.

    Attributes
    ----------
    index : int
        Place in the table.
    name : str
    center : float
        Median.
    scale : float
        Range between the quartiles; where it is zero half the whole range, or 1.
    has_missing : bool
        Whether values were missing in `fit`.
    """

    index: int
    name: str
    center: float
    scale: float
    has_missing: bool


@dataclass(frozen=True)
class CategoryColumn:
    """A column of categories.

    Attributes
    ----------
    index : int
        Place in the table.
    name : str
    levels : tuple
        Strings, booleans or numbers, in the order of the dtype, else sorted.
    is_text : bool
        Whether values are compared as strings, since some were strings and some were not.
    has_missing : bool
        Whether values were missing in `fit`.
    """

    index: int
    name: str
    levels: tuple[Any, ...]
    is_text: bool
    has_missing: bool


class TableEncoder:
    """Turns tables into matrices.

    Columns that are constant in `fit` are left out, but for the first one where all are.

    Parameters
    ----------
    categorical_features : "from_dtype", array-like of str, int or bool, or None, default="from_dtype"
        Columns that are categories: those of categories, strings and booleans; names, indices or a mask; or none.

    Attributes
    ----------
    numbers : list of NumberColumn
    categories : list of CategoryColumn
    """

    def __init__(self, categorical_features: Any = "from_dtype") -> None:
        self.categorical_features = categorical_features
        self.numbers: list[NumberColumn] = []
        self.categories: list[CategoryColumn] = []
        self._code_maps: dict[int, tuple[Any, np.ndarray]] = {}

    def fit(self, X: Any) -> Self:
        """Learn what the columns are.

        Parameters
        ----------
        X : DataFrame or ndarray of shape (n_rows, n_columns)
            A frame of pandas, or any that narwhals reads.

        Raises
        ------
        ValueError
            If a column is free text, has infinite values, or cannot be read as numbers although it must.
        TypeError
            If a column has times or objects.
        """
        names = _names(X)
        mask = _categorical_mask(self.categorical_features, names, _n_columns(X))
        columns: list[NumberColumn | CategoryColumn] = []
        for index, column in enumerate(_columns(X)):
            name = f"column {index}" if names is None else str(names[index])
            is_category = _is_category(column, name) if mask is None else bool(mask[index])
            fit_column = _fit_category if is_category else _fit_number
            columns.append(fit_column(column, index, name, by_dtype=mask is None))
        informative = [column for column in columns if _is_informative(column)] or columns[:1]
        self.numbers = [column for column in informative if isinstance(column, NumberColumn)]
        self.categories = [column for column in informative if isinstance(column, CategoryColumn)]
        return self

    def transform(self, X: Any, dtype: np.dtype) -> np.ndarray:
        """Encode a table with the columns of `fit`.

        Returns
        -------
        encoded : ndarray of shape (n_rows, n_numbers + n_categories)
            Scaled numbers, nan where missing; then indices of levels, -1 where missing or unknown.
        """
        if isinstance(X, np.ndarray) and X.dtype.kind in "fiub" and not self.categories:
            return self._transform_numbers(X, dtype)
        encoded = np.empty((len(X), len(self.numbers) + len(self.categories)), dtype=dtype)
        columns = _columns(X)
        with np.errstate(over="ignore"):
            for place, number in enumerate(self.numbers):
                encoded[:, place] = _scale(_to_floats(columns[number.index], number.name), number.center, number.scale)
        for place, category in enumerate(self.categories, start=len(self.numbers)):
            encoded[:, place] = self._to_codes(columns[category.index], category)
        return encoded

    def _to_codes(self, column: pd.Series, category: CategoryColumn) -> np.ndarray:
        """Indices of the levels, -1 where missing or unknown."""
        if not isinstance(column.dtype, pd.CategoricalDtype):
            values, _ = _to_objects(column, as_text=category.is_text)
            found: np.ndarray = pd.Index(category.levels, dtype=object).get_indexer(pd.Index(values, dtype=object))
            return found
        categories, codes = column.array.categories, column.array.codes
        known, code_of = self._code_maps.get(category.index, (None, None))
        if code_of is None or known is not categories:  # parts of a frame share their categories
            given = pd.Index([str(value) if category.is_text else value for value in categories], dtype=object)
            code_of = np.append(pd.Index(category.levels, dtype=object).get_indexer(given), -1)
            self._code_maps[category.index] = categories, code_of
        mapped: np.ndarray = code_of[codes]
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_code_maps": {}}

    def _transform_numbers(self, X: np.ndarray, dtype: np.dtype) -> np.ndarray:
        values = X[:, [number.index for number in self.numbers]].astype(np.float64)
        if np.isinf(values).any():
            raise ValueError(_infinity("X"))
        center = np.array([number.center for number in self.numbers])
        with np.errstate(over="ignore"):
            scaled = _scale(values, center, np.array([number.scale for number in self.numbers]))
        return scaled.astype(dtype, order="C")


# Tables ------------------------------------------------------------------------------


def _names(X: Any) -> list[Any] | None:
    return None if isinstance(X, np.ndarray) else list(getattr(X, "column_names", X.columns))


def _n_columns(X: Any) -> int:
    return int(X.shape[1])


def _columns(X: Any) -> Sequence[pd.Series]:
    """The columns of a table as series of pandas."""
    if isinstance(X, pd.DataFrame):
        return [column for _, column in X.items()]  # a third of the time of `iloc`
    if isinstance(X, np.ndarray):
        return [pd.Series(values) for values in X.T]
    import narwhals.stable.v1 as nw

    return [_from_narwhals(column) for column in nw.from_native(X, eager_only=True).iter_columns()]


def _from_narwhals(column: Any) -> pd.Series:
    import narwhals.stable.v1 as nw

    dtype = column.dtype
    if dtype in (nw.Categorical, nw.Enum):
        levels = column.cat.get_categories().to_list()
        return pd.Series(pd.Categorical(column.cast(nw.String).to_list(), categories=levels))
    if dtype.is_numeric() and not dtype.is_decimal():
        return pd.Series(column.cast(nw.Float64).fill_null(math.nan).to_numpy())
    values = column.to_numpy() if dtype.is_temporal() else np.array([*column.to_list(), None], dtype=object)[:-1]
    return pd.Series(values)


def _categorical_mask(categorical_features: Any, names: list[Any] | None, n_columns: int) -> np.ndarray | None:
    """Return a mask of the categories; None to go by dtype. Errors are those of scikit-learn's boosting."""
    if isinstance(categorical_features, str):
        return None
    mask = np.zeros(n_columns, dtype=bool)
    if categorical_features is None:
        return mask
    wanted = np.asarray(categorical_features)
    if wanted.size == 0:
        return mask
    if wanted.dtype.kind == "O":
        types = {type(value) for value in wanted.tolist()}
        if types != {str}:
            wrong = ", ".join(sorted(t.__name__ for t in types))
            raise ValueError(f"categorical_features must be an array-like of bool, int or str, got: {wrong}.")
    elif wanted.dtype.kind not in "ibU":
        raise ValueError(f"categorical_features must be an array-like of bool, int or str, got: {wanted.dtype.name}.")
    if wanted.dtype.kind == "b":
        if wanted.shape != mask.shape:
            raise ValueError(
                "categorical_features set as a boolean mask must have shape (n_features,), got: "
                f"{wanted.shape}, with {n_columns} features."
            )
        return wanted
    if wanted.dtype.kind == "i":
        if wanted.min() < 0 or wanted.max() >= n_columns:
            raise ValueError(
                f"categorical_features set as integer indices must be in [0, n_features - 1], got {wanted}."
            )
        mask[wanted] = True
        return mask
    if names is None:
        raise ValueError(
            "categorical_features should be passed as an array of integers or as a boolean mask when the model is "
            "fitted on data without feature names."
        )
    for name in wanted.tolist():
        if name not in names:
            raise ValueError(
                f"categorical_features has an item value {name!r} which is not a valid feature name of the training "
                f"data. Observed feature names: {names}"
            )
        mask[names.index(name)] = True
    return mask


# Kinds of columns --------------------------------------------------------------------


def _is_category(column: pd.Series, name: str) -> bool:
    """Whether a column is of categories by its dtype, or by its values where these are objects."""
    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype) or pd.api.types.is_bool_dtype(dtype):
        return True
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        return False
    if pd.api.types.is_object_dtype(dtype):
        kind = pd.api.types.infer_dtype(column, skipna=True)
        if kind in _NUMBERS or kind == "empty":
            return False
        if kind in {"boolean", "string", "mixed-integer", "mixed"}:
            _check_objects(column, name)
            return True
    elif pd.api.types.is_string_dtype(dtype):
        return True
    raise TypeError(
        f"X has a column of dtype {dtype} that is neither numbers nor categories: {name!r}. {_ENCODE_TIMES}"
    )


def _check_objects(column: pd.Series, name: str) -> None:
    for value in column[column.notna()]:
        if not isinstance(value, str | bool | int | float | np.generic):
            raise TypeError(
                f"The values of a column of objects: argument must be a string or a number, not {type(value).__name__!r} "
                f"({name!r})."
            )


def _is_informative(column: NumberColumn | CategoryColumn) -> bool:
    if isinstance(column, CategoryColumn):
        return len(column.levels) + column.has_missing > 1 and len(column.levels) > 0
    return column.has_missing or not math.isnan(column.scale)


# Numbers -----------------------------------------------------------------------------


def _fit_number(column: pd.Series, index: int, name: str, *, by_dtype: bool) -> NumberColumn:
    """Learn a column of numbers. Where it has but one value, its scale is nan, or 1 if others are missing."""
    values = _to_floats(column, name)
    known = values[~np.isnan(values)]
    has_missing = 0 < len(known) < len(values)
    if len(known) == 0:
        return NumberColumn(index, name, 0.0, math.nan, has_missing=False)
    low, first, center, third, high = np.quantile(known, [0, 0.25, 0.5, 0.75, 1]).tolist()
    if low == high:
        return NumberColumn(index, name, center, 1.0 if has_missing else math.nan, has_missing=has_missing)
    scale = third - first or high / 2 - low / 2
    return NumberColumn(index, name, center, min(scale, np.finfo(np.float64).max), has_missing=has_missing)


def _scale(values: np.ndarray, center: Any, scale: Any) -> np.ndarray:
    scaled: np.ndarray = np.clip((values - center) / scale, -_FARTHEST, _FARTHEST)
    return scaled


def _to_floats(column: pd.Series, name: str) -> np.ndarray:
    """Read a column as float64, nan where missing.

    Raises
    ------
    ValueError
        If it cannot be read, or has infinite values.
    """
    dtype = column.dtype
    if isinstance(dtype, np.dtype) and dtype.kind in "fiub":
        values: np.ndarray = column.to_numpy().astype(np.float64)
    elif isinstance(dtype, pd.SparseDtype):
        values = np.asarray(column, dtype=np.float64)
    else:
        values = _read_floats(column, name)
    if np.isinf(values).any():
        raise ValueError(_infinity(name))
    return values


def _infinity(name: str) -> str:
    return f"Input X contains infinity or a value too large for dtype('float64') ({name!r}). Replace it by nan or a number."


def _read_floats(column: pd.Series, name: str) -> np.ndarray:
    if column.dtype.kind in "mMc":
        raise TypeError(
            f"X has a column of dtype {column.dtype} that is no column of numbers: {name!r}. {_ENCODE_TIMES}"
        )
    values = np.full(len(column), np.nan)
    is_known = column.notna().to_numpy(dtype=bool)
    try:
        values[is_known] = column[is_known].to_numpy(dtype=object).astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"could not convert string to float: X has a column that must be of numbers and is not, {name!r}: {error}. "
            "Name it in categorical_features, or convert it."
        ) from error
    return values


# Categories --------------------------------------------------------------------------


def _fit_category(column: pd.Series, index: int, name: str, *, by_dtype: bool) -> CategoryColumn:
    has_missing = bool(column.isna().any())
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy()
        counts = np.bincount(codes[codes >= 0], minlength=len(column.cat.categories))
        levels, is_text = np.asarray(column.cat.categories, dtype=object), False
    else:
        if by_dtype:
            _check_text(column, name)
        values, is_text = _to_objects(column)
        codes, uniques = pd.factorize(values)
        order = np.argsort(uniques) if len(uniques) else np.arange(0)
        levels, counts = uniques[order], np.bincount(codes[codes >= 0], minlength=len(uniques))[order]
    is_kept = counts > (1 if np.count_nonzero(counts) > _MANY_LEVELS else 0)
    kept = tuple(level.item() if isinstance(level, np.generic) else level for level in levels[is_kept])
    return CategoryColumn(index, name, kept, is_text, has_missing)


def _to_objects(column: pd.Series, *, as_text: bool = False) -> tuple[np.ndarray, bool]:
    """Values as objects, None where missing, all as strings if some are; and whether they had to become strings."""
    values: Any = column.to_numpy(dtype=object)
    is_known = column.notna().to_numpy(dtype=bool)
    if not is_known.all():
        values = np.where(is_known, values, None)
    if as_text or pd.api.types.infer_dtype(values, skipna=True).startswith("mixed"):
        known = values[is_known]
        as_text = as_text or len({isinstance(value, str) for value in known}) > 1
    if as_text:
        values = np.array([None if value is None else str(value) for value in values], dtype=object)
    return values, as_text


def _check_text(column: pd.Series, name: str) -> None:
    """Raise if strings are free text."""
    known = column[column.notna()]
    if len(known) < _TEXT_VALUES or pd.api.types.infer_dtype(known, skipna=True) != "string":
        return
    if known.nunique() > len(known) / 2 and np.mean([len(value.split()) for value in known]) >= _TEXT_WORDS:
        raise ValueError(
            f"X has a column of free text: {name!r}. Drop it, or turn it into numbers, as skrub's TableVectorizer does. If "
            "its values are categories all the same, convert it to dtype 'category'."
        )

"""Frames and arrays to encode, and encodings of single columns."""

import numpy as np
import pandas as pd

from sktorch_mlp._data.columns import CategoryColumn, TableEncoder

NAN = np.nan


def fit_transform(X, categorical_features="from_dtype", dtype=np.float64):
    return TableEncoder(categorical_features).fit(X).transform(X, dtype)


def frame_of(values, dtype=None):
    return pd.DataFrame({"a": pd.Series(values, dtype=dtype)})


def column_of(values, dtype=None, categorical_features="from_dtype"):
    """The one column that is learned of these values."""
    X = values if isinstance(values, np.ndarray) and values.ndim == 2 else frame_of(values, dtype)
    encoder = TableEncoder(categorical_features).fit(X)
    (column,) = encoder.numbers + encoder.categories
    return column


def levels_of(values, dtype=None, categorical_features="from_dtype"):
    column = column_of(values, dtype, categorical_features)
    assert isinstance(column, CategoryColumn)
    return list(column.levels)


def transformed(fitted, values, dtype=None, categorical_features="from_dtype"):
    """Fit on some values, transform others."""
    encoder = TableEncoder(categorical_features).fit(frame_of(fitted))
    return encoder.transform(frame_of(values, dtype), np.float64)[:, 0].tolist()


def random_frame(seed, n_rows=60):
    """Numbers, strings, categories and bools, some missing, in columns of random order."""
    rng = np.random.default_rng(seed)
    is_missing = rng.random((6, n_rows)) < 0.15
    numbers = rng.normal(size=n_rows) * 10.0 ** rng.integers(-5, 6) + rng.normal()
    letters = rng.choice(list("dbca"), n_rows).astype(object)
    columns = {
        "number": pd.Series(np.where(is_missing[0], NAN, numbers)),
        "skewed": pd.Series(np.exp(3 * rng.normal(size=n_rows))),
        "count": pd.Series(rng.integers(0, 9, n_rows)),
        "float32": pd.Series(rng.normal(size=n_rows).astype(np.float32)),
        "letter": pd.Series(np.where(is_missing[1], None, letters), dtype="str"),
        "grade": pd.Series(pd.Categorical(np.where(is_missing[2], None, letters), categories=list("cabd"))),
        "flag": pd.Series(rng.random(n_rows) < 0.5),
    }
    return pd.DataFrame({name: columns[name] for name in rng.permutation(list(columns))})


def names_of(columns):
    return [column.name for column in columns]

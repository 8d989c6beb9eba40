"""Raw tables: the same matrix from every library, and errors for what is neither number nor category."""

import subprocess
import sys
import tracemalloc
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from sktorch_mlp._data.columns import CategoryColumn, TableEncoder
from tests.data.frames import fit_transform, frame_of, levels_of, names_of, random_frame

# The same matrix from every library -------------------------------------------------------


def as_polars(X):
    polars = pytest.importorskip("polars")
    columns = {
        name: polars.Series(
            [None if pd.isna(value) else value for value in X[name].astype(object)],
            dtype=polars.Enum(X[name].cat.categories.tolist()) if name == "grade" else None,
        )
        for name in X.columns
    }
    return polars.DataFrame(columns)


def as_arrow(X):
    return pytest.importorskip("pyarrow").Table.from_pandas(X)


def as_arrow_columns(X):
    """Frame whose columns are all pyarrow's, the categories a dictionary."""
    pyarrow = pytest.importorskip("pyarrow")
    array = pd.arrays.ArrowExtensionArray
    return pd.DataFrame({name: array(pyarrow.chunked_array([pyarrow.array(X[name])])) for name in X.columns})


def as_nullable(X):
    return X.convert_dtypes()


def as_objects(X):
    """Frame of objects; its categories stay, as objects have no order."""
    return X.astype({name: object for name in X.columns if name != "grade"})


def as_new_strings(X):
    return X.astype({"letter": "string"})


LIBRARIES = [as_polars, as_arrow, as_arrow_columns, as_nullable, as_objects, as_new_strings]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("convert", LIBRARIES)
def test_every_library_gives_the_same_matrix(convert, seed):
    X = random_frame(seed)
    expected = TableEncoder().fit(X)
    encoder = TableEncoder().fit(convert(X))
    assert encoder.numbers == expected.numbers
    assert encoder.categories == expected.categories
    matrix = expected.transform(X, np.float32)
    for fitted in (encoder, expected):
        for X_new in (X, convert(X)):
            np.testing.assert_array_equal(fitted.transform(X_new, np.float32), matrix)


@pytest.mark.parametrize("convert", [as_polars, as_arrow, as_arrow_columns, as_nullable, as_objects])
def test_bools_with_missing_values_are_categories(convert):
    X = pd.DataFrame({"flag": [True, None, False]}, dtype=object)
    encoder = TableEncoder().fit(convert(X))
    assert encoder.categories == [CategoryColumn(0, "flag", (False, True), has_missing=True)]
    assert encoder.transform(convert(X), np.float64).ravel().tolist() == [1, -1, 0]


@pytest.mark.parametrize("convert", [as_polars, as_arrow, as_arrow_columns])
def test_large_tables_are_read_in_blocks(convert, monkeypatch):
    X = random_frame(1)
    matrix = fit_transform(X)
    monkeypatch.setattr("sktorch_mlp._data.columns._BLOCK_ROWS", 7)
    X.index = X.index + 10.5  # whose slices would be by label
    for table in (X, convert(X.reset_index(drop=True))):
        np.testing.assert_array_equal(fit_transform(table), matrix)


def test_arrays_are_read_in_blocks(monkeypatch):
    X = np.random.default_rng(0).normal(size=(50, 3))
    matrix = fit_transform(X)
    monkeypatch.setattr("sktorch_mlp._data.columns._BLOCK_ROWS", 7)
    np.testing.assert_array_equal(fit_transform(X), matrix)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8, np.bool_, np.longdouble, "Float64"])
def test_frame_of_one_dtype_is_read_like_its_columns(dtype):
    X = pd.DataFrame(np.random.default_rng(0).integers(0, 2, (30, 4))).astype(dtype)
    encoder = TableEncoder([2]).fit(X)
    assert (names_of(encoder.numbers), names_of(encoder.categories)) == (["0", "1", "3"], ["2"])
    expected = encoder.transform(X.astype({1: object}), np.float64)
    np.testing.assert_array_equal(encoder.transform(X, np.float64), expected)
    np.testing.assert_array_equal(encoder.transform(X.to_numpy(), np.float64), expected)
    assert len(np.unique(expected)) > 2


def test_memory_of_a_transform_does_not_grow_with_the_rows():
    n_rows = 2**19
    X = pd.DataFrame({f"n{i}": np.arange(n_rows, dtype=np.float32) for i in range(8)})
    encoder = TableEncoder().fit(X[:1000])
    tracemalloc.start()
    matrix = encoder.transform(X, np.float32)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * matrix.nbytes  # in float64 all rows alone would be twice that


def test_categorical_of_polars_has_sorted_levels():
    polars = pytest.importorskip("polars")
    X = polars.DataFrame({"a": polars.Series(["c", "a", None, "b"], dtype=polars.Categorical)})
    assert TableEncoder().fit(X).categories == [CategoryColumn(0, "a", ("a", "b", "c"), has_missing=True)]


def test_wide_numbers_of_polars():
    polars = pytest.importorskip("polars")
    X = polars.DataFrame(
        {
            "int128": polars.Series([1, None, 3], dtype=polars.Int128),
            "decimal": polars.Series([Decimal("1.5"), None, Decimal("2.5")]),
            "null": [None] * 3,
        }
    )
    encoder = TableEncoder().fit(X)
    assert [(column.name, column.center) for column in encoder.numbers] == [("int128", 2), ("decimal", 2)]


def test_narwhals_is_imported_for_other_libraries_only():
    """As long as scikit-learn is not imported, which does so itself."""
    code = """
import sys, types
package = types.ModuleType("sktorch_mlp"); package.__path__ = [sys.argv[1]]; sys.modules["sktorch_mlp"] = package
data = types.ModuleType("sktorch_mlp._data"); data.__path__ = [sys.argv[1] + "/_data"]
sys.modules["sktorch_mlp._data"] = data
import pandas as pd
from sktorch_mlp._data.columns import TableEncoder
X = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
for table in (X, X.to_numpy()):
    TableEncoder().fit(table).transform(table, "float32")
assert not {"narwhals", "sklearn", "polars", "torch"} & set(sys.modules)
"""
    import sktorch_mlp

    subprocess.run([sys.executable, "-c", code, sktorch_mlp.__path__[0]], check=True)


# What is neither number nor category --------------------------------------------------------

MESSAGE = (
    r"Feature '{}' of X contains {}.*; argument must be a string or a number\. .* year, month and day, or seconds since a "
    "date.* skrub's TableVectorizer"
)


@pytest.mark.parametrize(
    ("values", "content"),
    [
        (pd.to_datetime(["2020-01-01", None]), "datetime64"),
        (pd.to_datetime(["2020-01-01", None], utc=True), "datetime64"),
        (pd.to_timedelta([1, 2], unit="D"), "timedelta64"),
        (pd.period_range("2020", periods=2, freq="D"), "Period"),
        (pd.interval_range(0, 2), "Interval"),
        ([1 + 2j, 1], "complex128"),
        ([{"a": 1}, None], "dict"),
        ([[1], (2,)], "list, tuple"),
        ([b"a", "b"], "bytes"),
        ([date(2020, 1, 1), 1], "date"),
        ([np.ones(2), 1.0], "ndarray"),
    ],
)
def test_other_kinds_are_an_error(values, content):
    X = pd.DataFrame({"b": [1, 2], "a": pd.Series(values)})
    for chosen in ("from_dtype", None, ["a"]):
        with pytest.raises(TypeError, match=MESSAGE.format("a", content)):
            TableEncoder(chosen).fit(X)
    for fitted in ([1, 2], ["x", "y"]):
        encoder = TableEncoder().fit(X.assign(a=fitted))
        with pytest.raises(TypeError, match=MESSAGE.format("a", content)):
            encoder.transform(X, np.float32)


def test_structs_and_batches_of_other_libraries_are_an_error():
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    with pytest.raises(TypeError, match=MESSAGE.format("a", "arrays of int64")):
        TableEncoder().fit(polars.DataFrame({"a": [{"z": 1}] * 3}))
    with pytest.raises(TypeError, match=r"X is a RecordBatch, which is no frame.*Pass .*a Table of pyarrow"):
        TableEncoder().fit(pyarrow.Table.from_pandas(pd.DataFrame({"a": [1, 2]})).to_batches()[0])


def test_other_kinds_in_arrays():
    X = np.array([[1, {"a": 1}], [2, {}]], dtype=object)
    with pytest.raises(TypeError, match=MESSAGE.format("column 1", "dict")):
        TableEncoder().fit(X)
    with pytest.raises(TypeError, match=MESSAGE.format("column 0", "datetime64")):
        TableEncoder().fit(np.array([["2020"]], dtype="datetime64[D]"))


def test_other_kinds_of_polars_and_pyarrow():
    polars = pytest.importorskip("polars")
    for values in ([datetime(2020, 1, 1)], [date(2020, 1, 1)], [[1, 2]], [{"a": 1}], [b"x"]):
        frame = polars.DataFrame({"a": values})
        for table in (frame, frame.to_arrow()):
            with pytest.raises(TypeError, match=MESSAGE.format("a", "")):
                TableEncoder().fit(table)
    for values, dtype in (([[1, 2], [3, 4]], polars.Int64), ([["a", "b"], ["c", "d"]], polars.String)):
        frame = polars.DataFrame({"a": polars.Series(values, dtype=polars.Array(dtype, 2))})
        with pytest.raises(TypeError, match="Feature 'a' of X contains"):
            TableEncoder().fit(frame)


TEXTS = [f"what {word} people write" for word in "abcdefghijklmnopqrst"]


@pytest.mark.parametrize("convert", [lambda X: X, as_polars, as_arrow, lambda X: X.to_numpy(object)])
def test_free_text_is_an_error(convert):
    X = frame_of(TEXTS + TEXTS[:10] + [None] * 50)
    with pytest.raises(ValueError, match=r"contains free text: 20 of 30 strings.*skrub's TableVectorizer.*'category'"):
        TableEncoder().fit(convert(X))
    with pytest.raises(ValueError, match="contains free text: 21 of 21 strings"):
        TableEncoder().fit(np.array([*TEXTS, 1], dtype=object)[:, None])


def test_what_is_not_free_text():
    for values in (TEXTS[:19], TEXTS * 2, [text.replace(" ", "_") for text in TEXTS]):
        assert levels_of(values) == sorted(set(values))
    assert levels_of(TEXTS, categorical_features=["a"]) == TEXTS
    assert levels_of(TEXTS, "category") == TEXTS
    encoder = TableEncoder().fit(frame_of(["x", "y"]))
    assert (encoder.transform(frame_of(TEXTS), np.float32) == -1).all()


def test_timedelta_among_objects():
    """It is an integer by its class."""
    with pytest.raises(TypeError, match=MESSAGE.format("column 0", "timedelta64")):
        TableEncoder().fit(np.array([[np.timedelta64(1, "s")], [np.timedelta64(2, "s")]], dtype=object))

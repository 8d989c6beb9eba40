"""Columns of raw tables: kinds, levels, standardized numbers."""

import json
import pickle
from dataclasses import asdict
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.preprocessing import OrdinalEncoder, RobustScaler

from sktorch_mlp._data.columns import CategoryColumn, NumberColumn, TableEncoder
from tests.data.frames import column_of, fit_transform, frame_of, levels_of, names_of, random_frame, transformed

NAN = np.nan


# The same as scikit-learn's scalers and encoders ----------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_numbers_are_those_of_robust_scaler(seed):
    X = random_frame(seed)
    X_new = random_frame(seed + 100)[X.columns]
    encoder = TableEncoder().fit(X)
    columns = names_of(encoder.numbers)
    expected = RobustScaler().fit(X[columns].to_numpy(float)).transform(X_new[columns].to_numpy(float))
    matrix = encoder.transform(X_new, np.float64)
    np.testing.assert_allclose(matrix[:, :4], np.clip(expected, -1e6, 1e6), rtol=1e-12)  # percentiles round otherwise
    assert sorted(columns) == ["count", "float32", "number", "skewed"]
    assert columns == [name for name in X.columns if name in columns]


@pytest.mark.parametrize("seed", range(10))
def test_categories_are_those_of_ordinal_encoder(seed):
    X = random_frame(seed)
    X_new = random_frame(seed + 100)[X.columns]
    encoder = TableEncoder().fit(X)
    columns = names_of(encoder.categories)
    order = {"letter": list("abcd"), "grade": list("cabd"), "flag": [False, True]}
    ordinal = OrdinalEncoder(
        categories=[order[name] for name in columns],
        handle_unknown="use_encoded_value",
        unknown_value=-1,
        encoded_missing_value=-1,
    )
    present = X[columns].dropna().astype(object)
    expected = ordinal.fit(present).transform(X_new[columns].astype(object))
    np.testing.assert_array_equal(encoder.transform(X_new, np.float64)[:, 4:], expected)
    assert [column.has_missing for column in encoder.categories] == [X[name].isna().any() for name in columns]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_matrix_is_contiguous_and_of_the_dtype(dtype):
    X = random_frame(0)
    matrix = fit_transform(X, dtype=dtype)
    assert matrix.dtype == dtype
    assert matrix.flags.c_contiguous
    assert matrix.shape == (60, 7)
    np.testing.assert_array_equal(matrix, fit_transform(X).astype(dtype))


def test_numbers_are_centered_in_float64():
    X = np.array([[1e9], [1e9 + 1], [1e9 + 2], [1e9 + 3]])
    np.testing.assert_allclose(fit_transform(X, dtype=np.float32)[:, 0], np.array([-1.5, -0.5, 0.5, 1.5]) / 1.5)


# Numbers ----------------------------------------------------------------------------------


def test_scale_of_numbers():
    assert column_of([1.0, 2.0, 3.0, 4.0, NAN]) == NumberColumn(0, "a", 2.5, 1.5, has_missing=True)
    assert column_of([0.0] * 9 + [8.0]) == NumberColumn(0, "a", 0.0, 4.0, has_missing=False)  # half the range
    assert column_of([3.0, 3.0, NAN]) == NumberColumn(0, "a", 3.0, 1.0, has_missing=True)


@pytest.mark.parametrize("values", [[3.0, 3.0], [NAN, NAN], [None, None], ["x", "x"], [True, True]])
def test_columns_that_tell_nothing_are_left_out(values):
    X = pd.DataFrame({"useless": pd.Series(values), "number": [1.0, 2.0]})
    encoder = TableEncoder().fit(X)
    assert encoder.numbers == [NumberColumn(1, "number", 1.5, 0.5, has_missing=False)]
    assert encoder.categories == []
    assert encoder.transform(X, np.float32).shape == (2, 1)


def test_level_or_missing_tells_something():
    assert column_of(["x", None, "x"]) == CategoryColumn(0, "a", ("x",), has_missing=True)


def test_tables_may_have_no_columns_left():
    assert fit_transform(pd.DataFrame({"a": [1, 1, 1]})).shape == (3, 0)
    assert fit_transform(np.zeros((3, 2))).shape == (3, 0)


LARGEST = float(np.finfo(np.float64).max)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([-LARGEST, LARGEST], [-1, 1]),
        ([-LARGEST, 0, LARGEST], [-1, 0, 1]),
        ([-LARGEST] * 3 + [LARGEST] * 4, [-2] * 3 + [0] * 4),
        ([-1e308, 0, 1e308, 1.5e308], None),
        ([0.0, 1e-320], None),
        ([0.0] * 9 + [1e-320], None),
        ([0, 2**70, 2**71], [-1, 0, 1]),
        ([2**53, 2**53 + 2, 2**53 + 4], [-1, 0, 1]),
    ],
)
def test_huge_and_tiny_numbers_do_not_overflow(values, expected):
    matrix = fit_transform(frame_of(values))
    assert np.isfinite(matrix).all()
    assert abs(matrix).max() <= 2.1
    if expected is not None:
        assert np.sign(matrix[:, 0]).tolist() == np.sign(expected).tolist()
        assert (np.diff(matrix[:, 0]) >= 0).all()
    column = column_of(values)
    assert np.isfinite([column.center, column.scale]).all()
    assert column.scale >= 1e-300


def test_long_doubles_that_are_too_large_are_an_error():
    X = np.array([[1, 2], [3, 4]], dtype=np.longdouble)
    for too_large in (X * np.longdouble("1e400"), pd.DataFrame(X * np.longdouble("1e400"))):
        with pytest.raises(ValueError, match="infinity"):
            TableEncoder().fit(too_large)
        with pytest.raises(ValueError, match="infinity"):
            TableEncoder().fit(X).transform(too_large, np.float64)


def test_outliers_are_clipped():
    assert transformed([1.0, 2.0, 3.0], [1e300, -1e300, 2.0, NAN])[:3] == [1e6, -1e6, 0]
    assert transformed([0.0, 1e-300, 2e-300], [1e300, -1e300]) == [1e6, -1e6]  # quotients overflow


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 4, None],
        [1.0, 2.0, 4.0, NAN],
        [1, np.float32(2), Decimal(4), Decimal("NaN")],
        [np.int8(1), True + 1, Fraction(4), pd.NA],
        [True, 2, 4.0, pd.NaT],
    ],
)
def test_objects_that_are_numbers(values):
    column = column_of(np.array(values, dtype=object)[:, None])
    assert column == NumberColumn(0, "column 0", 2.0, 1.5, has_missing=True)
    assert fit_transform(frame_of(values, object))[:3, 0].tolist() == pytest.approx([-2 / 3, 0, 4 / 3])


@pytest.mark.parametrize(
    "dtype", ["Int64", "Float64", "Float32", "float16", "uint8", "int64", pd.SparseDtype("float64"), "category", object]
)
def test_number_may_arrive_in_any_dtype(dtype):
    expected = transformed([1.0, 2.0, 4.0], [4.0, 2.0, 2.0])
    assert transformed([1.0, 2.0, 4.0], [4, 2, 2], dtype) == expected == pytest.approx([4 / 3, 0, 0])


@pytest.mark.parametrize("dtype", ["double[pyarrow]", "int64[pyarrow]"])
def test_number_may_arrive_as_pyarrow(dtype):
    pytest.importorskip("pyarrow")
    assert transformed([1.0, 2.0, 4.0], [4, 2, None], dtype)[:2] == pytest.approx([4 / 3, 0])


def test_decimals_of_pyarrow_are_numbers():
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"a": [Decimal("1.5"), None, Decimal("2.5")]})
    assert TableEncoder().fit(table).numbers == [NumberColumn(0, "a", 2.0, 0.5, has_missing=True)]


def test_sparse_columns():
    X = pd.DataFrame.sparse.from_spmatrix(__import__("scipy.sparse").sparse.csr_array([[0, 1.0], [2, 0], [0, 3]]))
    np.testing.assert_array_equal(fit_transform(X), fit_transform(X.sparse.to_dense()))
    for n in (1, 50):
        X = pd.DataFrame({"a": pd.arrays.SparseArray([True, False, False] * n)})
        assert fit_transform(X).ravel().tolist() == [1, 0, 0] * n


def test_number_may_arrive_as_strings():
    assert transformed([1.0, 2.0, 4.0], ["4", " 2.0", None])[:2] == pytest.approx([4 / 3, 0])
    assert np.isnan(transformed([1.0, 2.0, 4.0], ["4", " 2.0", None])[2])
    with pytest.raises(ValueError, match=r"(?s)Feature 'a' of X cannot be read as numbers: .*'four'.*Drop or encode"):
        transformed([1.0, 2.0, 4.0], ["four", "2"])


@pytest.mark.parametrize("infinity", [np.inf, -np.inf, "inf", 10**400, Decimal("Infinity"), np.longdouble("1e400")])
def test_infinity_is_an_error(infinity):
    message = r"Input X contains infinity or a value too large for dtype\('float64'\), in feature 'b'"
    X = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]})
    bad = X.assign(b=pd.Series([1.0, infinity], dtype=object))
    with pytest.raises(ValueError, match=message):
        TableEncoder(None).fit(bad)
    with pytest.raises(ValueError, match=message):
        TableEncoder().fit(X).transform(bad, np.float32)
    if isinstance(infinity, float):
        with pytest.raises(ValueError, match=r"infinity.* in feature 'column 1'"):
            TableEncoder().fit(X.to_numpy()).transform(bad.to_numpy(float), np.float32)
        with pytest.raises(ValueError, match=r"infinity.* in feature 'column 1'"):
            TableEncoder().fit(bad.to_numpy(float))


# Categories -------------------------------------------------------------------------------


def test_levels_are_sorted():
    assert levels_of(["b", "a", "c", None]) == ["a", "b", "c"]
    assert levels_of([True, False, True]) == [False, True]
    assert levels_of([3, 1, 20], categorical_features=["a"]) == [1, 3, 20]
    assert levels_of([3.5, NAN, 1.0], categorical_features=["a"]) == [1.0, 3.5]


def test_levels_of_a_category_dtype_are_in_its_order_and_observed():
    values = pd.Categorical(["low", "high", None, "low"], categories=["none", "low", "middle", "high"], ordered=True)
    assert levels_of(values) == ["low", "high"]
    many = pd.Categorical(["a", "b"], categories=[*"zb", *map(str, range(1000)), "a"])
    assert levels_of(many) == ["b", "a"]


@pytest.mark.parametrize("dtype", [object, "string", "str", "category", "reversed"])
def test_level_is_found_in_any_dtype(dtype):
    if dtype == "reversed":
        dtype = pd.CategoricalDtype(list("dcba"))
    fitted = pd.Categorical(["b", "a", "c"], categories=["b", "a", "c"])
    assert transformed(fitted, ["a", "c", None, "d", "b"], dtype) == [1, 2, -1, -1, 0]


def test_rows_of_many_categories():
    """Few rows are encoded without a look at all categories."""
    categories = [f"level {i}" for i in range(1000)]
    fitted = pd.Categorical(categories, categories=categories)
    new = pd.Categorical(["level 7", None, "level 500"], categories=categories[::-1])
    assert transformed(fitted, new) == [7, -1, 500]
    assert transformed(fitted, new[1:2]) == [-1]


def test_numbers_are_found_by_value():
    for dtype in ("int64", "float64", "Int64", "float32", "category", object):
        assert transformed([1, 5, 3], [5, 1, 4], dtype, categorical_features=[0]) == [2, 0, -1]
    assert transformed([1.0, NAN, 3.0], [3, 1], categorical_features=["a"]) == [1, 0]
    assert transformed([2**53, 2**53 + 1], [2**53 + 1, 2**53], categorical_features=["a"]) == [1, 0]
    assert transformed([True, False], [1, 0, 2]) == [1, 0, -1]


@pytest.mark.parametrize(
    ("levels", "texts"), [([True, False], ["True", "False"]), ([1, 2], ["1", "2"]), ([1.0, 2.5], ["1", "2.5"])]
)
def test_levels_may_arrive_as_texts(levels, texts):
    column = column_of(pd.Categorical(levels))
    expected = column.encode(np.array(levels, dtype=object)).tolist()
    assert column.encode(np.array(texts, dtype=object)).tolist() == expected
    assert sorted(expected) == [0, 1]


def test_strings_and_numbers_in_one_column_are_texts():
    values = np.array(["x", 1.0, "1", 2.5, None, False, 1], dtype=object)
    assert levels_of(values[:, None]) == ["1", "2.5", "False", "x"]
    assert transformed(values, values) == [3, 0, 0, 1, -1, 2, 0]
    assert transformed(values, [1.0, NAN, 3.0]) == [0, -1, -1]  # a missing value makes them floats
    assert transformed(["True", "False", "x"], [True, False]) == [1, 0]
    assert transformed(["10", "20", "x"], [20, 10, 30]) == [1, 0, -1]  # a part of a file in which all are digits


def test_categories_of_intervals_are_texts():
    values = pd.cut([1, 5, 9], [0, 4, 8, 12])
    assert levels_of(values) == ["(0, 4]", "(4, 8]", "(8, 12]"]
    assert transformed(values, pd.cut([9, 1], [0, 4, 8, 12])) == [2, 0]


def test_levels_are_python_values():
    for values in (np.array([1, 2]), np.array([1.5, 2]), np.array(["a", "b"]), np.array([True, False])):
        for X in (values[:, None], values.astype(object)[:, None], np.array(list(values), object)[:, None]):
            column = column_of(X, categorical_features=[0])
            assert {type(level) for level in column.levels} <= {int, float, str, bool}
            json.dumps(asdict(column))
    assert levels_of([Decimal("1.5"), Decimal(2)], object, ["a"]) == [1.5, 2.0]


def test_levels_that_occur_once_are_left_out_where_there_are_many():
    identifiers = [f"id{i:04}" for i in range(1100)]
    assert len(levels_of(identifiers[:1000])) == 1000
    assert TableEncoder().fit(frame_of(identifiers)).categories == []
    column = column_of([*identifiers, "id0007", "id0003"])
    assert column == CategoryColumn(0, "a", ("id0003", "id0007"), has_missing=True)
    column = column_of([*identifiers, "id0007"])
    assert column == CategoryColumn(0, "a", ("id0007",), has_missing=True)


# Kinds of columns -------------------------------------------------------------------------


def test_arrays_are_read_column_by_column():
    X = np.array([[1, "b", True, 1.5, None], [2, "a", False, "x", None], [4, None, True, 2, None]], dtype=object)
    encoder = TableEncoder().fit(X)
    assert names_of(encoder.numbers) == ["column 0"]
    assert names_of(encoder.categories) == ["column 1", "column 2", "column 3"]
    assert encoder.transform(X, np.float64)[:, 1:].tolist() == [[1, 1, 0], [0, 0, 2], [-1, 1, 1]]


def test_arrays_of_numbers_have_no_categories():
    for dtype in (np.float64, np.float32, np.int16, np.bool_):
        X = np.array([[0, 1], [1, 0]]).astype(dtype)
        encoder = TableEncoder(None).fit(X)
        assert (len(encoder.numbers), encoder.categories) == (2, [])
    assert TableEncoder().fit(np.array([[0, 1], [1, 0]])).categories == []


def test_arrays_of_strings():
    X = np.array([["b", "1"], ["a", "2"], ["c", "4"]])
    assert fit_transform(X).tolist() == [[1, 0], [0, 1], [2, 2]]
    assert fit_transform(X, [0])[:, ::-1].tolist() == [[1, -2 / 3], [0, 0], [2, 4 / 3]]
    for strings in (X, X.astype(np.dtypes.StringDType())):
        assert fit_transform(np.tile(strings, (50, 1))).tolist() == [[1, 0], [0, 1], [2, 2]] * 50


def test_named_columns_of_an_array_of_numbers():
    X = np.array([[7.0, 1.0], [5.0, 2.0], [NAN, 4.0]])
    np.testing.assert_array_equal(fit_transform(X, [0]), [[-2 / 3, 1], [0, 0], [4 / 3, -1]])


def test_names_may_occur_twice_and_be_anything():
    X = pd.DataFrame([[1, "x", 3.0], [2, "y", 5.0], [4, "x", 9.0]])
    X.columns = ["a", "a", ("b", 1)]
    encoder = TableEncoder().fit(X)
    assert [(column.index, column.name) for column in encoder.numbers] == [(0, "a"), (2, "('b', 1)")]
    np.testing.assert_allclose(encoder.transform(X, np.float64)[:, 2], [0, 1, 0])


def test_categorical_features_decide_alone():
    X = pd.DataFrame({"flag": [True, False, False], "code": [3, 1, 2], "digits": ["1", "2", "4"]})
    for chosen in (["code"], [1], [False, True, False], np.array(["code"]), pd.Series([1]), ("code",), {"code"}):
        encoder = TableEncoder(chosen).fit(X)
        assert (names_of(encoder.numbers), names_of(encoder.categories)) == (["flag", "digits"], ["code"])
    for chosen in (None, [], [False] * 3):
        encoder = TableEncoder(chosen).fit(X)
        assert (names_of(encoder.numbers), encoder.categories) == (["flag", "code", "digits"], [])
    assert encoder.transform(X, np.float64)[:, 0].tolist() == [2, 0, 0]  # half a range


@pytest.mark.parametrize("chosen", [None, ["b"], [False, True]])
def test_strings_that_are_no_numbers_have_to_be_named(chosen):
    X = pd.DataFrame({"a": ["x", "1"], "b": ["y", "z"]})
    with pytest.raises(
        ValueError, match=r"(?s)Feature 'a' of X cannot be read as numbers: .*'x'.*categorical_features"
    ):
        TableEncoder(chosen).fit(X)


@pytest.mark.parametrize(
    "chosen", [["c"], ["a", "c"], [2], [-1], [0, 5], [True], [True] * 3, [0.5], [1, "a"], [None], [b"a"], [1 + 2j]]
)
@pytest.mark.parametrize("as_array", [False, True])
def test_categorical_features_are_checked_as_in_scikit_learn(chosen, as_array):
    X = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    X = X.to_numpy() if as_array else X
    with pytest.raises(ValueError) as expected:  # noqa: PT011 - whatever it says
        HistGradientBoostingRegressor(categorical_features=chosen).fit(X, [0, 1])
    with pytest.raises(ValueError) as error:  # noqa: PT011
        TableEncoder(chosen).fit(X)
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize("chosen", [{"a": 1}, [["a"]], "a"])
def test_categorical_features_are_a_list(chosen):
    with pytest.raises(ValueError, match=r"categorical_features must be an array-like of bool, int or str, got: .*a"):
        TableEncoder(chosen).fit(pd.DataFrame({"a": [1.0, 2.0]}))


@pytest.mark.parametrize("seed", range(3))
def test_reading_leaves_numbers_as_they_are_and_columns_in_their_place(seed):
    X = random_frame(seed).assign(constant=1.0)
    encoder = TableEncoder().fit(X)
    read, matrix = encoder.read(X), encoder.transform(X, np.float64)
    assert read.shape == X.shape
    for j, number in enumerate(encoder.numbers):
        np.testing.assert_array_equal(read[:, number.index], X.iloc[:, number.index].to_numpy(float, na_value=np.nan))
        scaled = (read[:, number.index] - number.center) / number.scale
        np.testing.assert_allclose(scaled, matrix[:, j], rtol=1e-12, atol=1e-12)
    for j, category in enumerate(encoder.categories, len(encoder.numbers)):
        np.testing.assert_array_equal(read[:, category.index], matrix[:, j])
    assert not read[:, -1].any()


# State ------------------------------------------------------------------------------------


def test_encoder_is_made_again_from_its_columns():
    X = random_frame(3)
    encoder = TableEncoder().fit(X)
    matrix = encoder.transform(X, np.float32)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(encoder)).transform(X, np.float32), matrix)
    again = TableEncoder()
    again.numbers = [NumberColumn(**json.loads(json.dumps(asdict(column)))) for column in encoder.numbers]
    again.categories = [CategoryColumn(**json.loads(json.dumps(asdict(column)))) for column in encoder.categories]
    np.testing.assert_array_equal(again.transform(X, np.float32), matrix)


@pytest.mark.parametrize("as_array", [False, True])
def test_table_stays_as_it_is(as_array):
    X = pd.DataFrame({"a": [1.0, 5.0, 3.0], "b": [1.0, 2.0, NAN]})
    X = X.to_numpy() if as_array else X
    before = X.copy()
    fit_transform(X)
    np.testing.assert_array_equal(X, before)

"""Checks of plain values: what passes, and errors that say where something is and what it should be."""

import numpy as np
import pytest

from sktorch_mlp._estimators.schema import (
    array,
    boolean,
    choice,
    column,
    device,
    either,
    integer,
    list_of,
    mapping,
    number,
    optional,
    record,
    scalar,
    text,
    vector,
)

NUMBERS = np.zeros((2, 3))
CASES = {
    "integer": (integer(1, 5), [1, 5, np.int8(3)], [0, 6, 1.0, True, "1", None, np.float64(2)]),
    "number": (number(0, 1), [0, 1, 0.5, np.float32(0.5)], [-1, 2, float("nan"), float("inf"), True, "0", None, 1j]),
    "number or nan": (number(nan=True), [float("nan"), float("-inf"), 3], ["nan", None]),
    "boolean": (boolean, [True, np.bool_(False)], [1, 0, None, "True"]),
    "text": (text, ["", "a"], [b"a", 1, None]),
    "scalar": (scalar, [None, 1, "a", 0.5, True, np.float32(1)], [[], {}, (1,), NUMBERS]),
    "device": (device, ["cpu", "cuda:1", "mps", "cuda:99"], ["", "meta", "cuda:", "cuda:100", "cpu\n", 1, "cuda:１"]),
    "choice": (choice({"a", "b"}), ["a"], ["c", "", 1, None, ["a"]]),
    "optional": (optional(text), [None, "a"], [1]),
    "either": (either(text, boolean), ["a", True], [1, None]),
    "list": (list_of(integer(), 2), [[1, 2]], [[1], [1, "2"], (1, 2), None, "ab"]),
    "mapping": (mapping(text, integer()), [{}, {"a": 1}], [{1: 1}, {"a": "b"}, [], None]),
    "record": (record({"a": text}, {"b": text}), [{"a": ""}, {"a": "", "b": ""}], [{}, {"b": ""}, {"a": "", "c": ""}, []]),
    "array": (array("f", 2, None), [NUMBERS], [NUMBERS.T, NUMBERS[0], NUMBERS[:, :0], NUMBERS.astype(int), [[0.0]]]),
    "vector": (vector("i"), [np.arange(3), np.arange(0)], [NUMBERS, np.zeros(3), [1], np.array(1)]),
    "column": (column("f", scalar), [np.zeros(3), np.zeros(0), [1, "a"]], [NUMBERS, np.arange(2), [[]], None]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_passes_and_what_does_not(name):
    check, valid, invalid = CASES[name]
    for value in valid:
        check(value, "place")
    for value in invalid:
        with pytest.raises(ValueError, match="place"):
            check(value, "place")


def test_errors_say_where_and_what():
    check = record({"a": list_of(mapping(text, integer(1, 9)))})
    with pytest.raises(ValueError, match=r"^file\.a\[1\]\.x should be an integer in \[1, 9\], but is 'y'\.$"):
        check({"a": [{}, {"x": "y"}]}, "file")
    with pytest.raises(ValueError, match=r"^file lacks \['a'\]\.$"):
        check({}, "file")
    with pytest.raises(
        ValueError, match=r"^x should be an array of shape \(2, n\) and kind 'i', but is an array of shape"
    ):
        array("i", 2, None)(NUMBERS, "x")
    with pytest.raises(ValueError, match=r"^x should be a string, but is \[0, 1, .*, \.\.\.\]\.$"):
        text([*range(10**5)], "x")

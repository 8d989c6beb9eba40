"""Files of the safetensors format: what is written is read again, and what is damaged is a ValueError."""

import json
import os
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from sktorch_mlp._interop import safetensors
from sktorch_mlp._interop.safetensors import FORMAT_VERSION, NotPlainError, read, write
from tests.interop.mutations import write_parts

VALUES = {
    "none": None,
    "bools": [True, False],
    "integers": [0, -1, 2**63, -(2**63)],
    "floats": [0.1, 1e-320, -0.0, 1e308, float("inf"), float("-inf")],
    "strings": ["", "ä\n\x00", "\ud800", "🙂", "$"],
    "nested": {"a": [{"b": (1, (2, "c"), [])}], "": {}},
    "keys": {1: "a", "1": "b", None: 2.0, False: 3, "$array": 4, (1, "x"): 5, 0.5: np.float32(6)},
    "dollar": {"$float": "nan"},
    "numpy": [np.float64(0.1), np.float32(0.1), np.float16(0.1), np.int8(-3), np.uint64(2**64 - 1), np.bool_(True)],
    "not finite": [np.float32("inf"), np.float64("-inf")],
    "string of numpy": np.str_("x"),
}
ARRAYS = {
    **{dtype: np.arange(6).astype(dtype).reshape(2, 3) for dtype in ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8"]},
    "big endian": np.arange(3, dtype=">i4"),
    "big endian floats": np.asfortranarray(np.arange(6, dtype=">f8").reshape(2, 3)),
    "transposed": np.arange(12.0).reshape(3, 4).T,
    "in columns": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)),
    "strided": np.arange(12.0).reshape(3, 4)[::2, ::-1],
    "one row": np.arange(3.0).reshape(1, 3),
    "empty": np.zeros((0, 3)),
    "0-d": np.array(1.5),
    "special": np.array([np.nan, np.inf, -0.0]),
    "strings": np.array(["a", "bcd"]),
    "wide strings": np.array(["a", "bcd"], "U9"),
    "foreign strings": np.array(["a", "bcd"]).astype(">U3"),
    "objects": np.array(["a", "ä" * 100], object),
    "table of strings": np.array([["a", "b"]], object),
    "no strings": np.array([], object),
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.safetensors"


@pytest.mark.parametrize("name", VALUES)
def test_values(name, path):
    write(path, {"value": VALUES[name], "second": 1})
    value = read(path)["value"]
    assert value == VALUES[name]
    assert repr(value) == repr(VALUES[name]).replace("np.str_('x')", "'x'")  # and so of the same types


def test_nan(path):
    write(path, {"value": [float("nan"), np.float32("nan")]})
    value = read(path)["value"]
    assert [type(item) for item in value] == [float, np.float32]
    assert np.isnan(value).all()


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays(name, path):
    array = ARRAYS[name]
    write(path, {"value": {"array": array}})
    value = read(path)["value"]["array"]
    np.testing.assert_array_equal(value, array, strict=True)
    assert value.dtype.str == array.dtype.str
    assert value.flags.writeable
    if array.flags.contiguous:
        assert value.flags.c_contiguous == array.flags.c_contiguous
        assert value.flags.f_contiguous == array.flags.f_contiguous


def test_arrays_with_names_that_meet(path):
    arrays = {"a": {"b.c": np.zeros(1), "b": {"c": np.ones(1)}}, "n": {1: np.zeros(2), "1": np.ones(2)}}
    write(path, arrays)
    loaded = read(path)
    assert (loaded["a"]["b.c"], loaded["a"]["b"]["c"]) == (0, 1)
    np.testing.assert_array_equal([loaded["n"][1], loaded["n"]["1"]], [[0, 0], [1, 1]])


def test_other_tools_can_read_the_file(path):
    write(path, {"class": "X", "weights": [np.ones((2, 3), np.float32)]})
    with safe_open(path, "np") as file:
        metadata = file.metadata()
        np.testing.assert_array_equal(file.get_tensor("weights.0"), np.ones((2, 3)))
    assert (metadata["format"], metadata["format_version"]) == ("sktorch_mlp", str(FORMAT_VERSION))
    assert json.loads(metadata["class"]) == "X"


class _Text(str):
    """A string of another class."""


@pytest.mark.parametrize(
    "value",
    [len, _Text("a"), {1, 2}, range(3), 1j, 2**70, b"a", np.array([1, "a"], object), np.array([1j]),
     np.array(["2020"], "M8[Y]"), np.longdouble(1), np.zeros(2, np.longdouble), np.zeros(1, "V2"), object()],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_is_not_plain_is_an_error_that_says_where(value, path):
    with pytest.raises(NotPlainError, match=r"^a\.b\.1=") as raised:
        write(path, {"a": {"b": [0, value]}})
    assert raised.value.where == ("a", "b", "1")
    assert raised.value.value is value
    assert not path.exists()


def test_arrays_of_strings_that_could_not_be_read_again_are_not_written(path):
    wide = np.array(["a"], "U8388609")
    write(path, {"a": wide})
    assert read(path)["a"].dtype == wide.dtype
    with pytest.raises(NotPlainError, match=r"^b="):
        write(path, {"a": wide, "b": wide})


# Files ---------------------------------------------------------------------------------


def test_a_file_is_replaced_as_a_whole(path, monkeypatch):
    write(path, {"value": 1})
    assert os.listdir(path.parent) == [path.name]
    link = path.with_name("link")
    link.symlink_to(path)
    write(str(link), {"value": 2})
    assert link.is_symlink()
    assert read(path) == {"value": 2}

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, {"value": 3})
    assert sorted(os.listdir(path.parent)) == ["file.safetensors", "link"]
    assert read(path) == {"value": 2}


def test_others_may_read_a_file_as_they_may_read_any_other(path):
    write(path, {"value": 1})
    other = path.with_name("other")
    other.touch()
    assert path.stat().st_mode == other.stat().st_mode


def test_errors_of_the_file_system_are_those_of_python(path):
    with pytest.raises(FileNotFoundError):
        read(path)
    with pytest.raises(IsADirectoryError):
        read(path.parent)
    with pytest.raises(FileNotFoundError):
        write(path / "file", {"value": 1})


def test_an_open_file_is_no_path(path):
    write(path, {"value": 1})
    with path.open("rb") as file:
        with pytest.raises(TypeError, match="not int"):
            read(file.fileno())
        assert file.read(1)  # it has not been closed


# Damaged files -------------------------------------------------------------------------


@pytest.fixture
def content(path):
    write(path, {"class": "X", "value": {"array": np.arange(7.0), "text": "abc", "number": 1234}})
    return path.read_bytes()


def test_any_byte_counts(path, content):
    """Also one that would make another valid number."""
    rng = np.random.default_rng(0)
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with pytest.raises(ValueError):  # noqa: PT011 - of many kinds
            read(path)


def test_any_length_counts(path, content):
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="no file of the safetensors format, or damaged"):
            read(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="no file of the safetensors format, or damaged"):
        read(path)


def _header(text, content=b""):
    return struct.pack("<Q", len(text)) + text + content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no file of the safetensors format"),
        (b"PK\x03\x04" * 100, "no file of the safetensors format"),
        (b"\x80\x05." * 100, "no file of the safetensors format"),
        (struct.pack("<Q", 2**63) + b"{}", "no file of the safetensors format"),
        (_header(b"[" * 10**5), "no file of the safetensors format"),
        (_header(b"{}"), "no file that an estimator of sktorch_mlp was saved to"),
        (_header(b'{"a": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}', b"x"), "F8_E4M3"),
        (_header(b'{"a": {"dtype": "F32", "shape": [2305843009213693952, 8], "data_offsets": [0, 1]}}', b"x"), "no file"),
    ],
)  # fmt: skip
def test_files_of_other_kinds(content, message, path):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read(path)


def test_a_file_of_another_project_is_not_ours(path):
    save_file({"weight": np.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(ValueError, match="no file that an estimator of sktorch_mlp was saved to"):
        read(path)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("2", "has version 2 of the format.*Install a later release"),
        ("", "is none"),
        ("0", "is none"),
        ("１", "is none"),
    ],
)
def test_versions_of_the_format(version, message, path):
    write_parts(path, {"value": 1}, {}, format_version=version)
    with pytest.raises(ValueError, match=message):
        read(path)


#: As JSON, an array of strings that takes a little more than half of what all such arrays may take.
WIDE = '{"$strings": ["a"], "shape": [1], "dtype": "<U8388609"}'
INVALID = {
    "{": "value is no JSON",
    "": "value is no JSON",
    "NaN": "NaN is no number of JSON",
    "9" * 5000: "value is no JSON",
    "[" * 10**5: "nested too deeply",
    '{"a":' * 10**5: "nested too deeply",
    '{"$float": "1"}': "invalid '\\$float'",
    '{"$float": "inf", "more": 1}': "it has the keys",
    '{"$numpy": "int64"}': "it has the keys",
    '{"$numpy": "int8", "value": 300}': "invalid '\\$numpy'",
    '{"$numpy": "float16", "value": 1e300}': "is no float16",
    '{"$numpy": "int8", "value": true}': "is no 'int8'",
    '{"$numpy": "complex64", "value": 1}': "is no 'complex64'",
    '{"$tuple": 1}': "1 is no list",
    '{"$dict": [[[], 1]]}': "unhashable",
    '{"$dict": [[1]]}': "invalid '\\$dict'",
    '{"$array": "nowhere"}': "'nowhere'",
    '[{"$array": "a"}, {"$array": "a"}]': "value.1 has an invalid",
    '{"$array": "a", "order": "C"}': "its order is 'C'",
    '{"$array": "a", "dtype": ">f4"}': "its dtype is '>f4'",
    '{"$array": "a", "dtype": "O"}': "its dtype is 'O'",
    '{"$strings": ["a"], "shape": [2], "dtype": "object"}': "do not have the shape",
    '{"$strings": [1], "shape": [1], "dtype": "object"}': "not all items are strings",
    '{"$strings": ["ab"], "shape": [1], "dtype": "<U1"}': "its dtype is '<U1'",
    '{"$strings": ["a"], "shape": [1], "dtype": "<U999999999"}': "its dtype is '<U999999999'",
    f"[{WIDE}, {WIDE}]": "value.1 has an invalid '\\$strings': its dtype is '<U8388609'",
    '{"$strings": [], "shape": [0], "dtype": "<U999999999"}': "its dtype is '<U999999999'",
    '{"$strings": ["a"], "shape": [1], "dtype": "O"}': "invalid '\\$strings'",
    '{"$eval": "1"}': "invalid '\\$eval'",
    "1": "does not mention the tensors",
}


@pytest.mark.parametrize("text", INVALID, ids=range(len(INVALID)))
def test_invalid_values(text, path):
    write_parts(path, {}, {"a": np.zeros(2)}, value=text)
    with pytest.raises(ValueError, match=INVALID[text]):
        read(path)


def test_nothing_is_imported_by_a_name_in_a_file(path, monkeypatch):
    monkeypatch.setattr("importlib.import_module", None)
    write_parts(path, {"value": {"module": "os", "__reduce__": ["os.system", ["true"]]}}, {})
    assert read(path) == {"value": {"module": "os", "__reduce__": ["os.system", ["true"]]}}


def test_arrays_are_written_as_they_were_at_one_moment(path, monkeypatch):
    """Another thread may change them between the checksum and the file."""
    values = np.arange(5.0)
    checksum = safetensors._checksum

    def change(metadata, tensors):
        result = checksum(metadata, tensors)
        values[:] = 7
        return result

    monkeypatch.setattr(safetensors, "_checksum", change)
    write(path, {"a": values})
    monkeypatch.undo()
    np.testing.assert_array_equal(read(path)["a"], np.arange(5.0))

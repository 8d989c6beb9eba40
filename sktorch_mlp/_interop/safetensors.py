"""Files of the safetensors format: plain values and arrays in, the same ones out. Nothing in a file is ever executed.

A file has one tensor for each array of numbers. All else is JSON in the metadata of its header, one string for each
entry of the description, where what JSON lacks is an object with a key that begins with "$".
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .extras import needed_by
from .files import written_beside

#: What the entry "format" of a header is, and the version of the format that this release writes, the latest it reads.
FORMAT, FORMAT_VERSION = "sktorch_mlp", 1

#: dtypes of the tensors, by the names of the format.
_DTYPES = {
    "BOOL": np.dtype(bool),
    **{f"{kind.upper()}{8 * size}": np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)},
    **{f"F{8 * size}": np.dtype(f"f{size}") for size in (2, 4, 8)},
}
_DTYPE_NAMES = {dtype.name for dtype in _DTYPES.values()}
#: Floats that JSON lacks.
_NOT_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
#: Of an integer, and bytes of all arrays of strings of one width: as much as may be allocated for few bytes of a file.
_MOST_BITS, _MOST_BYTES = 64, 2**26


@dataclass
class _Parts:
    """What a file has beside JSON.

    Attributes
    ----------
    tensors : dict of str to ndarray
        Arrays of numbers, by their names.
    n_bytes : int
        Of the arrays of strings of one width so far. Each string takes the width, however short it is in the file.
    """

    tensors: dict[str, np.ndarray]
    n_bytes: int = 0

    def admit(self, width: int, n_strings: int) -> bool:
        """Count an array of strings; return whether all of them still fit."""
        self.n_bytes += 4 * width * max(n_strings, 1)  # NumPy allocates one item for none
        return self.n_bytes <= _MOST_BYTES


class NotPlainError(ValueError):
    """A value that a file has no place for.

    Attributes
    ----------
    where : tuple of str
        Names that lead to the value in the description.
    value : object
    """

    def __init__(self, where: tuple[str, ...], value: object) -> None:
        super().__init__(f"{'.'.join(where)}={value!r} cannot be saved: a file holds numbers, strings and arrays.")
        self.where, self.value = where, value


def _library() -> Any:
    with needed_by("Saving or loading an estimator", extra="safetensors"):
        import safetensors.numpy
    return safetensors


# Writing --------------------------------------------------------------------------------


def write(path: str | os.PathLike[str], description: dict[str, Any]) -> None:
    """Write a description; the file is replaced as a whole.

    Parameters
    ----------
    path : str or path-like
    description : dict of str to object
        Of None, bools, numbers, strings, arrays of numbers or strings, and lists, tuples and dicts of these.

    Raises
    ------
    NotPlainError
        If there is another value.
    ImportError
        If the library is not installed.
    """
    library = _library()
    parts = _Parts({})
    entries = {name: json.dumps(_encode(value, (name,), parts)) for name, value in description.items()}
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION), **entries}
    metadata["checksum"] = _checksum(metadata, parts.tensors)
    with written_beside(path) as written:
        # The library's own way to a file makes one that nobody else may read.
        written.write_bytes(library.numpy.save(parts.tensors, metadata))


def _encode(value: Any, where: tuple[str, ...], parts: _Parts) -> Any:
    if value is None or type(value) is bool or (type(value) is int and value.bit_length() <= _MOST_BITS):
        return value
    if isinstance(value, str) and type(value) in (str, np.str_):
        return str(value)
    if type(value) is float:
        return value if math.isfinite(value) else {"$float": repr(value)}
    if isinstance(value, np.generic) and value.dtype.name in _DTYPE_NAMES:
        return {"$numpy": value.dtype.name, "value": _encode(value.item(), where, parts)}
    if type(value) is list:
        return _encode_items(value, where, parts)
    if type(value) is tuple:
        return {"$tuple": _encode_items(value, where, parts)}
    if type(value) is dict:
        return _encode_dict(value, where, parts)
    if isinstance(value, np.ndarray):
        return _encode_array(value, where, parts)
    raise NotPlainError(where, value)


def _encode_items(values: Any, where: tuple[str, ...], parts: _Parts) -> list[Any]:
    return [_encode(value, (*where, str(i)), parts) for i, value in enumerate(values)]


def _encode_dict(value: dict[Any, Any], where: tuple[str, ...], parts: _Parts) -> dict[str, Any]:
    if all(type(key) is str and not key.startswith("$") for key in value):
        return {key: _encode(item, (*where, key), parts) for key, item in value.items()}
    pairs = [[_encode(key, where, parts), _encode(item, (*where, str(key)), parts)] for key, item in value.items()]
    return {"$dict": pairs}


def _encode_array(value: np.ndarray, where: tuple[str, ...], parts: _Parts) -> dict[str, Any]:
    dtype = value.dtype
    is_object = dtype.kind == "O" and all(type(item) in (str, np.str_) for item in value.flat)
    if is_object or (dtype.kind == "U" and parts.admit(dtype.itemsize // 4, value.size)):
        kind = "object" if is_object else dtype.str
        return {"$strings": [str(item) for item in value.flat], "shape": list(value.shape), "dtype": kind}
    if dtype.name not in _DTYPE_NAMES:
        raise NotPlainError(where, value)
    # Products depend on the order in memory by their last bits.
    is_transposed = value.flags.f_contiguous and not value.flags.c_contiguous
    ordered = value.T if is_transposed else value
    tensors, name = parts.tensors, ".".join(where)
    name = name if name not in tensors else f"{name}#{len(tensors)}"
    # A copy: another thread may train meanwhile, and the checksum is one of what is written.
    tensors[name] = np.array(ordered, dtype.newbyteorder("="), order="C")
    encoded = {"$array": name} | ({"order": "F"} if is_transposed else {})
    return encoded if dtype.isnative else encoded | {"dtype": dtype.str}


def _checksum(metadata: dict[str, str], tensors: dict[str, np.ndarray]) -> str:
    """Hash of all that a file holds: bytes that have changed are found, also where they make another valid model."""
    digest = hashlib.sha256(usedforsecurity=False)
    for key in sorted(metadata):
        if key != "checksum":
            digest.update(json.dumps([key, metadata[key]]).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, tensor.dtype.name, tensor.shape]).encode())
        digest.update(tensor.data if tensor.size else b"")
    return digest.hexdigest()


# Reading --------------------------------------------------------------------------------


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the description that `write` has written; every array is a new one.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    description : dict of str to object

    Raises
    ------
    ValueError
        If the file is of another kind, of a later version, or damaged.
    ImportError
        If the library is not installed.
    """
    metadata, tensors = _read_parts(path, _library())
    if metadata.get("format") != FORMAT:
        raise ValueError("it is no file that an estimator of sktorch_mlp was saved to.")
    version = metadata.get("format_version", "")
    if not re.fullmatch(r"[1-9]\d{0,5}", version, re.ASCII):
        raise ValueError(f"format_version={version!r} is none.")
    if int(version) > FORMAT_VERSION:
        raise ValueError(
            f"it has version {version} of the format, and this release reads versions up to {FORMAT_VERSION}. Install a "
            "later release of sktorch_mlp."
        )
    if metadata.get("checksum") != _checksum(metadata, tensors):
        raise ValueError("it is damaged: its content does not have the checksum that it was saved with.")
    entries = {name: text for name, text in metadata.items() if name not in ("format", "format_version", "checksum")}
    try:
        parts = _Parts(tensors)
        description = {name: _decode(_parse(text, name), name, parts) for name, text in entries.items()}
    except RecursionError as error:
        raise ValueError("its header is nested too deeply.") from error
    if tensors:
        raise ValueError(f"its header does not mention the tensors {sorted(tensors)}.")
    return description


def _read_parts(path: str | os.PathLike[str], library: Any) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    with open(os.fspath(path), "rb"):  # for Python's own errors where there is no file; an integer is one that is open
        pass
    try:
        with library.safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            dtypes = {name: file.get_slice(name).get_dtype() for name in names}
            unknown = sorted({str(dtype) for dtype in dtypes.values()} - _DTYPES.keys())
            if unknown:
                raise ValueError(f"it has tensors of the dtypes {unknown}.")
            return file.metadata() or {}, {name: np.require(file.get_tensor(name), None, "W") for name in names}
    except library.SafetensorError as error:
        raise ValueError(f"it is no file of the safetensors format, or damaged: {error}") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _decode(value: Any, where: str, parts: _Parts) -> Any:
    """Value of which `_encode` made this; tensors that it mentions are taken out of the dict."""
    if isinstance(value, list):
        return [_decode(item, f"{where}.{i}", parts) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    tag = next((key for key in value if key.startswith("$")), None)
    if tag is None:
        return {key: _decode(item, f"{where}.{key}", parts) for key, item in value.items()}
    try:
        required, optional, decode = _TAGS[tag]
        if not {tag, *required} <= value.keys() <= {tag, *required, *optional}:
            raise ValueError(f"it has the keys {sorted(value)}")
        return decode(value, where, parts)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{where} has an invalid {tag!r}: {error}") from error


def _decode_float(value: dict[str, Any], where: str, parts: _Parts) -> float:
    return _NOT_FINITE[value["$float"]]


def _decode_numpy(value: dict[str, Any], where: str, parts: _Parts) -> np.generic:
    name, item = value["$numpy"], _decode(value["value"], where, parts)
    type_ = np.dtype(name).type if name in _DTYPE_NAMES else None
    if type_ is None or type(item) is not type(type_(0).item()):
        raise ValueError(f"{item!r} is no {name!r}")
    with np.errstate(all="ignore"):
        made = type_(item)
    if made.item() != item and item == item:
        raise ValueError(f"{item!r} is no {name}")
    return made


def _decode_tuple(value: dict[str, Any], where: str, parts: _Parts) -> tuple[Any, ...]:
    return tuple(_decode(_checked_list(value["$tuple"]), where, parts))


def _decode_dict(value: dict[str, Any], where: str, parts: _Parts) -> dict[Any, Any]:
    decoded = {}
    for pair in _checked_list(value["$dict"]):
        key, item = _decode(_checked_list(pair), where, parts)
        decoded[key] = item
    return decoded


def _decode_array(value: dict[str, Any], where: str, parts: _Parts) -> np.ndarray:
    array = parts.tensors.pop(value["$array"])
    if value.get("order", "F") != "F":
        raise ValueError(f"its order is {value['order']!r}")
    if "dtype" in value:
        dtype = np.dtype(value["dtype"]) if re.fullmatch(r"[<>][iuf][248]", value["dtype"]) else None
        if dtype is None or dtype.newbyteorder("=") != array.dtype:
            raise ValueError(f"its dtype is {value['dtype']!r}")
        array = array.astype(dtype)
    return array.T if "order" in value else array


def _decode_strings(value: dict[str, Any], where: str, parts: _Parts) -> np.ndarray:
    strings, shape, dtype = _checked_list(value["$strings"]), _checked_list(value["shape"]), value["dtype"]
    if not all(type(item) is str for item in strings):
        raise ValueError("not all items are strings")
    if not all(type(size) is int and size >= 0 for size in shape) or math.prod(shape) != len(strings):
        raise ValueError(f"{len(strings)} strings do not have the shape {shape}")
    if dtype == "object":
        made = np.empty(len(strings), object)
        made[:] = strings
        return made.reshape(shape)
    width = int(re.fullmatch(r"[<>]U(\d{1,9})", dtype, re.ASCII)[1])  # type: ignore[index] # a TypeError says so
    if width < max(map(len, strings), default=0) or not parts.admit(width, len(strings)):
        raise ValueError(f"its dtype is {dtype!r}")
    return np.array(strings, dtype).reshape(shape)


def _checked_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


#: Required and optional keys of an object with a tag, and what makes the value.
_TAGS: dict[str, tuple[tuple[str, ...], tuple[str, ...], Callable[[Any, str, _Parts], Any]]] = {
    "$float": ((), (), _decode_float),
    "$numpy": (("value",), (), _decode_numpy),
    "$tuple": ((), (), _decode_tuple),
    "$dict": ((), (), _decode_dict),
    "$array": ((), ("order", "dtype"), _decode_array),
    "$strings": (("shape", "dtype"), (), _decode_strings),
}

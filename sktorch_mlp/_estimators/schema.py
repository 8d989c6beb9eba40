"""What plain values have to look like: small checks, which combine to those of a whole file."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Callable, Collection
from numbers import Integral, Real
from typing import Any

import numpy as np

#: ``check(value, where)`` raises a ValueError that says where a value is, what it should be and what it is.
Check = Callable[[Any, str], None]

_LARGEST = 2**63 - 1


def fail(where: str, expected: str, value: Any) -> None:
    """Raise the error of a check."""
    is_array = isinstance(value, np.ndarray)
    found = f"an array of shape {value.shape} and dtype {value.dtype}" if is_array else reprlib.repr(value)
    raise ValueError(f"{where} should be {expected}, but is {found}.")


def integer(low: int = 0, high: int = _LARGEST) -> Check:
    """An integer in [low, high]."""

    def check(value: Any, where: str) -> None:
        if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
            fail(where, f"an integer in [{low}, {high}]", value)

    return check


def number(low: float = -math.inf, high: float = math.inf, *, nan: bool = False) -> Check:
    """A number in [low, high], or NaN where that may be."""

    def check(value: Any, where: str) -> None:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not (low <= value <= high or (nan and value != value)):
            fail(where, f"a number in [{low}, {high}]", value)

    return check


def anything(value: Any, where: str) -> None:
    """Pass: another check looks closer."""


def boolean(value: Any, where: str) -> None:
    """Check for a bool."""
    if not isinstance(value, bool | np.bool_):
        fail(where, "a bool", value)


def text(value: Any, where: str) -> None:
    """Check for a string."""
    if not isinstance(value, str):
        fail(where, "a string", value)


def device(value: Any, where: str) -> None:
    """Check for the name of a device."""
    text(value, where)
    if not re.fullmatch(r"(cpu|cuda|mps)(:\d{1,2})?", value, re.ASCII):
        fail(where, "the name of a device", value)


def scalar(value: Any, where: str) -> None:
    """Check for a string, a number, a bool or None."""
    if value is not None and not isinstance(value, str | bool | int | float | np.generic):
        fail(where, "a single value", value)


def choice(options: Collection[str]) -> Check:
    """One of these strings."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, str) or value not in options:
            fail(where, f"one of {sorted(options)}", value)

    return check


def optional(check: Check) -> Check:
    """None, or what passes a check."""
    return lambda value, where: None if value is None else check(value, where)


def either(first: Check, second: Check) -> Check:
    """What passes one of two checks; the error is that of the second."""

    def check(value: Any, where: str) -> None:
        try:
            first(value, where)
        except ValueError:
            second(value, where)

    return check


def list_of(check_item: Check, length: int | None = None) -> Check:
    """A list whose items pass a check."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, list) or (length is not None and len(value) != length):
            fail(where, "a list" if length is None else f"a list of {length} items", value)
        for i, item in enumerate(value):
            check_item(item, f"{where}[{i}]")

    return check


def mapping(check_key: Check, check_item: Check) -> Check:
    """A dict whose keys and items pass checks."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            fail(where, "a dict", value)
        for key, item in value.items():
            check_key(key, f"a key of {where}")
            check_item(item, f"{where}.{key}")

    return check


def record(required: dict[str, Check], others: dict[str, Check] | None = None) -> Check:
    """A dict with these keys, whose items pass these checks."""
    checks = required | (others or {})

    def check(value: Any, where: str) -> None:
        if not isinstance(value, dict):
            fail(where, "a dict", value)
        missing, unknown = required.keys() - value.keys(), value.keys() - checks.keys()
        for problem, names in (("lacks", missing), ("has the unknown entries", unknown)):
            if names:
                raise ValueError(f"{where} {problem} {sorted(map(str, names))}.")
        for name, item in value.items():
            checks[name](item, f"{where}.{name}")

    return check


def array(kinds: str, *shape: int | None) -> Check:
    """An array of these kinds of dtype and this shape, of which None is any size but 0."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or not _has_shape(value, shape):
            sizes = ", ".join("n" if size is None else str(size) for size in shape)
            fail(where, f"an array of shape ({sizes}) and kind {kinds!r}", value)

    return check


def _has_shape(value: np.ndarray, shape: tuple[int | None, ...]) -> bool:
    return value.ndim == len(shape) and all(
        size > 0 if wanted is None else size == wanted for size, wanted in zip(value.shape, shape, strict=True)
    )


def vector(kinds: str) -> Check:
    """An array of these kinds of dtype and one dimension, of any length."""

    def check(value: Any, where: str) -> None:
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds or value.ndim != 1:
            fail(where, f"an array of one dimension and kind {kinds!r}", value)

    return check


def column(kinds: str, check_item: Check) -> Check:
    """A column of values: an array of one dimension, or a list."""
    of_array, of_list = vector(kinds), list_of(check_item)
    return lambda value, where: (of_array if isinstance(value, np.ndarray) else of_list)(value, where)

"""Tables for `python -m benchmarks tables`: a folder of files with a manifest, or the sets bundled with scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes
    ----------
    name : str
    is_classification : bool
    load : callable
        ``load()`` gives a frame, with categories as dtype category, and a series of labels (as
        strings) or numbers.
    """

    name: str
    is_classification: bool
    load: Callable[[], tuple[pd.DataFrame, pd.Series]]


def tables_in(folder: Path | None) -> list[Table]:
    """Tables of a folder, or those bundled with scikit-learn.

    Parameters
    ----------
    folder : Path or None
        Has CSV files, and in ``manifest.json`` a list of objects with `name`, `file`, `target`,
        `task` ("classification" or "regression") and `categorical`, a list of names of columns.

    Raises
    ------
    SystemExit
        If the folder has no manifest.
    """
    if folder is None:
        return _BUNDLED
    try:
        entries = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SystemExit(f"{folder} has no manifest.json") from None
    return [Table(e["name"], e["task"] == "classification", partial(_read, folder, e)) for e in entries]


def _read(folder: Path, entry: dict[str, Any]) -> tuple[pd.DataFrame, pd.Series]:
    """Read a file. Only empty fields are missing: "None" and "NA" are levels in some tables."""
    target, categories, is_classification = entry["target"], entry["categorical"], entry["task"] == "classification"
    strings = dict.fromkeys([*categories, *([target] if is_classification else [])], str)
    X = pd.read_csv(folder / entry["file"], dtype=strings, keep_default_na=False, na_values=[""], low_memory=False)
    y = X.pop(target)
    numbers = [name for name in X if name not in categories]
    X[numbers] = X[numbers].apply(pd.to_numeric).astype("float64")
    X = X.astype(dict.fromkeys(categories, "category"))
    return X, y.astype(object) if is_classification else y.astype("float64")


def _load(load: Callable[..., Any], is_classification: bool) -> tuple[pd.DataFrame, pd.Series]:
    X, y = load(return_X_y=True, as_frame=True)
    return X, y.astype(str).astype(object) if is_classification else y.astype("float64")


_BUNDLED = [
    Table(name, is_classification, partial(_load, load, is_classification))
    for name, is_classification, load in (
        ("breast_cancer", True, load_breast_cancer),
        ("digits", True, load_digits),
        ("wine", True, load_wine),
        ("diabetes", False, load_diabetes),
    )
]

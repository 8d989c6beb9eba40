"""What the attributes of fitted ensembles on tables have to look like, before they are saved and after they are read."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np

from sktorch_mlp._nn.embeddings import TableEmbedding
from sktorch_mlp._nn.losses import OUTPUT_ACTIVATIONS

from .checks import BINARIZER, check_feature_names, check_outputs_of_labels, labels, records, requests, same
from .compat import REQUESTS
from .plain import from_state
from .recipe import Settings
from .schema import (
    Check,
    anything,
    array,
    boolean,
    choice,
    column,
    device,
    fail,
    integer,
    list_of,
    mapping,
    record,
    scalar,
    text,
    vector,
)

#: Widths and numbers of inputs beyond these make no sense, and would take memory.
_MOST_INPUTS = 2**24

# Columns --------------------------------------------------------------------------------


def _level(value: Any, where: str) -> None:
    if not isinstance(value, str | bool | int | float) or value != value:
        fail(where, "a string, a bool or a number", value)


def _check_columns(value: dict[str, Any], where: str, n_features: int, others: dict[str, Check]) -> None:
    record({"index": anything, "name": list_of(text), "has_missing": anything, **others})(value, where)
    n_columns = len(value["name"])
    array("i", n_columns)(value["index"], f"{where}.index")
    array("b", n_columns)(value["has_missing"], f"{where}.has_missing")
    if not all(0 <= index < n_features for index in value["index"].tolist()):
        fail(f"{where}.index", f"below n_features_in_={n_features}", value["index"])


def _table_encoder(n_features: int) -> Check:
    def check(value: Any, where: str) -> None:
        record({"numbers": anything, "categories": anything})(value, where)
        numbers, categories = value["numbers"], value["categories"]
        _check_columns(numbers, f"{where}.numbers", n_features, {"center": anything, "scale": anything})
        for name in ("center", "scale"):
            array("f", len(numbers["name"]))(numbers[name], f"{where}.numbers.{name}")
        if (
            not np.isfinite(numbers["center"]).all()
            or not (np.isfinite(numbers["scale"]) & (numbers["scale"] > 0)).all()
        ):
            raise ValueError(f"{where}.numbers should have finite centers and positive scales.")
        _check_columns(categories, f"{where}.categories", n_features, {"levels": anything})
        levels = categories["levels"]
        list_of(list_of(_level), len(categories["name"]))(levels, f"{where}.categories.levels")
        if not all(levels):
            raise ValueError(f"{where}.categories has columns without levels.")

    return check


def _scaler(n_features: int) -> Check:
    of_features = array("f", n_features)
    return record(
        {
            "max_abs_": of_features,
            "scale_": of_features,
            "n_features_in_": integer(n_features, n_features),
            "n_samples_seen_": integer(),
        }
    )


# Networks -------------------------------------------------------------------------------

_STACK = record(
    {
        "layer_units": list_of(integer(1)),
        "sparse_input": boolean,
        "bfloat16": boolean,
        "device": device,
        "embedding": anything,
        "flat": array("f", None, None),
        "bin_scales": array("f", None, 1),
        "out_activation": choice(OUTPUT_ACTIVATIONS),
        "weights": array("f", None),
    }
)
_EMBEDDING = record(
    {
        "n_numbers": integer(0, _MOST_INPUTS),
        "indicated": list_of(integer()),
        "n_levels": list_of(integer(1)),
        "signed": list_of(integer()),
        "edges": vector("f"),
        "n_edges": vector("i"),
        "n_frequencies": integer(0, _MOST_INPUTS),
        "max_one_hot": integer(0, _MOST_INPUTS),
        "width": integer(1, _MOST_INPUTS),
    }
)


def _check_stack(stack: dict[str, Any], where: str, encoder: dict[str, Any], n_features: int, n_outputs: int) -> None:
    """Check that the parameters of a stack are as many as its layers ask for."""
    layer_units, flat = stack["layer_units"], stack["flat"]
    if len(layer_units) < 2 or flat.dtype.name not in ("float32", "float64"):
        raise ValueError(f"{where} has no layers, or parameters of dtype {flat.dtype}.")
    n_embedding, n_inputs = 0, n_features
    if "numbers" in encoder:
        embedding = _check_embedding(stack["embedding"], f"{where}.embedding", encoder)
        n_embedding, n_inputs = embedding.n_parameters, embedding.n_inputs
    same(f"{where}.embedding", stack["embedding"] is not None, "numbers" in encoder)
    same(f"{where}.sparse_input", bool(stack["sparse_input"]), "numbers" not in encoder)
    same(f"the inputs of {where}", layer_units[0], n_inputs)
    same(f"the outputs of {where}", layer_units[-1], n_outputs)
    n_parameters = sum(n_in * n_out + n_out for n_in, n_out in pairwise(layer_units)) + n_embedding
    same(f"the number of parameters of {where}", flat.shape[1], n_parameters)
    same(f"the shape of {where}.bin_scales", stack["bin_scales"].shape, (len(flat), 1))
    same(f"the shape of {where}.weights", stack["weights"].shape, (len(flat),))


def _check_embedding(value: Any, where: str, encoder: dict[str, Any]) -> TableEmbedding:
    _EMBEDDING(value, where)
    levels = encoder["categories"]["levels"]
    n_numbers = len(encoder["numbers"]["name"]) or int(not levels)  # a table without columns has one of zeros
    same(f"{where}.n_numbers", value["n_numbers"], n_numbers)
    same(f"{where}.n_levels", value["n_levels"], [len(of_column) for of_column in levels])
    for name, n_columns in (("indicated", n_numbers), ("signed", len(levels))):
        if value[name] != sorted(set(value[name])) or any(position >= n_columns for position in value[name]):
            fail(f"{where}.{name}", "increasing places of columns", value[name])
    n_edges = value["n_edges"].tolist()
    if len(n_edges) not in (0, n_numbers) or min(n_edges, default=0) < 0:
        fail(f"{where}.n_edges", f"{n_numbers} numbers of edges", n_edges)
    same(f"the number of {where}.edges", len(value["edges"]), sum(n_edges))
    embedding = from_state(TableEmbedding, value)
    if not all(np.isfinite(edges).all() and (np.diff(edges) > 0).all() for edges in embedding.edges):
        raise ValueError(f"{where}.edges should be finite and increase.")
    return embedding


# What else a fit has left ---------------------------------------------------------------


def _cell(value: Any, where: str) -> None:
    for item in value if isinstance(value, tuple) else (value,):
        scalar(item, where)


def _leaderboard(value: Any, where: str) -> None:
    record({"index": anything, "columns": mapping(text, column("biuf", _cell))})(value, where)
    columns = value["columns"]
    expected = {
        "candidate",
        "validation_loss",
        "weight",
        "n_iter",
        "seconds",
        *(field.name for field in fields(Settings)),
    }
    if missing := expected - columns.keys():
        raise ValueError(f"{where} lacks the columns {sorted(missing)}.")
    n_rows = len(columns["candidate"])
    for name, values in columns.items():
        same(f"the length of {where}.columns.{name}", len(values), n_rows)
    array("i", n_rows)(value["index"], f"{where}.index")
    array("i", n_rows)(columns["candidate"], f"{where}.columns.candidate")


_REQUIRED: dict[str, Check] = {
    **dict.fromkeys(("n_features_in_", "n_outputs_"), integer(1)),
    "n_iter_": integer(),
    "_encoder": anything,
    "_ensemble": record({"stacks": list_of(_STACK), "held_out": anything}),
    "_member_keys": array("i", None, 2),
    "history_": records,
    "leaderboard_": _leaderboard,
}
_OTHERS: dict[str, Check] = {
    "feature_names_in_": array("O", None),
    REQUESTS: requests,
}
_OF_LABELS: dict[str, Check] = {"classes_": labels, "_label_binarizer": BINARIZER}
_OF_NUMBERS: dict[str, Check] = {"_targets": anything, "_is_1d": boolean}


def check_ensemble(state: dict[str, Any], *, is_classifier: bool) -> None:
    """Check the attributes of a fitted ensemble, of plain values.

    Raises
    ------
    ValueError
    """
    record(_REQUIRED | (_OF_LABELS if is_classifier else _OF_NUMBERS), _OTHERS)(state, "attributes")
    n_features, n_outputs = state["n_features_in_"], state["n_outputs_"]
    stacks, held_out = state["_ensemble"]["stacks"], state["_ensemble"]["held_out"]
    check_feature_names(state)
    encoder = state["_encoder"]
    is_table = isinstance(encoder, dict) and "numbers" in encoder
    (_table_encoder if is_table else _scaler)(n_features)(encoder, "_encoder")
    if not stacks:
        raise ValueError("_ensemble has no networks.")
    for i, stack in enumerate(stacks):
        _check_stack(stack, f"_ensemble.stacks[{i}]", encoder, n_features, n_outputs)
        same(f"_ensemble.stacks[{i}].out_activation", stack["out_activation"], stacks[0]["out_activation"])
    _check_members(state)
    if held_out is not None:
        array("f", None, n_outputs)(held_out, "_ensemble.held_out")
    if is_classifier:
        check_outputs_of_labels(state, stacks[0]["out_activation"])
        return
    same("the activation of the outputs", stacks[0]["out_activation"], "identity")
    of_outputs = array("f", n_outputs)
    record({"center": of_outputs, "scale": of_outputs})(state["_targets"], "_targets")
    if state["_is_1d"] and n_outputs > 1:
        raise ValueError(f"_is_1d is True, but n_outputs_={n_outputs}.")


def _check_members(state: dict[str, Any]) -> None:
    """Check that there is a key for each network, and one row of the leaderboard for each candidate."""
    keys, known = state["_member_keys"], state["leaderboard_"]["columns"]["candidate"].tolist()
    same("the number of _member_keys", len(keys), sum(len(stack["flat"]) for stack in state["_ensemble"]["stacks"]))
    for candidate in set(keys[:, 0].tolist()):
        same(f"the number of rows of candidate {candidate} in leaderboard_", known.count(candidate), 1)

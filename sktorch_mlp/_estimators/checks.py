"""What the attributes of fitted estimators have to look like, before they are saved and after they are read from a file.

A file may be damaged or hostile. What passes is safe to predict with and to train further: all shapes fit together,
and nothing is larger than what the file holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from sktorch_mlp._nn.losses import OUTPUT_ACTIVATIONS
from sktorch_mlp._nn.modules import NORM_NAMES
from sktorch_mlp._training.schedules import SCHEDULES

from .compat import REQUESTS
from .fitted import CURVES, check_layers
from .schema import (
    Check,
    anything,
    array,
    boolean,
    choice,
    column,
    device,
    either,
    fail,
    integer,
    list_of,
    mapping,
    number,
    optional,
    record,
    text,
)

#: Bytes of the state of a random stream, at most; that of the CPU has 5056.
_MOST_STREAM = 2**14
#: Methods that metadata can be requested for.
_METHODS = ("fit", "partial_fit", "predict", "predict_proba", "predict_log_proba", "score")
requests = mapping(choice(_METHODS), mapping(text, either(boolean, text)))


# Training -------------------------------------------------------------------------------

_RATE = number(0)
_PLANNED: dict[str, Check] = {
    "n_epochs": integer(1),
    "warmup_fraction": number(0, 1),
    **dict.fromkeys(("_epoch", "_step"), integer()),
}
_SCHEDULE_FIELDS: dict[str, dict[str, Check]] = {
    "InverseScaling": {"power_t": number(0)},
    "Cosine": _PLANNED,
    "OneCycle": _PLANNED,
}


def _schedule(value: Any, where: str) -> None:
    name = _name_of(value, where, SCHEDULES)
    fields = {"name": text, "learning_rate_init": _RATE, "learning_rate": _RATE, **_SCHEDULE_FIELDS.get(name, {})}
    record(fields)(value, where)


def _name_of(value: Any, where: str, known: Mapping[str, object]) -> str:
    """Name in a dict."""
    if not isinstance(value, dict):
        fail(where, "a dict", value)
    choice(known.keys())(value.get("name"), f"{where}.name")
    return str(value["name"])


def _optimizer(n_parameters: int) -> Check:
    one_number, moment = list_of(number(0), 1), optional(array("f", 1, n_parameters))
    adam: dict[str, Check] = {
        **dict.fromkeys(("beta_1", "beta_2"), list_of(number(0, math.nextafter(1, 0)), 1)),
        "epsilon": one_number,
        **dict.fromkeys(("first_moment", "second_moment"), moment),
        "n_steps": list_of(integer(), 1),
    }
    fields: dict[str, dict[str, Check]] = {
        "SGD": {"momentum": one_number, "nesterov": boolean, "velocity": moment},
        "Adam": adam,
        "AdamW": adam | {"weight_decay": one_number},
    }

    def check(value: Any, where: str) -> None:
        if isinstance(value, dict) and value.get("name") == "TorchOptimizer":
            raise ValueError(
                "A fit by a class of torch.optim cannot be saved, as that is code. Choose a solver by its name and fit "
                "again, or pickle the estimator."
            )
        name = _name_of(value, where, fields)
        record({"name": text, "schedules": list_of(_schedule, 1), **fields[name]})(value, where)

    return check


def records(value: Any, where: str) -> None:
    """Check for records of epochs, as columns."""
    list_of(mapping(text, column("fi", number(nan=True))))(value, where)
    for block in value:
        if len({len(values) for values in block.values()}) > 1:
            raise ValueError(f"{where} has columns of different lengths.")


_CURVE = column("fi", number(nan=True))
_PROGRESS = record(
    {
        "records": records,
        **dict.fromkeys(("loss_curve", "validation_losses", "validation_scores"), _CURVE),
        **dict.fromkeys(("best_loss", "best_validation_score"), number(nan=True)),
        **dict.fromkeys(("n_epochs_before", "best_n_iter", "n_epochs_no_change", "n_iter", "n_rows_seen"), integer()),
        "stop_reason": text,
    }
)


def _generator(value: Any, where: str) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        fail(where, "a device and the state of a random stream", value)
    device(value[0], where)
    array("u", None)(value[1], where)
    if value[1].dtype != np.uint8 or len(value[1]) > _MOST_STREAM:
        fail(where, f"at most {_MOST_STREAM} bytes", value[1])
    if value[0] == "cpu":
        try:
            torch.Generator().set_state(torch.from_numpy(value[1]))
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"{where} is no state of a random stream.") from error


# Labels ---------------------------------------------------------------------------------

_Y_TYPES = ("binary", "multiclass", "multilabel-indicator")


def labels(value: Any, where: str) -> None:
    """Check for distinct labels in increasing order: numbers, bools or strings."""
    array("biufUO", None)(value, where)
    is_known = value.dtype.kind != "O" or all(isinstance(label, str) for label in value)
    if not is_known or not all(value[:-1] < value[1:]):
        fail(where, "labels in increasing order", value)


BINARIZER = record({"classes": labels, "y_type": choice(_Y_TYPES), "sparse_input": boolean})


def check_outputs_of_labels(state: dict[str, Any], out_activation: str) -> None:
    """Check that labels and outputs fit together."""
    y_type, n_classes = state["_label_binarizer"]["y_type"], len(state["_label_binarizer"]["classes"])
    if not y_type.startswith("multilabel"):
        same("the number of classes_", len(state["classes_"]), n_classes)
    if y_type == "binary" and n_classes > 2:
        fail("classes_", "two labels or one", state["classes_"])
    same("n_outputs_", state["n_outputs_"], 1 if y_type == "binary" else n_classes)
    same("the activation of the outputs", out_activation, "softmax" if y_type == "multiclass" else "logistic")


def same(what: str, value: object, expected: object) -> None:
    """Raise if a value is not the one that follows from others."""
    if value != expected:
        fail(what, repr(expected), value)


# Networks -------------------------------------------------------------------------------

#: Kinds of dtypes of weights: users may write integers.
_WEIGHTS = "biuf"
_NORM_NAMES = (NORM_NAMES[:2], NORM_NAMES)
_OPTIONAL_NUMBER = optional(number(nan=True))

#: Attributes of every network, whose shapes are still to be checked.
_REQUIRED: dict[str, Check] = {
    "coefs_": list_of(array(_WEIGHTS, None, None)),
    "intercepts_": list_of(array(_WEIGHTS, None)),
    "normalizations_": list_of(mapping(choice(NORM_NAMES), array(_WEIGHTS, None))),
    "device_": device,
    "out_activation_": choice(OUTPUT_ACTIVATIONS),
    **dict.fromkeys(("n_features_in_", "n_layers_", "n_outputs_"), integer(1)),
}
_OTHERS: dict[str, Check] = {
    "feature_names_in_": array("O", None),
    "_state": anything,
    "loss_": number(nan=True),
    **dict.fromkeys(("n_iter_", "t_"), integer()),
    **dict.fromkeys(CURVES, optional(either(choice(CURVES.values()), list_of(number(nan=True))))),
    **dict.fromkeys(("best_loss_", "best_validation_score_"), _OPTIONAL_NUMBER),
    "best_n_iter_": optional(integer()),
    REQUESTS: requests,
}
_LABELS: dict[str, Check] = {"classes_": labels, "_label_binarizer": BINARIZER}


def check_mlp(state: dict[str, Any], *, is_classifier: bool) -> None:
    """Check the attributes of a fitted network, of plain values.

    Raises
    ------
    ValueError
    """
    record(_REQUIRED | (_LABELS if is_classifier else {}), _OTHERS)(state, "attributes")
    layer_units = _check_shapes(state)
    same("n_features_in_", state["n_features_in_"], layer_units[0])
    same("n_layers_", state["n_layers_"], len(layer_units))
    same("n_outputs_", state["n_outputs_"], layer_units[-1])
    check_feature_names(state)
    if "_state" in state:
        norms = state["normalizations_"]
        n_parameters = sum(n_in * n_out + n_out for n_in, n_out in pairwise(layer_units))
        n_parameters += 2 * sum(layer_units[1:-1]) if norms else 0
        _training(n_parameters)(state["_state"], "_state")
    elif any(isinstance(state.get(name), str) for name in CURVES):
        raise ValueError("_state lacks the curves.")
    optional(integer(0, _n_epochs(state)))(state.get("best_n_iter_"), "best_n_iter_")
    if is_classifier:
        check_outputs_of_labels(state, state["out_activation_"])
    elif state["out_activation_"] not in ("identity", "exp"):
        fail("out_activation_", "that of a regressor", state["out_activation_"])


def _n_epochs(state: dict[str, Any]) -> int:
    """Number of epochs that there are losses of."""
    if "_state" not in state:
        return len(state.get("loss_curve_") or ())
    return sum(len(next(iter(block.values()), ())) for block in state["_state"]["progress"]["records"])


def _check_shapes(state: dict[str, Any]) -> tuple[int, ...]:
    """Check that the shapes of all layers fit together; return the units of each."""
    coefs, norms = state["coefs_"], state["normalizations_"]
    if not coefs:
        fail("coefs_", "a list of arrays", coefs)
    layer_units = check_layers(coefs, state["intercepts_"])
    if norms:
        names = next((names for names in _NORM_NAMES if names == tuple(norms[0])), NORM_NAMES)
        expected = [dict.fromkeys(names, n_units) for n_units in layer_units[1:-1]]
        same("the lengths of normalizations_", [{name: len(norm[name]) for name in norm} for norm in norms], expected)
    return layer_units


def check_feature_names(state: dict[str, Any]) -> None:
    """Check that there is a name for each feature."""
    if "feature_names_in_" in state:
        array("O", state["n_features_in_"])(state["feature_names_in_"], "feature_names_in_")


def _training(n_parameters: int) -> Check:
    return record(
        {
            "sparse_input": boolean,
            "optimizer": optional(_optimizer(n_parameters)),
            "progress": _PROGRESS,
            "generator": optional(_generator),
        }
    )

"""Warnings, given at the line of the user's code that led to them."""

from __future__ import annotations

import inspect
import warnings

#: Packages whose frames are between the user's call and us.
_PACKAGES = ("sktorch_mlp", "sklearn", "joblib", "torch", "threading", "concurrent", "contextlib")
#: Warnings given already for which there is no line, as Python keeps them for each module.
_registry: dict[str | tuple[str, type[Warning], int], int] = {}


def warn(message: str, category: type[Warning], module: str = "sktorch_mlp") -> None:
    """Warn at the innermost line outside of this package and those that call it.

    Parameters
    ----------
    message : str
    category : type of Warning
    module : str, default="sktorch_mlp"
        Module by which filters find the warning.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _PACKAGES:
        frame = frame.f_back
    if frame is None:  # in a thread that runs a task there is none
        filename, line, registry = "<sktorch_mlp>", 1, _registry
    else:
        filename, line = frame.f_code.co_filename, frame.f_lineno
        registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, category, filename, line, module=module, registry=registry)


def warn_as_sklearn(message: str, category: type[Warning]) -> None:
    """Give a warning that scikit-learn's MLP gives as well, so that filters of its module find it."""
    warn(message, category, "sklearn.neural_network._multilayer_perceptron")

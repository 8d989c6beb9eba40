"""Estimators as files: what a file says of one, and the method that saves it."""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import sklearn
import torch
from sklearn.utils.validation import check_is_fitted

from sktorch_mlp._interop import safetensors

from .compat import has_callbacks, validate_parameter_constraints
from .parameters import check_layer_sizes
from .plain import PlainEstimator
from .schema import anything, device, fail, record

#: What becomes of a parameter that a file cannot hold.
_REMEDIES = {
    "solver": "Choose a solver by its name and fit again",
    "activation": "Choose activations by their names and fit again",
    "loss": "Predictions do not need it: set it to the name of a loss, with set_params",
    "scoring": "Predictions do not need it: set it to the name of a scorer or None, with set_params",
    "callbacks": "Predictions do not need them: call set_params(callbacks=None)",
    "random_state": "Predictions do not need it: set it to an integer or None, with set_params",
    "hyperparameters": "Predictions do not need them: call set_params(hyperparameters=None)",
}


class SavableEstimator(PlainEstimator):
    """An estimator with the method `save`."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]]

    @classmethod
    @abstractmethod
    def _check_state(cls, params: dict[str, Any], attributes: dict[str, Any]) -> None:
        """Raise a ValueError if plain attributes are not those of a fitted estimator with these parameters."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the fitted estimator to a file, which `sktorch_mlp.load` and every later release read.

        The format is safetensors: arrays, and a header of JSON with parameters and attributes. No code is executed
        on loading, so files of others can be loaded. The file is written beside the path and then replaces what is
        there.

        Parameters
        ----------
        path : str or path-like
            File to save to; by convention it ends with ".safetensors".

        Raises
        ------
        NotFittedError
            Before a fit.
        ValueError
            If a parameter is code (a function, a class, a callback) or a random state, or the class is a subclass.
            Such an estimator can be pickled.
        ImportError
            Without the library safetensors.
        """
        check_is_fitted(self)
        try:
            safetensors.write(path, self._describe_file())
        except safetensors.NotPlainError as error:
            raise ValueError(_explain(error, self)) from error

    def _describe_file(self) -> dict[str, Any]:
        """Class, versions, parameters and attributes as plain values, which have passed the checks of `load`."""
        class_ = type(self)
        if class_.__module__ != "sktorch_mlp":
            raise ValueError(f"{class_.__name__} is a subclass, and files have no code of it. Pickle it instead.")
        if has_callbacks(self):
            raise ValueError("Callbacks cannot be saved, as they are code. Remove them: call set_callbacks().")
        state = self.__getstate__()
        params = {name: state.pop(name) for name in self._get_param_names()}
        if isinstance(params.get("solver"), dict):  # plain in a pickle, but a file shall name no code
            raise safetensors.NotPlainError(("params", "solver"), params["solver"])
        check_state(class_, params, state)
        return {"class": class_.__name__, "versions": _versions(), "params": params, "attributes": state}


def check_state(class_: type[SavableEstimator], params: Any, attributes: Any) -> None:
    """Check parameters and attributes of a class, both plain.

    Raises
    ------
    ValueError
    """
    record({}, dict.fromkeys(class_._get_param_names(), anything))(params, "params")
    own_device = params.get("device")
    if isinstance(own_device, dict):
        record({"torch.device": device})(own_device, "params.device")
    # A device is checked above and a name when it is used.
    validate_parameter_constraints(class_._parameter_constraints, {**params, "device": "auto"}, class_.__name__)
    sizes = params.get("hidden_layer_sizes", ())
    try:
        check_layer_sizes(sizes)
    except (ValueError, TypeError):
        fail("params.hidden_layer_sizes", "positive integers", sizes)
    class_._check_state(params, attributes)


def _explain(error: safetensors.NotPlainError, estimator: SavableEstimator) -> str:
    """Name the parameter or attribute that cannot be saved, its value, and what to do."""
    section, name, *_ = *error.where, ""
    if section != "params":
        return f"{name or section} cannot be saved: it has {error.value!r}, which a file cannot hold. Pickle the estimator."
    remedy = _REMEDIES.get(name, "Set it to numbers or strings, with set_params")
    return (
        f"{name}={getattr(estimator, name)!r} cannot be saved: a file holds numbers, strings and arrays, and no code. "
        f"{remedy}, or pickle the estimator."
    )


def _versions() -> dict[str, str]:
    ours: Any = sys.modules["sktorch_mlp"]  # which imports this module
    libraries = {"sktorch-mlp": ours, "numpy": np, "scikit-learn": sklearn, "torch": torch}
    return {name: str(library.__version__) for name, library in libraries.items()}

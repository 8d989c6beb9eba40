"""Estimators from files."""

from __future__ import annotations

import os
from typing import Any

from sktorch_mlp._interop import safetensors

from .classifier import MLPTorchClassifier
from .plain import from_state
from .regressor import MLPTorchRegressor
from .saving import SavableEstimator, check_state
from .schema import anything, choice, mapping, record, text
from .tabular_classifier import TabularMLPClassifier
from .tabular_regressor import TabularMLPRegressor

_CLASSES: dict[str, type[SavableEstimator]] = {
    class_.__name__: class_
    for class_ in (MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor)
}
_DESCRIPTION = record(
    {"class": choice(_CLASSES), "versions": mapping(text, text), "params": anything, "attributes": anything}
)


def load(path: str | os.PathLike[str]) -> Any:
    """Load a fitted estimator that its method `save` has saved.

    It predicts bit for bit as the one that was saved, and goes on with `partial_fit` or a warm start as that would.
    Nothing in the file is executed, and all of it is checked first.

    Parameters
    ----------
    path : str or path-like
        File of this release or an earlier one.

    Returns
    -------
    estimator : MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier or TabularMLPRegressor
        The fitted estimator.

    Raises
    ------
    ValueError
        If the file is of another kind, of a later release, or damaged.
    OSError
        If it cannot be read.
    TypeError
        If the path is none.
    ImportError
        Without the library safetensors.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import sktorch_mlp
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = sktorch_mlp.MLPTorchClassifier(max_iter=1000, random_state=0).fit(X, y)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     model.save(Path(folder) / "iris.safetensors")
    ...     loaded = sktorch_mlp.load(Path(folder) / "iris.safetensors")
    >>> bool((loaded.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    path = os.fspath(path)
    try:
        description = safetensors.read(path)
        _DESCRIPTION(description, "the header")
        class_ = _CLASSES[description["class"]]
        check_state(class_, description["params"], description["attributes"])
        # An earlier release may have had fewer parameters.
        return from_state(class_, vars(class_()) | description["params"] | description["attributes"])
    except ValueError as error:
        raise ValueError(f"{path!r} cannot be loaded: {error}") from error

"""Export to ONNX by skl2onnx: importing this module is all that it takes.

It registers a converter for each estimator, so that `skl2onnx.to_onnx` and `skl2onnx.convert_sklearn` know them, on their own
and in pipelines, searches, calibrated classifiers and ensembles of scikit-learn.

Examples
--------
>>> import sktorch_mlp.onnx
>>> from skl2onnx import to_onnx
>>> from sklearn.datasets import load_iris
>>> from sktorch_mlp import MLPTorchClassifier
>>> X, y = load_iris(return_X_y=True)
>>> model = MLPTorchClassifier(solver="lbfgs", tol=1e-2, random_state=0).fit(X, y)
>>> exported = to_onnx(model, X[:1], options={"zipmap": False})
>>> [output.name for output in exported.graph.output]
['label', 'probabilities']
"""

from __future__ import annotations

from typing import Any

from sklearn.utils.validation import check_is_fitted

from ._estimators.classifier import MLPTorchClassifier
from ._estimators.regressor import MLPTorchRegressor
from ._estimators.tabular_classifier import TabularMLPClassifier
from ._estimators.tabular_regressor import TabularMLPRegressor
from ._interop.extras import needed_by

with needed_by("sktorch_mlp.onnx", extra="onnx"):
    from ._interop.skl2onnx import register

__all__: list[str] = []


def _describe(estimator: Any) -> Any:
    check_is_fitted(estimator)
    return estimator._describe()


register(MLPTorchClassifier, _describe, is_classifier=True, has_logits=True)
register(MLPTorchRegressor, _describe, is_classifier=False)
register(TabularMLPClassifier, _describe, is_classifier=True)
register(TabularMLPRegressor, _describe, is_classifier=False)

"""What the estimators take from scikit-learn's private names, with the reason for each; and its types.

scikit-learn has no types, so its base classes would hide a misspelt attribute from the type checker. It is
given classes with the methods that we use or override.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

# Rows of arrays and of frames of any library.
from sklearn.utils import _safe_indexing as safe_indexing

# Library and device of arrays, by the rules of scikit-learn's own estimators. Their checks look for the words of
# `check_same_namespace`. The module is private as long as the support of the array API is experimental.
from sklearn.utils._array_api import check_same_namespace, get_namespace_and_device, move_to

# Constraints of parameters, whose errors are those of scikit-learn's own estimators. The module is private by its
# name, but third-party estimators are meant to use it, and scikit-learn's estimator checks read the constraints.
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    Options,
    StrOptions,
    validate_parameter_constraints,
)

# Checks of `partial_fit` and `sample_weight`, word by word those of scikit-learn's own estimators.
from sklearn.utils.multiclass import _check_partial_fit_first_call as check_partial_fit_first_call
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

# Checks of y alone, where X is a frame: `validate_data` would look at names of X as well.
from sklearn.utils.validation import _check_y as check_y

__all__ = [
    "REQUESTS",
    "BaseEstimator",
    "CallbackSupportMixin",
    "ClassifierMixin",
    "Interval",
    "InvalidParameterError",
    "Options",
    "RegressorMixin",
    "StrOptions",
    "available_if",
    "check_partial_fit_first_call",
    "check_same_namespace",
    "check_sample_weight",
    "check_y",
    "fit_context",
    "get_namespace_and_device",
    "has_callbacks",
    "move_to",
    "requests_from_plain",
    "requests_to_plain",
    "safe_indexing",
    "scorer_takes_weights",
    "validate_parameter_constraints",
    "with_callbacks",
]

Method = TypeVar("Method", bound=Callable[..., Any])

if TYPE_CHECKING:

    class BaseEstimator:
        n_features_in_: int
        feature_names_in_: np.ndarray

        @classmethod
        def _get_param_names(cls) -> list[str]: ...
        def get_params(self, deep: bool = True) -> dict[str, Any]: ...
        def set_params(self, **params: Any) -> Self: ...
        def get_metadata_routing(self) -> Any: ...
        def __sklearn_tags__(self) -> Any: ...
        def __getstate__(self) -> dict[str, Any]: ...
        def __setstate__(self, state: dict[str, Any]) -> None: ...

    class CallbackSupportMixin:
        def set_callbacks(self, *callbacks: Any) -> Self: ...
        def _init_callback_context(self, *, max_subtasks: int) -> Any: ...

    class ClassifierMixin:
        classes_: np.ndarray

        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float: ...
        def __sklearn_tags__(self) -> Any: ...

    class RegressorMixin:
        def score(self, X: Any, y: Any, sample_weight: Any = None) -> float: ...
        def __sklearn_tags__(self) -> Any: ...

    def available_if(check: Callable[[Any], bool]) -> Callable[[Method], Method]: ...
    def fit_context(*, prefer_skip_nested_validation: bool) -> Callable[[Method], Method]: ...
    def with_callbacks(fit_method: Method) -> Method: ...

else:
    # `_fit_context` checks the parameters before `fit`, by their constraints. `_init_callback_context` of the mixin
    # is how estimators support callbacks; scikit-learn documents it for authors of estimators.
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.base import _fit_context as fit_context
    from sklearn.callback import CallbackSupportMixin, with_callbacks
    from sklearn.utils.metaestimators import available_if


def has_callbacks(estimator: Any) -> bool:
    """Return whether callbacks of scikit-learn are set, by ``_skl_callbacks``, where `set_callbacks` keeps them.

    The context of a fit has no public way to ask. Where the attribute is gone, callbacks are never called.
    """
    return hasattr(estimator, "_skl_callbacks")


#: Where `set_fit_request` and the like keep what they are told. Where the name is gone, it is pickled as it is.
REQUESTS = "_metadata_request"


def requests_to_plain(requests: Any) -> dict[str, dict[str, Any]]:
    """What each method requests, without the estimator, to which the requests of scikit-learn lead back."""
    of_methods = {method: getattr(request, "requests", {}) for method, request in vars(requests).items()}
    given = {
        method: {name: alias for name, alias in of_method.items() if alias is not None}
        for method, of_method in of_methods.items()
    }
    return {method: of_method for method, of_method in given.items() if of_method}


def requests_from_plain(estimator: BaseEstimator, plain: dict[str, dict[str, Any]]) -> Any:
    """Make the requests of an estimator that has none yet."""
    requests = estimator.get_metadata_routing()
    for method, of_method in plain.items():
        for name, alias in of_method.items():
            getattr(requests, method).add_request(param=name, alias=alias)
    return requests


def scorer_takes_weights(scorer: Any) -> bool:
    """Return whether a scorer takes `sample_weight`, by ``_BaseScorer._accept_sample_weight``.

    scikit-learn's searches ask the same. A function has no such method, nor may a scorer of another version; they
    are asked by their signature.
    """
    accepts = getattr(scorer, "_accept_sample_weight", None)
    if accepts is not None:
        return bool(accepts())
    parameters = inspect.signature(scorer).parameters.values()
    return any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)

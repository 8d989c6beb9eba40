"""Models for tables: those of others, ours, and ours with an ingredient changed.

Each is made by a function of (is_classification, seed, X, n_threads), and takes frames with dtype category and missing
values. Libraries are imported only when a model of theirs is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, Self
from unittest import mock

import numpy as np
import pandas as pd
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor
from sktorch_mlp._estimators.recipe import default_settings

MakeModel = Callable[[bool, int, pd.DataFrame, int], Any]


# In the usual pipeline ------------------------------------------------------------------


def _piped(make_estimator: Callable[[bool, int], Any]) -> MakeModel:
    """Put a pipeline before an estimator: one-hot categories, numbers imputed and scaled, a scaled target."""

    def make(is_classification: bool, seed: int, X: pd.DataFrame, n_threads: int) -> Any:
        encode = make_column_transformer(
            (
                OneHotEncoder(handle_unknown="ignore", max_categories=30, sparse_output=False),
                make_column_selector(dtype_include="category"),
            ),
            (
                make_pipeline(SimpleImputer(strategy="median"), StandardScaler()),
                make_column_selector(dtype_include="number"),
            ),
        )
        pipeline = make_pipeline(encode, make_estimator(is_classification, seed))
        return pipeline if is_classification else TransformedTargetRegressor(pipeline, transformer=StandardScaler())

    return make


def _linear(is_classification: bool, seed: int) -> Any:
    return LogisticRegression(max_iter=1000) if is_classification else Ridge()


def _sklearn_mlp(is_classification: bool, seed: int) -> Any:
    return (MLPClassifier if is_classification else MLPRegressor)(random_state=seed)


def _our_mlp(is_classification: bool, seed: int) -> Any:
    return (MLPTorchClassifier if is_classification else MLPTorchRegressor)(dtype="float32", random_state=seed)


def _eight_of_our_mlp(is_classification: bool, seed: int) -> Any:
    bagging = BaggingClassifier if is_classification else BaggingRegressor
    return bagging(_our_mlp(is_classification, seed), 8, bootstrap=False, random_state=seed)


# On frames ------------------------------------------------------------------------------


def _hist_gradient_boosting(is_classification: bool, seed: int, X: pd.DataFrame, n_threads: int) -> Any:
    estimator = HistGradientBoostingClassifier if is_classification else HistGradientBoostingRegressor
    return estimator(categorical_features="from_dtype", random_state=seed)


def _lightgbm(is_classification: bool, seed: int, X: pd.DataFrame, n_threads: int) -> Any:
    import lightgbm

    estimator = lightgbm.LGBMClassifier if is_classification else lightgbm.LGBMRegressor
    return estimator(random_state=seed, n_jobs=n_threads, verbose=-1)


def _catboost(is_classification: bool, seed: int, X: pd.DataFrame, n_threads: int) -> Any:
    import catboost

    estimator = catboost.CatBoostClassifier if is_classification else catboost.CatBoostRegressor
    categories = list(X.select_dtypes("category"))
    quiet = {"verbose": 0, "allow_writing_files": False}
    model = estimator(cat_features=categories, random_seed=seed, thread_count=n_threads, **quiet)
    return Prepared(model, impute_numbers=False, as_category=False)


def _realmlp(name: str) -> MakeModel:
    def make(is_classification: bool, seed: int, X: pd.DataFrame, n_threads: int) -> Any:
        import pytabkit

        estimator = getattr(pytabkit, f"{name}_{'Classifier' if is_classification else 'Regressor'}")
        model = estimator(random_state=seed, device="cpu", n_threads=n_threads, verbosity=0)
        categories = list(X.select_dtypes("category"))
        return Prepared(model, impute_numbers=True, as_category=True, cat_col_names=categories)

    return make


class Prepared:
    """A model that wants missing categories as a level, as strings, and perhaps no missing numbers.

    Parameters
    ----------
    model : object
    impute_numbers : bool
        Whether to put medians where numbers are missing.
    as_category : bool
        Whether the strings are of dtype category.
    **fit_arguments
        Passed to its `fit`.
    """

    def __init__(self, model: Any, *, impute_numbers: bool, as_category: bool, **fit_arguments: Any) -> None:
        self._model, self._fit_arguments = model, fit_arguments
        self._impute_numbers, self._dtype = impute_numbers, "category" if as_category else str

    def fit(self, X: pd.DataFrame, y: pd.Series) -> Self:
        """Fit the model to prepared rows."""
        self._medians = X.select_dtypes("number").median()
        labels = y.to_numpy()
        self._model.fit(
            self._prepared(X), labels.astype(str) if labels.dtype == object else labels, **self._fit_arguments
        )
        self.classes_ = getattr(self._model, "classes_", None)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        """Predict labels or numbers."""
        return np.asarray(self._model.predict(self._prepared(X))).ravel()

    def predict_proba(self, X: pd.DataFrame) -> np.ndarray:
        """Predict probabilities."""
        return np.asarray(self._model.predict_proba(self._prepared(X)))

    def _prepared(self, X: pd.DataFrame) -> pd.DataFrame:
        names = list(X.select_dtypes("category"))
        strings = {name: X[name].astype(object).where(X[name].notna(), "missing").astype(str) for name in names}
        X = X.assign(**{name: values.astype(self._dtype) for name, values in strings.items()})
        return X.fillna(self._medians.to_dict()) if self._impute_numbers else X


# Ours -----------------------------------------------------------------------------------


def _tabular(**params: Any) -> MakeModel:
    def make(is_classification: bool, seed: int, X: pd.DataFrame, n_threads: int) -> Any:
        return (TabularMLPClassifier if is_classification else TabularMLPRegressor)(**params, random_state=seed)

    return make


def _ablated(name: str, value: Any) -> MakeModel:
    """Leave out an ingredient that no parameter turns off: a private name has another value in `fit`."""

    def make(*arguments: Any) -> Any:
        model = _tabular()(*arguments)
        model.fit = mock.patch(f"sktorch_mlp._estimators.{name}", value)(model.fit)
        return model

    return make


def _with_settings(**changes: Any) -> MakeModel:
    return _ablated(
        "tabular.default_settings", lambda *args, **kwargs: replace(default_settings(*args, **kwargs), **changes)
    )


#: By their names on the command line.
MODELS: dict[str, MakeModel] = {
    "mlp": _piped(_sklearn_mlp),
    "linear": _piped(_linear),
    "mlptorch": _piped(_our_mlp),
    "mlptorch_x8": _piped(_eight_of_our_mlp),
    "hgb": _hist_gradient_boosting,
    "lightgbm": _lightgbm,
    "catboost": _catboost,
    "realmlp_td_s": _realmlp("RealMLP_TD_S"),
    "realmlp_td": _realmlp("RealMLP_TD"),
    "tabular": _tabular(),
    "tabular_single": _tabular(n_estimators=1),
    "tabular_no_embedding": _tabular(numerical_embedding=None),
    "tabular_piecewise_linear": _tabular(numerical_embedding="piecewise_linear"),
    "tabular_periodic": _tabular(numerical_embedding="periodic"),
    "tabular_loss": _tabular(scoring="loss"),
    "tabular_no_scales": _ablated("recipe._SCALE_RATE", 0.0),
    "tabular_no_dropout": _with_settings(dropout=0.0),
    "tabular_no_decay": _with_settings(weight_decay=0.0),
    "tabular_auto": _tabular(hyperparameters="auto"),
}
#: What others are compared with: scikit-learn's MLP by its defaults.
DEFAULT = "mlp"
#: Libraries that some need.
LIBRARIES = {"lightgbm": "lightgbm", "catboost": "catboost", "realmlp_td_s": "pytabkit", "realmlp_td": "pytabkit"}
#: Those that are measured if none is named: without the slowest, and where their libraries are installed.
USUAL_MODELS = [
    "mlp",
    "mlptorch",
    "mlptorch_x8",
    "hgb",
    "lightgbm",
    "catboost",
    "realmlp_td_s",
    "tabular",
    "tabular_single",
]


def is_installed(model: str) -> bool:
    """Whether the library that a model needs is there."""
    return model not in LIBRARIES or find_spec(LIBRARIES[model]) is not None

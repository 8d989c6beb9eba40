"""Misspellings that the type checker has to find: plain `mypy` fails where it would miss one.

Each line has an error on purpose, and an "ignore" for it. With `warn_unused_ignores`, part of `strict`, an error that is
not found makes its "ignore" an error. Nothing here is run.
"""

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor


def fitted_attributes(model: MLPTorchClassifier) -> None:
    """Misspell attributes that a fit sets."""
    print(model.coef_)  # type: ignore[attr-defined]
    print(model.intercept_)  # type: ignore[attr-defined]
    print(model.class_)  # type: ignore[attr-defined]
    print(model.loss_curves_)  # type: ignore[attr-defined]
    print(model.coefs_[0].shap)  # type: ignore[attr-defined]
    model.coefs_ = 3  # type: ignore[assignment]


def parameters(model: MLPTorchRegressor) -> None:
    """Misspell parameters, or give them a wrong type."""
    print(model.hidden_layer_size)  # type: ignore[attr-defined]
    MLPTorchClassifier(solvr="adam")  # type: ignore[call-arg]
    MLPTorchClassifier(quantile=0.5)  # type: ignore[call-arg]
    MLPTorchRegressor(label_smoothing=0.1)  # type: ignore[call-arg]
    MLPTorchRegressor("poisson", (3,), "relu", "adam")  # type: ignore[call-arg]
    MLPTorchClassifier(max_iter="200")  # type: ignore[arg-type]


def methods(model: MLPTorchClassifier, regressor: MLPTorchRegressor) -> None:
    """Misspell methods and their arguments, or call those of the other estimator."""
    model.fitt([[0.0]], [0])  # type: ignore[attr-defined]
    model.fit([[0.0]], [0], sample_weights=[1.0])  # type: ignore[call-arg]
    regressor.partial_fit([[0.0]], [0.0], classes=[0])  # type: ignore[call-arg]
    regressor.predict_proba([[0.0]])  # type: ignore[attr-defined]
    model._fitt()  # type: ignore[attr-defined]


def correct(model: MLPTorchClassifier) -> int:
    """What is right has no error, and the types that it should."""
    fitted: MLPTorchClassifier = model.fit([[0.0]], [0]).partial_fit([[0.0]], [0], classes=[0])
    layers: list[tuple[int, ...]] = [coef.shape for coef in fitted.coefs_]
    return fitted.n_iter_ + len(layers)

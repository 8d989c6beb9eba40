"""scikit-learn's multilayer perceptrons, trained by PyTorch."""

from ._estimators.classifier import MLPTorchClassifier
from ._estimators.loading import load
from ._estimators.regressor import MLPTorchRegressor
from ._estimators.tabular_classifier import TabularMLPClassifier
from ._estimators.tabular_regressor import TabularMLPRegressor
from ._parallel.backend import stacked_fits
from .display import LossCurveDisplay, SearchDisplay

__all__ = [
    "LossCurveDisplay",
    "MLPTorchClassifier",
    "MLPTorchRegressor",
    "SearchDisplay",
    "TabularMLPClassifier",
    "TabularMLPRegressor",
    "__version__",
    "load",
    "stacked_fits",
]
__version__ = "0.1.0"

# The modules are private. Pickles, files and trust lists record the public place.
for _public in (MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor, load, stacked_fits):
    _public.__module__ = "sktorch_mlp"
del _public

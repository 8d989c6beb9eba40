"""scikit-learn's multilayer perceptrons, trained by PyTorch."""

from ._estimators.classifier import MLPTorchClassifier
from ._estimators.regressor import MLPTorchRegressor
from ._parallel.backend import stacked_fits

__all__ = ["MLPTorchClassifier", "MLPTorchRegressor", "__version__", "stacked_fits"]
__version__ = "0.1.0"

# The modules are private. Pickles, files and trust lists record the public place.
for _public in (MLPTorchClassifier, MLPTorchRegressor, stacked_fits):
    _public.__module__ = "sktorch_mlp"
del _public

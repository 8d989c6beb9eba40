"""scikit-learn's multilayer perceptrons, trained by PyTorch."""

from ._backend import stacked_fits
from ._classifier import MLPTorchClassifier
from ._regressor import MLPTorchRegressor

__all__ = ["MLPTorchClassifier", "MLPTorchRegressor", "__version__", "stacked_fits"]
__version__ = "0.1.0"

"""scikit-learn's multilayer perceptrons, trained by PyTorch."""

from ._classifier import MLPTorchClassifier
from ._regressor import MLPTorchRegressor

__all__ = ["MLPTorchClassifier", "MLPTorchRegressor", "__version__"]
__version__ = "0.1.0"

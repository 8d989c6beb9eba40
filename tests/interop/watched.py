"""Iris, and a small classifier for callbacks to watch."""

from sklearn.datasets import load_iris
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from sktorch_mlp import MLPTorchClassifier

X, Y = load_iris(return_X_y=True)
X = scale(X)
X_TRAIN, X_VAL, Y_TRAIN, Y_VAL = train_test_split(X, Y, stratify=Y, random_state=0)
SETTINGS = {"hidden_layer_sizes": (8,), "batch_size": 25, "max_iter": 6, "learning_rate_init": 0.01, "random_state": 0}


def classifier(**params):
    return MLPTorchClassifier(**SETTINGS | params)

"""
Losses, searches and layers as pictures
=======================================

`LossCurveDisplay` and `SearchDisplay` are used as the displays of scikit-learn are. It takes
``pip install "sktorch-mlp[plot]"``::

    python examples/displays.py
"""

import warnings

import matplotlib.pyplot as plt
from scipy.stats import loguniform
from sklearn.datasets import load_diabetes, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.neural_network import MLPClassifier

from sktorch_mlp import LossCurveDisplay, MLPTorchClassifier, SearchDisplay, TabularMLPRegressor, stacked_fits

warnings.simplefilter("ignore", ConvergenceWarning)  # some curves shall end early
X, y = load_digits(return_X_y=True)
X = X / 16

# %%
# One fit
# -------
# The training loss, and with validation rows their loss and score. The star marks the epoch that early stopping keeps.

stopped = MLPTorchClassifier(early_stopping=True, max_iter=100, random_state=0).fit(X, y)
LossCurveDisplay.from_estimator(stopped, score=True)

# %%
# Several fits
# ------------
# Names come from a dictionary. scikit-learn's MLP can be drawn beside ours: without dropout the two curves are one.

settings = {"hidden_layer_sizes": (256,), "max_iter": 30, "random_state": 0}
models = {
    "scikit-learn": MLPClassifier(**settings),
    "the same here": MLPTorchClassifier(**settings),
    "with dropout": MLPTorchClassifier(dropout=0.3, **settings),
}
LossCurveDisplay.from_estimators({name: model.fit(X, y) for name, model in models.items()}, log=True)

# %%
# An ensemble
# -----------
# The mean over its eight networks, with a band from the lowest to the highest.

ensemble = TabularMLPRegressor(max_iter=40, random_state=0).fit(*load_diabetes(return_X_y=True, as_frame=True))
LossCurveDisplay.from_estimator(ensemble)

# %%
# A grid search
# -------------
# Scores by two parameters, with the standard deviation over the folds.

grid = {"alpha": [1e-3, 1e-1, 1.0, 10.0], "activation": ["relu", "tanh", "gelu"]}
with stacked_fits():
    search = GridSearchCV(MLPTorchClassifier(max_iter=20, random_state=0), grid, cv=3).fit(X, y)
SearchDisplay.from_search(search)

# %%
# A random search
# ---------------
# Of two parameters that are drawn, the second is a color.

drawn = {"learning_rate_init": loguniform(1e-4, 1e-1), "alpha": loguniform(1e-4, 10.0)}
with stacked_fits():
    model = MLPTorchClassifier(max_iter=20, random_state=0)
    search = RandomizedSearchCV(model, drawn, n_iter=30, cv=3, random_state=0).fit(X, y)
SearchDisplay.from_search(search, x="learning_rate_init", hue="alpha")
plt.show()

# %%
# Layers
# ------
# A shell gets them as a table:

print(stopped.summary())

# %%
# A notebook shows them below scikit-learn's view, with the loss:

stopped

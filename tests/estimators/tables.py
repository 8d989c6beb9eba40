"""Small tables for the tests of the estimators for tables."""

import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes

#: A small ensemble.
SMALL = {"n_estimators": 3, "hidden_layer_sizes": (16, 8), "max_iter": 4, "random_state": 0}
#: One whose networks are all of one shape.
ONE_STACK = SMALL | {"numerical_embedding": "piecewise_linear"}


def table(n_rows=150, seed=0):
    """A frame of numbers and categories with what is missing, and labels of three classes that depend on it."""
    rng = np.random.default_rng(seed)
    size, color = rng.normal(size=n_rows), rng.choice(["blue", "green", "red"], n_rows)
    y = np.where(size + (color == "red") > 0.7, "high", np.where(color == "blue", "low", "mid"))
    frame = pd.DataFrame(
        {"size": size, "color": color, "flag": rng.random(n_rows) < 0.5, "count": rng.integers(0, 4, n_rows)}
    )
    frame["color"] = frame["color"].astype("category")
    frame["height"] = rng.normal(size=n_rows)
    frame.loc[::7, "size"] = np.nan
    frame.loc[::11, "color"] = None
    return frame, y


def numbers(n_rows=120):
    X, y = load_diabetes(return_X_y=True)
    return X[:n_rows], y[:n_rows]

"""A small table with all kinds of columns."""

import numpy as np

from tests.estimators.tables import table

#: Columns that are categories, "code" and "odd" among them by name alone.
CATEGORIES = ["color", "flag", "many", "code", "odd", "two"]

#: Three candidates of different shapes.
PACK = {
    "hyperparameters": {"hidden_layer_sizes": [(4,), (6, 5), ()], "numerical_embedding": ["periodic", None]},
    "n_candidates": 3,
}


def wide_table(n_rows=150):
    """Numbers with what is missing, and categories of strings, booleans, integers and numbers: few levels, two, many."""
    frame, y = table(n_rows)
    place = np.arange(n_rows)
    frame["many"] = [f"level {i % 70}" for i in place]
    frame["code"] = place % 5
    frame["odd"] = (place % 3) / 2
    frame["two"] = np.where(place % 3 == 0, "x", "y")
    return frame, y

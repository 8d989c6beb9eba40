"""
A grid search as one training run
=================================

The same grid search twice: one fit after the other, and with all fits in a few stacks. The numbers of the two are the
same up to rounding; only the time differs. One process does all of it: nothing sets `n_jobs`, and benchmarks/ compares
with searches in processes. Runs offline on bundled data::

    python examples/grid_search_stacked.py
"""

import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import MLPTorchClassifier, SearchDisplay, stacked_fits

# %%
# A pipeline and twenty candidates: with five folds, a hundred fits.

X, y = load_digits(return_X_y=True)
pipeline = make_pipeline(StandardScaler(), MLPTorchClassifier(max_iter=40, random_state=0))
grid = {
    "mlptorchclassifier__learning_rate_init": [0.0003, 0.001, 0.003, 0.01],
    "mlptorchclassifier__alpha": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1],
}
warnings.simplefilter("ignore", ConvergenceWarning)  # 40 epochs are enough to tell candidates apart


def timed_search() -> tuple[float, GridSearchCV]:
    """Seconds of a search, and the search."""
    GridSearchCV(pipeline, {"mlptorchclassifier__max_iter": [1, 2]}).fit(X, y)  # the first calls import modules
    start = time.perf_counter()
    search = GridSearchCV(pipeline, grid, cv=5).fit(X, y)
    return time.perf_counter() - start, search


# %%
# The context manager is all that the second search has in addition.

alone_seconds, alone = timed_search()
with stacked_fits():
    stacked_seconds, stacked = timed_search()

for title, seconds, search in (("one by one", alone_seconds, alone), ("stacked", stacked_seconds, stacked)):
    best = {name.partition("__")[2]: value for name, value in search.best_params_.items()}
    print(f"{title:>10}: 100 fits in {seconds:4.1f} s, best {best}, accuracy {search.best_score_:.4f}")
scores = [search.cv_results_["mean_test_score"] for search in (alone, stacked)]
print(f"largest difference of a candidate's score: {np.abs(scores[0] - scores[1]).max():.1e}")
print(f"one by one takes {alone_seconds / stacked_seconds:.1f} times as long as stacked")

# %%
# What it has found, with the standard deviation over the folds:

SearchDisplay.from_search(stacked, x="learning_rate_init", hue="alpha")
plt.show()

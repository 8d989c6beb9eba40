"""
Which learning rate?
====================

A sweep of rates as one stack of fits and one picture; the model is used in another process. The tutorial has made data
and trains by Adam with a rate of 0.001, all rows as one batch, for 200 epochs. Here ten seeds do so, beside
scikit-learn and a loop by hand, which has PyTorch's initial weights and no L2 penalty. The rates of the sweep are
compared on a fifth of the training rows, held out. The tutorial saves weights, and to load them needs the class of the
network again; here the model is saved with its scaler. Runs offline::

    python examples/tutorial_learning_rates.py
"""

from statistics import fmean

import joblib
import numpy as np
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from _by_hand import Network, count_lines, evaluate, train_full_batch
from _shared import draw_curves, parse_options, score_in_a_new_process
from sktorch_mlp import MLPTorchClassifier, stacked_fits

SEEDS = range(10)


# %%
# Five rates with ten seeds each are fifty fits, and one stack.


def make_model(mlp_class, X, epochs, seed, rate=0.001):
    """A scaler and an MLP that takes all rows at once."""
    settings = {"batch_size": len(X), "max_iter": epochs, "n_iter_no_change": epochs, "random_state": seed}
    return make_pipeline(StandardScaler(), mlp_class((64, 32), learning_rate_init=rate, **settings))


def sweep(rates, X, y, epochs):
    """Fitted models of each rate, one for each seed; all are trained side by side."""
    models = [make_model(MLPTorchClassifier, X, epochs, seed, rate) for seed in SEEDS for rate in rates]
    with stacked_fits():
        models = joblib.Parallel()(joblib.delayed(model.fit)(X, y) for model in models)
    return {rate: models[i :: len(rates)] for i, rate in enumerate(rates)}


# %%
# The sweep, on a fifth of the training rows.

options = parse_options(__doc__, {"made": 200})
X, y = make_classification(n_samples=1000, n_features=10, n_classes=3, n_informative=6, random_state=42)
X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=42)
X_fit, X_val, y_fit, y_val = train_test_split(X, y, test_size=0.2, random_state=42)

models = sweep((0.0001, 0.001, 0.01, 0.1, 1.0), X_fit, y_fit, options.epochs)
for rate in models:
    print(f"Rate {rate:g}: validation accuracy {fmean(model.score(X_val, y_val) for model in models[rate]):.3f}")
curves = {f"rate {rate:g}": np.median([model[-1].loss_curve_ for model in models[rate]], axis=0) for rate in models}
draw_curves(options.figure, "Adam's learning rate, median of ten seeds", training_loss=curves)

# %%
# The tutorial's rate in three ways, and the model in another process.

here = sweep((0.001,), X, y, options.epochs)[0.001]
theirs = [make_model(MLPClassifier, X, options.epochs, seed).fit(X, y) for seed in SEEDS]
scaler = StandardScaler().fit(X)
scaled, scaled_test = (scaler.transform(part).astype(np.float32) for part in (X, X_test))
by_hand = [evaluate(train_full_batch(scaled, y, options.epochs, seed), scaled_test, y_test)[1] for seed in SEEDS]
means = [fmean(model.score(X_test, y_test) for model in models) for models in (here, theirs)] + [fmean(by_hand)]
print("Test accuracy, rate 0.001, ten seeds: here {:.3f}, scikit-learn {:.3f}, by hand {:.3f}".format(*means))
path = options.figure.with_suffix(".joblib")
joblib.dump((here[0], X_test, y_test), path)
print(f"Test accuracy of the first seed: {here[0].score(X_test, y_test):.3f}")
score_in_a_new_process(path)
print(f"By hand: Module, loop, evaluation: {count_lines(Network, train_full_batch, evaluate)} lines for one fit.")
print(f"Here: {count_lines(make_model, sweep)} lines for a sweep. A new process needs no line of this script.")

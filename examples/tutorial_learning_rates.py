"""Which learning rate? A sweep as one picture; the best model is saved, and used in another process.

Runs offline::

    python examples/tutorial_learning_rates.py
"""

import subprocess
import sys

import joblib
import torch
from sklearn.datasets import make_classification
from sklearn.model_selection import train_test_split

from _by_hand import Network, count_lines, evaluate, make_loader, sweep, train_epoch
from _shared import draw_losses, parse_options
from sktorch_mlp import MLPTorchClassifier, stacked_fits

RATES = [0.0001, 0.001, 0.01, 0.1, 1.0]
IN_A_NEW_PROCESS = """
import joblib, sys
model, X, y = joblib.load(sys.argv[1])
print(f"Test accuracy in a new process: {model.score(X, y):.3f}")
"""


def sweep_here(X, y, X_val, y_val, epochs):
    """A model for each rate, with the weights of its best epoch; all are trained side by side."""
    settings = {"alpha": 0, "batch_size": len(X), "max_iter": epochs, "n_iter_no_change": epochs}
    settings |= {"early_stopping": True, "scoring": "loss", "random_state": 0}
    models = [MLPTorchClassifier((64, 32), learning_rate_init=rate, **settings) for rate in RATES]
    with stacked_fits():
        return joblib.Parallel()(joblib.delayed(model.fit)(X, y, X_val=X_val, y_val=y_val) for model in models)


options = parse_options(__doc__, {"made": 200})
X, y = make_classification(1000, 10, n_informative=8, n_redundant=0, n_classes=3, random_state=0)
X, X_test, y, y_test = train_test_split(X.astype("float32"), y, test_size=0.2, random_state=0)
X, X_val, y, y_val = train_test_split(X, y, test_size=0.25, random_state=0)

models = sweep_here(X, y, X_val, y_val, options.epochs)
curves = {f"{model.learning_rate_init:g}": model.loss_curve_ for model in models}
draw_losses(curves, options.figure, title="Training loss by Adam's learning rate")
best = max(models, key=lambda model: model.best_validation_score_)
print(f"Best: rate {best.learning_rate_init:g}, epoch {best.best_n_iter_} of {best.n_iter_}")
path = options.figure.with_suffix(".joblib")
joblib.dump((best, X_test, y_test), path)
subprocess.run([sys.executable, "-c", IN_A_NEW_PROCESS, path], check=True)

torch.manual_seed(0)
by_hand = sweep(RATES, X, y, X_val, y_val, options.epochs)
n_lines = count_lines(Network, make_loader, train_epoch, evaluate, sweep)
print(f"Test accuracy by hand: {evaluate(by_hand, X_test, y_test)[1]:.3f}")
print(f"By hand: Module, loader, loop, copy of the best network: {n_lines} lines. A new process needs the class again.")
print(f"Here: {count_lines(sweep_here)} lines. A new process needs no line of this script.")

"""
Training, watched
=================

CIFAR-10 by one hidden layer: loss and accuracy of training and validation after each epoch. Pixels are in [-1, 1], as
by the tutorial's `Normalize` with mean 0.5 and standard deviation 0.5. Deviations: validation and test rows are drawn
at random, and digits get more epochs, since they are few. The best validation accuracy is the largest of many on the
same rows; the test accuracy is that of the last epoch. Runs offline; the real set by option::

    python examples/tutorial_cifar10.py                   # digits, bundled with scikit-learn
    python examples/tutorial_cifar10.py --data cifar10    # CIFAR-10 from OpenML
"""

from importlib.util import find_spec

import pandas as pd
import torch
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.model_selection import train_test_split

from _by_hand import Network, count_lines, evaluate, make_loader, train_epoch
from _shared import draw_curves, load_images, parse_options
from sktorch_mlp import MLPTorchClassifier

# %%
# By hand, with a history.

SGD = {"momentum": 0.9, "weight_decay": 1e-4}


def train_by_hand(X, y, X_val, y_val, epochs):
    """A network and its history, without progress bar."""
    network, history = Network(X.shape[1], 128, 10), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.001, **SGD)
    loader = make_loader(X, y, batch_size=256)
    for epoch in range(1, epochs + 1):
        loss, (_, accuracy) = train_epoch(network, loader, optimizer), evaluate(network, X, y)
        history.append((epoch, loss, accuracy, *evaluate(network, X_val, y_val)))
    return network, pd.DataFrame(history, columns=["epoch", "loss", "accuracy", "validation_loss", "validation_score"])


# %%
# Here callbacks of scikit-learn watch.


def train_here(X, y, X_val, y_val, epochs):
    """The same by an estimator, with a progress bar where rich is installed."""
    model = MLPTorchClassifier(128, solver=torch.optim.SGD, solver_params=SGD, alpha=0, weight_init="torch")
    model.set_params(batch_size=256, max_iter=epochs, n_iter_no_change=epochs, random_state=0)
    monitor = ScoringMonitor(scoring="accuracy")
    model.set_callbacks(monitor, *([ProgressBar()] if find_spec("rich") else []))
    model.fit(X, y, X_val=X_val, y_val=y_val)
    scores = monitor.get_logs().data_as_pandas.query("task_name == 'epoch'")
    return model, pd.DataFrame(model.history_).assign(accuracy=scores["accuracy"].to_numpy())


# %%
# Curves, and the best epoch.

options = parse_options(__doc__, {"digits": 300, "cifar10": 50})
(X, y), (X_test, y_test) = load_images(options, test_size=1 / 6)
X, X_test = (X - 0.5) / 0.5, (X_test - 0.5) / 0.5
X, X_val, y, y_val = train_test_split(X, y, test_size=0.1, stratify=y, random_state=0)
print(f"Of the rows to train {len(X_val):,} are for validation")
torch.manual_seed(0)
network, by_hand = train_by_hand(X, y, X_val, y_val, options.epochs)
model, here = train_here(X, y, X_val, y_val, options.epochs)
panels = {
    "loss": {"training": here["loss"], "validation": here["validation_loss"]},
    "accuracy": {"training": here["accuracy"], "validation": here["validation_score"]},
}
draw_curves(options.figure, "One hidden layer, watched", **panels)
print(here[["epoch", "loss", "accuracy", "validation_loss", "validation_score"]].tail(1).to_string(index=False))
for name, history in (("by hand", by_hand), ("here", here)):
    best = history.loc[history["validation_score"].idxmax()]
    print(f"Best validation accuracy, {name}: {best['validation_score']:.2%} at epoch {best['epoch']:.0f}")
print(f"Test accuracy: by hand {evaluate(network, X_test, y_test)[1]:.3f}, here {model.score(X_test, y_test):.3f}")
n_lines = count_lines(Network, make_loader, train_epoch, evaluate, train_by_hand)
print(f"By hand: Module, loader, loop, evaluation, history: {n_lines} lines. Here: {count_lines(train_here)} lines,")
print("two of them, and the call of assign, for the accuracy of training, which history_ lacks.")

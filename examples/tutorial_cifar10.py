"""CIFAR-10 by one hidden layer, watched: loss and accuracy of training and validation after each epoch.

Runs offline on bundled data, and on the real set by option::

    python examples/tutorial_cifar10.py                   # digits, bundled with scikit-learn
    python examples/tutorial_cifar10.py --data cifar10    # CIFAR-10 from OpenML
"""

from importlib.util import find_spec

import matplotlib.pyplot as plt
import pandas as pd
import torch
from sklearn.callback import ProgressBar, ScoringMonitor

from _by_hand import Network, count_lines, evaluate, make_loader, train_epoch
from _shared import load_images, parse_options
from sktorch_mlp import MLPTorchClassifier

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


def train_here(X, y, X_val, y_val, epochs):
    """The same by an estimator, with a progress bar where rich is installed."""
    model = MLPTorchClassifier(128, solver=torch.optim.SGD, solver_params=SGD, alpha=0, random_state=0)
    model.set_params(learning_rate_init=0.001, batch_size=256, max_iter=epochs)
    monitor = ScoringMonitor(scoring="accuracy")
    model.set_callbacks(monitor, *([ProgressBar()] if find_spec("rich") else []))
    model.fit(X, y, X_val=X_val, y_val=y_val)
    scores = monitor.get_logs().data_as_pandas.query("task_name == 'epoch'")
    return model, pd.DataFrame(model.history_).assign(accuracy=scores["accuracy"].to_numpy())


options = parse_options(__doc__, {"digits": 300, "cifar10": 50})
(X, y), (X_val, y_val), (X_test, y_test) = load_images(options)
torch.manual_seed(0)
network, _ = train_by_hand(X, y, X_val, y_val, options.epochs)
model, here = train_here(X, y, X_val, y_val, options.epochs)
figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for axes, columns in zip(panels, (["loss", "validation_loss"], ["accuracy", "validation_score"]), strict=True):
    here.plot("epoch", columns, ax=axes, style=["-", "--"], ylabel=columns[0])
figure.savefig(options.figure, dpi=120)
print(f"Picture: {options.figure}")
print(here[["epoch", "loss", "accuracy", "validation_loss", "validation_score"]].tail(1).to_string(index=False))
print(f"Test accuracy: by hand {evaluate(network, X_test, y_test)[1]:.3f}, here {model.score(X_test, y_test):.3f}")
n_lines = count_lines(Network, make_loader, train_epoch, evaluate, train_by_hand)
print(f"By hand: Module, loader, loop, evaluation, history: {n_lines} lines. Here: {count_lines(train_here)} lines,")
print("three of them for the accuracy of training, which history_ lacks.")

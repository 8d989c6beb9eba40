"""
MNIST by hand, by skorch, by one estimator
==========================================

The losses of each epoch, and a loss that is NaN. The network gives logits. For its default criterion, `NLLLoss`,
skorch takes the logarithm of the output, which is right after a softmax: of logits below 0 it is NaN, from the first
epoch on, without an error, and the network learns nothing. The remedy is `criterion=nn.CrossEntropyLoss`. Our
estimator has the loss that belongs to its network.

The settings are the tutorial's; optimizer and batch size, which it does not name, give its accuracy. Deviations:
skorch trains on all rows, none are held out; the test rows are drawn at random; digits get more epochs, since they are
few. Runs offline; MNIST by option::

    python examples/tutorial_mnist.py                 # digits, bundled with scikit-learn
    python examples/tutorial_mnist.py --data mnist    # MNIST from OpenML
"""

import numpy as np
import pandas as pd
import torch
from skorch import NeuralNetClassifier
from torch import nn

from _by_hand import Network, count_lines, count_parameters, evaluate, make_loader, train_epoch
from _shared import draw_curves, load_images, parse_options
from sktorch_mlp import MLPTorchClassifier

# %%
# Three ways to train one network.


def train_by_hand(X, y, epochs):
    """A network and its losses."""
    network = Network(X.shape[1], 128, 64, 10)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    loader = make_loader(X, y, batch_size=64)
    return network, [train_epoch(network, loader, optimizer) for _ in range(epochs)]


def train_skorch(X, y, epochs, **settings):
    """The same network in skorch's estimator."""
    settings |= {"optimizer": torch.optim.Adam, "lr": 0.001, "batch_size": 64, "max_epochs": epochs}
    settings |= {"iterator_train__shuffle": True, "train_split": None, "verbose": 0}
    return NeuralNetClassifier(Network(X.shape[1], 128, 64, 10), **settings).fit(X, y)


def train_here(X, y, epochs):
    """The same network as our estimator, whose defaults are Adam and its rate."""
    settings = {"alpha": 0, "batch_size": 64, "weight_init": "torch", "random_state": 0}
    return MLPTorchClassifier((128, 64), max_iter=epochs, n_iter_no_change=epochs, **settings).fit(X, y)


# %%
# The losses of each epoch, and what the models predict.

options = parse_options(__doc__, {"digits": 20, "mnist": 5})
(X, y), (X_test, y_test) = load_images(options)
torch.manual_seed(0)
network, losses = train_by_hand(X, y, options.epochs)
nets = {"skorch, NLLLoss": train_skorch(X, y, options.epochs)}
nets["skorch, CrossEntropyLoss"] = train_skorch(X, y, options.epochs, criterion=nn.CrossEntropyLoss)
here = train_here(X, y, options.epochs)
curves = {"by hand": losses} | {name: net.history[:, "train_loss"] for name, net in nets.items()}
table = pd.DataFrame({"epoch": range(1, options.epochs + 1)} | curves | {"here": here.loss_curve_})
print(f"Network: {count_parameters(network):,} parameters. Loss of each epoch:")
print(table.to_string(index=False, float_format="%.4f", na_rep="nan"))
print(f"Test accuracy, by hand: {evaluate(network, X_test, y_test)[1]:.4f}")
for name, model in (nets | {"here": here}).items():
    classes, sums = np.unique(model.predict(X_test)), model.predict_proba(X_test).sum(axis=1)
    print(f"Test accuracy, {name}: {model.score(X_test, y_test):.4f}; classes it predicts: {len(classes)};", end=" ")
    print(f"probabilities of a row sum to {sums.min():.3g} at least, {sums.max():.3g} at most")
curves = table.set_index("epoch").drop(columns="skorch, NLLLoss").to_dict("list")
draw_curves(options.figure, "One network, trained in three ways", training_loss=curves)
n_lines = count_lines(Network, make_loader, train_epoch, evaluate, train_by_hand)
print(f"By hand: Module, loader, loop, losses, evaluation: {n_lines} lines, counted without the call, as below.")
print(f"skorch: {count_lines(Network, train_skorch)} lines, Module included. Here: {count_lines(train_here)} lines.")

"""MNIST in three ways: a PyTorch loop by hand, skorch, and one estimator.

Then what pixels do that nobody scaled. Runs offline on bundled data, and on MNIST by option::

    python examples/tutorial_mnist.py                 # digits, bundled with scikit-learn
    python examples/tutorial_mnist.py --data mnist    # MNIST from OpenML
"""

import torch
from skorch import NeuralNetClassifier
from torch import nn

from _by_hand import Network, count_lines, evaluate, make_loader, train_epoch
from _shared import draw_losses, load_images, parse_options
from sktorch_mlp import MLPTorchClassifier


def train_by_hand(X, y, epochs):
    """A network and its losses."""
    network = Network(X.shape[1], 128, 64, 10)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loader = make_loader(X, y, batch_size=64)
    return network, [train_epoch(network, loader, optimizer) for _ in range(epochs)]


def train_skorch(X, y, **settings):
    """The same network in skorch's estimator."""
    settings |= {"criterion": nn.CrossEntropyLoss, "optimizer": torch.optim.SGD, "iterator_train__shuffle": True}
    settings |= {"train_split": None, "verbose": 0}
    return NeuralNetClassifier(Network(X.shape[1], 128, 64, 10), **settings).fit(X, y)


def train_here(X, y, **settings):
    """The same network as our estimator."""
    settings |= {"solver": "sgd", "momentum": 0, "alpha": 0, "weight_init": "torch", "random_state": 0}
    return MLPTorchClassifier((128, 64), **settings).fit(X, y)


options = parse_options(__doc__, {"digits": 30, "mnist": 10})
(X, y), _, (X_test, y_test) = load_images(options)
torch.manual_seed(0)
network, losses = train_by_hand(X, y, options.epochs)
skorch = train_skorch(X, y, lr=0.1, batch_size=64, max_epochs=options.epochs)
here = train_here(X, y, learning_rate_init=0.1, batch_size=64, max_iter=options.epochs)
curves = {"by hand": losses, "skorch": skorch.history[:, "train_loss"], "here": here.loss_curve_}
draw_losses(curves, options.figure, title="One network, trained in three ways")
print(f"Test accuracy: by hand {evaluate(network, X_test, y_test)[1]:.3f},", end=" ")
print(f"skorch {skorch.score(X_test, y_test):.3f}, here {here.score(X_test, y_test):.3f}")
X, y, X_test = 255 * X[:1000], y[:1000], 255 * X_test  # in larger batches units may die at a loss of ln 10 instead
skorch = train_skorch(X, y, lr=0.5, batch_size=1, max_epochs=1)
loss, accuracy = skorch.history[-1, "train_loss"], skorch.score(X_test, y_test)
print(f"Unscaled pixels, skorch: loss {loss}, no error, test accuracy {accuracy:.3f}")
try:
    train_here(X, y, learning_rate_init=0.5, batch_size=1, max_iter=1)
except ValueError as error:
    print(f"Unscaled pixels, here: ValueError: {error}")
n_lines = count_lines(Network, make_loader, train_epoch, evaluate, train_by_hand)
print(f"By hand: Module, loader, loop, losses, evaluation: {n_lines} lines, counted without the call, as below.")
print(f"skorch: {count_lines(Network, train_skorch)} lines, Module included. Here: {count_lines(train_here)} lines.")

"""
Initial weights and plain SGD
=============================

Fashion-MNIST by one hidden layer of 256 units whose weights start with standard deviation 0.01. The settings are the
tutorial's, but digits get more epochs, since they are few, and the test rows are drawn at random. The tutorial chooses
cuda, mps or cpu by hand; here `device="auto"`, the default, does. By hand it is the CPU in this script. Runs offline
on bundled data, and on the real set by option::

    python examples/tutorial_fashion_mnist.py                         # digits, bundled with scikit-learn
    python examples/tutorial_fashion_mnist.py --data fashion_mnist    # Fashion-MNIST from OpenML
"""

import torch
from torch import nn

from _by_hand import Network, count_lines, evaluate, make_loader, train_epoch
from _shared import draw_curves, load_images, parse_options
from sktorch_mlp import MLPTorchClassifier

# %%
# By hand.


def initialize(layer):
    """Draw the weights of a linear layer."""
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.01)
        nn.init.zeros_(layer.bias)


def train_by_hand(X, y, epochs):
    """A network and its losses."""
    network = Network(X.shape[1], 256, 10)
    network.apply(initialize)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    loader = make_loader(X, y, batch_size=256)
    return network, [train_epoch(network, loader, optimizer) for _ in range(epochs)]


# %%
# As an estimator.


def make_model(epochs):
    """The same as an estimator."""
    return MLPTorchClassifier(
        256,
        solver="sgd",
        momentum=0,
        learning_rate_init=0.1,
        weight_init=("normal", 0.01),
        alpha=0,
        batch_size=256,
        max_iter=epochs,
        n_iter_no_change=epochs,
        random_state=0,
    )


# %%
# Both learn the same.

options = parse_options(__doc__, {"digits": 300, "fashion_mnist": 10})
(X, y), (X_test, y_test) = load_images(options)
torch.manual_seed(0)
network, losses = train_by_hand(X, y, options.epochs)
model = make_model(options.epochs).fit(X, y)
curves = {"by hand": losses, "here": model.loss_curve_}
draw_curves(options.figure, "Weights that start with standard deviation 0.01", training_loss=curves)
print(f"Training loss: by hand {losses[-1]:.4f}, here {model.loss_:.4f}, on {model.device_}")
print(f"Test accuracy: by hand {evaluate(network, X_test, y_test)[1]:.3f}, here {model.score(X_test, y_test):.3f}")
n_lines = count_lines(Network, make_loader, train_epoch, evaluate, initialize, train_by_hand)
print(f"By hand: Module, loader, loop, first weights, evaluation: {n_lines} lines, and a call.")
print(f"Here: an estimator of {count_lines(make_model)} lines, one parameter a line, and the calls of fit and score.")

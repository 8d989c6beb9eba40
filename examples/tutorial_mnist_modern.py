"""The network of tutorial_mnist.py by plain SGD with a rate of 0.5, then by what is usual today.

That is AdamW, a cosine schedule, dropout and batch normalization: five parameters, the rate included::

    python examples/tutorial_mnist_modern.py                 # digits, bundled with scikit-learn
    python examples/tutorial_mnist_modern.py --data mnist    # MNIST from OpenML
"""

from statistics import fmean

import torch
from sklearn.base import clone

from _by_hand import ModernNetwork, Network, count_lines, evaluate, make_loader, train_epoch
from _shared import draw_losses, load_images, parse_options
from sktorch_mlp import MLPTorchClassifier


def train_by_hand(X, y, epochs):
    """The modern recipe, written out."""
    network = ModernNetwork(X.shape[1], 128, 64, 10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    loader = make_loader(X, y, batch_size=64)
    for _ in range(epochs):
        train_epoch(network, loader, optimizer)
        schedule.step()
    return network


PLAIN = {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.5}
MODERN = {
    "solver": "adamw",
    "learning_rate_init": 0.003,
    "learning_rate": "cosine",
    "dropout": 0.2,
    "normalization": "batch",
}

options = parse_options(__doc__, {"digits": 20, "mnist": 20})
(X, y), (X_val, y_val), (X_test, y_test) = load_images(options)
curves = {}
for name, settings in {"plain": PLAIN, "modern": MODERN}.items():
    model = MLPTorchClassifier((128, 64), alpha=0, batch_size=64, max_iter=options.epochs, **settings)
    models = [clone(model).set_params(random_state=seed).fit(X, y, X_val=X_val, y_val=y_val) for seed in range(5)]
    scores = [model.score(X_test, y_test) for model in models]
    print(f"Test accuracy, {name}, five seeds: mean {fmean(scores):.3f}, from {min(scores):.3f} to {max(scores):.3f}")
    curves[name], curves[f"{name}, validation"] = models[0].loss_curve_, models[0].validation_loss_curve_
draw_losses(curves, options.figure, title="Plain SGD and a modern recipe")

torch.manual_seed(0)
accuracy = evaluate(train_by_hand(X, y, options.epochs), X_test, y_test)[1]
n_lines = count_lines(Network, ModernNetwork, make_loader, train_epoch, evaluate, train_by_hand)
print(f"Test accuracy, modern by hand: {accuracy:.3f}")
print(f"By hand: Modules, loader, loop, schedule, evaluation: {n_lines} lines.")
print(f"Here: from plain to modern {len(MODERN)} parameters, no line of training.")

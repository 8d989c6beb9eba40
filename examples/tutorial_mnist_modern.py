"""
From plain SGD to a modern recipe
=================================

The network of tutorial_mnist.py by plain SGD with a rate of 0.5, then by what is usual today. A switch to momentum,
weight decay or Adam is a parameter or two; AdamW, a cosine schedule, dropout and batch normalization are five, the
decay included. Three seeds each; accuracy after the last epoch, as in the tutorial.

Deviations: momentum gets a rate of 0.05, since at 0.5 the units die. Our AdamW does not shrink intercepts. The test
rows are drawn at random. Runs offline; MNIST by option, in some minutes::

    python examples/tutorial_mnist_modern.py                 # digits, bundled with scikit-learn
    python examples/tutorial_mnist_modern.py --data mnist    # MNIST from OpenML
"""

import pandas as pd
import torch

from _by_hand import ModernNetwork, Network, count_lines, evaluate, make_loader, train_epoch
from _shared import draw_curves, load_images, parse_options
from sktorch_mlp import MLPTorchClassifier

# %%
# The recipe by hand.


def train_by_hand(X, y, epochs):
    """The modern recipe, written out."""
    network = ModernNetwork(X.shape[1], 128, 64, 10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.001, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    loader = make_loader(X, y, batch_size=64)
    for _ in range(epochs):
        train_epoch(network, loader, optimizer)
        schedule.step()
    return network


# %%
# The recipe as parameters.

SGD = {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.5}
DECAY = {"solver": torch.optim.SGD, "solver_params": {"weight_decay": 1e-4}}  # decays intercepts too; our sgd has alpha
MODERN = {"solver": "adamw", "weight_decay": 1e-4, "dropout": 0.2, "normalization": "batch"}
VARIANTS = {
    "SGD": SGD,
    "SGD, momentum": SGD | {"momentum": 0.9, "nesterovs_momentum": False, "learning_rate_init": 0.05},
    "SGD, weight decay": SGD | DECAY,
    "Adam": {},
    "modern but the cosine": MODERN,
    "modern": MODERN | {"learning_rate": "cosine"},
}

# %%
# Accuracies and curves.

options = parse_options(__doc__, {"digits": 60, "mnist": 20})
(X, y), (X_test, y_test) = load_images(options)
settings = {"alpha": 0, "batch_size": 64, "weight_init": "torch", "max_iter": options.epochs}
scores, losses, accuracies = {}, {}, {}
for name, variant in VARIANTS.items():
    models = [MLPTorchClassifier((128, 64), **settings | variant, random_state=seed) for seed in range(3)]
    for model in models:
        model.set_params(n_iter_no_change=options.epochs).fit(X, y, X_val=X_test, y_val=y_test)  # only watched
    scores[name] = [sum(model.score(*part) for model in models) / 3 for part in ((X, y), (X_test, y_test))]
    if name in {"SGD", "Adam", "modern"}:
        losses[name], accuracies[name] = models[0].loss_curve_, models[0].validation_scores_
print(pd.DataFrame(scores, index=["training accuracy", "test accuracy"]).T.round(4).to_string())
gain = 100 * (scores["modern"][1] - scores["modern but the cosine"][1])
print(f"The cosine changes test accuracy by {gain:+.2f} percentage points; in the tutorial it buys half a point")
draw_curves(options.figure, "Plain SGD, Adam and a modern recipe", training_loss=losses, test_accuracy=accuracies)

torch.manual_seed(0)
accuracy = evaluate(train_by_hand(X, y, options.epochs), X_test, y_test)[1]
n_lines = count_lines(Network, ModernNetwork, make_loader, train_epoch, evaluate, train_by_hand)
print(f"Test accuracy, modern by hand: {accuracy:.4f}")
print(f"By hand: Modules, loader, loop, schedule, evaluation: {n_lines} lines.")
print(f"Here: from the defaults to modern {len(VARIANTS['modern'])} parameters, no line of training.")

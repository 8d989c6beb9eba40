"""What the tutorials share: options, images in three parts, a picture of curves."""

import argparse
import sys
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import fetch_openml, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

warnings.simplefilter("ignore", ConvergenceWarning)  # tutorials say how many epochs there are
torch.set_num_threads(1)  # networks this small gain little from more, and lose much where cores are busy

OPENML_NAMES = {"mnist": "mnist_784", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR_10"}


def parse_options(description, epochs):
    """Options of the command line; `epochs` maps each set of data, the default first, to its number of epochs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default, *others = epochs
    if others:
        parser.add_argument("--data", choices=epochs, default=default)
        parser.add_argument("--npz", type=Path, help="file with arrays X and y, in place of --data")
    parser.add_argument("--epochs", type=int, help=f"default: {epochs}")
    figure = Path(sys.argv[0]).with_suffix(".png").name
    parser.add_argument("--figure", type=Path, default=Path(figure), help=f"where to draw (default: {figure})")
    options = parser.parse_args()
    options.epochs = options.epochs or epochs[getattr(options, "data", default)]
    return options


def load_images(options):
    """Training, validation and test part, each as pixels from 0 to 1 in float32 and labels from 0.

    A seventh of the rows, chosen at random, is for the test and another one for validation: of
    70 000 rows 10 000 each. It is not the official split.
    """
    if options.npz:
        arrays = np.load(options.npz)
        X, y = arrays["X"], arrays["y"]
    elif options.data == "digits":
        X, y = load_digits(return_X_y=True)
    else:
        X, y = fetch_openml(OPENML_NAMES[options.data], version=1, as_frame=False, return_X_y=True)
    X = X.reshape(len(X), -1).astype(np.float32)
    X /= X.max()
    y = np.unique(y, return_inverse=True)[1]
    X, X_test, y, y_test = train_test_split(X, y, test_size=1 / 7, stratify=y, random_state=0)
    X, X_val, y, y_val = train_test_split(X, y, test_size=1 / 6, stratify=y, random_state=0)
    return (X, y), (X_val, y_val), (X_test, y_test)


def draw_losses(curves, path, *, title):
    """A line for each list of losses in `curves`, by name; "validation" at its end means dashed, in the color before."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, losses in curves.items():
        validation = name.endswith("validation")
        style = {"linestyle": "--", "color": axes.lines[-1].get_color()} if validation else {}
        axes.plot(range(1, len(losses) + 1), losses, label=name, **style)
    axes.set(xlabel="epoch", ylabel="loss", yscale="log", title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"Picture: {path}")

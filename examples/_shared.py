"""What the tutorials share: options, images in two parts, a picture of curves."""

import argparse
import subprocess
import sys
import warnings
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullFormatter
from sklearn.datasets import fetch_openml, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

warnings.simplefilter("ignore", ConvergenceWarning)  # tutorials say how many epochs there are
torch.set_num_threads(1)  # networks this small gain little from more, and lose much where cores are busy
threadpool_limits(1)  # the same for numpy and scikit-learn

OPENML_NAMES = {"mnist": "mnist_784", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR_10"}
LINE_STYLES = ["-", "--", "-.", ":", (0, (4, 1, 1, 1, 1, 1)), (0, (1, 3))]
SCORE = """
import joblib, sys
model, X, y = joblib.load(sys.argv[1])
print(f"Test accuracy in a new process: {model.score(X, y):.3f}")
"""


def parse_options(description, epochs, argv=None):
    """Options of the command line.

    `epochs` maps data sets to numbers of epochs: the bundled data, then that of the tutorial
    where it is another. A file of one's own is trained for as long as the latter, since digits
    get more epochs only because they are few.
    """
    bundled, real = next(iter(epochs)), list(epochs)[-1]
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if real != bundled:
        parser.add_argument("--data", choices=epochs, help=f"default: {bundled}")
        text = f"file with arrays X and y, in place of the data; trained for {epochs[real]} epochs, like {real}"
        parser.add_argument("--npz", type=Path, help=f"{text}, unless --epochs (or --data, for its epochs) is given")
    else:
        parser.set_defaults(data=bundled, npz=None)
    numbers = ", ".join(f"{number} for {name}" for name, number in epochs.items())
    parser.add_argument("--epochs", type=int, help=f"default: {numbers}")
    figure = Path(sys.argv[0]).with_suffix(".png").name
    parser.add_argument("--figure", type=Path, default=Path(figure), help=f"where to draw (default: {figure})")
    options = parser.parse_args(argv)
    if options.npz and not options.npz.is_file():
        parser.error(f"there is no file {options.npz}")
    options.data = options.data or (real if options.npz else bundled)
    if options.epochs is None:
        options.epochs = epochs[options.data]
    if options.epochs < 1:
        parser.error("--epochs has to be at least 1")
    return options


def load_images(options, test_size=1 / 7):
    """Training and test part, each as pixels from 0 to 1 in float32 and labels from 0.

    The test rows are drawn at random, a seventh unless said otherwise: of 70 000 rows 10 000. It
    is not the official split.
    """
    if options.npz:
        with np.load(options.npz) as arrays:
            X, y = arrays["X"], arrays["y"]
    elif options.data == "digits":
        X, y = load_digits(return_X_y=True)
    else:
        X, y = fetch_openml(OPENML_NAMES[options.data], version=1, as_frame=False, return_X_y=True)
    X = X.reshape(len(X), -1).astype(np.float32)
    X /= X.max()
    y = np.unique(y, return_inverse=True)[1]
    X, X_test, y, y_test = train_test_split(X, y, test_size=test_size, stratify=y, random_state=0)
    print(f"{options.npz or options.data}: {len(X):,} rows to train, {len(X_test):,} to test, {options.epochs} epochs")
    return (X, y), (X_test, y_test)


def draw_curves(path, title, **panels):
    """A panel for each keyword, with the same names of curves in each; losses in log scale.

    Curves may lie on one another, and the picture may be printed in gray: the first is the
    thickest and lightest, the last the thinnest and darkest, and each has its own dashes.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(2 + 4 * len(panels), 4.5), layout="constrained", squeeze=False)
    for ax, (name, curves) in zip(axes[0], panels.items(), strict=True):
        shades = np.linspace(0.85, 0, len(curves))
        for (label, values), shade, style in zip(curves.items(), shades, cycle(LINE_STYLES), strict=False):
            line = {"color": plt.get_cmap("viridis")(shade), "linewidth": 1.5 + 2.5 * shade, "linestyle": style}
            ax.plot(range(1, len(values) + 1), values, label=label, **line)
        ax.set(xlabel="epoch", ylabel=name.replace("_", " "), yscale="log" if "loss" in name else "linear")
        if "loss" in name:
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
        ax.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, handlelength=4)
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    print(f"Picture: {path}")


def score_in_a_new_process(path):
    """Load a model and test rows from a file, in a process that knows nothing else, and print the accuracy."""
    result = subprocess.run([sys.executable, "-c", SCORE, path], check=True, stdout=subprocess.PIPE, text=True)
    print(result.stdout, end="")

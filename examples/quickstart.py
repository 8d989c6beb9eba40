"""
Change one import
=================

The same pipeline and grid search with scikit-learn's MLP and with ours, then as one training run::

    python examples/quickstart.py                    # digits, bundled with scikit-learn
    python examples/quickstart.py --data mnist       # downloads MNIST from OpenML; takes far longer
    python examples/quickstart.py --npz arrays.npz   # arrays X and y of your own

Prints all side by side, the fastest of a few rounds, and draws the loss curves, which lie on one another. On digits
and two idle cores it takes about 40 seconds. Where other programs use the cores it takes minutes, and says so beside
the ratios, which are too good then. No search sets `n_jobs`; benchmarks/ compares with searches in processes.
"""

import argparse
import os
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import joblib
import matplotlib
import numpy as np
from sklearn.datasets import fetch_openml, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import MLPTorchClassifier, stacked_fits

matplotlib.use("Agg")
import matplotlib.pyplot as plt

#: columns of the table: a class, and where its search runs
COLUMNS = {
    "MLPClassifier": (MLPClassifier, nullcontext),
    "MLPTorchClassifier": (MLPTorchClassifier, nullcontext),
    "in stacked_fits()": (MLPTorchClassifier, stacked_fits),
}
MAX_LOAD = 0.5  # per core, before the start
MAX_SPREAD = 1.5  # longest time of a column, divided by its shortest


def load_data(args):
    """Features and labels, as asked for on the command line."""
    if args.npz:
        with np.load(args.npz) as arrays:
            return arrays["X"].astype(np.float64), arrays["y"]
    if args.data == "mnist":
        return fetch_openml("mnist_784", version=1, as_frame=False, return_X_y=True)
    return load_digits(return_X_y=True)


def load_per_core():
    """Load average of the last minute, divided by the cores; NaN where the system has none."""
    return os.getloadavg()[0] / joblib.cpu_count() if hasattr(os, "getloadavg") else float("nan")


# %%
# What changes
# ------------
# The class, and for a stack the context of the search.


def make_model(mlp_class, max_iter):
    """All that an existing script has to change is the class."""
    return make_pipeline(StandardScaler(), mlp_class(max_iter=max_iter, random_state=0))


def make_search(mlp_class, max_iter):
    """A grid search of six candidates."""
    name = mlp_class.__name__.lower()
    grid = {f"{name}__alpha": [1e-4, 1e-1, 1.0], f"{name}__learning_rate_init": [1e-3, 1e-2]}
    return GridSearchCV(make_model(mlp_class, max_iter), grid, cv=3)


# %%
# Rounds in turn
# --------------
# Other programs only add to a time, so the fastest of a few rounds counts.


def timed(fit, X, y):
    """A fitted estimator and the seconds it took."""
    start = time.perf_counter()
    fitted = fit(X, y)
    return fitted, time.perf_counter() - start


def compare(X, y, max_iter, n_fits=3, n_searches=2):
    """Fit and search in turn, in a few rounds; a dictionary of results for each column."""
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    results = {column: {"fit times": [], "search times": []} for column in COLUMNS}
    for mlp_class, context in COLUMNS.values():  # the first calls import modules and start threads
        with context():
            make_search(mlp_class, 1).fit(X_train, y_train)
    for _ in range(n_fits):
        for column in ("MLPClassifier", "MLPTorchClassifier"):  # a single fit has nothing to be stacked with
            model, seconds = timed(make_model(COLUMNS[column][0], max_iter).fit, X_train, y_train)
            results[column] |= {"model": model, "fit accuracy": model.score(X_test, y_test)}
            results[column]["fit times"].append(seconds)
    for _ in range(n_searches):
        for column, (mlp_class, context) in COLUMNS.items():
            with context():
                search, seconds = timed(make_search(mlp_class, max_iter).fit, X_train, y_train)
            results[column] |= {"search": search, "search accuracy": search.score(X_test, y_test)}
            results[column]["search times"].append(seconds)
    return results


def doubts(load, times):
    """Why ratios of these times, a list for each column, may be wrong; empty where nothing speaks against them."""
    spread = max(max(column) / min(column) for column in times)
    reasons = []
    if load > MAX_LOAD:
        reasons.append(f"busy: load {load:.1f} per core before the start")
    if spread > MAX_SPREAD:
        reasons.append(f"unsteady: rounds differ {spread:.1f}-fold")
    return "; ".join(reasons)


def print_table(results, load):
    """All columns side by side; a ratio above 1 says that ours is faster."""
    print(f"{'':28}" + "".join(f"{column:>20}" for column in results))
    for job in ("fit", "search"):
        accuracies = [result[f"{job} accuracy"] for result in results.values() if f"{job} accuracy" in result]
        print(f"{f'test accuracy, {job}':28}" + "".join(f"{accuracy:20.4f}" for accuracy in accuracies))
    doubtful = False
    for job, title in (("fit", "fit, seconds"), ("search", "grid search, seconds")):
        times = [result[f"{job} times"] for result in results.values() if result[f"{job} times"]]
        theirs, *ours = [min(column) for column in times]  # other programs only add to a time
        doubt = doubts(load, times)
        doubtful |= bool(doubt)
        print(f"{title:28}" + "".join(f"{seconds:20.2f}" for seconds in (theirs, *ours)))
        ratios = "".join(f"{theirs / seconds:19.1f}x" for seconds in ours)
        print(f"{'  times as fast':48}{ratios}" + (f"  ({doubt})" if doubt else ""))
    if doubtful:
        print("Other programs slow scikit-learn's threads more than ours and flatter the ratios: take an idle machine.")
    for column, result in results.items():
        best = {key.split("__")[1]: value for key, value in result["search"].best_params_.items()}
        print(f"best parameters, {column}: {best}")


# %%
# Two loss curves, one line
# -------------------------


def draw_loss_curves(theirs, ours, path):
    """Both loss curves in one picture."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for model, label, style in (
        (theirs, "MLPClassifier", {"color": "tab:orange", "linewidth": 5, "alpha": 0.5}),
        (ours, "MLPTorchClassifier", {"color": "black", "linewidth": 1.5, "linestyle": "--"}),
    ):
        losses = model[-1].loss_curve_
        axes.plot(range(1, len(losses) + 1), losses, label=label, **style)
    axes.set(xlabel="epoch", ylabel="training loss", yscale="log", title="Same numbers: two loss curves, one line")
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"Loss curves: {path}")


def main(argv=None, load=None):
    """Run the comparison; `load` is that per core before the start, measured if None."""
    load = load_per_core() if load is None else load
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--npz", type=Path, help="file with arrays X and y, in place of --data")
    parser.add_argument("--max-iter", type=int, default=200, help="most epochs of a fit (default: 200)")
    parser.add_argument("--picture", type=Path, default=Path("quickstart.png"), help="where to draw the loss curves")
    args = parser.parse_args(argv)
    if args.npz and not args.npz.is_file():
        parser.error(f"there is no file {args.npz}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # some candidates want more epochs
        results = compare(*load_data(args), args.max_iter)
    print_table(results, load)
    draw_loss_curves(results["MLPClassifier"]["model"], results["MLPTorchClassifier"]["model"], args.picture)
    return results


if __name__ == "__main__":
    main()

"""Change one import: the same pipeline and grid search with scikit-learn's MLP and with ours.

    python examples/quickstart.py                    # digits, bundled with scikit-learn
    python examples/quickstart.py --data mnist       # downloads MNIST from OpenML
    python examples/quickstart.py --npz arrays.npz   # arrays X and y of your own

Prints both side by side and draws their loss curves, which lie on one another.
"""

import argparse
import time
import warnings
from pathlib import Path
from statistics import median

import matplotlib
import numpy as np
from sklearn.datasets import fetch_openml, load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import MLPTorchClassifier

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def load_data(args):
    """Features and labels, as asked for on the command line."""
    if args.npz:
        arrays = np.load(args.npz)
        return arrays["X"].astype(np.float64), arrays["y"]
    if args.data == "mnist":
        return fetch_openml("mnist_784", version=1, as_frame=False, return_X_y=True)
    return load_digits(return_X_y=True)


def make_model(mlp_class, max_iter):
    """All that an existing script has to change is the class."""
    return make_pipeline(StandardScaler(), mlp_class(max_iter=max_iter, random_state=0))


def timed(fit, X, y):
    """A fitted estimator and the seconds it took."""
    start = time.perf_counter()
    fitted = fit(X, y)
    return fitted, time.perf_counter() - start


def compare(X, y, max_iter, n_repeats=3):
    """Fit and search with both classes in turn; a dictionary of results for each."""
    X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
    results = {mlp_class: {"fit": []} for mlp_class in (MLPClassifier, MLPTorchClassifier)}
    for _ in range(n_repeats):
        for mlp_class, result in results.items():
            model, seconds = timed(make_model(mlp_class, max_iter).fit, X_train, y_train)
            result["model"] = model
            result["fit"].append(seconds)
    for mlp_class, result in results.items():
        grid = {f"{mlp_class.__name__.lower()}__alpha": [1e-4, 1e-1, 1.0]}
        grid[f"{mlp_class.__name__.lower()}__learning_rate_init"] = [1e-3, 1e-2]
        search = GridSearchCV(make_model(mlp_class, max_iter), grid, cv=3)
        result["search"], result["search seconds"] = timed(search.fit, X_train, y_train)
        result["fit accuracy"] = result["model"].score(X_test, y_test)
        result["search accuracy"] = result["search"].score(X_test, y_test)
    return results


def print_table(theirs, ours):
    """scikit-learn and ours side by side; a ratio above 1 says that ours is faster."""
    times = {"fit, seconds": [median(r["fit"]) for r in (theirs, ours)]}
    times["grid search, seconds"] = [r["search seconds"] for r in (theirs, ours)]
    print(f"{'':28}{'MLPClassifier':>16}{'MLPTorchClassifier':>20}{'ratio':>9}")
    for name in ("fit accuracy", "search accuracy"):
        print(f"{'test accuracy, ' + name.split()[0]:28}{theirs[name]:16.4f}{ours[name]:20.4f}")
    for name, (their_time, our_time) in times.items():
        print(f"{name:28}{their_time:16.2f}{our_time:20.2f}{their_time / our_time:8.1f}x")
    for name, result in (("MLPClassifier", theirs), ("MLPTorchClassifier", ours)):
        best = {key.split("__")[1]: value for key, value in result["search"].best_params_.items()}
        print(f"best parameters, {name}: {best}")


def draw_loss_curves(theirs, ours, path):
    """Both loss curves in one picture."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.plot(theirs["model"][-1].loss_curve_, color="tab:orange", linewidth=5, alpha=0.5, label="MLPClassifier")
    axes.plot(ours["model"][-1].loss_curve_, color="black", linewidth=1.5, linestyle="--", label="MLPTorchClassifier")
    axes.set(xlabel="epoch", ylabel="training loss", yscale="log", title="Same numbers: two loss curves, one line")
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"Loss curves: {path}")


def main(argv=None):
    """Run the comparison."""
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
    theirs, ours = results.values()
    print_table(theirs, ours)
    draw_loss_curves(theirs, ours, args.picture)
    return theirs, ours


if __name__ == "__main__":
    main()

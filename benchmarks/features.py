"""What the features that scikit-learn's MLP lacks do to test scores, on Adult and MNIST.

Run it with the files, or let scikit-learn fetch the data::

    python -m benchmarks.features --adult adult.csv.gz --mnist mnist.npz
    python -m benchmarks.features --openml

`adult.csv.gz` has the columns of UCI's Adult, `income` and `split` ("train" or "test");
`mnist.npz` has X (uint8, 60000 training rows first) and y. A row of the tables is the mean
over seeds of a fit of fixed length on all training rows, and its standard deviation.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import fetch_openml
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sktorch_mlp import MLPTorchClassifier

Split = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

BASE = {"hidden_layer_sizes": (256, 128), "batch_size": 256, "max_iter": 20, "tol": 0.0, "n_iter_no_change": np.inf}
MODERN = {"solver": "adamw", "learning_rate": "cosine", "learning_rate_init": 0.002}
FEATURES: dict[str, dict[str, Any]] = {
    "adam, as scikit-learn": {},
    "dropout 0.2": {"dropout": 0.2},
    "batch normalization": {"normalization": "batch"},
    "layer normalization": {"normalization": "layer"},
    "AdamW + cosine": MODERN,
    "label smoothing 0.1": {"label_smoothing": 0.1},
    'class_weight="balanced"': {"class_weight": "balanced"},
    "AdamW + cosine, dropout, batch norm.": MODERN | {"dropout": 0.2, "normalization": "batch"},
}


def load_adult(path: Path | None) -> Split:
    """One-hot and scaled; the file's split, or a third of what is fetched for testing."""
    if path is not None:
        frame = pd.read_csv(path)
        train, test = (frame[frame["split"] == part].drop(columns="split") for part in ("train", "test"))
    else:
        frame = fetch_openml("adult", version=2, as_frame=True).frame.rename(columns={"class": "income"})
        train, test = train_test_split(frame, test_size=1 / 3, random_state=0)
    y_train, y_test = (part.pop("income").astype(str).str.contains(">50K").to_numpy() for part in (train, test))
    numbers = list(train.select_dtypes("number"))
    categories = [name for name in train if name not in numbers]
    encoder = OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    encode = make_column_transformer((StandardScaler(), numbers), (encoder, categories))
    X_train, X_test = encode.fit_transform(train), encode.transform(test)
    return X_train.astype(np.float32), X_test.astype(np.float32), y_train, y_test


def load_mnist(path: Path | None) -> Split:
    """Pixels between 0 and 1."""
    if path is not None:
        with np.load(path) as file:
            X, y = file["X"], file["y"]
    else:
        X, y = fetch_openml("mnist_784", version=1, as_frame=False, return_X_y=True)
        y = y.astype(int)
    X = X.reshape(len(X), -1).astype(np.float32) / 255
    return X[:60000], X[60000:], y[:60000], y[60000:]


def scores(model: MLPTorchClassifier, X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Test scores, in per cent but for the loss."""
    probabilities, labels = model.predict_proba(X), model.predict(X)
    found = {
        "accuracy": 100 * accuracy_score(y, labels),
        "balanced accuracy": 100 * balanced_accuracy_score(y, labels),
        "log-loss": log_loss(y, probabilities),
    }
    return found | ({"ROC AUC": 100 * roc_auc_score(y, probabilities[:, 1])} if len(model.classes_) == 2 else {})


def table(title: str, split: Split, n_seeds: int, epochs: int) -> tuple[str, dict[str, Any]]:
    """The features' scores on one data set, as Markdown and as numbers."""
    X_train, X_test, y_train, y_test = split
    results: dict[str, Any] = {}
    for name, params in FEATURES.items():
        runs = []
        for seed in range(n_seeds):
            model = MLPTorchClassifier(**BASE | {"max_iter": epochs} | params, random_state=seed)
            runs.append(scores(model.fit(X_train, y_train), X_test, y_test))
        results[name] = {metric: [run[metric] for run in runs] for metric in runs[0]}
    metrics = list(next(iter(results.values())))
    lines = [f"| {title} | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
    for name, by_metric in results.items():
        cells = [_cell(values, 4 if metric == "log-loss" else 2) for metric, values in by_metric.items()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines), results


def _cell(values: list[float], digits: int) -> str:
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


def main() -> None:
    """Print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--adult", type=Path, help="adult.csv.gz")
    parser.add_argument("--mnist", type=Path, help="mnist.npz")
    parser.add_argument("--openml", action="store_true", help="fetch both from openml.org")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--json", type=Path, help="where to write all scores")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # all fits have the same length
    results = {}
    for title, load, path in (("Adult", load_adult, args.adult), ("MNIST", load_mnist, args.mnist)):
        if path is not None or args.openml:
            text, results[title] = table(title, load(path), args.seeds, args.epochs)
            print(text, end="\n\n", flush=True)
    if not results:
        parser.error("give --adult, --mnist or --openml")
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

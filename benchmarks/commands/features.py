"""Score what the features that scikit-learn's MLP lacks do on test data, Adult and MNIST; nothing is timed.

Give the files, or let scikit-learn fetch the data::

    python -m benchmarks features --adult adult.csv.gz --mnist mnist.npz
    python -m benchmarks features --openml

`adult.csv.gz` has the columns of UCI's Adult, `income` and `split` ("train" or "test");
`mnist.npz` has X (uint8, 60000 training rows first) and y. Each repeat has another seed; all
fits have the same number of epochs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.compose import make_column_transformer
from sklearn.datasets import fetch_openml
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss, roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks.report import Summary, markdown
from benchmarks.runner import Measurement, Row
from sktorch_mlp import MLPTorchClassifier

UNIT = "per cent, but for the log-loss"

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add where the data are."""
    parser.add_argument("--adult", type=Path, metavar="FILE", help="adult.csv.gz")
    parser.add_argument("--mnist", type=Path, metavar="FILE", help="mnist.npz")
    parser.add_argument("--openml", action="store_true", help="fetch both from openml.org")


def run(args: argparse.Namespace) -> list[Row]:
    """Score all features on the data sets that are given.

    Raises
    ------
    SystemExit
        If none is.
    """
    rows = []
    for name, load, path in (("Adult", load_adult, args.adult), ("MNIST", load_mnist, args.mnist)):
        if path is not None or args.openml:
            X_train, X_test, y_train, y_test = load(path)
            n_rows = max(round(args.scale * len(X_train)), BASE["batch_size"])
            split = X_train[:n_rows], X_test, y_train[:n_rows], y_test
            rows += [_row(name, feature, split, args) for feature in FEATURES]
    if not rows:
        raise SystemExit("features needs --adult, --mnist or --openml")
    return rows


def _row(data: str, feature: str, split: Split, args: argparse.Namespace) -> Row:
    print(f"{data}, {feature} …", file=sys.stderr)
    X_train, X_test, y_train, y_test = split
    params = BASE | {"max_iter": max(round(args.scale * BASE["max_iter"]), 1)} | FEATURES[feature]
    runs = []
    for seed in range(args.repeats):
        model = MLPTorchClassifier(**params, device=args.device, random_state=seed).fit(X_train, y_train)
        runs.append(scores(model, X_test, y_test))
    found = {metric: [run[metric] for run in runs] for metric in runs[0]}
    facts = {"data": data, "mean": _each(np.mean, found), "std": _each(np.std, found)}
    return Row(feature, facts, {metric: [Measurement(v, None) for v in values] for metric, values in found.items()}, {})


def _each(statistic: Callable[[list[float]], Any], scores: dict[str, list[float]]) -> dict[str, float]:
    return {metric: float(f"{statistic(values):.8g}") for metric, values in scores.items()}


def scores(model: MLPTorchClassifier, X: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Test scores."""
    probabilities, labels = model.predict_proba(X), model.predict(X)
    found = {
        "accuracy": 100 * accuracy_score(y, labels),
        "balanced accuracy": 100 * balanced_accuracy_score(y, labels),
        "log-loss": log_loss(y, probabilities),
    }
    return found | ({"ROC AUC": 100 * roc_auc_score(y, probabilities[:, 1])} if len(model.classes_) == 2 else {})


def tables(summary: Summary) -> str:
    """Write mean and standard deviation over the seeds, a table for each data set."""
    written = []
    for data, group in groupby(summary["rows"], key=lambda row: row["facts"]["data"]):
        rows = list(group)
        metrics = list(rows[0]["facts"]["mean"])
        lines = [[row["title"], *(_cell(row["facts"], metric) for metric in metrics)] for row in rows]
        written.append(markdown([data, *metrics], lines))
    return "\n\n".join(written)


def _cell(facts: dict[str, Any], metric: str) -> str:
    digits = 4 if metric == "log-loss" else 2
    return f"{facts['mean'][metric]:.{digits}f} ± {facts['std'][metric]:.{digits}f}"

"""Score models on tables, and compare their losses, calibration and times: TabularMLP, MLPs and gradient boosting.

Without a folder the tables are four of scikit-learn's::

    python -m benchmarks tables
    python -m benchmarks tables --folder dev --splits 3 --models mlp hgb catboost tabular tabular_single

`benchmarks/tables.py` says what a folder has. Each split draws a quarter of the rows to test on; its number is the seed of
all models. Each model has one thread by default, so that its CPU time is what it costs.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, log_loss, r2_score, root_mean_squared_error
from sklearn.model_selection import train_test_split

from benchmarks.arguments import positive
from benchmarks.baselines.table_models import DEFAULT, LIBRARIES, MODELS, USUAL_MODELS, is_installed
from benchmarks.machine import cores_used_by_others, cpu_times
from benchmarks.report import Summary, load_notes, markdown
from benchmarks.runner import Measurement, Row, timer
from benchmarks.tables import Table, tables_in

UNIT = "fractions, losses and seconds"

#: Rows of the predictions that are timed.
PREDICTED_ROWS = (1, 100, 10_000)
#: Bins of the calibration error.
N_BINS = 15

Split = tuple[pd.DataFrame, pd.DataFrame, pd.Series, pd.Series]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add tables, splits and models."""
    parser.add_argument("--folder", type=Path, help="tables with a manifest.json (default: bundled with scikit-learn)")
    parser.add_argument("--sets", nargs="+", metavar="NAME", help="some of the tables")
    parser.add_argument("--splits", type=positive, dest="repeats", help="the same as --repeats (default: %(default)s)")
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, metavar="NAME", help=f"of {', '.join(MODELS)} (default: the usual ones)"
    )
    parser.add_argument("--train-rows", type=positive, metavar="N", help="train on N rows at most (default: all)")
    parser.set_defaults(repeats=3, threads=1)


def run(args: argparse.Namespace) -> list[Row]:
    """Score all models on all tables.

    Raises
    ------
    SystemExit
        If a table is unknown, or the library of a model that is named is not installed.
    """
    chosen = tables_in(args.folder)
    if unknown := set(args.sets or []) - {table.name for table in chosen}:
        raise SystemExit(f"unknown tables: {', '.join(sorted(unknown))}")
    chosen = [table for table in chosen if args.sets is None or table.name in args.sets]
    if args.models is None:
        models = [model for model in USUAL_MODELS if is_installed(model)]
    elif missing := [model for model in args.models if not is_installed(model)]:
        raise SystemExit(f"not installed: {', '.join(LIBRARIES[model] for model in missing)}")
    else:
        models = args.models
    return [row for table in chosen for row in _rows(table, models, args)]


def _rows(table: Table, models: Sequence[str], args: argparse.Namespace) -> list[Row]:
    """Measure the models in turn, split by split; one row for each."""
    X, y = table.load()
    if args.scale < 1:
        n_rows = max(round(args.scale * len(X)), min(len(X), 10 * y.nunique() if table.is_classification else 40))
        X, _, y, _ = _split(table, X, y, 0, train_size=n_rows) if n_rows < len(X) else (X, X, y, y)
    found: dict[str, dict[str, list[float]]] = {model: defaultdict(list) for model in models}
    errors: dict[str, str] = {}
    start = cpu_times()
    for seed in range(args.repeats):
        X_train, X_test, y_train, y_test = _split(table, X, y, seed, test_size=0.25)
        if args.train_rows is not None and args.train_rows < len(X_train):
            X_train, _, y_train, _ = _split(table, X_train, y_train, seed, train_size=args.train_rows)
        split = X_train, X_test, y_train, y_test
        for name in models:
            print(f"{table.name}, split {seed}, {name} …", file=sys.stderr)
            try:
                measured = measure(table, name, split, seed, args)
            except Exception as error:  # the others are measured all the same
                traceback.print_exc()
                errors[name] = f"{type(error).__name__}: {error}"
            else:
                for metric, value in measured.items():
                    found[name][metric].append(value)
    load = cores_used_by_others(start, cpu_times())
    facts = {
        "table": table.name,
        "task": "classification" if table.is_classification else "regression",
        "rows": len(X),
        "train_rows": len(X_train),
        "features": X.shape[1],
    }
    return [_row(name, facts, {} if name in errors else found[name], errors.get(name), load) for name in models]


def _split(table: Table, X: pd.DataFrame, y: pd.Series, seed: int, **sizes: Any) -> Any:
    return train_test_split(X, y, random_state=seed, stratify=y if table.is_classification else None, **sizes)


def _row(name: str, facts: dict[str, Any], found: dict[str, list[float]], error: str | None, load: float | None) -> Row:
    library = LIBRARIES.get(name)
    own = {
        "mean": {metric: _digits(np.mean(values)) for metric, values in found.items()},
        "std": {metric: _digits(np.std(values)) for metric, values in found.items()},
        "geometric_mean": {
            metric: _digits(np.exp(np.mean(np.log(values)))) for metric, values in found.items() if min(values) > 0
        },
        "version": library and version(library),
        "error": error,
    }
    measurements = {metric: [Measurement(value, None) for value in values] for metric, values in found.items()}
    return Row(name, facts | own, measurements, {}, load)


def _digits(value: Any) -> float:
    return float(f"{value:.8g}")


def measure(table: Table, name: str, split: Split, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Fit a model and score it; predictions are timed on the first split alone.

    Parameters
    ----------
    table : Table
    name : str
        Of the model.
    split : (X_train, X_test, y_train, y_test)
    seed : int
    args : Namespace
        The command line: `threads`, `pause`, `at_least` and `scale`.
    """
    X_train, X_test, y_train, y_test = split
    model = MODELS[name](table.is_classification, seed, X_train, args.threads or joblib.cpu_count())
    clock, cpu = time.perf_counter(), time.process_time()
    model.fit(X_train, y_train)
    found = {"fit seconds": time.perf_counter() - clock, "fit CPU seconds": time.process_time() - cpu}
    predict = model.predict_proba if table.is_classification else model.predict
    predicted = np.asarray(predict(X_test), dtype=np.float64)
    found |= scores(y_test.to_numpy(), predicted, model.classes_ if table.is_classification else None)
    if seed == 0:
        for n_rows in PREDICTED_ROWS:
            rows = X_test.iloc[np.arange(max(1, round(n_rows * args.scale))) % len(X_test)]
            found[f"predict {n_rows}"] = timer(args)(partial(predict, rows)).value
    return found


def scores(y: np.ndarray, predicted: np.ndarray, classes: Any) -> dict[str, float]:
    """Accuracy, log-loss and calibration error of probabilities; R² and root mean squared error of numbers.

    Parameters
    ----------
    y : ndarray of shape (n_rows,)
    predicted : ndarray of shape (n_rows, n_classes) or (n_rows,)
    classes : array-like of shape (n_classes,) or None
        None for numbers.
    """
    if classes is None:
        return {"score": r2_score(y, predicted), "loss": root_mean_squared_error(y, predicted)}
    labels = np.asarray(classes).astype(str)
    is_right = labels[predicted.argmax(1)] == y
    return {
        "score": accuracy_score(y, labels[predicted.argmax(1)]),
        "loss": log_loss(y, predicted, labels=labels),
        "calibration error": expected_calibration_error(predicted.max(1), is_right),
    }


def expected_calibration_error(confidence: np.ndarray, is_right: np.ndarray) -> float:
    """Mean distance of confidence and accuracy in bins of confidence, weighted by rows (Guo et al., 2017).

    Parameters
    ----------
    confidence : ndarray of shape (n_rows,)
        Probability of the predicted class.
    is_right : ndarray of shape (n_rows,)
    """
    bins = np.minimum((confidence * N_BINS).astype(int), N_BINS - 1)
    return float(np.abs(np.bincount(bins, is_right - confidence, N_BINS)).sum() / len(bins))


# Tables --------------------------------------------------------------------------------


def tables(summary: Summary) -> str:
    """Write the means for each table, and what they say together."""
    rows = pd.DataFrame([row["facts"] | {"model": row["title"]} for row in summary["rows"]])
    score, loss = (_means(rows, metric) for metric in ("score", "loss"))
    head = f"Means of {summary['repeats']} splits."
    return "\n\n".join(
        [
            head,
            _each_table("score: accuracy or R²", score, pd.DataFrame.idxmax),
            _each_table("loss: log-loss or RMSE", loss, pd.DataFrame.idxmin),
            _together(rows, score, loss),
            *load_notes(summary["rows"], summary["machine"]),
            *_errors(summary),
        ]
    )


def _means(rows: pd.DataFrame, metric: str, mean: str = "mean") -> pd.DataFrame:
    """A metric by table and model, nan where there is none."""
    values = rows[["table", "model"]].assign(value=[found.get(metric, np.nan) for found in rows[mean]])
    wide = values.pivot_table(index="table", columns="model", values="value", dropna=False, sort=False)
    return wide.reindex(index=rows["table"].unique(), columns=rows["model"].unique())


def _each_table(heading: str, means: pd.DataFrame, best: Callable[..., Any]) -> str:
    """A line for each table, the best model in bold."""
    lines = []
    for table, line in means.iterrows():
        known = line.dropna()
        winner = best(known.to_frame()).iloc[0] if len(known) else None
        lines.append([str(table), *(_cell(value, model == winner) for model, value in line.items())])
    return markdown([heading, *means.columns], lines)


def _cell(value: float, is_best: bool) -> str:
    if np.isnan(value):
        return "–"
    text = f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"
    return f"**{text}**" if is_best else text


def _together(rows: pd.DataFrame, score: pd.DataFrame, loss: pd.DataFrame) -> str:
    """A line for each model: ranks, and geometric means over the tables relative to the default MLP."""
    common = score.notna().all(axis=1) & loss.notna().all(axis=1)
    columns = {
        "mean rank by score": score[common].rank(axis=1, ascending=False).mean(),
        "mean rank by loss": loss[common].rank(axis=1).mean(),
        "loss / default MLP": _relative(rows, "loss"),
        "highest loss / default MLP": _ratios(rows, "loss").max(),
        "CPU time of fit / default MLP": _relative(rows, "fit CPU seconds"),
        "calibration error": _means(rows, "calibration error").mean(),
    }
    for n_rows in PREDICTED_ROWS:
        seconds = _means(rows, f"predict {n_rows}", "geometric_mean")
        columns[f"ms for {n_rows:,} row{'s' if n_rows > 1 else ''}"] = 1000 * np.exp(np.log(seconds).mean())
    together = pd.DataFrame(columns).sort_values("mean rank by loss")
    lines = [
        [str(model), *("–" if np.isnan(value) else f"{value:.3g}" for value in line)]
        for model, line in together.iterrows()
    ]
    n_tables = (
        f"Ranks over the {common.sum()} of {len(common)} tables that all models have; ratios are geometric means."
    )
    return n_tables + "\n\n" + markdown(["model", *columns], lines)


def _ratios(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """A metric relative to that of the default MLP, nan where that was not measured."""
    means = _means(rows, metric, "geometric_mean")
    if DEFAULT not in means:
        return means * np.nan
    return means.div(means[DEFAULT], axis=0)


def _relative(rows: pd.DataFrame, metric: str) -> pd.Series:
    return np.exp(np.log(_ratios(rows, metric)).mean())


def _errors(summary: Summary) -> Iterable[str]:
    """Say which models failed."""
    for row in summary["rows"]:
        if row["facts"]["error"]:
            yield f"{row['facts']['table']}, {row['title']}: {row['facts']['error']}"

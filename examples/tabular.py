"""
A raw table in three lines
==========================

TabularMLPClassifier, beside what one would take instead::

    model = TabularMLPClassifier(random_state=0)
    model.fit(X_train, y_train)
    model.predict_proba(X_test)

Data and options::

    python examples/tabular.py                         # a table made from data bundled with scikit-learn
    python examples/tabular.py --adult adult.csv.gz    # UCI's Adult, from a file
    python examples/tabular.py --adult openml          # the same, fetched from OpenML
    python examples/tabular.py --plot tabular.png      # log-loss against the seconds of fit, as a picture

X has numbers, categories, strings, booleans and missing values. TabularMLPClassifier and gradient boosting take it as
it is; scikit-learn's MLP gets it from a pipeline. CatBoost and RealMLP (pytabkit) take part where they are installed.
A table this small says little about other tables: `python -m benchmarks tables` runs many.
"""

import argparse
import time
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.datasets import fetch_openml, load_digits
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.metrics import accuracy_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

from sktorch_mlp import TabularMLPClassifier

torch.set_num_threads(1)  # a thread for each: more gain little here, and lose much where cores are busy
threadpool_limits(1)  # the same for numpy and scikit-learn

# %%
# Data
# ----
# A table with all kinds of columns, made from images of digits, or one from a file.


def load_bundled():
    """The ink in 16 parts of each digit, some of them made categories, strings and booleans, some values missing."""
    images, y = load_digits(return_X_y=True)
    parts = images.reshape(-1, 4, 2, 4, 2).sum(axis=(2, 4)).reshape(-1, 16)
    X = pd.DataFrame(parts, columns=[f"row {row}, column {column}" for row in range(4) for column in range(4)])
    X["row 0, column 1"] = pd.cut(X["row 0, column 1"], [-1, 10, 30, 99], labels=["light", "medium", "dark"])
    X["row 3, column 2"] = np.where(X["row 3, column 2"] > 20, "dark", "light")
    X["row 1, column 0"] = X["row 1, column 0"] > 10
    rng = np.random.default_rng(0)
    for name in ("row 0, column 1", "row 1, column 2", "row 2, column 1", "row 2, column 2"):
        X.loc[rng.random(len(X)) < 0.1, name] = np.nan
    return X, y


def load_adult(source):
    """Adult as it is: rows to train and to test on, by the file's column `split`, else a third at random."""
    if source == "openml":
        frame = fetch_openml("adult", version=2, as_frame=True).frame.rename(columns={"class": "income"})
    else:
        frame = pd.read_csv(source)
    y = frame.pop("income").astype(str).str.strip(" .")
    if "split" not in frame:
        return train_test_split(frame, y, test_size=1 / 3, stratify=y, random_state=0)
    is_train = frame.pop("split") == "train"
    return frame[is_train], frame[~is_train], y[is_train], y[~is_train]


def load_splits(options):
    """(X_train, X_test, y_train, y_test), as many times as asked for."""
    if options.adult:
        return [load_adult(options.adult)]
    X, y = load_bundled()
    return [train_test_split(X, y, stratify=y, random_state=seed) for seed in range(options.splits)]


# %%
# Models
# ------
# Functions of the training frame and a seed. The first two take the frame as it is; the others show what theirs needs before.


def tabular_mlp(X, seed):
    """Ours takes the frame as it is."""
    return TabularMLPClassifier(random_state=seed)


def one_of_it(X, seed):
    """A single network of ours."""
    return TabularMLPClassifier(n_estimators=1, random_state=seed)


def mlp_in_a_pipeline(X, seed):
    """scikit-learn's MLP wants numbers imputed and scaled, and categories one-hot."""
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    encode = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), make_column_selector(dtype_exclude="number")),
    )
    return make_pipeline(encode, MLPClassifier(random_state=seed))


def gradient_boosting(X, seed):
    """HistGradientBoosting wants strings and booleans as dtype category."""
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", random_state=seed)
    return make_pipeline(FunctionTransformer(to_categories), model)


def catboost(X, seed):
    """CatBoost wants categories as strings."""
    module = import_module("catboost")
    quiet = {"verbose": 0, "allow_writing_files": False}
    model = module.CatBoostClassifier(cat_features=categories_of(X), random_seed=seed, thread_count=1, **quiet)
    return make_pipeline(FunctionTransformer(to_strings), model)


def realmlp(X, seed):
    """RealMLP wants numbers imputed."""
    module = import_module("pytabkit")
    impute = make_column_transformer(
        (SimpleImputer(strategy="median"), make_column_selector(dtype_include="number")),
        (FunctionTransformer(to_strings), make_column_selector(dtype_exclude="number")),
        verbose_feature_names_out=False,
    ).set_output(transform="pandas")
    model = module.RealMLP_TD_S_Classifier(random_state=seed, device="cpu", n_threads=1, verbosity=0)
    return make_pipeline(impute, FunctionTransformer(to_categories), model)


MODELS = {
    "TabularMLP": tabular_mlp,
    "TabularMLP, n_estimators=1": one_of_it,
    "MLPClassifier in a pipeline": mlp_in_a_pipeline,
    "HistGradientBoosting": gradient_boosting,
    "CatBoost": catboost,
    "RealMLP-TD-S": realmlp,
}


def categories_of(X):
    """Names of the columns that are not numbers."""
    return list(X.select_dtypes(exclude="number"))


def to_strings(X):
    """Categories as strings, "missing" where they are."""
    return X.assign(
        **{name: X[name].astype(object).where(X[name].notna(), "missing").astype(str) for name in categories_of(X)}
    )


def to_categories(X):
    """Strings and booleans as categories."""
    return X.astype(dict.fromkeys(categories_of(X), "category"))


# %%
# Comparison
# ----------


def compare(splits):
    """Mean score, log-loss, seconds of fit and of prediction of each model that is installed."""
    results = {}
    for name, make in MODELS.items():
        try:
            runs = [measure(make(split[0], seed), *split) for seed, split in enumerate(splits)]
        except ImportError:
            print(f"{name} is not installed.")
        else:
            results[name] = dict(
                zip(("accuracy", "log-loss", "fit s", "predict s"), np.mean(runs, axis=0), strict=True)
            )
    return results


def measure(model, X_train, X_test, y_train, y_test):
    """Accuracy, log-loss, seconds of fit and of prediction."""
    times = [time.perf_counter()]
    model.fit(X_train, y_train.astype(str))
    times.append(time.perf_counter())
    probabilities = model.predict_proba(X_test)
    times.append(time.perf_counter())
    y_test = y_test.astype(str)
    predicted = model.classes_[probabilities.argmax(1)]
    return accuracy_score(y_test, predicted), log_loss(y_test, probabilities, labels=model.classes_), *np.diff(times)


def print_table(results):
    """A line for each model, the lowest log-loss first."""
    print(f"{'':30}{'accuracy':>10}{'log-loss':>10}{'fit s':>10}{'predict s':>11}")
    for name, found in sorted(results.items(), key=lambda item: item[1]["log-loss"]):
        accuracy, loss, fit, predict = found.values()
        print(f"{name:30}{accuracy:10.4f}{loss:10.4f}{fit:10.2f}{predict:11.4f}")


def draw(results, path):
    """Log-loss against the seconds of fit: the lower left corner is best."""
    import matplotlib.pyplot as plt  # optional, and not needed for the table
    from matplotlib.ticker import LogLocator, NullFormatter

    figure, axes = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for (name, found), marker in zip(results.items(), "oDs^vP", strict=False):
        axes.plot(found["fit s"], found["log-loss"], marker, markersize=9, linestyle="", label=name)
    axes.set(xlabel="seconds of fit", ylabel="log-loss on test rows", xscale="log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color="0.85")
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)
    print(f"Picture: {path}")


def main(argv=None):
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adult", metavar="PATH_OR_openml", help="a CSV file with the target `income`, or openml")
    parser.add_argument("--splits", type=int, default=2, help="random splits of the bundled table (default: 2)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a picture there; needs matplotlib")
    options = parser.parse_args(argv)
    if options.adult not in (None, "openml") and not Path(options.adult).is_file():
        parser.error(f"there is no file {options.adult}")
    if options.splits < 1:
        parser.error("--splits has to be at least 1")
    splits = load_splits(options)
    X_train, X_test, *_ = splits[0]
    missing = X_train.isna().to_numpy().sum()
    print(
        f"{len(X_train)} rows to train on, {len(X_test)} to test on, {X_train.shape[1]} columns, {missing} missing values"
    )
    print(f"categories: {', '.join(categories_of(X_train))}; {len(splits)} split{'s' * (len(splits) > 1)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of scikit-learn's MLP, by its default of 200 epochs
        results = compare(splits)
    print_table(results)
    if options.plot:
        draw(results, options.plot)
    return results


if __name__ == "__main__":
    main()

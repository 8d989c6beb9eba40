"""The examples run on bundled data, draw their pictures, and what they say is true."""

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits

EXAMPLES = Path(__file__).parents[1] / "examples"

#: epochs on the bundled data, and of the data set of the tutorial, if it is another
EPOCHS = {
    "tutorial_mnist": {"digits": 20, "mnist": 5},
    "tutorial_mnist_modern": {"digits": 60, "mnist": 20},
    "tutorial_fashion_mnist": {"digits": 300, "fashion_mnist": 10},
    "tutorial_learning_rates": {"made": 200},
    "tutorial_cifar10": {"digits": 300, "cifar10": 50},
}


def check_what_it_shows(picture, output, errors):
    """A tutorial warns of nothing, draws a picture, and counts lines."""
    assert not errors
    assert plt.imread(picture).std() > 0.05
    assert re.search(r"By hand: .* \d+ lines", output)
    assert re.search(r"Here: .*\d+ (lines|parameters)", output)


def run(tutorial, folder, *options):
    """What a tutorial prints in a process of its own."""
    command = [sys.executable, EXAMPLES / f"{tutorial}.py", "--figure", "curves.png", *options]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    check_what_it_shows(folder / "curves.png", result.stdout, result.stderr)
    return result.stdout


def number(pattern, output):
    """The number at the group of a pattern, as a float."""
    match = re.search(pattern, output)
    assert match, f"{pattern}\n{output}"
    return float(match.group(1).replace(",", ""))


@pytest.fixture
def restore_threads():
    """Tutorials take one thread; the tests after them do not have to."""
    with threadpool_limits(1):
        yield


@pytest.fixture
def shared(restore_threads):
    """The functions that tutorials share."""
    yield SimpleNamespace(**runpy.run_path(str(EXAMPLES / "_shared.py")))
    plt.close("all")


@pytest.fixture
def few_digits(tmp_path):
    """A file of images of one's own, with names for labels."""
    digits = sklearn.datasets.load_digits()
    labels = np.array(list("abcdefghij"))[digits.target]
    np.savez(tmp_path / "images.npz", X=digits.images[:400].astype(np.uint8), y=labels[:400])
    return tmp_path / "images.npz"


@pytest.fixture
def run_here(monkeypatch, tmp_path, capfd, restore_threads):
    """Run a tutorial in this process; its variables and what it prints."""

    def run(tutorial, *options):
        for module in ("_shared", "_by_hand"):  # each run sets its own filters of warnings
            monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(EXAMPLES)
        figure = tmp_path / "curves.png"
        monkeypatch.setattr(sys, "argv", [f"{tutorial}.py", "--figure", str(figure), *map(str, options)])
        variables = runpy.run_path(str(EXAMPLES / f"{tutorial}.py"))
        output, errors = capfd.readouterr()
        check_what_it_shows(figure, output, errors)
        return SimpleNamespace(**variables), output

    yield run
    plt.close("all")
    for module in ("_shared", "_by_hand"):
        sys.modules.pop(module, None)


def test_each_tutorial_is_tested_and_short():
    tutorials = {path.stem: path.read_text() for path in EXAMPLES.glob("tutorial_*.py")}
    assert set(tutorials) == set(EPOCHS)
    for name, text in tutorials.items():
        code = text.partition('"""\n\n')[2].splitlines()  # after the docstring
        assert len([line for line in code if not line.startswith("#")]) < 65, name


def test_mnist(run_here):
    _, output = run_here("tutorial_mnist")
    n_epochs = EPOCHS["tutorial_mnist"]["digits"]
    n_parameters = (64 + 1) * 128 + (128 + 1) * 64 + (64 + 1) * 10
    assert number(r"Network: ([\d,]+) parameters", output) == n_parameters
    lines = output.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:1] == ["epoch"])
    assert re.split(r"  +", lines[start].strip())[1:3] == ["by hand", "skorch, NLLLoss"]
    epochs, by_hand, wrong_loss, right_loss, here = np.array(
        [line.split() for line in lines[start + 1 : start + 1 + n_epochs]], dtype=float
    ).T
    assert epochs.tolist() == list(range(1, n_epochs + 1))
    assert np.isnan(wrong_loss).all()
    for losses in (by_hand, right_loss, here):
        assert losses[0] > 2
        assert losses[-1] < 0.2


def test_mnist_losses_of_skorch(run_here, few_digits):
    tutorial, output = run_here("tutorial_mnist", "--npz", few_digits, "--epochs", 40)
    wrong_loss, right_loss = tutorial.nets.values()
    assert isinstance(wrong_loss.criterion_, torch.nn.NLLLoss)
    assert isinstance(right_loss.criterion_, torch.nn.CrossEntropyLoss)
    assert np.isnan(wrong_loss.history[:, "train_loss"]).all()
    assert np.isfinite(right_loss.history[:, "train_loss"]).all()
    assert 0 <= tutorial.X.min() < tutorial.X.max() == 1  # scaling is not to blame

    # One class is predicted, and its share is the accuracy.
    label = np.unique(wrong_loss.predict(tutorial.X_test)).item()
    share = np.mean(tutorial.y_test == label)
    line = r"accuracy, skorch, NLLLoss: ([\d.]+); classes it predicts: 1; probabilities of a row sum to -\d"
    assert number(line, output) == pytest.approx(share, abs=1e-4)
    for name, model in (("skorch, CrossEntropyLoss", right_loss), ("here", tutorial.here)):
        accuracy = number(rf"accuracy, {name}: ([\d.]+); .* sum to 1 at least, 1 at most", output)
        assert accuracy == pytest.approx(model.score(tutorial.X_test, tutorial.y_test), abs=1e-4)
        assert accuracy > 0.8
    assert not hasattr(tutorial.here, "criterion")


def test_mnist_counts_parameters():
    by_hand = SimpleNamespace(**runpy.run_path(str(EXAMPLES / "_by_hand.py")))
    assert by_hand.count_parameters(by_hand.Network(784, 128, 64, 10)) == 109_386


def test_mnist_modern(run_here):
    _, output = run_here("tutorial_mnist_modern", "--epochs", 15)
    tests = {
        name: number(rf"\n{name} +[\d.]+ +([\d.]+)", output) for name in ("Adam", "modern but the cosine", "modern")
    }
    assert min(tests.values()) > 0.9
    gain = number(r"The cosine changes test accuracy by ([+-][\d.]+) percentage points", output)
    assert gain == pytest.approx(100 * (tests["modern"] - tests["modern but the cosine"]), abs=0.02)
    assert number(r"modern by hand: ([\d.]+)", output) > 0.9


def test_mnist_modern_has_the_settings_of_the_tutorial(run_here, few_digits):
    tutorial, _ = run_here("tutorial_mnist_modern", "--npz", few_digits, "--epochs", 1)
    assert tutorial.SGD == {"solver": "sgd", "momentum": 0, "learning_rate_init": 0.5}
    modern = tutorial.models[0]  # the last of the variants
    names = ("solver", "learning_rate_init", "weight_decay", "learning_rate", "dropout", "normalization", "batch_size")
    assert [getattr(modern, name) for name in names] == ["adamw", 0.001, 1e-4, "cosine", 0.2, "batch", 64]
    kinds = [type(layer).__name__ for layer in modern.module_]
    by_hand = [type(layer).__name__ for layer in tutorial.ModernNetwork(64, 128, 64, 10).layers]
    assert kinds == by_hand


def test_fashion_mnist(run_here):
    _, output = run_here("tutorial_fashion_mnist", "--epochs", 100)
    assert "digits: 1,540 rows to train, 257 to test, 100 epochs" in output
    by_hand, here = (number(rf"Training loss: .*{name} ([\d.]+)", output) for name in ("by hand", "here"))
    assert here == pytest.approx(by_hand, rel=0.5)  # single batches move it, see the picture
    assert min(number(rf"Test accuracy: .*{name} ([\d.]+)", output) for name in ("by hand", "here")) > 0.9


@pytest.mark.slow
def test_learning_rates(tmp_path):
    output = run("tutorial_learning_rates", tmp_path)
    validation = {
        rate: number(rf"Rate {rate}: validation accuracy ([\d.]+)", output) for rate in ("0.0001", "0.01", "1")
    }
    assert validation["0.01"] > max(validation["0.0001"], validation["1"]) + 0.1
    names = ("here", "scikit-learn", "by hand")
    here, theirs, by_hand = (number(rf"ten seeds: .*{name} ([\d.]+)", output) for name in names)
    assert here == pytest.approx(theirs, abs=0.002)
    assert here == pytest.approx(by_hand, abs=0.02)  # initial weights are others
    assert here == pytest.approx(0.84, abs=0.01)  # as measured of the tutorial's data
    first = number(r"accuracy of the first seed: ([\d.]+)", output)
    assert number(r"accuracy in a new process: ([\d.]+)", output) == first


def test_learning_rates_has_the_data_of_the_tutorial(run_here):
    tutorial, _ = run_here("tutorial_learning_rates", "--epochs", 2)
    X, y = sklearn.datasets.make_classification(
        n_samples=1000, n_features=10, n_classes=3, n_informative=6, random_state=42
    )
    _, X_test, _, y_test = train_test_split(X, y, test_size=0.2, random_state=42)
    np.testing.assert_array_equal(tutorial.X_test, X_test)
    np.testing.assert_array_equal(tutorial.y_test, y_test)
    scaler, mlp = tutorial.here[0]
    assert [coef.shape for coef in mlp.coefs_] == [(10, 64), (64, 32), (32, 3)]
    assert (mlp.solver, mlp.learning_rate_init, mlp.batch_size) == ("adam", 0.001, len(tutorial.X))
    np.testing.assert_allclose(scaler.mean_, tutorial.X.mean(axis=0))


def test_cifar10(run_here):
    _, output = run_here("tutorial_cifar10", "--epochs", 30)
    assert re.search(r"\n +30 ", output)
    assert number(r"Test accuracy: by hand ([\d.]+)", output) > 0.5


def test_cifar10_names_the_best_epoch(run_here, few_digits):
    tutorial, output = run_here("tutorial_cifar10", "--npz", few_digits)
    assert tutorial.X.min() == tutorial.X_test.min() == -1
    assert tutorial.X.max() == tutorial.X_test.max() == 1
    for name, history in (("by hand", tutorial.by_hand), ("here", tutorial.here)):
        scores = history["validation_score"].tolist()
        assert len(scores) == 50
        assert max(scores) > scores[0]
        line = f"Best validation accuracy, {name}: {max(scores):.2%} at epoch {1 + scores.index(max(scores))}\n"
        assert line in output
    assert tutorial.here["validation_score"].tolist() == tutorial.model.validation_scores_
    n_rows, n_val = number(r"([\d,]+) rows to train", output), number(r"Of the rows to train ([\d,]+)", output)
    assert (n_rows - n_val, n_val) == (len(tutorial.X), len(tutorial.X_val))


@pytest.mark.parametrize("tutorial", [name for name, epochs in EPOCHS.items() if len(epochs) > 1])
def test_a_file_gets_the_epochs_of_the_real_data(tutorial, run_here, few_digits):
    n_epochs = list(EPOCHS[tutorial].values())[-1]
    variables, output = run_here(tutorial, "--npz", few_digits)
    assert variables.model.n_iter_ == n_epochs
    assert re.match(rf".*images\.npz: \d+ rows to train, \d+ to test, {n_epochs} epochs\n", output)


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        ([], 300),
        (["--data", "cifar10"], 50),
        (["--npz", "FILE"], 50),
        (["--npz", "FILE", "--data", "digits"], 300),
        (["--npz", "FILE", "--epochs", "7"], 7),
        (["--data", "digits", "--epochs", "7"], 7),
    ],
)
def test_epochs(options, epochs, shared, few_digits):
    options = [str(few_digits) if option == "FILE" else option for option in options]
    assert shared.parse_options("", EPOCHS["tutorial_cifar10"], options).epochs == epochs


def test_epochs_without_a_choice_of_data(shared):
    assert shared.parse_options("", {"made": 200}, []).epochs == 200
    assert shared.parse_options("", {"made": 200}, ["--epochs", "3"]).epochs == 3


def test_help_says_how_long_a_file_is_trained(shared, capsys):
    with pytest.raises(SystemExit, match="0"):
        shared.parse_options("", {"digits": 300, "cifar10": 50}, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "trained for 50 epochs, like cifar10, unless --epochs (or --data, for its epochs) is given" in text
    assert "default: 300 for digits, 50 for cifar10" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--npz", "nowhere.npz"], "there is no file nowhere.npz"), (["--epochs", "0"], "has to be at least 1")],
)
def test_wrong_options(options, message, shared, capsys):
    with pytest.raises(SystemExit, match="2"):
        shared.parse_options("", {"digits": 300, "cifar10": 50}, options)
    assert message in capsys.readouterr().err


def test_images_of_ones_own(tmp_path, shared, capsys):
    digits = sklearn.datasets.load_digits()
    labels = np.array(list("abcdefghij"))[digits.target]
    np.savez(tmp_path / "images.npz", X=digits.images.astype(np.uint8), y=labels)
    parts = shared.load_images(SimpleNamespace(data="digits", npz=tmp_path / "images.npz", epochs=3))
    bundled_parts = shared.load_images(SimpleNamespace(data="digits", npz=None, epochs=3))
    for own, bundled in zip(parts, bundled_parts, strict=True):
        np.testing.assert_array_equal(own[0], bundled[0])
        np.testing.assert_array_equal(own[1], bundled[1])
    assert "digits: 1,540 rows to train, 257 to test, 3 epochs" in capsys.readouterr().out


@pytest.mark.parametrize("data", ["mnist", "fashion_mnist", "cifar10"])
def test_images_from_openml(data, monkeypatch, restore_threads):
    def fetch(name, **settings):
        assert name in {"mnist_784", "Fashion-MNIST", "CIFAR_10"}
        assert settings == {"version": 1, "as_frame": False, "return_X_y": True}
        return np.arange(140).reshape(70, 2) % 256, np.array(["0", "1"] * 35, dtype=object)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    load_images = runpy.run_path(str(EXAMPLES / "_shared.py"))["load_images"]
    parts = load_images(SimpleNamespace(data=data, npz=None, epochs=3))
    assert [X.shape for X, _ in parts] == [(60, 2), (10, 2)]
    assert all(X.dtype == np.float32 and X.min() >= 0 and X.max() <= 1 for X, _ in parts)
    assert all(set(y) == {0, 1} and y.dtype == np.int64 for _, y in parts)


def test_curves_differ_in_gray_and_in_dashes(tmp_path, shared):
    curves = {f"curve {i}": [1.0, 0.1, 0.01 * i + 0.01] for i in range(5)}
    shared.draw_curves(tmp_path / "curves.png", "A title", training_loss=curves, accuracy=curves)
    figure = plt.gcf()
    loss, accuracy = figure.axes
    assert [loss.get_xlabel(), loss.get_ylabel(), loss.get_yscale()] == ["epoch", "training loss", "log"]
    assert [accuracy.get_xlabel(), accuracy.get_ylabel(), accuracy.get_yscale()] == ["epoch", "accuracy", "linear"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(curves)
    grays = [plt.matplotlib.colors.to_rgb(line.get_color()) @ np.array([0.299, 0.587, 0.114]) for line in loss.lines]
    assert np.diff(grays).max() < -0.05  # each is darker than the one before
    assert len({str(line._dash_pattern) for line in loss.lines}) == 5
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 2, 3])
    assert (tmp_path / "curves.png").stat().st_size > 10_000


# Tables -------------------------------------------------------------------------------------


@pytest.fixture
def tabular(restore_threads):
    """The functions of the example on tables, with small models in place of TabularMLP's."""
    module = runpy.run_path(str(EXAMPLES / "tabular.py"))
    for name in ("TabularMLP", "TabularMLP, n_estimators=1"):
        make = module["MODELS"][name]
        module["MODELS"][name] = lambda X, seed, make=make: make(X, seed).set_params(hidden_layer_sizes=16, max_iter=10)
    yield SimpleNamespace(**module)
    plt.close("all")


def test_tabular_has_all_kinds_of_columns(tabular):
    X, y = tabular.load_bundled()
    kinds = {str(dtype) for dtype in X.dtypes}
    assert {"float64", "category", "bool"} < kinds
    assert any(isinstance(value, str) for value in X["row 3, column 2"])
    assert X.isna().any().sum() == 4
    assert np.unique(y).size == 10


def test_tabular_on_bundled_data(tabular, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    found = tabular.main(["--splits", "1", "--plot", str(tmp_path / "losses.png")])
    output, errors = capsys.readouterr()
    assert not errors
    assert {"TabularMLP", "MLPClassifier in a pipeline", "HistGradientBoosting"} <= set(found)
    assert number(r"TabularMLP +([\d.]+)", output) == pytest.approx(found["TabularMLP"]["accuracy"], abs=1e-4)
    assert min(model["accuracy"] for model in found.values()) > 0.5  # ten epochs
    assert plt.imread(tmp_path / "losses.png").std() > 0.05


@pytest.mark.parametrize("has_split", [True, False])
def test_tabular_on_adult(has_split, tabular, tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(18, 80, 600), "job": rng.choice(["a", "b", None], 600)})
    frame["income"] = np.where(frame["age"] > 50, ">50K.", "<=50K")
    if has_split:
        frame["split"] = np.repeat(["train", "test"], [400, 200])
    frame.to_csv(tmp_path / "adult.csv.gz", index=False)
    found = tabular.main(["--adult", str(tmp_path / "adult.csv.gz")])
    assert "400 rows to train on, 200 to test on, 2 columns" in capsys.readouterr().out
    assert found["HistGradientBoosting"]["accuracy"] > 0.95


def test_tabular_takes_rivals_that_are_installed(tabular, monkeypatch):
    class Rival(HistGradientBoostingClassifier):
        def __init__(self, **params):
            self.params = params
            super().__init__(categorical_features="from_dtype", max_iter=2)

        def fit(self, X, y):
            frames.append(X)
            return super().fit(tabular.to_categories(X), y)

        def predict_proba(self, X):
            return super().predict_proba(tabular.to_categories(X))

    frames = []
    monkeypatch.setitem(sys.modules, "catboost", SimpleNamespace(CatBoostClassifier=Rival))
    monkeypatch.setitem(sys.modules, "pytabkit", SimpleNamespace(RealMLP_TD_S_Classifier=Rival))
    X, y = tabular.load_bundled()
    for make in (tabular.catboost, tabular.realmlp):
        pipeline = make(X, 0).fit(X, y)
        assert pipeline.score(X, y) > 0.5
    for_catboost, for_realmlp = frames
    categories = tabular.categories_of(X)
    assert tabular.catboost(X, 0)[-1].params["cat_features"] == categories
    assert all(isinstance(value, str) for name in categories for value in for_catboost[name])
    assert for_catboost[["row 1, column 2"]].isna().any().all()  # CatBoost takes missing numbers
    assert not for_realmlp.isna().any().any()
    assert set(for_realmlp.select_dtypes("category")) == set(categories)


def test_tabular_names_a_missing_file(tabular, capsys):
    with pytest.raises(SystemExit, match="2"):
        tabular.main(["--adult", "nowhere.csv"])
    assert "there is no file nowhere.csv" in capsys.readouterr().err


@pytest.mark.slow
def test_tabular_as_it_is(tmp_path):
    result = subprocess.run(
        [sys.executable, EXAMPLES / "tabular.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    assert number(r"TabularMLP +[\d.]+ +([\d.]+)", result.stdout) < 0.3


# Pictures and files -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_displays(capsys):
    runpy.run_path(str(EXAMPLES / "displays.py"))
    axes = [plt.figure(number).axes[0] for number in plt.get_fignums()]
    assert [ax.get_ylabel() for ax in axes] == ["Loss", "Loss", "Loss", "Score", "Score"]
    theirs, ours, _ = (line.get_ydata() for line in axes[1].lines)
    np.testing.assert_allclose(ours, theirs)  # as the text says
    assert "7,510 parameters" in capsys.readouterr().out
    plt.close("all")


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_save_and_export(capsys):
    """The example itself compares predictions."""
    variables = runpy.run_path(str(EXAMPLES / "save_and_export.py"))
    output = capsys.readouterr().out
    assert number(r"test accuracy ([\d.]+)", output) > 0.9
    assert "normalization='batch' has no counterpart in scikit-learn's MLP." in output
    assert "['sktorch_mlp.MLPTorchClassifier']" in output
    weights = sum(array.nbytes for array in variables["model"].coefs_) / 1024
    sizes = dict(zip(variables["names"], variables["sizes"], strict=True))
    for name, times in {"digits.onnx": 1, "digits.pt": 1, "digits.safetensors": 3, "digits.pickle": 3}.items():
        assert times < sizes[name] / weights < times + 0.5, name
    plt.close("all")


def test_larger_than_memory(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["larger_than_memory.py", "--rows", "120000"])
    variables = runpy.run_path(str(EXAMPLES / "larger_than_memory.py"))
    output = capsys.readouterr().out
    assert number(r"accuracy ([\d.]+)", output) > 0.85
    assert variables["model"].n_iter_ == 2
    assert "of X are read in blocks" in output

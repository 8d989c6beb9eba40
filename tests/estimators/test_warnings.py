"""Warnings: at the line of the user, and where filters for scikit-learn's look for them."""

import subprocess
import sys
import textwrap
import threading
import warnings

import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._estimators.messages import warn
from tests.estimators.helpers import KINDS, LABELS, NUMBERS, SMALL, TARGETS, X, ours, pair


def caught(call):
    """Warnings that a call gives, with no filter."""
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        call()
    return messages


CALLS = {
    "fit": lambda model: model.fit(X, LABELS),
    "pipeline": lambda model: make_pipeline(StandardScaler(), model).fit(X, LABELS),
    "search": lambda model: GridSearchCV(model, {"alpha": [0.0]}, cv=2).fit(X, LABELS),
}


CLASSES = {"classifier": {"classes": [False, True]}, "regressor": {}}


@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
@pytest.mark.parametrize("params", [{}, {"solver": "lbfgs"}, {"batch_size": 1000}], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_warnings_have_the_place_of_the_users_line(name, params):
    messages = caught(lambda: CALLS[name](ours("classifier", **params)))
    assert ConvergenceWarning in {message.category for message in messages}
    place = CALLS[name].__code__
    assert {(message.filename, message.lineno) for message in messages} == {(place.co_filename, place.co_firstlineno)}


FILTERS = {
    "module": {"module": "sklearn"},
    "module of the MLP": {"module": r"sklearn\.neural_network"},
    "category and module": {"category": UserWarning, "module": "sklearn"},
    "category": {"category": ConvergenceWarning},
    "message": {"message": "Stochastic Optimizer"},
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_filters_for_scikit_learns_warnings_find_ours(kind, name):
    for estimator in pair(kind):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", **FILTERS[name])
            estimator.fit(X, TARGETS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_of_ones_own_loop_is_not_expected_to_converge(kind):
    for model in pair(kind, max_iter=1):
        assert not caught(lambda model=model: [model.partial_fit(X, NUMBERS > 0.5, **CLASSES[kind]) for _ in range(3)])


def test_filters_of_other_modules_do_not():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="sktorch_mlp")
        for class_ in (MLPTorchClassifier, MLPClassifier):
            with pytest.raises(ConvergenceWarning):
                class_(**SMALL).fit(X, LABELS)


def test_our_own_warnings_are_ours():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="sklearn")
        with pytest.raises(UserWarning, match="Most of y_val"):
            ours("regressor").fit(X, NUMBERS, X_val=X, y_val=NUMBERS + 1000)
        warnings.filterwarnings("ignore", module="sktorch_mlp")
        ours("regressor").fit(X, NUMBERS, X_val=X, y_val=NUMBERS + 1000)


def test_a_script_with_a_filter_by_module_is_silent():
    """As users write it: before the imports, with Python's own filters behind it."""
    script = """
        import warnings
        warnings.filterwarnings("ignore", module="sklearn")
        from sklearn.datasets import load_iris
        from sktorch_mlp import MLPTorchClassifier
        MLPTorchClassifier(max_iter=2, device="cpu").fit(*load_iris(return_X_y=True))
        warnings.resetwarnings()
        MLPTorchClassifier(max_iter=2, device="cpu").fit(*load_iris(return_X_y=True))  # this line
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    errors = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stderr
    assert errors.count("ConvergenceWarning") == 1
    assert "<string>:8: ConvergenceWarning" in errors


def test_a_warning_without_a_line_of_a_user():
    """In a thread whose frames are all of libraries: those that run the tasks of stacks."""
    thread = threading.Thread(target=warn, args=("No user called.", UserWarning))

    def run():
        thread.start()
        thread.join()

    (message,) = caught(run)
    assert (str(message.message), message.filename) == ("No user called.", "<sktorch_mlp>")

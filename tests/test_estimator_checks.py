"""scikit-learn's estimator checks, strictly: ours may fail only what scikit-learn's own MLP fails."""

import os
import subprocess
import sys
import warnings

import pytest
from sklearn.exceptions import SkipTestWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils.estimator_checks import check_estimator, estimator_checks_generator, parametrize_with_checks

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor

# The checks fit on data of all kinds for few epochs, and provoke warnings of their own.
pytestmark = pytest.mark.filterwarnings("ignore")

RIVALS = {MLPTorchClassifier: MLPClassifier, MLPTorchRegressor: MLPRegressor}

CONFIGURATIONS = [
    {},
    {"device": "cpu"},
    {"solver": "sgd"},
    {"solver": "lbfgs"},
    {"activation": "tanh"},
    {"hidden_layer_sizes": (20, 10)},
    {"early_stopping": True},
    {"warm_start": True, "max_iter": 20},
    {"batch_size": 8, "shuffle": False, "max_iter": 20},
]
ESTIMATORS = [
    *(estimator(**params) for params in CONFIGURATIONS for estimator in RIVALS),
    MLPTorchRegressor(loss="poisson", max_iter=20),
]


@parametrize_with_checks(ESTIMATORS)
def test_estimator(estimator, check):
    try:
        check(estimator)
    except (AssertionError, ValueError, TypeError) as error:
        if _is_default(estimator) or type(error) is not _sklearns_error(estimator, check):
            raise
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        pytest.xfail(f"scikit-learn's own MLP fails it as well: {reason}")


def _is_default(estimator):
    return estimator.get_params() == type(estimator)(device=estimator.device).get_params()


def _sklearns_error(estimator, check):
    """The class of error with which scikit-learn's MLP fails the check in the same configuration; None if it passes."""
    rival_class = RIVALS[type(estimator)]
    params = {name: value for name, value in estimator.get_params().items() if name not in ("device", "dtype")}
    try:
        check.func(rival_class.__name__, rival_class(**params), *check.args[1:], **check.keywords)
    except (AssertionError, ValueError, TypeError) as error:
        return type(error)
    return None


def test_only_known_checks_are_skipped():
    """Two checks cannot run: one needs an environment variable, one a method that no MLP has."""
    skipped = set()
    for estimator in (MLPTorchClassifier(), MLPTorchRegressor()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SkipTestWarning)
            results = check_estimator(estimator, on_skip=None, on_fail="raise")
        skipped |= {result["check_name"] for result in results if result["status"] == "skipped"}
        assert sum(result["status"] == "passed" for result in results) >= 55
    assert skipped == {
        "check_array_api_input",  # runs where SCIPY_ARRAY_API is set
        "check_classifiers_multilabel_output_format_decision_function",  # MLPClassifier has no decision_function either
    }


@pytest.mark.parametrize("name", ["MLPTorchClassifier", "MLPTorchRegressor"])
def test_check_estimator_in_a_fresh_process(name):
    code = f"""
from sklearn.utils.estimator_checks import check_estimator
import sktorch_mlp
check_estimator(sktorch_mlp.{name}())
"""
    on_the_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, env=on_the_cpu)


def test_as_many_checks_as_for_sklearn():
    for ours, theirs in RIVALS.items():
        names = [
            {getattr(check, "func", check).__name__ for _, check in estimator_checks_generator(estimator())}
            for estimator in (ours, theirs)
        ]
        assert names[1] <= names[0]

"""scikit-learn's own tests of its MLP, collected here with our estimators in place of its."""

import importlib.util
import inspect
import re

import pytest

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor

# They overflow on purpose, stop early on purpose, and warn as scikit-learn's MLP does.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")


def _load_suite():
    """A copy of the test module of its own, so that scikit-learn's stays as it is."""
    spec = importlib.util.find_spec("sklearn.neural_network.tests.test_mlp")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.MLPClassifier, module.MLPRegressor = MLPTorchClassifier, MLPTorchRegressor
    return module


def _reads_private_attributes(test):
    """Whether a test looks into scikit-learn's estimator; such a test says nothing about another."""
    return re.search(r"\b(clf|mlp)\._\w+\b(?! = )", inspect.getsource(test)) is not None


_tests = {name: test for name, test in vars(_load_suite()).items() if name.startswith("test_")}
_private = {name for name, test in _tests.items() if _reads_private_attributes(test)}
globals().update({name: test for name, test in _tests.items() if name not in _private})


@pytest.fixture
def global_random_seed():
    """scikit-learn's fixture of this name, with its default value."""
    return 42


def test_few_tests_are_left_out():
    """Those that look into scikit-learn's own estimator."""
    assert len(_tests) - len(_private) >= 38
    assert _private == {
        "test_gradient",
        "test_learning_rate_warmstart",
        "test_adaptive_learning_rate",
        "test_n_iter_no_change",
        "test_n_iter_no_change_inf",
    }

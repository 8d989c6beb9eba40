"""Copies, pickles and files of estimators: they predict the same and resume where the original was."""

import copy
import io
import pickle
import pickletools

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
import torch
from numpy.testing import assert_array_equal

import sktorch_mlp
from sktorch_mlp import MLPTorchClassifier
from tests.estimators.helpers import LABELS, NUMBERS, TARGETS, WARNS_EACH_TIME, X, ours, weights_of
from tests.pairwise import pairwise

pytestmark = [pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"), *WARNS_EACH_TIME]


def _through_joblib(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "joblib": _through_joblib,
    "deepcopy": copy.deepcopy,
}
STOCHASTIC = {
    "adam": {},
    "sgd": {"solver": "sgd", "learning_rate_init": 0.05},
    "sgd invscaling": {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.5},
    "sgd adaptive": {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.5, "n_iter_no_change": 1},
    "RandomState": {"random_state": np.random.RandomState(3)},
}
FORMATS = {"float64": np.asarray, "float32": lambda X: X.astype(np.float32), "sparse": sp.csr_array}


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_before_fit(copied):
    estimator = ours("classifier")
    twin = COPIES[copied](estimator)
    assert twin.get_params() == estimator.get_params()
    assert_array_equal(weights_of(twin.fit(X, LABELS)), weights_of(estimator.fit(X, LABELS)))


@pytest.mark.parametrize(("copied", "params", "format_"), pairwise(COPIES, STOCHASTIC, FORMATS))
def test_a_copy_resumes_where_the_original_was(copied, params, format_):
    rows = FORMATS[format_](X)
    original = ours("classifier", **copy.deepcopy(STOCHASTIC[params]))
    original.partial_fit(rows, LABELS, classes=[0, 1, 2]).partial_fit(rows, LABELS)
    twin = COPIES[copied](original)
    assert twin.n_iter_ == original.n_iter_
    assert twin.loss_curve_ == original.loss_curve_
    assert_array_equal(twin.predict_proba(rows), original.predict_proba(rows))

    at_copy = weights_of(original)
    for _ in range(3):
        twin.partial_fit(rows, LABELS)
    assert_array_equal(weights_of(original), at_copy)  # the original has not moved
    assert len(original.loss_curve_) == 2
    for _ in range(3):
        original.partial_fit(rows, LABELS)
    assert_array_equal(weights_of(twin), weights_of(original))
    assert twin.loss_curve_ == original.loss_curve_
    assert twin.t_ == original.t_


WARM = {
    "early stopping": {"early_stopping": True},
    "lbfgs": {"solver": "lbfgs"},
    "tanh": {"activation": "tanh", "max_iter": 3},
    "no hidden layer": {"hidden_layer_sizes": ()},
}


@pytest.mark.parametrize("params", WARM)
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_a_warm_start(copied, params):
    original = ours("classifier", **WARM[params], warm_start=True).fit(X, LABELS)
    twin = COPIES[copied](original)
    at_copy = weights_of(original)
    assert_array_equal(weights_of(twin), at_copy)
    twin.fit(X, LABELS)
    assert_array_equal(weights_of(original), at_copy)
    assert_array_equal(weights_of(original.fit(X, LABELS)), weights_of(twin))


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_a_regressor(copied):
    original = ours("regressor", loss="poisson").fit(X, NUMBERS)
    twin = COPIES[copied](original)
    predicted = original.predict(X)
    assert_array_equal(twin.predict(X), predicted)
    twin.partial_fit(X, NUMBERS)
    assert_array_equal(original.predict(X), predicted)
    assert_array_equal(original.partial_fit(X, NUMBERS).predict(X), twin.predict(X))


# Files ---------------------------------------------------------------------------------


def test_public_classes_say_where_they_are_public():
    """Pickles, trust lists and error messages record the module."""
    for name in ("MLPTorchClassifier", "MLPTorchRegressor", "stacked_fits"):
        public = getattr(sktorch_mlp, name)
        assert public.__module__ == "sktorch_mlp"
        assert pickle.loads(pickle.dumps(public)) is public


@pytest.mark.parametrize("kind", TARGETS)
def test_a_pickle_records_the_public_place_of_an_estimator(kind):
    for estimator in (ours(kind), ours(kind).fit(X, TARGETS[kind])):
        strings = [value for _, value, _ in pickletools.genops(pickle.dumps(estimator)) if isinstance(value, str)]
        at = strings.index(type(estimator).__name__)
        assert strings[at - 1] == "sktorch_mlp"
        assert not any(name.startswith("sktorch_mlp._estimators") and name.endswith(("ier", "sor")) for name in strings)


def test_a_pickle_holds_the_weights_once():
    estimator = MLPTorchClassifier((2000,), solver="lbfgs", max_iter=1).fit(X, LABELS)
    estimator.module_  # noqa: B018 - kept after the first access, and not to be pickled
    assert len(pickle.dumps(estimator)) < 1.1 * weights_of(estimator).nbytes + 4000


def test_a_model_mapped_from_a_file(tmp_path):
    path = tmp_path / "model.joblib"
    original = ours("classifier").fit(X, LABELS)
    joblib.dump(original, path)
    content = path.read_bytes()
    mapped = joblib.load(path, mmap_mode="r")
    assert not mapped.coefs_[0].flags.writeable
    assert_array_equal(mapped.predict_proba(X), original.predict_proba(X))
    for _ in range(2):
        assert_array_equal(weights_of(mapped.partial_fit(X, LABELS)), weights_of(original.partial_fit(X, LABELS)))
    assert path.read_bytes() == content


def test_a_model_of_a_device_that_is_not_here():
    original = ours("classifier").fit(X, LABELS)
    pickled = pickle.dumps(original)
    expected = original.predict_proba(X)
    original.device_ = torch.device("cuda", 99)
    elsewhere = pickle.dumps(original)
    with pytest.warns(UserWarning, match="'cuda:99', which is not available here. It will predict on the CPU"):
        twin = pickle.loads(elsewhere)
    assert_array_equal(twin.predict_proba(X), expected)
    at_home = pickle.loads(pickled)
    assert_array_equal(weights_of(twin.partial_fit(X, LABELS)), weights_of(at_home.partial_fit(X, LABELS)))


def test_a_network_in_training_is_not_pickled():
    """Weights are in `coefs_`. Of the rest optimizer and progress are kept, to resume."""
    model = ours("regressor", dropout=0.5).fit(X, NUMBERS)
    state = pickle.loads(pickle.dumps(model))._state
    assert not any(isinstance(value, torch.nn.Module) for value in vars(state).values())
    assert state.progress == model._state.progress
    assert torch.equal(state.generator.get_state(), model._state.generator.get_state())

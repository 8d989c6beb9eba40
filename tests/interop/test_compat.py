"""Private names of scikit-learn's callbacks and MLP: whether they are there, and what happens where one is not."""

import pickle
import sys

import pytest
import sklearn
from sklearn.base import BaseEstimator, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._interop.compat import clear_subtasks, copy_without_callbacks, n_epochs_no_change, read_optimizer
from tests.interop.recorder import Recorder

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")

X, Y = load_iris(return_X_y=True)
GONE = f"scikit-learn {sklearn.__version__} has no {{}} any more: see sktorch_mlp/_interop/compat.py."


class Estimator(CallbackSupportMixin, BaseEstimator):
    """Does nothing but call a function with its callback context."""

    @with_callbacks
    def fit(self, X, y, function):
        function(self._init_callback_context(max_subtasks=3))
        return self


def _in_a_fit(function):
    Estimator().set_callbacks(Recorder()).fit(X, Y, function)


def test_subtasks_begin_anew_where_they_are_cleared():
    def check(context):
        assert hasattr(context, "_children_map"), GONE.format("CallbackContext._children_map")
        for _ in range(2):
            assert [context.subcontext(task_name="epoch").task_id for _ in range(3)] == [0, 1, 2]
            clear_subtasks(context)
        assert list(context) == [context]

    _in_a_fit(check)


def test_a_context_without_subtasks_is_left_as_it_is():
    context = object()
    clear_subtasks(context)  # nothing to clear, and no error
    assert not hasattr(context, "_children_map")


class Snapshots(Recorder):
    """Keeps what it finds on the estimator in a fit, and a copy without callbacks."""

    def __init__(self):
        super().__init__()
        self.names, self.copies = set(), []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        self.names |= {name for name in vars(fitted_estimator) if "callback" in name and name != "callbacks"}
        self.copies.append(copy_without_callbacks(fitted_estimator))


#: Attributes of an estimator with callbacks while it is fitted.
NAMES = ["_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_parent_callback_ctx"]


@pytest.fixture(scope="module")
def snapshots():
    callback = Snapshots()
    mlp = MLPTorchClassifier((4,), max_iter=2, random_state=0).set_callbacks(callback)
    GridSearchCV(mlp, {"alpha": [0.1]}, cv=2, refit=False).fit(X, Y)
    return callback


@pytest.mark.parametrize("name", NAMES)
def test_estimators_keep_callbacks_under_the_names_that_we_know(name, snapshots):
    assert name in snapshots.names, GONE.format(f"estimator attribute {name}")


def test_a_copy_has_nothing_of_callbacks(snapshots):
    assert snapshots.names == set(NAMES), "Estimators in a fit have further attributes of callbacks. Copies keep them."
    assert snapshots.copies
    for copied in snapshots.copies:
        assert not any("callback" in name for name in vars(copied) if name != "callbacks")
        assert b"Snapshots" not in pickle.dumps(copied)
        assert copied.predict(X).shape == Y.shape


def test_a_copy_leaves_the_estimator_as_it_is():
    mlp = clone(MLPTorchClassifier()).set_callbacks(Recorder())
    before = dict(vars(mlp))
    copied = copy_without_callbacks(mlp)
    assert vars(mlp) == before
    assert vars(copied).keys() == before.keys() - {"_skl_callbacks"}


def test_a_copy_of_an_estimator_without_callbacks_is_the_same():
    mlp = MLPTorchClassifier((4,))
    assert vars(copy_without_callbacks(mlp)) == vars(mlp)


# scikit-learn's MLP --------------------------------------------------------------------


@pytest.fixture
def mlp():
    return MLPClassifier((4,), max_iter=3, random_state=0).fit(X, Y)


@pytest.mark.parametrize(
    "name", ["_label_binarizer", "_no_improvement_count", "_best_coefs", "_best_intercepts", "_optimizer"]
)
def test_scikit_learns_mlp_keeps_things_under_the_names_that_we_know(name, mlp):
    assert hasattr(mlp, name), GONE.format(f"MLPClassifier attribute {name}")


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_its_optimizers_have_the_attributes_that_we_know(solver, mlp):
    fitted = mlp.set_params(solver=solver).fit(X, Y)
    state = read_optimizer(fitted)
    assert state is not None, GONE.format("optimizer of known attributes")
    known = state.settings.keys() | state.moments.keys() | {"learning_rate"}
    assert known == vars(fitted._optimizer).keys(), GONE.format("optimizer of the known attributes alone")


def test_without_its_private_attributes_training_begins_anew(mlp):
    probabilities = mlp.predict_proba(X)
    del mlp._optimizer, mlp._no_improvement_count
    assert read_optimizer(mlp) is None
    assert n_epochs_no_change(mlp) == 0
    taken = MLPTorchClassifier.from_sklearn(mlp)
    assert taken.predict_proba(X) == pytest.approx(probabilities)
    taken.partial_fit(X, Y)
    mlp._optimizer = object()
    assert read_optimizer(mlp) is None


def test_without_its_optimizers_a_new_one_is_made(mlp, monkeypatch):
    taken = MLPTorchClassifier.from_sklearn(mlp)
    monkeypatch.setitem(sys.modules, "sklearn.neural_network._stochastic_optimizers", None)
    given = taken.to_sklearn()
    assert not hasattr(given, "_optimizer")
    given.partial_fit(X, Y)
    assert given._optimizer.t > 0

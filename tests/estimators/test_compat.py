"""Private names of scikit-learn on which the estimators stand: what is expected of each, said where it fails."""

import inspect
import re
from numbers import Integral, Real

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackSupportMixin
from sklearn.metrics import check_scoring, get_scorer, make_scorer
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import validate_parameter_constraints

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._estimators import compat
from tests.estimators.helpers import LABELS, WEIGHTS, X, ours

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def parameters_of(function):
    return list(inspect.signature(function).parameters)


# Parameter constraints -----------------------------------------------------------------


def test_constraints_are_checked_by_validate_parameter_constraints():
    """``sklearn.utils._param_validation`` has the constraints, and gives errors in one form."""
    constraints = {
        "a": [compat.Interval(Integral, 1, None, closed="left"), compat.Options(Real, {np.inf})],
        "b": [compat.StrOptions({"x"}), None],
    }
    validate_parameter_constraints(constraints, {"a": 1, "b": "x"}, "Name")
    validate_parameter_constraints(constraints, {"a": np.inf, "b": None}, "Name")
    message = "The 'b' parameter of Name must be a str among {'x'} or None. Got 'y' instead."
    with pytest.raises(compat.InvalidParameterError, match=re.escape(message)):
        validate_parameter_constraints(constraints, {"a": 1, "b": "y"}, "Name")
    assert issubclass(compat.InvalidParameterError, ValueError)
    assert issubclass(compat.InvalidParameterError, TypeError)


def test_fit_context_checks_the_parameters_of_a_method():
    """``sklearn.base._fit_context`` checks `_parameter_constraints` before the method runs, and not before."""

    class Estimator(BaseEstimator):
        _parameter_constraints = {"a": [compat.StrOptions({"x"})]}

        def __init__(self, a="x"):
            self.a = a

        @compat.fit_context(prefer_skip_nested_validation=True)
        def fit(self, X):
            return "fitted"

    assert parameters_of(compat.fit_context) == ["prefer_skip_nested_validation"]
    assert Estimator().fit(X) == "fitted"
    with pytest.raises(compat.InvalidParameterError, match="The 'a' parameter of Estimator"):
        Estimator("y").fit(X)


def test_names_of_parameters_come_from_one_method():
    """``BaseEstimator._get_param_names`` is what `get_params`, `clone` and `repr` ask; we cache it class by class."""
    assert isinstance(inspect.getattr_static(BaseEstimator, "_get_param_names"), classmethod)
    assert "_get_param_names" in inspect.getsource(BaseEstimator.get_params)
    assert MLPTorchClassifier._get_param_names() is MLPTorchClassifier._get_param_names()
    assert MLPTorchClassifier._get_param_names() == sorted(parameters_of(MLPTorchClassifier))


# Checks of input -----------------------------------------------------------------------


def test_check_sample_weight():
    """``sklearn.utils.validation._check_sample_weight`` makes floats, and refuses what has no weight."""
    assert parameters_of(compat.check_sample_weight)[:2] == ["sample_weight", "X"]
    assert compat.check_sample_weight([1] * len(X), X).dtype == np.float64
    assert compat.check_sample_weight(WEIGHTS.astype(np.float32), X).dtype == np.float32
    assert (compat.check_sample_weight(2.0, X) == np.full(len(X), 2.0)).all()
    for wrong in (WEIGHTS[1:], np.zeros(len(X)), np.full(len(X), np.nan)):
        with pytest.raises(ValueError, match=r"(?i)sample.weight"):
            compat.check_sample_weight(wrong, X)


def test_check_partial_fit_first_call():
    """``sklearn.utils.multiclass._check_partial_fit_first_call`` sets `classes_`, and tells the first call."""
    assert parameters_of(compat.check_partial_fit_first_call) == ["clf", "classes"]
    model = MLPTorchClassifier()
    with pytest.raises(ValueError, match="classes must be passed on the first call to partial_fit"):
        compat.check_partial_fit_first_call(model, None)
    assert compat.check_partial_fit_first_call(model, [2, 1, 0])
    assert model.classes_.tolist() == [0, 1, 2]
    assert not compat.check_partial_fit_first_call(model, None)
    assert not compat.check_partial_fit_first_call(model, [0, 1, 2])
    with pytest.raises(ValueError, match="is not the same as on last call"):
        compat.check_partial_fit_first_call(model, [0, 1])


# Callbacks -----------------------------------------------------------------------------


class Recorder:
    """A callback of scikit-learn that counts its calls."""

    def __init__(self):
        self.n_tasks = 0

    def setup(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context):
        self.n_tasks += 1

    def on_fit_task_end(self, estimator, context):
        return False

    def teardown(self, estimator, context): ...


def test_callbacks_of_an_estimator_are_found():
    """``CallbackSupportMixin`` keeps them as ``_skl_callbacks``, and takes the attribute away with the last of them."""
    model = MLPTorchClassifier()
    assert not compat.has_callbacks(model)
    assert compat.has_callbacks(model.set_callbacks(Recorder()))
    assert not compat.has_callbacks(model.set_callbacks())


def test_a_fit_has_a_callback_context():
    """``_init_callback_context`` begins the root task, of which an epoch is a subtask; `with_callbacks` ends it."""
    assert "max_subtasks" in parameters_of(CallbackSupportMixin._init_callback_context)
    recorder = Recorder()
    ours("classifier").set_callbacks(recorder).fit(X, LABELS)
    assert recorder.n_tasks == 1 + 4  # the fit and its epochs


# Scorers -------------------------------------------------------------------------------


def score(estimator, X, y):
    return 0.0


def weighted_score(estimator, X, y, sample_weight=None):
    return 0.0


def keyword_score(estimator, X, y, **kwargs):
    return 0.0


SCORERS = {
    "by name": (get_scorer("accuracy"), True),
    "without weights": (get_scorer("neg_max_error"), False),
    "of a metric": (make_scorer(lambda y, predicted, sample_weight=None: 0.0), True),
    "of a metric without weights": (make_scorer(lambda y, predicted: 0.0), False),
    "score of the estimator": (check_scoring(MLPTorchClassifier(), None), True),
    "function": (score, False),
    "function with weights": (weighted_score, True),
    "function with any keyword": (keyword_score, True),
}


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_are_asked_whether_they_take_weights(name):
    scorer, takes_weights = SCORERS[name]
    assert compat.scorer_takes_weights(scorer) == takes_weights


def test_scorers_of_scikit_learn_can_be_asked():
    """By ``_accept_sample_weight``; without it ``**kwargs`` of their signature would say that all take weights."""
    for scorer in (get_scorer("accuracy"), check_scoring(MLPTorchClassifier(), None)):
        assert callable(getattr(scorer, "_accept_sample_weight", None)), "scorers have lost _accept_sample_weight"
    assert "_accept_sample_weight" in inspect.getsource(inspect.getmodule(GridSearchCV))


def test_a_scorer_that_cannot_be_asked_is_asked_by_its_signature():
    """The fallback, for scorers of other versions."""

    class Scorer:
        def __call__(self, estimator, X, y_true, sample_weight=None):
            return 0.0

    class WithoutWeights:
        def __call__(self, estimator, X, y_true):
            return 0.0

    assert compat.scorer_takes_weights(Scorer())
    assert not compat.scorer_takes_weights(WithoutWeights())

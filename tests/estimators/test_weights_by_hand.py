"""Weights that users set by hand: before any fit, of another width, of a wrong shape."""

import copy
import pickle

import joblib
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from sklearn.neural_network import MLPClassifier

from sktorch_mlp import MLPTorchClassifier
from tests.estimators.helpers import LABELS, NUMBERS, X, ours, outputs, pair, weights_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def copy_without_moments(model):
    """A model of scikit-learn with these weights, which has no optimizer."""
    other = MLPClassifier(model.hidden_layer_sizes, max_iter=1).fit(X, LABELS)
    other.coefs_, other.intercepts_ = (
        [array.copy() for array in arrays] for arrays in (model.coefs_, model.intercepts_)
    )
    del other._optimizer
    return other


@pytest.mark.parametrize("kind", ["classifier", "regressor"])
def test_weights_set_before_any_fit_predict(kind):
    model, theirs = pair(kind)
    fitted = theirs.fit(X, LABELS)
    names = ["coefs_", "intercepts_", "n_layers_", "out_activation_"] + ["classes_", "_label_binarizer"] * (
        kind == "classifier"
    )
    for name in names:
        setattr(model, name, getattr(fitted, name))
    for name in ("summary", "to_torch", "to_sklearn", "to_skorch"):
        getattr(copy.deepcopy(model), name)()
    assert hasattr(copy.deepcopy(model), "module_")
    for made in (model, pickle.loads(pickle.dumps(model)), model.to_sklearn(), pickle.loads(pickle.dumps(model))):
        assert_allclose(outputs(made, X), outputs(fitted, X), rtol=1e-12)
    assert model.history_ == []
    assert_allclose(model.partial_fit(X, LABELS).coefs_[0], fitted.partial_fit(X, LABELS).coefs_[0], atol=2e-3)


WRONG_WEIGHTS = {
    "narrow": ("coefs_", np.ones((4, 3))),
    "few features": ("coefs_", np.ones((3, 5))),
    "a number": ("coefs_", np.float64(1)),
    "few intercepts": ("intercepts_", np.ones(2)),
    "a column": ("intercepts_", np.ones((5, 1))),
}


@pytest.mark.parametrize("name", WRONG_WEIGHTS)
def test_weights_of_a_wrong_shape_are_an_error_of_the_user(name):
    attribute, wrong = WRONG_WEIGHTS[name]
    model = ours("classifier").fit(X, LABELS)
    getattr(model, attribute)[0] = wrong
    for method in ("summary", "to_sklearn", "to_torch", "to_skorch"):
        with pytest.raises(ValueError, match=r"coefs_ and intercepts_ have the shapes .*, which do not fit together"):
            getattr(model, method)()
    for call in (lambda: model.predict(X[:1]), lambda: model.predict(X), lambda: model.partial_fit(X, LABELS)):
        with pytest.raises(ValueError, match="which do not fit together"):
            call()
    assert not hasattr(model, "module_")
    assert "Layers:" not in model._repr_html_()


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("solver", ["adam", "adamw", "sgd", torch.optim.RMSprop])
def test_weights_of_another_width_are_trained_from_the_first_step_on(solver, pickled):
    """The moments of those before do not fit. Adam's kernel would write past their end."""
    params = {"solver": solver, "shuffle": False, "batch_size": len(X), "max_iter": 2}
    wide = ours("classifier", **params, hidden_layer_sizes=(64,), random_state=1).fit(X, LABELS)
    model = ours("classifier", **params).fit(X, LABELS).set_params(hidden_layer_sizes=(64,))
    expected = MLPTorchClassifier.from_sklearn(copy_without_moments(wide), device="cpu").set_params(**wide.get_params())
    model.coefs_, model.intercepts_ = ([array.copy() for array in arrays] for arrays in (wide.coefs_, wide.intercepts_))
    model = pickle.loads(pickle.dumps(model)) if pickled else model
    for each in (model, expected):
        each.partial_fit(X, LABELS).partial_fit(X, LABELS)
    assert_allclose(weights_of(model), weights_of(expected), rtol=1e-10)


@pytest.mark.parametrize("y", [LABELS, LABELS > 0, NUMBERS], ids=["three classes", "two classes", "numbers"])
def test_a_pickled_model_has_the_hash_of_the_model(y):
    model = ours("regressor" if y is NUMBERS else "classifier").fit(X, y)
    assert joblib.hash(pickle.loads(pickle.dumps(model))) == joblib.hash(model)


def test_a_first_partial_fit_that_fails_leaves_nothing():
    model = ours("classifier")
    with pytest.raises(ValueError, match="has classes not in"):
        model.partial_fit(X, LABELS, classes=[5, 6, 7])
    assert not hasattr(model, "classes_")
    assert model.partial_fit(X, LABELS, classes=[0, 1, 2]).predict(X).shape == LABELS.shape


SUITABLE = [
    class_
    for class_ in vars(torch.optim).values()
    if isinstance(class_, type) and issubclass(class_, torch.optim.Optimizer)
    if class_.__name__ not in ("Optimizer", "LBFGS", "SparseAdam", "Muon")
]


@pytest.mark.parametrize("n_units", [1, 5])
@pytest.mark.parametrize("solver", SUITABLE, ids=lambda class_: class_.__name__)
def test_moments_stay_where_weights_have_their_shapes(solver, n_units):
    model = ours("classifier", solver=solver, hidden_layer_sizes=(n_units,), normalization="batch").fit(X, LABELS)
    for each in (model, pickle.loads(pickle.dumps(model))):
        each.coefs_ = [coef.copy() for coef in each.coefs_]
        each.summary()
        assert each._state.optimizer is not None

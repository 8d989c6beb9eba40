"""The view of estimators in a notebook."""

import html
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import sklearn
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor
from sktorch_mlp._estimators.html import DOCS_URL
from tests.estimators.helpers import LABELS, NUMBERS, X, ours
from tests.estimators.test_summary import SMALL_TABLE

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ESTIMATORS = [MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor]


def fitted(class_):
    params = {"max_iter": 5} if class_ in ESTIMATORS[:2] else SMALL_TABLE
    return class_(**params).fit(X, LABELS if "Classifier" in class_.__name__ else NUMBERS)


@pytest.mark.parametrize("class_", ESTIMATORS)
def test_links_lead_to_our_documentation(class_):
    """To the page of the class, and to the text of each parameter and attribute on it."""
    view = fitted(class_)._repr_html_()
    links = [html.unescape(link) for link in re.findall(r'href="(.*?)"', view)]
    page = f"{DOCS_URL}api/sktorch_mlp.{class_.__name__}.html"
    assert page in links
    named = re.findall(r"#:~:text=(\w+),-", " ".join(links))
    # A parameter has a link if the documentation has a line of its own for it.
    assert {"hidden_layer_sizes", "max_iter", "random_state", "n_iter_", "n_outputs_"} <= set(named)
    assert {link.partition("#:~:text=")[0] for link in links} == {page}


def test_an_estimator_of_others_has_no_link_to_us():
    class Own(MLPTorchClassifier):
        pass

    assert DOCS_URL not in Own()._repr_html_()


@pytest.mark.parametrize("class_", ESTIMATORS)
def test_what_is_fitted_is_shown(class_):
    model = fitted(class_)
    view = model._repr_html_()
    summary = model.summary()
    assert summary.totals in view
    assert all(network.shape in view for network in summary.networks)
    assert view.count("<svg role='img'") == 1
    for tag in re.findall(r"<svg role.*?</svg>", view):
        polyline = ElementTree.fromstring(tag)[0]
        points = np.array([point.split(",") for point in polyline.get("points").split()], dtype=float)
        assert np.isfinite(points).all()
        assert points.min() >= 0
        assert (points.max(0) <= [160, 32]).all()


def test_what_is_not_fitted_is_scikit_learns_view():
    view = MLPTorchClassifier()._repr_html_()
    assert "sktorch-fitted" not in view
    assert "Not fitted" in view


def test_in_a_pipeline_it_is_scikit_learns_view():
    view = make_pipeline(StandardScaler(), ours("classifier")).fit(X, LABELS)._repr_html_()
    assert "sktorch-fitted" not in view
    assert f"{DOCS_URL}api/sktorch_mlp.MLPTorchClassifier.html" in view


@pytest.mark.parametrize(
    ("changed", "message", "predicts"),
    [
        ({"activation": ["relu"] * 3}, "activation=.* has 3 values, but there are 2 hidden layers. Set one", False),
        ({"hidden_layer_sizes": (3,), "activation": ["relu"]}, "activation=.* has 1 values, but there are 2", False),
        ({"activation": "swish"}, "activation='swish' is unknown. Use one of", False),
        ({"activation": 5}, "activation must be a name.*got 5", False),
        ({"dropout": [0.1]}, "dropout=.* has 1 values, but there are 2 hidden layers. Set one", True),
        ({"dropout": None}, r"dropout must be in \[0, 1\), got None", True),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_the_fitted_layers_are_named(changed, message, predicts):
    """By all but the view, which is scikit-learn's then."""
    model = ours("regressor", hidden_layer_sizes=(5, 4)).fit(X, NUMBERS)
    expected = model.predict(X)
    model.set_params(**changed)
    view = model._repr_html_()
    assert "hidden_layer_sizes" in view
    assert "sktorch-fitted" not in view
    with pytest.raises(ValueError, match=message):
        model.summary()
    with pytest.raises(ValueError, match=message):
        model.to_torch()
    with pytest.raises(AttributeError, match=f"module_ cannot be made: {message}"):
        _ = model.module_
    if predicts:
        np.testing.assert_array_equal(model.predict(X), expected)
    else:
        with pytest.raises(ValueError, match=message):
            model.predict(X)


def test_texts_are_escaped():
    def activation(units):
        return units.clamp(min=0)

    activation.__name__ = "<script>"
    view = ours("classifier", activation=activation).fit(X, LABELS)._repr_html_()
    assert "<td>&lt;script&gt;</td>" in view
    assert "<td><script>" not in view


def test_best_epochs_and_single_ones():
    model = ours("classifier", early_stopping=True, max_iter=30).fit(X, LABELS)
    loss = model.validation_loss_curve_[model.best_n_iter_ - 1]
    assert (
        f"validation loss {loss:.4g} in the best epoch, {model.best_n_iter_} of {model.n_iter_}" in model._repr_html_()
    )
    assert "after 1 epoch<" in ours("classifier").partial_fit(X, LABELS, classes=[0, 1, 2])._repr_html_()
    assert "iterations<" in ours("classifier", solver="lbfgs").fit(X, LABELS)._repr_html_()


def test_a_model_without_a_curve_has_its_layers():
    model = ours("classifier").fit(X, LABELS)
    model._state.progress.records.clear()
    del model.loss_curve_
    view = model._repr_html_()
    assert "sktorch-fitted" in view
    assert "<svg role" not in view


def test_views_can_be_switched_off():
    with sklearn.config_context(display="text"):
        assert not hasattr(fitted(MLPTorchClassifier), "_repr_html_")

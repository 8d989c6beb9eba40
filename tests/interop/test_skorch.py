"""Nets of skorch: they predict as the estimator does, and train on as it would."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from skorch import NeuralNet, NeuralNetBinaryClassifier, NeuralNetClassifier, NeuralNetRegressor
from skorch.callbacks import EpochScoring, GradientNormClipping

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from tests.estimators.helpers import LABELS, MULTILABEL, SMALL, TWO_NUMBERS, X, outputs

pytestmark = pytest.mark.filterwarnings(
    "ignore:Stochastic Optimizer|lbfgs failed:sklearn.exceptions.ConvergenceWarning"
)

WHOLE = {**SMALL, "batch_size": len(X), "shuffle": False, "alpha": 0.3, "learning_rate_init": 0.05}


def row_losses(y_pred, y):
    return (y_pred - y).abs() ** 1.5


#: Class of the net, estimator and y as both take it.
CASES = {
    "three classes": (NeuralNetClassifier, MLPTorchClassifier(**WHOLE), LABELS, LABELS),
    "smoothed": (NeuralNetClassifier, MLPTorchClassifier(label_smoothing=0.2, **WHOLE), LABELS, LABELS),
    "two classes": (NeuralNetBinaryClassifier, MLPTorchClassifier(**WHOLE), LABELS > 0, (LABELS > 0).astype(float)),
    "labels": (NeuralNet, MLPTorchClassifier(**WHOLE), MULTILABEL, MULTILABEL.astype(float)),
    "batch": (NeuralNetClassifier, MLPTorchClassifier(normalization="batch", **WHOLE), LABELS, LABELS),
    "function": (NeuralNetRegressor, MLPTorchRegressor(loss=row_losses, **WHOLE), X[:, 0], X[:, :1]),
    "function for two classes": (
        NeuralNetBinaryClassifier,
        MLPTorchClassifier(loss=torch.nn.functional.binary_cross_entropy_with_logits, **WHOLE),
        LABELS > 0,
        (LABELS > 0).astype(float),
    ),
} | {
    loss: (NeuralNetRegressor, MLPTorchRegressor(loss=loss, quantile=quantile, **WHOLE), TWO_NUMBERS, TWO_NUMBERS)
    for loss, quantile in [
        ("squared_error", 0.5),
        ("poisson", 0.5),
        ("absolute_error", 0.5),
        ("huber", 0.5),
        ("quantile", 0.7),
    ]
}
CASES |= {  # y as a regressor takes it, without the axis of a single output
    f"{loss} of one number": (NeuralNetRegressor, MLPTorchRegressor(loss=loss, **WHOLE), X[:, 0] ** 2, X[:, 0] ** 2)
    for loss in ("squared_error", "poisson", "absolute_error", "huber", "quantile")
}


def predicted(net):
    """Probabilities or numbers, without the second axis of a single number."""
    return net.predict_proba(X).squeeze() if not isinstance(net, NeuralNetBinaryClassifier) else net.predict_proba(X)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("nesterov", [True, False])
def test_a_net_predicts_the_same_and_trains_on_as_ours(case, nesterov):
    """By sgd on whole batches numbers are the same; that of PyTorch begins without a velocity, as ours does here."""
    net_class, model, y, y_net = CASES[case]
    model.set_params(solver="sgd", nesterovs_momentum=nesterov).fit(X, y)
    net = model.to_skorch()
    assert type(net) is net_class
    assert net.initialized_
    np.testing.assert_allclose(predicted(net), outputs(model, X), rtol=1e-11)
    model._state.optimizer = None
    for _ in range(3):
        model.partial_fit(X, y)
    net.set_params(max_epochs=3).partial_fit(X, y_net)
    np.testing.assert_allclose(predicted(net), outputs(model, X), rtol=1e-9)


@pytest.mark.parametrize(
    ("params", "optimizer"),
    [
        ({}, torch.optim.Adam),
        ({"solver": "adamw", "alpha": 0.0, "weight_decay": 0.2}, torch.optim.AdamW),
        ({"solver": torch.optim.RMSprop, "solver_params": {"alpha": 0.9}, "alpha": 0.0}, torch.optim.RMSprop),
    ],
)
def test_optimizers_have_the_same_settings(params, optimizer):
    """Epsilon of Adam stands elsewhere in PyTorch's."""
    model = MLPTorchClassifier(
        **WHOLE | {"beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-9, "normalization": "layer"} | params
    )
    model.fit(X, LABELS)
    net = model.to_skorch()
    assert type(net.optimizer_) is optimizer
    model._state.optimizer = None
    for _ in range(3):
        model.partial_fit(X, LABELS)
    net.set_params(max_epochs=3).partial_fit(X, LABELS)
    np.testing.assert_allclose(net.predict_proba(X), model.predict_proba(X), rtol=1e-4)


def test_coefs_alone_decay():
    net = MLPTorchClassifier(**WHOLE | {"normalization": "batch"}).fit(X, LABELS).to_skorch()
    decay = {
        name: group["weight_decay"]
        for group in net.optimizer_.param_groups
        for name, parameter in net.module_.named_parameters()
        if any(parameter is other for other in group["params"])
    }
    expected = WHOLE["alpha"] / WHOLE["batch_size"]
    assert decay == {"0.weight": expected, "0.bias": 0, "1.weight": 0, "1.bias": 0, "3.weight": expected, "3.bias": 0}


def test_settings_are_those_of_the_estimator():
    params = {"learning_rate_init": 0.03, "max_iter": 7, "batch_size": 11, "gradient_clip_norm": 0.5, "verbose": False}
    model = MLPTorchClassifier(callbacks=[EpochScoring("f1_macro")], **SMALL | params).fit(X, LABELS)
    net = model.to_skorch()
    assert (net.lr, net.max_epochs, net.batch_size, net.verbose, net.device) == (0.03, 7, 11, 0, "cpu")
    assert net.train_split is None
    (clipping,) = [callback for _, callback in net.callbacks_ if isinstance(callback, GradientNormClipping)]
    assert clipping.gradient_clip_value == 0.5
    assert any(isinstance(callback, EpochScoring) for _, callback in net.callbacks_)
    net.partial_fit(X, LABELS)
    assert len(net.history) == 7
    assert MLPTorchClassifier(**SMALL | {"batch_size": "auto"}).fit(X, LABELS).to_skorch().batch_size == 200


def test_the_learning_rate_is_the_present_one():
    model = MLPTorchClassifier(
        **SMALL | {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1}
    )
    model.fit(X, LABELS)
    net = model.set_params(learning_rate="constant").to_skorch()
    assert net.lr == model._state.optimizer.schedules[0].learning_rate < model.learning_rate_init


def test_a_net_is_on_its_own():
    model = MLPTorchClassifier(**SMALL).fit(X.astype(np.float32), np.array(["a", "b", "c"])[LABELS])
    before = model.predict_proba(X)
    net = model.to_skorch()
    np.testing.assert_array_equal(
        model.classes_[net.predict(X.astype(np.float32))], model.predict(X.astype(np.float32))
    )
    net.partial_fit(X.astype(np.float32), LABELS)
    np.testing.assert_array_equal(model.predict_proba(X), before)
    copied = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(copied.predict_proba(X.astype(np.float32)), net.predict_proba(X.astype(np.float32)))


@pytest.mark.parametrize(
    ("params", "message", "remedy"),
    [
        ({"solver": "lbfgs"}, "solver='lbfgs'", {"solver": "adam"}),
        ({"learning_rate": "cosine"}, "learning_rate='cosine'", {"learning_rate": "constant"}),
        ({"solver": "sgd", "learning_rate": "invscaling"}, "learning_rate='invscaling'", {"learning_rate": "constant"}),
        ({"class_weight": "balanced"}, "class_weight='balanced'", {"class_weight": None}),
        ({"solver": "adamw"}, "alpha=0.0001 .* with solver='adamw'", {"alpha": 0.0}),
        ({"solver": torch.optim.Adagrad}, "alpha=0.0001 .* with solver='Adagrad'", {"alpha": 0.0}),
    ],
)
def test_what_skorch_lacks_is_refused_by_name(params, message, remedy):
    model = MLPTorchClassifier(**SMALL | params).fit(X, LABELS)
    with pytest.raises(ValueError, match=f"^{message}") as error:
        model.to_skorch()
    ((name, value),) = remedy.items()
    assert f"set_params({name}={value!r}) first" in str(error.value)
    np.testing.assert_allclose(predicted(model.set_params(**remedy).to_skorch()), model.predict_proba(X), rtol=1e-11)


def test_smoothed_labels_of_two_classes_are_refused():
    model = MLPTorchClassifier(label_smoothing=0.1, **SMALL).fit(X, LABELS > 0)
    with pytest.raises(ValueError, match=r"label_smoothing=0\.1"):
        model.to_skorch()


def test_a_schedule_that_adam_ignores_is_no_obstacle():
    MLPTorchClassifier(learning_rate="adaptive", **SMALL).fit(X, LABELS).to_skorch()


def test_unfitted_ones_have_no_net():
    with pytest.raises(NotFittedError):
        MLPTorchClassifier().to_skorch()

"""Parameters: the signature and the checks are scikit-learn's where it has them too; the others have errors that help."""

import inspect
from dataclasses import fields
from functools import partial

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.utils._param_validation import InvalidParameterError, generate_invalid_param_val, make_constraint
from torch import nn
from torch.nn import functional

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._estimators.parameters import CONSTRAINTS, MLPParameters
from tests.estimators.helpers import KINDS, LABELS, MULTILABEL, SMALL, TARGETS, X, ours, pair, weights_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PAIRS = [(MLPTorchClassifier, MLPClassifier), (MLPTorchRegressor, MLPRegressor)]
# What scikit-learn's MLPs lack.
OF_BOTH = {
    "loss", "device", "dtype", "dropout", "normalization", "weight_init", "weight_decay", "solver_params",
    "warmup_fraction", "gradient_clip_norm", "scoring", "callbacks",
}  # fmt: skip
OF_ONE = {MLPTorchClassifier: {"class_weight", "label_smoothing"}, MLPTorchRegressor: {"quantile"}}


# The signature -------------------------------------------------------------------------


@pytest.mark.parametrize(("our_class", "reference"), PAIRS, ids=KINDS)
def test_the_signature_is_that_of_scikit_learn_and_more(our_class, reference):
    expected = inspect.signature(reference).parameters
    parameters = inspect.signature(our_class).parameters
    shared = [parameter for name, parameter in parameters.items() if name in expected]
    assert [(p.name, p.kind, p.default) for p in shared] == [(p.name, p.kind, p.default) for p in expected.values()]
    # By position as many as scikit-learn takes, and these alone.
    positional = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [name for name, p in expected.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert set(parameters) - set(expected) == OF_BOTH - set(expected) | OF_ONE[our_class]


@pytest.mark.parametrize("our_class", OF_ONE, ids=KINDS)
def test_all_parameters_are_fields_with_constraints(our_class):
    names = {field.name for field in fields(our_class)}
    assert names == set(our_class._parameter_constraints) == set(our_class().get_params())
    assert {field.name for field in fields(MLPParameters)} == {*CONSTRAINTS, "loss"}
    assert all(field.kw_only for field in fields(MLPParameters))


@pytest.mark.parametrize(("our_class", "reference"), PAIRS, ids=KINDS)
def test_get_params_has_scikit_learns_order(our_class, reference):
    names = list(our_class().get_params())
    assert names == sorted(names)
    assert [name for name in names if name in reference().get_params()] == list(reference().get_params())


def test_parameters_are_kept_as_they_are():
    """As scikit-learn's conventions ask: no copy, no check, no change before `fit`."""
    values = {name: object() for name in MLPTorchClassifier().get_params()}
    model = MLPTorchClassifier(**values)
    assert vars(model) == values
    assert model.get_params() == values
    assert all(model.get_params()[name] is value for name, value in values.items())
    by_position = MLPTorchRegressor("poisson", (3, 2), "tanh")
    assert (by_position.loss, by_position.hidden_layer_sizes, by_position.activation) == ("poisson", (3, 2), "tanh")
    with pytest.raises(TypeError, match="positional argument"):
        MLPTorchRegressor("poisson", (3, 2), "tanh", "adam")


@pytest.mark.parametrize(("our_class", "reference"), PAIRS, ids=KINDS)
def test_repr_names_what_differs_from_the_defaults(our_class, reference):
    for params in ({}, {"hidden_layer_sizes": (3,), "solver": "sgd"}, {"alpha": 0.5, "early_stopping": True}):
        assert repr(our_class(**params)) == repr(reference(**params)).replace("MLP", "MLPTorch")
    assert repr(our_class(dropout=0.5)) == f"{our_class.__name__}(dropout=0.5)"


@pytest.mark.parametrize("our_class", OF_ONE, ids=KINDS)
def test_estimators_are_equal_and_hashed_by_identity(our_class):
    """Dataclasses are not, unless they are told to: two estimators of equal parameters are two keys."""
    model, twin = our_class(), our_class()
    assert model == model
    assert model != twin
    assert len({model, twin}) == 2


def test_a_clone_has_the_parameters_and_nothing_else():
    model = MLPTorchRegressor("poisson", (7, 5), "tanh", alpha=0.5, random_state=1, max_iter=3)
    parameters = model.get_params()
    y = np.abs(TARGETS["regressor"])
    twin = clone(model.fit(X, y))
    assert vars(twin) == parameters
    assert_array_equal(twin.fit(X, y).coefs_[0], model.coefs_[0])


@pytest.mark.parametrize("parameter", ["nonsense", "quantile"])
def test_an_unknown_parameter(parameter):
    with pytest.raises(TypeError, match=parameter):
        MLPTorchClassifier(**{parameter: 1})
    with pytest.raises(ValueError, match=f"Invalid parameter '{parameter}'"):
        MLPTorchClassifier().set_params(**{parameter: 1})


def test_a_subclass_adds_a_parameter_as_in_scikit_learn():
    class Subclass(MLPTorchClassifier):
        def __init__(self, hidden_layer_sizes=(5,), *, more=1, max_iter=200):
            super().__init__(hidden_layer_sizes, max_iter=max_iter)
            self.more = more

    assert list(Subclass().get_params()) == ["hidden_layer_sizes", "max_iter", "more"]
    assert "more" not in MLPTorchClassifier().get_params()  # names are cached, class by class
    assert clone(Subclass(more=2, max_iter=3)).fit(X, LABELS).more == 2


# Values --------------------------------------------------------------------------------

VALUES = {
    "object": object(),
    "None": None,
    "string": "nonsense",
    "bytes": b"adam",
    "empty list": [],
    "dict": {},
    "-1": -1,
    "0": 0,
    "0.5": 0.5,
    "1.5": 1.5,
    "2": 2,
    "nan": np.nan,
    "inf": np.inf,
    "-inf": -np.inf,
    "True": True,
    "NumPy True": np.bool_(True),
    "NumPy integer": np.int64(3),
    "NumPy float": np.float32(0.5),
    "array": np.array([3, 2]),
    "array of floats": np.array([3.0, 2.0]),
    "0-d array": np.array(3),
    "with a negative": [3, -1],
    "with a zero": (3, 0),
    "with a fraction": [3.5],
    "with a string": ["a"],
    "nested": [[3, 2]],
    "range": range(2, 4),
}
SOLVERS = ["adam", "sgd", "lbfgs"]


def invalid_values(constraints):
    """One value against each constraint from which scikit-learn can make one."""
    for constraint in map(make_constraint, constraints):
        try:
            yield generate_invalid_param_val(constraint)
        except NotImplementedError:
            continue


def outcome_of_fit(estimator, y):
    """The class of the error of a fit, or the number of its iterations. Private classes of numpy count as what they are."""
    try:
        return estimator.fit(X, y).n_iter_
    except (ValueError, InvalidParameterError) as error:
        return type(error)
    except TypeError:
        return TypeError


@pytest.mark.parametrize(
    ("name", "solver", "kind"),
    [  # each parameter with each solver, and with both kinds of estimators in turn
        (name, solver, KINDS[(i + j) % 2] if name in MLPClassifier._parameter_constraints else "regressor")
        for i, name in enumerate(MLPRegressor._parameter_constraints)
        for j, solver in enumerate(SOLVERS)
    ],
)
@pytest.mark.filterwarnings("ignore:Got `batch_size` less than 1 or larger:UserWarning")
def test_values_are_accepted_and_refused_as_in_scikit_learn(name, solver, kind, capsys):
    differing = []
    generated = invalid_values(pair(kind)[1]._parameter_constraints[name])
    for value in (*VALUES.values(), *generated):
        model, reference = pair(kind, **{"max_iter": 2, "solver": solver, name: value})
        outcomes = outcome_of_fit(model, TARGETS[kind]), outcome_of_fit(reference, TARGETS[kind])
        if outcomes[0] != outcomes[1]:
            differing.append((value, *outcomes))
    assert not differing


@pytest.mark.parametrize("name", MLPClassifier._parameter_constraints)
def test_partial_fit_checks_parameters(name):
    for value in invalid_values(MLPClassifier._parameter_constraints[name]):
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of MLPTorchClassifier must be"):
            ours("classifier", **{name: value}).partial_fit(X, LABELS, classes=[0, 1, 2])


# Device and precision ------------------------------------------------------------------

WRONG_DEVICES = {
    "dtype float16": ({"dtype": "float16"}, InvalidParameterError, "dtype.*'auto'"),
    "dtype of PyTorch": ({"dtype": torch.float32}, InvalidParameterError, "dtype.*'auto'"),
    "dtype of NumPy": ({"dtype": np.float32}, InvalidParameterError, "dtype.*'auto'"),
    "device 3": ({"device": 3}, InvalidParameterError, "device"),
    "device None": ({"device": None}, InvalidParameterError, "device"),
    "unknown": ({"device": "nonsense"}, ValueError, "device='nonsense' is not a device.*'auto', 'cpu', 'cuda'"),
    "empty": ({"device": ""}, ValueError, "device=''.*'auto', 'cpu', 'cuda'"),
    "meta": ({"device": "meta"}, ValueError, "device='meta'.*device='cpu'"),
    "xla": ({"device": "xla"}, ValueError, "device='xla'.*device='cpu'"),
    "absent": ({"device": "cuda:99"}, ValueError, "device='cuda:99' is not available.*device='cpu'"),
    "absent device": ({"device": torch.device("cuda", 99)}, ValueError, "device='cuda:99' is not available"),
}


@pytest.mark.parametrize("name", WRONG_DEVICES)
@pytest.mark.parametrize("kind", KINDS)
def test_device_and_dtype_are_checked(kind, name):
    parameters, error, match = WRONG_DEVICES[name]
    with pytest.raises(error, match=match):
        ours(kind).set_params(**parameters).fit(X, TARGETS[kind])


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")], ids=repr)
def test_names_of_the_cpu(device):
    model = ours("classifier", device=device).fit(X, LABELS).partial_fit(X, LABELS)
    assert_array_equal(weights_of(model), weights_of(ours("classifier").fit(X, LABELS).partial_fit(X, LABELS)))
    assert model.device_.type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda")], ids=repr)
def test_absent_cuda_is_refused_and_the_way_out_named(device):
    with pytest.raises(ValueError, match=r"device='cuda.* is not available on this machine.*Use device='auto' or"):
        ours("classifier").set_params(device=device).fit(X, LABELS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("trained_on", [np.float32, np.float64])
def test_dtype_decides_the_precision(trained_on, dtype):
    model = ours("classifier", dtype=dtype).fit(X.astype(trained_on), LABELS)
    assert {array.dtype for array in (*model.coefs_, *model.intercepts_)} == {np.dtype(dtype)}
    assert model.predict_proba(X).dtype == dtype
    reference = pair("classifier")[1].fit(X, LABELS)
    assert_allclose(model.predict_proba(X), reference.predict_proba(X), rtol=1e-5)  # float32


# Combinations --------------------------------------------------------------------------


def cross_entropy(logits, y):
    return functional.cross_entropy(logits, y, reduction="none")


SGD = torch.optim.SGD
WRONG = {
    "a class as loss": ({"loss": nn.CrossEntropyLoss}, ValueError, "CrossEntropyLoss is a class. Use an instance"),
    "batch norm of single rows": ({"normalization": "batch", "batch_size": 1}, ValueError, "'layer'"),
    "dropout of 1": ({"dropout": 1.0}, InvalidParameterError, "dropout"),
    "dropout in text": ({"dropout": ["0.1", "0.1"]}, InvalidParameterError, r"dropout must be in \[0, 1\)"),
    "dropout of a layer": ({"dropout": [0.1, 1.0]}, InvalidParameterError, r"dropout must be in \[0, 1\)"),
    "too few rates": ({"dropout": [0.1]}, ValueError, "dropout=.* has 1 values, but there are 2 hidden layers"),
    "too few activations": ({"activation": ["relu"]}, InvalidParameterError, "has 1 values, but there are 2"),
    "unknown activation": ({"activation": "swish"}, InvalidParameterError, "activation"),
    "unknown activation of a layer": ({"activation": ["relu", "swish"]}, InvalidParameterError, "swish.* Use one of"),
    "not elementwise": ({"activation": partial(torch.softmax, dim=-1)}, InvalidParameterError, "not elementwise"),
    "fails": ({"activation": partial(torch.softmax, dim=5)}, InvalidParameterError, "cannot be applied"),
    "with parameters": ({"activation": nn.PReLU()}, InvalidParameterError, "parameters, which would not be trained"),
    "a class of modules": ({"activation": nn.ReLU}, InvalidParameterError, "must be a name"),
    "unknown normalization": ({"normalization": "group"}, InvalidParameterError, "normalization"),
    "unknown init": ({"weight_init": "he"}, InvalidParameterError, "he_normal.*got 'he'"),
    "init without std": ({"weight_init": ("normal",)}, InvalidParameterError, "weight_init must be"),
    "negative std": ({"weight_init": ("normal", -1.0)}, InvalidParameterError, "weight_init"),
    "infinite std": ({"weight_init": ("normal", np.inf)}, InvalidParameterError, "weight_init"),
    "no optimizer": ({"solver": dict}, ValueError, "class of torch.optim"),
    "no optimizer but its base": ({"solver": torch.optim.Optimizer}, ValueError, "class of torch.optim"),
    "torch's lbfgs": ({"solver": torch.optim.LBFGS}, ValueError, "Use solver='lbfgs'"),
    "sparse adam": ({"solver": torch.optim.SparseAdam}, ValueError, "solver=SparseAdam cannot be used"),
    "solver_params of a name": ({"solver_params": {"momentum": 0.5}}, ValueError, "parameters of their own"),
    "unknown solver_params": ({"solver": SGD, "solver_params": {"mu": 1}}, ValueError, "do not fit solver=SGD"),
    "wrong solver_params": (
        {"solver": SGD, "solver_params": {"momentum": -1}},
        ValueError,
        "do not fit solver=SGD: Invalid",
    ),
    "lr": ({"solver": SGD, "solver_params": {"lr": 1.0}}, ValueError, "learning_rate_init"),
    "decay of adam": ({"weight_decay": 0.1}, ValueError, "solver='adamw' alone. Use alpha, or"),
    "decay of a class": ({"solver": SGD, "weight_decay": 0.1}, ValueError, "Use solver_params={'weight_decay'"),
    "warmup": ({"warmup_fraction": 1.0}, InvalidParameterError, "warmup_fraction"),
    "warmup of a constant": ({"warmup_fraction": 0.5}, ValueError, "for learning_rate='cosine' or 'one_cycle'"),
    "clip": ({"gradient_clip_norm": 0.0}, InvalidParameterError, "gradient_clip_norm"),
    "smoothing": ({"label_smoothing": 1.0}, InvalidParameterError, "label_smoothing"),
    "smoothing of a function": ({"label_smoothing": 0.1, "loss": cross_entropy}, ValueError, "label_smoothing"),
    "loss by name": ({"loss": "hinge"}, InvalidParameterError, "loss"),
    "loss of the wrong shape": ({"loss": lambda p, y: p.mean(0)}, ValueError, 'pass reduction="none"'),
    "loss of a constant": ({"loss": lambda p, y: torch.zeros(len(p))}, ValueError, "made from the predictions"),
    "scoring": ({"scoring": "acuracy", "early_stopping": True}, ValueError, "get_scorer_names"),
    "scoring of nothing": ({"scoring": "acuracy"}, ValueError, "acuracy"),
    "negative class_weight": ({"class_weight": {0: 1.0, 1: -2.0}}, ValueError, "class_weight.*got -2.0 for class 1"),
    "class_weight nan": ({"class_weight": {2: np.nan}}, ValueError, "class_weight.*finite.*got nan for class 2"),
    "class_weight inf": ({"class_weight": {0: np.inf}}, ValueError, "class_weight.*finite.*got inf for class 0"),
    "class_weight beyond floats": ({"class_weight": {0: 10**400}}, ValueError, "class_weight.*finite.*for class 0"),
    "class_weight None": ({"class_weight": {0: None}}, ValueError, "class_weight.*numbers.*got None for class 0"),
    "class_weight list": ({"class_weight": [0.2, 0.3, 0.5]}, ValueError, "class_weight=.* is for multilabel y"),
    "no class_weight": ({"class_weight": []}, ValueError, r"class_weight=\[\] is a list"),
    "no number of units": ({"hidden_layer_sizes": [None]}, TypeError, r"must be integers, got \[None\]"),
    "units as text": ({"hidden_layer_sizes": ["8"]}, TypeError, r"must be integers, got \['8'\]"),
    "class_weight of no class": ({"class_weight": {7: 2.0}}, ValueError, "class_weight|classes"),
    "no callback": ({"callbacks": [3]}, TypeError, "callbacks must be callbacks of skorch, or pairs.*got 3.*set_callb"),
    "lbfgs, dropout": ({"solver": "lbfgs", "dropout": 0.1}, ValueError, "dropout=0.1 cannot.*Use a stochastic solver"),
    "lbfgs, batch": ({"solver": "lbfgs", "normalization": "batch"}, ValueError, "normalization='batch' cannot"),
    "lbfgs, clip": ({"solver": "lbfgs", "gradient_clip_norm": 1.0}, ValueError, "gradient_clip_norm=1.0 cannot"),
    "lbfgs, bfloat16": ({"solver": "lbfgs", "dtype": "bfloat16"}, ValueError, "dtype='bfloat16' cannot"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_parameters_are_named(name):
    params, error, match = WRONG[name]
    model = MLPTorchClassifier(**{**SMALL, "hidden_layer_sizes": (8, 6), **params})
    with pytest.raises(error, match=match):
        model.fit(X, LABELS)
    assert not hasattr(model, "coefs_")


@pytest.mark.parametrize("quantile", [0, 1.0])
def test_a_quantile_is_between_0_and_1(quantile):
    with pytest.raises(InvalidParameterError, match="quantile"):
        ours("regressor", loss="quantile", quantile=quantile).fit(X, TARGETS["regressor"])


@pytest.mark.parametrize("class_weight", [[1, 2, 3], ["a", "b", "c"], [{0: 1.0, 1: 2.0}, (1, 2), None]], ids=str)
def test_class_weights_of_labels_are_dicts(class_weight):
    with pytest.raises(ValueError, match=r"class_weight=.* must have a dict, 'balanced' or None for each column of y"):
        ours("classifier", class_weight=class_weight).fit(X, MULTILABEL)


def test_class_weights_of_labels_are_checked():
    class_weight = [{0: 1.0, 1: 1.0}, {0: 1.0, 1: -1.0}, None]
    for fit in (
        lambda model: model.fit(X, MULTILABEL),
        lambda model: model.partial_fit(X, MULTILABEL, classes=[0, 1, 2]),
    ):
        with pytest.raises(ValueError, match=r"class_weight.*not negative, got -1\.0 for class 1"):
            fit(ours("classifier", class_weight=class_weight))


@pytest.mark.parametrize("value", [2, np.float32(2), np.int8(2), np.array(2.0), torch.tensor(2.0)], ids=repr)
def test_class_weights_may_be_any_kind_of_number(value):
    models = [ours("classifier", class_weight={0: weight}).fit(X, LABELS) for weight in (value, 2.0)]
    assert_array_equal(*map(weights_of, models))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "loss", ["squared_error", "huber", functional.mse_loss], ids=["squared_error", "huber", "function"]
)
def test_a_quantile_is_for_its_loss(loss, method):
    model = ours("regressor", quantile=0.9, loss=loss)
    with pytest.raises(
        ValueError, match=r"quantile=0\.9 is for loss='quantile', but loss is .*Set loss='quantile', or"
    ):
        getattr(model, method)(X, TARGETS["regressor"])
    getattr(model.set_params(loss="quantile"), method)(X, TARGETS["regressor"])


def test_balanced_classes_need_all_rows():
    with pytest.raises(ValueError, match="compute_class_weight and pass them as a dict"):
        ours("classifier", class_weight="balanced").partial_fit(X, LABELS, classes=[0, 1, 2])


def test_no_layers_have_no_activations():
    assert ours("classifier", hidden_layer_sizes=(), activation=[]).fit(X, LABELS).n_layers_ == 2


def test_sizes_may_be_any_sequence_of_integers():
    expected = weights_of(ours("classifier", hidden_layer_sizes=(3, 2)).fit(X, LABELS))
    for sizes in ([3, 2], np.array([3, 2]), range(3, 1, -1), [np.int8(3), np.int64(2)]):
        assert_array_equal(weights_of(ours("classifier", hidden_layer_sizes=sizes).fit(X, LABELS)), expected)

"""The table of the layers of all estimators."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.stats import loguniform
from sklearn.exceptions import NotFittedError

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor
from tests.estimators.helpers import KINDS, LABELS, MULTILABEL, NUMBERS, TARGETS, X, ours

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
SMALL_TABLE = {"n_estimators": 3, "hidden_layer_sizes": (8, 4), "max_iter": 2, "random_state": 0}


def test_the_printed_table():
    params = {
        "hidden_layer_sizes": (1000, 5),
        "activation": ["gelu", torch.nn.functional.softplus],
        "dropout": [0, 0.25],
    }
    model = ours("classifier", normalization="batch", **params).fit(X, LABELS)
    expected = """\
layer     units  parameters  then
------------------------------------------------------------------------
input         4           0
hidden 1  1,000       7,000  batch normalization, gelu
hidden 2      5       5,015  batch normalization, softplus, dropout 0.25
output        3          18  softmax

12,033 parameters, float64 on cpu"""
    assert str(model.summary()) == repr(model.summary()) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [(), (3,), (6, 5, 4)])
@pytest.mark.parametrize("normalization", [None, "batch", "layer"])
def test_parameters_are_those_of_the_module(kind, sizes, normalization):
    model = ours(kind, hidden_layer_sizes=sizes, normalization=normalization).fit(X.astype(np.float32), TARGETS[kind])
    summary = model.summary()
    assert summary.n_parameters == sum(parameter.numel() for parameter in model.module_.parameters())
    assert [layer.units for layer in summary.networks[0].layers] == [4, *sizes, 3 if kind == "classifier" else 1]
    assert summary.networks[0].layers[-1].then == (model.out_activation_,)
    assert (summary.device, summary.dtype) == ("cpu", "float32")


@pytest.mark.parametrize("params", [{"solver": "lbfgs"}, {"warm_start": True}, {"dtype": "float32"}])
def test_other_fits(params):
    assert ours("classifier", **params).fit(X, MULTILABEL).summary().n_parameters == 5 * 5 + 6 * 3
    if params.get("solver") != "lbfgs":
        partly = ours("classifier", **params).partial_fit(X, LABELS, classes=[0, 1, 2])
        assert partly.summary().n_parameters == 5 * 5 + 6 * 3


@pytest.mark.parametrize("embedding", ["periodic", "piecewise_linear", None])
def test_ensembles(embedding):
    table = np.column_stack([X, np.arange(len(X)) % 3])
    model = TabularMLPRegressor(**SMALL_TABLE, numerical_embedding=embedding, categorical_features=[4])
    summary = model.fit(table, NUMBERS).summary()
    (network,) = summary.networks
    assert network.n_networks == 3
    assert summary.n_parameters == model._ensemble.stacks[0].flat.size
    assert [layer.name for layer in network.layers] == ["input", "embedding", "hidden 1", "hidden 2", "output"]
    assert network.layers[0].units == 5
    assert f"each of 3 networks: {network.n_parameters} parameters" in str(summary)
    assert str(summary).endswith(f"{summary.n_parameters:,} parameters in 3 networks, float32 on cpu")
    one = model.estimators_[1].summary()
    assert one.networks[0].layers == network.layers
    assert one.n_parameters * 3 == summary.n_parameters


def test_sparse_tables_have_no_embedding():
    summary = TabularMLPClassifier(**SMALL_TABLE).fit(sp.csr_array(X), LABELS).summary()
    assert [layer.name for layer in summary.networks[0].layers] == ["input", "hidden 1", "hidden 2", "output"]
    assert summary.n_parameters == 3 * (5 * 8 + 9 * 4 + 5 * 3)


def test_packs_have_networks_of_several_shapes():
    pack = TabularMLPClassifier(
        n_estimators=2,
        hyperparameters={"hidden_layer_sizes": [(4,), (16,), (32,)], "learning_rate_init": loguniform(1e-3, 1e-2)},
        n_candidates=4,
        max_iter=6,
        random_state=3,
    ).fit(X, LABELS)
    summary = pack.summary()
    assert len(summary.networks) == len(pack._ensemble.stacks)
    assert summary.n_parameters == sum(stack.flat.size for stack in pack._ensemble.stacks)
    assert str(summary).count("layer ") == len(summary.networks)


@pytest.mark.parametrize("class_", [MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor])
def test_not_fitted(class_):
    with pytest.raises(NotFittedError, match=f"This {class_.__name__} instance is not fitted yet"):
        class_().summary()

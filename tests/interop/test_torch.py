"""Networks as plain modules of PyTorch, and plain modules as estimators."""

import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError
from torch import nn
from torch.nn.utils import prune

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor
from sktorch_mlp._nn.activations import ACTIVATIONS
from tests.estimators.helpers import LABELS, MULTILABEL, NUMBERS, SMALL, TWO_NUMBERS, X, outputs

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer:sklearn.exceptions.ConvergenceWarning")

#: The same sums in another order.
TOLERANCES = {np.float32: {"rtol": 1e-5, "atol": 1e-6}, np.float64: {"rtol": 1e-11, "atol": 1e-13}}
CLASSES = {"binary": LABELS > 0, "three classes": np.array(["a", "c", "b"])[LABELS], "labels": MULTILABEL}
NETWORKS = {
    "plain": {},
    "linear": {"hidden_layer_sizes": ()},
    "batch": {"normalization": "batch", "hidden_layer_sizes": (5, 4), "dropout": [0.0, 0.3]},
    "layer": {"normalization": "layer", "activation": ["gelu", torch.sin], "hidden_layer_sizes": (5, 4)},
}


def call(module, rows):
    with torch.no_grad():
        return module(torch.from_numpy(rows)).numpy()


# To PyTorch ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("target", CLASSES)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_classifier_gives_logits_or_probabilities(network, target, dtype):
    rows = X.astype(dtype)
    model = MLPTorchClassifier(**SMALL | NETWORKS[network]).fit(rows, CLASSES[target])
    expected = model.predict_proba(rows)
    probabilities = call(model.to_torch(probabilities=True), rows)
    np.testing.assert_allclose(probabilities, expected, **TOLERANCES[dtype])
    assert probabilities.dtype == dtype
    logits = torch.from_numpy(call(model.to_torch(), rows))
    if target == "three classes":
        np.testing.assert_allclose(torch.softmax(logits, 1), expected, **TOLERANCES[dtype])
    else:
        assert logits.shape == (len(rows), model.n_outputs_)
        np.testing.assert_allclose(torch.sigmoid(logits), expected[:, -model.n_outputs_ :], **TOLERANCES[dtype])


@pytest.mark.parametrize("loss", ["squared_error", "poisson", "huber"])
@pytest.mark.parametrize("y", [NUMBERS, TWO_NUMBERS], ids=["number", "two numbers"])
def test_a_regressor_gives_predictions(loss, y):
    model = MLPTorchRegressor(loss=loss, **SMALL).fit(X, y)
    np.testing.assert_allclose(call(model.to_torch(), X), model.predict(X).reshape(len(X), -1), rtol=1e-11)


def test_a_module_is_on_its_own():
    model = MLPTorchClassifier(activation=torch.nn.LeakyReLU(0.3), **SMALL).fit(X, LABELS)
    before = model.predict_proba(X)
    module = model.to_torch()
    assert not module.training
    for parameter in module.parameters():
        assert parameter.requires_grad
        nn.init.zeros_(parameter)
    module[1].negative_slope = 9.0
    np.testing.assert_array_equal(model.predict_proba(X), before)
    loaded = pickle.loads(pickle.dumps(model.to_torch(probabilities=True)))
    np.testing.assert_allclose(call(loaded, X), before, **TOLERANCES[np.float64])
    with torch.inference_mode():
        module = model.to_torch()
    module(torch.from_numpy(X)).sum().backward()  # made in inference mode it would not


def test_the_modules_are_those_of_pytorch():
    for activation in ACTIVATIONS:
        module = MLPTorchClassifier(activation=activation, **SMALL).fit(X, LABELS > 0).to_torch(probabilities=True)
        assert {type(part).__module__.partition(".")[0] for part in module.modules()} == {"torch"}
        assert module[2].out_features == 2


def test_unfitted_ones_have_no_module():
    with pytest.raises(NotFittedError):
        MLPTorchClassifier().to_torch()
    with pytest.raises(TypeError, match="probabilities"):
        MLPTorchRegressor(**SMALL).fit(X, NUMBERS).to_torch(probabilities=True)


# From PyTorch --------------------------------------------------------------------------


def sequential(activation=nn.ReLU, *, norm=None, dropout=None, n_outputs=3):
    """A network of PyTorch's own, whose normalizations have statistics that are not those of the beginning."""
    torch.manual_seed(0)
    parts = []
    for n_in, n_out in ((4, 6), (6, 5)):
        parts.append(nn.Linear(n_in, n_out))
        if norm is not None:
            parts.append(norm(n_out))
            for tensor in (*parts[-1].parameters(), *parts[-1].buffers()):
                if tensor.is_floating_point():
                    nn.init.uniform_(tensor, 0.5, 2.0)
        parts += [make() for make in (activation, dropout) if make is not None]
    return nn.Sequential(*parts, nn.Linear(5, n_outputs)).eval()


HIDDEN_LAYERS = {
    "nothing": {"activation": None},
    "relu": {"activation": lambda: nn.ReLU(inplace=True)},
    "identity": {"activation": nn.Identity},
    "another slope": {"activation": lambda: nn.LeakyReLU(0.3)},
    "softplus": {"activation": nn.Softplus},
    "dropout": {"activation": nn.SELU, "dropout": lambda: nn.Dropout(0.4)},
    "batch": {"norm": nn.BatchNorm1d, "activation": nn.GELU, "dropout": nn.Dropout},
    "layer": {"norm": nn.LayerNorm, "activation": nn.ELU},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", HIDDEN_LAYERS)
def test_a_sequential_becomes_an_estimator(layers, dtype):
    module = sequential(**HIDDEN_LAYERS[layers]).to(dtype)
    rows = X.astype(np.float32 if dtype == torch.float32 else np.float64)
    model = MLPTorchClassifier.from_torch(module, ["a", "b", "c"])
    expected = torch.softmax(torch.from_numpy(call(module, rows)), 1).numpy()
    np.testing.assert_allclose(model.predict_proba(rows), expected, **TOLERANCES[rows.dtype.type])
    assert model.coefs_[0].dtype == rows.dtype
    assert (model.n_features_in_, model.n_iter_, model.t_, model.loss_curve_) == (4, 0, 0, [])
    assert model.hidden_layer_sizes == (6, 5)
    regressor = MLPTorchRegressor.from_torch(module)
    np.testing.assert_allclose(regressor.predict(rows), call(module, rows), **TOLERANCES[rows.dtype.type])
    # It trains on, after a pickle too, and nothing is shared.
    for trained in (model, pickle.loads(pickle.dumps(model))):
        trained.set_params(batch_size=10, learning_rate_init=0.01, random_state=0)
        y = np.array(["a", "b", "c"])[LABELS]
        losses = [trained.partial_fit(rows, y).loss_ for _ in range(9)]
        assert losses[-1] < losses[0]
        assert trained.n_iter_ == 1
        assert trained.t_ == 9 * len(X)
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(call(module, rows)), 1), expected)


def test_training_goes_on_as_pytorch_would():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 1)).double()
    model = MLPTorchRegressor.from_torch(module).set_params(
        solver=torch.optim.SGD, learning_rate_init=0.1, alpha=0.0, batch_size=len(X), loss="huber"
    )
    optimizer, y = torch.optim.SGD(module.parameters(), lr=0.1), torch.from_numpy(NUMBERS)
    for _ in range(5):
        model.partial_fit(X, NUMBERS)
        optimizer.zero_grad()
        nn.functional.huber_loss(module(torch.from_numpy(X))[:, 0], y).backward()
        optimizer.step()
    np.testing.assert_allclose(model.predict(X), call(module.eval(), X)[:, 0], rtol=1e-9)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("target", CLASSES)
def test_there_and_back_is_the_same(network, target):
    model = MLPTorchClassifier(**SMALL | NETWORKS[network]).fit(X, CLASSES[target])
    classes = None if target == "labels" else model.classes_
    back = MLPTorchClassifier.from_torch(model.to_torch(probabilities=True), classes)
    np.testing.assert_allclose(back.predict_proba(X), model.predict_proba(X), **TOLERANCES[np.float64])
    np.testing.assert_array_equal(back.predict(X), model.predict(X))
    # Without hidden layers there is nothing to read these from.
    for name in ("activation", "normalization", "dropout") if model.n_layers_ > 2 else ():
        assert getattr(back, name) == getattr(model, name)
    if target != "labels":  # logits alone do not say
        back = MLPTorchClassifier.from_torch(model.to_torch(), classes)
        np.testing.assert_array_equal(back.predict_proba(X), model.predict_proba(X))
    back.partial_fit(X, CLASSES[target])


def test_an_exponential_is_that_of_the_poisson_loss():
    model = MLPTorchRegressor(loss="poisson", **SMALL).fit(X, NUMBERS)
    back = MLPTorchRegressor.from_torch(model.to_torch())
    assert back.loss == "poisson"
    np.testing.assert_array_equal(back.predict(X), model.predict(X))


@pytest.mark.parametrize("last", [None, nn.Softmax(1), nn.Softmax(-1), nn.LogSoftmax(1)], ids=str)
def test_classes_come_in_the_order_of_the_outputs(last):
    module = sequential().double()
    if last is not None:
        module.append(last)
    model = MLPTorchClassifier.from_torch(module, ["c", "a", "b"])
    probabilities = torch.softmax(torch.from_numpy(call(module[:5], X)), 1).numpy()
    assert list(model.classes_) == ["a", "b", "c"]
    np.testing.assert_allclose(model.predict_proba(X), probabilities[:, [1, 2, 0]], rtol=1e-11)
    np.testing.assert_array_equal(model.predict(X), np.array(["c", "a", "b"])[probabilities.argmax(1)])


@pytest.mark.parametrize("classes", [None, [0, 1], [1, 0], ["no", "yes"], ["yes", "no"], [True, False]], ids=str)
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_two_classes_have_one_output_or_two(classes, n_outputs):
    module = sequential(n_outputs=n_outputs).double()
    logits = torch.from_numpy(call(module, X))
    last = nn.Sigmoid() if n_outputs == 1 else nn.Softmax(1)
    second = (torch.sigmoid(logits) if n_outputs == 1 else torch.softmax(logits, 1))[:, -1].numpy()
    for given in (module, nn.Sequential(module, last)):
        model = MLPTorchClassifier.from_torch(given, classes)
        place = list(model.classes_).index([0, 1][1] if classes is None else classes[1])
        np.testing.assert_allclose(model.predict_proba(X)[:, place], second, rtol=1e-10)
        assert model.n_outputs_ == 1


def test_several_outputs_with_sigmoid_are_labels():
    module = sequential().double().append(nn.Sigmoid())
    for classes in (None, [0, 1, 2]):
        model = MLPTorchClassifier.from_torch(module, classes)
        np.testing.assert_allclose(model.predict_proba(X), call(module, X), rtol=1e-11)
        np.testing.assert_array_equal(model.predict(X), call(module, X) > 0.5)
    assert model.partial_fit(X, MULTILABEL).score(X, MULTILABEL) >= 0


def test_what_layers_lack_does_nothing_until_it_is_trained():
    torch.manual_seed(0)
    module = nn.Sequential(
        OrderedDict(
            first=nn.Sequential(
                nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, affine=False), nn.Identity(), nn.Dropout()
            ),
            last=nn.Linear(6, 2, bias=False),
        )
    ).eval()
    model = MLPTorchRegressor.from_torch(module)
    rows = X.astype(np.float32)
    np.testing.assert_allclose(model.predict(rows), call(module, rows), rtol=1e-5)
    assert not model.intercepts_[0].any()
    model.partial_fit(rows, TWO_NUMBERS)
    assert model.intercepts_[1].any()


def test_a_warm_start_goes_on_from_a_module():
    model = MLPTorchClassifier.from_torch(sequential()).set_params(warm_start=True, max_iter=3, random_state=0)
    first = model.fit(X, LABELS).loss_curve_[0]
    fresh = MLPTorchClassifier.from_torch(sequential()).set_params(random_state=0).partial_fit(X, LABELS)
    assert first == pytest.approx(fresh.loss_, rel=1e-5)
    with pytest.raises(ValueError, match="same classes"):
        model.fit(X, LABELS + 1)


def test_small_floats_become_float32():
    module = sequential().bfloat16()
    model = MLPTorchRegressor.from_torch(module)
    assert model.coefs_[0].dtype == np.float32
    expected = sequential().bfloat16().float()
    np.testing.assert_allclose(model.predict(X.astype(np.float32)), call(expected, X.astype(np.float32)), rtol=1e-4)


LINEAR = nn.Linear(4, 4)
WRONG = {
    "no activation of rows": ([LINEAR, nn.Softmax(0), LINEAR], r"Module 1, Softmax\(dim=0\), is not over the units"),
    "softmax inside": ([LINEAR, nn.Softmax(1), nn.Linear(4, 3)], "Module 2, Linear.*, comes after Softmax"),
    "convolution": ([nn.Conv1d(4, 4, 1), LINEAR], r"Module 0, Conv1d\(.*, stands where the first Linear is expected"),
    "parametrized": (
        [nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))],
        "Module 0, ParametrizedLinear, stands where",
    ),
    "flatten": ([nn.Flatten(), LINEAR], r"Module 0, Flatten"),
    "nested": (
        [LINEAR, nn.Sequential(nn.ReLU(), nn.Conv1d(4, 4, 1)), nn.Linear(4, 3)],
        r"Module 1.1, Conv1d.*not supported",
    ),
    "PReLU": ([LINEAR, nn.PReLU(), nn.Linear(4, 3)], r"Module 1, PReLU.*has parameters"),
    "glu": ([LINEAR, nn.GLU(), nn.Linear(2, 3)], r"Module 1, GLU.*not elementwise"),
    "norm after activation": (
        [LINEAR, nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3)],
        "Module 2, BatchNorm1d.*directly",
    ),
    "eps": ([LINEAR, nn.LayerNorm(4, eps=1e-3), nn.Linear(4, 3)], "eps=0.001, but 1e-05"),
    "momentum": ([LINEAR, nn.BatchNorm1d(4, momentum=0.5), nn.Linear(4, 3)], "momentum=0.5, but 0.1"),
    "statistics": ([LINEAR, nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 3)], "no running statistics"),
    "two axes": ([LINEAR, nn.LayerNorm((2, 4)), nn.Linear(4, 3)], "more than the units"),
    "mixed": ([LINEAR, nn.LayerNorm(4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)], r"\['LayerNorm', None\]"),
    "two activations": ([LINEAR, nn.ReLU(), nn.Tanh(), nn.Linear(4, 3)], "Module 2, Tanh.*follows another activation"),
    "dropout first": ([LINEAR, nn.Dropout(0.1), nn.ReLU(), nn.Linear(4, 3)], "Module 2, ReLU.*or Dropout"),
    "two dropouts": ([LINEAR, nn.Dropout(0.1), nn.Dropout(0.1), nn.Linear(4, 3)], "second Dropout"),
    "all dropped": ([LINEAR, nn.Dropout(1.0), nn.Linear(4, 3)], "drops all"),
    "another dropout": ([LINEAR, nn.AlphaDropout(0.1), nn.Linear(4, 3)], "Module 1, AlphaDropout.*not supported"),
    "twice": ([LINEAR, nn.ReLU(), LINEAR], "Module 2, Linear.*, is there twice"),
    "last relu": ([LINEAR, nn.ReLU()], "What follows the last Linear is no output activation"),
    "last dropout": ([LINEAR, nn.Dropout(0.1)], "no output activation"),
    "both": ([LINEAR, nn.Sigmoid(), nn.Softmax(1)], "no output activation"),
    "nothing": ([], "no Linear"),
    "sizes": ([LINEAR, nn.ReLU(), nn.Linear(3, 3)], r"Linear\(in_features=4.*another size"),
    "size of the norm": ([LINEAR, nn.LayerNorm(3), nn.Linear(4, 3)], "another size"),
}


@pytest.mark.parametrize("case", WRONG)
def test_other_modules_are_refused_by_name(case):
    parts, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        MLPTorchClassifier.from_torch(nn.Sequential(*parts))


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize(("place", "name"), [("", "The module, Sequential,"), ("0.1", r"Module 0\.1, ReLU\(\),")])
def test_hooks_are_refused_by_name(place, name, register):
    module = nn.Sequential(nn.Sequential(LINEAR, nn.ReLU()), nn.Linear(4, 3))
    handle = getattr(module.get_submodule(place), register)(lambda *args: None)
    with pytest.raises(ValueError, match=name + " has a forward hook or pre-hook.*Remove it: by its handle"):
        MLPTorchClassifier.from_torch(module)
    handle.remove()
    MLPTorchClassifier.from_torch(module)


def test_a_pruned_module_is_taken_once_its_weight_is_its_own():
    module = sequential().double()
    prune.l1_unstructured(module[0], "weight", 0.5)
    nn.init.ones_(module[0].weight_orig)  # the weight of the last call is not that of the next one
    with pytest.raises(ValueError, match=r"Module 0, Linear\(.*torch\.nn\.utils\.prune\.remove"):
        MLPTorchRegressor.from_torch(module)
    expected = call(module, X)
    prune.remove(module[0], "weight")
    np.testing.assert_allclose(MLPTorchRegressor.from_torch(module).predict(X), expected, rtol=1e-11)


class Residual(nn.Sequential):
    def forward(self, rows):
        return super().forward(rows) + rows


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (nn.Linear(4, 3), ValueError, "takes a torch.nn.Sequential, but got Linear"),
        (Residual(nn.Linear(4, 4)), ValueError, "but got Residual, whose forward"),
        (nn.Sequential(Residual(nn.Linear(4, 4))), ValueError, "Module 0, Residual"),
        (nn.ModuleList([nn.Linear(4, 3)]), ValueError, "ModuleList"),
        (nn.Sequential, TypeError, "but got type"),
        (None, TypeError, "but got NoneType"),
    ],
    ids=str,
)
def test_only_a_sequential_is_taken(module, error, message):
    for class_ in (MLPTorchClassifier, MLPTorchRegressor):
        with pytest.raises(error, match=message):
            class_.from_torch(module)


def test_classes_have_to_fit_the_outputs():
    with pytest.raises(ValueError, match=r"3 outputs, so classes must be 3 distinct labels, but got \['a', 'b'\]"):
        MLPTorchClassifier.from_torch(sequential(), ["a", "b"])
    with pytest.raises(ValueError, match=r"distinct labels, but got \[1, 1, 2\]"):
        MLPTorchClassifier.from_torch(sequential(), [1, 1, 2])
    with pytest.raises(ValueError, match="1 outputs, so classes must be 2"):
        MLPTorchClassifier.from_torch(sequential(n_outputs=1), [1])
    with pytest.raises(ValueError, match="softmax of one output"):
        MLPTorchClassifier.from_torch(sequential(n_outputs=1).append(nn.Softmax(1)))
    with pytest.raises(ValueError, match="Leave out classes"):
        MLPTorchClassifier.from_torch(sequential().append(nn.Sigmoid()), ["a", "b", "c"])
    with pytest.raises(ValueError, match="exponential"):
        MLPTorchClassifier.from_torch(MLPTorchRegressor(loss="poisson", **SMALL).fit(X, NUMBERS).to_torch())
    with pytest.raises(ValueError, match=r"logistic outputs, which are probabilities\. Use MLPTorchClassifier"):
        MLPTorchRegressor.from_torch(sequential().append(nn.Sigmoid()))


def test_the_device_is_a_parameter():
    model = MLPTorchRegressor.from_torch(sequential(), device="cpu")
    assert model.device == "cpu"
    assert outputs(model, X).shape == (len(X), 3)
    with pytest.raises(ValueError, match="device='nowhere'"):
        MLPTorchRegressor.from_torch(sequential(), device="nowhere")
    with pytest.raises(ValueError, match="device='meta'"):
        MLPTorchRegressor.from_torch(sequential(), device="meta")
    with pytest.raises(ValueError, match=r"0\.weight is on the device meta, without values"):
        MLPTorchRegressor.from_torch(sequential().to("meta"))

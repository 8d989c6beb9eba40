"""What fits on a device copy, wait for and record, and where they compute: told by simulated devices."""

import gc
import pickle
import re
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import zarr
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import LRScheduler
from torch.nn.functional import cross_entropy, huber_loss

from sktorch_mlp import (
    MLPTorchClassifier,
    MLPTorchRegressor,
    TabularMLPClassifier,
    TabularMLPRegressor,
    load,
    stacked_fits,
)
from sktorch_mlp._data import batches
from sktorch_mlp._data.batches import Segment
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.streams import StreamedBatches
from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.gradients import Gradient
from sktorch_mlp._training.cuda_graphs import CudaGraph
from tests.estimators.helpers import Chunked
from tests.estimators.tables import SMALL as SMALL_TABLE
from tests.estimators.tables import numbers, table
from tests.simulated.devices import simulated_devices

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.usefixtures("streamed"),
]

rng = np.random.RandomState(0)
X = rng.normal(size=(240, 6))
Y = (X[:, 0] + X[:, 1] > 0).astype(int) + (X[:, 2] > 0)
WEIGHTS = rng.uniform(0.1, 2, len(X))
#: All epochs are trained.
PARAMS = {"hidden_layer_sizes": (7, 5), "random_state": 0, "tol": 0.0, "n_iter_no_change": np.inf, "batch_size": 40}


def classifier(device="cuda", max_iter=4, **params):
    return MLPTorchClassifier(**PARAMS | {"device": device, "max_iter": max_iter} | params)


def weights_of(model):
    return np.concatenate([array.ravel() for array in (*model.coefs_, *model.intercepts_)])


# Copies and waits ------------------------------------------------------------------------

#: What an epoch is of: parameters, sample weights, and its copies to the device, copies to the host and waits.
COSTS = {
    "Adam, SGD": ({"solver": "sgd"}, None, (2, 1, 2)),
    "AdamW": ({"solver": "adamw"}, None, (4, 1, 2)),
    "dropout, batch normalization": ({"dropout": 0.2, "normalization": "batch"}, None, (2, 1, 2)),
    "early stopping": ({"early_stopping": True}, None, (2, 3, 4)),
    "sample weights above zero": ({}, WEIGHTS, (2, 1, 2)),
    "sample weights of zero": ({}, np.where(Y == 0, 0, WEIGHTS), (2, 2, 3)),
    "functions as activations or loss": ({"activation": torch.sin, "loss": cross_entropy}, None, (2, 1, 2)),
    "optimizers of `torch.optim`": ({"solver": torch.optim.Adam}, None, (1, 1, 2)),
}


def costs_of_an_epoch(traffic, weights=None, rows=X, **params):
    """What one epoch more costs."""
    costs = []
    for max_iter in (3, 4):
        traffic.clear()
        classifier(max_iter=max_iter, **params).fit(rows, Y, weights)
        costs.append((len(traffic.to_device), len(traffic.to_host), traffic.waits.total()))
    return tuple(np.subtract(*reversed(costs)).tolist())


@pytest.mark.parametrize("name", COSTS)
def test_an_epoch_costs_the_same_for_any_number_of_batches(name, devices):
    params, weights, expected = COSTS[name]
    for batch_size in (20, 40):
        assert costs_of_an_epoch(devices, weights, batch_size=batch_size, **params) == expected


def test_the_guide_has_these_costs():
    docs = Path(__file__).parents[1] / "docs"
    pages = "\n".join(page.read_text(encoding="utf-8") for page in docs.rglob("*.md"))
    (rows,) = re.findall(r"^\| epochs with \|.*\n\|.*\n((?:\|.*\n)+)", pages, flags=re.MULTILINE)
    told = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]
    assert {name: tuple(map(int, costs)) for name, *costs in told} == {name: case[2] for name, case in COSTS.items()}


def test_16_batches_more_cost_copies_of_learning_rates(devices):
    """Which do not wait."""
    one, two = (costs_of_an_epoch(devices, solver="adamw", batch_size=batch_size) for batch_size in (15, 12))
    assert np.subtract(two, one).tolist() == [3, 0, 0]


def test_the_memory_of_training_is_free_when_a_fit_ends(devices, monkeypatch):
    """And not only when Python collects garbage: a graph holds memory of the device."""
    made = []

    def watch(cls):
        original = cls.__init__

        def init(self, *args, **kwargs):
            made.append(weakref.ref(self))
            original(self, *args, **kwargs)

        monkeypatch.setattr(cls, "__init__", init)

    watch(Gradient)
    watch(CudaGraph)
    gc.disable()
    try:
        for device in ("cpu", "cuda"):
            classifier(device, early_stopping=True, dropout=0.2, normalization="batch").fit(X, Y)
            assert len(made) >= (1 if device == "cpu" else 2)
            assert not any(reference() for reference in made)
    finally:
        gc.enable()


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["", "weights"])
def test_each_thing_travels_once(weights, devices):
    model = classifier().fit(X, Y, weights)
    sizes = [copy.n_values for copy in devices.to_device]
    assert sizes.count(X.size) == 1
    assert sizes.count(len(X)) == 1 + (weights is not None) + model.n_iter_  # labels, weights, orders of the rows
    assert max(size for size in sizes if size not in (X.size, len(X))) < weights_of(model).size
    assert devices.n_values_to_host < 2 * weights_of(model).size
    devices.clear()
    model.predict_proba(X)
    weights = [*map(np.size, [*model.coefs_, *model.intercepts_])]
    assert [copy.n_values for copy in devices.to_device] == [*weights, X.size]
    assert [copy.n_values for copy in devices.to_host] == [3 * len(X)]
    for written in (False, True, False):  # into the weights
        model.coefs_[0][0, 0] += written
        devices.clear()
        model.predict_proba(X)
        assert [copy.n_values for copy in devices.to_device] == [*weights * written, X.size]


def test_the_rows_of_an_ensemble_travel_once(devices):
    """To all its stacks. The weights stay there."""
    rows, y = numbers(100)
    model = TabularMLPRegressor(**SMALL_TABLE, device="cuda").fit(rows, y)
    model.predict(rows)
    devices.clear()
    model.predict(rows)
    assert len(model._ensemble.stacks) == 2
    assert [copy.n_values for copy in devices.to_device] == [rows.size]
    assert [copy.n_values for copy in devices.to_host] == [len(rows)]


def test_sparse_rows_travel_batch_by_batch(devices):
    """scipy slices them on the host. Indices, their starts and values, also transposed, go to the device."""
    costs = [costs_of_an_epoch(devices, rows=sp.csr_array(X), batch_size=batch_size) for batch_size in (20, 40)]
    assert np.subtract(*costs).tolist() == [6 * 6, 6 * 1, 6 * 7]


# Graphs ----------------------------------------------------------------------------------

RECORDED = {
    "adam": {},
    "adamw": {"solver": "adamw", "learning_rate": "one_cycle", "dtype": "float64"},
    "sgd": {"solver": "sgd", "alpha": 0.0, "dropout": [0.5, 0.1]},
    "batch norm": {"normalization": "batch", "activation": "gelu", "dropout": 0.2},
    "layer norm": {"normalization": "layer", "gradient_clip_norm": 0.1},
    "class weights": {"label_smoothing": 0.1, "class_weight": {0: 2.0}},
    "lbfgs": {"solver": "lbfgs"},
    "two segments": {"batch_size": 10, "dropout": 0.3},
    "bfloat16": {"dtype": "bfloat16"},
}
NOT_RECORDED = {
    "function as activation": {"activation": torch.sin},
    "function as loss": {"loss": cross_entropy},
    "torch.optim": {"solver": torch.optim.Adamax},
    "callbacks of batches": {"callbacks": [LRScheduler("StepLR", step_size=3, step_every="batch")]},
}


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_steps_train_as_others(name, devices, monkeypatch):
    """Bit for bit: dropout draws the masks that it would draw without graphs, and goes on from there."""

    def fit():
        model = classifier(**RECORDED[name], early_stopping=name != "lbfgs").fit(X, Y)
        return model if name == "lbfgs" else model.partial_fit(X, Y, X_val=X, y_val=Y)

    recorded = fit()
    n_segments = 2 if "two" in name else 1
    assert devices.n_recorded == n_segments
    assert devices.n_replayed >= 3 * n_segments
    devices.clear()
    monkeypatch.setattr(
        Segment, "can_be_captured", property(lambda self: False, lambda self, value: None), raising=False
    )
    other = fit()
    assert devices.n_recorded == 0
    np.testing.assert_array_equal(weights_of(recorded), weights_of(other))
    assert recorded.loss_ == other.loss_


def test_epochs_of_one_batch_are_recorded_together(devices, monkeypatch):
    """60 of them as 3 times 16, 8 and 4. The first of a number are run as they are."""
    together = classifier(batch_size=240, max_iter=60).fit(X, Y)
    assert (devices.n_recorded, devices.n_replayed) == (1, 2)
    monkeypatch.setattr(batches, "_MOST_EPOCHS", 1)
    one_by_one = classifier(batch_size=240, max_iter=60).fit(X, Y)
    assert (devices.n_recorded, devices.n_replayed) == (2, 2 + 59)
    np.testing.assert_array_equal(weights_of(together), weights_of(one_by_one))
    assert together.loss_curve_ == one_by_one.loss_curve_


@pytest.mark.parametrize("name", NOT_RECORDED)
def test_what_a_graph_cannot_record_is_not_recorded(name, devices):
    classifier(**NOT_RECORDED[name]).fit(X, Y)
    assert devices.n_recorded == 0


def test_masks_of_a_stack_and_of_a_fit_alone_are_the_same(devices):
    grid = {"alpha": [0.0, 0.01, 0.1], "dropout": [0.1, 0.5]}
    alone = GridSearchCV(classifier(), grid, cv=2).fit(X, Y).cv_results_["mean_test_score"]
    devices.clear()
    with stacked_fits():
        stacked = GridSearchCV(classifier(), grid, cv=2).fit(X, Y).cv_results_["mean_test_score"]
    assert devices.n_recorded > 0
    np.testing.assert_allclose(stacked, alone)


def test_dropout_is_that_of_the_cpu_with_the_same_masks(devices, monkeypatch):
    """A simulated device has the random numbers of the CPU, where masks are usually made of fewer of them."""

    def draw_(self, layer, mask):
        for rates, generator, own_mask in zip(self.rates, self.generators, [mask], strict=True):
            own_mask.bernoulli_(1 - round(rates[layer] * 2**16) / 2**16, generator=generator)

    gpu = classifier(dropout=0.3, dtype="float64").fit(X, Y)
    monkeypatch.setattr(Dropout, "draw_", draw_)
    cpu = classifier("cpu", dropout=0.3, dtype="float64").fit(X, Y)
    np.testing.assert_allclose(weights_of(gpu), weights_of(cpu), rtol=1e-9, atol=1e-12)


# Several devices -------------------------------------------------------------------------


def regressor(device, **params):
    return MLPTorchRegressor(hidden_layer_sizes=(7, 5), random_state=0, max_iter=3, device=device, **params)


#: Fits on a device of classifiers, regressors and ensembles. `ROWS` are those of the ones that are not on X.
FITS = {
    "classifier": lambda device: classifier(device, dropout=0.2, normalization="batch").fit(X, Y),
    "early stopping": lambda device: classifier(device, early_stopping=True, scoring="neg_log_loss").fit(X, Y),
    "torch.optim": lambda device: classifier(device, solver=torch.optim.Adam, activation=torch.sin).fit(X, Y, WEIGHTS),
    "sparse": lambda device: classifier(device, dropout=0.2).fit(sp.csr_array(X), Y),
    "disk": lambda device: classifier(device, early_stopping=True).fit(
        zarr.create_array({}, data=X, chunks=(20, 3)), Y, WEIGHTS
    ),
    "chunks": lambda device: classifier(device).fit(Chunked(50, X, Y)),
    "lbfgs": lambda device: regressor(device, solver="lbfgs").fit(X, X[:, :2]),
    "function as loss": lambda device: regressor(device, loss=LOSS).fit(X, X[:, 0], WEIGHTS),
    "poisson": lambda device: regressor(device, loss="poisson").fit(X, X[:, 0] ** 2),
    "frame": lambda device: TabularMLPClassifier(**SMALL_TABLE, device=device).fit(*table()),
    "table": lambda device: TabularMLPRegressor(**SMALL_TABLE, scoring="r2", device=device).fit(*numbers()),
}
ROWS = {"sparse": sp.csr_array(X), "frame": table()[0], "table": numbers()[0]}
LOSS = partial(huber_loss, reduction="none")


def outputs(name, model):
    """Probabilities of a classifier, predictions of a regressor, for the rows of its fit."""
    return getattr(model, "predict_proba", model.predict)(ROWS.get(name, X))


@pytest.mark.parametrize("name", FITS)
def test_nothing_is_on_another_device(name, devices):
    expected = outputs(name, FITS[name]("cuda:1"))
    assert set(devices.kernels) == {"cuda:1"}
    assert not devices.between_devices
    np.testing.assert_array_equal(outputs(name, FITS[name]("cuda")), expected)
    assert set(devices.kernels) == {"cuda:0", "cuda:1"}


def test_bfloat16_is_that_of_the_device_asked_for(devices, monkeypatch):
    def first_has_it(including_emulation=True):
        return torch.cuda.current_device() == 0

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", first_has_it)
    classifier("cuda:0", dtype="bfloat16").fit(X, Y)
    with pytest.raises(ValueError, match="dtype='bfloat16' is not supported"):
        classifier("cuda:1", dtype="bfloat16").fit(X, Y)


# Apple's MPS has no float64 --------------------------------------------------------------


@pytest.mark.parametrize("name", FITS)
def test_fits_on_mps_are_float32(name, devices):
    """Rows, labels and weights of float64 are cast before they are moved."""
    predicted = outputs(name, FITS[name]("mps"))
    assert set(devices.kernels) == {"mps:0"}
    # The same up to rounding in float32, which steps of Adam enlarge: by up to 7e-4 on one processor, 1e-4 on others.
    np.testing.assert_allclose(predicted, outputs(name, FITS[name]("cuda")), rtol=1e-3, atol=1e-3)


def test_float64_on_mps_is_an_error(devices):
    for model, data in ((classifier(), (X, Y)), (TabularMLPClassifier(**SMALL_TABLE), table())):
        with pytest.raises(ValueError, match="dtype='float64' is not supported on Apple's MPS device"):
            clone(model).set_params(device="mps", dtype="float64").fit(*data)


def test_models_of_float64_come_to_mps(devices):
    theirs = classifier("cpu").fit(X, Y).to_sklearn()
    model = MLPTorchClassifier.from_sklearn(theirs, device="mps")
    np.testing.assert_allclose(model.predict_proba(X), theirs.predict_proba(X), rtol=1e-5)
    model.partial_fit(X, Y)


# Where the device is absent --------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in FITS if name not in ("torch.optim", "function as loss")])
def test_models_open_without_the_device(name, tmp_path):
    """Pickles and files do, and fits go on on the CPU."""
    with simulated_devices():
        model = FITS[name]("cuda:1")
        pickled, expected = pickle.dumps(model), outputs(name, model)
        model.save(tmp_path / "model")
    for open_ in (partial(pickle.loads, pickled), partial(load, tmp_path / "model")):
        with pytest.warns(
            UserWarning, match="'cuda:1', which is not available here. It will predict on the CPU"
        ) as warned:
            opened = open_()
        assert len(warned) == 1
        np.testing.assert_allclose(outputs(name, opened), expected, rtol=1e-5, atol=1e-6)
        if name in ("classifier", "sparse", "poisson"):
            opened.set_params(device="cpu").partial_fit(ROWS.get(name, X), X[:, 0] ** 2 if name == "poisson" else Y)


# X larger than the device ----------------------------------------------------------------


@pytest.fixture
def small_device(devices, monkeypatch):
    """CUDA devices with little free memory, to which all X that are not small stay on the host; blocks are small, too."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (X.nbytes // 16, 2**34))
    monkeypatch.setitem(Rows.from_array.__func__.__kwdefaults__, "copy_bytes", 100)
    monkeypatch.setitem(StreamedBatches.__init__.__kwdefaults__, "block_bytes", 100)
    return devices


@pytest.mark.parametrize(
    ("params", "fit_params"),
    [
        ({}, {}),
        ({"dropout": 0.2, "normalization": "batch"}, {"sample_weight": WEIGHTS}),
        ({"early_stopping": True}, {}),
        ({"dtype": "float64", "solver": "sgd"}, {}),
        ({"batch_size": 240}, {}),
        ({"callbacks": [LRScheduler(policy="StepLR", step_size=2)]}, {}),
    ],
    ids=["", "dropout", "early stopping", "float64", "one batch", "callbacks"],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8])
def test_rows_that_stay_on_the_host_give_the_same_numbers(dtype, params, fit_params, small_device, monkeypatch):
    rows = (10 * X).astype(dtype)
    streamed = classifier(**params).fit(rows, Y, **fit_params)
    assert max(copy.n_values for copy in small_device.to_device) <= 6 * params.get("batch_size", 40)
    predicted = streamed.predict_proba(rows)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**34))
    resident = classifier(**params).fit(rows, Y, **fit_params)
    np.testing.assert_array_equal(weights_of(streamed), weights_of(resident))
    np.testing.assert_array_equal(predicted, resident.predict_proba(rows))


def test_rows_that_stay_on_the_host_are_copied_while_kernels_run(small_device, capsys):
    classifier(max_iter=1, verbose=True).fit(X, Y)
    assert "of X are read in blocks, and sent to cuda" in capsys.readouterr().out
    costs = [costs_of_an_epoch(small_device, batch_size=batch_size) for batch_size in (40, 20)]
    # Each mini-batch is a block here. It costs copies of its rows and of their places, one of the learning rate of its step, and
    # that its reader waits for the copies before; all else is as for rows on the device.
    assert costs == [(2 + 3 * 6 - 1, 1, 2 + 6), (2 + 3 * 12 - 1, 1, 2 + 12)]
    assert all(copy.n_values <= 40 * 6 for copy in small_device.to_device if copy.call == "copy_")


def test_a_reader_does_not_wait_for_training(small_device):
    """But for the ends of its own copies."""
    classifier().fit(X, Y)
    waits = [set(calls) for name, calls in small_device.waits_of_threads.items() if name.startswith("read-ahead")]
    assert waits
    assert set.union(*waits) == {"Event.synchronize"}


def test_narrow_rows_that_are_held_out_stay_on_the_device(devices, monkeypatch):
    """They are cast for each epoch, but their indices do not travel again."""
    monkeypatch.setitem(Rows.from_array.__func__.__kwdefaults__, "copy_bytes", 100)
    rows = (10 * X).astype(np.int8)
    assert costs_of_an_epoch(devices, rows=rows, early_stopping=True) == COSTS["early stopping"][2]


def test_ensembles_stream_rows_too(small_device, monkeypatch):
    frame, y = table()
    streamed = TabularMLPClassifier(**SMALL_TABLE, device="cuda").fit(frame, y)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (2**33, 2**34))
    resident = TabularMLPClassifier(**SMALL_TABLE, device="cuda").fit(frame, y)
    np.testing.assert_array_equal(streamed.predict_proba(frame), resident.predict_proba(frame))


def test_a_search_on_rows_that_stay_on_the_host(small_device):
    grid = {"alpha": [1e-4, 0.1]}
    found = GridSearchCV(classifier(), grid, cv=2, error_score="raise").fit(X, Y)
    with stacked_fits():
        stacked = GridSearchCV(classifier(), grid, cv=2, error_score="raise").fit(X, Y)
    np.testing.assert_array_equal(stacked.cv_results_["mean_test_score"], found.cv_results_["mean_test_score"])


def test_chunks_and_files_are_sent_to_the_device(devices):
    rows = X.astype(np.float32)
    expected = classifier(shuffle=False).fit(rows, Y)
    chunks = [(rows[:100], Y[:100]), (rows[100:], Y[100:])]
    np.testing.assert_array_equal(weights_of(classifier(shuffle=False).fit(chunks)), weights_of(expected))

"""Callbacks of skorch, against what they see in skorch's own nets."""

import pickle
from unittest.mock import MagicMock

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNet, NeuralNetClassifier
from skorch import callbacks as skorch_callbacks
from skorch.dataset import Dataset
from skorch.helper import predefined_split
from torch.optim.lr_scheduler import OneCycleLR

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, stacked_fits
from sktorch_mlp.callbacks import TimeLimit
from tests.interop.watched import SETTINGS, X_TRAIN, X_VAL, Y_TRAIN, Y_VAL, X, Y, classifier

pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")


# What callbacks see ---------------------------------------------------------------------


class Hooks(skorch_callbacks.Callback):
    """Notes the hooks that are called, and what they are given."""

    def initialize(self):
        self.calls_ = []
        return self

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.calls_.append(("train begins", len(X), len(y)))

    def on_train_end(self, net, X=None, y=None, **kwargs):
        self.calls_.append(("train ends", len(X), len(y)))

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        self.calls_.append(("epoch begins", len(dataset_train), dataset_valid and len(dataset_valid)))

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        names = {"epoch", "train_loss", "valid_loss", "train_loss_best", "valid_loss_best"} & set(net.history[-1])
        self.calls_.append(("epoch ends", len(dataset_train), dataset_valid and len(dataset_valid), names))

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        self.calls_.append(("batch begins", len(batch[0]), len(batch[1]), training))

    def on_batch_end(self, net, batch=None, training=None, loss=None, y_pred=None, **kwargs):
        self.calls_.append(("batch ends", len(batch[0]), training, loss.ndim, tuple(y_pred.shape)))

    def on_grad_computed(self, net, named_parameters, batch=None, training=None, **kwargs):
        parameters = list(named_parameters)
        assert all(parameter.grad is not None for _, parameter in parameters)
        self.calls_.append(("gradient", [tuple(parameter.shape) for _, parameter in parameters], len(batch[0])))


@pytest.mark.parametrize("validates", [False, True], ids=["training rows", "validation rows"])
def test_hooks_are_called_as_by_a_net_of_skorch(validates):
    ours, theirs = Hooks(), Hooks()
    given = {"X_val": X_VAL, "y_val": Y_VAL} if validates else {}
    classifier(callbacks=[ours], max_iter=2, batch_size=32).fit(X_TRAIN, Y_TRAIN, **given)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    net = NeuralNetClassifier(
        module,
        criterion=torch.nn.CrossEntropyLoss,
        max_epochs=2,
        batch_size=32,
        iterator_valid__batch_size=len(X_VAL),
        train_split=predefined_split(Dataset(X_VAL, Y_VAL)) if validates else None,
        callbacks=[theirs],
        verbose=0,
    )
    net.fit(X_TRAIN, Y_TRAIN)
    assert len(ours.calls_) > 20
    assert ours.calls_ == theirs.calls_


class BatchSpy(skorch_callbacks.Callback):
    """Notes batches."""

    def initialize(self):
        self.batches_, self.losses_ = [], []
        return self

    def on_batch_end(self, net, batch, training, loss, y_pred, **kwargs):
        self.batches_.append((training, len(batch[0]), len(y_pred)))
        self.losses_.append(float(loss))


TARGETS = {
    "multiclass": (MLPTorchClassifier, Y, {}),
    "binary": (MLPTorchClassifier, np.array(["no", "yes"])[(Y == 2).astype(int)], {}),
    "multilabel": (MLPTorchClassifier, np.c_[Y == 1, Y == 2].astype(int), {}),
    "smoothed": (MLPTorchClassifier, Y, {"label_smoothing": 0.1}),
    "regression": (MLPTorchRegressor, X[:, 0], {}),
    "two targets": (MLPTorchRegressor, X[:, :2], {}),
    "poisson": (MLPTorchRegressor, Y, {"loss": "poisson"}),
}


@pytest.mark.parametrize(
    "params",
    [{"early_stopping": True}, {"dropout": 0.3, "normalization": "batch"}],
    ids=["early stopping", "dropout and batch normalization"],
)
@pytest.mark.parametrize("kind", TARGETS)
def test_weights_are_the_same_with_callbacks_and_without(kind, params):
    estimator, y, own = TARGETS[kind]
    settings = SETTINGS | own | params
    plain = estimator(**settings).fit(X, y)
    by_epoch = estimator(**settings, callbacks=[skorch_callbacks.EarlyStopping(monitor="train_loss")]).fit(X, y)
    spy = BatchSpy()
    by_batch = estimator(**settings, callbacks=[spy]).fit(X, y)
    for watched in (by_epoch, by_batch):
        for coef, expected in zip(watched.coefs_, plain.coefs_, strict=True):
            # Buffers of single batches lie elsewhere in memory, and products may round otherwise.
            np.testing.assert_allclose(coef, expected, rtol=1e-10, atol=1e-14)
        np.testing.assert_allclose(watched.loss_curve_, plain.loss_curve_, rtol=1e-12)
    n_train = len(X) - (15 if "early_stopping" in params else 0)
    sizes = [25] * (n_train // 25) + ([n_train % 25] if n_train % 25 else [])
    assert [size for training, size, _ in spy.batches_ if training] == sizes * 6
    assert all(size == n_predicted for _, size, n_predicted in spy.batches_)


def test_losses_of_batches_make_the_loss_of_the_epoch():
    spy = BatchSpy()
    model = classifier(callbacks=[spy], alpha=0.0, batch_size=50, max_iter=1).fit(X, Y)
    assert np.mean(spy.losses_) == pytest.approx(model.loss_, rel=1e-12)


def test_sparse_rows():
    spy = BatchSpy()
    model = classifier(callbacks=[spy]).fit(sp.csr_array(X), Y)
    assert model.score(X, Y) > 0.7
    assert len(spy.batches_) == 36


def test_epoch_scoring_on_validation_and_training_rows():
    f1 = skorch_callbacks.EpochScoring("f1_macro", lower_is_better=False)
    train_loss = skorch_callbacks.EpochScoring("neg_log_loss", on_train=True, use_caching=False, name="train_nll")
    model = classifier(callbacks=[f1, train_loss]).fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    last = model.history_[-1]
    assert last["f1_macro"] == pytest.approx(f1_score(Y_VAL, model.predict(X_VAL), average="macro"))
    assert last["train_nll"] == pytest.approx(-log_loss(Y_TRAIN, model.predict_proba(X_TRAIN)))
    assert last["validation_loss"] == pytest.approx(log_loss(Y_VAL, model.predict_proba(X_VAL)))


def test_cached_predictions_of_training_are_those_of_the_steps():
    cached = skorch_callbacks.EpochScoring("neg_log_loss", on_train=True, name="cached")
    model = classifier(callbacks=[cached], batch_size=150, max_iter=1, alpha=0.0).fit(X, Y)
    assert model.history_[0]["cached"] == pytest.approx(-model.loss_)  # before the only step, not after it


# What callbacks change ------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam", "adamw"])
def test_schedulers_of_the_learning_rate(solver):
    ours = classifier(solver=solver, learning_rate="cosine").fit(X, Y)
    by_epoch = skorch_callbacks.LRScheduler("CosineAnnealingLR", T_max=6)
    theirs = classifier(solver=solver, callbacks=[by_epoch]).fit(X, Y)
    # PyTorch computes the cosine recursively, which rounds otherwise.
    np.testing.assert_allclose(theirs.coefs_[0], ours.coefs_[0], rtol=1e-10)

    ours = classifier(solver=solver, learning_rate="one_cycle").fit(X, Y)
    by_batch = skorch_callbacks.LRScheduler(
        OneCycleLR, max_lr=0.01, total_steps=6 * 6, cycle_momentum=False, step_every="batch"
    )
    theirs = classifier(solver=solver, callbacks=[by_batch]).fit(X, Y)
    np.testing.assert_allclose(theirs.coefs_[0], ours.coefs_[0], rtol=1e-10)
    assert [r["learning_rate"] for r in theirs.history_] == pytest.approx([r["learning_rate"] for r in ours.history_])


def test_gradient_norm_clipping():
    ours = classifier(gradient_clip_norm=0.1).fit(X, Y)
    theirs = classifier(callbacks=[skorch_callbacks.GradientNormClipping(0.1)]).fit(X, Y)
    plain = classifier().fit(X, Y)
    # The norm is summed in another order.
    np.testing.assert_allclose(theirs.coefs_[0], ours.coefs_[0], rtol=1e-10)
    assert not np.allclose(theirs.coefs_[0], plain.coefs_[0], rtol=1e-3)


def test_checkpoint_saves_and_loads_the_best(tmp_path):
    checkpoint = skorch_callbacks.Checkpoint(monitor="valid_loss_best", dirname=tmp_path, load_best=True)
    settings = {"max_iter": 40, "learning_rate_init": 0.5, "alpha": 0.0, "callbacks": [checkpoint]}
    model = classifier(**settings).fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    losses = [record["validation_loss"] for record in model.history_]
    assert np.argmin(losses) < len(losses) - 1
    assert log_loss(Y_VAL, model.predict_proba(X_VAL)) == pytest.approx(min(losses))
    saved = torch.load(tmp_path / "params.pt")
    np.testing.assert_array_equal(saved["0.weight"].numpy().T, model.coefs_[0])


def test_nets_can_be_pickled(tmp_path):
    for name in ("binary", "three classes"):
        checkpoint = skorch_callbacks.TrainEndCheckpoint(f_pickle=f"{name}.pkl", dirname=tmp_path)
        model = classifier(callbacks=[checkpoint]).fit(X, Y > 0 if name == "binary" else Y)
        net = pickle.loads((tmp_path / f"train_end_{name}.pkl").read_bytes())
        assert isinstance(net, NeuralNet)
        for parameter, coef in zip(list(net.module_.parameters())[::2], model.coefs_, strict=True):
            np.testing.assert_array_equal(parameter.detach().numpy(), coef.T)


def test_early_stopping_stops(capsys):
    stop = skorch_callbacks.EarlyStopping(patience=2, monitor="valid_loss", load_best=True)
    model = classifier(max_iter=200, learning_rate_init=0.5, callbacks=[stop], verbose=True)
    model.fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    assert "Stopping since valid_loss has not improved" in capsys.readouterr().out
    losses = model.validation_loss_curve_
    assert model.n_iter_ == len(losses) == np.argmin(losses) + 1 + 2
    assert log_loss(Y_VAL, model.predict_proba(X_VAL)) == pytest.approx(min(losses))


def test_early_stopping_without_validation_says_what_to_do():
    for stop in (skorch_callbacks.EarlyStopping(), skorch_callbacks.EarlyStopping(load_best=True)):
        message = (
            r"'valid_loss' was not found.*can monitor \[.*'train_loss'.*pass X_val and y_val, or set early_stopping"
        )
        with pytest.raises(ValueError, match=message):
            classifier(callbacks=[stop]).fit(X, Y)
    stop = skorch_callbacks.EarlyStopping(monitor="train_loss")
    assert classifier(callbacks=[stop]).fit(X, Y).n_iter_ == 6


@pytest.mark.parametrize("name", ["val_loss", "validation_loss"])
def test_a_wrong_name_to_monitor_is_answered_with_the_right_ones(name):
    message = f"'{name}' was not found.*can monitor .*'train_loss', 'train_loss_best', 'valid_loss', .*'valid_score'"
    model = classifier(callbacks=[skorch_callbacks.EarlyStopping(monitor=name)])
    with pytest.raises(ValueError, match=message) as raised:
        model.fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    assert "pass X_val" not in str(raised.value)


def test_a_key_error_of_a_callback_itself_is_left_alone():
    class Wrong(skorch_callbacks.Callback):
        def on_epoch_end(self, net, **kwargs):
            raise KeyError("valid_of_mine")

    with pytest.raises(KeyError, match="valid_of_mine"):
        classifier(callbacks=[Wrong()]).fit(X, Y)


@pytest.mark.parametrize("first", ["fit", "partial_fit"])
@pytest.mark.parametrize("solver", ["adam", torch.optim.RMSprop])
def test_an_error_at_the_end_of_training_leaves_the_model_before(solver, first):
    class FullDisk(skorch_callbacks.Callback):
        def on_train_end(self, net, **kwargs):
            raise OSError("no space left")

    model = classifier(solver=solver, max_iter=3)
    getattr(model, first)(X, Y, **({"classes": np.unique(Y)} if first == "partial_fit" else {}))
    twin = pickle.loads(pickle.dumps(model))
    model.set_params(callbacks=[FullDisk()], warm_start=True)
    with pytest.raises(OSError, match="no space left"):
        model.fit(X, Y)
    for name in ("coefs_", "intercepts_", "loss_curve_", "history_", "n_iter_", "t_", "loss_"):
        np.testing.assert_equal(getattr(model, name), getattr(twin, name))
    for estimator in (model, twin):
        estimator.partial_fit(X, Y)
    np.testing.assert_array_equal(model.coefs_[0], twin.coefs_[0])


def test_frozen_parameters_stay():
    model = classifier(callbacks=[skorch_callbacks.Freezer("0.*")], alpha=1.0).fit(X, Y)
    untrained = classifier(max_iter=1, learning_rate_init=1e-300).fit(X, Y)
    np.testing.assert_array_equal(model.coefs_[0], untrained.coefs_[0])
    assert not np.allclose(model.coefs_[1], untrained.coefs_[1])


# Around the fit -------------------------------------------------------------------------


def test_a_search_over_callbacks_in_stacks():
    grid = {"callbacks": [None, [skorch_callbacks.EpochScoring("accuracy", name="acc")]], "alpha": [0.0, 0.1]}
    with stacked_fits():
        search = GridSearchCV(classifier(), grid, cv=2, refit=False).fit(X, Y)
    without, with_callbacks = search.cv_results_["mean_test_score"].reshape(2, 2).T  # alpha varies more slowly
    np.testing.assert_array_equal(with_callbacks, without)


def test_a_model_with_callbacks_can_be_pickled():
    model = classifier(callbacks=[("scores", skorch_callbacks.EpochScoring("accuracy", name="acc"))]).fit(X, Y)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_nothing_is_printed_by_default(capsys):
    MLPTorchRegressor(max_iter=2, callbacks=[BatchSpy()], random_state=0).fit(*load_diabetes(return_X_y=True))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["number", "callback of scikit-learn", "named number"])
def test_other_things_are_no_callbacks_of_skorch(kind):
    wrong = {"number": 3, "callback of scikit-learn": TimeLimit(1.0), "named number": ("name", 3)}[kind]
    message = r"callbacks must be callbacks of skorch, or pairs of a name and one, but got .*set_callbacks"
    with pytest.raises(TypeError, match=message):
        classifier(callbacks=[wrong]).fit(X, Y)


LOGGERS = {
    "tensorboard": (skorch_callbacks.TensorBoard, "add_scalar"),
    "mlflow": (lambda log: skorch_callbacks.MlflowLogger(MagicMock(), log), "log_metric"),
    "sacred": (skorch_callbacks.SacredLogger, "log_scalar"),
}


@pytest.mark.parametrize("name", LOGGERS)
def test_loggers_log_each_epoch(name):
    make, method = LOGGERS[name]
    log = MagicMock()
    classifier(callbacks=[make(log)]).fit(X_TRAIN, Y_TRAIN, X_val=X_VAL, y_val=Y_VAL)
    logged = [str(call) for call in getattr(log, method).call_args_list]
    assert sum("train_loss" in call for call in logged) == sum("valid_loss" in call for call in logged) == 6


def test_progress_bar(capsys):
    classifier(callbacks=[skorch_callbacks.ProgressBar()]).fit(X, Y)
    assert "0/6" in capsys.readouterr().err

"""Fits of small networks on digits, and optimizers that differ in all that may differ."""

import math
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_info

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._data.shuffling import Shuffler
from sktorch_mlp._nn.dropout import Dropout
from sktorch_mlp._nn.initialization import initial_parameters
from sktorch_mlp._nn.losses import LogLoss
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._training.adam import Adam, AdamW
from sktorch_mlp._training.fit import Fit
from sktorch_mlp._training.optimizers import SGD
from sktorch_mlp._training.progress import Progress, TrainingOptions
from sktorch_mlp._training.scaled_adam import InputScalingAdamW
from sktorch_mlp._training.schedules import Adaptive, Cosine, InverseScaling, OneCycle, Schedule

CPU = torch.device("cpu")
N_ROWS = 150
UNITS = (64, 12, 8, 10)

X, Y = load_digits(return_X_y=True)
X, Y = X[:N_ROWS] / 16, Y[:N_ROWS]
WEIGHTS = np.random.RandomState(3).uniform(0.1, 2, N_ROWS)

OPTIONS = TrainingOptions(alpha=1e-3, batch_size=32, max_iter=25, tol=1e-2, n_iter_no_change=2)
#: Options of four fits that stop at different epochs for different reasons.
DIFFERENT = [
    replace(OPTIONS, max_iter=7),
    replace(OPTIONS, alpha=0.0),
    replace(OPTIONS, tol=0.2),
    replace(OPTIONS, alpha=1.0, n_iter_no_change=math.inf),
]


def make_data(*, sparse=False, weighted=False, validation=False, train_rows=None, device=CPU):
    """All digits, or with `validation` 110 to train on and 40 held out; `train_rows` chooses others."""
    order = np.random.RandomState(4).permutation(N_ROWS)
    weights = torch.from_numpy(WEIGHTS).to(device) if weighted else None
    rows = Rows.from_array(sp.csr_array(X) if sparse else X, device)
    if train_rows is None:
        train_rows = order[:110] if validation else np.arange(N_ROWS)
    train = Samples(rows, torch.from_numpy(Y)[None].to(device), weights, [train_rows])
    return TrainingData(train, replace(train, indices=[order[110:]]) if validation else None)


def make_fit(
    optimizer, options=OPTIONS, seed=0, *, data=None, activations="relu", normalization=None, dropout=None,
    dtype=torch.float64, **fit,
):  # fmt: skip
    """A fit with scikit-learn's initial weights and mini-batches; `fit` are further attributes of it."""
    data = make_data() if data is None else data
    activations = (activations,) * 2 if isinstance(activations, str) else activations
    sparse_input = data.train.rows.is_sparse
    spec = NetworkSpec(UNITS, activations, normalization, sparse_input, dtype=dtype, device=data.train.rows.device)
    network = StackedMLP(spec)
    random_state = np.random.RandomState(seed)
    network.set_weights(0, *initial_parameters(UNITS, "relu", random_state))
    if dropout is not None:
        network.dropout = Dropout([[dropout] * 2], [torch.Generator(spec.device).manual_seed(seed)])
    return Fit(
        **{
            "network": network,
            "loss": LogLoss(10),
            "data": data,
            "shuffler": Shuffler(data.train.indices[0], random_state),
            "options": options,
            "progress": Progress(),
            "optimizer": optimizer,
        }
        | fit
    )


# Optimizers of one network; those of different k have different settings ------------------


def adam(k):
    """Adam at a constant rate."""
    rate, beta_1, beta_2 = [(1e-3, 0.9, 0.999), (3e-3, 0.5, 0.9), (1e-2, 0.9, 0.99), (2e-2, 0.8, 0.999)][k]
    return Adam([Schedule(rate)], [beta_1], [beta_2], [1e-8])


def adamw(k):
    """AdamW with rates that change from step to step, and from epoch to epoch."""
    schedule = [OneCycle(0.01, 7, 0.3), Cosine(0.02, 25, 0.1), Cosine(0.01, 9, 0.0), Adaptive(0.02)][k]
    plain = adam(k)
    return AdamW([schedule], plain.beta_1, plain.beta_2, plain.epsilon, [[0.0, 0.1, 1.0, 0.5][k]])


def sgd(k, schedule=Adaptive):
    """SGD with Nesterov's momentum; one of them without momentum."""
    rate, momentum = [(0.05, 0.9), (0.1, 0.0), (0.2, 0.5), (0.01, 0.8)][k]
    return SGD([schedule(rate)], [momentum], True)


def invscaling(k):
    """SGD at rates that fall with the rows seen."""
    return sgd(k, lambda rate: InverseScaling(rate, [0.5, 0.3, 0.1, 0.5][k]))


def scaling(k):
    """AdamW that learns scales of the inputs, too."""
    plain = adamw(k)
    settings = plain.beta_1, plain.beta_2, plain.epsilon, plain.weight_decay, [[6.0, 1.0, 3.0, 6.0][k]]
    return InputScalingAdamW(plain.schedules, *settings)


OPTIMIZERS = {"adam": adam, "adamw": adamw, "scaling": scaling, "sgd": sgd, "invscaling": invscaling}


def assert_same_training(fit, expected, rtol=1e-9, atol=1e-12):
    """Both fits have trained alike. Stacked products sum in another order: rounding, grown over the steps."""
    ours, theirs = fit.progress, expected.progress
    assert (ours.n_iter, ours.stop_reason) == (theirs.n_iter, theirs.stop_reason)
    assert (ours.n_rows_seen, ours.n_epochs_no_change) == (theirs.n_rows_seen, theirs.n_epochs_no_change)
    np.testing.assert_allclose(ours.loss_curve, theirs.loss_curve, rtol=rtol)
    np.testing.assert_allclose(ours.validation_losses, theirs.validation_losses, rtol=rtol)
    np.testing.assert_array_equal(ours.validation_scores, theirs.validation_scores)
    for name, tensor in fit.network.state_dict().items():
        np.testing.assert_allclose(tensor, expected.network.state_dict()[name], rtol=rtol, atol=atol)
    if getattr(fit.optimizer, "momentum", [1.0]) != [0.0]:  # then a velocity does not count
        for name in fit.optimizer.moments:
            moment, expected_moment = getattr(fit.optimizer, name), getattr(expected.optimizer, name)
            np.testing.assert_allclose(moment, expected_moment, rtol=rtol, atol=atol)
    assert fit.optimizer.settings_key(0) == expected.optimizer.settings_key(0)
    np.testing.assert_array_equal(fit.shuffler.next_epoch(), expected.shuffler.next_epoch())


def blas_threads():
    """Numbers of threads of the BLAS libraries of this process."""
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

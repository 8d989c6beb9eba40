"""The epoch loop: a stack of networks trains as each of them alone, and stops as each alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits
from sklearn.utils import gen_batches, shuffle

from sktorch_mlp._data import MiniBatches, Rows, Shuffler, TrainingData
from sktorch_mlp._losses import LogLoss
from sktorch_mlp._network import StackedMLP, initial_parameters
from sktorch_mlp._solvers import SGD, Adam
from sktorch_mlp._training import Progress, TrainingOptions, train

CPU = torch.device("cpu")
N_ROWS = 150
UNITS = (64, 12, 8, 10)


def _data(*, sparse=False, weighted=False, validation=False):
    X, y = load_digits(return_X_y=True)
    X, y = X[:N_ROWS] / 16, y[:N_ROWS]
    weights = torch.from_numpy(np.random.RandomState(3).uniform(0.1, 2, N_ROWS)) if weighted else None
    rows = np.random.RandomState(4).permutation(N_ROWS)
    train_rows, validation_rows = (rows[:110], rows[110:]) if validation else (np.arange(N_ROWS), None)
    rows = Rows.of(sp.csr_array(X) if sparse else X, CPU)
    return TrainingData(rows, torch.from_numpy(y)[None], weights, train_rows, validation_rows)


def _train(data, seeds, solver, options, sparse=False):
    """Train one network a seed in one stack; final parameters, and progress."""
    network = StackedMLP(UNITS, "relu", len(seeds), dtype=torch.float64, sparse_input=sparse)
    shufflers, progress = [], [Progress() for _ in seeds]
    for k, seed in enumerate(seeds):
        random_state = np.random.RandomState(seed)
        network.load(k, *initial_parameters(UNITS, "relu", random_state))
        shufflers.append(Shuffler(data.train, random_state))
    train(network, solver, LogLoss(10), data, shufflers, options, progress)
    return network.flat.detach(), progress


OPTIONS = TrainingOptions(alpha=1e-3, batch_size=32, max_iter=25, tol=1e-2, n_iter_no_change=2)
# Networks that differ in all that may differ, and stop at different epochs for different reasons.
DIFFERENT = [
    replace(OPTIONS, max_iter=7),
    replace(OPTIONS, alpha=0.0),
    replace(OPTIONS, tol=0.2),
    replace(OPTIONS, alpha=1.0, n_iter_no_change=math.inf),
]
SEEDS = [0, 1, 2, 3]


def _adam(networks):
    rates, betas_1, betas_2, epsilons = (
        [1e-3, 3e-3, 1e-2, 2e-2],
        [0.9, 0.5, 0.9, 0.8],
        [0.999, 0.9, 0.99, 0.999],
        [1e-8] * 4,
    )
    return Adam(*([values[k] for k in networks] for values in (rates, betas_1, betas_2, epsilons)))


def _sgd(networks, schedule="adaptive"):
    rates, momenta, powers = [0.05, 0.1, 0.2, 0.01], [0.9, 0.0, 0.5, 0.8], [0.5, 0.3, 0.1, 0.5]
    return SGD(
        [rates[k] for k in networks], [momenta[k] for k in networks], True, schedule, [powers[k] for k in networks]
    )


def _invscaling(networks):
    return _sgd(networks, "invscaling")


@pytest.mark.parametrize("make_solver", [_adam, _sgd, _invscaling])
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"weighted": True},
        {"validation": True},
        {"sparse": True},
        {"sparse": True, "weighted": True, "validation": True},
    ],
    ids=lambda kind: "-".join(kind) or "plain",
)
def test_a_stack_trains_as_each_network_alone(make_solver, kind):
    data = _data(**kind)
    sparse = data.rows.is_sparse
    flat, progress = _train(data, SEEDS, make_solver(range(4)), DIFFERENT, sparse)
    for k, seed in enumerate(SEEDS):
        alone, (alone_progress,) = _train(data, [seed], make_solver([k]), [DIFFERENT[k]], sparse)
        assert progress[k].n_iter == alone_progress.n_iter
        assert progress[k].outcome == alone_progress.outcome
        np.testing.assert_allclose(progress[k].loss_curve, alone_progress.loss_curve, rtol=1e-9)
        np.testing.assert_array_equal(progress[k].validation_scores, alone_progress.validation_scores)
        # Stacked products sum in another order: rounding, grown over the steps.
        np.testing.assert_allclose(flat[k], alone[0], rtol=1e-9, atol=1e-12)
    assert len({p.n_iter for p in progress}) > 1, "the networks should stop at different epochs"


def test_the_solver_of_a_stack_can_go_on():
    data = _data()
    options = [replace(OPTIONS, max_iter=3), replace(OPTIONS, max_iter=6)]
    solver, alone_solver = _adam([0, 1]), _adam([1])
    _train(data, [0, 1], solver, options)
    _train(data, [1], alone_solver, options[1:])
    assert solver.n_steps == [3 * 5, 6 * 5]
    for name in Adam.moments:
        np.testing.assert_allclose(getattr(solver, name)[1], getattr(alone_solver, name)[0], rtol=1e-9, atol=1e-15)


def test_a_diverging_network_leaves_the_others_alone():
    data = _data()
    rates = [0.1, 1e200, 0.05]
    solver = SGD(rates, [0.9] * 3, True, "constant", [0.5] * 3)
    flat, progress = _train(data, [0, 1, 2], solver, [OPTIONS] * 3)
    assert [p.outcome for p in progress][1] == "diverged"
    assert not math.isfinite(progress[1].loss_curve[-1])
    for k in (0, 2):
        alone, (alone_progress,) = _train(data, [k], SGD([rates[k]], [0.9], True, "constant", [0.5]), [OPTIONS])
        np.testing.assert_allclose(progress[k].loss_curve, alone_progress.loss_curve, rtol=1e-9)
        np.testing.assert_allclose(flat[k], alone[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_networks", [1, 3])
def test_mini_batches_are_sklearns(n_networks):
    data = _data(weighted=True)
    shufflers = [Shuffler(data.train, np.random.RandomState(seed)) for seed in range(n_networks)]
    minibatches = MiniBatches(data, shufflers, 64)
    expected_rows = [np.arange(N_ROWS)] * n_networks
    streams = [np.random.RandomState(seed) for seed in range(n_networks)]
    assert minibatches.sizes == [64, 64, 22]
    for _ in range(3):
        expected_rows = [shuffle(rows, random_state=s) for rows, s in zip(expected_rows, streams, strict=True)]
        epoch = minibatches.next_epoch()
        targets = epoch.targets.reshape(n_networks, N_ROWS)
        for batch_slice, batch, scale in zip(gen_batches(N_ROWS, 64), epoch.batches, epoch.scales, strict=True):
            for k, rows in enumerate(expected_rows):
                chosen = rows[batch_slice]
                X = batch._rows.reshape(n_networks, len(chosen), 64)[k]
                assert torch.equal(X, data.rows.X[chosen])
                assert torch.equal(targets[k, batch_slice], data.targets[0, chosen])
                weights = data.weights[chosen]
                torch.testing.assert_close(scale.reshape(n_networks, -1)[k], weights / weights.sum())


def test_one_batch_of_all_rows_is_gathered_once_but_draws_as_often():
    data = _data()
    random_state, expected = np.random.RandomState(0), np.random.RandomState(0)
    minibatches = MiniBatches(data, [Shuffler(data.train, random_state)], N_ROWS)
    first, second = minibatches.next_epoch(), minibatches.next_epoch()
    for _ in range(2):
        expected.permutation(N_ROWS)
    assert first is second
    assert random_state.randint(2**31) == expected.randint(2**31)


def test_training_goes_on_where_it_stopped():
    """Three fits of two epochs give what one of six gives, given the same batches."""
    data = _data()
    runs = []
    for n_fits, max_iter in ((1, 6), (3, 2)):
        network = StackedMLP(UNITS, "relu", dtype=torch.float64)
        random_state = np.random.RandomState(0)
        network.load(0, *initial_parameters(UNITS, "relu", random_state))
        shuffler, solver, progress = Shuffler(data.train, random_state), _adam([1]), Progress()
        for _ in range(n_fits):
            train(network, solver, LogLoss(10), data, [shuffler], [replace(OPTIONS, max_iter=max_iter)], [progress])
        runs.append((network.flat.detach(), progress))
    (whole, progress), (pieces, pieces_progress) = runs
    assert progress.loss_curve == pieces_progress.loss_curve
    assert progress.n_rows_seen == pieces_progress.n_rows_seen == 6 * len(data.train)
    assert torch.equal(whole, pieces)

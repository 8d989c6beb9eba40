"""The epoch loop: a stack of networks trains as each of them alone, and stops as each alone."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from sklearn.datasets import load_digits
from sklearn.utils import gen_batches, shuffle

from sktorch_mlp import _capture, _solvers
from sktorch_mlp import _data as _data_module
from sktorch_mlp._data import MiniBatches, Samples, Segment, Shuffler, TrainingData
from sktorch_mlp._initialisation import initial_parameters
from sktorch_mlp._losses import LogLoss
from sktorch_mlp._network import StackedMLP
from sktorch_mlp._progress import Progress, TrainingOptions
from sktorch_mlp._rows import Rows
from sktorch_mlp._schedules import Adaptive, Cosine, InverseScaling, OneCycle, Schedule
from sktorch_mlp._solvers import SGD, Adam, AdamW
from sktorch_mlp._training import train

CPU = torch.device("cpu")
N_ROWS = 150
UNITS = (64, 12, 8, 10)


def _data(n_networks=1, *, sparse=False, weighted=False, validation=False):
    X, y = load_digits(return_X_y=True)
    X, y = X[:N_ROWS] / 16, y[:N_ROWS]
    weights = torch.from_numpy(np.random.RandomState(3).uniform(0.1, 2, N_ROWS)) if weighted else None
    order = np.random.RandomState(4).permutation(N_ROWS)
    rows = Rows.of(sp.csr_array(X) if sparse else X, CPU)
    samples = Samples(rows, torch.from_numpy(y)[None], weights, [np.arange(N_ROWS)] * n_networks)
    if not validation:
        return TrainingData(samples)
    parts = order[:110], order[110:]
    return TrainingData(*(replace(samples, indices=[part] * n_networks) for part in parts))


def _train(data, seeds, solver, options, sparse=False, activation="relu", **params):
    """Train one network a seed in one stack; final parameters, and progress."""
    network = StackedMLP(UNITS, activation, len(seeds), dtype=torch.float64, sparse_input=sparse, **params)
    shufflers, progress = [], [Progress() for _ in seeds]
    for k, seed in enumerate(seeds):
        random_state = np.random.RandomState(seed)
        network.load(k, *initial_parameters(UNITS, "relu", random_state))
        shufflers.append(Shuffler(data.train.indices[k], random_state))
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
    schedules = [Schedule(rate) for rate in rates]
    return Adam(*([values[k] for k in networks] for values in (schedules, betas_1, betas_2, epsilons)))


def _adamw(networks):
    """With rates that change from step to step, and from epoch to epoch."""
    adam, schedules = (
        _adam(networks),
        [OneCycle(0.01, 7, 0.3), Cosine(0.02, 25, 0.1), Cosine(0.01, 9, 0.0), Adaptive(0.02)],
    )
    settings = [adam.beta_1, adam.beta_2, adam.epsilon]
    return AdamW([schedules[k] for k in networks], *settings, [[0.0, 0.1, 1.0, 0.5][k] for k in networks])


def _sgd(networks, schedule=Adaptive):
    rates, momenta = [0.05, 0.1, 0.2, 0.01], [0.9, 0.0, 0.5, 0.8]
    return SGD([schedule(rates[k]) for k in networks], [momenta[k] for k in networks], True)


def _invscaling(networks):
    powers = iter([[0.5, 0.3, 0.1, 0.5][k] for k in networks])
    return _sgd(networks, lambda rate: InverseScaling(rate, next(powers)))


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
    data = _data(len(SEEDS), **kind)
    sparse = data.train.rows.is_sparse
    flat, progress = _train(data, SEEDS, make_solver(range(4)), DIFFERENT, sparse)
    for k, seed in enumerate(SEEDS):
        alone, (alone_progress,) = _train(data.keep([k]), [seed], make_solver([k]), [DIFFERENT[k]], sparse)
        assert progress[k].n_iter == alone_progress.n_iter
        assert progress[k].outcome == alone_progress.outcome
        np.testing.assert_allclose(progress[k].loss_curve, alone_progress.loss_curve, rtol=1e-9)
        np.testing.assert_array_equal(progress[k].validation_scores, alone_progress.validation_scores)
        # Stacked products sum in another order: rounding, grown over the steps.
        np.testing.assert_allclose(flat[k], alone[0], rtol=1e-9, atol=1e-12)
    assert len({p.n_iter for p in progress}) > 1, "the networks should stop at different epochs"


def test_the_solver_of_a_stack_can_go_on():
    data = _data(2)
    options = [replace(OPTIONS, max_iter=3), replace(OPTIONS, max_iter=6)]
    solver, alone_solver = _adam([0, 1]), _adam([1])
    _train(data, [0, 1], solver, options)
    _train(data.keep([1]), [1], alone_solver, options[1:])
    assert solver.n_steps == [3 * 5, 6 * 5]
    for name in Adam.moments:
        np.testing.assert_allclose(getattr(solver, name)[1], getattr(alone_solver, name)[0], rtol=1e-9, atol=1e-15)


def test_a_diverging_network_leaves_the_others_alone():
    data = _data(3)
    rates = [0.1, 1e200, 0.05]
    solver = SGD([*map(Schedule, rates)], [0.9] * 3, True)
    flat, progress = _train(data, [0, 1, 2], solver, [OPTIONS] * 3)
    assert [p.outcome for p in progress][1] == "diverged"
    assert not math.isfinite(progress[1].loss_curve[-1])
    for k in (0, 2):
        alone, (alone_progress,) = _train(data.keep([k]), [k], SGD([Schedule(rates[k])], [0.9], True), [OPTIONS])
        np.testing.assert_allclose(progress[k].loss_curve, alone_progress.loss_curve, rtol=1e-9)
        np.testing.assert_allclose(flat[k], alone[0], rtol=1e-9, atol=1e-12)


@pytest.fixture(params=[2**17, 128, 64, 1], ids=lambda rows: f"segments of {rows} rows")
def segment_rows(request, monkeypatch):
    monkeypatch.setattr(_data_module, "_SEGMENT_ROWS", request.param)


@pytest.mark.parametrize("n_networks", [1, 3])
def test_mini_batches_are_sklearns(n_networks, segment_rows):
    data = _data(n_networks, weighted=True)
    shufflers = [Shuffler(data.train.indices[0], np.random.RandomState(seed)) for seed in range(n_networks)]
    minibatches = MiniBatches(data.train, shufflers, 64)
    expected_rows = [np.arange(N_ROWS)] * n_networks
    streams = [np.random.RandomState(seed) for seed in range(n_networks)]
    for epoch in range(3):
        expected_rows = [shuffle(rows, random_state=s) for rows, s in zip(expected_rows, streams, strict=True)]
        slices = gen_batches(N_ROWS, 64)
        if epoch == 1:
            minibatches.shuffle_ahead()
        for segment in minibatches.next_epoch():
            for batch, targets, scale in zip(segment.batches(), segment.target_parts, segment.scales, strict=True):
                batch_slice = next(slices)
                for k, rows in enumerate(expected_rows):
                    chosen = rows[batch_slice]
                    X = batch._rows.reshape(n_networks, len(chosen), 64)[k]
                    assert torch.equal(X, data.train.rows.X[chosen])
                    assert torch.equal(targets.reshape(n_networks, -1)[k], data.train.targets[0, chosen])
                    weights = data.train.weights[chosen]
                    torch.testing.assert_close(scale.reshape(n_networks, -1)[k], weights / weights.sum())
        assert next(slices, None) is None


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_segments_do_not_change_the_numbers(weighted, segment_rows):
    data = _data(2, weighted=weighted)
    flat, progress = _train(data, [0, 1], _adam([0, 1]), [replace(OPTIONS, max_iter=3)] * 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_data_module, "_SEGMENT_ROWS", 2**17)
        expected, expected_progress = _train(data, [0, 1], _adam([0, 1]), [replace(OPTIONS, max_iter=3)] * 2)
    # A segment's sums of weights are taken in an order that depends on its length.
    torch.testing.assert_close(flat, expected, rtol=1e-12, atol=1e-14)
    for ours, theirs in zip(progress, expected_progress, strict=True):
        np.testing.assert_allclose(ours.loss_curve, theirs.loss_curve, rtol=1e-13)


def test_one_batch_of_all_rows_is_gathered_once_but_draws_as_often():
    data = _data()
    random_state, expected = np.random.RandomState(0), np.random.RandomState(0)
    minibatches = MiniBatches(data.train, [Shuffler(data.train.indices[0], random_state)], N_ROWS)
    batches = []
    for _ in range(2):
        (segment,) = minibatches.next_epoch()
        batches += segment.batches()
        expected.permutation(N_ROWS)
    assert batches[0] is batches[1]
    assert batches[0]._rows.data_ptr() == data.train.rows.X.data_ptr()
    assert random_state.randint(2**31) == expected.randint(2**31)


@pytest.mark.parametrize("batch_size", [32, 200])
@pytest.mark.parametrize("kind", [{}, {"weighted": True}, {"sparse": True}, {"validation": True}], ids="-".join)
def test_networks_on_other_rows_and_targets_train_as_each_alone(kind, batch_size):
    """Rows, numbers of rows, targets and weights differ from network to network."""
    data = _data(3, **kind)
    rng = np.random.RandomState(5)
    many, fewer = rng.permutation(N_ROWS)[:128], rng.permutation(N_ROWS)[:125]
    data.train.indices = [many, fewer, np.sort(many)]
    if data.validation is not None:
        data.validation.indices = [rng.permutation(N_ROWS)[:n] for n in (20, 19, 20)]
    n_sets = 2
    for samples in filter(None, (data.train, data.validation)):
        samples.targets = torch.cat([samples.targets, samples.targets.flip(-1)], -1)
        samples.weights = None if samples.weights is None else torch.cat([samples.weights, samples.weights.flip(-1)])
        samples.starts = [(0, 0), (0, N_ROWS), (0, N_ROWS)]
    assert data.train.targets.shape[-1] == n_sets * N_ROWS
    options = [replace(OPTIONS, batch_size=min(batch_size, len(rows)), max_iter=6) for rows in data.train.indices]
    sparse = data.train.rows.is_sparse
    flat, progress = _train(data, [0, 1, 2], _adam([0, 1, 2]), options, sparse)
    for k in range(3):
        alone, (alone_progress,) = _train(data.keep([k]), [k], _adam([k]), [options[k]], sparse)
        assert progress[k].n_iter == alone_progress.n_iter
        assert progress[k].n_rows_seen == alone_progress.n_rows_seen
        np.testing.assert_allclose(progress[k].loss_curve, alone_progress.loss_curve, rtol=1e-9)
        np.testing.assert_allclose(progress[k].validation_scores, alone_progress.validation_scores, rtol=1e-12)
        np.testing.assert_allclose(flat[k], alone[0], rtol=1e-9, atol=1e-12)


def test_unlike_numbers_of_batches_do_not_stack():
    data = _data(2)
    data.train.indices = [np.arange(64), np.arange(65)]
    with pytest.raises(ValueError, match="64 and 65 rows"):
        MiniBatches(data.train, [Shuffler(rows, None) for rows in data.train.indices], 64)


class _FakeGraph:
    """A graph without a GPU: to replay is to run the function again, with the arguments of its recording."""

    recorded = 0

    def __init__(self, function, device):
        self._function, self._fresh = function, True
        with pytest.MonkeyPatch.context() as patch:  # what would wait for a GPU, or copy to it, cannot be captured
            for name in ("new_tensor", "item", "tolist", "__bool__", "__float__", "cpu", "numpy"):
                patch.setattr(torch.Tensor, name, self._cannot_be_captured)
            patch.setattr(torch, "tensor", self._cannot_be_captured)
            self.result = function().clone()
        _FakeGraph.recorded += 1

    @staticmethod
    def _cannot_be_captured(*args, **kwargs):
        raise AssertionError("not while a graph is captured")

    def replay(self):
        if not self._fresh:  # recording has run the function for real here
            self.result.copy_(self._function())
        self._fresh = False


@pytest.mark.parametrize(
    "params", [{}, {"normalization": "batch"}, {"normalization": "layer", "activation": "gelu"}], ids=str
)
@pytest.mark.parametrize("make_solver", [_adam, _sgd, _invscaling, _adamw])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
def test_captured_steps_train_as_others(make_solver, weighted, params, monkeypatch):
    """What a graph replays must depend on nothing but tensors that stay in place."""
    options = [replace(option, gradient_clip_norm=0.1) for option in DIFFERENT] if params else DIFFERENT
    data = _data(4, weighted=weighted)
    monkeypatch.setattr(_data_module, "_SEGMENT_ROWS", 64)  # two batches a segment, the last one short
    monkeypatch.setattr(_solvers, "_fused_adam", lambda params: None)  # on a GPU a stack does not use it
    expected, expected_progress = _train(data, SEEDS, make_solver(range(4)), options, **params)

    init = Segment.__init__

    def capturable(segment, *args, **kwargs):
        init(segment, *args, **kwargs)
        segment.can_be_captured = len(args[2]) > 1  # rates of one network on the CPU are no tensors

    monkeypatch.setattr(Segment, "__init__", capturable)
    monkeypatch.setattr(_capture, "CudaGraph", _FakeGraph)
    _FakeGraph.recorded = 0
    flat, progress = _train(data, SEEDS, make_solver(range(4)), options, **params)
    assert _FakeGraph.recorded >= 2
    assert torch.equal(flat, expected)
    assert [p.loss_curve for p in progress] == [p.loss_curve for p in expected_progress]


def test_training_goes_on_where_it_stopped():
    """Three fits of two epochs give what one of six gives, given the same batches."""
    data = _data()
    runs = []
    for n_fits, max_iter in ((1, 6), (3, 2)):
        network = StackedMLP(UNITS, "relu", dtype=torch.float64)
        random_state = np.random.RandomState(0)
        network.load(0, *initial_parameters(UNITS, "relu", random_state))
        shuffler, solver, progress = Shuffler(data.train.indices[0], random_state), _adam([1]), Progress()
        for _ in range(n_fits):
            train(network, solver, LogLoss(10), data, [shuffler], [replace(OPTIONS, max_iter=max_iter)], [progress])
        runs.append((network.flat.detach(), progress))
    (whole, progress), (pieces, pieces_progress) = runs
    assert progress.loss_curve == pieces_progress.loss_curve
    assert progress.n_rows_seen == pieces_progress.n_rows_seen == 6 * len(data.train.indices[0])
    assert torch.equal(whole, pieces)

"""Learning rate schedules against scikit-learn's and PyTorch's."""

import numpy as np
import pytest
import torch
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer
from torch.optim import lr_scheduler

from sktorch_mlp._training.optimizers import SGD
from sktorch_mlp._training.schedules import Adaptive, Cosine, InverseScaling, OneCycle, Schedule

MAKE = {
    "constant": lambda: Schedule(0.5),
    "invscaling": lambda: InverseScaling(0.5, 0.3),
    "adaptive": lambda: Adaptive(0.5),
    "cosine": lambda: Cosine(0.5, 6, 0.4),
    "one_cycle": lambda: OneCycle(0.5, 6, 0.3),
}


def _rates(schedule, n_epochs, n_steps, segment=None):
    """Rates of all steps, one list for each epoch; asked for some steps at a time."""
    segment = segment or n_steps
    rates = []
    for epoch in range(n_epochs):
        sizes = [min(segment, n_steps - start) for start in range(0, n_steps, segment)]
        rates.append([rate for size in sizes for rate in schedule.next_rates(size, n_steps)])
        assert len(rates[-1]) == n_steps
        assert schedule.learning_rate == rates[-1][-1]
        schedule.end_epoch(100 * (epoch + 1))
    return rates


def _torch_rates(make_scheduler, n_steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, rates = make_scheduler(optimizer), []
    for step in range(n_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < n_steps - 1:
            scheduler.step()
    return rates


@pytest.mark.parametrize("name", ["constant", "invscaling", "adaptive"])
def test_schedules_match_sklearn(name):
    theirs, schedule = SGDOptimizer([np.zeros(3)], 0.5, name, power_t=0.3), MAKE[name]()
    for t in range(1, 30):
        assert [*schedule.next_rates(2, 2)] == [pytest.approx(theirs.learning_rate, rel=1e-15)] * 2
        theirs.iteration_ends(100 * t)
        schedule.end_epoch(100 * t)
        assert schedule.learning_rate == pytest.approx(theirs.learning_rate, rel=1e-15)
        assert schedule.on_plateau()[0] == theirs.trigger_stopping("", verbose=False)
        assert schedule.learning_rate == pytest.approx(theirs.learning_rate, rel=1e-15)


@pytest.mark.parametrize("name", ["constant", "invscaling", "adaptive"])
def test_messages_at_plateaus_match_sklearn(name, capsys):
    theirs, schedule = SGDOptimizer([np.zeros(3)], 0.5, name, power_t=0.3), MAKE[name]()
    for _ in range(12):
        theirs.trigger_stopping("Why.", verbose=True)
        _, message = schedule.on_plateau()
        assert capsys.readouterr().out == f"Why. {message}\n"


@pytest.mark.parametrize("segment", [None, 3])
def test_cosine_matches_pytorch(segment):
    expected = _torch_rates(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 6), 6)
    rates = _rates(Cosine(0.5, 6, 0.0), 6, 8, segment)
    np.testing.assert_allclose(rates, np.tile(expected, (8, 1)).T, rtol=1e-12)


# PyTorch before 2.7 warns of its own call.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
def test_cosine_with_warmup_is_linear_then_cosine():
    """PyTorch's rise is by the epoch where ours is by the step: they agree with one step in each epoch."""

    def make(optimizer):
        parts = [
            lr_scheduler.LinearLR(optimizer, 1 / 4, 1.0, 3),
            lr_scheduler.CosineAnnealingLR(optimizer, 6),
        ]
        return lr_scheduler.SequentialLR(optimizer, parts, [4])

    np.testing.assert_allclose(np.ravel(_rates(Cosine(0.5, 10, 0.4), 10, 1)), _torch_rates(make, 10), rtol=1e-12)


def test_warmup_is_by_the_step():
    rates = np.ravel(_rates(Cosine(0.5, 10, 0.25), 3, 4, 3))
    np.testing.assert_allclose(rates[:10], 0.5 * np.arange(1, 11) / 10, rtol=1e-12)
    assert (rates[10:] < 0.5 + 1e-12).all()


@pytest.mark.parametrize("segment", [None, 3])
@pytest.mark.parametrize("warmup", [0.3, 0.25])
def test_one_cycle_matches_pytorch(warmup, segment):
    def make(optimizer):
        return lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=48, pct_start=warmup, cycle_momentum=False)

    expected = _torch_rates(make, 48)
    np.testing.assert_allclose(np.ravel(_rates(OneCycle(0.5, 6, warmup), 6, 8, segment)), expected, rtol=1e-12)


@pytest.mark.parametrize("name", ["cosine", "one_cycle"])
def test_planned_rates_keep_their_last_value(name):
    rates = _rates(MAKE[name](), 9, 4)
    assert rates[6] == rates[7] == rates[8] == [rates[5][-1]] * 4
    assert rates[5][-1] < 0.1


def test_a_cycle_of_one_step_is_at_the_top():
    assert _rates(OneCycle(0.5, 1, 0.3), 1, 1) == [[0.5]]


def test_which_rates_depend_on_what_training_reaches():
    assert {name for name, make in MAKE.items() if make().depends_on_training} == {"invscaling", "adaptive"}


@pytest.mark.parametrize("name", MAKE)
def test_a_state_dict_restores_a_schedule(name):
    schedule = MAKE[name]()

    def advance(schedule):
        schedule.on_plateau()
        return _rates(schedule, 2, 3)

    advance(schedule)
    state = schedule.state_dict()
    expected = advance(schedule)
    other = type(schedule).__new__(type(schedule))
    for restored in (schedule, schedule, other):
        restored.load_state_dict(state)
        assert advance(restored) == expected


@pytest.mark.parametrize("name", MAKE)
def test_equal_keys_are_for_equal_rates_from_now_on(name):
    one, other = MAKE[name](), MAKE[name]()
    assert one.key() == other.key()
    _rates(one, 1, 3)
    one.on_plateau()
    assert (one.key() == other.key()) == (name == "constant")
    keys = [make().key() for make in MAKE.values()]
    assert len(set(keys)) == len(keys)
    assert len(sorted(keys)) == len(keys)  # they can be compared


def test_a_schedule_remains_after_a_fit():
    schedule = MAKE["cosine"]()
    assert schedule.inner is schedule


def test_an_optimizer_asks_each_schedule_for_its_rates():
    schedules = [Schedule(0.5), Cosine(0.5, 6, 0.0)]
    optimizer = SGD(schedules, [0.0, 0.0], True)
    optimizer._n_steps_of_epoch = 2
    assert [*optimizer._next_rates(2)] == [(0.5, 0.5)] * 2
    schedules[1].end_epoch(10)
    assert [*optimizer._next_rates(2)] == [(0.5, pytest.approx(0.4665063509461097, rel=1e-12))] * 2

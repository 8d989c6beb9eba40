"""Several observers of a fit as one."""

import pytest

from sktorch_mlp._training.observers import ObserverList
from sktorch_mlp._training.schedules import Schedule


class _Observer:
    def __init__(self, name, told, *, stops=False, trains_alone=False, batch_hooks=None):
        self.name, self.told, self.stops = name, told, stops
        self.trains_alone, self.batch_hooks = trains_alone, batch_hooks

    def wrap_schedule(self, schedule):
        self.told.append((self.name, "wrap_schedule", schedule.learning_rate))
        return Schedule(schedule.learning_rate + 1)

    def on_epoch_end(self, network, k):
        self.told.append((self.name, "on_epoch_end", network, k))
        return self.stops

    def __getattr__(self, hook):
        if not hook.startswith("on_"):
            raise AttributeError(hook)
        return lambda: self.told.append((self.name, hook))


@pytest.mark.parametrize("hook", ["on_restart", "on_train_begin", "on_epoch_begin", "on_train_end", "on_fit_end"])
def test_all_are_told_in_their_order(hook):
    told = []
    getattr(ObserverList([_Observer("a", told), _Observer("b", told)]), hook)()
    assert told == [("a", hook), ("b", hook)]


@pytest.mark.parametrize("stops", [(False, False), (True, False), (False, True), (True, True)])
def test_one_is_enough_to_stop_and_all_are_told(stops):
    told = []
    observers = ObserverList([_Observer(name, told, stops=stop) for name, stop in zip("ab", stops, strict=True)])
    assert observers.on_epoch_end("network", 3) == any(stops)
    assert told == [("a", "on_epoch_end", "network", 3), ("b", "on_epoch_end", "network", 3)]


def test_each_wraps_the_schedule_of_the_one_before():
    told = []
    schedule = ObserverList([_Observer("a", told), _Observer("b", told)]).wrap_schedule(Schedule(1.0))
    assert schedule.learning_rate == 3.0
    assert told == [("a", "wrap_schedule", 1.0), ("b", "wrap_schedule", 2.0)]


def test_one_is_enough_to_train_alone():
    told = []
    assert not ObserverList([_Observer("a", told), _Observer("b", told)]).trains_alone
    assert ObserverList([_Observer("a", told), _Observer("b", told, trains_alone=True)]).trains_alone


def test_batch_hooks_are_those_of_the_one_that_has_them():
    told, hooks = [], object()
    assert ObserverList([_Observer("a", told)]).batch_hooks is None
    assert ObserverList([_Observer("a", told), _Observer("b", told, batch_hooks=hooks)]).batch_hooks is hooks


def test_without_observers_there_is_nothing_to_tell():
    assert not ObserverList([])
    assert ObserverList([_Observer("a", [])])
    assert ObserverList([]).on_epoch_end("network", 0) is False

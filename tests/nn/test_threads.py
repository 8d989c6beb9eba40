"""Large calls on one thread or on several: whichever is quicker."""

from functools import partial
from itertools import product

import pytest
import torch

from sktorch_mlp._nn.activations import ACTIVATIONS
from sktorch_mlp._nn.gradients import _share
from sktorch_mlp._nn.network import NetworkSpec, StackedMLP
from sktorch_mlp._nn.threads import (
    _OPERATIONS_PER_THREAD,
    ThreadChoice,
    _Contention,
    _threads_with_full_shares,
    _TimedCall,
    call_on,
    readers,
    share_elementwise,
    threads_for_large_calls,
)

pytestmark = pytest.mark.usefixtures("two_torch_threads")


@pytest.fixture(autouse=True)
def on_one_thread(two_torch_threads):
    torch.set_num_threads(1)


class Simulation:
    """Calls that should take a millisecond on one thread, and take what they are told; nothing waits for it."""

    def __init__(self, **seconds):
        self.seconds = seconds
        self.now = 0.0
        self.contention = _Contention()
        self.seen = []

    def make_call(self):
        choice = ThreadChoice(10**7, contention=self.contention, clock=lambda: self.now)
        return _TimedCall(self._work, partial(call_on, 2, self._work), self._work, 10**7, choice)

    def _work(self):
        n_threads = torch.get_num_threads()
        self.seen.append(n_threads)
        self.now += self.seconds["on_one" if n_threads == 1 else "on_two"]
        return n_threads


def test_calls_take_the_threads_that_are_quicker():
    simulation = Simulation(on_one=0.0008, on_two=0.0005)
    call = simulation.make_call()
    assert [call() for _ in range(1000)] == simulation.seen
    assert 0 < 0.0008 * simulation.seen.count(1) / simulation.now <= 0.05  # one is tried now and then
    assert torch.get_num_threads() == 1


def test_calls_for_which_threads_are_slower_take_one():
    simulation = Simulation(on_one=0.0005, on_two=0.0011)
    call = simulation.make_call()
    for _ in range(1000):
        call()
    assert 0 < 0.0011 * simulation.seen.count(2) / simulation.now <= 0.055


def test_nothing_is_learned_of_a_call_that_is_not_typical():
    simulation = Simulation(on_one=0.0008, on_two=0.0005)
    choice = ThreadChoice(10**7, contention=simulation.contention, clock=lambda: simulation.now)
    work, shared = simulation._work, partial(call_on, 2, simulation._work)
    simulation.seconds["on_two"] = 1.0
    assert choice.call(work, shared, 10**7, is_typical=False) == 2
    simulation.seconds["on_two"] = 0.0005
    assert [choice.call(work, shared, 10**7) for _ in range(5)] == [2] * 5


def test_where_threads_collapse_no_call_tries_them_for_a_while():
    simulation = Simulation(on_one=0.0005, on_two=0.05)
    calls = [simulation.make_call() for _ in range(5)]
    while simulation.now < 0.95:
        for call in calls:
            call()
    assert simulation.seen.count(2) == 3  # the first may have been chance, and the second that of another library
    while simulation.now < 30:
        for call in calls:
            call()
    assert 0.05 * simulation.seen.count(2) / simulation.now < 0.06  # all calls together

    simulation.seconds["on_two"] = 0.0002  # the other programs are gone
    end = simulation.now + 6
    while simulation.now < end:
        for call in calls:
            call()
    assert simulation.seen[-500:].count(2) > 400


def test_threads_that_collapse_in_between_are_left():
    simulation = Simulation(on_one=0.0005, on_two=0.0003)
    call = simulation.make_call()
    for _ in range(100):
        call()
    simulation.seconds["on_two"] = 0.05
    simulation.seen.clear()
    for _ in range(100):
        call()
    assert simulation.seen.count(2) <= 3


def test_threads_that_sleep_are_woken_before_they_are_tried():
    simulation = Simulation(on_one=0.0005, on_two=0.0011)
    call = simulation.make_call()
    for _ in range(10):
        call()  # two threads are slower, and left
    simulation.seen.clear()
    for _ in range(1000):
        n_awake = len(simulation.seen) - "".join(map(str, simulation.seen)).rfind("1") - 1
        simulation.seconds["on_two"] = 0.0011 if n_awake == 0 else 0.0003
        call()
    assert simulation.seen[-500:].count(2) > 450


class Reading:
    has_ended = False


def test_a_thread_that_reads_has_a_core():
    simulation = Simulation(on_one=0.0008, on_two=0.0005)
    call = simulation.make_call()
    assert call() == 2
    reading = Reading()
    readers.begin(reading)
    assert [call() for _ in range(100)] == [1] * 100
    reading.has_ended = True
    assert 2 in [call() for _ in range(3)]  # one of which tries one thread


def test_calls_that_leave_a_core_need_not_leave_another():
    with threads_for_large_calls(8):
        few, many = (
            share_elementwise(torch.get_num_threads, n_threads * _OPERATIONS_PER_THREAD) for n_threads in (7, 8)
        )
    reading = Reading()
    readers.begin(reading)
    assert (few(), many()) == (7, 7)
    del reading  # Ctrl-C has ended what would have set it
    assert (few(), many()) == (7, 8)


def test_a_process_that_was_stopped_tries_threads_again_within_a_minute():
    simulation = Simulation(on_one=0.0005, on_two=0.0003)
    call = simulation.make_call()
    call()
    simulation.seconds["on_two"] = 3600
    call()
    simulation.seconds["on_two"] = 0.0003
    end = simulation.now + 61
    while simulation.now < end:
        call()
    assert simulation.seen[-100:].count(2) > 90


def test_the_setting_comes_back_after_an_error():
    def fail():
        assert torch.get_num_threads() == 2
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call_on(2, fail)
    assert torch.get_num_threads() == 1


def test_small_calls_are_as_they_are():
    def call():
        return None

    with threads_for_large_calls(2):
        assert share_elementwise(call, 1000) is call
    assert share_elementwise(call, 10**9) is call  # nobody has given threads
    with threads_for_large_calls(1):
        assert share_elementwise(call, 10**9) is call


@pytest.mark.parametrize(
    ("n_elements", "n_threads", "expected"),
    [
        (2**20, 2, 2),
        (2**20, 3, 2),  # a third is no whole number of vectors
        (3 * 2**18, 3, 3),
        (2**16, 8, 2),  # PyTorch gives a thread no fewer
        (2**15, 8, 1),
        (255 * 1001, 8, 1),
        (200 * 1000, 8, 5),
    ],
)
def test_threads_leave_no_elements_over(n_elements, n_threads, expected):
    assert _threads_with_full_shares(n_elements, n_threads) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(255, 515), (512, 512)], ids=str)
@pytest.mark.parametrize("name", [*ACTIVATIONS, torch.sin])
def test_no_activation_depends_on_threads(name, shape, dtype):
    """PyTorch rounds exponentials otherwise where a thread's share ends within a vector."""
    network = StackedMLP(NetworkSpec((1, 1, 1), (name,), dtype=dtype))
    activation = ACTIVATIONS.get(name)
    functions = [torch.sin] if activation is None else [activation.forward_, activation.backward_]
    generator, n_shared = torch.Generator().manual_seed(0), 0
    with torch.no_grad():
        for function, n_threads in product(functions, (2, 3, 5)):
            operands = [
                torch.randn(shape, dtype=dtype, generator=generator) for _ in range(functions.index(function) + 1)
            ]
            with threads_for_large_calls(n_threads):
                shared = _share(function, network, 0, operands[0])
            n_shared += isinstance(shared, _TimedCall)
            alone, together = ([operand.clone() for operand in operands] for _ in range(2))
            results = [function(*alone), getattr(shared, "_shared", shared)(*together)]
            assert torch.equal(alone[0], together[0])
            assert results[0] is None or torch.equal(*results)
    assert n_shared or shape != (512, 512)

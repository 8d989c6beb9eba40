"""Large calls on one thread or on several: the same bits, and whichever is quicker."""

import time

import pytest
import torch

from sktorch_mlp._nn.threads import _TimedCall, share_elementwise, share_product, threads_for_large_calls

pytestmark = pytest.mark.usefixtures("two_torch_threads")


@pytest.fixture(autouse=True)
def on_one_thread(two_torch_threads):
    torch.set_num_threads(1)


def _work(seconds_on_one, seconds_on_two, threads_seen):
    def work():
        n_threads = torch.get_num_threads()
        threads_seen.append(n_threads)
        time.sleep((seconds_on_one, seconds_on_two)[n_threads - 1])
        return n_threads

    return work


def _shared(call, n_operations=10**7):
    """A call that one thread should do in a millisecond, or in as many as given."""
    with threads_for_large_calls(2):
        return share_elementwise(call, n_operations)


def test_calls_take_the_threads_that_are_quicker():
    seen = []
    call = _shared(_work(0.04, 0.001, seen), 10**8)
    time.sleep(0.2)
    for _ in range(20):
        call()
    assert seen.count(1) == 1  # both are tried
    assert torch.get_num_threads() == 1


def test_calls_for_which_threads_are_slower_take_one():
    seen = []
    call = _shared(_work(0.001, 0.03, seen))
    for _ in range(30):
        call()
    assert seen.count(2) == 1  # tried once: another trial would cost more than a twentieth of the time
    other = []
    call = _shared(_work(0.001, 0.03, other))
    for _ in range(5):
        call()
    assert set(other) == {1}  # what one call has found out holds for all


def test_threads_are_tried_again():
    seconds = {1: 0.001, 2: 0.004}
    seen = []

    def work():
        n_threads = torch.get_num_threads()
        seen.append(n_threads)
        time.sleep(seconds[n_threads])

    call = _shared(work)
    time.sleep(1)  # what another test has found out is forgotten
    for _ in range(4):
        call()
    seconds[2] = 0.0001  # the other programs are gone
    time.sleep(0.2)
    for _ in range(5):
        call()
    assert seen[-1] == 2


def test_the_setting_comes_back_after_an_error():
    def fail():
        if torch.get_num_threads() == 2:
            raise ZeroDivisionError

    time.sleep(1)
    call = _shared(fail)
    with pytest.raises(ZeroDivisionError):
        call()
    assert torch.get_num_threads() == 1


def test_small_calls_are_as_they_are():
    def call():
        return None

    with threads_for_large_calls(2):
        assert share_elementwise(call, 1000) is call
        assert share_product(call, torch.ones(10, 10), torch.ones(10, 10)) is call
    assert share_elementwise(call, 10**9) is call  # nobody has given threads
    with threads_for_large_calls(1):
        assert share_elementwise(call, 10**9) is call


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", [(128, 784, 64), (10, 784, 1437), (300, 200, 100), (1024, 64, 512)], ids=str)
def test_products_that_are_shared_have_the_same_bits(shape, dtype):
    n_out, n_in, n_rows = shape
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(*size, dtype=dtype, generator=generator) for size in ((n_out, n_in), (n_in, n_rows)))
    out = torch.empty(n_out, n_rows, dtype=dtype)

    def call():
        return torch.mm(a, b, out=out)

    with threads_for_large_calls(2):
        shared = share_product(call, a, b)
    call()
    alone = out.clone()
    if isinstance(shared, _TimedCall):
        torch.set_num_threads(2)
        call()
        assert torch.equal(out, alone)

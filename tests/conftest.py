"""What all tests share: threads, devices and workers, and the summary of the comparisons with scikit-learn."""

import signal

import matplotlib
import pytest
import torch
from threadpoolctl import threadpool_limits

from sktorch_mlp._data import device
from sktorch_mlp._training import cuda_graphs
from tests.simulated.devices import simulated_devices

matplotlib.use("Agg")

_best_device = device.best_device
_differences = []  # from scikit-learn: the worst of each test


def pytest_configure():
    """Compute on one thread. Steps as small as those of tests gain nothing from more, and workers share the cores."""
    torch.set_num_threads(1)
    threadpool_limits(1, user_api="blas")
    # Shells start background jobs with Ctrl-C ignored, and a test of Ctrl-C would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def two_torch_threads():
    """Let PyTorch compute on two threads, for a test that is about threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def auto_is_the_cpu(request, monkeypatch):
    """Without the mark `gpu` a test is about the CPU, also where "auto" would find a GPU."""
    if "gpu" not in request.keywords:
        monkeypatch.setattr(device, "best_device", lambda: torch.device("cpu"))


@pytest.fixture(autouse=True)
def streams_are_new():
    """A real device does not record on a stream of a simulated one."""
    cuda_graphs._capture_stream.cache_clear()


@pytest.fixture
def streamed(monkeypatch):
    """Arrays on disk are read in blocks, however small they are."""
    monkeypatch.setattr("sktorch_mlp._data.rows._HELD_BYTES", 0)


@pytest.fixture
def devices(monkeypatch):
    """Simulated devices "cuda:0", "cuda:1" and "mps"; the traffic between them and the host."""
    with simulated_devices() as traffic:
        yield traffic
        monkeypatch.undo()  # else it would put simulated functions back when the devices are gone


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request, monkeypatch):
    """A CUDA device, which "auto" stands for: one that is simulated, and a real one where there is one."""
    monkeypatch.setattr(device, "best_device", _best_device)
    if request.param == "simulated":
        request.getfixturevalue("devices")
    return request.param


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


# Workers of pytest-xdist -----------------------------------------------------------------


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """Start two workers; none for single tests, which take less time than the start of a worker."""
    return 0 if any("::" in argument for argument in config.args) else 2


@pytest.fixture
def worst_difference():
    """Take note of a relative difference from scikit-learn; the summary shows the largest."""
    differences = []
    yield differences.append
    if differences:  # none where the test has failed before
        _differences.append(float(max(differences)))  # what workers send has to be plain


def pytest_sessionfinish(session):
    """Hand the differences of a worker to the process that prints the summary."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["differences"] = _differences


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    _differences.extend(getattr(node, "workeroutput", {}).get("differences", []))


def pytest_terminal_summary(terminalreporter):
    if _differences:
        terminalreporter.write_line(
            f"parity with scikit-learn: {len(_differences)} combinations, "
            f"worst relative difference {max(_differences):.1e}"
        )

"""What all tests share."""

import matplotlib
import pytest
import torch

from sktorch_mlp import _device

matplotlib.use("Agg")

_differences = []


@pytest.fixture
def worst_difference():
    """Take note of a relative difference from scikit-learn; the summary shows the largest."""
    differences = []
    yield differences.append
    _differences.append(max(differences))


@pytest.fixture
def one_thread():
    """For steps as small as those of most tests more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def auto_is_the_cpu(request, monkeypatch):
    """Without the mark `gpu` a test is about the CPU, also where "auto" would find a GPU."""
    if "gpu" not in request.keywords and request.path.name != "test_device.py":
        monkeypatch.setattr(_device, "_best_available", lambda: "cpu")


def pytest_terminal_summary(terminalreporter):
    if _differences:
        terminalreporter.write_line(
            f"parity with scikit-learn: {len(_differences)} combinations, "
            f"worst relative difference {max(_differences):.1e}"
        )


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))

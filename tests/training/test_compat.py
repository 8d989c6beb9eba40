"""Undocumented names of PyTorch and joblib: that they are there, do what training needs, and can be done without."""

import threading

import joblib
import pytest
import torch

from sktorch_mlp._training import compat


def test_pytorch_has_a_kernel_for_adam():
    assert hasattr(torch, "_fused_adam_"), (
        f"PyTorch {torch.__version__} has no torch._fused_adam_ any more: Adam takes five calls a step, three times as "
        "long. Find the kernel that torch.optim.Adam(fused=True) calls now, for sktorch_mlp._training.compat."
    )
    assert compat.fused_adam(torch.zeros(1)) is torch._fused_adam_


def test_the_kernel_is_for_devices_that_have_it():
    assert compat.fused_adam(torch.zeros(1, device="meta")) is None


def test_the_kernel_takes_the_arguments_that_it_is_given():
    """A step of Adam with the bias correction of infinitely many steps, which is none."""
    parameter, gradient = torch.ones(1, 2).double(), torch.tensor([[0.5, -2.0]]).double()
    moments = torch.zeros(1, 2).double(), torch.zeros(1, 2).double()
    compat.fused_adam(parameter)(
        [parameter], [gradient], [moments[0]], [moments[1]], [], [torch.tensor(float("inf"))],
        lr=0.1, beta1=0.9, beta2=0.99, weight_decay=0.0, eps=1e-8, amsgrad=False, maximize=False,
    )  # fmt: skip
    first, second = 0.1 * gradient, 0.01 * gradient**2
    torch.testing.assert_close(moments, (first, second), rtol=1e-12, atol=0)
    torch.testing.assert_close(parameter, 1 - 0.1 * first / (second.sqrt() + 1e-8), rtol=1e-12, atol=0)


def test_without_the_kernel_there_is_none(monkeypatch):
    monkeypatch.delattr(torch, "_fused_adam_")
    assert compat.fused_adam(torch.zeros(1)) is None


def _in_joblib(function):
    """Run a function as a task in a thread of joblib's."""
    (result,) = joblib.Parallel(n_jobs=2, backend="threading")(joblib.delayed(function)() for _ in range(1))
    return result


def _in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_joblib_says_what_a_thread_works_for():
    assert hasattr(joblib.parallel, "get_active_backend"), (
        f"joblib {joblib.__version__} has no joblib.parallel.get_active_backend any more: fits in threads each start a "
        "thread for each core. Find its new name for sktorch_mlp._training.compat."
    )
    assert compat.in_joblib_thread() is False
    assert _in_thread(compat.in_joblib_thread) is False
    assert _in_joblib(compat.in_joblib_thread) is True, (
        f"The backends of joblib {joblib.__version__} have no nesting_level any more, or count it differently: see "
        "sktorch_mlp._training.compat."
    )


def test_without_the_name_a_thread_is_like_any_other():
    def without_the_name():
        with pytest.MonkeyPatch.context() as patch:
            patch.delattr(joblib.parallel, "get_active_backend")
            return compat.in_joblib_thread()

    assert _in_joblib(without_the_name) is False

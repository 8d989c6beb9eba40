"""Ctrl-C between any two statements, over and over: no thread waits for ever, and the program ends."""

import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from sktorch_mlp import MLPTorchRegressor
from tests.interrupts import interrupt_call

_INTERRUPTED = """
import gc, signal, sys, threading, time
import numpy as np
from sklearn.model_selection import GridSearchCV
from sktorch_mlp import MLPTorchClassifier, stacked_fits
from sktorch_mlp._data import rows, streams
from tests.estimators.helpers import Sliced

rows._HELD_BYTES = 0
streams.StreamedBatches.__init__.__kwdefaults__["block_bytes"] = 100_000  # many blocks
random = np.random.RandomState(0)
X = random.normal(size=(12_000, 60))
y = np.arange(len(X)) % 2
model = MLPTorchClassifier((150,), max_iter=1, device="cpu").fit(X, y)
expected = model.predict_proba(X)

def fit():
    MLPTorchClassifier((4,), max_iter=50, device="cpu").fit(Sliced(X[:4000, :20]), y[:4000])

def predict():
    for _ in range(4):
        model.predict_proba(X)

def search():
    with stacked_fits(n_fits=5):
        GridSearchCV(MLPTorchClassifier((4,), max_iter=3, device="cpu"), {"alpha": [0.1, 1]}, cv=3).fit(X[:90], y[:90])

call = {"fit": fit, "predict": predict, "search": search}[sys.argv[1]]
signal.signal(signal.SIGALRM, signal.default_int_handler)
end = time.monotonic() + 20
while time.monotonic() < end:
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.001, 0.02))
        call()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
assert np.array_equal(model.predict_proba(X), expected)
gc.collect()  # threads of a search that was interrupted twice end with it
while threading.active_count() >= 6 and time.monotonic() < end + 30:
    time.sleep(0.1)
print("ends", threading.active_count() < 6)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer that sends a signal")
@pytest.mark.parametrize("call", ["fit", "predict", "search"])
def test_interrupts_leave_no_thread_that_waits_for_ever(call):
    program = [sys.executable, "-W", "ignore", "-c", _INTERRUPTED, call]
    root = Path(__file__).parents[2]
    result = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False, cwd=root)
    assert result.stdout == "ends True\n", result.stderr
    assert result.returncode == 0


def _settings():
    return np.geterr(), torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()


@pytest.mark.parametrize("n_rows", [1, 300])
def test_interrupts_leave_settings_as_they_were(n_rows):
    """Also at the beginning of what would put them back."""
    features = np.random.RandomState(0).normal(size=(300, 40))
    model = MLPTorchRegressor(hidden_layer_sizes=(5,), device="cpu").partial_fit(features, features[:, 0])
    expected = model.predict(features[:n_rows])
    settings, trace = _settings(), sys.gettrace()
    for number in count(1):
        try:
            sys.settrace(interrupt_call(number))
            model.predict(features[:n_rows])
            break
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(trace)
        assert _settings() == settings
    assert number > 10
    assert np.array_equal(model.predict(features[:n_rows]), expected)

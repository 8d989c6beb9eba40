"""Large rows on their way to a simulated device, and the predictions made of them."""

import numpy as np
import pytest
import torch
from sklearn.base import clone

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._data import transfer
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._estimators import inputs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.RandomState(0).normal(size=(240, 6))
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


@pytest.mark.parametrize("stored", [np.float64, np.float32, np.uint8])
@pytest.mark.parametrize("layout", [np.ascontiguousarray, np.asfortranarray])
def test_large_rows_travel_in_pieces(stored, layout, devices, monkeypatch):
    """Cast on the way, and never changed before they have arrived."""
    monkeypatch.setattr(transfer, "_PIECE", 6 * 50)
    rows = layout((10 * np.abs(X)).astype(stored))
    moved = transfer.to_cuda(torch.from_numpy(rows), torch.device("cuda", 0), torch.float32)
    np.testing.assert_array_equal(moved.cpu().numpy(), rows.astype(np.float32))
    assert [copy.n_values for copy in devices.to_device] == [300, 300, 300, 300, 240]


def test_a_gpu_says_whether_large_rows_are_finite(devices, monkeypatch):
    monkeypatch.setattr(inputs, "MANY_NUMBERS", 100)
    monkeypatch.setitem(Rows.from_array.__func__.__kwdefaults__, "copy_bytes", 100)
    model = MLPTorchClassifier((7, 5), max_iter=3, random_state=0, device="cuda").fit(X, Y)
    expected = model.predict_proba(X[:10])
    devices.clear()
    np.testing.assert_allclose(model.predict_proba(X)[:10], expected, rtol=1e-6)
    assert sum(copy.n_values for copy in devices.to_device) == X.size
    huge = np.where(X[0, 0] == X, 1e300, X)  # finite, but not in float32
    for call in (model.predict_proba, lambda rows: clone(model).fit(rows, Y)):
        with pytest.raises(ValueError, match="a value too large for dtype"):
            call(huge)
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="Input X contains"):
            model.fit(np.where(X[0, 0] == X, value, X), Y)
        with pytest.raises(ValueError, match="Input X contains"):
            model.predict(np.where(X[0, 0] == X, value, X))


@pytest.mark.parametrize("dtype", ["float16", "longdouble"])
def test_written_weights_of_other_precisions_are_predicted_with(dtype, devices):
    models = [MLPTorchClassifier((7, 5), max_iter=3, random_state=0, device=name).fit(X, Y) for name in ("cpu", "cuda")]
    for model in models:
        model.coefs_[0] = np.round(models[0].coefs_[0], 1).astype(dtype)
    np.testing.assert_allclose(models[1].predict_proba(X), models[0].predict_proba(X), rtol=1e-2)


def test_streams_share_the_weights_on_a_device(devices):
    """Which are there before another stream reads them, and as long as one does."""
    model = MLPTorchClassifier((7, 5), max_iter=3, random_state=0, device="cuda").fit(X, Y)
    expected = model.predict_proba(X)
    for _ in range(2):
        model.coefs_[0][0, 0] += 1
        for _ in range(2):
            with torch.cuda.stream(torch.cuda.Stream()):
                model.predict_proba(X)
    assert not np.array_equal(model.predict_proba(X), expected)

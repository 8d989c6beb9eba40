"""Records as columns: the same records come back, of the same types."""

import json

import numpy as np
import pytest

from sktorch_mlp._training.progress import Progress
from sktorch_mlp._training.records import from_columns, to_array, to_columns, to_list

EPOCH = {"epoch": 1, "loss": 0.5, "seconds": 1e-3}
RECORDS = {
    "none": [],
    "one": [EPOCH],
    "alike": [EPOCH, EPOCH | {"epoch": 2, "loss": float("inf")}],
    "names change": [EPOCH, EPOCH | {"validation_loss": 0.1}, EPOCH, {"loss": 0.5, "epoch": 1}],
    "of callbacks": [EPOCH | {"f1": 0.5, "note": "a", "is_best": True}, EPOCH | {"f1": None, "note": "b", "is_best": False}],
    "large": [EPOCH | {"seed": 2**70}],
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_records_come_back(name):
    records = from_columns(to_columns(RECORDS[name]))
    assert json.dumps(records) == json.dumps(RECORDS[name])  # of the same types, in the same order


def test_what_is_alike_is_one_block_of_arrays():
    (block,) = to_columns(RECORDS["alike"] * 50)
    assert {name: column.dtype for name, column in block.items()} == {
        "epoch": np.int64,
        "loss": np.float64,
        "seconds": np.float64,
    }
    assert len(to_columns(RECORDS["names change"])) == 4


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.0, float("nan")], np.float64),
        ([1.0, np.float64(2)], np.float64),
        ((np.float64(2),), np.float64),
        ([1, 2], np.int64),
        ([1, 2.0], None),
        ([True, False], None),
        ([np.float32(1)], None),
        ([2**63], None),
        ([], None),
    ],
    ids=str,
)
def test_arrays_of_one_type(values, dtype):
    column = to_array(values)
    assert getattr(column, "dtype", None) == dtype
    assert str(to_list(column)) == str([float(v) if isinstance(v, np.float64) else v for v in values])


def test_a_progress_has_its_lists_again():
    progress = Progress(records=[EPOCH], loss_curve=[0.5], validation_scores=[np.float64(1)], n_iter=1)
    state = progress.__getstate__()
    assert isinstance(state["loss_curve"], np.ndarray)
    restored = Progress()
    restored.__setstate__(state)
    assert restored == progress
    restored.extend(progress)
    assert restored.loss_curve == [0.5, 0.5]
    assert progress.loss_curve == [0.5]

"""Which fits train together, what they share, and who trains the fits of a thread."""

import os
import subprocess
import sys
import threading

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone

from sktorch_mlp import stacked_fits
from sktorch_mlp._data.rows import Rows
from sktorch_mlp._data.samples import Samples, TrainingData
from sktorch_mlp._parallel.batcher import current_batcher
from sktorch_mlp._training.stacks import fits_trained_by, split_into_stacks, train_fit
from tests.parallel.fits import FILTERS, MLP, X, Y, untrained_fit

pytestmark = [pytest.mark.usefixtures("one_trainer"), *map(pytest.mark.filterwarnings, FILTERS)]


def _fit(X=X, Y=Y, **params):
    return untrained_fit(lambda: clone(MLP).set_params(**params).fit(X, Y))


# Which fits train together --------------------------------------------------------------


@pytest.mark.parametrize(
    ("n_fits", "n_workers", "expected"),
    [(1, 1, [1]), (1, 4, [1]), (5, 1, [5]), (5, 2, [2, 3]), (6, 4, [1, 1, 2, 2]), (3, 4, [1, 1, 1])],
)
def test_each_worker_gets_a_stack(n_fits, n_workers, expected):
    fits = [_fit(alpha=alpha) for alpha in range(n_fits)]
    stacks = split_into_stacks(fits, n_workers)
    assert sorted(map(len, stacks)) == expected
    assert sorted(fit.options.alpha for stack in stacks for fit in stack) == list(range(n_fits))


def test_stacks_fit_into_memory():
    fits = [_fit(alpha=alpha) for alpha in range(7)]
    n_bytes = fits[0].work_bytes()
    assert [len(stack) for stack in split_into_stacks(fits, 1, max_bytes=1)] == [1] * 7
    assert max(len(stack) for stack in split_into_stacks(fits, 1, max_bytes=3 * n_bytes)) == 3
    assert max(len(stack) for stack in split_into_stacks(fits, 1, max_bytes=3 * n_bytes - 1)) == 2
    # Three stacks would leave one of two workers idle.
    assert len(split_into_stacks(fits, 2, max_bytes=3 * n_bytes)) == 4


def test_fits_of_unlike_shapes_do_not_mix():
    shapes = [{}, {"hidden_layer_sizes": (9,)}, {"solver": "sgd"}, {"batch_size": 50}, {"dropout": 0.1}]
    fits = [_fit(**params, alpha=alpha) for alpha in range(2) for params in shapes]
    stacks = split_into_stacks(fits, 1)
    assert sorted(map(len, stacks)) == [2] * 5
    for stack in stacks:
        assert len({fit.stack_key() for fit in stack}) == 1


def test_fits_with_equal_rows_share_them_and_stand_together():
    fits = [_fit(X=X.copy() if i % 2 else X[::-1].copy(), random_state=i) for i in range(6)]
    (stack,) = split_into_stacks(fits, 1)
    addresses = [fit.data.train.rows.X.data_ptr() for fit in stack]
    assert len(set(addresses)) == 2
    assert addresses == sorted(addresses, key=addresses.index)  # equal ones next to each other


def test_fits_with_equal_settings_stand_together():
    fits = [_fit(learning_rate_init=(0.1, 0.01)[i % 2], random_state=i) for i in range(6)]
    (stack,) = split_into_stacks(fits, 1)
    rates = [fit.optimizer.schedules[0].learning_rate_init for fit in stack]
    assert rates == sorted(rates)


def test_equal_rows_are_held_once():
    parts = []
    for seed in range(3):
        values = X[:100].copy() if seed < 2 else X[100:200].copy()
        samples = Samples(
            rows=Rows.from_array(values, torch.device("cpu")),
            targets=torch.from_numpy(Y[:100].copy())[None],
            weights=None if seed else torch.full((100,), 2.0, dtype=torch.float64),
            indices=[np.arange(10 * seed, 100)],
        )
        parts.append(samples)
    joined = TrainingData.join([TrainingData(part) for part in parts]).train
    assert joined.rows.X.shape == (200, 64)
    assert joined.targets.shape == (1, 200)  # the same labels with other weights count as others
    for k, part in enumerate(parts):
        rows, target_rows = joined.select([k]).stack_indices(joined.indices[k : k + 1])
        np.testing.assert_array_equal(joined.rows.X[rows], part.rows.X[part.indices[0]])
        np.testing.assert_array_equal(joined.targets[:, target_rows], part.targets[:, part.indices[0]])
        expected = 2.0 if part.weights is not None else 1.0
        assert (joined.weights[target_rows] == expected).all()


# Who trains the fits of a thread --------------------------------------------------------


def _trainers():
    """Two functions that could train fits, and what they have been given."""
    given = {"first": [], "second": []}
    return given, given["first"].append, given["second"].append


def test_the_innermost_trainer_trains_and_the_one_before_comes_back():
    given, first, second = _trainers()
    with fits_trained_by(first):
        train_fit("a")
        with fits_trained_by(second):
            train_fit("b")
        train_fit("c")
    assert given == {"first": ["a", "c"], "second": ["b"]}


def test_the_trainer_before_comes_back_after_an_error():
    given, first, second = _trainers()
    with fits_trained_by(first):
        with pytest.raises(KeyError), fits_trained_by(second):
            raise KeyError
        train_fit("a")
    assert given == {"first": ["a"], "second": []}


def test_none_lets_a_fit_train_alone():
    given, first, _ = _trainers()
    fits = [_fit(max_iter=2) for _ in range(2)]
    with fits_trained_by(first), fits_trained_by(None):
        train_fit(fits[0])
    train_fit(fits[1])  # outside of all contexts
    assert given["first"] == []
    assert [fit.progress.n_iter for fit in fits] == [2, 2]


def test_a_trainer_is_that_of_its_thread():
    given, first, _ = _trainers()
    fit = _fit(max_iter=2)
    with fits_trained_by(first):
        thread = threading.Thread(target=train_fit, args=(fit,))
        thread.start()
        thread.join()
    assert given["first"] == []
    assert fit.progress.n_iter == 2


# A plain fit knows nothing of all this --------------------------------------------------

PLAIN_FIT = """
import sys, types
package = types.ModuleType("sktorch_mlp")  # its own __init__ imports stacked_fits
package.__path__ = [sys.argv[1]]
sys.modules["sktorch_mlp"] = package
from sktorch_mlp._estimators.classifier import MLPTorchClassifier
X = [[0.0], [1.0], [2.0], [3.0]]
for solver in ("adam", "lbfgs"):
    MLPTorchClassifier(solver=solver, max_iter=2, tol=1.0, n_iter_no_change=1).fit(X, [0, 0, 1, 1]).predict(X)
print(*(name for name in sys.modules if name.startswith("sktorch_mlp._parallel")))
"""


def test_a_plain_fit_does_not_import_the_parallel_wing(pytestconfig):
    package = pytestconfig.rootpath / "sktorch_mlp"
    command = [sys.executable, "-W", "ignore", "-c", PLAIN_FIT, str(package)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


_PARALLEL = os.path.join("sktorch_mlp", "_parallel")


def _files_of_parallel_wing(function):
    """Files of the parallel wing whose code runs while a function does, in this thread."""
    files = set()

    def note(frame, event, arg):
        if _PARALLEL in frame.f_code.co_filename:
            files.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return files


def _fit_plainly():
    assert current_batcher() is None
    clone(MLP).fit(X, Y)


def test_a_plain_fit_runs_no_code_of_the_parallel_wing():
    fit = clone(MLP).set_params(max_iter=1).fit
    assert _files_of_parallel_wing(lambda: fit(X, Y)) == set()
    found = []
    thread = threading.Thread(target=lambda: found.append(_files_of_parallel_wing(lambda: fit(X, Y))))
    thread.start()
    thread.join()
    assert found == [set()]
    with stacked_fits():  # which a fit outside of a parallel call does not notice
        assert _files_of_parallel_wing(lambda: fit(X, Y)) == set()
        tasks = (joblib.delayed(_files_of_parallel_wing)(lambda: fit(X, Y)) for _ in range(2))
        assert all(joblib.Parallel()(tasks))  # the test can fail


def test_threads_of_joblib_train_their_fits_themselves(stacks):
    joblib.Parallel(2, backend="threading")(joblib.delayed(_fit_plainly)() for _ in range(3))
    assert stacks.sizes == []

"""Small data, and our estimators beside scikit-learn's with the same parameters."""

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier, MLPRegressor

from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor

KINDS = ("classifier", "regressor")
SMALL = {"hidden_layer_sizes": (5,), "max_iter": 4, "batch_size": 20, "random_state": 0}

# Both compute the same sums in another order; a few epochs leave about 1e-15 of it in float64, 3e-7 in float32.
# L-BFGS on float32 rows multiplies in float32, and scipy decides by what is left of the differences.
RTOL = {np.float64: 1e-10, np.float32: 1e-5, "lbfgs on float32": 1e-4}

X, LABELS = (part[::3] for part in load_iris(return_X_y=True))
X = X / 4
NUMBERS = X @ [1.0, 2.0, 3.0, 4.0] / 10
TWO_NUMBERS = np.column_stack([NUMBERS, X[:, 0]])
TARGETS = {"classifier": LABELS, "regressor": NUMBERS}
MULTILABEL = np.column_stack([LABELS == 0, X[:, 0] > 1.4, X[:, 1] > 0.75]).astype(int)
WEIGHTS = np.random.RandomState(0).uniform(0.1, 3, len(X))
WITH_ZEROS = np.where(X > 1, X, 0)  # for sparse matrices
INTEGERS = np.round(X * 40)  # up to 80

#: For tests with arrays that cannot be written to. PyTorch warns of such an array once a process; here, each time.
#: So it does of two kinds of sparse tensors, of which the package keeps the first warning from users.
WARNS_EACH_TIME = [
    pytest.mark.usefixtures("torch_warns_always"),
    pytest.mark.filterwarnings("ignore:Sparse (CSR tensor support is in beta|invariant checks are impl):UserWarning"),
]


def pair(kind, **parameters):
    """Our estimator and scikit-learn's with the same parameters."""
    class_ = MLPClassifier if kind == "classifier" else MLPRegressor
    return ours(kind, **parameters), class_(**SMALL | parameters)


def ours(kind, **parameters):
    """Our estimator."""
    class_ = MLPTorchClassifier if kind == "classifier" else MLPTorchRegressor
    return class_(**SMALL | parameters)


def outputs(estimator, rows):
    """Probabilities of a classifier, predictions of a regressor."""
    return estimator.predict_proba(rows) if hasattr(estimator, "predict_proba") else estimator.predict(rows)


def weights_of(estimator):
    """All weights of a fitted estimator, copied into one array."""
    return np.concatenate([array.ravel() for array in (*estimator.coefs_, *estimator.intercepts_)])


def read_only(array):
    """A copy that cannot be written to."""
    array = array.copy()
    array.flags.writeable = False
    return array


def dense(values):
    """The array of a sparse matrix; anything else as it is."""
    return values.toarray() if sp.issparse(values) else values


class Sliced:
    """An array that is read by slices, as one on disk."""

    chunks = None

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def __getitem__(self, rows):
        return self.values[rows]


class Chunked:
    """Chunks of so many rows, again and again."""

    def __init__(self, n_rows, X, *others):
        self.n_rows, self.arrays, self.n_passes = n_rows, (X, *others), 0

    def __iter__(self):
        self.n_passes += 1
        for start in range(0, len(self.arrays[0]), self.n_rows):
            yield tuple(array[start : start + self.n_rows] for array in self.arrays)

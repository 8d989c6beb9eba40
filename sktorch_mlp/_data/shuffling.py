"""Order of the training rows, epoch after epoch."""

from __future__ import annotations

import numpy as np

from sktorch_mlp._nn.tensors import StateDict


class Shuffler:
    """Order of the training rows of one network, epoch after epoch.

    Shuffles cumulatively from a random stream of numpy as `sklearn.utils.shuffle` does, so
    that mini-batches are those of scikit-learn.

    Parameters
    ----------
    rows : ndarray of shape (n_rows,)
        Indices to order.
    random_state : RandomState or None
        Source of the permutations. With None the order stays.
    """

    def __init__(self, rows: np.ndarray, random_state: np.random.RandomState | None) -> None:
        self._rows, self._random_state = rows, random_state
        self._is_ahead = False

    def shuffle_ahead(self) -> np.ndarray:
        """Shuffle for the next epoch already, and return its order."""
        if self._random_state is not None and not self._is_ahead:
            self._rows = self._shuffled(self._random_state)
            self._is_ahead = True
        return self._rows

    def _shuffled(self, random_state: np.random.RandomState) -> np.ndarray:
        """The rows in a new order."""
        return self._rows[random_state.permutation(len(self._rows))]

    def next_epoch(self) -> np.ndarray:
        """Indices in the order of the next epoch."""
        self.shuffle_ahead()
        self._is_ahead = False
        return self._rows

    def next_places(self, n_rows: int) -> np.ndarray:
        """Where the next rows of a stream go within a block of so many."""
        return np.arange(n_rows) if self._random_state is None else self._random_state.permutation(n_rows)

    def state_dict(self) -> StateDict:
        """Order of the rows, and state of the random stream."""
        state = None if self._random_state is None else self._random_state.get_state()
        return {"rows": self._rows, "is_ahead": self._is_ahead, "random_state": state}

    def load_state_dict(self, state: StateDict) -> None:
        """Set order and stream to a state. The global stream of numpy, from which others have drawn, stays as it is."""
        self._rows, self._is_ahead = state["rows"], state["is_ahead"]
        if self._random_state is not None and self._random_state is not _global_random_state():
            self._random_state.set_state(state["random_state"])


class BlockShuffler(Shuffler):
    """Shuffles blocks of neighboring rows, and then rows that are near each other in the new order.

    So a part of an epoch needs few parts of a file, or of another memory that is slow in random places.

    Parameters
    ----------
    rows : ndarray of shape (n_rows,)
        Indices to order.
    random_state : RandomState or None
        Source of the permutations. With None the order stays.
    block_rows : int
        Rows of a block.
    mixed_rows : int
        Consecutive rows of the new order that are mixed with each other.
    """

    def __init__(
        self, rows: np.ndarray, random_state: np.random.RandomState | None, block_rows: int, mixed_rows: int
    ) -> None:
        super().__init__(rows, random_state)
        is_sorted = bool((rows[1:] >= rows[:-1]).all())
        self._ascending, self._mixed_rows = rows if is_sorted else np.sort(rows), mixed_rows
        self._block_rows = min(block_rows, len(rows))

    def _shuffled(self, random_state: np.random.RandomState) -> np.ndarray:
        n_rows, size = len(self._ascending), self._block_rows
        starts = size * random_state.permutation(-(-n_rows // size))
        rows: np.ndarray = np.concatenate([self._ascending[start : start + size] for start in starts.tolist()])
        for start in range(0, n_rows, self._mixed_rows):
            random_state.shuffle(rows[start : start + self._mixed_rows])
        return rows


def _global_random_state() -> np.random.RandomState:
    """The random state that scikit-learn takes for ``random_state=None``: numpy's functions are its methods."""
    random_state: np.random.RandomState = getattr(np.random.random_sample, "__self__")  # noqa: B009 - typed as a function
    return random_state

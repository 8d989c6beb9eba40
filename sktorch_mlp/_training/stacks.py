"""Which fits train together, as stacks, and who trains the fits of a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch

from sktorch_mlp._data.samples import unique_ids

from .fit import Fit
from .loop import train

#: Bytes that the steps of a stack work on: on a CPU what stays in its cache.
_WORK_BYTES = {"cpu": 2**23, "mps": 2**30}
#: The same for CUDA, as a fraction of the free memory.
_CUDA_FRACTION = 0.5

_local = threading.local()  # .train_fit: trains the fits of this thread


def train_fit(fit: Fit) -> None:
    """Train a fit: as `fits_trained_by` says for this thread, else alone and at once."""
    train_elsewhere: Callable[[Fit], None] | None = getattr(_local, "train_fit", None)
    if train_elsewhere is None:
        train([fit])
    else:
        train_elsewhere(fit)


@contextmanager
def fits_trained_by(train_elsewhere: Callable[[Fit], None] | None) -> Iterator[None]:
    """Let a function train the fits of this thread; None for `train`."""
    before = getattr(_local, "train_fit", None)
    _local.train_fit = train_elsewhere
    try:
        yield
    finally:
        _local.train_fit = before


def split_into_stacks(fits: Sequence[Fit], n_workers: int, max_bytes: int | None = None) -> list[list[Fit]]:
    """Group fits that can train together, in stacks that fit into memory and are enough for all workers.

    Parameters
    ----------
    fits : sequence of Fit
        Those with equal X then share it.
    n_workers : int
        Stacks that can train at a time on a CPU.
    max_bytes : int, default=None
        Memory that the steps of a stack may work on; None for what suits the device.
    """
    groups: dict[Hashable, list[Fit]] = {}
    for fit in fits:
        key = fit.stack_key()
        groups.setdefault(fit if key is None else key, []).append(fit)
    stacks = []
    for group in groups.values():
        device = group[0].network.device
        n_largest = max(1, (max_bytes or _work_bytes(device)) // group[0].work_bytes())
        n_stacks = -(-len(group) // n_largest)
        if device.type == "cpu":
            n_stacks = min(len(group), -(-n_stacks // n_workers) * n_workers)
        order = _share_rows(group)
        bounds = [round(i * len(group) / n_stacks) for i in range(n_stacks + 1)]
        stacks += [[group[i] for i in order[start:stop]] for start, stop in pairwise(bounds)]
    return stacks


def _share_rows(fits: Sequence[Fit]) -> list[int]:
    """Let fits with equal X share it; return an order in which they are next to each other.

    So few stacks hold the same rows. Among them those with equal settings are neighbors, which an optimizer can
    update in one call.
    """
    row_ids = unique_ids([_dense_rows(fit) for fit in fits]) if len(fits) > 1 else [0]
    for fit, i in zip(fits, row_ids, strict=True):
        fit.data = fit.data.with_rows(fits[row_ids.index(i)].data.train.rows)
    keys = [(i, fit.optimizer.settings_key(0) if fit.optimizer else ()) for fit, i in zip(fits, row_ids, strict=True)]
    return sorted(range(len(fits)), key=keys.__getitem__)


def _dense_rows(fit: Fit) -> torch.Tensor:
    X = fit.data.train.rows.X
    assert isinstance(X, torch.Tensor)
    return X


def _work_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(_CUDA_FRACTION * torch.cuda.mem_get_info(device)[0])
    return _WORK_BYTES[device.type]

"""Blocks of a prediction, computed by the calling thread and by helpers that are free."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch import Tensor

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._nn.matmul import quiet_numpy
from sktorch_mlp._nn.threads import ThreadChoice
from sktorch_mlp._training.threads import available_threads, on_one_thread

#: Multiply-adds from which a prediction may be worth more than one thread, and from which it surely is, on an idle machine,
#: times the bytes of a number. In between it takes some machines as long to wake another thread as that would help.
LARGE, _VERY_LARGE = 320_000_000, 3_200_000_000


class _Helpers:
    """Threads that help with blocks, started when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._n_threads = 0
        self._n_callers = 0

    def run(self, blocks: _Blocks, n_threads: int) -> None:
        """Compute all blocks on the calling thread, and on helpers that no other caller has."""
        with self._lock:
            self._n_callers += 1
            n_helpers = min(n_threads - self._n_callers, blocks.n_blocks - 1)
        try:
            if n_helpers > 0:
                self._ask(n_helpers, blocks)
            blocks.work()
            blocks.finish()
        finally:
            with self._lock:
                self._n_callers -= 1

    def _ask(self, n_helpers: int, blocks: _Blocks) -> None:
        """Let helpers compute, if they can be had."""
        with self._lock:
            try:
                if self._executor is None or n_helpers > self._n_threads:
                    self._executor, self._n_threads = ThreadPoolExecutor(n_helpers, "prediction"), n_helpers
                for _ in range(n_helpers):
                    self._executor.submit(_help, blocks)
            except RuntimeError:  # no thread can be started, so the caller goes on alone
                self._executor, self._n_threads = None, 0


class _Blocks:
    """Blocks that several threads compute. A block that is late is computed again rather than waited for."""

    def __init__(self, compute: Callable[[int], Tensor], store: Callable[[int, Tensor], None], n_blocks: int) -> None:
        self._compute, self._store, self.n_blocks = compute, store, n_blocks
        self._waiting = deque(range(n_blocks))
        self._unfinished = set(range(n_blocks))
        self._changed = threading.Condition()
        self._seconds = 0.0  # of the last block

    def work(self) -> None:
        """Compute blocks until none is waiting."""
        while self._waiting:
            try:
                block = self._waiting.popleft()
            except IndexError:
                return
            self._finish_block(block)

    def finish(self) -> None:
        """Wait for helpers as long as a block takes; then compute what they still have in hand."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unfinished, timeout=self._seconds)
            late = sorted(self._unfinished)
        for block in late:
            self._finish_block(block)

    def _finish_block(self, block: int) -> None:
        began = time.perf_counter()
        result = self._compute(block)
        with self._changed:
            if block in self._unfinished:
                self._store(block, result)
                self._unfinished.discard(block)
                self._changed.notify_all()
        self._seconds = time.perf_counter() - began


@on_one_thread
def _help(blocks: _Blocks) -> None:
    with torch.inference_mode(False), torch.no_grad(), quiet_numpy():
        blocks.work()


_helpers = _Helpers()


def compute_blocks(
    compute: Callable[[int], Tensor], store: Callable[[int, Tensor], None], n_blocks: int, n_threads: int
) -> None:
    """Compute blocks and store each once, on up to so many threads.

    One thread takes no lock and needs no helper: so it is in a forked process, where those of the parent are not.

    Parameters
    ----------
    compute : callable
        ``compute(block)``, in any thread and perhaps in two of them.
    store : callable
        ``store(block, result)``, one call at a time; not after this function has returned.
    n_blocks, n_threads : int
    """
    if n_threads == 1:
        for block in range(n_blocks):
            store(block, compute(block))
    else:
        _helpers.run(_Blocks(compute, store, n_blocks), n_threads)


#: By size of the prediction, in powers of two.
_choices: dict[int, ThreadChoice] = {}


def predict_blocks(
    predict: Callable[[Rows], Tensor],
    rows: Rows,
    block_rows: int,
    like: Tensor,
    n_outputs: int,
    n_operations: int,
    *,
    may_share: bool,
) -> Tensor:
    """Predict block by block, on several threads if these are quicker. Which rows are in a block does not depend on that.

    To be called on one thread, without gradients and autocast, and within `quiet_numpy`. Helpers are so, too.

    Parameters
    ----------
    predict : callable
        ``predict(rows)`` gives (n_rows, n_outputs) for some rows, in any thread.
    rows : Rows
    block_rows : int
    like : Tensor
        Of the dtype and device of the predictions.
    n_outputs : int
    n_operations : int
        Multiply-adds.
    may_share : bool
        Whether helpers may predict.
    """
    n_rows = len(rows)
    with torch.inference_mode(False):  # which helpers are not in
        predictions = like.new_empty(n_rows, n_outputs)
    slices = [slice(start, start + block_rows) for start in range(0, n_rows, block_rows)]

    def compute(block: int) -> Tensor:
        return predict(rows[slices[block]])

    def store(block: int, values: Tensor) -> None:
        predictions[slices[block]] = values

    on_threads = partial(compute_blocks, compute, store, len(slices))
    size = n_operations * like.itemsize
    n_threads = available_threads() if may_share and size > LARGE and len(slices) > 1 else 1
    if n_threads == 1 or size >= _VERY_LARGE:
        on_threads(n_threads)
    else:
        choice = _choices.setdefault(size.bit_length(), ThreadChoice(n_operations))
        choice.call(partial(on_threads, 1), partial(on_threads, n_threads), n_operations)
    return predictions

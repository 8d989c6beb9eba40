"""Blocks of a prediction, computed by the calling thread and by helpers that are free; one block, by threads of PyTorch."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

import torch
from torch import Tensor

from sktorch_mlp._data.rows import Rows
from sktorch_mlp._nn.concurrent import NoThreadError, start_thread
from sktorch_mlp._nn.matmul import call_quietly
from sktorch_mlp._nn.tensors import empty_for_others
from sktorch_mlp._nn.threads import ThreadChoice, threads_for_large_calls
from sktorch_mlp._training.threads import available_threads, on_one_thread

#: Multiply-adds from which helpers pay, on an idle machine, times the bytes of a number. To wake one takes some machines 0.2 ms.
_LARGE = 320_000_000

#: Seconds that the end of the program, or a fork, waits for a helper, at most.
_UNTIL_ENDED = 5.0

#: The same of a prediction whose X may be closed: the program crashes if a helper still reads it.
_UNTIL_CLOSED = 60.0

#: Seconds that a thread waits for a block before it looks whether another thread has had it.
_UNTIL_NEXT_LOOK = 0.05

_R = TypeVar("_R")


class _Callers:
    """Threads of the program that predict something large at this moment.

    They are no count, which Ctrl-C between two statements might leave too high for good.
    """

    def __init__(self) -> None:
        self._threads: set[int] = set()

    def __enter__(self) -> int:
        """Enter, and return how many there are."""
        self._threads.add(threading.get_ident())
        return len(self._threads)

    def __exit__(self, *error: object) -> None:
        self._threads.discard(threading.get_ident())


_callers = _Callers()


class _Helpers:
    """Threads that help with blocks, started when first needed.

    Callers and helpers talk by queues that are written in C. Ctrl-C between two statements of an executor or of a condition
    may leave a lock that a helper waits for until the end of the program, and then the program for the helper.
    """

    def __init__(self) -> None:
        self._orders = SimpleQueue[_Blocks | None]()
        self._threads: list[threading.Thread] = []
        self._late: set[_Blocks] = set()  # of calls that have returned, while helpers still compute

    def run(self, blocks: _Blocks, n_threads: int, *, to_the_end: bool) -> None:
        """Compute all blocks on the calling thread, and on helpers that no other caller has."""
        with _callers as n_callers:
            n_helpers = min(n_threads - n_callers, blocks.n_blocks - 1)
            try:
                if n_helpers > 0:
                    self._ask(n_helpers, blocks)
                blocks.work()
                if to_the_end:
                    blocks.wait(_UNTIL_CLOSED)
                blocks.finish()
            finally:
                blocks.withdraw()
                if to_the_end:
                    blocks.wait(_UNTIL_CLOSED)
                self._late.add(blocks)
                for late in list(self._late):
                    if not late.wait(0.0):
                        self._late.discard(late)

    def _ask(self, n_helpers: int, blocks: _Blocks) -> None:
        """Let helpers compute, if they can be had."""
        while len(self._threads) < n_helpers:
            thread = threading.Thread(target=_help, args=(self._orders,), name="prediction", daemon=True)
            try:
                start_thread(thread)
            except NoThreadError:  # the caller goes on with those that there are
                break
            self._threads.append(thread)
        for _ in self._threads[:n_helpers]:
            self._orders.put(blocks)

    def before_fork(self) -> None:
        """Wait for helpers that still compute what was late: the child would have the locks that they hold, and not them."""
        for late in list(self._late):
            late.wait(_UNTIL_ENDED)

    def end(self) -> None:
        """Wait for helpers that still compute: one that frees tensors while Python ends may abort it."""
        for _ in self._threads:
            self._orders.put(None)
        for thread in self._threads:
            thread.join(timeout=_UNTIL_ENDED)
        self._threads = []


class _Blocks:
    """Blocks that several threads compute. A block that is late is computed again rather than waited for."""

    def __init__(self, compute: Callable[[int], Tensor], store: Callable[[int, Tensor], None], n_blocks: int) -> None:
        self._compute, self._store, self.n_blocks = compute, store, n_blocks
        self._waiting = deque(range(n_blocks))
        self._unfinished = set(range(n_blocks))
        self._not_here = set(range(n_blocks))  # those that helpers have in hand, or may take
        self._of_helpers = SimpleQueue[tuple[int, Tensor | None]]()
        self._seconds = 0.0  # of the last block

    def _next_blocks(self) -> Iterator[int]:
        while self._waiting:
            try:
                yield self._waiting.popleft()
            except IndexError:
                return

    def help(self) -> None:
        """Compute blocks until none is waiting. Called by helpers; what they have computed is stored by the caller."""
        for block in self._next_blocks():
            result = None
            try:
                result = self._compute(block)
            finally:
                self._of_helpers.put((block, result))

    def work(self) -> None:
        """Compute and store blocks until none is waiting."""
        for block in self._next_blocks():
            self._not_here.discard(block)
            began = time.perf_counter()
            self._finish_block(block, self._compute(block))
            self._seconds = time.perf_counter() - began
            self.wait(0.0)

    def wait(self, seconds: float) -> bool:
        """Store what helpers have computed, or will have in so many seconds. Return whether they have more in hand."""
        deadline = time.perf_counter() + seconds
        while self._not_here:
            remaining = deadline - time.perf_counter()
            try:
                block, result = self._of_helpers.get(timeout=max(0.0, min(remaining, _UNTIL_NEXT_LOOK)))
            except Empty:  # or another thread has looked, and has the last one
                if remaining <= 0:
                    return True
                continue
            self._not_here.discard(block)
            if result is not None:
                self._finish_block(block, result)
        return False

    def finish(self) -> None:
        """Wait for helpers as long as a block takes; then compute what they still have in hand."""
        self.wait(self._seconds)
        for block in sorted(self._unfinished):
            self.wait(0.0)
            if block in self._unfinished:
                self._finish_block(block, self._compute(block))

    def withdraw(self) -> None:
        """Leave nothing for helpers to begin, after an error or Ctrl-C, and nothing of X to those who have not yet looked."""
        for block in self._next_blocks():
            self._not_here.discard(block)
        self._unfinished.clear()
        self._compute, self._store = _compute_nothing, _store_nothing

    def _finish_block(self, block: int, result: Tensor) -> None:
        if block in self._unfinished:
            self._store(block, result)
            self._unfinished.discard(block)


def _compute_nothing(block: int) -> Tensor:
    raise RuntimeError(f"Block {block} has been withdrawn.")


def _store_nothing(block: int, result: Tensor) -> None:
    """Nobody waits for it."""


@on_one_thread
def _help(orders: SimpleQueue[_Blocks | None]) -> None:
    """Help with what is ordered, until nothing more will be."""
    with torch.inference_mode(False), torch.no_grad():
        while (blocks := orders.get()) is not None:
            with suppress(
                Exception
            ):  # the caller computes the block again, and has the error if it is not the helper's alone
                call_quietly(blocks.help)
            del blocks


_helpers = _Helpers()
atexit.register(lambda: _helpers.end())


def _after_fork() -> None:
    """Forget helpers in a child, which has none."""
    global _helpers
    _helpers = _Helpers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=lambda: _helpers.before_fork(), after_in_child=_after_fork)


def compute_blocks(
    compute: Callable[[int], Tensor],
    store: Callable[[int, Tensor], None],
    n_blocks: int,
    n_threads: int,
    *,
    to_the_end: bool = False,
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
    to_the_end : bool, default=False
        Whether to wait until no other thread computes a block, also after an error.
    """
    if n_threads == 1:
        for block in range(n_blocks):
            store(block, compute(block))
    else:
        _helpers.run(_Blocks(compute, store, n_blocks), n_threads, to_the_end=to_the_end)


def predict_blocks(
    predict: Callable[[Rows], Tensor],
    rows: Rows,
    block_rows: int,
    like: Tensor,
    n_outputs: int,
    n_operations: int,
    *,
    may_share: bool,
    to_the_end: bool = False,
) -> Tensor:
    """Predict block by block, on several threads if these are quicker. Which rows are in a block does not depend on that.

    To be called on one thread, without gradients and autocast, and within `call_quietly`. Helpers are so, too.

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
    to_the_end : bool, default=False
        Whether no helper may read the rows when this has returned.
    """
    n_rows = len(rows)
    predictions = empty_for_others(like, n_rows, n_outputs)  # for helpers
    slices = [slice(start, start + block_rows) for start in range(0, n_rows, block_rows)]

    def compute(block: int) -> Tensor:
        return predict(rows[slices[block]])

    def store(block: int, values: Tensor) -> None:
        predictions[slices[block]] = values

    is_large = n_operations * like.itemsize > _LARGE
    n_threads = available_threads() if may_share and is_large and len(slices) > 1 else 1
    compute_blocks(compute, store, len(slices), n_threads, to_the_end=to_the_end)
    return predictions


#: By size of the block, in powers of two.
_choices: dict[int, ThreadChoice] = {}


def share_block(compute: Callable[[], _R], n_operations: int, n_bytes: int, *, is_first: bool = False) -> _R:
    """Compute a block alone, or its large products on the threads of PyTorch, if these are quicker.

    Those spin as long as the next product may come, and so are there at once where helpers would first have to wake. Each
    thread of the program would have its own, and where several predict the cores have enough to do: so only the main one has.

    Parameters
    ----------
    compute : callable
        Its bits do not depend on the threads that large calls are allowed.
    n_operations : int
        Multiply-adds.
    n_bytes : int
        Of a number.
    is_first : bool, default=False
        Whether products like these may be shared for the first time, which takes as long as many calls.
    """
    n_threads = available_threads() if threading.current_thread() is threading.main_thread() else 1
    with _callers as n_callers:
        if n_threads == 1 or n_callers > 1:
            return compute()
        size = (n_operations * n_bytes).bit_length()
        choice = _choices.get(size) or _choices.setdefault(size, ThreadChoice(n_operations))
        shared = partial(_call_with_threads, n_threads, compute)
        return choice.call(compute, shared, n_operations, is_typical=not is_first)


def _call_with_threads(n_threads: int, compute: Callable[[], _R]) -> _R:
    with threads_for_large_calls(n_threads):
        return compute()

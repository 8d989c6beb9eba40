"""Private names of scikit-learn's callbacks, with the reason for each and its fallback."""

from __future__ import annotations

import copy
from typing import Any


def clear_subtasks(context: Any) -> None:
    """Forget the subtasks of a callback context, ``CallbackContext._children_map``.

    A fit whose training begins again numbers its epochs from the start, but scikit-learn has no way to take
    subtasks back. Where the attribute is gone, the epochs of both attempts are counted, and scikit-learn raises if
    they are more than `max_iter`.
    """
    subtasks = getattr(context, "_children_map", None)
    if subtasks is not None:
        subtasks.clear()


def copy_without_callbacks(estimator: Any) -> Any:
    """Copy an estimator without its callbacks and their contexts, which `set_callbacks` and `fit` keep on it.

    A snapshot that a callback keeps or saves must not hold that callback. An attribute that is gone needs no removal.
    """
    twin = copy.copy(estimator)
    for name in ("_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_parent_callback_ctx"):
        twin.__dict__.pop(name, None)
    return twin

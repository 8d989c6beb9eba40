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


#: What `set_callbacks` and a fit keep on an estimator.
_CALLBACK_ATTRIBUTES = ("_skl_callbacks", "_skl_callbacks_to_teardown", "_callback_fit_ctx", "_parent_callback_ctx")


def callback_attributes(estimator: Any) -> dict[str, Any]:
    """Attributes by which scikit-learn ends callbacks after a fit, one that fails as well.

    Without them a progress bar goes on, and the process does not end.
    """
    return {name: value for name, value in vars(estimator).items() if name in _CALLBACK_ATTRIBUTES}


def copy_without_callbacks(estimator: Any) -> Any:
    """Copy an estimator without its callbacks and their contexts, which `set_callbacks` and `fit` keep on it.

    A snapshot that a callback keeps or saves must not hold that callback. An attribute that is gone needs no removal.
    """
    twin = copy.copy(estimator)
    for name in _CALLBACK_ATTRIBUTES:
        twin.__dict__.pop(name, None)
    return twin

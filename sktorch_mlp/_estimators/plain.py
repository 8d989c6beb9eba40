"""Plain states of estimators: dicts, lists, numbers, strings and arrays, of which pickles and files are made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Self, TypeVar

import torch

from sktorch_mlp._training.optimizers import class_from_plain, class_to_plain

from .compat import REQUESTS, BaseEstimator, requests_from_plain, requests_to_plain

Made = TypeVar("Made")


class Converter(NamedTuple):
    """How an attribute becomes plain, and is made of that again."""

    to_plain: Callable[[Any], Any]
    from_plain: Callable[[Any], Any]


def from_state(class_: type[Made], state: Any) -> Made:
    """Make an object of the state that its `__getstate__` gave."""
    made = class_.__new__(class_)
    made.__setstate__(state)  # type: ignore[attr-defined] # classes of ours that have it
    return made


def of_class(class_: type) -> Converter:
    """Converter of objects of a class whose `__getstate__` is plain."""
    return Converter(lambda made: made.__getstate__(), lambda state: from_state(class_, state))


def _device_to_plain(device: Any) -> Any:
    """A device as a dict; a name is plain already."""
    return {"torch.device": str(device)} if isinstance(device, torch.device) else device


def _device_from_plain(value: Any) -> Any:
    return torch.device(value["torch.device"]) if isinstance(value, dict) else value


class PlainEstimator(BaseEstimator):
    """An estimator whose state is plain, so that every tool that dumps estimators can dump it.

    Only this class has to be trusted to load it. What the user has passed as a parameter and is not plain, a
    function say, stays as it is.
    """

    #: Converters of the parameters and attributes that are not plain themselves. None always is.
    _converters: ClassVar[dict[str, Converter]] = {
        "device": Converter(_device_to_plain, _device_from_plain),
        "solver": Converter(class_to_plain, class_from_plain),
    }

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        for name, converter in self._converters.items():
            if state.get(name) is not None:
                state[name] = converter.to_plain(state[name])
        if REQUESTS in state:
            state[REQUESTS] = requests_to_plain(state[REQUESTS])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        made = {
            name: converter.from_plain(state[name])
            for name, converter in self._converters.items()
            if state.get(name) is not None
        }
        requests = state.get(REQUESTS)
        super().__setstate__({**{name: value for name, value in state.items() if name != REQUESTS}, **made})
        if requests is not None:
            vars(self)[REQUESTS] = requests_from_plain(self, requests)

    def __copy__(self) -> Self:
        """A shallow copy has the same objects, which none made of a state would be."""
        twin = type(self).__new__(type(self))
        vars(twin).update(vars(self))
        return twin

"""Tasks that the tests of processes run there. This module imports little, since each process imports it."""

import gc
import os
import time
import warnings
import weakref
from pathlib import Path

import torch

stack_sizes = {}
cycles = []


def process_after(seconds):
    """Wait; return the process."""
    time.sleep(seconds)
    return os.getpid()


def noted_tanh(call, units):
    """Activate, and note how many networks do so at once."""
    sizes = stack_sizes.setdefault(call, [])
    if units.ndim == 3:
        sizes.append(len(units))
    return torch.tanh(units)


def fit_and_tell(call, fit):
    """Fit in a call; return the process, and the sizes of the stacks that it has trained in this call."""
    fit()
    return os.getpid(), list(stack_sizes[call])


def touching_tanh(path, units):
    """Activate, and make a file."""
    Path(path).touch()
    return torch.tanh(units)


class Cycle:
    """Only the garbage collector frees it."""

    def __init__(self):
        self.itself = self


def note_cycle(cycle):
    """Keep a weak reference to an argument."""
    cycles.append(weakref.ref(cycle))


def tell_collection():
    """Collect garbage; return how many objects are exempted, and for each cycle noted whether it is gone."""
    gc.collect()
    return gc.get_freeze_count(), [reference() is None for reference in cycles]


def turn_warnings_into_errors():
    """Change the filters of warnings for good."""
    warnings.simplefilter("error")


def first_filter():
    """Return the action of the first filter of warnings."""
    return warnings.filters[0][0]

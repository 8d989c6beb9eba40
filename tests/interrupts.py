"""Ctrl-C where a function of Python begins."""

import sys
from itertools import count


def interrupt_call(number):
    """Trace function that raises KeyboardInterrupt where a function of Python begins, as Ctrl-C may."""
    calls = count(1)

    def trace(frame, event, arg):
        if event == "call" and next(calls) == number:
            sys.settrace(None)
            raise KeyboardInterrupt

    return trace

"""Types of command-line arguments."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def scale(text: str) -> float:
    """A number above 0 and at most 1."""
    if not 0 < (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], got {text}")
    return number

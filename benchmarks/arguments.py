"""Command-line arguments that several commands take."""

from __future__ import annotations

import argparse
from pathlib import Path

from .implementations import BASELINES, USUAL_BASELINES
from .runner import AT_LEAST, PAUSE


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def seconds(text: str) -> float:
    """A number of at least 0."""
    if not (number := float(text)) >= 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return number


def scale(text: str) -> float:
    """A number above 0 and at most 1."""
    if not 0 < (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], got {text}")
    return number


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what all commands take that measure something."""
    add = parser.add_argument
    add("--repeats", type=positive, default=5, help="rounds (default: %(default)s)")
    add("--threads", type=positive, help="for everyone (default: what each library chooses)")
    add("--device", default="cpu", help="cpu or cuda, for all but scikit-learn (default: cpu)")
    add("--summary", type=Path, metavar="FILE", help="write medians and spreads there, as JSON")
    add("--json", type=Path, metavar="FILE", help="write every measurement there as well")
    add("--scale", type=scale, default=1.0, help="above 0, at most 1: shrink sizes, for smoke tests")
    add("--pause", type=seconds, default=PAUSE, help="seconds before each timing (default: %(default)s)")
    add("--at-least", type=seconds, default=AT_LEAST, help="seconds that a timing lasts (default: %(default)s)")


def add_figure(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a picture."""
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw a picture there: .svg, .png or .pdf")


def add_baselines(parser: argparse.ArgumentParser) -> None:
    """Add the choice of baselines."""
    names = ", ".join(BASELINES)
    parser.add_argument(
        "--baselines", nargs="+", choices=BASELINES, default=USUAL_BASELINES, metavar="NAME", help=f"of {names}"
    )

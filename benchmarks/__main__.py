"""Command line: ``python -m benchmarks fits``.

A command is a module with `add_arguments(parser)` and `run(args)`, which returns the
exit status; the first line of its docstring is its help.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from . import fits
from .problems import PROBLEMS

COMMANDS = {"fits": fits}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; those of the process if None.

    Returns
    -------
    status : int
        0, or 1 where contestants did not reach the same loss.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Benchmarks of sktorch_mlp against its rivals."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary, parents=[_common_arguments()])
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)


def _common_arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    names = ", ".join(PROBLEMS)
    parser.add_argument(
        "--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="NAME", help=f"of {names}"
    )
    parser.add_argument("--repeats", type=_positive, default=5, help="timed rounds (default: 5)")
    parser.add_argument("--threads", type=_positive, help="for everyone (default: what each library chooses)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for all but scikit-learn (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all timings there")
    parser.add_argument(
        "--scale", type=_scale, default=1.0, help="above 0, at most 1: shrink rows and epochs, for smoke tests"
    )
    return parser


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _scale(text: str) -> float:
    if not 0 < (scale := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be in (0, 1], got {text}")
    return scale


if __name__ == "__main__":
    sys.exit(main())

"""Command line: ``python -m benchmarks fits``.

A command is a module. The first line of its docstring is its help, `UNIT` that of its
measurements, and it has ``add_arguments(parser)``, ``run(args)``, which returns the
rows, ``summary(rows, args)``, which writes them down, and perhaps ``draw(rows, path)``.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from sklearn.exceptions import ConvergenceWarning

from . import configurations, figures, fits, imports, memory, predict, scaling, search, stacks
from .arguments import positive, scale
from .report import environment, to_json
from .runner import SkippedError, limit_threads

COMMANDS = {
    "fits": fits,
    "predict": predict,
    "search": search,
    "stacks": stacks,
    "scaling": scaling,
    "memory": memory,
    "configurations": configurations,
    "imports": imports,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments; those of the process if None.

    Returns
    -------
    status : int
        0, or 1 where contestants did not reach the same result.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    if args.figure is not None:
        figures.check_matplotlib()
    with limit_threads(args.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are run exactly, converged or not
        before = environment(args.device)
        if (load := before["machine"]["load_average"]) is not None and load > 0.5:
            print(f"WARNING: this machine is busy (load {load:.1f}); the ratios will flatter ours.", file=sys.stderr)
        try:
            rows = args.command.run(args)
        except SkippedError as reason:
            print(f"SKIPPED: {reason}", file=sys.stderr)
            return 0

    print(args.command.summary(rows, args))
    if args.json is not None:
        args.json.write_text(to_json(rows, args.command.UNIT, arguments=list(argv), **before), encoding="utf-8")
    if args.figure is not None:
        args.command.draw(rows, args.figure)
    mismatches = [
        f"{row.title}, {line}" for row in rows for v in row.verdicts.values() if v is not None for line in v.mismatches
    ]
    if mismatches:
        print("\nERROR: RESULTS DIFFER, so different things were measured.", *mismatches, sep="\n", file=sys.stderr)
    return 1 if mismatches else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Benchmarks of sktorch_mlp against its rivals."
    )
    commands = parser.add_subparsers(metavar="command", required=True)
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary)
        command.set_defaults(command=module, figure=None)
        _add_common_arguments(command)
        if hasattr(module, "draw"):
            command.add_argument("--figure", type=Path, metavar="FILE", help="draw a picture there: .svg, .png or .pdf")
        module.add_arguments(command)
    return parser


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=positive, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=positive, help="for everyone (default: what each library chooses)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for all but scikit-learn (default: cpu)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements there")
    parser.add_argument("--scale", type=scale, default=1.0, help="above 0, at most 1: shrink sizes, for smoke tests")


if __name__ == "__main__":
    sys.exit(main())

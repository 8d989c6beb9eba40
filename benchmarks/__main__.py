"""Command line: ``python -m benchmarks fits``.

A command is a module. The first line of its docstring is its help, `UNIT` that of its
measurements, and it has ``add_arguments(parser)``, ``run(args)``, which measures rows,
``tables(summary)``, which writes down what is kept of them, and perhaps
``draw(summary, path)``.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from . import figures
from .arguments import add_common, add_figure
from .commands import (
    contention,
    devices,
    features,
    fits,
    imports,
    memory,
    predict,
    scaling,
    search,
    sources,
    tables,
    versions,
)
from .machine import MAX_LOAD, environment
from .report import Summary, summarize, to_json
from .runner import Row, SkippedError, limit_threads

COMMANDS: dict[str, Any] = {
    "fits": fits,
    "predict": predict,
    "search": search,
    "scaling": scaling,
    "contention": contention,
    "devices": devices,
    "memory": memory,
    "sources": sources,
    "imports": imports,
    "features": features,
    "tables": tables,
    "versions": versions,
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
        0, or 1 where results differ by more than their tolerance.
    """
    argv = sys.argv[1:] if argv is None else argv
    args = _parser().parse_args(argv)
    if getattr(args, "figure", None) is not None:
        figures.check_matplotlib()
    if args.command == "table":
        _show(json.loads(args.file.read_text(encoding="utf-8")), args)
        return 0
    return _measure(args, list(argv))


def _measure(args: argparse.Namespace, argv: list[str]) -> int:
    module = COMMANDS[args.command]
    with limit_threads(args.threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the epochs are run exactly, converged or not
        head = {"command": args.command, "arguments": argv, "repeats": args.repeats, "unit": module.UNIT}
        head |= environment(args.device)
        if (load := head["machine"]["load_average"] or 0.0) > MAX_LOAD:
            print(f"WARNING: load average {load:.1f}: wait until the machine is idle.", file=sys.stderr)
        for name, value in head["machine"]["kernel_variables"].items():
            print(f"WARNING: {name}={value} chooses kernels that users do not have: unset it.", file=sys.stderr)
        try:
            rows = module.run(args)
        except SkippedError as reason:
            print(f"SKIPPED: {reason}", file=sys.stderr)
            return 0

    summary = summarize(head, rows)
    if args.summary is not None:
        args.summary.write_text(to_json(summary), encoding="utf-8")
    if args.json is not None:
        args.json.write_text(to_json(summarize(head, rows, with_rounds=True)), encoding="utf-8")
    _show(summary, args)
    mismatches = _mismatches(rows)
    if mismatches:
        print("\nERROR: RESULTS DIFFER, so different things were measured.", *mismatches, sep="\n", file=sys.stderr)
    return 1 if mismatches else 0


def _show(summary: Summary, args: argparse.Namespace) -> None:
    """Print tables, and draw a figure if one is asked for."""
    module = COMMANDS[summary["command"]]
    print(module.tables(summary))
    if getattr(args, "figure", None) is not None:
        if not hasattr(module, "draw"):
            raise SystemExit(f"{summary['command']} has no figure")
        module.draw(summary, args.figure)


def _mismatches(rows: Sequence[Row]) -> list[str]:
    return [
        f"{row.title}, {line}" for row in rows for ratio in row.ratios.values() if ratio for line in ratio.mismatches
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Benchmarks of sktorch_mlp.")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    for name, module in COMMANDS.items():
        summary = module.__doc__.partition("\n")[0]
        command = commands.add_parser(name, help=summary, description=summary)
        add_common(command)
        if hasattr(module, "draw"):
            add_figure(command)
        module.add_arguments(command)
    summary = "Print the tables of a summary, and perhaps draw its figure, without measuring."
    table = commands.add_parser("table", help=summary, description=summary)
    table.add_argument("file", type=Path, help="written by --summary or --json")
    add_figure(table)
    return parser


if __name__ == "__main__":
    sys.exit(main())

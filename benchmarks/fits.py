"""Time whole fits and print how many times longer each rival takes."""

from __future__ import annotations

import argparse
import json
import sys
from functools import partial

import numpy as np

from .problems import PROBLEMS
from .report import environment, record, table
from .rivals import ours, sklearn_mlp, skorch_net, torch_loop
from .runner import Comparison, Contestant, Gate, compare, limit_threads, race

# Same weights, batches and formulas as scikit-learn: only rounding differs, by some 1e-15 in float64 and
# 1e-4 in float32, where it grows over the epochs. The bounds leave room for other machines.
SAME_IN_FLOAT64 = Gate(rtol=1e-6, atol=1e-6)
SAME_IN_FLOAT32 = Gate(rtol=1e-3, atol=1e-3)
# Other initial weights and batches, no penalty: learnt about as well, within a factor of two.
SIMILAR = Gate(rtol=1.0, atol=0.2)

OURS_64 = Contestant("ours, X float64", ours.fit, np.float64)
OURS_32 = Contestant("ours, X float32", ours.fit, np.float32)
OURS_CAST = Contestant('ours, dtype="float32"', partial(ours.fit, dtype="float32"), np.float64)
SKLEARN_64 = Contestant("scikit-learn, X float64", sklearn_mlp.fit, np.float64)
SKLEARN_32 = Contestant("scikit-learn, X float32", sklearn_mlp.fit, np.float32)
SKORCH = Contestant("skorch", skorch_net.fit, np.float32)
TORCH_LOOP = Contestant("DataLoader loop", torch_loop.fit, np.float32)

RIVALS = ("sklearn", "skorch", "torch_loop")


def comparisons(rival: str, device: str) -> list[Comparison]:
    """Who is held against what, and how close the losses must be."""
    if rival == "skorch":
        return [Comparison("skorch", SKORCH, OURS_32, SIMILAR)]
    if rival == "torch_loop":
        return [Comparison("DataLoader loop", TORCH_LOOP, OURS_32, SIMILAR)]
    same_in_float64 = SAME_IN_FLOAT64 if device == "cpu" else SAME_IN_FLOAT32  # elsewhere our default is float32
    return [
        Comparison("scikit-learn, X float64", SKLEARN_64, OURS_64, same_in_float64),
        Comparison("scikit-learn, X float32", SKLEARN_32, OURS_32, SAME_IN_FLOAT32),
        Comparison('scikit-learn, dtype="float32"', SKLEARN_64, OURS_CAST, SAME_IN_FLOAT32),
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what only this command takes."""
    parser.add_argument(
        "--rivals", nargs="+", choices=RIVALS, default=RIVALS, metavar="NAME", help=f"of {', '.join(RIVALS)}"
    )


def run(args: argparse.Namespace) -> int:
    """Time the rivals on the problems; print a table, write JSON.

    Parameters
    ----------
    args : Namespace
        The command line.

    Returns
    -------
    status : int
        1 where losses differ, else 0.
    """
    columns = [comparison for rival in args.rivals for comparison in comparisons(rival, args.device)]
    contestants = dict.fromkeys(contestant for column in columns for contestant in (column.rival, column.ours))
    rows, records = [], []
    results = {"command": "fits", "repeats": args.repeats, "threads": args.threads, "scale": args.scale}
    with limit_threads(args.threads):
        results |= environment(args.device)
        if (load := results["machine"]["load_average"]) is not None and load > 0.5:
            print(f"WARNING: this machine is busy (load {load:.1f}); the ratios will flatter ours.", file=sys.stderr)
        for name in args.problems:
            problem = PROBLEMS[name].scaled(args.scale)
            print(f"{problem} …", file=sys.stderr)
            timings = race(contestants, problem, args.repeats, args.device)
            verdicts = [compare(column, timings) for column in columns]
            rows.append((problem, verdicts))
            records.append(record(problem, timings, verdicts))

    print(f"Time of the rival / ours: median (lowest–highest) of {args.repeats} rounds; above 1 ours is faster.\n")
    print(table(rows))
    if args.json is not None:
        args.json.write_text(json.dumps(results | {"problems": records}, indent=1) + "\n")
    mismatches = [f"{problem.name}, {line}" for problem, verdicts in rows for v in verdicts for line in v.mismatches]
    if mismatches:
        print("\nERROR: LOSSES DIFFER, the timings compare different things.", *mismatches, sep="\n", file=sys.stderr)
    return 1 if mismatches else 0

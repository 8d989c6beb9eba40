"""Smoke test of the benchmarks: everything runs and is written down. No timing is asserted."""

import gc
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import fits, runner
from benchmarks.__main__ import main
from benchmarks.problems import PROBLEMS
from benchmarks.report import table
from benchmarks.runner import Gate, Timing, compare

TINY = ["fits", "--problems", "iris", "digits", "--repeats", "2", "--scale", "0.05", "--threads", "1"]
COLUMNS = [
    "scikit-learn, X float64",
    "scikit-learn, X float32",
    'scikit-learn, dtype="float32"',
    "skorch",
    "DataLoader loop",
]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(runner, "PAUSE", 0)
    gc.freeze()  # else a collection before each timing takes 0.2 s, for all that the tests have imported
    yield
    gc.unfreeze()


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_fits_prints_a_table_and_writes_json(tmp_path, capsys):
    path = tmp_path / "fits.json"
    assert main([*TINY, "--json", str(path)]) == 0

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert _cells(lines[0]) == ["problem", *COLUMNS]
    assert [_cells(line)[0].split(":")[0] for line in lines[2:]] == ["iris", "digits"]
    assert all(len(_cells(line)) == 1 + len(COLUMNS) for line in lines)

    results = json.loads(path.read_text(encoding="utf-8"))
    assert results["versions"].keys() >= {"python", "numpy", "scipy", "scikit-learn", "torch", "skorch"}
    assert results["machine"].keys() >= {"cpu", "cores", "torch_threads", "blas_threads"}
    assert results["machine"]["torch_threads"] == 1
    assert [record["problem"] for record in results["problems"]] == ["iris", "digits"]
    for record in results["problems"]:
        assert len(record["contestants"]) == 7
        assert all(len(c["seconds"]) == len(c["losses"]) == 2 for c in record["contestants"].values())
        assert [comparison["name"] for comparison in record["comparisons"]] == COLUMNS
        for comparison in record["comparisons"]:
            assert 0 < comparison["min"] <= comparison["median"] <= comparison["max"]
            assert comparison["mismatches"] == []


def test_only_the_rivals_asked_for_run(capsys):
    assert main([*TINY, "--rivals", "torch_loop"]) == 0
    assert "| problem | DataLoader loop |" in capsys.readouterr().out


def test_a_rival_with_another_loss_fails_loudly(monkeypatch, capsys):
    def fit_too_well(problem, X, y, seed, device):
        return [0.0] * problem.epochs

    monkeypatch.setattr(fits, "SKORCH", replace(fits.SKORCH, fit=fit_too_well))
    assert main([*TINY, "--rivals", "skorch"]) == 1
    out, err = capsys.readouterr()
    assert "LOSSES DIFFER" in out
    assert "ERROR: LOSSES DIFFER" in err
    assert "iris, skorch: loss 0, ours" in err


def test_a_rival_that_trains_fewer_epochs_is_an_error(monkeypatch):
    def fit_too_briefly(problem, X, y, seed, device):
        return [1.0] * (problem.epochs - 1)

    monkeypatch.setattr(fits, "SKORCH", replace(fits.SKORCH, fit=fit_too_briefly))
    with pytest.raises(RuntimeError, match=r"skorch trained \d+ epochs on iris, not \d+"):
        main([*TINY, "--rivals", "skorch"])


@pytest.mark.parametrize(
    ("loss", "other", "passes"),
    [
        (0.5, 0.5, True),
        (0.5, 0.5005, True),
        (0.5, 0.51, False),  # relatively too far apart
        (50.0, 50.04, False),  # relatively close, absolutely too far apart
        (0.001, 0.0015, False),  # absolutely close, relatively too far apart
        (math.nan, 0.5, False),
        (math.nan, math.nan, False),
        (math.inf, math.inf, False),
    ],
)
def test_gate(loss, other, passes):
    gate = Gate(rtol=0.01, atol=0.01)
    assert gate.passes(loss, other) is passes
    assert gate.passes(other, loss) is passes


def test_a_lost_row_is_printed_and_marked():
    [column] = fits.comparisons("skorch", "cpu")
    timings = {
        column.rival: [Timing(seconds, 0.5) for seconds in (1.0, 3.0, 1.0)],
        column.ours: [Timing(2.0, 0.5)] * 3,
    }
    verdict = compare(column, timings)
    assert verdict.ratios == [0.5, 1.5, 0.5]
    assert "| **slower: 0.50 (0.50–1.50)** |" in table([(PROBLEMS["iris"], [verdict])])


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_problems_are_what_they_say(name, scale):
    problem = PROBLEMS[name].scaled(scale)
    X, y = problem.make(problem)
    assert X.shape == (problem.rows, problem.features)
    assert (X.dtype, y.dtype) == (np.float64, np.int64)
    assert np.array_equal(np.unique(y), np.arange(problem.n_classes))
    assert problem.batch_size <= problem.rows


def test_the_full_scale_changes_nothing():
    assert all(problem.scaled(1) == problem for problem in PROBLEMS.values())

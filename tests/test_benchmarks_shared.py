"""What the commands of the benchmarks share notices wrong results and busy machines."""

import itertools
import json
import math
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import figures, machine
from benchmarks.__main__ import _parser, main
from benchmarks.baselines import Fitted, products
from benchmarks.commands import fits, predict
from benchmarks.implementations import BASELINES, IMPLEMENTATIONS, X_FLOAT64, Implementation, columns_of
from benchmarks.machine import CpuTimes, cores_used_by_others, cpu_times
from benchmarks.problems import PROBLEMS, words
from benchmarks.report import cell, ratio_table, summarize, to_json
from benchmarks.runner import Comparison, Measurement, Row, compare, interleave, timed
from benchmarks.tolerances import (
    LOSSES,
    PREDICTIONS,
    Agreement,
    ArrayTolerance,
    FitResult,
    LabelTolerance,
    LossTolerance,
    ShapeTolerance,
)

ROOT = Path(__file__).parents[1]


def _args(command):
    return _parser().parse_args([command, "--threads", "1", "--pause", "0", "--at-least", "0", "--repeats", "1"])


# Fairness ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in IMPLEMENTATIONS if name != "products"])
def test_an_implementation_with_another_loss_is_noticed(name):
    def fit(problem, X, y, seed, device):
        return Fitted(FitResult(0.0, problem.epochs), None)

    columns = columns_of(["bfloat16"] if "bfloat16" in name else ["sklearn", "skorch", "torch"], "cpu", {})
    columns = [column for column in columns if name in (column.baseline, column.ours)]
    others = {n: replace(i, fit=fit if n == name else _fit_badly) for n, i in IMPLEMENTATIONS.items()}
    row = fits.fit_row(PROBLEMS["iris"].scaled(0.05), columns, _args("fits"), implementations=others)
    assert all("loss" in ratio.mismatches[0] for ratio in row.ratios.values())


def _fit_badly(problem, X, y, seed, device):
    return Fitted(FitResult(1.0, problem.epochs), None)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_results_that_differ_are_noticed():
    class Wrong:
        def predict(self, X):
            return np.full(len(X), -1)

        def predict_proba(self, X):
            return np.full((len(X), 10), 0.1)

    def fit(problem, X, y, seed, device):
        return Fitted(FitResult(0.1, 1), Wrong())

    implementations = IMPLEMENTATIONS | {X_FLOAT64.baseline: Implementation(X_FLOAT64.baseline, fit, np.float64)}
    columns = columns_of(["sklearn"], "cpu", {})
    rows = predict.prediction_rows(
        [("predict_proba", 10), ("predict", 100)], columns, _args("predict"), implementations
    )
    summary = summarize({"repeats": 1, "unit": "seconds", "machine": {"load_average": None}}, rows)
    assert predict.tables(summary).count("RESULTS DIFFER") == 4  # both uses of a float64 X, of both methods
    assert "0.00% of the labels are the same with seed 0" in rows[1].ratios[X_FLOAT64.title].mismatches[0]


def test_a_fit_of_fewer_epochs_is_an_error():
    def fit(problem, X, y, seed, device):
        return Fitted(FitResult(1.0, problem.epochs - 1), None)

    implementation = Implementation("lazy", fit, np.float32)
    with pytest.raises(RuntimeError, match="lazy trained 299 epochs on iris, not 300"):
        fits.checked_fit(implementation, PROBLEMS["iris"], None, None, "cpu", 0)


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
def test_tolerance_of_losses(loss, other, passes):
    tolerance = LossTolerance(rtol=0.01, atol=0.01)
    assert (tolerance.difference(FitResult(loss, 3), FitResult(other, 3)) == "") is passes
    assert (tolerance.difference(FitResult(other, 3), FitResult(loss, 3)) == "") is passes


def test_losses_after_other_numbers_of_iterations_do_not_agree():
    difference = LossTolerance(rtol=1, atol=1).difference(FitResult(0.5, 3), FitResult(0.5, 4))
    assert difference == "3 iterations, ours 4"


@pytest.mark.parametrize(
    ("tolerance", "baseline", "ours", "passes"),
    [
        (ShapeTolerance(), [0, 0, 0], [1, 1, 1], True),
        (ShapeTolerance(), [0, 0, 0], [[1, 1, 1]], False),
        (ArrayTolerance(0.1), [0.5, 0.5], [0.45, 0.55], True),
        (ArrayTolerance(0.1), [0.5, 0.5], [0.3, 0.7], False),
        (ArrayTolerance(0.1), [0.5, math.nan], [0.5, 0.5], False),
        (ArrayTolerance(0.1), [0.5], [0.5, 0.5], False),
        (LabelTolerance(0.75), [0, 1, 2, 3], [0, 1, 2, 2], True),
        (LabelTolerance(0.75), [0, 1, 2, 3], [0, 1, 1, 2], False),
        (LabelTolerance(0.75), [0, 1], [0], False),
    ],
)
def test_tolerances_of_predictions(tolerance, baseline, ours, passes):
    assert (tolerance.difference(np.array(baseline), np.array(ours)) == "") is passes


def test_every_agreement_has_a_tolerance():
    wanted = {column.agreement for columns in BASELINES.values() for column in columns} - {Agreement.NONE}
    assert all(tolerances.keys() == wanted for tolerances in (LOSSES, *PREDICTIONS.values()))


def test_a_gpu_is_held_to_float32():
    assert columns_of(["sklearn"], "cpu", {})[0].agreement is Agreement.FLOAT64
    assert {column.agreement for column in columns_of(["sklearn"], "cuda", {})} == {Agreement.FLOAT32}


def test_implementations_take_turns():
    turns = []
    calls = {name: lambda seed, name=name: turns.append((seed, name)) for name in "AB"}
    assert interleave(calls, 2, lambda call: call()).keys() == {"A", "B"}
    assert turns == [(0, "A"), (0, "B"), (1, "A"), (1, "B")]


def test_short_calls_are_repeated(monkeypatch):
    clock = itertools.count(step=0.001)  # a call takes what passes from one look to the next
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    calls = []
    measurement = timed(lambda: calls.append(0), pause=0, at_least=0.0105)
    assert len(calls) == 11
    assert measurement.value == pytest.approx(0.001)


# A busy machine ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "own", "load"),
    [
        (6.0, 6.0, 0.0),  # of 4 seconds on 2 cores; all busy time is our own
        (6.0, 2.0, 1.0),
        (6.0, 6.1, 0.0),  # the two are not read in the same instant
        (0.0, 6.0, None),  # a sandbox that does not count
    ],
)
def test_load_is_the_cores_that_others_use(cores, own, load):
    assert cores_used_by_others(CpuTimes(0, 100, 10), CpuTimes(4, 100 + cores, 10 + own)) == load


def test_load_is_unknown_without_proc():
    assert cores_used_by_others(None, None) is None


@pytest.mark.skipif(cpu_times() is None, reason="needs Linux's /proc")
def test_own_work_is_no_load():
    start, used = cpu_times(), time.process_time()
    while time.process_time() - used < 0.2:
        pass
    assert cpu_times().own - start.own >= 0.15


def _table(seconds, load=0.0, load_average=0.0, unit="seconds", **options):
    """The table of a baseline that takes some seconds, round by round, and of ours, which takes 2."""
    column = Comparison("baseline", "baseline", "ours", Agreement.NONE, **options)
    measurements = {
        "baseline": [Measurement(s, None) for s in seconds],
        "ours": [Measurement(2.0, None)] * len(seconds),
    }
    row = Row("iris", {}, measurements, compare([column], measurements, {}), load)
    return ratio_table(summarize({"unit": unit, "machine": {"load_average": load_average}}, [row]), "problem")


def test_a_quiet_machine_is_not_mentioned():
    assert _table([4.0, 5.0, 5.1], load=0.2, load_average=3.0).splitlines()[2:] == ["| iris | 2.50 (2.00–2.55) |"]


def test_a_busy_machine_is_said_beside_the_ratios():
    line, _, note = _table([4.0], load=3.1).splitlines()[2:]
    assert line == "| iris † | 2.00 (2.00–2.00) |"
    assert note.startswith("† The machine was busy: other programs used up to 3.1 cores. Such ratios may flatter")


def test_the_load_does_not_concern_memory():
    assert "busy" not in _table([4.0], load=3.1, unit="sizes of X")


def test_variables_that_choose_kernels_are_kept(monkeypatch):
    for name in machine._KERNEL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert machine.environment("cpu")["machine"]["kernel_variables"] == {}
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert machine.environment("cpu")["machine"]["kernel_variables"] == {"OPENBLAS_CORETYPE": "Haswell"}


def test_the_load_before_is_said_where_that_since_is_unknown():
    assert "load average 1.7" in _table([4.0], load=None, load_average=1.7)
    assert "load average" not in _table([4.0], load=None, load_average=0.1)


def test_rounds_that_differ_are_said_beside_the_ratios():
    line, _, note = _table([4.0, 4.0, 6.0]).splitlines()[2:]
    assert line == "| iris | 2.00 (2.00–3.00) ‡ |"
    assert "differ by a factor of up to 1.5" in note


# The report ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "options", "text"),
    [
        (1.0, {}, "**slower: 0.50 (0.50–0.50)**"),
        (1.97, {}, "**slower: 0.98 (0.98–0.98)**"),
        (1.97, {"margin": 0.02}, "0.98 (0.98–0.98)"),
        (1.0, {"lower_is_better": True, "mark": "more"}, "**more: 2.00 (2.00–2.00)**"),
        (4.0, {"lower_is_better": True, "mark": "more"}, "0.50 (0.50–0.50)"),
        (1.0, {"lower_is_better": True, "mark": ""}, "2.00 (2.00–2.00)"),
    ],
)
def test_cells(seconds, options, text):
    assert f"| iris | {text} |" in _table([seconds], **options)


def test_a_dash_where_there_is_no_ratio():
    assert cell(None) == "–"


def test_figures_leave_out_what_is_no_ratio_of_the_baseline():
    good = {"lower_is_better": False, "mismatches": []}
    bad, lower = good | {"mismatches": ["loss"]}, good | {"lower_is_better": True}
    assert figures.drawn_ratios({"ratios": {"good": good, "bad": bad, "lower": lower, "none": None}}) == {"good": good}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=lambda path: path.stem)
def test_the_readme_has_the_tables_of_the_results(path, capsys):
    assert main(["table", str(path)]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|") and "---" not in line]
    readme = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8").splitlines()
    assert len(printed) >= 2
    assert set(printed) <= set(readme)


def test_json_has_a_row_a_line_and_no_rounds():
    row = Row("iris", {"n": (1, 2)}, {"ours": [Measurement(1.23456789, None)]}, {"none": None})
    summary = summarize({"command": "fits"}, [row])
    assert summary["rows"][0]["values"] == {"ours": {"median": 1.23457, "min": 1.23457, "max": 1.23457}}
    text = to_json(summary)
    assert json.loads(text) == json.loads(json.dumps(summary))
    assert len(text.splitlines()) == 6


# The products --------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [(5,), (7, 6), (7, 6, 5)], ids=str)
@pytest.mark.parametrize("name", ["iris", "digits", "binary"])
def test_products_are_those_of_a_step(name, layers):
    problem = replace(PROBLEMS[name].shrunk(110), batch_size=20, epochs=3, hidden_layer_sizes=layers)  # 5 × 20 + 10
    X, y = problem.data()
    with FlopCounterMode(display=False) as counter:
        fitted = products.fit(problem, X.astype(np.float32), y, 0, "cpu")
    units = [problem.features, *layers, 1 if name == "binary" else problem.n_classes]
    sizes = [n_in * n_out for n_in, n_out in pairwise(units)]
    a_row = 2 * (3 * sum(sizes) - sizes[0])  # forward, gradient, and back to all layers but the first
    assert counter.get_total_flops() == a_row * problem.rows * problem.epochs
    assert fitted.result.n_iter == 3


@pytest.mark.parametrize(("name", "input_major"), [("iris", True), ("digits", False)])
def test_products_lie_in_memory_as_they_are_fastest(name, input_major):
    problem = PROBLEMS[name]
    X = torch.rand(20, problem.features)
    step = products._Network(problem.layer_units, 0, "cpu").step(X)
    (first_coef, X_t, units), (_, _, first_grad) = step[0], step[-1]
    for tensor in (first_coef, first_grad):
        assert tensor.shape == (100, problem.features)
        assert tensor.mT.is_contiguous() is input_major
        assert tensor.is_contiguous() is not input_major
    assert X_t.data_ptr() == X.data_ptr()
    assert (units.shape, units.is_contiguous()) == ((100, 20), True)  # units before rows
    assert [out.dtype for *_, out in step] == [torch.float32] * 5


def test_products_of_a_prediction():
    model = products._Network(PROBLEMS["mnist_shape"].layer_units, 0, "cpu")
    with FlopCounterMode(display=False) as counter:
        model.predict(np.ones((5_000, 784), np.float32))
    assert counter.get_total_flops() == 2 * 5_000 * (784 * 128 + 128 * 64 + 64 * 10)


@pytest.mark.parametrize(("seconds", "n_threads"), [(lambda n: n, 1), (lambda n: 1 / n, 4)], ids=["one", "all"])
def test_products_run_on_the_faster_number_of_threads(seconds, n_threads):
    assert products.faster_threads(4, seconds) == n_threads


# The problems --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("scale", [0.01, 0.1])
def test_problems_are_what_they_say(name, scale):
    problem = PROBLEMS[name].scaled(scale)
    X, y = problem.data()
    assert X.shape == (problem.rows, problem.features)
    assert (X.dtype, y.dtype) == (np.float64, np.int64)
    assert np.array_equal(np.unique(y), np.arange(problem.n_classes))
    assert problem.batch_size <= problem.rows
    assert sp.issparse(X) is (problem.make is words)
    assert PROBLEMS[name].scaled(1) == PROBLEMS[name]


def test_half_a_percent_of_the_sparse_data_is_filled():
    X, _ = PROBLEMS["sparse"].scaled(0.1).data()
    assert X.has_canonical_format
    assert X.nnz / math.prod(X.shape) == pytest.approx(0.005, rel=0.02)


@pytest.mark.parametrize("kind", ["multilabel", "regressor"])
def test_targets_of_other_kinds(kind):
    _, y = replace(PROBLEMS["iris"], kind=kind).data()
    _, classes = PROBLEMS["iris"].data()
    if kind == "multilabel":
        assert np.array_equal(y.argmax(1), classes)
        assert np.array_equal(y.sum(1), np.ones(150))
    else:
        assert (y.mean(), y.std()) == pytest.approx((0, 1))


def test_only_basic_problems_are_for_all():
    assert [name for name, problem in PROBLEMS.items() if not problem.is_basic] == ["lbfgs", "sparse"]
    basic = PROBLEMS["iris"]
    changes = [{"kind": "regressor"}, {"weighted": True}, {"incremental": True}, {"params": {"alpha": 0}}]
    assert not any(replace(basic, **change).is_basic for change in changes)

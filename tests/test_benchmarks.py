"""Smoke test of the benchmarks: everything runs and is written down. No timing is asserted."""

import json
import math
import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import configurations, figures, imports, memory, predict, runner, scaling, search, stacks
from benchmarks.__main__ import COMMANDS, main
from benchmarks.contestants import CAST, CONTESTANTS, RIVALS, USUAL_RIVALS, X_FLOAT64, Contestant, comparisons
from benchmarks.gates import LOSSES, PREDICTIONS, Agreement, Labels, Losses, Outcome, Probabilities, Shapes
from benchmarks.problems import PROBLEMS, words
from benchmarks.report import cell, table
from benchmarks.rivals import Fitted, products
from benchmarks.runner import Comparison, Measurement, Row, SkippedError, Verdict, compare, race

ONE_THREAD = ["--threads", "1"]
TINY_FITS = ["fits", "--problems", "iris", "lbfgs", "--repeats", "2", "--scale", "0.05", *ONE_THREAD]
PROPER_RIVALS = [
    "scikit-learn, X float64",
    "scikit-learn, X float32",
    'scikit-learn, dtype="float32"',
    "skorch",
]
FITS_COLUMNS = [*PROPER_RIVALS, "DataLoader loop", "step / products (lower is better)"]
PREDICT_COLUMNS = [*PROPER_RIVALS, "torch module", "call / products (lower is better)"]


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(runner, "PAUSE", 0)
    monkeypatch.setattr(runner, "AT_LEAST", 0)


def _lines(capsys):
    """Cells of the tables printed, line by line, rules left out."""
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [line for line in cells if set(line) != {"---"}]


def _results(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    results = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert results["versions"].keys() >= {"python", "numpy", "scipy", "scikit-learn", "torch", "skorch", "sktorch-mlp"}
    assert results["machine"].keys() >= {"cpu", "cores", "torch_threads", "blas_threads"}
    return results


def _verdict(ratios, mismatches=(), **options):
    comparison = Comparison("theirs", "theirs", "ours", Agreement.NONE, **options)
    return Verdict(comparison, list(ratios), list(mismatches))


# Commands ------------------------------------------------------------------------------


def test_fits(tmp_path, capsys):
    path, picture = tmp_path / "fits.json", tmp_path / "fits.svg"
    assert main([*TINY_FITS, "--json", str(path), "--figure", str(picture)]) == 0

    header, iris, lbfgs = _lines(capsys)
    assert header == ["problem", *FITS_COLUMNS]
    assert "–" not in iris
    assert lbfgs[4:] == ["–", "–", "–"]  # not in the reach of skorch, the loop, the products
    assert "–" not in lbfgs[:4]
    assert picture.read_bytes().startswith(b"<?xml")

    results = _results(path)
    assert results["unit"] == "seconds"
    assert results["machine"]["torch_threads"] == 1
    assert [row["name"] for row in results["rows"]] == ["iris", "lbfgs"]
    for row, columns in zip(results["rows"], (FITS_COLUMNS, FITS_COLUMNS[:3]), strict=True):
        assert [comparison["name"] for comparison in row["comparisons"]] == columns
        assert all(len(c["values"]) == len(c["results"]) == 2 for c in row["contestants"].values())
        for comparison in row["comparisons"]:
            assert 0 < comparison["min"] <= comparison["median"] <= comparison["max"]
            assert comparison["mismatches"] == []


def test_fits_of_sparse_data(capsys):
    assert main(["fits", "--problems", "sparse", "--repeats", "1", "--scale", "0.03", *ONE_THREAD]) == 0
    _, sparse = _lines(capsys)
    assert sparse[4:] == ["–", "–", "–"]


def test_epochs_and_rivals_can_be_chosen(tmp_path, capsys):
    path = tmp_path / "fits.json"
    assert main([*TINY_FITS, "--rivals", "torch", "sklearn", "--epochs", "20", "--json", str(path)]) == 0
    assert _lines(capsys)[0] == ["problem", "DataLoader loop", *PROPER_RIVALS[:3]]
    for row in _results(path)["rows"]:
        assert {result["n_iter"] for c in row["contestants"].values() for result in c["results"]} == {20}


def test_predict(tmp_path, capsys):
    path, picture = tmp_path / "predict.json", tmp_path / "predict.png"
    argv = ["predict", "--repeats", "1", "--scale", "0.01", *ONE_THREAD, "--json", str(path), "--figure", str(picture)]
    assert main(argv) == 0
    header, *lines = _lines(capsys)
    assert header == ["call", *PREDICT_COLUMNS]
    assert [line[0] for line in lines] == [
        "predict_proba, 1 row",
        "predict_proba, 10 rows",
        "predict_proba, 200 rows",
        "predict, 200 rows",
        "predict, 1000 rows",
    ]
    assert all("–" not in line for line in lines)
    assert picture.read_bytes().startswith(b"\x89PNG")
    for row in _results(path)["rows"]:
        n_outputs = [10] if row["method"] == "predict_proba" else []
        for name, contestant in row["contestants"].items():
            shape = [] if name == "products" else [row["n_rows"], *n_outputs]
            assert contestant["results"] == ([None] if name == "products" else [{"shape": shape}])


def test_predictions_that_differ_fail(monkeypatch, capsys):
    class Wrong:
        def predict(self, X):
            return np.full(len(X), -1)

        def predict_proba(self, X):
            return np.full((len(X), 10), 0.1)

    def fit(problem, X, y, seed, device):
        return Fitted(Outcome(0.1, 1), Wrong())

    monkeypatch.setattr(predict, "CALLS", [("predict_proba", 10), ("predict", 100)])
    monkeypatch.setitem(CONTESTANTS, X_FLOAT64.rival, replace(CONTESTANTS[X_FLOAT64.rival], fit=fit))
    assert main(["predict", "--repeats", "1", "--scale", "0.01", "--rivals", "sklearn", *ONE_THREAD]) == 1
    out, err = capsys.readouterr()
    assert out.count("RESULTS DIFFER") == 4  # both uses of a float64 X, of both methods
    assert "predict, 100 rows, scikit-learn, X float64: 0.00% of the labels are the same with seed 0" in err


def test_scaling(tmp_path, capsys):
    path, picture = tmp_path / "scaling.json", tmp_path / "scaling.svg"
    argv = ["scaling", "--repeats", "1", "--scale", "0.01", *ONE_THREAD, "--json", str(path), "--figure", str(picture)]
    assert main(argv) == 0
    lines = _lines(capsys)
    slopes = lines.index(["time against", "ours", "scikit-learn"])
    assert lines[0] == ["size", "scikit-learn"]
    assert lines[1][0] == "rows: 200"
    assert [line[0] for line in lines[slopes + 1 :]] == [
        "rows",
        "epochs",
        "parameters, one layer",
        "parameters, two layers",
    ]
    assert all(float(slope) for line in lines[slopes + 1 :] for slope in line[1:])
    assert picture.read_bytes().startswith(b"<?xml")
    assert {row["quantity"] for row in _results(path)["rows"]} == {"rows", "epochs", "parameters"}


def test_scaling_leaves_out_fits_that_take_too_long(monkeypatch, capsys):
    monkeypatch.setattr(scaling, "LIMIT", 0)
    assert main(["scaling", "--repeats", "1", "--scale", "0.003", *ONE_THREAD]) == 0
    lines = dict(line[:2] for line in _lines(capsys))
    assert lines["rows: 200"] != "–"  # nothing is known yet
    assert lines["rows: 3,000"] == "–"


def test_the_slope_is_that_of_the_upper_half():
    def row(size, seconds):
        return Row("", {"size": size}, {"ours": [Measurement(seconds, None)]}, {})

    rows = [row(1, 5.0), row(10, 5.0), row(100, 5.0), row(1_000, 500.0)]
    assert scaling._slope(rows, "ours") == pytest.approx(2)
    assert scaling._slope(rows[:1], "ours") is None


@pytest.fixture
def _can_reset_peak():
    try:
        memory._reset_peak()
    except OSError:
        pytest.skip("the peak of memory cannot be reset here")


@pytest.mark.usefixtures("_can_reset_peak")
def test_memory(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(memory, "_in_new_process", lambda function, *args: function(*args))  # which takes seconds each
    path = tmp_path / "memory.json"
    assert main(["memory", "--repeats", "1", "--scale", "0.003", *ONE_THREAD, "--json", str(path)]) == 0
    lines = _lines(capsys)
    titles = [case.title for case in memory.CASES]
    assert [line[0] for line in lines] == ["X", *titles, "X", *titles]
    assert lines[len(titles) + 1] == ["X", "ours / scikit-learn (lower is better)"]
    assert _results(path)["unit"] == "sizes of X"


@pytest.mark.usefixtures("_can_reset_peak")
def test_memory_sees_what_a_fit_adds(monkeypatch):
    def fit(problem, X, y, seed, device):
        np.ones((3, X.size), X.dtype)
        return Fitted(Outcome(0.0, problem.epochs), None)

    monkeypatch.setitem(CONTESTANTS, "hungry", Contestant("hungry", fit, np.float32))
    case = replace(memory.CASES[0], problem=memory.CASES[0].problem.scaled(0.1))
    assert 3.9 < memory.peak_of_fit("hungry", case, "cpu", 1, 0).value < 4.5  # X and three more


def test_memory_measures_in_a_process_of_its_own():
    assert memory._in_new_process(os.getpid) != os.getpid()


def test_memory_is_skipped_where_the_peak_cannot_be_reset(monkeypatch, capsys):
    def refuse():
        raise PermissionError("not here")

    monkeypatch.setattr(memory, "_reset_peak", refuse)
    assert main(["memory"]) == 0
    assert "SKIPPED: memory needs Linux" in capsys.readouterr().err
    with pytest.raises(SkippedError):
        memory.run(None)


def test_fortran_order_is_made():
    orders = []

    def fit(problem, X, y, seed, device):
        orders.append(X.flags.f_contiguous)
        return Fitted(Outcome(0.0, problem.epochs), None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CONTESTANTS, "watcher", Contestant("watcher", fit, np.float32))
        patch.setattr(memory, "_reset_peak", lambda: None)
        patch.setattr(memory, "_memory", lambda field: 0)
        for case in memory.CASES[:2]:
            memory.peak_of_fit("watcher", replace(case, problem=case.problem.scaled(0.01)), "cpu", 1, 0)
    assert orders[1::2] == [False, True]  # of the fits measured


def test_configurations(tmp_path, capsys):
    path = tmp_path / "configurations.json"
    assert main(["configurations", "--repeats", "1", "--scale", "0.2", *ONE_THREAD, "--json", str(path)]) == 0
    header, *lines = _lines(capsys)
    assert header == ["configuration", "X float64", "X float32"]
    rows = _results(path)["rows"]
    assert len(lines) == len(rows) == len({line[0] for line in lines})
    worst = [min(comparison["median"] for comparison in row["comparisons"]) for row in rows]
    assert worst == sorted(worst)
    digits = [row for row in rows if row["name"] == "digits"]
    seen = {(row["solver"], row["params"]["activation"]) for row in digits}
    assert len(seen) == 3 * 4
    assert {row["kind"] for row in rows} == {"classifier", "multilabel", "regressor"}
    assert all(any(row[flag] for row in rows) for flag in ("weighted", "incremental"))


@pytest.mark.parametrize("solver", configurations.SOLVERS)
def test_a_configuration_is_what_is_fitted(solver):
    problem = configurations.Configuration(solver, "tanh", early_stopping=True).of(PROBLEMS["iris"])
    params = problem.mlp_params(0)
    assert (params["activation"], params["early_stopping"]) == ("tanh", True)
    assert params["solver"] == solver.split(maxsplit=1)[0]
    assert params.get("nesterovs_momentum") == (False if solver == "sgd without Nesterov" else None)
    assert params.get("momentum") == (0 if solver == "sgd without momentum" else None)
    assert not problem.is_basic


def test_imports(monkeypatch, tmp_path, capsys):
    run = []
    monkeypatch.setattr(imports.subprocess, "run", lambda command, check: run.append(command))
    assert main(["imports", "--repeats", "2", "--json", str(tmp_path / "imports.json")]) == 0
    assert run == [[sys.executable, "-c", statement] for statement in (imports.DEPENDENCIES, imports.OURS)] * 3
    assert _lines(capsys)[0] == ["statement", f"ours / {imports.DEPENDENCIES} (lower is better)"]
    assert len(_results(tmp_path / "imports.json")["rows"]) == 1


_SMALL_SEARCH = search.Search(
    "small", replace(PROBLEMS["digits"], rows=100, batch_size=100, epochs=2), [0.01], [0.0, 1.0], "float64"
)


def test_search(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(search, "searches", lambda scale: [_SMALL_SEARCH])
    path = tmp_path / "search.json"
    assert main(["search", "--repeats", "1", "--json", str(path)]) == 0
    header, row = _lines(capsys)
    rivals = "scikit-learn, n_jobs=2", "ours, n_jobs=2"
    assert header == ["search", *(f"{rival} / {ours}" for ours in search.STACKS for rival in rivals)]
    assert row[0] == "small"
    (written,) = _results(path)["rows"]
    scores = [contestant["results"][0] for contestant in written["contestants"].values()]
    assert len(scores) == 4


def test_search_notices_other_scores(monkeypatch, capsys):
    fit = search.Search.fit

    def worse_if_stacked(self, estimator, context, *args):
        return fit(self, estimator, nullcontext, *args) - 0.5 * (context is search.stacked_fits)

    monkeypatch.setattr(search, "searches", lambda scale: [_SMALL_SEARCH])
    monkeypatch.setattr(search.Search, "fit", worse_if_stacked)
    monkeypatch.setattr(search, "timed_in_own_processes", runner.timed)
    assert main(["search", "--repeats", "1"]) == 1
    (row,) = _lines(capsys)[1:]
    assert ["RESULTS DIFFER" in cell for cell in row[1:]] == [True, True, False, False]


def test_stacks(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(stacks, "N_FITS", (1, 30))
    path, picture = tmp_path / "stacks.json", tmp_path / "stacks.svg"
    arguments = ["--repeats", "1", "--scale", "0.1", "--json", str(path), "--figure", str(picture)]
    assert main(["stacks", *arguments]) == 0
    header, *lines = _lines(capsys)
    assert header == ["fits", "one after another / in stacks"]
    assert [line[0] for line in lines] == ["digits, K = 1", "digits, K = 3", "iris, K = 1", "iris, K = 3"]
    for row in _results(path)["rows"]:
        (alone,), (stacked,) = (contestant["results"] for contestant in row["contestants"].values())
        assert alone["n_iter"] == stacked["n_iter"]
    assert picture.read_text().count("fits of") == 2


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert ("--figure" in capsys.readouterr().out) is hasattr(COMMANDS[command], "draw")


def test_a_figure_without_matplotlib_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(COMMANDS["fits"], "run", lambda args: pytest.fail("ran"))
    with pytest.raises(SystemExit, match="pip install matplotlib"):
        main([*TINY_FITS, "--figure", "figure.svg"])


@pytest.mark.parametrize("arguments", [["--scale", "0"], ["--scale", "2"], ["--repeats", "0"], ["--epochs", "0"]])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(SystemExit):
        main(["fits", *arguments])


# Fairness ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [contestant.name for contestant in CONTESTANTS.values() if contestant.name != "products"]
)
def test_a_contestant_with_another_loss_fails_loudly(name, monkeypatch, capsys):
    def fit_too_well(problem, X, y, seed, device):
        return Fitted(Outcome(0.0, problem.epochs), None)

    monkeypatch.setitem(CONTESTANTS, name, replace(CONTESTANTS[name], fit=fit_too_well))
    rivals = ["bfloat16"] if "bfloat16" in name else USUAL_RIVALS
    assert (
        main(["fits", "--rivals", *rivals, "--problems", "iris", "--repeats", "1", "--scale", "0.05", *ONE_THREAD]) == 1
    )
    out, err = capsys.readouterr()
    assert "RESULTS DIFFER" in out
    assert "ERROR: RESULTS DIFFER" in err
    assert "loss 0, ours" in err or "ours 0 with" in err


def test_a_rival_that_trains_fewer_epochs_is_an_error(monkeypatch):
    def fit_too_briefly(problem, X, y, seed, device):
        return Fitted(Outcome(1.0, problem.epochs - 1), None)

    monkeypatch.setitem(CONTESTANTS, "skorch", replace(CONTESTANTS["skorch"], fit=fit_too_briefly))
    with pytest.raises(RuntimeError, match=r"skorch trained \d+ epochs on iris, not \d+"):
        main([*TINY_FITS, "--rivals", "skorch"])


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
def test_gate_of_losses(loss, other, passes):
    gate = Losses(rtol=0.01, atol=0.01)
    assert (gate.gap(Outcome(loss, 3), Outcome(other, 3)) == "") is passes
    assert (gate.gap(Outcome(other, 3), Outcome(loss, 3)) == "") is passes


def test_losses_after_other_numbers_of_iterations_do_not_agree():
    assert Losses(rtol=1, atol=1).gap(Outcome(0.5, 3), Outcome(0.5, 4)) == "3 iterations, ours 4"


@pytest.mark.parametrize(
    ("gate", "theirs", "ours", "passes"),
    [
        (Shapes(), np.zeros(3), np.ones(3), True),
        (Shapes(), np.zeros(3), np.ones((3, 1)), False),
        (Probabilities(0.1), np.array([0.5, 0.5]), np.array([0.45, 0.55]), True),
        (Probabilities(0.1), np.array([0.5, 0.5]), np.array([0.3, 0.7]), False),
        (Probabilities(0.1), np.array([0.5, math.nan]), np.array([0.5, 0.5]), False),
        (Probabilities(0.1), np.array([0.5]), np.array([0.5, 0.5]), False),
        (Labels(0.75), np.array([0, 1, 2, 3]), np.array([0, 1, 2, 2]), True),
        (Labels(0.75), np.array([0, 1, 2, 3]), np.array([0, 1, 1, 2]), False),
        (Labels(0.75), np.array([0, 1]), np.array([0]), False),
    ],
)
def test_gates_of_predictions(gate, theirs, ours, passes):
    assert (gate.gap(theirs, ours) == "") is passes


def test_every_agreement_has_a_gate():
    wanted = {column.agreement for columns in RIVALS.values() for column in columns} - {Agreement.NONE}
    assert all(gates.keys() == wanted for gates in (LOSSES, *PREDICTIONS.values()))


def test_a_gpu_is_held_to_float32():
    assert comparisons(["sklearn"], "cpu", {})[0].agreement is Agreement.FLOAT64
    assert {column.agreement for column in comparisons(["sklearn"], "cuda", {})} == {CAST.agreement}


def test_contestants_take_turns():
    turns = []
    calls = {name: lambda seed, name=name: turns.append((seed, name)) for name in "AB"}
    assert race(calls, 2).keys() == {"A", "B"}
    assert turns == [(0, "A"), (0, "B"), (1, "A"), (1, "B")]


def test_short_calls_are_repeated(monkeypatch):
    monkeypatch.setattr(runner, "AT_LEAST", 0.01)
    calls = []
    measurement = runner.timed(lambda: calls.append(0))
    assert len(calls) > 100
    assert measurement.value * len(calls) == pytest.approx(0.01, rel=0.5)


# The products --------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [(5,), (7, 6), (7, 6, 5)])
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
    assert fitted.outcome.n_iter == 3


@pytest.mark.parametrize(("name", "input_major"), [("iris", True), ("digits", False)])
def test_products_lie_in_memory_as_ours_do(name, input_major):
    problem = PROBLEMS[name]
    X = torch.rand(20, problem.features)
    step = products._Network(problem, 0, "cpu").step(X)
    (first_coef, X_t, units), (_, _, first_grad) = step[0], step[-1]
    for tensor in (first_coef, first_grad):
        assert tensor.shape == (100, problem.features)
        assert tensor.mT.is_contiguous() is input_major
        assert tensor.is_contiguous() is not input_major
    assert X_t.data_ptr() == X.data_ptr()
    assert (units.shape, units.is_contiguous()) == ((100, 20), True)  # units before rows
    assert [out.dtype for *_, out in step] == [torch.float32] * 5


def test_products_of_a_prediction():
    problem = PROBLEMS["mnist_shape"].shrunk(5_000)
    X = np.ones((5_000, 784), np.float32)
    model = products._Network(problem, 0, "cpu")
    with FlopCounterMode(display=False) as counter:
        model.predict(X)
    assert counter.get_total_flops() == 2 * 5_000 * (784 * 128 + 128 * 64 + 64 * 10)


# The report ----------------------------------------------------------------------------


def test_a_lost_row_is_printed_and_marked():
    [column] = RIVALS["skorch"]
    measurements = {
        column.rival: [Measurement(seconds, Outcome(0.5, 1)) for seconds in (1.0, 3.0, 1.0)],
        column.ours: [Measurement(2.0, Outcome(0.5, 1))] * 3,
    }
    verdicts = compare([column], measurements, LOSSES)
    assert verdicts["skorch"].ratios == [0.5, 1.5, 0.5]
    assert "| iris | **slower: 0.50 (0.50–1.50)** |" in table([Row("iris", {}, measurements, verdicts)], "problem")


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (None, "–"),
        (_verdict([2.0]), "2.00 (2.00–2.00)"),
        (_verdict([2.0, 1.0, 4.0]), "2.00 (1.00–4.00)"),
        (_verdict([0.5]), "**slower: 0.50 (0.50–0.50)**"),
        (_verdict([2.0], lower_is_better=True, mark="more"), "**more: 2.00 (2.00–2.00)**"),
        (_verdict([0.5], lower_is_better=True, mark="more"), "0.50 (0.50–0.50)"),
        (_verdict([2.0], lower_is_better=True, mark=""), "2.00 (2.00–2.00)"),
        (_verdict([2.0], mismatches=["loss"]), "RESULTS DIFFER"),
    ],
)
def test_cells(verdict, text):
    assert cell(verdict) == text


def test_a_ratio_in_which_lower_is_better_is_ours_over_theirs():
    column = Comparison("share", "theirs", "ours", Agreement.NONE, lower_is_better=True)
    measurements = {"theirs": [Measurement(4.0, None)], "ours": [Measurement(1.0, None)]}
    assert compare([column], measurements)[column.title].ratios == [0.25]


def test_pictures_leave_out_what_is_no_ratio_of_the_rival(monkeypatch, tmp_path):
    rows = [Row("a: b, c", {}, {}, {"good": _verdict([2.0]), "bad": _verdict([2.0], ["loss"]), "none": None})]
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.barh", lambda self, y, width, **options: drawn.append(width))
    figures.bars(rows, tmp_path / "bars.png", "ratio")
    assert drawn == [1.0]


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


def test_half_a_percent_of_the_sparse_data_is_filled():
    X, _ = PROBLEMS["sparse"].scaled(0.1).data()
    assert X.has_canonical_format
    assert X.nnz / math.prod(X.shape) == pytest.approx(0.005, rel=0.02)


@pytest.mark.parametrize("kind", ["multilabel", "regressor"])
def test_targets_of_other_kinds(kind):
    problem = replace(PROBLEMS["iris"], kind=kind)
    _, y = problem.data()
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


def test_the_full_scale_changes_nothing():
    assert all(problem.scaled(1) == problem for problem in PROBLEMS.values())

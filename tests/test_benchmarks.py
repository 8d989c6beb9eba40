"""The commands of the benchmarks run, and write all down. No timing is asserted."""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.__main__ import COMMANDS, _parser, main
from benchmarks.baselines import Fitted
from benchmarks.commands import devices, features, imports, memory, scaling, search, sources, versions
from benchmarks.configurations import SOLVERS, Configuration
from benchmarks.implementations import Implementation
from benchmarks.problems import PROBLEMS
from benchmarks.report import summarize
from benchmarks.runner import SkippedError
from benchmarks.tolerances import Agreement, FitResult
from benchmarks.worker import Worker, package_folder
from tests.simulated.devices import simulated_devices

ROOT = Path(__file__).parents[1]
QUICK = ["--threads", "1", "--pause", "0", "--at-least", "0", "--repeats", "1"]
SKLEARN_COLUMNS = ["scikit-learn, X float64", "scikit-learn, X float32", 'scikit-learn, dtype="float32"']


def _args(*argv):
    return _parser().parse_args([*argv, *QUICK])


def _lines(capsys):
    """Cells of the tables printed, line by line, rules left out."""
    return _cells(capsys.readouterr().out)


def _cells(text):
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [line for line in cells if set(line) != {"---"}]


def _json(path):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


# Commands ------------------------------------------------------------------------------


def test_fits(tmp_path, capsys):
    small, full, picture = (tmp_path / name for name in ("small.json", "full.json", "fits.svg"))
    argv = ["fits", "--problems", "iris", "lbfgs", "sparse", "--scale", "0.03", *QUICK, "--repeats", "2"]
    assert main([*argv, "--summary", str(small), "--json", str(full), "--figure", str(picture)]) == 0

    printed = capsys.readouterr().out
    header, iris, *others = _cells(printed)
    assert header == ["problem", *SKLEARN_COLUMNS, "skorch", "DataLoader loop", "step / products (lower is better)"]
    assert "–" not in iris
    for line in others:  # skorch, the loop and the products cannot do them
        assert [text == "–" for text in line] == 4 * [False] + 3 * [True]
    assert picture.read_bytes().startswith(b"<?xml")

    summary, everything = _json(small), _json(full)
    assert summary.items() >= {"command": "fits", "repeats": 2, "unit": "seconds"}.items()
    assert summary["versions"].keys() >= {"python", "numpy", "scipy", "scikit-learn", "torch", "skorch", "sktorch-mlp"}
    assert summary["machine"]["torch_threads"] == 1
    for row, all_of_it in zip(summary["rows"], everything["rows"], strict=True):
        for title, ratio in row["ratios"].items():
            if ratio is not None:
                assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
                assert "rounds" not in ratio
                assert len(all_of_it["ratios"][title]["rounds"]) == 2
        assert all(len(v["rounds"]) == len(v["results"]) == 2 for v in all_of_it["values"].values())
    assert small.read_text().count("\n") < 80

    assert main(["table", str(small)]) == 0
    assert capsys.readouterr().out == printed


def test_epochs_and_baselines_can_be_chosen(tmp_path, capsys):
    path = tmp_path / "fits.json"
    argv = ["fits", "--problems", "iris", "--scale", "0.1", "--baselines", "torch", "sklearn", "--epochs", "20"]
    assert main([*argv, *QUICK, "--json", str(path)]) == 0
    assert _lines(capsys)[0] == ["problem", "DataLoader loop", *SKLEARN_COLUMNS]
    [row] = _json(path)["rows"]
    assert {result["n_iter"] for values in row["values"].values() for result in values["results"]} == {20}


def test_predict(tmp_path, capsys):
    path, picture = tmp_path / "predict.json", tmp_path / "predict.png"
    argv = ["predict", "--scale", "0.01", *QUICK, "--json", str(path), "--figure", str(picture)]
    assert main(argv) == 0
    header, *lines = _lines(capsys)
    assert header == ["call", *SKLEARN_COLUMNS, "skorch", "torch module", "call / products (lower is better)"]
    assert [line[0].removesuffix(" †") for line in lines] == [
        "predict_proba, 1 row",
        "predict_proba, 10 rows",
        "predict_proba, 200 rows",
        "predict, 200 rows",
        "predict, 1000 rows",
    ]
    assert picture.read_bytes().startswith(b"\x89PNG")
    for row in _json(path)["rows"]:
        shape = [row["facts"]["n_rows"], *([10] if row["facts"]["method"] == "predict_proba" else [])]
        for name, values in row["values"].items():
            assert values["results"] == [None if name == "products" else {"shape": shape}]


@pytest.mark.parametrize(("quantity", "n_rows"), [("rows", 5), ("epochs", 3), ("parameters", 6)])
def test_scaling_against_sizes(quantity, n_rows, tmp_path, capsys):
    argv = ["scaling", "--against", quantity, "--scale", "0.01", *QUICK, "--figure", str(tmp_path / "scaling.svg")]
    assert main(argv) == 0
    lines = _lines(capsys)
    assert lines[0] == ["size", "scikit-learn"]
    slopes = lines[lines.index(["time against", "ours", "scikit-learn"]) + 1 :]
    assert len(lines) == n_rows + 2 + len(slopes)
    assert len(slopes) == (2 if quantity == "parameters" else 1)
    assert all(line[0].startswith(quantity) for line in slopes)
    assert (tmp_path / "scaling.svg").exists()


def test_scaling_leaves_out_fits_that_take_too_long(capsys):
    assert main(["scaling", "--against", "rows", "--limit", "0", "--scale", "0.003", *QUICK]) == 0
    ratios = [line[1] for line in _lines(capsys)[1:-2]]
    assert [ratio == "–" for ratio in ratios] == [False, True, True, True]  # nothing is known of the first


def test_scaling_against_networks(tmp_path, capsys):
    path, picture = tmp_path / "networks.json", tmp_path / "networks.svg"
    argv = ["scaling", "--against", "networks", "--scale", "0.01", *QUICK]
    assert main([*argv, "--json", str(path), "--figure", str(picture)]) == 0
    header, *lines = _lines(capsys)
    assert header == ["fits", "one after another / in stacks"]
    titles = [f"{name}, K = {n}" for name in ("digits", "iris") for n in (1, 2, 10)]
    assert [line[0].removesuffix(" †") for line in lines] == titles
    for row in _json(path)["rows"]:
        (alone,), (stacked,) = (values["results"] for values in row["values"].values())
        assert alone["n_iter"] == stacked["n_iter"]
    assert picture.read_text().count("fits of") == 2


def test_scaling_against_configurations(tmp_path, capsys):
    path = tmp_path / "configurations.json"
    assert main(["scaling", "--against", "configurations", "--scale", "0.2", *QUICK, "--summary", str(path)]) == 0
    header, *lines = _lines(capsys)
    assert header == ["configuration", "X float64", "X float32"]
    summary = _json(path)
    facts = [row["facts"] for row in summary["rows"]]
    assert len(lines) == len(facts) == len({line[0] for line in lines})
    worst = [min(ratio["median"] for ratio in row["ratios"].values()) for row in summary["rows"]]
    assert worst == sorted(worst)
    assert len({(f["solver"], f["params"]["activation"]) for f in facts if f["name"] == "digits"}) == 3 * 4
    assert {f["kind"] for f in facts} == {"classifier", "multilabel", "regressor"}
    assert all(any(f[flag] for f in facts) for flag in ("weighted", "incremental"))
    with pytest.raises(SystemExit, match="no size"):
        scaling.draw(summary, tmp_path / "configurations.svg")


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_configuration_is_what_is_fitted(solver):
    problem = Configuration(solver, "tanh", early_stopping=True).of(PROBLEMS["iris"])
    params = problem.mlp_params(0)
    assert (params["activation"], params["early_stopping"]) == ("tanh", True)
    assert params["solver"] == solver.split(maxsplit=1)[0]
    assert params.get("nesterovs_momentum") == (False if solver == "sgd without Nesterov" else None)
    assert params.get("momentum") == (0 if solver == "sgd without momentum" else None)
    assert not problem.is_basic


def test_the_slope_is_that_of_the_upper_half():
    points = [(1, 5.0), (10, 5.0), (100, 5.0), (1_000, 500.0)]
    rows = [{"facts": {"size": size}, "values": {"ours": {"median": seconds}}} for size, seconds in points]
    assert scaling.slope(rows, "ours") == pytest.approx(2)
    assert scaling.slope(rows[:1], "ours") is None


def test_imports(capsys):
    commands = []
    rows = imports.run(_args("imports"), commands.append)
    assert commands == [[sys.executable, "-c", statement] for statement in (imports.DEPENDENCIES, imports.OURS)] * 2
    assert list(rows[0].ratios) == [f"ours / {imports.DEPENDENCIES} (lower is better)"]


def test_features(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"age": rng.integers(18, 80, 600), "job": rng.choice(["a", "b"], 600)})
    frame["income"] = np.where(frame["age"] > 50, ">50K", "<=50K")
    frame["split"] = np.repeat(["train", "test"], 300)
    frame.to_csv(tmp_path / "adult.csv.gz", index=False)
    argv = ["features", "--adult", str(tmp_path / "adult.csv.gz"), "--scale", "0.05", *QUICK, "--repeats", "2"]
    assert main(argv) == 0
    header, *lines = _lines(capsys)
    assert header == ["Adult", "accuracy", "balanced accuracy", "log-loss", "ROC AUC"]
    assert [line[0] for line in lines] == list(features.FEATURES)
    assert all("±" in cell for line in lines for cell in line[1:])
    with pytest.raises(SystemExit, match="--openml"):
        main(["features"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert ("--figure" in capsys.readouterr().out) is hasattr(COMMANDS[command], "draw")


def test_a_figure_without_matplotlib_is_refused_at_once(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit, match="pip install matplotlib"):
        main(["fits", "--figure", "figure.svg"])
    assert "iris" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--scale", "0"], ["--scale", "2"], ["--repeats", "0"], ["--pause", "-1"]])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(SystemExit):
        main(["fits", *arguments])


# Searches ------------------------------------------------------------------------------

SMALL_SEARCH = search.Search(
    "small", replace(PROBLEMS["digits"], rows=100, batch_size=100, epochs=2), [0.01], [0.0, 1.0], "float64"
)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_searches_agree():
    scores = [call(0) for call in SMALL_SEARCH.calls("cpu").values()]
    assert len(scores) == 4
    assert all(np.array_equal(others, scores[0]) for others in scores)


def test_a_search_with_other_scores_is_noticed():
    names = *search.BASELINES, *search.STACKS
    calls = {name: lambda seed, name=name: np.full(2, 0.5 * (name == "stacked")) for name in names}
    ratios = search.search_row(SMALL_SEARCH, calls, _args("search")).ratios
    assert list(ratios) == [f"{baseline} / {ours}" for ours in search.STACKS for baseline in search.BASELINES]
    assert [bool(ratio.mismatches) for ratio in ratios.values()] == [True, True, False, False]


# Memory --------------------------------------------------------------------------------


@pytest.fixture
def _can_reset_peak():
    try:
        memory.reset_peak()
    except SkippedError:
        pytest.skip("the peak of memory cannot be reset here")


@pytest.mark.usefixtures("_can_reset_peak")
def test_memory():
    rows = memory.run(_args("memory", "--scale", "0.003"), lambda function, *args: function(*args))
    summary = summarize({"repeats": 1, "unit": "sizes of X", "machine": {"load_average": None}}, rows)
    lines = _cells(memory.tables(summary))
    titles = [case.title for case in memory.CASES]
    assert [line[0] for line in lines] == ["X", *titles, "X", *titles]
    assert lines[len(titles) + 1] == ["X", "ours / scikit-learn (lower is better)"]


@pytest.mark.usefixtures("_can_reset_peak")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of numcodecs, by version
def test_sources(monkeypatch):
    monkeypatch.setattr(sources, "SIZES", (1,))
    rows = sources.run(_args("sources", "--scale", "0.001"), lambda function, *args: function(*args))
    assert [row.facts["unit"] for row in rows] == ["seconds", "MiB"]
    assert not [mismatch for ratio in rows[0].ratios.values() for mismatch in ratio.mismatches]
    summary = summarize({"repeats": 1, "unit": "seconds", "machine": {"load_average": None}}, rows)
    header, line, *_ = _cells(sources.tables(summary))
    assert header[1:] == [source.name for source in sources.SOURCES[1:]]
    assert len(line) == len(header)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_devices(monkeypatch):
    """One that is simulated, against the CPU: they agree."""
    monkeypatch.setattr(devices, "LARGE", devices.LARGE[:1])
    monkeypatch.setattr(devices, "DIGITS_GRID", ([1e-3], [1e-4, 1e-2]))
    with simulated_devices():
        rows = devices.run(_args("devices", "--device", "cuda", "--scale", "0.003"))
    assert not [mismatch for row in rows for ratio in row.ratios.values() if ratio for mismatch in ratio.mismatches]
    summary = summarize({"repeats": 1, "unit": "seconds", "machine": {"load_average": None, "device": "H"}}, rows)
    header, *lines = _cells(devices.tables(summary))
    assert header == ["task", *(column.title for column in devices.COLUMNS)]
    assert [sum(cell != "–" for cell in line) for line in lines] == [2] * 9 + [3]


@pytest.mark.parametrize(("case", "order"), [(memory.CASES[0], "C"), (memory.CASES[1], "F")], ids=["C", "Fortran"])
def test_memory_sees_what_a_fit_adds_to_x(case, order):
    orders = []

    def fit(problem, X, y, seed, device):
        orders.append("C" if X.flags.c_contiguous else "F")
        np.ones((3, X.size), X.dtype)
        return Fitted(FitResult(0.0, problem.epochs), None)

    case = replace(case, problem=case.problem.scaled(0.1))
    peak = memory.peak_of_fit(Implementation("hungry", fit, np.float32), case, "cpu", 1, 0).value
    assert 3.9 < peak < 4.5  # X and three more
    assert orders[-1] == order


def test_memory_measures_in_a_process_of_its_own():
    assert memory.in_new_process(os.getpid) != os.getpid()


def test_memory_is_skipped_where_the_peak_cannot_be_reset(tmp_path):
    with pytest.raises(SkippedError, match="memory needs Linux"):
        memory.reset_peak(tmp_path / "nowhere" / "clear_refs")


# Versions ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("problems", "n_lines"), [(["iris", "predict"], 6), pytest.param(["search"], 1, marks=pytest.mark.slow)]
)
def test_versions(problems, n_lines, tmp_path, capsys):
    path = tmp_path / "versions.json"
    argv = ["versions", "--other", str(ROOT), "--problems", *problems, "--scale", "0.01", *QUICK]
    assert main([*argv, "--summary", str(path)]) == 0
    header, *lines = _lines(capsys)
    assert header == ["call", "X float64", "X float32"]
    assert len(lines) == n_lines
    for row in _json(path)["rows"]:
        assert row["facts"]["other"] == row["facts"]["this"]
        assert list(row["values"]) == ["other, X float64", "this, X float64", "other, X float32", "this, X float32"]


def test_versions_are_compared_on_every_kind_of_problem():
    cases = [case for cases in versions.cases(1).values() for case in cases]
    assert versions.cases(1).keys() >= PROBLEMS.keys()
    assert [case.n_rows for case in cases if case.method == "predict_proba"] == [1, 10, 200, 10_000, 100_000]
    assert {case.method for case in cases} == versions.TOLERANCES.keys()
    assert any(case.problem.incremental for case in cases)
    assert any(case.problem.params.get("early_stopping") for case in cases)


@pytest.mark.parametrize(("apart", "passes"), [(1e-10, True), (1e-8, False)])
def test_versions_agree_to_1e_9_in_float64(apart, passes):
    losses, probabilities = (versions.TOLERANCES[kind][Agreement.FLOAT64] for kind in ("fit", "predict_proba"))
    assert (losses.difference(FitResult(0.5, 3), FitResult(0.5 + apart, 3)) == "") is passes
    assert (probabilities.difference(np.array([0.5]), np.array([0.5 + apart])) == "") is passes


def test_a_worker_has_the_package_of_its_checkout(tmp_path):
    (tmp_path / "sktorch_mlp").mkdir()
    (tmp_path / "sktorch_mlp" / "__init__.py").touch()
    with Worker(tmp_path) as worker:
        assert worker.call(package_folder) == tmp_path.resolve()
        assert worker.call(print, "not a reply") is None
        with pytest.raises(RuntimeError, match="math domain error"):
            worker.call(math.sqrt, -1)
        with pytest.raises(RuntimeError, match="ended with status 3"):
            worker.call(os._exit, 3)


def test_a_worker_without_a_package_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="was to come from"):
        Worker(tmp_path)

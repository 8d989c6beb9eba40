"""The benchmark on tables runs, and writes all down. No timing is asserted."""

import json

import numpy as np
import pandas as pd
import pytest

from benchmarks.__main__ import main
from benchmarks.baselines import table_models
from benchmarks.commands import tables
from benchmarks.tables import tables_in
from tests.test_benchmarks import QUICK, _cells, _json, _lines


def _write_tables(folder, **tasks):
    """A folder of small tables with a category, missing values and a level called None."""
    rng = np.random.default_rng(0)
    entries = []
    for name, task in tasks.items():
        frame = pd.DataFrame({"age": rng.integers(18, 80, 80), "job": rng.choice(["None", "a", "b"], 80)})
        is_older = frame["age"] > 50
        frame["target"] = np.where(is_older, "old", "young") if task == "classification" else 2.5 * is_older
        frame = frame.astype({"age": float}).mask(rng.random(frame.shape) < [0.1, 0.1, 0])
        frame.to_csv(folder / f"{name}.csv", index=False)
        entries.append({"name": name, "file": f"{name}.csv", "target": "target", "task": task, "categorical": ["job"]})
    (folder / "manifest.json").write_text(json.dumps(entries))


def test_tables_of_a_folder(tmp_path, capsys):
    _write_tables(tmp_path, people="classification", ages="regression")
    path, models = tmp_path / "tables.json", ["mlp", "hgb", "linear"]
    argv = ["tables", "--folder", str(tmp_path), "--models", *models, "--scale", "0.9", *QUICK, "--splits", "2"]
    assert main([*argv, "--summary", str(path)]) == 0
    printed = capsys.readouterr().out
    lines = _cells(printed)
    assert [line[0] for line in lines[:6]] == [
        *("score: accuracy or R²", "people", "ages"),
        *("loss: log-loss or RMSE", "people", "ages"),
    ]
    assert all("**" in "".join(line) for line in (*lines[1:3], *lines[4:6]))
    header, *together = lines[6:]
    assert {line[0] for line in together} == set(models)
    assert header[-3:] == ["ms for 1 row", "ms for 100 rows", "ms for 10,000 rows"]
    [mlp] = [line for line in together if line[0] == "mlp"]
    assert mlp[3:6] == ["1", "1", "1"]

    summary = _json(path)
    assert summary["repeats"] == 2
    for row in summary["rows"]:
        assert row["values"].keys() >= {"score", "loss", "fit seconds", "fit CPU seconds", "predict 1"}
        assert ("calibration error" in row["values"]) is (row["facts"]["task"] == "classification")
    assert main(["table", str(path)]) == 0
    assert capsys.readouterr().out == printed


def test_tables_with_few_rows_to_train_on(tmp_path):
    path = tmp_path / "tables.json"
    argv = ["tables", "--sets", "wine", "--models", "linear", "--train-rows", "40", *QUICK, "--summary", str(path)]
    assert main(argv) == 0
    (row,) = _json(path)["rows"]
    assert (row["facts"]["rows"], row["facts"]["train_rows"]) == (178, 40)


def test_tables_of_one_kind_of_ours(capsys):
    assert main(["tables", "--sets", "wine", "--models", "tabular_single", "--scale", "0.4", *QUICK]) == 0
    lines = _lines(capsys)
    assert [line[0] for line in lines].count("wine") == 2
    assert lines[-1][3] == "–"  # no default MLP to compare with


def test_tables_go_on_where_a_model_fails(monkeypatch, capsys):
    def fail(*args):
        raise RuntimeError("no luck")

    monkeypatch.setitem(table_models.MODELS, "hgb", fail)
    assert main(["tables", "--sets", "wine", "--models", "linear", "hgb", "--scale", "0.4", *QUICK]) == 0
    printed = capsys.readouterr().out
    assert "wine, hgb: RuntimeError: no luck" in printed
    assert _cells(printed)[1][2] == "–"


def test_tables_bundled_with_scikit_learn():
    for table in tables_in(None):
        X, y = table.load()
        assert (y.dtype == object) is table.is_classification
        assert len(X) == len(y) > 100


def test_tables_have_the_levels_of_their_files(tmp_path):
    _write_tables(tmp_path, people="classification")
    [table] = tables_in(tmp_path)
    X, y = table.load()
    assert list(X["job"].cat.categories) == ["None", "a", "b"]
    assert X["job"].isna().any()
    assert set(y) == {"old", "young"}
    with pytest.raises(SystemExit, match=r"no manifest\.json"):
        tables_in(tmp_path / "nowhere")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("name", [name for name in table_models.MODELS if table_models.is_installed(name)])
def test_every_model_takes_a_table(name, task, tmp_path):
    _write_tables(tmp_path, people=task)
    X, y = tables_in(tmp_path)[0].load()
    model = table_models.MODELS[name](task == "classification", 0, X, 1)
    if hasattr(model, "get_params"):
        epochs = {name: 2 for name in model.get_params() if name.rpartition("__")[2] == "max_iter"}
        model.set_params(**epochs)
    model.fit(X, y)
    predicted = model.predict_proba(X) if task == "classification" else model.predict(X)
    assert np.shape(predicted) == ((80, 2) if task == "classification" else (80,))


@pytest.mark.parametrize("name", table_models.LIBRARIES)
def test_a_library_that_is_missing_is_named(name, monkeypatch):
    monkeypatch.setattr(table_models, "find_spec", lambda library: None)
    with pytest.raises(SystemExit, match=f"not installed: {table_models.LIBRARIES[name]}"):
        main(["tables", "--models", name])


def test_frames_are_prepared_for_others():
    class Model:
        def fit(self, X, y, **arguments):
            self.X, self.arguments = X, arguments

    X = pd.DataFrame({"job": pd.Categorical(["a", None]), "age": [1.0, np.nan]})
    for as_category in (True, False):
        model = Model()
        prepared = table_models.Prepared(model, impute_numbers=as_category, as_category=as_category, names=["job"])
        prepared.fit(X, pd.Series([0.0, 1.0]))
        assert list(model.X["job"]) == ["a", "missing"]
        assert (model.X["job"].dtype == "category") is as_category
        assert model.X["age"].isna().any() == (not as_category)
        assert model.arguments == {"names": ["job"]}


def test_calibration_error():
    confidence = np.repeat([0.95, 0.55], 100)
    is_right = np.concatenate([np.arange(100) < 95, np.arange(100) < 55])
    assert tables.expected_calibration_error(confidence, is_right) == pytest.approx(0)
    assert tables.expected_calibration_error(confidence, np.ones(200, dtype=bool)) == pytest.approx(0.25)
    assert tables.expected_calibration_error(np.ones(4), np.array([True, True, True, False])) == pytest.approx(0.25)

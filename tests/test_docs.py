"""What README, guide and examples show runs as it stands."""

import re
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn.datasets
from sklearn.datasets import load_iris

import sktorch_mlp
from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_code_blocks(page):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    namespace = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


def test_links_between_pages_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")):
        for target in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_has_the_two_commands():
    commands = re.findall(r"^pip install .* && .*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert commands == [
        'pip install -c constraints.txt -e ".[examples]" && python examples/quickstart.py',
        'pip install -c constraints.txt -e ".[test]" && pytest',
    ]


@pytest.fixture
def quickstart():
    """The functions of the quickstart."""
    yield SimpleNamespace(**runpy.run_path(str(ROOT / "examples/quickstart.py")))
    plt.close("all")


def test_quickstart_on_a_file_of_ones_own(tmp_path, quickstart, capsys):
    X, y = load_iris(return_X_y=True)
    np.savez(tmp_path / "iris.npz", X=X, y=y)
    picture = tmp_path / "loss.png"
    options = ["--npz", str(tmp_path / "iris.npz"), "--max-iter", "20", "--picture", str(picture)]
    quickstart.main(options, load=3.0)
    output, errors = capsys.readouterr()
    assert not errors
    assert re.search(r"^ +MLPClassifier +MLPTorchClassifier +in stacked_fits\(\)$", output, flags=re.MULTILINE)
    assert len(set(re.search(r"test accuracy, search +([\d.]+) +([\d.]+) +([\d.]+)", output).groups())) == 1
    times = re.search(r"grid search, seconds +([\d.]+) +([\d.]+) +([\d.]+)\n +times as fast +[\d.]+x +[\d.]+x", output)
    assert min(map(float, times.groups())) > 0
    assert (
        output.count("x  (busy: load 3.0 per core before the start") == 2
    )  # beside the ratios of fits and of searches
    assert output.count("take an idle machine") == 1
    assert picture.stat().st_size > 10_000
    assert len(plt.gca().lines) == 2
    np.testing.assert_allclose(*(line.get_ydata() for line in plt.gca().lines))


@pytest.mark.parametrize(
    ("load", "times", "note"),
    [
        (0.1, [[1.0, 1.2], [0.5, 0.6]], ""),
        (float("nan"), [[1.0, 1.2]], ""),
        (0.9, [[1.0, 1.2], [0.5, 0.6]], "busy: load 0.9 per core before the start"),
        (0.1, [[1.0, 1.2], [0.5, 1.25]], "unsteady: rounds differ 2.5-fold"),
        (2.0, [[1.0, 8.0], [0.5, 0.6]], "busy: load 2.0 per core before the start; unsteady: rounds differ 8.0-fold"),
    ],
)
def test_quickstart_doubts_ratios_of_a_busy_machine(load, times, note, quickstart):
    assert quickstart.doubts(load, times) == note


def test_quickstart_takes_the_fastest_round(quickstart, capsys):
    search = SimpleNamespace(best_params_={"mlp__alpha": 0.1})
    scores = {"fit accuracy": 0.9, "search accuracy": 0.95, "search": search}
    seconds = {"MLPClassifier": [9.0, 8.0], "MLPTorchClassifier": [4.0, 4.4], "in stacked_fits()": [2.2, 2.0]}
    results = {column: scores | {"fit times": [1.0], "search times": times} for column, times in seconds.items()}
    quickstart.print_table(results, load=0.1)
    output = capsys.readouterr().out
    assert re.search(r"grid search, seconds +8\.00 +4\.00 +2\.00\n +times as fast +2\.0x +4\.0x\n", output)
    assert "idle" not in output


def test_quickstart_names_a_missing_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--npz", "nowhere.npz"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "examples/quickstart.py"), run_name="__main__")
    assert "there is no file nowhere.npz" in capsys.readouterr().err


@pytest.mark.parametrize(
    "estimator", [MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor]
)
def test_every_parameter_is_documented(estimator):
    section = estimator.__doc__.split("Attributes\n")[0]
    documented = {
        name for line in re.findall(r"^    ([\w, ]+) : ", section, flags=re.MULTILINE) for name in line.split(", ")
    }
    assert documented == set(estimator().get_params())


def test_version():
    assert f"## {sktorch_mlp.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_stacked_search_finds_the_same(capsys, monkeypatch):
    X, y = sklearn.datasets.load_digits(return_X_y=True)
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda return_X_y: (X[:250], y[:250]))  # of 1797 rows
    runpy.run_path(str(ROOT / "examples/grid_search_stacked.py"), run_name="__main__")
    alone, stacked, difference, ratio = capsys.readouterr().out.splitlines()
    assert alone.partition("best")[2] == stacked.partition("best")[2]
    assert float(difference.rpartition(" ")[2]) < 1e-2
    assert float(re.search(r"([\d.]+) times as long as stacked", ratio).group(1)) > 0

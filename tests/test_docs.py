"""What README, guide and examples show runs as it stands."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.datasets import load_iris

import sktorch_mlp
from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor

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


def test_quickstart_on_a_file_of_ones_own(tmp_path, monkeypatch, capsys):
    X, y = load_iris(return_X_y=True)
    np.savez(tmp_path / "iris.npz", X=X, y=y)
    picture = tmp_path / "loss.png"
    arguments = ["quickstart.py", "--npz", str(tmp_path / "iris.npz"), "--max-iter", "20", "--picture", str(picture)]
    monkeypatch.setattr(sys, "argv", arguments)
    runpy.run_path(str(ROOT / "examples/quickstart.py"), run_name="__main__")
    plt.close("all")
    table = capsys.readouterr().out
    accuracies = re.search(r"test accuracy, search +([\d.]+) +([\d.]+)", table).groups()
    assert accuracies[0] == accuracies[1]
    assert re.search(r"grid search, seconds +[\d.]+ +[\d.]+ +[\d.]+x", table)
    assert picture.stat().st_size > 10_000


def test_quickstart_names_a_missing_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["quickstart.py", "--npz", "nowhere.npz"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(ROOT / "examples/quickstart.py"), run_name="__main__")
    assert "there is no file nowhere.npz" in capsys.readouterr().err


@pytest.mark.parametrize("estimator", [MLPTorchClassifier, MLPTorchRegressor])
def test_every_parameter_is_documented(estimator):
    section = estimator.__doc__.split("Attributes\n")[0]
    documented = {
        name for line in re.findall(r"^    ([\w, ]+) : ", section, flags=re.MULTILINE) for name in line.split(", ")
    }
    assert documented == set(estimator().get_params())


def test_version():
    assert f"## {sktorch_mlp.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_stacked_search_finds_the_same(capsys):
    runpy.run_path(str(ROOT / "examples/grid_search_stacked.py"), run_name="__main__")
    alone, stacked, difference, _ = capsys.readouterr().out.splitlines()
    assert alone.partition("best")[2] == stacked.partition("best")[2]
    assert float(difference.rpartition(" ")[2]) < 1e-2

"""What README, the documentation and the examples show runs as it stands, and leaves nothing out."""

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
from sklearn.neural_network import MLPClassifier, MLPRegressor

import sktorch_mlp
from sktorch_mlp import MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor, callbacks
from sktorch_mlp._estimators.html import DOCS_URL

ROOT = Path(__file__).parents[1]
ESTIMATORS = [MLPTorchClassifier, MLPTorchRegressor, TabularMLPClassifier, TabularMLPRegressor]


PAGES = sorted(page.relative_to(ROOT).as_posix() for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")))
WITH_CODE = [page for page in PAGES if "```python" in (ROOT / page).read_text()]


@pytest.mark.parametrize("page", WITH_CODE)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_code_blocks(page, tmp_path, monkeypatch, capsys):
    """They run one after the other. A block of text right after one is what it prints."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    blocks = r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?"
    for block, printed in re.findall(blocks, (ROOT / page).read_text(), flags=re.DOTALL):
        exec(compile(block, page, "exec"), namespace)
        output = capsys.readouterr().out
        assert not printed or output.split() == printed.split()
    plt.close("all")


def anchors(page):
    """Places of a page of Markdown that links can lead to, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, "benchmarks/README.md"])
def test_links_between_pages_lead_somewhere(page):
    page = ROOT / page
    for target, anchor in re.findall(r"\]\(((?!http)[^)#]*)#?([^)]*)\)", page.read_text()):
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor.startswith("sphx_glr_auto_examples_"):
            assert (ROOT / "examples" / anchor.removeprefix("sphx_glr_auto_examples_")).exists(), anchor
        elif anchor and anchor != "examples" and file.name != "benchmarks.md":
            assert anchor in anchors(file), f"{page.name} links to {target}#{anchor}"


def test_readme_has_the_two_commands():
    commands = re.findall(r"^pip install .* && .*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    assert commands == [
        'pip install -c constraints.txt -e ".[examples]" && python examples/quickstart.py',
        'pip install -c constraints.txt -e ".[test]" && pytest',
    ]


def test_the_first_page_installs_the_pytorch_that_is_pinned():
    (pinned,) = re.findall(r"^torch==.*$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert f"pip install {pinned} --index-url" in (ROOT / "docs/start.md").read_text()


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


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_every_parameter_is_documented(estimator):
    section = estimator.__doc__.split("Attributes\n")[0]
    documented = {
        name for line in re.findall(r"^    ([\w, ]+) : ", section, flags=re.MULTILINE) for name in line.split(", ")
    }
    assert documented == set(estimator().get_params())


def test_version():
    assert f"## {sktorch_mlp.__version__}" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_stacked_search_finds_the_same(capsys, monkeypatch):
    X, y = sklearn.datasets.load_digits(return_X_y=True)
    monkeypatch.setattr(sklearn.datasets, "load_digits", lambda return_X_y: (X[:250], y[:250]))  # of 1797 rows
    runpy.run_path(str(ROOT / "examples/grid_search_stacked.py"), run_name="__main__")
    alone, stacked, difference, ratio = capsys.readouterr().out.splitlines()
    assert alone.partition("best")[2] == stacked.partition("best")[2]
    assert float(difference.rpartition(" ")[2]) < 1e-2
    assert float(re.search(r"([\d.]+) times as long as stacked", ratio).group(1)) > 0
    plt.close("all")


# The site --------------------------------------------------------------------------------


def pages_of_the_api():
    """Pages that autosummary makes, as docs/api.rst says."""
    text = (ROOT / "docs/api.rst").read_text()
    (folder,) = set(re.findall(r":toctree: (\S+)", text))
    (module,) = set(re.findall(r"currentmodule:: (\S+)", text))
    return {f"{folder}/{module}.{name}.html" for name in re.findall(r"^   ([\w.]+)$", text, flags=re.MULTILINE)}


def test_the_api_has_all_public_names():
    names = [name for name in sktorch_mlp.__all__ if name != "__version__"]
    names += [f"callbacks.{name}" for name in callbacks.__all__] + ["onnx"]
    assert pages_of_the_api() == {f"api/sktorch_mlp.{name}.html" for name in names}


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_views_of_estimators_link_to_a_page(estimator):
    link = estimator()._get_doc_link()
    assert link.startswith(DOCS_URL)
    assert link.removeprefix(DOCS_URL) in pages_of_the_api()


def test_the_index_for_language_models_has_all_pages():
    """As CI checks of the built site, too."""
    pages = {re.sub(r"^docs/(.*)\.md$", r"\1.html", page) for page in PAGES if page.startswith("docs/")}
    examples = {path.stem for path in (ROOT / "examples").glob("*.py") if not path.stem.startswith("_")}
    pages |= {f"auto_examples/{name}.html" for name in {"index", *examples}} | {"api.html"} | pages_of_the_api()
    listed = re.findall(r"^- \[.+\]\((.+)\): .+$", (ROOT / "docs/llms.txt").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(pages)


# Coming from MLPClassifier -----------------------------------------------------------------

KINDS = {"classifier": (MLPClassifier, MLPTorchClassifier), "regressor": (MLPRegressor, MLPTorchRegressor)}


def statuses(title, kind):
    """What the table of a section says of each name of an estimator: same, faster, new."""
    text = (ROOT / "docs/from_sklearn.md").read_text()
    section = text.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:3]] for line in section.splitlines() if line.startswith("|")]
    of_this_kind = [(names, status) for names, status in rows[2:] if set(KINDS) & set(names.split()) in (set(), {kind})]
    named = [(name, status) for names, status in of_this_kind for name in re.findall(r"`(\w+)`", names)]
    assert len(dict(named)) == len(named)
    return dict(named)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_each_parameter(kind):
    theirs, ours = KINDS[kind]
    expected = dict.fromkeys(ours().get_params(), "new")
    for name, default in theirs().get_params().items():
        assert ours().get_params()[name] == default
        constraints = [sorted(map(str, estimator._parameter_constraints[name])) for estimator in (theirs, ours)]
        expected[name] = "same" if constraints[0] == constraints[1] else "more values"
    assert statuses("Parameters", kind) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_page_has_each_attribute(kind):
    X, y = load_iris(return_X_y=True, as_frame=True)
    solvers = ({}, {"early_stopping": True}, {"solver": "lbfgs"})
    theirs, ours = (
        {
            name
            for settings in solvers
            for name in dir(estimator(max_iter=2, **settings).fit(X, y))
            if name.endswith("_") and not name.startswith("_")
        }
        for estimator in KINDS[kind]
    )
    assert statuses("Attributes", kind) == {name: "same" if name in theirs else "new" for name in theirs | ours}


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_has_each_method(kind):
    theirs, ours = (
        {name for name in dir(estimator()) if not name.startswith("_") and callable(getattr(estimator(), name))}
        for estimator in KINDS[kind]
    )
    expected = {name: "same" if name in theirs else "new" for name in theirs | ours} | {"fit": "same, faster"}
    assert statuses("Methods", kind) == expected

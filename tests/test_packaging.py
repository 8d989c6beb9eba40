"""What the package says of the libraries it needs: which they are, from which version on, and what to do without one."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sktorch_mlp import MLPTorchClassifier
from sktorch_mlp._interop.extras import needed_by
from tests.smoke import OPTIONAL, OURS, X, Y

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def requirements(*extras):
    """Requirements of the package, or those that extras add, by name; extras of extras included."""
    found = {}
    for text in [text for extra in extras for text in EXTRAS[extra]] if extras else PROJECT["dependencies"]:
        requirement = Requirement(text)
        if requirement.name == "sktorch-mlp":
            found |= requirements(*requirement.extras)
        else:
            found[canonicalize_name(requirement.name)] = requirement.specifier
    return found


def pins(name):
    """Versions in a file of constraints, by name."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


# Which libraries -----------------------------------------------------------------------


def imported():
    """Distributions whose modules the package imports, anywhere in its files."""
    modules = set()
    for path in (ROOT / "sktorch_mlp").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    modules -= {"sktorch_mlp", *sys.stdlib_module_names}
    return {canonicalize_name(name) for module in modules for name in distributions[module]}


def test_what_is_imported_is_required_or_optional():
    """A new optional library needs an extra, and a line in tests/smoke.py, by which its absence is tried below."""
    optional = {library for library, *_ in OPTIONAL}
    assert imported() == {*requirements(), *optional, "onnx"}  # onnx comes with skl2onnx
    assert all(library in requirements(extra) for library, extra, *_ in OPTIONAL)


@pytest.mark.parametrize(("library", "extra", "feature", "call"), OPTIONAL, ids=[case[2] for case in OPTIONAL])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_without_an_optional_library_the_error_names_the_extra(library, extra, feature, call, monkeypatch):
    for name in [
        name for name in sys.modules if name.startswith(("sktorch_mlp.onnx", "sktorch_mlp._interop.skl2onnx"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    model = MLPTorchClassifier(**OURS).fit(X, Y)
    with pytest.raises(ImportError) as raised:
        call(model)
    assert str(raised.value) == f'{feature} needs {library}: pip install "sktorch-mlp[{extra}]"'


def test_a_library_that_is_broken_keeps_its_own_error(tmp_path, monkeypatch):
    (tmp_path / "broken_library.py").write_text("raise ImportError('compiled for another version of numpy')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"^compiled for another version of numpy$"), needed_by("X", extra="plot"):
        import broken_library  # noqa: F401


# From which version on -----------------------------------------------------------------


def test_the_oldest_versions_are_the_lower_bounds():
    oldest = pins("constraints-oldest.txt")
    needed = requirements() | requirements("test")
    assert oldest.keys() == needed.keys()
    for name, specifier in needed.items():
        bounds = [part.version for part in specifier if part.operator == ">="]
        assert len(bounds) == 1, name
        assert re.fullmatch(rf"{re.escape(bounds[0])}(\.0)*", oldest[name]), name


def test_the_versions_of_development_are_all_pinned_and_allowed():
    versions = pins("constraints.txt")
    for name, specifier in (requirements() | requirements(*EXTRAS)).items():
        assert versions[name] in specifier, name


def test_python_is_the_same_everywhere():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    configuration = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'target-version = "py{oldest.replace(".", "")}"' in configuration
    assert f'python_version = "{oldest}"' in configuration


def test_readme_has_the_lower_bounds():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    python, torch, sklearn = re.search(
        r"Needs Python ([\d.]+), PyTorch ([\d.]+) and scikit-learn ([\d.]+),", readme
    ).groups()
    assert f">={python}" == PROJECT["requires-python"]
    assert f">={torch}" == str(requirements()["torch"])
    assert f">={sklearn}" == str(requirements()["scikit-learn"])

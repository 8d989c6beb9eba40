"""The boundaries of the package: what a wing may import, where private names of other libraries stand, how long things are."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sktorch_mlp"
WINGS = ["_nn", "_data", "_training", "_parallel", "_interop", "_estimators"]
FILES = {str(path.relative_to(ROOT)): path for path in sorted(PACKAGE.rglob("*.py"))}
MAX_LINES_OF_FILE, MAX_LINES_OF_FUNCTION, MAX_LINES_OF_BASE_CLASS = 450, 60, 300
# The limits for tests are the same.
LIMITED = FILES | {str(path.relative_to(ROOT)): path for path in sorted((ROOT / "tests").rglob("*.py"))}


def parse(path):
    return ast.parse(path.read_text(encoding="utf-8"))


# Wings ---------------------------------------------------------------------------------


def test_the_wings_are_these():
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(WINGS)


@pytest.mark.parametrize("wing", WINGS)
def test_a_wing_says_what_it_is_for(wing):
    """In one line, and with no code: importing a module of it imports no other."""
    module = parse(PACKAGE / wing / "__init__.py")
    assert len(module.body) == 1
    docstring = ast.get_docstring(module)
    assert docstring.endswith(".")
    assert "\n" not in docstring


def test_imports_keep_to_the_contracts(capsys):
    """Those of [tool.importlinter] in pyproject.toml; `lint-imports` shows the same."""
    cli = pytest.importorskip("importlinter.cli", reason="import-linter is not installed")
    failed = cli.lint_imports(str(ROOT / "pyproject.toml"), no_cache=True, no_logo=True)
    assert not failed, capsys.readouterr().out


# Private names of other libraries ------------------------------------------------------


#: Documented, though they begin with an underscore: that keeps them apart from the fields of a named tuple.
OF_NAMED_TUPLES = {"_fields", "_replace", "_asdict", "_make"}


def is_private(name):
    return name.startswith("_") and not name.endswith("__") and name not in OF_NAMED_TUPLES


def is_foreign(module):
    """Whether a module is of a library, neither of ours nor of Python's."""
    return module.partition(".")[0] not in {"sktorch_mlp", *sys.stdlib_module_names}


def private_imports(tree):
    """Private names that are imported from other libraries."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if is_foreign(name) and any(map(is_private, name.split("."))))


def own_private_names(tree):
    """Private names that a module of ours defines: of functions and classes, in classes, and on ``self``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def private_attributes(tree):
    """Private attributes that a module uses, with a dot or by `getattr` and the like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            yield node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) > 1:
            name = node.args[1]
            is_access = node.func.id in {"getattr", "hasattr", "setattr", "delattr"}
            if is_access and isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield name.value


OWN_NAMES = {name for path in FILES.values() for name in own_private_names(parse(path)) if is_private(name)}


def private_names_of_others(tree):
    return [*private_imports(tree), *(name for name in private_attributes(tree) if name not in OWN_NAMES)]


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("compat.py")])
def test_private_names_of_others_stand_in_compat(name):
    """One file of a wing has them all, each with its reason and what happens when it is gone."""
    assert private_names_of_others(parse(FILES[name])) == []


def test_private_names_are_found():
    source = """
import sklearn.utils._param_validation
from joblib._parallel_backends import LokyBackend
from torch import _C as c
from sktorch_mlp._nn.losses import Loss
from ._private import _name
import _thread
estimator._skl_callbacks = torch.ops.mkldnn._is_mkldnn_bf16_supported()
getattr(scorer, "_accept_sample_weight")
self._state.__class__
"""
    assert set(private_names_of_others(ast.parse(source))) == {
        "sklearn.utils._param_validation",
        "joblib._parallel_backends.LokyBackend",
        "torch._C",
        "_skl_callbacks",
        "_is_mkldnn_bf16_supported",
        "_accept_sample_weight",
    }


# Lengths -------------------------------------------------------------------------------


def n_lines(node):
    """Lines of a function or class, its decorators and docstring aside."""
    docstring = node.body[0] if ast.get_docstring(node, clean=False) is not None else None
    n_lines_of_docstring = 0 if docstring is None else docstring.end_lineno - docstring.lineno + 1
    return node.end_lineno - node.lineno + 1 - n_lines_of_docstring


@pytest.mark.parametrize("name", LIMITED)
def test_files_and_functions_are_short(name):
    text = LIMITED[name].read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_LINES_OF_FILE
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    assert [f"{node.name}: {n_lines(node)}" for node in functions if n_lines(node) > MAX_LINES_OF_FUNCTION] == []


def test_the_base_class_is_short():
    classes = [node for node in ast.walk(parse(PACKAGE / "_estimators/base.py")) if isinstance(node, ast.ClassDef)]
    (base,) = [node for node in classes if node.name == "BaseMLPTorch"]
    assert base.end_lineno - base.lineno + 1 < MAX_LINES_OF_BASE_CLASS

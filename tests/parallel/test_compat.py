"""Private names of joblib: whether they are there, and what happens where one is not."""

import ast
import importlib
import importlib.util
import inspect
import subprocess
import sys

import joblib
import pytest

from sktorch_mlp import stacked_fits
from sktorch_mlp._parallel import backend, compat, workers

#: Private names of joblib that the wing imports.
NAMES = {
    "joblib._parallel_backends": ["FallbackToBackend", "LokyBackend", "ParallelBackendBase", "SequentialBackend"],
    "joblib._utils": ["_TracebackCapturingWrapper", "_retrieve_traceback_capturing_wrapped_call"],
}
PAIRS = [(module, name) for module, names in NAMES.items() for name in names]


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_joblib_has_the_private_names_that_we_import(module, name):
    assert hasattr(importlib.import_module(module), name), (
        f"joblib {joblib.__version__} has no {module}.{name} any more. stacked_fits needs it: "
        "see sktorch_mlp/_parallel/compat.py."
    )


def test_compat_imports_these_names_and_no_others_of_the_wing_do():
    for module in (compat, backend, workers):
        tree = ast.parse(inspect.getsource(module))
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        private = sorted((i.module, alias.name) for i in imports for alias in i.names if "joblib._" in f"{i.module}")
        assert private == (sorted(PAIRS) if module is compat else [])
    assert compat.missing is None


@pytest.mark.parametrize(
    "our_class",
    [
        backend.StackedBackend,
        workers._CallBackend,
        workers.StackedThreadsBackend,
        workers.StackedProcessesBackend,
    ],
)
def test_joblib_calls_the_methods_that_we_override(our_class):
    methods = [name for name in vars(our_class) if not name.startswith("_") and callable(vars(our_class)[name])]
    assert methods
    for name in methods:
        assert hasattr(compat.ParallelBackendBase, name), (
            f"The backends of joblib {joblib.__version__} have no method {name} any more, so that it calls "
            f"{our_class.__name__}.{name} no more. See sktorch_mlp/_parallel/workers.py and backend.py."
        )


def test_joblib_keeps_the_executor_of_its_processes_where_we_look_for_it():
    processes = compat.LokyBackend(nesting_level=0)
    processes.configure(2, joblib.Parallel(2))
    try:
        assert hasattr(processes, "_workers"), (
            f"LokyBackend of joblib {joblib.__version__} has no _workers any more: "
            "see process_pool in sktorch_mlp/_parallel/compat.py."
        )
        assert compat.process_pool(processes).submit is not None
    finally:
        processes.terminate()


def test_parallel_tells_whether_results_are_generated():
    for return_as, is_generator in (("list", False), ("generator", True)):
        parallel = joblib.Parallel(return_as=return_as)
        assert getattr(parallel, "return_generator", None) is is_generator, (
            f"Parallel of joblib {joblib.__version__} has no return_generator any more, by which StackedBackend knows."
        )


def test_errors_of_captured_tasks_are_raised_with_their_traceback():
    def fails():
        raise ValueError("no reason")

    assert compat.retrieve_result(compat.TracebackCapturingTask(lambda: 3)()) == 3
    result = compat.TracebackCapturingTask(fails)()
    with pytest.raises(ValueError, match="no reason") as raised:
        compat.retrieve_result(result)
    assert "in fails" in str(raised.value.__cause__)


# Where a name is gone -------------------------------------------------------------------


@pytest.mark.parametrize(("module", "name"), PAIRS)
def test_a_name_that_is_gone_is_an_error_of_stacked_fits_alone(module, name, monkeypatch):
    monkeypatch.delattr(importlib.import_module(module), name)
    spec = importlib.util.spec_from_file_location("compat_without_a_name", compat.__file__)
    without = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(without)
    with pytest.raises(ImportError, match=f"stacked_fits needs a name .*{name}.* Install joblib>="):
        without.check_joblib()
    for exported in compat.__all__:  # modules of the wing can be imported
        assert hasattr(without, exported)


WITHOUT_A_NAME = """
import sys, threading, warnings
warnings.simplefilter("error")
import joblib, joblib._parallel_backends, joblib.parallel
del joblib._parallel_backends.LokyBackend  # as if joblib had another name for it
import pickle
from sklearn.model_selection import cross_val_score
from sktorch_mlp import MLPTorchClassifier, stacked_fits
X = [[0.0], [1.0], [2.0], [3.0]] * 3
y = [0, 0, 1, 1] * 3
mlp = MLPTorchClassifier(max_iter=2, tol=1.0, n_iter_no_change=1, learning_rate="cosine", random_state=0)
assert len(pickle.loads(pickle.dumps(mlp.fit(X, y))).predict(X)) == 12
with joblib.parallel_config("threading"):
    assert len(cross_val_score(mlp, X, y, cv=2, n_jobs=2)) == 2
for thread in set(threading.enumerate()) - {threading.main_thread()}:
    thread.join(10)  # joblib does not: a daemon that frees tensors while the interpreter ends would abort the process
for make in (stacked_fits, lambda: joblib.parallel_config("stacked")):
    try:
        with make():
            pass
    except ImportError as error:
        print(error)
"""


def test_without_a_name_all_but_stacked_fits_works():
    done = subprocess.run([sys.executable, "-c", WITHOUT_A_NAME], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("stacked_fits needs a name that this version of joblib does not have: ")
        assert "LokyBackend" in line
        assert line.endswith("Install joblib>=1.5,<1.7.")


def test_with_all_names_nothing_is_said():
    compat.check_joblib()
    with stacked_fits():
        pass

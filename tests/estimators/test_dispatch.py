"""The tests and checks of the array API, in processes in which scipy has been told of it. Here they are skipped."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
#: Checks of an estimator that need no GPU: numpy, torch and array-api-strict in both precisions, and mixed ones.
N_CHECKS = 7
FILES = ["test_array_api.py", "test_checks.py", "test_tabular_checks.py"]
#: Which tests of these files. What the estimators of the checks differ in beyond the defaults has nothing to do with dispatch.
CHOSEN = "test_array_api or array_api and (default or tabular and not (pack or periodic))"
#: How many have to run.
N_TESTS = 110 + (2 + 3) * N_CHECKS


def test_in_a_process_with_dispatch(pytestconfig):
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", CHOSEN]
    filters = [f"-W{each}" for each in pytestconfig.getoption("pythonwarnings") or []]
    result = subprocess.run(
        [*command, *filters, *(str(FOLDER / file) for file in FILES)],
        env=os.environ | {"SCIPY_ARRAY_API": "1"},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", result.stdout).group(1)) >= N_TESTS

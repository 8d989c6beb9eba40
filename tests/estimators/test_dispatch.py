"""The tests and checks of the array API, in a process in which scipy has been told of it. Here they are skipped."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.estimators.helpers import KINDS
from tests.estimators.test_tabular_checks import ESTIMATORS as TABLES

FOLDER = Path(__file__).parent
FILES = ("test_array_api.py", "test_checks.py", "test_tabular_checks.py")
#: Checks of an estimator that need no GPU: numpy, torch and array-api-strict in both precisions, and mixed ones.
N_CHECKS = 7


def test_tests_of_the_array_api_in_a_process_of_their_own():
    pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    chosen = "test_array_api or (array_api and (default or tabular))"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "-k", chosen]
    result = subprocess.run(
        [*command, *(str(FOLDER / name) for name in FILES)],
        env=os.environ | {"SCIPY_ARRAY_API": "1"},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:]
    n_passed = int(re.search(r"(\d+) passed", result.stdout).group(1))
    assert n_passed >= 100 + N_CHECKS * (len(KINDS) + len(TABLES))

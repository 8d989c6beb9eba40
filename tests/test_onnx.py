"""The import that registers the converters."""

import subprocess
import sys

import pytest

WITHOUT_SKL2ONNX = """
import sys
sys.modules["skl2onnx"] = None
import sktorch_mlp
try:
    import sktorch_mlp.onnx
except ImportError as error:
    print(error)
"""
BY_THE_IMPORT_ALONE = """
import sktorch_mlp, sys
assert not {"onnx", "skl2onnx"} & sys.modules.keys()
import sktorch_mlp.onnx
from skl2onnx import supported_converters
print(sorted(name for name in supported_converters() if name.startswith("Sktorch")))
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (WITHOUT_SKL2ONNX, 'sktorch_mlp.onnx needs skl2onnx: pip install "sktorch-mlp[onnx]"'),
        (
            BY_THE_IMPORT_ALONE,
            "['SktorchMLPTorchClassifier', 'SktorchMLPTorchRegressor', 'SktorchTabularMLPClassifier', "
            "'SktorchTabularMLPRegressor']",
        ),
    ],
    ids=["without skl2onnx", "with it"],
)
def test_import(code, expected):
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == expected
    assert not process.stderr

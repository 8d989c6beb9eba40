"""The import that registers the converters; without it no optional library is loaded."""

import subprocess
import sys

BY_THE_IMPORT_ALONE = """
import sktorch_mlp, sys
assert not {"onnx", "skl2onnx", "safetensors", "matplotlib"} & sys.modules.keys()
import sktorch_mlp.onnx
from skl2onnx import supported_converters
print(sorted(name for name in supported_converters() if name.startswith("Sktorch")))
"""


def test_the_import_is_all_that_it_takes():
    process = subprocess.run([sys.executable, "-c", BY_THE_IMPORT_ALONE], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == (
        "['SktorchMLPTorchClassifier', 'SktorchMLPTorchRegressor', 'SktorchTabularMLPClassifier', "
        "'SktorchTabularMLPRegressor']"
    )
    assert not process.stderr

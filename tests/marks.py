"""Marks of tests that cannot run on every machine."""

import pytest

from sktorch_mlp._data.compat import cpu_has_bfloat16

needs_bfloat16 = pytest.mark.skipif(not cpu_has_bfloat16(), reason="no bfloat16 on this processor")

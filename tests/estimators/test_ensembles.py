"""Stacks of fitted networks that predict as one."""

import numpy as np
import pandas as pd

from sktorch_mlp import TabularMLPClassifier
from tests.estimators.tables import SMALL


def test_a_table_may_have_no_fixed_inputs():
    """The levels of its only column are vectors, so that the first layers have learned inputs alone."""
    frame = pd.DataFrame({"shop": [f"shop {i % 70}" for i in range(210)]})
    y = np.arange(210) % 70 % 2
    model = TabularMLPClassifier(**SMALL | {"max_iter": 30}).fit(frame, y)
    votes = [member.predict_proba(frame) for member in model.estimators_]
    np.testing.assert_allclose(np.mean(votes, axis=0), model.predict_proba(frame), atol=1e-6)
    assert model.score(frame, y) > 0.9

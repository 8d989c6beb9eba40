"""Edges of bins, written out for small columns."""

import numpy as np
import pytest

from sktorch_mlp._nn.bins import one_value_fills_most, quantile_edges


@pytest.mark.parametrize(
    ("values", "n_bins", "expected"),
    [
        (np.arange(101.0), 4, [0, 25, 50, 75, 100]),
        ([0, 1, 2, 2, np.nan], 8, [0, 1, 2]),  # few kinds of values
        ([0, 1, 1, np.nan], 8, []),  # the number itself says it all
        ([3, 3], 8, []),
        ([np.nan, np.nan], 8, []),
        ([0] * 40 + list(range(1, 61)), 4, [0, *np.linspace(1, 60, 4)]),  # what many rows have is an edge
        ([0] * 90 + list(range(1, 61)), 2, [0, *np.linspace(1, 60, 8)]),  # what most have leaves more for the others
        ([0] * 90 + list(range(1, 8)), 2, list(range(8))),
    ],
)
def test_edges_of_bins_are_quantiles(values, n_bins, expected):
    np.testing.assert_allclose(quantile_edges(np.array(values, dtype=float), n_bins), expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0, 0, 0, 1, 2], True), ([0, 0, 1, 2], False), ([np.nan, np.nan, 5], True), ([np.nan], False), ([], False)],
)
def test_one_value_fills_most_of_those_that_are_known(values, expected):
    assert one_value_fills_most(np.array(values, dtype=float)) is expected

"""Where the bins of a number begin and end."""

from __future__ import annotations

import numpy as np


def quantile_edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Edges of about `n_bins` bins with equally many values; values of few kinds are edges themselves.

    So is a value that more rows have than a bin would. The other bins are those of the other rows, and four times as
    many where one value fills most rows: what the few others are, zero in most rows of a sum of money, say, matters
    more. A number of two values or fewer needs no bins, and has no edges.

    Parameters
    ----------
    values : ndarray of shape (n_rows,)
        nan where missing.
    n_bins : int
    """
    distinct, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    if len(distinct) <= 2:
        return distinct[:0]
    if _fills_most(counts):
        n_bins *= 4
    if len(distinct) <= n_bins:
        return distinct
    is_frequent = counts * n_bins > counts.sum()
    others = np.repeat(distinct[~is_frequent], counts[~is_frequent])
    quantiles = np.quantile(others, np.linspace(0, 1, max(1, n_bins - int(is_frequent.sum())) + 1))
    return np.union1d(distinct[is_frequent], quantiles)


def one_value_fills_most(values: np.ndarray) -> bool:
    """Whether more than half of the values that are not nan are the same."""
    counts = np.unique(values[~np.isnan(values)], return_counts=True)[1]
    return len(counts) > 0 and _fills_most(counts)


def _fills_most(counts: np.ndarray) -> bool:
    return bool(2 * counts.max() > counts.sum())

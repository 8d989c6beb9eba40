"""All pairs in place of a full product of parameters."""

from itertools import combinations, product


def pairwise(*axes):
    """Choose combinations in which any two values of different axes meet; few, and always the same.

    Parameters
    ----------
    *axes : iterable
        The values of each parameter. Put those with the most values first.

    Returns
    -------
    list of tuple
        One value of each axis.
    """
    axes = [list(axis) for axis in axes]
    sizes = [range(len(axis)) for axis in axes]
    pairs = [((i, a), (j, b)) for i, j in combinations(range(len(axes)), 2) for a, b in product(sizes[i], sizes[j])]
    missing = dict.fromkeys(pairs)  # a set that keeps its order
    n_uses = {(i, a): 0 for i, size in enumerate(sizes) for a in size}
    chosen = []
    while missing:
        combination = dict(next(iter(missing)))
        for i, size in enumerate(sizes):
            if i not in combination:
                combination[i] = min(size, key=lambda a, i=i: (-_n_new(missing, combination, i, a), n_uses[i, a]))
        items = sorted(combination.items())
        for pair in combinations(items, 2):
            missing.pop(pair, None)
        for item in items:
            n_uses[item] += 1
        chosen.append(tuple(axes[i][a] for i, a in items))
    return chosen


def _n_new(missing, combination, i, a):
    """Count the missing pairs that a value would make with those chosen."""
    return sum(tuple(sorted([(i, a), other])) in missing for other in combination.items())

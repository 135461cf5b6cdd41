"""The arithmetic of an index: unit rows, the highest scores, hubs. Ties never depend on chance.

In: vectors and scores as arrays. Out: arrays. Knows neither labels nor encoders nor files.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from irr.errors import ConfigurationError, EncoderError

__all__ = [
    "BLOCK",
    "MOST_COMPARED",
    "NEIGHBOURS",
    "Floats",
    "Integers",
    "cosines",
    "first_rows",
    "label_hubs",
    "mean_of_highest",
    "pool_rows",
    "top_k",
    "unit_rows",
]

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]

# Labels around a label or a query that tell how much of a hub it is.
NEIGHBOURS = 10
# Above this many labels hubs are estimated: comparing all pairs would take hours.
MOST_COMPARED = 100_000
# Floats in one block of scores: 64 MB.
BLOCK = 1 << 24
_FOLDS = 32
# Multiplications up to which OpenBLAS multiplies without packing its operands.
_SMALL_PRODUCT = 1_000_000
# Rows of a block below which the calls cost more than packing would.
_SMALLEST_BLOCK = 64


def unit_rows(vectors: npt.ArrayLike) -> Floats:
    """Scale rows to length 1, zero rows left as they are.

    Returns:
        (n, d) float32.

    Raises:
        EncoderError: not a matrix of finite numbers.
    """
    matrix = np.asarray(vectors)
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise EncoderError(f"expected a matrix of numbers, got {matrix.dtype} {matrix.shape}")
    # In float64 neither the square of 1e30 nor that of 1e-30 is lost.
    lengths = np.sqrt(np.einsum("ij,ij->i", matrix, matrix, dtype=np.float64))
    if not np.isfinite(lengths).all():
        row = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise EncoderError(f"the vector of row {row} is not finite")
    lengths[lengths == 0] = 1
    units: Floats = (matrix / lengths[:, None]).astype(np.float32)
    return units


def cosines(queries: Floats, vectors: Floats) -> Floats:
    """Multiply queries @ vectors.T, for few queries block by block.

    For a handful of queries, packing all vectors takes longer than multiplying them.

    Args:
        queries: (q, d) unit rows.
        vectors: (n, d) unit rows.

    Returns:
        (q, n) float32.
    """
    step = _SMALL_PRODUCT // max(1, queries.size)
    if len(queries) < 2 or step < _SMALLEST_BLOCK:
        product: Floats = queries @ vectors.T
        return product
    columns = np.ascontiguousarray(queries.T)
    found = np.empty((len(queries), len(vectors)), np.float32)
    for first in range(0, len(vectors), step):
        block = slice(first, first + step)
        found[:, block] = (vectors[block] @ columns).T
    return found


def top_k(scores: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Find the k highest of (n,) scores, best first, of equals the lower position first.

    >>> top_k(np.array([0.1, 0.9, 0.5, 0.9, 0.5]), 3).tolist()
    [1, 3, 2]
    """
    n = len(scores)
    if not 0 < k < n:
        if k < 1:
            raise ConfigurationError(f"k must be 1 or more, not {k}")
        return np.argsort(-scores, kind="stable")
    limit = np.partition(scores, n - k)[n - k]
    above = np.flatnonzero(scores > limit)
    level = np.flatnonzero(scores == limit)[: k - len(above)]
    chosen = np.sort(np.concatenate([above, level]))
    return chosen[np.argsort(-scores[chosen], kind="stable")]


def mean_of_highest(scores: Floats, k: int) -> Floats:
    """Average the k highest scores of each row, or all where there are fewer.

    >>> print(mean_of_highest(np.array([[0.5, 0.1, 0.4], [0.3, 0.3, 0.3]], np.float32), 2))
    [0.45 0.3 ]

    Args:
        scores: (q, n) with n at least 1.

    Returns:
        (q,) float32.
    """
    rows, n = scores.shape
    width = n // _FOLDS
    if width > k:
        # The k highest lie in the k columns of the folded rows whose maxima are highest: that
        # leaves a fraction to be partitioned, and is several times quicker.
        folded = scores[:, : width * _FOLDS].reshape(rows, _FOLDS, width)
        columns = np.argpartition(folded.max(axis=1), width - k, axis=1)[:, None, width - k :]
        chosen = np.take_along_axis(folded, columns, axis=2).reshape(rows, -1)
        scores = np.concatenate([chosen, scores[:, width * _FOLDS :]], axis=1)
    k = min(k, n)
    mean: Floats = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k:].mean(axis=1)
    return mean


def label_hubs(
    vectors: Floats, owners: Integers, *, neighbours: int = NEIGHBOURS, most: int = MOST_COMPARED
) -> Floats:
    """Measure how much of a hub each label is: its mean cosine with its nearest other labels.

    A label in a crowd is near to many queries; taking off a part of this mean gives labels in
    the open their turn (cf. cross-domain similarity local scaling, Conneau et al. 2018, arXiv
    1710.04087).

    Args:
        vectors: (rows, d) float32 unit rows. The cosine of two labels is that of their nearest
            rows.
        owners: (rows,) int32, not decreasing.
        neighbours: how many labels are averaged, all others where there are fewer.
        most: with more labels than this, the neighbours are sought in a fixed sample of `most`
            labels, and proportionally fewer of them, at least one, are averaged.

    Returns:
        (labels,) float32; zero for a label alone.
    """
    starts = first_rows(owners, len(vectors))
    labels = len(starts)
    others = np.arange(labels)  # The labels that every label is compared with.
    if labels > most:
        others = np.sort(np.random.default_rng(0).choice(labels, most, replace=False))
    k = min(max(1, round(neighbours * len(others) / labels)), len(others) - 1)
    hubs = np.zeros(labels, np.float32)
    if k < 1:
        return hubs
    ends = np.append(starts, len(vectors))
    rows = vectors if len(others) == labels else vectors[np.isin(owners, others)]
    columns = np.concatenate([[0], np.cumsum(np.diff(ends)[others])[:-1]])
    step = max(1, min(256, BLOCK // len(rows)))

    def fill(first: int) -> None:
        last = min(first + step, labels)
        block = pool_rows(vectors[ends[first] : ends[last]] @ rows.T, columns, axis=1)
        block = pool_rows(block, starts[first:last] - ends[first], axis=0)
        own = np.searchsorted(others, np.arange(first, last))
        among = np.isin(np.arange(first, last), others)
        block[np.flatnonzero(among), own[among]] = -np.inf
        hubs[first:last] = mean_of_highest(block, k)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        list(pool.map(fill, range(0, labels, step)))
    return hubs


def pool_rows(scores: Floats, starts: npt.NDArray[Any], axis: int) -> Floats:
    """Take the maximum over each label's rows, which begin at `starts` along `axis`."""
    if len(starts) == scores.shape[axis]:
        return scores
    pooled: Floats = np.maximum.reduceat(scores, starts, axis=axis)
    return pooled


def first_rows(owners: Integers, rows: int) -> npt.NDArray[np.int64]:
    """Find the first row of each label.

    Raises:
        ConfigurationError: `owners` are not as `LabelIndex` needs them.
    """
    if owners.shape != (rows,) or owners[0] != 0 or not np.isin(np.diff(owners), (0, 1)).all():
        message = "owners must be one position a row, from 0 without a gap, not decreasing"
        raise ConfigurationError(message)
    return np.flatnonzero(np.diff(owners, prepend=-1))

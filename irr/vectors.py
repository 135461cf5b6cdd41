"""The arithmetic of an index: unit rows, the highest scores, hubs. Ties never depend on chance.

In: vectors and scores as arrays. Out: arrays. Knows neither labels nor encoders nor files.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
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
    "Positions",
    "cosines",
    "first_rows",
    "label_hubs",
    "mean_of_highest",
    "near_hubs",
    "pool_rows",
    "rows_of",
    "top_k",
    "unit_rows",
    "usable_cpus",
]

Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int32]
Positions = npt.NDArray[np.int64]

# Labels around a label or a query that tell how much of a hub it is.
NEIGHBOURS = 10
# Above this many labels hubs are estimated: comparing all pairs would take hours.
MOST_COMPARED = 100_000
# Floats in one block of scores: 64 MB.
BLOCK = 1 << 24
_FOLDS = 32
# Rows looked at for each neighbouring label of `near_hubs`, and labels at a time.
_SPARE = 2.5
_NEAR_LABELS = 4096
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
    units = np.empty(matrix.shape, np.float32)
    # Block by block, since the arithmetic is in float64: in it neither the square of 1e30 nor
    # that of 1e-30 is lost.
    step = max(1, BLOCK // max(1, matrix.shape[1]))
    for first in range(0, len(matrix), step):
        block = matrix[first : first + step]
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        if not np.isfinite(lengths).all():
            row = first + int(np.flatnonzero(~np.isfinite(lengths))[0])
            raise EncoderError(f"the vector of row {row} is not finite")
        lengths[lengths == 0] = 1
        units[first : first + step] = block / lengths[:, None]
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


def near_hubs(
    vectors: Floats,
    owners: Integers,
    near: Callable[[Floats, int], Positions],
    *,
    neighbours: int = NEIGHBOURS,
) -> Floats:
    """Do as `label_hubs`, for labels too many to be compared: each row with those next to it.

    Args:
        near: finds for (n, d) rows the positions of some rows next to each, about as many as the
            number says: (n, any), in any order, with repeats, -1 for none.

    Returns:
        (labels,) float32; of the neighbours that were found, zero where none was.
    """
    starts = first_rows(owners, len(vectors))
    ends = np.append(starts, len(vectors))
    # Neighbours are labels: those with several names take up several rows.
    count = math.ceil(_SPARE * neighbours * len(vectors) / len(starts))
    hubs = np.zeros(len(starts), np.float32)
    for first in range(0, len(starts), _NEAR_LABELS):
        last = min(first + _NEAR_LABELS, len(starts))
        rows = slice(int(ends[first]), int(ends[last]))
        found = near(np.ascontiguousarray(vectors[rows]), count)
        scores = _scores_of(vectors, rows, found)
        labels = np.broadcast_to(owners[rows, None], found.shape)
        others = owners[found]
        kept = (found >= 0) & (others != labels)
        parts = (labels[kept] - first, others[kept], scores[kept])
        hubs[first:last] = _mean_of_nearest(*parts, last - first, neighbours)
    return hubs


def _scores_of(vectors: Floats, rows: slice, found: Positions) -> Floats:
    """The cosine of each of the rows with each of the rows found for it."""
    scores = np.empty(found.shape, np.float32)
    step = max(1, BLOCK // (found.shape[1] * vectors.shape[1]))
    for first in range(0, len(found), step):
        block = slice(rows.start + first, min(rows.start + first + step, rows.stop))
        near = vectors[found[first : first + step]]
        scores[first : first + step] = (near @ vectors[block, :, None])[..., 0]
    return scores


def _mean_of_nearest(
    labels: Integers, others: Integers, scores: Floats, count: int, neighbours: int
) -> Floats:
    """Of (label, other, score) triples, each pair's best: the mean of each label's highest."""
    order = np.lexsort((-scores, others, labels))
    labels, others, scores = labels[order], others[order], scores[order]
    fresh = np.ones(len(labels), bool)
    fresh[1:] = (labels[1:] != labels[:-1]) | (others[1:] != others[:-1])
    labels, scores = labels[fresh], scores[fresh]
    order = np.lexsort((-scores, labels))
    labels, scores = labels[order], scores[order]
    rank = np.arange(len(labels)) - np.searchsorted(labels, labels)
    best = rank < neighbours
    totals = np.bincount(labels[best], scores[best], minlength=count)
    return np.asarray(
        totals / np.maximum(1, np.bincount(labels[best], minlength=count)), np.float32
    )


def rows_of(labels: Positions, starts: npt.NDArray[Any], rows: int) -> tuple[Positions, Positions]:
    """List the rows of some labels, and where among them those of each label begin.

    >>> rows_of(np.array([0, 2]), np.array([0, 2, 3]), 6)
    (array([0, 1, 3, 4, 5]), array([0, 2]))

    Args:
        labels: positions, ascending.
        starts: (labels in all,) the first row of each, see `first_rows`; of `rows` in all.
    """
    counts = np.append(starts[1:], rows)[labels] - starts[labels]
    firsts = np.cumsum(counts) - counts
    return np.repeat(starts[labels] - firsts, counts) + np.arange(counts.sum()), firsts


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


def usable_cpus() -> int:
    """How many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""`Shortlist`: of millions of rows the few thousand that may be near a text's queries, by FAISS.

In: unit rows, then queries. Out: positions of rows, whose exact cosines the caller computes. Rows
are cut into cells by k-means and kept as 4-bit product codes, which FastScan reads several
thousand at a time. A query reads only the cells nearest to it. Each row lies in its `SPILL`
nearest cells: a label between two topics is found from both.

Kept as a FAISS file: a tenth of the vectors' size, read whole in a fraction of a second.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from irr.errors import ConfigurationError, InputError, OutputError
from irr.vectors import Floats, unit_rows, usable_cpus

__all__ = ["LEAST_ROWS", "Shortlist"]

Rows = npt.NDArray[np.int64]

# Product codes have 16 centres for each part; below this there is nothing to gain anyway.
LEAST_ROWS = 256
# Cells for each square root of a row: reading the cells' centres then takes a tenth of a search.
CELLS = 4.0
# Of 1,300,000 mixed labels, of which a text's exact first 50 are wanted, so many lie in a cell that
# is probed: 95 to 98% with one cell a row, 99.7 to 99.8% with three. One cell would need 1,024
# probes for that.
SPILL = 3
PROBES = 64
# For the neighbours of rows: with 8 the hubs of ESCO are off by 0.003 on average, which alone
# costs 2% of recall@50; with 32 by 0.001.
ROW_PROBES = 32
# Hits that all queries of a text together look for, and at least those of each query. Pooling
# brings up labels that many queries graze: with 200 for each of forty, recall@50 falls to 97%.
BUDGET = 16_000
LEAST = 600
_LEAST_PARTS = 64
_ROWS_PER_THREAD = 10_000
_TRAINED_PER_CELL = 50
_TRAINED_CODES = 65_536
_SLAB = 65_536


class Shortlist:
    """Cells and codes of unit rows. Searches may run in several threads at once.

    Use `build` or `read`.
    """

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def build(cls, vectors: Floats, *, threads: int | None = None) -> Shortlist:
        """Cut (n, d) unit rows, `LEAST_ROWS` or more, into cells; they may be mapped from a file.

        The same vectors give the same cells on the same machine.

        Args:
            threads: CPU threads; None for all that this process may use.

        Raises:
            ConfigurationError: too few rows.
        """
        rows, dimensions = vectors.shape
        if rows < LEAST_ROWS:
            message = f"{rows} vectors are too few for an approximate index (from {LEAST_ROWS})"
            raise ConfigurationError(f"{message}: they are searched exactly in an instant")
        faiss = _faiss(_useful_threads(rows, threads))
        count = max(1, min(round(CELLS * rows**0.5), rows // 16))
        quantizer = faiss.IndexFlatIP(dimensions)
        quantizer.add(_centres(faiss, vectors, count))
        # All parts must be of one size; with fewer of them neighbours cannot be told apart.
        sizes = (size for size in (4, 2) if dimensions % size == 0)
        part = next((size for size in sizes if dimensions // size >= _LEAST_PARTS), 1)
        metric = faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexIVFPQ(quantizer, dimensions, count, dimensions // part, 4, metric)
        # A row has one code in all its cells.
        index.by_residual = False
        index.pq.cp.min_points_per_centroid = 1
        index.pq.train(_sample(vectors, _TRAINED_CODES))
        index.is_trained = True
        _fill(faiss, index, vectors)
        return cls(faiss.IndexIVFPQFastScan(index))

    @classmethod
    def read(cls, path: Path, shape: tuple[int, int]) -> Shortlist:
        """Read what `write` wrote, for vectors of this shape.

        Raises:
            InputError: the file is missing, damaged, or not for these vectors.
        """
        faiss = _faiss(1)
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1] if str(error).strip() else "damaged"
            message = f"cannot be read: {reason}: build the index again"
            raise InputError(message, path=path) from error
        found = (getattr(index, "ntotal", 0), index.d)
        if not isinstance(index, faiss.IndexIVFPQFastScan) or found != (shape[0] * SPILL, shape[1]):
            message = f"holds no cells of {shape[0]} vectors of {shape[1]} dimensions"
            raise InputError(f"{message}: build the index again", path=path)
        return cls(index)

    def write(self, path: Path) -> None:
        """Write the cells to one file.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            _faiss(1).write_index(self._index, str(path))
        except RuntimeError as error:
            raise OutputError(f"{path}: cannot be written: {error}") from error

    def near_queries(self, queries: Floats, least: int = 1) -> Rows:
        """Find the rows among which are those that these queries together come nearest to.

        Args:
            queries: (q, d) unit rows, the queries of one text.
            least: how many rows each query looks for, at least.

        Returns:
            (n,) distinct positions, ascending.
        """
        # Labels that many queries graze and none names are near their mean.
        mean = unit_rows(queries.mean(axis=0, keepdims=True))
        count = max(LEAST, BUDGET // len(queries), least * SPILL)
        found = self._search(np.concatenate([queries, mean]), count, PROBES, threads=1)
        rows: Rows = np.unique(found)
        return rows[rows >= 0]

    def near_rows(self, rows: Floats, count: int, *, threads: int | None = None) -> Rows:
        """Find the rows next to each of (n, d) unit rows, itself among them.

        Returns:
            (n, count) positions, -1 for none.
        """
        useful = _useful_threads(self._index.ntotal // SPILL, threads)
        found = self._search(rows, count * SPILL, ROW_PROBES, threads=useful)
        # A row is found in several cells: the first of each is kept, in the order of nearness.
        order = np.argsort(found, axis=1, kind="stable")
        by_row = np.take_along_axis(found, order, axis=1)
        first = np.ones(found.shape, bool)
        first[:, 1:] = by_row[:, 1:] != by_row[:, :-1]
        fresh = np.empty(found.shape, bool)
        np.put_along_axis(fresh, order, first, axis=1)
        fresh &= found >= 0
        rank = np.cumsum(fresh, axis=1)
        kept = np.nonzero(fresh & (rank <= count))
        distinct = np.full((len(found), count), -1, np.int64)
        distinct[kept[0], rank[kept] - 1] = found[kept]
        return distinct

    def _search(self, queries: Floats, count: int, probes: int, *, threads: int) -> Rows:
        faiss = _faiss(threads)
        count = min(count, self._index.ntotal)
        parameters = faiss.SearchParametersIVF(nprobe=min(probes, self._index.nlist))
        _, found = self._index.search(queries, count, params=parameters)
        positions: Rows = found
        return positions


def _faiss(threads: int) -> Any:
    """The library, for `threads` threads of this thread's next call."""
    if sys.platform == "darwin":
        # Its package and torch's each bring an OpenMP there: two in a process are refused, and
        # crash with more than one thread.
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
        threads = 1
    import faiss

    faiss.omp_set_num_threads(threads)
    return faiss


def _centres(faiss: Any, vectors: Floats, count: int) -> Floats:
    """The centres of `count` cells, by spherical k-means on a sample."""
    means = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=10,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=_TRAINED_PER_CELL,
        seed=1,
    )
    means.train(_sample(vectors, count * _TRAINED_PER_CELL))
    centres: Floats = means.centroids
    return centres


def _sample(vectors: Floats, most: int) -> Floats:
    if len(vectors) <= most:
        return np.ascontiguousarray(vectors)
    picks = np.random.default_rng(0).choice(len(vectors), most, replace=False)
    sample: Floats = vectors[np.sort(picks)]
    return sample


def _fill(faiss: Any, index: Any, vectors: Floats) -> None:
    """Put each row's code into its nearest cells."""
    cells = np.empty((len(vectors), SPILL), np.int32)
    codes = np.empty((len(vectors), index.code_size), np.uint8)
    for slab in _slabs(len(vectors)):
        rows = np.ascontiguousarray(vectors[slab])
        # Fewer cells than that: -1, which no cell takes.
        cells[slab] = index.quantizer.search(rows, SPILL)[1]
        codes[slab] = index.pq.compute_codes(rows)
    order = np.argsort(cells.ravel(), kind="stable")
    limits = np.searchsorted(cells.ravel()[order], np.arange(index.nlist + 1))
    owners = order // SPILL
    for cell, (first, last) in enumerate(pairwise(limits)):
        ids = np.ascontiguousarray(owners[first:last])
        own = np.ascontiguousarray(codes[ids])
        index.invlists.add_entries(cell, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(own))
    index.ntotal = int(limits[-1] - limits[0])


def _slabs(rows: int) -> Iterator[slice]:
    return (slice(first, first + _SLAB) for first in range(0, rows, _SLAB))


def _useful_threads(rows: int, threads: int | None) -> int:
    """As many as wanted or usable, but few for few rows: threads wait for each other busily."""
    return max(1, min(threads or usable_cpus(), rows // _ROWS_PER_THREAD))

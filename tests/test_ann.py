"""The shortlist: what it finds against brute force, its file, and its failures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("faiss")

from irr.errors import ConfigurationError, InputError, OutputError
from irr.index.ann import LEAST_ROWS, Shortlist
from irr.vectors import unit_rows

ROWS, DIMENSIONS = 3000, 64


def clustered(rows: int = ROWS, dimensions: int = DIMENSIONS, seed: int = 0) -> NDArray[np.float32]:
    """Unit rows about a hundred centres: like labels, and unlike random vectors, they have
    neighbours."""
    draw = np.random.default_rng(seed)
    centres = draw.standard_normal((100, dimensions))
    spread = 0.3 * draw.standard_normal((rows, dimensions))
    return unit_rows(centres[draw.integers(100, size=rows)] + spread)


@pytest.fixture(scope="module")
def shortlist() -> Shortlist:
    return Shortlist.build(clustered(), threads=1)


def test_the_nearest_rows_of_each_query_are_shortlisted(shortlist: Shortlist) -> None:
    vectors, queries = clustered(), clustered(50, seed=1)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :50]
    found = [shortlist.near_queries(query[None]) for query in queries]
    assert np.mean([np.isin(b, f).mean() for b, f in zip(best, found, strict=True)]) > 0.98


def test_a_shortlist_is_ascending_and_distinct(shortlist: Shortlist) -> None:
    rows = shortlist.near_queries(clustered(7, seed=2))
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0 and rows[-1] < ROWS


def test_more_are_shortlisted_where_more_are_wanted(shortlist: Shortlist) -> None:
    many = clustered(40, seed=3)
    assert len(shortlist.near_queries(many, 900)) > len(shortlist.near_queries(many, 1))


def test_the_rows_next_to_a_row(shortlist: Shortlist) -> None:
    vectors = clustered()
    cosines = vectors[:200] @ vectors.T
    found = shortlist.near_rows(vectors[:200], 25, threads=1)
    assert found.shape == (200, 25)
    assert all(len(set(row)) == 25 for row in found.tolist())
    ours = np.sort(np.take_along_axis(cosines, found, axis=1), axis=1)[:, -10:]
    best = np.sort(cosines, axis=1)[:, -10:]
    assert (ours[:, -1] == best[:, -1]).all()  # The row itself.
    assert (best - ours).mean() < 0.003


@pytest.mark.parametrize("dimensions", [7, 10, 12])
def test_any_number_of_dimensions(dimensions: int) -> None:
    vectors = clustered(600, dimensions)
    shortlist = Shortlist.build(vectors, threads=1)
    assert all(row in shortlist.near_queries(vectors[[row]]) for row in range(0, 600, 50))


def test_equal_rows_and_zero_rows_have_cells_too() -> None:
    vectors = np.zeros((LEAST_ROWS, 8), np.float32)
    vectors[10:, 0] = 1
    shortlist = Shortlist.build(vectors, threads=1)
    assert set(range(10, LEAST_ROWS)) <= set(shortlist.near_queries(vectors[[20]]).tolist())


def test_too_few_rows() -> None:
    with pytest.raises(ConfigurationError, match="255 vectors are too few"):
        Shortlist.build(clustered(LEAST_ROWS - 1))


def test_the_same_vectors_give_the_same_file(shortlist: Shortlist, tmp_path: Path) -> None:
    shortlist.write(tmp_path / "a")
    Shortlist.build(clustered(), threads=1).write(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_was_written_finds_the_same(shortlist: Shortlist, tmp_path: Path) -> None:
    shortlist.write(tmp_path / "cells")
    read = Shortlist.read(tmp_path / "cells", (ROWS, DIMENSIONS))
    queries = clustered(9, seed=4)
    np.testing.assert_array_equal(read.near_queries(queries), shortlist.near_queries(queries))


def test_files_that_cannot_be_used(shortlist: Shortlist, tmp_path: Path) -> None:
    file = tmp_path / "cells"
    with pytest.raises(InputError, match="cells: cannot be read"):
        Shortlist.read(file, (ROWS, DIMENSIONS))
    shortlist.write(file)
    with pytest.raises(InputError, match="holds no cells of 2999 vectors of 64 dimensions"):
        Shortlist.read(file, (ROWS - 1, DIMENSIONS))
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cells: cannot be read"):
        Shortlist.read(file, (ROWS, DIMENSIONS))
    with pytest.raises(OutputError, match="cannot be written"):
        shortlist.write(tmp_path / "no" / "folder")


def test_the_library_is_imported_only_when_it_is_needed() -> None:
    code = "import sys, irr.index, irr.retrieve, irr.indexing; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The arithmetic of an index against sorts and double loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import irr.vectors as vectors_module
from irr.errors import ConfigurationError, EncoderError
from irr.vectors import (
    label_hubs,
    mean_of_highest,
    near_hubs,
    rows_of,
    top_k,
    unit_rows,
)

OWNERS = np.array([0, 0, 1, 2, 2, 2, 3], np.int32)


def random(rows: int, dimensions: int = 8) -> NDArray[np.float64]:
    """Vectors of very different lengths."""
    draw = np.random.default_rng(0)
    return draw.standard_normal((rows, dimensions)) * draw.uniform(0.01, 100, (rows, 1))


def cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a @ b / np.sqrt(a @ a) / np.sqrt(b @ b))


@settings(deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=40), st.integers(1, 45))
def test_top_k_equals_a_sort(scores: list[int], k: int) -> None:
    expected = sorted(range(len(scores)), key=lambda i: (-scores[i], i))[:k]
    assert top_k(np.array(scores, np.float32), k).tolist() == expected


def test_top_k_of_none() -> None:
    with pytest.raises(ConfigurationError, match="k must be 1 or more, not 0"):
        top_k(np.array([1.0]), 0)


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 500), st.integers(1, 12), st.integers(0, 99))
def test_mean_of_highest_equals_a_sort(rows: int, n: int, k: int, seed: int) -> None:
    scores = np.random.default_rng(seed).integers(-9, 9, (rows, n)).astype(np.float32)
    expected = np.sort(scores, axis=1)[:, ::-1][:, :k].mean(axis=1)
    np.testing.assert_allclose(mean_of_highest(scores, k), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("neighbours", [1, 2, 3, 10])
def test_hubs_equal_a_double_loop(neighbours: int) -> None:
    rows = random(7)
    expected = []
    for label in range(4):
        near = [
            max(cosine(rows[i], rows[j]) for i in np.flatnonzero(label == OWNERS)
                for j in np.flatnonzero(other == OWNERS))
            for other in range(4) if other != label
        ]  # fmt: skip
        expected.append(np.mean(sorted(near, reverse=True)[:neighbours]))
    hubs = label_hubs(unit_rows(rows), OWNERS, neighbours=neighbours)
    np.testing.assert_allclose(hubs, expected, atol=1e-6)


def test_hubs_of_many_labels() -> None:
    units = unit_rows(random(700, 16))
    cosines = units @ units.T
    np.fill_diagonal(cosines, -9)
    expected = np.sort(cosines, axis=1)[:, -10:].mean(axis=1)
    owners = np.arange(700, dtype=np.int32)
    np.testing.assert_allclose(label_hubs(units, owners), expected, atol=1e-6)
    # A sample of half the labels, of whom half as many are averaged, is near it.
    sampled = label_hubs(units, owners, most=350)
    assert np.abs(sampled - expected).mean() < 0.04


@pytest.mark.parametrize(("rows", "hubs"), [([[1, 2]], [0]), ([[1, 0], [3, 4]], [0.6, 0.6])])
def test_hubs_of_one_and_of_two_labels(rows: list[list[int]], hubs: list[float]) -> None:
    found = label_hubs(unit_rows(rows), np.arange(len(rows), dtype=np.int32))
    assert found.tolist() == pytest.approx(hubs)


def test_unit_rows_of_extreme_lengths() -> None:
    units = unit_rows(np.array([[3e30, 4e30], [3e-30, 4e-30], [0, 0]], np.float32))
    np.testing.assert_allclose(units, [[0.6, 0.8], [0.6, 0.8], [0, 0]], atol=1e-6)
    assert unit_rows([[3, 4]]).dtype == np.float32


@pytest.mark.parametrize("neighbours", [1, 2, 10])
def test_hubs_by_neighbours_equal_hubs(neighbours: int, monkeypatch: pytest.MonkeyPatch) -> None:
    units = unit_rows(random(300))
    owners = np.sort(np.random.default_rng(1).integers(0, 90, 300))
    owners = np.unique(owners, return_inverse=True)[1].astype(np.int32)

    def near(rows: NDArray[np.float32], count: int) -> NDArray[np.int64]:
        """All rows, in no order, some twice, and places without any."""
        found = np.tile([*range(299, -1, -1), *range(count), -1, -1], (len(rows), 1))
        return found.astype(np.int64)

    monkeypatch.setattr(vectors_module, "_NEAR_LABELS", 7)
    expected = label_hubs(units, owners, neighbours=neighbours)
    found = near_hubs(units, owners, near, neighbours=neighbours)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_hubs_without_neighbours_are_zero() -> None:
    units = unit_rows(random(3))
    nothing = near_hubs(
        units, np.arange(3, dtype=np.int32), lambda rows, _: np.full((len(rows), 2), -1)
    )
    assert nothing.tolist() == [0, 0, 0]


def test_rows_of_labels_with_several_names() -> None:
    starts = np.array([0, 2, 3, 6])
    rows, firsts = rows_of(np.array([0, 2, 3]), starts, 8)
    assert rows.tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert firsts.tolist() == [0, 2, 5]


def test_unit_rows_in_blocks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random(50)
    whole = unit_rows(rows)
    monkeypatch.setattr(vectors_module, "BLOCK", 24)
    np.testing.assert_array_equal(unit_rows(rows), whole)
    rows[41, 0] = np.nan
    with pytest.raises(EncoderError, match="row 41 is not finite"):
        unit_rows(rows)

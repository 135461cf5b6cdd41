"""Metrics against hand-worked cases, and the mean against plain statistics."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.errors import ConfigurationError
from irr.metrics import METRICS, Score, mean_score, precision_at_k, recall_at_k, rp_at_k


@pytest.mark.parametrize(
    ("ranking", "gold", "k", "rp", "recall", "precision"),
    [
        ("abc", "abc", 3, 1, 1, 1),
        ("abc", "abc", 2, 1, 2 / 3, 1),
        ("xab", "ab", 2, 1 / 2, 1 / 2, 1 / 2),
        ("xab", "ab", 10, 1, 1, 2 / 10),
        ("xyz", "ab", 3, 0, 0, 0),
        ("", "ab", 3, 0, 0, 0),
        # A repeated label counts once, and takes one place only.
        ("aa", "ab", 2, 1 / 2, 1 / 2, 1 / 2),
        ("aab", "ab", 2, 1, 1, 1),
        # Repeated gold is one label.
        ("ab", "aab", 2, 1, 1, 1),
    ],
)
def test_hand_worked(
    ranking: str, gold: str, k: int, rp: float, recall: float, precision: float
) -> None:
    assert rp_at_k(list(ranking), list(gold), k) == rp
    assert recall_at_k(list(ranking), list(gold), k) == recall
    assert precision_at_k(list(ranking), list(gold), k) == precision


@pytest.mark.parametrize("metric", METRICS.values())
def test_without_gold_there_is_no_score(metric: object) -> None:
    assert callable(metric)
    assert metric(["a"], [], 5) is None
    with pytest.raises(ConfigurationError, match="k must be 1 or more"):
        metric(["a"], ["a"], 0)


@given(st.lists(st.integers(0, 9)), st.sets(st.integers(0, 9), min_size=1), st.integers(1, 12))
def test_relations(ranking: list[int], gold: set[int], k: int) -> None:
    rp, recall, precision = (m(ranking, gold, k) for m in (rp_at_k, recall_at_k, precision_at_k))
    assert rp is not None and recall is not None and precision is not None
    assert 0 <= min(recall, precision) <= max(recall, precision) == rp <= 1
    assert recall <= (recall_at_k(ranking, gold, k + 1) or 0)


def test_mean_leaves_out_and_counts_what_has_no_gold() -> None:
    score = mean_score([1.0, None, 0.0, 0.5])
    assert (score.mean, score.documents, score.without_gold) == (0.5, 3, 1)
    assert mean_score([None]) == Score(None, None, None, 0, 1)
    assert mean_score([]) == Score(None, None, None, 0, 0)


def test_interval_is_seeded_and_as_wide_as_theory_says() -> None:
    scores = [float(i % 4 == 0) for i in range(400)]
    score = mean_score(scores)
    assert score == mean_score(scores)
    assert score != mean_score(scores, seed=1)
    error = statistics.pstdev(scores) / 400**0.5
    assert score.low == pytest.approx(0.25 - 1.96 * error, abs=0.006)
    assert score.high == pytest.approx(0.25 + 1.96 * error, abs=0.006)


def test_interval_of_equal_scores_is_a_point() -> None:
    assert mean_score([0.5] * 7) == Score(0.5, 0.5, 0.5, 7, 0)
    with pytest.raises(ConfigurationError, match="resamples"):
        mean_score([0.5], resamples=0)

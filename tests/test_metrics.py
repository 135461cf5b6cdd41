"""Metrics against hand-worked cases; means and intervals against plain statistics."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.errors import ConfigurationError
from irr.metrics import (
    ANNIF_NAMES,
    CORPUS_METRICS,
    METRICS,
    Counts,
    Cut,
    Propensities,
    Score,
    Scorer,
    mean_score,
    paired_difference,
    parse_metrics,
    parse_specs,
    precision_at_k,
    ratio_score,
    recall_at_k,
    rp_at_k,
)

D2 = 1 / math.log2(3)  # The discount of the second place.


def scored(names: str, rows: list[tuple[str, str]], **training: object) -> dict[str, Score]:
    """Metrics of (ranking, gold) rows, a letter a label."""
    scorer = Scorer(parse_specs(names), **training)  # type: ignore[arg-type]
    for ranking, gold in rows:
        scorer.add(ranking, None, gold)
    return scorer.result()


def mean(names: str, rows: list[tuple[str, str]], **training: object) -> float | None:
    (score,) = scored(names, rows, **training).values()
    return score.mean


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


@pytest.mark.parametrize(
    ("name", "ranking", "gold", "expected"),
    [
        ("nDCG@2", "xa", "ab", D2 / (1 + D2)),
        ("nDCG@9", "xa", "a", D2),
        ("nDCG@1", "xa", "a", 0),
        ("nDCG", "aab", "ab", 1),
        ("MRR", "xxya", "a", 1 / 3),
        ("MRR@2", "xya", "a", 0),
        ("MRR", "", "a", 0),
        ("hit@2", "xa", "ab", 1),
        ("hit@1", "xa", "ab", 0),
        ("RPREC", "axb", "ab", 1 / 2),
        ("RPREC", "a", "abc", 1 / 3),
        # Two are predicted, not five: 2 · 1 / (2 + 1), and 1 / 2.
        ("F1@5", "xa", "a", 2 / 3),
        ("setP@5", "xa", "a", 1 / 2),
        ("setP@5", "", "a", 0),
        ("F1", "", "a", 0),
        ("R", "xyzab", "abc", 2 / 3),
        ("P@5", "aaxa", "a", 1 / 5),
    ],
)
def test_other_metrics_of_documents(name: str, ranking: str, gold: str, expected: float) -> None:
    assert mean(name, [(ranking, gold)]) == pytest.approx(expected, abs=1e-12)


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
    perfect = [*sorted(gold), *ranking]
    for name in ("RP", "nDCG", "MRR", "hit"):
        assert METRICS[name](perfect, gold, k) == 1
        assert 0 <= (METRICS[name](ranking, gold, k) or 0) <= 1


ROWS = [("ab", "ac"), ("xa", "a"), ("bb", "b"), ("ax", "")]


def test_micro_and_macro_by_hand() -> None:
    scores = scored("microP@2, microR@2, microF1@2, macroP@2, macroR@2, macroF1@2", ROWS)
    # Predicted 2 + 2 + 1, gold 2 + 1 + 1, both 1 + 1 + 1; the last document has no gold.
    assert scores["microP@2"].mean == pytest.approx(3 / 5)
    assert scores["microR@2"].mean == pytest.approx(3 / 4)
    assert scores["microF1@2"].mean == pytest.approx(6 / 9)
    # a: 2 of 2 predicted, 2 of 2 gold; b: 1 of 2, 1 of 1; c: 0 of 0, 0 of 1. x is never gold.
    assert scores["macroP@2"].mean == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert scores["macroR@2"].mean == pytest.approx((1 + 1 + 0) / 3)
    assert scores["macroF1@2"].mean == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert {(s.documents, s.without_gold) for s in scores.values()} == {(3, 1)}
    assert scores["microF1@2"].low is not None
    assert (scores["macroF1@2"].low, scores["macroF1@2"].high) == (None, None)


def test_coverage_by_hand() -> None:
    assert mean("coverage@1", ROWS) == pytest.approx(2 / 3)
    # b is predicted in one document and gold in another: it has not been found.
    assert mean("coverage@2", [("b", "a"), ("a", "b")]) == 0
    assert mean("coverage@2", [("b", "")]) is None


def test_a_threshold_takes_what_is_strictly_above() -> None:
    scorer = Scorer(parse_specs("microF1>0.5, macroF1>0.5, F1>0.5, setP>.5, R>1"))
    # The repeated a has the score of its first place; 0.5 itself is not above.
    scorer.add("abac", [0.9, 0.5, 0.1, 0.7], "ab")
    scores = {name: score.mean for name, score in scorer.result().items()}
    assert scores == pytest.approx(
        {"microF1>0.5": 0.5, "macroF1>0.5": 0.5, "F1>0.5": 0.5, "setP>0.5": 0.5, "R>1": 0}
    )
    with pytest.raises(ConfigurationError, match="needs the scores"):
        scorer.add("ab", None, "a")
    with pytest.raises(ConfigurationError, match="2 labels were given with 1 scores"):
        scorer.add("ab", [0.3], "a")


def test_propensity_scores_by_hand() -> None:
    counts = {"a": 100, "b": 1}
    scale = (math.log(1000) - 1) * 2.5**0.55
    a, b, c = (1 + scale * (n + 1.5) ** -0.55 for n in (100, 1, 0))
    weights = Propensities(counts, 1000)
    assert [weights.inverse(x) for x in "abc"] == pytest.approx([a, b, c])
    rows = [("axb", "abc"), ("xa", "a"), ("c", ""), ("", "b")]
    training: dict[str, object] = {"training_counts": counts, "n_training": 1000}
    # Best: c and b of the first, a of the second, b of the last.
    found = mean("PSP@2", rows, **training)
    assert found == pytest.approx((a + a) / (c + b + a + b))
    # The ideal without propensities is 1 + D2 of the first, 1 of the others.
    found = mean("PSnDCG@2", rows, **training)
    best = (c + b * D2) / (1 + D2) + a + b
    assert found == pytest.approx((a / (1 + D2) + a * D2) / best)
    perfect = [("cba", "abc"), ("a", "a")]
    assert mean("PSP@2", perfect, **training) == pytest.approx(1)
    assert mean("PSnDCG@2", perfect, **training) == pytest.approx(1)


def test_propensities_need_training_counts() -> None:
    with pytest.raises(ConfigurationError, match="PSP@5 needs the label counts"):
        Scorer(parse_specs("PSP@5"))
    with pytest.raises(ConfigurationError, match="3 training documents or more, not 0"):
        Scorer(parse_specs("PSP@5"), {"a": 0})
    with pytest.raises(ConfigurationError, match="'a' has a count of 9 in 5"):
        Scorer(parse_specs("PSP@5"), {"a": 9}, 5)


def test_labels_and_bands_by_hand() -> None:
    scorer = Scorer([], labels_at=Cut(2))
    for ranking, gold in ROWS:
        scorer.add(ranking, None, gold)
    rows = dict(scorer.labels.items())
    assert rows == {"a": (2, 2, 2), "b": (1, 2, 1), "c": (1, 0, 0), "x": (0, 1, 0)}
    assert (rows["b"].precision, rows["b"].recall, rows["b"].f1) == (0.5, 1, 2 / 3)
    assert (rows["c"].precision, rows["c"].recall, rows["c"].f1) == (None, 0, 0)
    assert (rows["x"].precision, rows["x"].recall, rows["x"].f1) == (0, None, 0)
    assert Counts(0, 0, 0).f1 is None
    bands = scorer.labels.bands({"a": 6, "b": 5, "c": 1})
    assert list(bands) == ["unseen", "rare", "seen"]
    assert (bands["seen"].labels, bands["seen"].counts, bands["seen"].macro_f1) == (1, (2, 2, 2), 1)
    assert (bands["rare"].labels, bands["rare"].counts) == (2, (2, 2, 1))
    assert bands["rare"].macro_f1 == pytest.approx(1 / 3)
    assert bands["unseen"].macro_f1 is None
    assert (bands["unseen"].labels, bands["unseen"].counts) == (0, (0, 1, 0))
    assert Scorer([], labels_at=Cut(1)).labels.bands({})["rare"].counts == (0, 0, 0)
    with pytest.raises(ConfigurationError, match="labels_at"):
        _ = Scorer([]).labels


def test_names() -> None:
    text = "RP@5, ndcg@10, MRR, mrr@3, microF1@5, macrof1>0.25, F1>1, psndcg@5, coverage@50"
    names = [spec.name for spec in parse_specs(text)]
    assert names == [
        *("RP@5", "nDCG@10", "MRR", "MRR@3", "microF1@5", "macroF1>0.25", "F1>1", "PSnDCG@5"),
        "coverage@50",
    ]
    assert [spec.k for spec in parse_specs("RP@5, MRR, F1>0.5")] == [5, None, None]
    assert parse_specs(text) == parse_specs(", ".join(names))
    assert parse_metrics("ndcg@3,MRR@2,hit@1,F1@4") == [
        ("nDCG", 3),
        ("MRR", 2),
        ("hit", 1),
        ("F1", 4),
    ]


def test_annifs_names() -> None:
    text = "Precision (doc avg), F1_score_doc_avg, Recall (microavg), Precision@3, NDCG@10, F1@5"
    assert [spec.name for spec in parse_specs(text)] == [
        *("setP", "F1", "microR", "setP@3", "nDCG@10", "F1@5"),
    ]
    for name, family in ANNIF_NAMES.items():
        assert parse_specs(name)[0].metric == family
    # Its average over all subjects counts those that never occur.
    with pytest.raises(ConfigurationError, match="unknown metric"):
        parse_specs("F1_score_subj_avg")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nDGC@5", r"unknown metric 'nDGC@5' \(did you mean nDCG@5\?\): known are RP@K, P@K"),
        ("micro-F1@5", r"did you mean microF1@5\?"),
        ("RP", "unknown metric 'RP': it is written RP@5"),
        ("RPREC@5", "unknown metric 'RPREC@5': it is written RPREC$"),
        ("nDCG>0.5", "it is written nDCG@5 or nDCG$"),
        ("R@0", "after @ comes a whole number from 1"),
        ("R>", "after > a number"),
        ("", "unknown metric ''"),
        ("RP@5,", "unknown metric ''"),
        ("zzz", r"known are .*F1\[@K\|>T\]"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_specs(name)


@pytest.mark.parametrize("name", ["MRR", "F1>0.5", "RPREC", "setP", "coverage@5", *CORPUS_METRICS])
def test_pairs_are_metrics_of_a_document_at_k(name: str) -> None:
    with pytest.raises(ConfigurationError, match="unknown metric"):
        parse_metrics(name)


def test_the_scorer_keeps_documents_in_order_and_names_once() -> None:
    scorer = Scorer(parse_specs("RP@1, microF1@1, RP@1, nDCG"))
    for ranking, gold in ROWS:
        scorer.add(ranking, None, gold)
    assert list(scorer.result()) == ["RP@1", "microF1@1", "nDCG"]
    assert scorer.result() == scorer.result(seed=0)
    scores = scorer.document_scores()
    assert list(scores) == ["RP@1", "nDCG"]
    np.testing.assert_array_equal(scores["RP@1"], [1, 0, 1, np.nan])
    assert mean_score(scores["RP@1"]) == scorer.result()["RP@1"]


def test_without_documents() -> None:
    names = "RP@5, microF1@5, macroF1@5, coverage@5"
    assert set(scored(names, []).values()) == {Score(None, None, None, 0, 0)}
    assert set(scored(names, [("a", "")]).values()) == {Score(None, None, None, 0, 1)}


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


@pytest.mark.parametrize("n", [7, 65, 1333])
def test_blocks_draw_what_one_resample_at_a_time_draws(n: int) -> None:
    values = np.random.default_rng(n).random(n)
    draw = np.random.default_rng(3)
    means = [values[draw.integers(n, size=n)].mean() for _ in range(2000)]
    score = mean_score(values, seed=3)
    assert (score.low, score.high) == tuple(np.percentile(means, [2.5, 97.5]))


@pytest.mark.parametrize("ratio", [False, True])
def test_many_documents_have_the_interval_that_the_bootstrap_comes_to(
    ratio: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = np.random.default_rng(0)
    below = draw.integers(1, 9, 12_000).astype(np.float64)
    above = draw.binomial(below.astype(int), 0.3).astype(np.float64)

    def score() -> Score:
        return ratio_score(above, below) if ratio else mean_score(above / below)

    normal = score()
    monkeypatch.setattr("irr.metrics.intervals.NORMAL_ABOVE", 20_000)
    bootstrap = score()
    assert normal.mean == bootstrap.mean
    assert None not in (normal.low, normal.high, bootstrap.low, bootstrap.high)
    width = bootstrap.high - bootstrap.low  # type: ignore[operator]
    assert normal.low == pytest.approx(bootstrap.low, abs=0.05 * width)
    assert normal.high == pytest.approx(bootstrap.high, abs=0.05 * width)


def test_normal_intervals_stay_within_the_values() -> None:
    scores = np.zeros(20_000)
    scores[0] = 1
    assert mean_score(scores).low == 0
    assert mean_score(np.full(20_000, 0.5)) == Score(0.5, 0.5, 0.5, 20_000, 0)
    assert ratio_score(np.zeros(20_000), np.zeros(20_000)) == Score(0, 0, 0, 20_000, 0)


def test_interval_of_equal_scores_is_a_point() -> None:
    assert mean_score([0.5] * 7) == Score(0.5, 0.5, 0.5, 7, 0)
    with pytest.raises(ConfigurationError, match="resamples"):
        mean_score([0.5], resamples=0)


def test_ratios() -> None:
    score = ratio_score([1, None, 2], [2, None, 8])
    assert (score.mean, score.documents, score.without_gold) == (0.3, 2, 1)
    # The two documents alone have ratios 1/2 and 1/4.
    assert (score.low, score.high) == (0.25, 0.5)
    assert ratio_score([0], [0]).mean == 0


def test_paired_differences() -> None:
    score = paired_difference([0.5, None, 1.0, 0.75], [0.25, None, 0.75, 0.5])
    assert score == Score(0.25, 0.25, 0.25, 3, 1)
    draw = np.random.default_rng(1)
    first, second = draw.random(300), draw.random(300)
    score = paired_difference(first, second)
    error = statistics.pstdev((first - second).tolist()) / 300**0.5
    assert score.mean == pytest.approx((first - second).mean())
    assert score.low == pytest.approx(score.mean - 1.96 * error, abs=0.2 * error)  # type: ignore[operator]
    assert paired_difference([], []) == Score(None, None, None, 0, 0)
    with pytest.raises(ConfigurationError, match="1 scores cannot be paired with 2"):
        paired_difference([1.0], [1.0, 0.0])
    with pytest.raises(ConfigurationError, match="document 2 has a score on one side only"):
        paired_difference([1.0, None], [1.0, 0.0])

"""Every metric that ranx, ir-measures or scikit-learn have equals theirs on random cases.

1,000 documents with tied scores, repeated labels, repeated gold, empty gold, empty rankings and
rankings shorter than k. A ranking is a list: of equal scores the one that stands first comes
first, which the libraries are told by scores that descend.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from irr.metrics import METRICS, Scorer, judge, parse_specs

CASES = 1000
LABELS = [f"l{number:02}" for number in range(40)]
CUTS = (1, 2, 3, 5, 10, 50)
EXACT = 1e-9

Case = tuple[list[str], list[float], list[str]]


@cache
def cases() -> list[Case]:
    """(ranking, scores, gold) of random documents."""
    draw = random.Random(4)
    made: list[Case] = []
    for number in range(CASES):
        ranking = draw.choices(LABELS, k=draw.choice([0, 1, 3, 8, 20, 60]))
        scores = sorted((draw.randrange(5) / 4 for _ in ranking), reverse=True)
        gold = [] if number % 10 == 0 else draw.choices(LABELS, k=draw.randint(1, 12))
        made.append((ranking, scores, gold))
    return made


def with_gold() -> list[Case]:
    return [case for case in cases() if case[2]]


def mine(name: str) -> npt.NDArray[np.float64]:
    """Our score of each document with gold."""
    scorer = Scorer(parse_specs(name))
    for ranking, scores, gold in cases():
        scorer.add(ranking, scores, gold)
    (values,) = scorer.document_scores().values()
    assert np.isnan(values).sum() == CASES - len(with_gold()) == 100
    return values[~np.isnan(values)]


def corpus(name: str) -> float | None:
    scorer = Scorer(parse_specs(name))
    for ranking, scores, gold in cases():
        scorer.add(ranking, scores, gold)
    return scorer.result()[parse_specs(name)[0].name].mean


def test_the_cases_are_hard() -> None:
    rows = cases()
    assert sum(len(set(ranking)) < len(ranking) for ranking, _, _ in rows) > 300
    assert sum(len(set(scores)) < len(scores) for _, scores, _ in rows) > 300
    assert sum(len(set(gold)) < len(gold) for _, _, gold in rows) > 200
    assert sum(not ranking for ranking, _, _ in rows) > 100


@cache
def trec() -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Judgements and runs; a label that is never gold ends each ranking, so that none is empty."""
    qrels, run = {}, {}
    for number, (ranking, _, gold) in enumerate(with_gold()):
        distinct = [*dict.fromkeys(ranking), "never gold"]
        qrels[f"d{number:03}"] = dict.fromkeys(gold, 1)
        run[f"d{number:03}"] = {label: float(len(distinct) - i) for i, label in enumerate(distinct)}
    return qrels, run


@cache
def ranx_score(name: str) -> npt.NDArray[np.float64]:
    ranx = pytest.importorskip("ranx", reason="not in the dev extra: pip install ranx")
    qrels, run = (kind(rows) for kind, rows in zip((ranx.Qrels, ranx.Run), trec(), strict=True))
    return np.asarray(ranx.evaluate(qrels, run, name, return_mean=False))


@pytest.mark.parametrize("k", CUTS)
@pytest.mark.parametrize(
    ("name", "theirs"),
    [("P", "precision"), ("R", "recall"), ("nDCG", "ndcg"), ("MRR", "mrr"), ("hit", "hit_rate")],
)
def test_at_k_like_ranx(name: str, theirs: str, k: int) -> None:
    expected = ranx_score(f"{theirs}@{k}")
    np.testing.assert_allclose(mine(f"{name}@{k}"), expected, rtol=0, atol=EXACT)
    direct = [METRICS[name](ranking, gold, k) for ranking, _, gold in with_gold()]
    np.testing.assert_allclose(np.array(direct, float), expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("name", "theirs"), [("nDCG", "ndcg"), ("MRR", "mrr"), ("RPREC", "r-precision")]
)
def test_whole_rankings_like_ranx(name: str, theirs: str) -> None:
    np.testing.assert_allclose(mine(name), ranx_score(theirs), rtol=0, atol=EXACT)


@pytest.mark.parametrize("k", CUTS)
def test_rank_precision_and_f1_like_ranx(k: int) -> None:
    gold = np.array([len(set(gold)) for _, _, gold in with_gold()])
    hits = ranx_score(f"hits@{k}")
    np.testing.assert_allclose(mine(f"RP@{k}"), hits / np.minimum(k, gold), rtol=0, atol=EXACT)
    # ranx divides by k where fewer are predicted.
    full = np.array([len(set(ranking)) >= k for ranking, _, _ in with_gold()])
    expected = ranx_score(f"f1@{k}")
    np.testing.assert_allclose(mine(f"F1@{k}")[full], expected[full], rtol=0, atol=EXACT)


IR_MEASURES = ["P@{}", "R@{}", "nDCG@{}", "Success@{}"]


def test_like_ir_measures() -> None:
    """trec_eval, by way of ir-measures and pytrec-eval."""
    ir_measures: Any = pytest.importorskip("ir_measures", reason="ir-measures is in the dev extra")
    ours = {"Success": "hit", "RR": "MRR", "Rprec": "RPREC"}
    names = [name.format(k) for k in CUTS for name in IR_MEASURES] + ["nDCG", "RR", "Rprec"]
    evaluator = ir_measures.evaluator([ir_measures.parse_measure(n) for n in names], trec()[0])
    expected: dict[str, dict[str, float]] = {name: {} for name in names}
    for row in evaluator.iter_calc(trec()[1]):
        expected[str(row.measure)][row.query_id] = row.value
    for name, values in expected.items():
        family, at, k = name.partition("@")
        theirs = [values[query] for query in trec()[0]]
        found = mine(ours.get(family, family) + at + k)
        np.testing.assert_allclose(found, theirs, rtol=0, atol=EXACT, err_msg=name)
    gold = np.array([len(set(gold)) for _, _, gold in with_gold()])
    for k in CUTS:
        hits = np.array([expected[f"P@{k}"][query] for query in trec()[0]]) * k
        expected_rp = hits / np.minimum(k, gold)
        np.testing.assert_allclose(mine(f"RP@{k}"), expected_rp, rtol=0, atol=EXACT)


Matrix = npt.NDArray[np.bool_]


def matrices(cut: str) -> tuple[Matrix, Matrix]:
    """(documents with gold, labels) of gold and of predictions at a cut such as "@5" or ">0.5"."""
    gold = np.zeros((len(with_gold()), len(LABELS)), bool)
    predicted = np.zeros_like(gold)
    for row, (ranking, scores, wanted) in enumerate(with_gold()):
        gold[row, [LABELS.index(label) for label in wanted]] = True
        first: dict[str, float] = {}
        for label, score in zip(ranking, scores, strict=True):
            first.setdefault(label, score)
        chosen = list(first)
        if cut[:1] == "@":
            chosen = chosen[: int(cut[1:])]
        if cut[:1] == ">":
            chosen = [label for label in chosen if first[label] > float(cut[1:])]
        predicted[row, [LABELS.index(label) for label in chosen]] = True
    return gold, predicted


def learned(kind: str) -> Callable[..., Any]:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with the encoders")
    names = {"P": "precision_score", "R": "recall_score", "F1": "f1_score"}
    return getattr(metrics, names[kind])  # type: ignore[no-any-return]


ALL_CUTS = ["", "@1", "@3", "@5", "@10", ">0", ">0.25", ">0.5", ">0.75", ">1"]


@pytest.mark.parametrize("cut", ALL_CUTS)
@pytest.mark.parametrize("kind", ["P", "R", "F1"])
def test_averages_like_scikit_learn(kind: str, cut: str) -> None:
    gold, predicted = matrices(cut)
    score = learned(kind)
    micro = score(gold, predicted, average="micro", zero_division=0)
    assert corpus(f"micro{kind}{cut}") == pytest.approx(micro, abs=EXACT)
    wanted = np.flatnonzero(gold.any(axis=0))
    macro = score(gold, predicted, labels=wanted, average="macro", zero_division=0)
    assert corpus(f"macro{kind}{cut}") == pytest.approx(macro, abs=EXACT)
    by_document = score(gold, predicted, average="samples", zero_division=0)
    name = {"P": "setP"}.get(kind, kind) + cut
    assert mine(name).mean() == pytest.approx(by_document, abs=EXACT)


def test_macro_leaves_out_labels_that_are_never_gold() -> None:
    """What `labels=` is for above: all labels but one are gold somewhere, that one is predicted."""
    scorer = Scorer(parse_specs("macroF1@5"))
    rows = [(ranking, [g for g in gold if g != "l07"]) for ranking, _, gold in cases()]
    for ranking, gold in rows:
        scorer.add(ranking, None, gold)
    kept = [(ranking, gold) for ranking, gold in rows if gold]
    truth = np.array([[label in gold for label in LABELS] for _, gold in kept])
    guess = np.array([[label in judge(r, ()).labels[:5] for label in LABELS] for r, _ in kept])
    assert guess[:, 7].any() and not truth[:, 7].any()
    wanted = [number for number in range(len(LABELS)) if number != 7]
    expected = learned("F1")(truth, guess, labels=wanted, average="macro", zero_division=0)
    assert scorer.result()["macroF1@5"].mean == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("name", "kind", "average"),
    [
        ("Precision_doc_avg", "P", "samples"),
        ("Recall_doc_avg", "R", "samples"),
        ("F1_score_doc_avg", "F1", "samples"),
        ("Precision (microavg)", "P", "micro"),
        ("Recall (microavg)", "R", "micro"),
        ("F1 score (microavg)", "F1", "micro"),
        ("Recall (weighted subj avg)", "R", "weighted"),
        ("Precision@1", "P", "samples"),
        ("Precision@3", "P", "samples"),
        ("Precision@5", "P", "samples"),
        ("F1@5", "F1", "samples"),
    ],
)
def test_annifs_names_mean_what_annif_computes(name: str, kind: str, average: str) -> None:
    """Annif's evaluation calls scikit-learn with these averages (annif/eval.py)."""
    gold, predicted = matrices(name[name.index("@") :] if "@" in name else "")
    expected = learned(kind)(gold, predicted, average=average, zero_division=0)
    assert corpus(name) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize("k", CUTS)
def test_propensity_scores_like_dense_matrices(k: int) -> None:
    """pyxclib's computation on dense arrays: gains of rankings over gains of ideal rankings."""
    draw = np.random.default_rng(4)
    counts = {label: int(draw.integers(0, 300)) for label in LABELS[5:]}
    freqs = np.array([counts.get(label, 0) for label in LABELS], float)
    inverse = 1 + (np.log(500) - 1) * np.power(2.5, 0.55) * np.power(freqs + 1.5, -0.55)
    scorer = Scorer(parse_specs(f"PSP@{k}, PSnDCG@{k}"), counts, 500)
    discounts = 1 / np.log2(np.arange(len(LABELS)) + 2)
    sums = np.zeros((2, 2))
    for ranking, _, wanted in cases():
        scorer.add(ranking, None, wanted)
        gold = np.isin(LABELS, wanted)
        order = [LABELS.index(label) for label in dict.fromkeys(ranking)]
        found = np.pad((inverse * gold)[order], (0, 50))[: min(k, len(LABELS))]
        best = np.sort(inverse * gold)[::-1][:k]
        places = discounts[: len(best)]
        ideal = discounts[: min(k, gold.sum())].sum() or 1
        sums[0] += found.sum(), best.sum()
        sums[1] += (found * places).sum() / ideal, (best * places).sum() / ideal
    scores = [score.mean for score in scorer.result().values()]
    np.testing.assert_allclose(np.array(scores, float), sums[:, 0] / sums[:, 1], rtol=0, atol=EXACT)

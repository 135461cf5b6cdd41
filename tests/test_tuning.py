"""Tuning of Retrieve: it takes up what clearly helps, and tries only what could matter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from irr.compile.examples import Example
from irr.compile.retrieval import Change, RetrievalTuner, changes
from irr.index import LabelIndex
from irr.labels import LabelSet
from irr.metrics import METRICS
from irr.phrases import phrases
from irr.retrieve import Retriever, RetrieveSettings
from irr.types import Document, Label

pytest.importorskip("bm25s")

LABELS = 60
EXAMPLES = 30


class Blind:
    """Vectors that say nothing about their texts: only wording finds a label."""

    name = "blind"
    fingerprint = "blind"
    dimensions = 16

    def encode(
        self, texts: Sequence[str], *, progress: object = None, **_: object
    ) -> NDArray[np.float32]:
        rows = [np.random.default_rng(list(text.encode())).standard_normal(16) for text in texts]
        return np.array([row / np.linalg.norm(row) for row in rows], np.float32)


def word(number: int) -> str:
    return "".join(np.random.default_rng(number).choice(list("bdfgklmnprstvz"), 9))


@pytest.fixture
def retriever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retriever:
    monkeypatch.setenv("IRR_CACHE", str(tmp_path))
    labels = LabelSet(Label(str(number), word(number)) for number in range(LABELS))
    index = LabelIndex.build(labels, Blind())
    return Retriever(Blind(), index, RetrieveSettings(candidates=10), labels=labels)


def examples(write: Callable[[str], str]) -> list[Example]:
    texts = [f"Something with {write(word(number))} in it" for number in range(EXAMPLES)]
    return [
        Example(Document(str(number), text, (str(number),)), (number,), phrases(text))
        for number, text in enumerate(texts)
    ]


def inflected(name: str) -> str:
    return f"{name}ing"


def tuner(retriever: Retriever, rows: Sequence[Example]) -> RetrievalTuner:
    def score(found: Sequence[int], gold: Sequence[int]) -> float:
        return METRICS["RP"](found, gold, 5) or 0.0

    return RetrievalTuner(retriever, rows, [()] * len(rows), score)


TRIED: list[Change] = [
    {"hub_weight": 0.0},
    {"lexical_weight": 0.3},
    {"exact_weight": 0.2},
    {"lexical_weight": 3.0},
    {"exact_weight": 3.0},
]


def test_inflected_names_call_for_lexical_matching(retriever: Retriever) -> None:
    tuning = tuner(retriever, examples(inflected))
    chosen, tuned = tuning.tune(TRIED, folds=5, seed=0)
    assert chosen.lexical_weight == 3.0
    assert tuned.best == 1 and tuned.low > 0.5
    assert tuning.scores(chosen).mean() > tuning.scores(retriever.settings).mean() + 0.5


def test_names_in_the_texts_call_for_exact_matching(retriever: Retriever) -> None:
    tried = [change for change in TRIED if "lexical_weight" not in change]
    chosen, tuned = tuner(retriever, examples(str.upper)).tune(tried, folds=5, seed=0)
    assert chosen.exact_weight == 3.0 and tuned.low > 0.5


def test_what_helps_alone_is_tried_together(retriever: Retriever) -> None:
    rows = [*examples(inflected)[:15], *examples(str.upper)[15:]]
    tried: list[Change] = [{"lexical_weight": 0.25}, {"exact_weight": 0.5}]
    tuning = tuner(retriever, rows)
    chosen, _ = tuning.tune(tried, folds=5, seed=0)
    assert (chosen.lexical_weight, chosen.exact_weight) == (0.25, 0.5)
    alone = [RetrieveSettings(candidates=10, **change) for change in tried]  # type: ignore[arg-type]
    assert tuning.scores(chosen).mean() > max(tuning.scores(each).mean() for each in alone)


def test_what_does_not_help_is_left_alone(retriever: Retriever) -> None:
    # The labels of the texts are others than those whose names they hold.
    rows = [
        Example(row.document, ((row.gold[0] + 7) % LABELS,), row.phrases)
        for row in examples(str.upper)
    ]
    chosen, tuned = tuner(retriever, rows).tune(TRIED, folds=5, seed=0)
    assert chosen == retriever.settings
    assert tuned.best == 0


def test_each_setting_is_scored_once_on_each_example(retriever: Retriever) -> None:
    asked: list[tuple[int, ...]] = []

    def score(found: Sequence[int], gold: Sequence[int]) -> float:
        asked.append(tuple(gold))
        return 0.5

    rows = examples(str.upper)
    RetrievalTuner(retriever, rows, [()] * len(rows), score).tune(TRIED, folds=5, seed=0)
    assert len(asked) == (len(TRIED) + 1) * len(rows)


def test_scores_are_those_of_the_settings_alone(retriever: Retriever) -> None:
    found: list[list[int]] = []
    rows = examples(inflected)
    tuning = RetrievalTuner(
        retriever, rows, [("a guess",)] * len(rows), lambda f, g: float(found.append([*f]) or 0)
    )
    settings = RetrieveSettings(candidates=10, lexical_weight=0.3, exact_weight=0.2)
    tuning.scores(settings)
    alone = retriever.with_settings(settings)
    expected = [[c.position for c in alone.retrieve(x.phrases, ["a guess"])] for x in rows]
    assert found == expected


def test_only_what_could_matter_is_tried(retriever: Retriever) -> None:
    def fields(of: Retriever, *, guesses: bool = False) -> set[str]:
        return {name for change in changes(of, guesses=guesses) for name in change}

    assert {"lexical_weight", "exact_weight"} <= fields(retriever)
    absent = {"phrase_weight", "prior_strength", "alternative_handicap", "description_handicap"}
    assert not absent & fields(retriever)
    assert "phrase_weight" in fields(retriever, guesses=True)
    rich = LabelSet([Label("1", "a", ("b",), "what a is"), Label("2", "c")])
    described = Retriever(Blind(), LabelIndex.build(rich, Blind()), labels=rich, priors=[0, 1])
    assert absent - {"phrase_weight"} <= fields(described)

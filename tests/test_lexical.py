"""Lexical matching against BM25 by hand, and its place in the cache."""

from __future__ import annotations

import logging
import math
from collections import Counter
from pathlib import Path

import pytest

import irr.lexical as lexical_module
from irr.errors import ConfigurationError
from irr.labels import LabelSet
from irr.lexical import LexicalIndex, grams
from irr.types import Label

pytest.importorskip("bm25s")

LABELS = LabelSet(
    [
        Label("1", "use databases", ("data bases",)),
        Label("2", "programming", description="Writing programs for databases."),
        Label("3", "programmer"),
        Label("4", "云计算"),
        Label("5", "the"),
    ]
)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LexicalIndex:
    monkeypatch.setenv("IRR_CACHE", str(tmp_path))
    return LexicalIndex.open(LABELS)


def by_hand(text: str) -> list[float]:
    """BM25 as Lucene writes it, of each part of a word once."""
    rows = [
        Counter(grams("\n".join((label.name, *label.alternative_names, label.description))))
        for label in LABELS
    ]
    mean = sum(map(Counter.total, rows)) / len(rows)
    scores = [0.0] * len(rows)
    for gram in set(grams(text)):
        bearers = sum(gram in row for row in rows)
        idf = math.log(1 + (len(rows) - bearers + 0.5) / (bearers + 0.5))
        for place, row in enumerate(rows):
            times, length = row[gram], row.total()
            scores[place] += idf * times / (times + 1.2 * (0.25 + 0.75 * length / mean))
    highest = max(scores)
    return [score / highest if highest else 0.0 for score in scores]


@pytest.mark.parametrize(
    "text", ["a database programmer", "Programmierer", "在云计算中", "USE", "nothing, xyz", ""]
)
def test_scores_are_those_of_bm25(index: LexicalIndex, text: str) -> None:
    assert index.scores(text).tolist() == pytest.approx(by_hand(text), abs=1e-6)


def test_inflected_and_compound_words_are_found(index: LexicalIndex) -> None:
    assert index.scores("Datenbankprogrammierer")[2] > 0.5
    assert index.scores("reprogrammed")[2] > 0.5


def test_function_words_find_nothing(index: LexicalIndex) -> None:
    assert not index.scores("the").any()


def test_the_cached_index_scores_alike(
    index: LexicalIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical_module, "_build", None)
    again = LexicalIndex.open(LABELS)
    assert again.scores("database programs").tolist() == index.scores("database programs").tolist()


@pytest.mark.parametrize("content", [b"", b"{}", b"null", b"\0" * 200])
@pytest.mark.parametrize("file", ["params.index.json", "data.csc.index.npy", "irr.json"])
def test_a_damaged_index_is_built_again(
    index: LexicalIndex, tmp_path: Path, file: str, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (damaged,) = tmp_path.glob(f"lexical/*/{file}")
    damaged.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        again = LexicalIndex.open(LABELS)
    assert again.scores("database").tolist() == index.scores("database").tolist()
    assert "built again" in caplog.text


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lexical_module, "is_installed", lambda: False)
    with pytest.raises(ConfigurationError, match=r'pip install "irr\[lexical\]"'):
        LexicalIndex.open(LABELS)


def test_labels_without_any_word_are_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRR_CACHE", str(tmp_path))
    assert not LexicalIndex.open(LabelSet([Label("1", "…"), Label("2", "the")])).scores("a").any()

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irr.chunks import join_passages, shorten, split_text


@given(st.text(max_size=300), st.integers(1, 50))
def test_chunks_joined_are_the_text(text: str, size: int) -> None:
    chunks = split_text(text, size)
    assert "".join(chunks) == text
    assert max(map(len, chunks)) <= size


@pytest.mark.parametrize(
    ("text", "size", "chunks"),
    [
        ("", 5, [""]),
        ("short", 5, ["short"]),
        ("a paragraph\n\nand another one", 20, ["a paragraph\n\n", "and another one"]),
        ("One two. Three four, five.", 14, ["One two. ", "Three four, ", "five."]),
        ("没有空格的句子。第二个句子。", 10, ["没有空格的句子。", "第二个句子。"]),
        ("unbreakable", 4, ["unbr", "eaka", "ble"]),
    ],
)
def test_texts_are_cut_at_the_best_break(text: str, size: int, chunks: list[str]) -> None:
    assert split_text(text, size) == chunks


def test_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        split_text("x", 0)


@pytest.mark.parametrize(
    ("text", "size", "start"),
    [
        ("Cuts bread. And more of it.", 100, "Cuts bread. And more of it."),
        ("Cuts bread. And more of it.", 16, "Cuts bread."),
        ("Cuts bread. And more of it.", 11, "Cuts bread."),
        ("Cuts bread. And more of it.", 10, "Cuts…"),  # a word: the sentence does not fit
        ("No. This one is far too long.", 20, "No. This one is far…"),  # a sentence, but too short
        ("没有空格的句子。第二个句子。", 10, "没有空格的句子。"),
        ("unbreakable", 4, "unbr…"),
        ("unbreakable", 0, "…"),
    ],
)
def test_a_text_is_shortened_to_sentences_or_words(text: str, size: int, start: str) -> None:
    assert shorten(text, size) == start


def test_candidates_take_turns_in_choosing_passages() -> None:
    passages = ["aaaa ", "bbbb ", "cccc ", "dddd ", "eeee"]
    scores = np.array([[0, 0, 9, 1, 0], [9, 0, 1, 0, 0]], np.float32)
    assert join_passages(passages, scores, 10) == "aaaa\n[…]\ncccc\n[…]"
    assert join_passages(passages, scores, 15) == "aaaa\n[…]\ncccc dddd\n[…]"
    assert join_passages(passages, scores, 100) == "aaaa bbbb cccc dddd eeee"
    assert join_passages(passages, scores, 1) == "[…]\ncccc\n[…]"

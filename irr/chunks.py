"""Long texts: into chunks for Infer, and into passages or a beginning for Rank.

Sizes are counted in characters: about four of them make a token of English, and no tokenizer of
the LM's is at hand. Works for texts without spaces; every character of the text is in a chunk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

__all__ = ["join_passages", "shorten", "split_text"]

# Where a text is best cut, from the best on: paragraphs, lines, sentences (also Chinese and
# Japanese ones), clauses, words.
_BREAKS = [
    re.compile(pattern)
    for pattern in (
        r"\n\s*\n",
        r"\n",
        r"(?<=[.!?])\s+|(?<=[。！？])",
        r"(?<=[,;:，；：、])\s*",
        r"\s+",
    )
]
ELLIPSIS = "\n[…]\n"
_SENTENCES, _WORDS = _BREAKS[2], _BREAKS[4]


def split_text(text: str, size: int) -> list[str]:
    """Cut a text into chunks of at most `size` characters, at the best break in reach.

    A cut is looked for in the second half of each chunk. Joined, the chunks are the text.

    >>> split_text("One two. Three four. Five.", 12)
    ['One two. ', 'Three four. ', 'Five.']
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    chunks = []
    start = 0
    while len(text) - start > size:
        end = _best_break(text, start + size // 2, start + size)
        chunks.append(text[start:end])
        start = end
    chunks.append(text[start:])
    return chunks


def _best_break(text: str, first: int, last: int) -> int:
    window = text[first:last]
    for pattern in _BREAKS:
        ends = [match.end() for match in pattern.finditer(window)]
        if ends and first + ends[-1] > 0:
            return first + ends[-1]
    return last


def shorten(text: str, size: int) -> str:
    """The beginning of a text, at most `size` characters and an ellipsis.

    It ends with a sentence where one ends in its second half, else with a word where one ends
    behind its first quarter (else there are hardly any spaces); an ellipsis says that it does not
    end with a sentence.

    >>> shorten("A tool. It cuts bread and cheese.", 12), shorten("It cuts bread.", 10)
    ('A tool.', 'It cuts…')
    """
    if len(text) <= size:
        return text
    for pattern, mark, least in ((_SENTENCES, "", size // 2), (_WORDS, "…", size // 4)):
        # One character more is looked at: the space behind what just fits.
        breaks = [match.start() for match in pattern.finditer(text[: size + 1])]
        fitting = [place for place in breaks if least < place <= size]
        if fitting:
            return text[: fitting[-1]] + mark
    return text[:size] + "…"


def join_passages(passages: Sequence[str], scores: np.ndarray, budget: int) -> str:
    """The passages that matter for the candidates, in the order of the text.

    Candidates take turns, the best first: each adds the passage nearest to it, until `budget`
    characters are full. Where something is left out there is an ellipsis.

    Args:
        passages: consecutive pieces of one text.
        scores: (candidates, passages) float, higher is nearer; candidates best first.
        budget: the most characters, ellipses not counted; at least one passage is kept.
    """
    chosen: dict[int, None] = {}
    used = 0
    order = np.argsort(-scores, axis=1, kind="stable")
    for column in range(len(passages)):
        for nearest in order[:, column].tolist():
            if nearest in chosen:
                continue
            if chosen and used + len(passages[nearest]) > budget:
                return _joined(passages, sorted(chosen))
            chosen[nearest] = None
            used += len(passages[nearest])
    return _joined(passages, sorted(chosen))


def _joined(passages: Sequence[str], chosen: Sequence[int]) -> str:
    text = ""
    previous = -1
    for position in chosen:
        if position != previous + 1:
            text = text.rstrip() + ELLIPSIS
        text += passages[position]
        previous = position
    if previous != len(passages) - 1:
        text = text.rstrip() + ELLIPSIS
    return text.strip()

"""Rank: a text and its candidates → the candidates in a better order, those that apply first.

The last stage of Infer–Retrieve–Rank. The LM sees numbered candidates and answers with numbers,
so no label outside the label set can come out: the result is always a permutation of the
candidates. Those the LM does not pick follow in the order of retrieval. It may answer that none
applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import dspy

from irr.adapter import rank_signature
from irr.ask import Answer, Steps, arun, run
from irr.chunks import shorten, split_text
from irr.demos import NearestDemos
from irr.errors import ConfigurationError, LMError, ReplyError
from irr.lm import ContextTooLongError
from irr.prompts import Prompts
from irr.replies import resolve_picks
from irr.types import Label

__all__ = ["DEMO_DESCRIPTIONS_CHARS", "Rank", "Ranked", "fuse", "show_candidates"]

WINDOW = 100
# Characters of all descriptions in a window: each of 100 labels has room for 160. Beside them, 100
# names, a text of 6,000 characters and the answer fit 8,192 tokens, at four characters a token and
# without examples.
DESCRIPTIONS_CHARS = 16_000
# Of those in a demonstration: it shows how to answer, and there may be eight of them.
DEMO_DESCRIPTIONS_CHARS = 2_000
# A definition is in its first sentences; what follows is notes and examples.
_LONGEST_DESCRIPTION = 400
# Few different limits, so that a label is mostly shown the same, and is remembered.
_DESCRIPTION_STEP = 20
_SMALLEST_WINDOW = 10
_SHORTEST_TEXT = 500
_FUSION_OFFSET = 3


def show_candidates(labels: Sequence[Label], budget: int = DESCRIPTIONS_CHARS) -> list[str]:
    """How Rank's prompt shows labels side by side: names, and as much of descriptions as fits.

    Descriptions have `budget` characters together and none more than 400. What is short leaves
    its room to the others, and all that do not fit are cut at the same length, at the end of a
    sentence or word.

    >>> show_candidates([Label("1", "SQL"), Label("2", "Rust", description="A language.")])
    ['SQL', 'Rust (A language.)']
    """
    limit = _limit([_described(label) for label in labels], budget)
    return [_shown(label.name, label.description, limit) for label in labels]


def _described(label: Label) -> int:
    """Characters of a label's description, at most."""
    return min(len(label.description), _LONGEST_DESCRIPTION)


def _limit(lengths: Sequence[int], budget: int) -> int:
    """The most characters for each, so that all keep within the budget."""
    if sum(lengths) <= budget:
        return _LONGEST_DESCRIPTION
    left = budget
    limit = 0
    for place, length in enumerate(sorted(lengths)):
        limit = left // (len(lengths) - place)
        if length > limit:
            break
        left -= length
    return limit // _DESCRIPTION_STEP * _DESCRIPTION_STEP


# At most 60 MB, where labels have long descriptions; of names alone 16 MB.
@lru_cache(maxsize=1 << 16)
def _shown(name: str, description: str, limit: int) -> str:
    name = " ".join(name.split())
    description = " ".join(description.split())
    if not description or not limit:
        return name
    return f"{name} ({shorten(description, limit)})"


def fuse(order: Sequence[int], weight: float, offset: float = _FUSION_OFFSET) -> list[int]:
    """Reciprocal rank fusion of Rank's order with retrieval's.

    Score of a candidate: 1/(offset + place in `order`) + weight/(offset + its own position),
    places from 1; ties go to Rank. A weight of 0 keeps `order`, a large one restores retrieval's.
    Source: Cormack et al. 2009, "Reciprocal Rank Fusion".

    >>> fuse([2, 0, 1], 0.0), fuse([2, 0, 1], 1.0), fuse([2, 0, 1], 100.0)
    ([2, 0, 1], [0, 2, 1], [0, 1, 2])
    """
    if weight == 0:
        return list(order)
    score = {
        position: 1 / (offset + place) + weight / (offset + position + 1)
        for place, position in enumerate(order, start=1)
    }
    return sorted(order, key=lambda position: -score[position])


class Ranked(NamedTuple):
    """What Rank gives, see `Rank`; `picked` is None where no reply could be read.

    `unread` holds the positions that were not picked because the reply about them could not be
    read: nobody knows whether they apply.
    """

    order: list[int]
    picked: int | None
    notes: list[str]
    unread: frozenset[int] = frozenset()


class Rank(dspy.Module):
    """Asks the LM which candidates apply.

    Calling it gives a `dspy.Prediction` with ``order`` (list of int, a permutation of the
    candidates' positions), ``picked`` (how many at its start the LM picked, None where its replies
    could not be read), ``notes`` and ``unread`` (frozenset of positions, see `Ranked`). More
    candidates than `window` are shown window by window, and the picks of all windows once more
    together, until they fit one window: what is picked there is picked. Behind it comes what was
    picked in windows only. The LM may answer that no candidate applies, in a window or in the
    end. A reply that cannot be read even at the third attempt leaves its candidates in the order
    that they had, and a note. `nearest`, where set, chooses the demonstrations of each document.

    Candidates that share a name should come told apart, see `irr.labels.LabelSet.distinct`: a
    reply that names one of several alike picks none.

    Raises:
        LMError: no answer came.
    """

    def __init__(self, prompts: Prompts, *, window: int = WINDOW) -> None:
        super().__init__()
        if window < 1:
            raise ConfigurationError(f"a window holds at least 1 candidate, not {window}")
        self.predict = dspy.Predict(rank_signature(prompts))
        self.window = window
        self.nearest: NearestDemos | None = None

    def forward(self, text: str, candidates: Sequence[Label]) -> dspy.Prediction:
        asked = self._questions(text, candidates)
        return dspy.Prediction(**run(self.predict, asked.steps(), asked.usable)._asdict())

    async def aforward(self, text: str, candidates: Sequence[Label]) -> dspy.Prediction:
        return dspy.Prediction(**(await self.ask(text, candidates))._asdict())

    async def ask(self, text: str, candidates: Sequence[Label]) -> Ranked:
        """Do what calling does, past DSPy's bookkeeping: the way of a million documents."""
        asked = self._questions(text, candidates)
        return await arun(self.predict, asked.steps(), asked.usable)

    def _questions(self, text: str, candidates: Sequence[Label]) -> _Questions:
        demos = self.nearest(text) if self.nearest is not None else None
        return _Questions(text, candidates, self.window, demos)


class _Questions:
    """One document's questions. Descriptions, windows and text shrink when a prompt is too long."""

    def __init__(
        self,
        text: str,
        candidates: Sequence[Label],
        window: int,
        demos: list[dict[str, Any]] | None,
    ) -> None:
        self.demos = {} if demos is None else {"demos": demos}
        self.text = text
        self.candidates = candidates
        self.window = window
        self.budget = DESCRIPTIONS_CHARS
        self.notes: list[str] = []
        self.near: list[int] = []
        self.unread: set[int] = set()
        self.names: dict[str, str] = {}

    def steps(self) -> Steps[Ranked]:
        everything = list(range(len(self.candidates)))
        picks = (yield from self._round(everything)) if everything else []
        order = list(dict.fromkeys([*(picks or ()), *self.near, *everything]))
        picked = None if picks is None else len(picks)
        unread = frozenset(everything if picks is None else self.unread.difference(picks))
        return Ranked(order, picked, list(dict.fromkeys(self.notes)), unread)

    def usable(self, question: dict[str, Any], picks: list[Any]) -> bool:
        """No pick at all is an answer; picks that are no candidates are not."""
        return self._resolved(picks, question["candidates"]) is not None

    def _round(self, positions: list[int]) -> Steps[list[int] | None]:
        """The picks among `positions`, best first; None where no reply could be read."""
        windows = _windows(positions, self.window)
        questions = [self._question(window) for window in windows]
        answers = yield questions
        if any(isinstance(answer, ContextTooLongError) for answer in answers):
            self._shrink(windows, answers)
            return (yield from self._round(positions))
        picks = [self._picks(*asked) for asked in zip(windows, questions, answers, strict=True)]
        self._note_unread(windows, answers)
        if len(windows) == 1:
            return picks[0]
        # The first picks of all windows come before the second picks: windows are no ranking.
        turns = chain(*zip_longest(*(own or () for own in picks)))
        pooled = [pick for pick in turns if pick is not None]
        if all(own is None for own in picks):
            return None
        if not 1 < len(pooled) < len(positions):
            return pooled
        # Rounds end, also where the LM picks nearly everything: each has half of the one before.
        again = pooled[: max(self.window, len(positions) // 2)]
        final = yield from self._round(sorted(again))
        if final is None:
            return pooled
        self.near += pooled if final else []
        return final

    def _question(self, window: Sequence[int]) -> dict[str, Any]:
        labels = [self.candidates[position] for position in window]
        shown = show_candidates(labels, self.budget)
        self.names |= zip(shown, (label.name for label in labels), strict=True)
        return {"text": self.text, "candidates": shown, **self.demos}

    def _picks(
        self, window: Sequence[int], question: dict[str, Any], answer: Answer
    ) -> list[int] | None:
        if isinstance(answer, ReplyError):
            return None
        if isinstance(answer, LMError):
            raise answer
        return [window[pick] for pick in self._resolved(answer, question["candidates"]) or ()]

    def _note_unread(self, windows: Sequence[Sequence[int]], answers: Sequence[Answer]) -> None:
        """Say which part of a round is missing, and remember its candidates."""
        failed = [place for place, answer in enumerate(answers) if isinstance(answer, ReplyError)]
        if not failed:
            return
        why = answers[failed[0]]
        unread = [position for place in failed for position in windows[place]]
        if len(failed) < len(answers):
            self.unread.update(unread)
            many = f"{len(unread):,} of {len(self.candidates):,} candidates"
            self.notes.append(f"Rank's replies about {many} could not be read: {why}")
        elif len(unread) < len(self.candidates):
            self.notes.append(f"Rank kept the picks of its windows: {why}")
        else:
            self.notes.append(f"Rank kept the order of retrieval: {why}")

    def _resolved(self, picks: list[Any], shown: Sequence[str]) -> list[int] | None:
        return resolve_picks(picks, [self.names[line] for line in shown], shown)

    def _shrink(self, windows: Sequence[Sequence[int]], answers: Sequence[Answer]) -> None:
        most = max(map(len, windows))
        if self.budget and (described := max(map(self._described, windows))):
            quarter = min(described, self.budget) // 4
            drop = self.budget < DESCRIPTIONS_CHARS or quarter < most * _DESCRIPTION_STEP
            self.budget = 0 if drop else quarter
            how = "shorter" if self.budget else "no"
            self.notes.append(f"Rank saw {how} descriptions: the prompt was too long")
        elif most > _SMALLEST_WINDOW:
            self.window = max(_SMALLEST_WINDOW, most // 2)
            self.notes.append("Rank saw the candidates in smaller windows: the prompt was too long")
        elif len(self.text) > _SHORTEST_TEXT:
            self.text = split_text(self.text, len(self.text) // 2)[0]
            self.notes.append("Rank saw the start of the text: the prompt was too long")
        else:
            raise next(answer for answer in answers if isinstance(answer, ContextTooLongError))

    def _described(self, window: Sequence[int]) -> int:
        return sum(_described(self.candidates[position]) for position in window)


def _windows(positions: list[int], size: int) -> list[list[int]]:
    """Windows of about equal length, at most `size` each."""
    count = -(-len(positions) // size)
    length = -(-len(positions) // count)
    return [positions[start : start + length] for start in range(0, len(positions), length)]

"""Rank: a text and its candidates → the candidates in a better order, those that apply first.

The last stage of Infer–Retrieve–Rank. The LM sees numbered candidates and answers with numbers,
so no label outside the label set can come out: the result is always a permutation of the
candidates. Those the LM does not pick follow in the order of retrieval.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import dspy

from irr.adapter import rank_signature
from irr.ask import Answer, Steps, Usable, arun, run
from irr.chunks import split_text
from irr.demos import NearestDemos
from irr.errors import ConfigurationError, LMError, ReplyError
from irr.lm import ContextTooLongError
from irr.prompts import Prompts
from irr.replies import resolve_picks
from irr.types import Label

__all__ = ["Rank", "Ranked", "fuse", "show_candidate"]

WINDOW = 100
_SMALLEST_WINDOW = 10
_SHORTEST_TEXT = 500
_DESCRIPTION_CHARS = 160
_FUSION_OFFSET = 3


def show_candidate(label: Label) -> str:
    """How Rank's prompt shows a label: its name, and the start of its description."""
    return _shown(label.name, label.description)


@lru_cache(maxsize=1 << 16)
def _shown(name: str, description: str) -> str:
    name = " ".join(name.split())
    description = " ".join(description.split())
    if not description:
        return name
    if len(description) > _DESCRIPTION_CHARS:
        description = description[:_DESCRIPTION_CHARS].rsplit(" ", 1)[0] + "…"
    return f"{name} ({description})"


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
    """What Rank gives, see `Rank`."""

    order: list[int]
    picked: int
    notes: list[str]


class Rank(dspy.Module):
    """Asks the LM which candidates apply.

    Calling it gives a `dspy.Prediction` with ``order`` (list of int, a permutation of the
    candidates' positions), ``picked`` (how many at its start the LM picked) and ``notes``. More
    candidates than `window` are shown window by window, and the picks of all windows once more
    together. A reply that cannot be read even at the third attempt leaves its candidates in the
    order of retrieval, and a note. `nearest`, where set, chooses the demonstrations of each
    document.

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
        steps = self._steps(text, candidates)
        return dspy.Prediction(**run(self.predict, steps, _picks_one_of(candidates))._asdict())

    async def aforward(self, text: str, candidates: Sequence[Label]) -> dspy.Prediction:
        return dspy.Prediction(**(await self.ask(text, candidates))._asdict())

    async def ask(self, text: str, candidates: Sequence[Label]) -> Ranked:
        """Do what calling does, past DSPy's bookkeeping: the way of a million documents."""
        return await arun(self.predict, self._steps(text, candidates), _picks_one_of(candidates))

    def _steps(self, text: str, candidates: Sequence[Label]) -> Steps[Ranked]:
        notes: list[str] = []
        everything = list(range(len(candidates)))
        demos = self.nearest(text) if self.nearest is not None else None
        round_ = _Round(text, candidates, self.window, notes, demos)
        picks = (yield from round_.steps(everything)) if everything else []
        picked = set(picks)
        rest = [position for position in everything if position not in picked]
        return Ranked(picks + rest, len(picks), list(dict.fromkeys(notes)))


class _Round:
    """One document's questions. Windows and text shrink when the prompt is too long."""

    def __init__(
        self,
        text: str,
        candidates: Sequence[Label],
        window: int,
        notes: list[str],
        demos: list[dict[str, Any]] | None,
    ) -> None:
        self.demos = {} if demos is None else {"demos": demos}
        self.text = text
        self.names = [label.name for label in candidates]
        self.shown = [show_candidate(label) for label in candidates]
        self.window = window
        self.notes = notes

    def steps(self, positions: list[int]) -> Steps[list[int]]:
        """The picks among `positions`, best first."""
        windows = _windows(positions, self.window)
        answers = yield [self._question(window) for window in windows]
        if any(isinstance(answer, ContextTooLongError) for answer in answers):
            self._shrink(answers)
            return (yield from self.steps(positions))
        picks = [
            self._picks(window, answer) for window, answer in zip(windows, answers, strict=True)
        ]
        if len(windows) == 1:
            return picks[0]
        # The first picks of all windows come before the second picks: windows are no ranking.
        pooled = [pick for pick in chain(*zip_longest(*picks)) if pick is not None]
        if not 1 < len(pooled) < len(positions):
            return pooled
        final = yield from self.steps(sorted(pooled))
        return final + [pick for pick in pooled if pick not in set(final)]

    def _question(self, window: Sequence[int]) -> dict[str, Any]:
        shown = [self.shown[position] for position in window]
        return {"text": self.text, "candidates": shown, **self.demos}

    def _picks(self, window: Sequence[int], answer: Answer) -> list[int]:
        if isinstance(answer, ReplyError):
            self.notes.append(f"Rank kept the order of retrieval: {answer}")
            return []
        if isinstance(answer, LMError):
            raise answer
        names = [self.names[position] for position in window]
        shown = [self.shown[position] for position in window]
        return [window[pick] for pick in _resolved(answer, names, shown)]

    def _shrink(self, answers: Sequence[Answer]) -> None:
        if self.window > _SMALLEST_WINDOW:
            self.window = max(_SMALLEST_WINDOW, self.window // 2)
            self.notes.append("Rank saw the candidates in smaller windows: the prompt was too long")
        elif len(self.text) > _SHORTEST_TEXT:
            self.text = split_text(self.text, len(self.text) // 2)[0]
            self.notes.append("Rank saw the start of the text: the prompt was too long")
        else:
            raise next(answer for answer in answers if isinstance(answer, ContextTooLongError))


def _picks_one_of(candidates: Sequence[Label]) -> Usable:
    """No pick at all is an answer; picks that are no candidates are not."""

    def usable(question: dict[str, Any], picks: list[Any]) -> bool:
        shown = question["candidates"]
        if not picks or any(isinstance(pick, int) and 0 < pick <= len(shown) for pick in picks):
            return True
        names = {show_candidate(label): label.name for label in candidates}
        return bool(_resolved(picks, [names[line] for line in shown], shown))

    return usable


def _resolved(picks: list[Any], names: Sequence[str], shown: Sequence[str]) -> list[int]:
    """Positions of what was picked: by number or name, else as the prompt showed it."""
    return resolve_picks(picks, names) or resolve_picks(picks, shown)


def _windows(positions: list[int], size: int) -> list[list[int]]:
    """Windows of about equal length, at most `size` each."""
    count = -(-len(positions) // size)
    length = -(-len(positions) // count)
    return [positions[start : start + length] for start in range(0, len(positions), length)]

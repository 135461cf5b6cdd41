"""`Hierarchy`: which labels are broader than which; and backing off to broader ones.

In: a label set, whose labels name their parents; or a ranking of its labels. Out: parents,
children, ancestors, levels as positions; or the ranking with labels that cannot be told apart
replaced by what they have in common. A label may have several parents. Parents that are not in
the set are counted and otherwise ignored, and a way that comes back to where it began is cut.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from irr.errors import ConfigurationError

if TYPE_CHECKING:
    from irr.labels import LabelSet

__all__ = ["Answer", "Hierarchy", "Prefer", "Unsure", "back_off"]

Prefer = Literal["leaf", "any", "ancestor-when-unsure"]
_Places = npt.NDArray[np.int32]
_Mask = npt.NDArray[np.bool_]


class Answer(NamedTuple):
    """A label that comes out of `back_off`.

    `place` is that of the best of the ranked labels it stands for: its own, or the best of those
    below it whose place it took.
    """

    position: int
    score: float
    place: int


@dataclass(frozen=True, slots=True)
class Unsure:
    """When labels with a common parent count as not told apart, see `back_off`.

    The defaults are those of the largest mean information of right predictions on notes made of
    ICD-10-CM terms, see eval/backoff.py; smaller margins keep more specific labels.

    Args:
        margin: by how much the best must lead its best sibling, 0 or more; at 0 nothing gives way.
        temperature: of the pooled score of what takes their place, above 0.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    margin: float = 0.15
    temperature: float = 0.06

    def __post_init__(self) -> None:
        if not 0 <= self.margin < math.inf:
            raise ConfigurationError(f"the margin must be 0 or more, not {self.margin}")
        if not 1e-3 <= self.temperature < math.inf:
            raise ConfigurationError(f"temperature must be at least 0.001, not {self.temperature}")


class Hierarchy:
    """The parents of `size` labels, by position.

    Memory: 16 bytes for each pair of a label and a parent, 8 for each label.

    Args:
        narrower, broader: (pairs,) positions: `broader[i]` is a parent of `narrower[i]`.
        missing: parents that are not in the set, by id, with the number of labels that name them.
        cycles: ways from a label over its parents back to itself, whose last step is not among
            the pairs; as ids.
    """

    def __init__(
        self,
        size: int,
        narrower: _Places,
        broader: _Places,
        *,
        missing: Mapping[str, int] | None = None,
        cycles: Sequence[tuple[str, ...]] = (),
    ) -> None:
        self._up = _Links.of(narrower, broader, size)
        self._narrower, self._broader = narrower, broader
        self.missing = dict(missing or {})
        self.cycles = tuple(cycles)

    @classmethod
    def of(cls, labels: LabelSet) -> Hierarchy:
        """The hierarchy of a label set: 1.3 million labels take four seconds and 160 MB."""
        places = {id_: place for place, id_ in enumerate(labels.ids)}
        missing: Counter[str] = Counter()
        lower, upper = array("i"), array("i")
        for place, label in enumerate(labels):
            for parent in dict.fromkeys(label.parents):
                above = places.get(parent)
                if above is None:
                    missing[parent] += 1
                else:
                    lower.append(place)
                    upper.append(above)
        narrower, broader = np.array(lower, np.int32), np.array(upper, np.int32)
        cut, ways = _cycles(len(labels), narrower, broader)
        return cls(
            len(labels),
            narrower[~cut],
            broader[~cut],
            missing=missing,
            cycles=[tuple(labels[place].id for place in way) for way in ways],
        )

    def __len__(self) -> int:
        """The number of labels."""
        return len(self._up.starts) - 1

    def __bool__(self) -> bool:
        """Whether any label has a parent in the set."""
        return len(self._broader) > 0

    def parents(self, position: int) -> list[int]:
        """The labels directly above, in the order in which the label names them."""
        return self._up.of_one(position)

    def children(self, position: int) -> list[int]:
        """The labels directly below, ascending."""
        return self._down.of_one(position)

    def ancestors(self, position: int) -> list[int]:
        """All labels above, each once, the nearest first."""
        found: dict[int, None] = {}
        level = [position]
        while level:
            level = [up for place in level for up in self._up.of_one(place) if up not in found]
            found.update(dict.fromkeys(level))
        return list(found)

    def below(self, positions: Iterable[int]) -> _Mask:
        """Mark these labels and all below them: (labels,) bool."""
        marked = np.zeros(len(self), np.bool_)
        level = np.unique(np.fromiter(positions, np.int32))
        while len(level):
            marked[level] = True
            narrower = self._down.of_many(level)
            level = np.unique(narrower[~marked[narrower]])
        return marked

    @cached_property
    def leaves(self) -> _Mask:
        """Mark the labels without children: (labels,) bool."""
        leaf = np.ones(len(self), np.bool_)
        leaf[self._broader] = False
        return leaf

    @cached_property
    def levels(self) -> _Places:
        """How deep each label is: 1 at the top, else one below its deepest parent; (labels,)."""
        return _levels(len(self), self._up, self._down)

    @cached_property
    def root(self) -> int | None:
        """The label that is above all others, if there is one."""
        tops = np.flatnonzero(self._up.counts == 0)
        return int(tops[0]) if len(tops) == 1 and len(self) > 1 else None

    @cached_property
    def _down(self) -> _Links:
        return _Links.of(self._broader, self._narrower, len(self))


class _Links(NamedTuple):
    """From each label to some: those of label i are `ends[starts[i]:starts[i + 1]]`."""

    starts: npt.NDArray[np.int64]
    ends: _Places

    @classmethod
    def of(cls, sources: _Places, ends: _Places, size: int) -> _Links:
        starts = np.zeros(size + 1, np.int64)
        np.cumsum(np.bincount(sources, minlength=size), out=starts[1:])
        return cls(starts, ends[np.argsort(sources, kind="stable")])

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        return np.diff(self.starts)

    def of_one(self, place: int) -> list[int]:
        ends: list[int] = self.ends[self.starts[place] : self.starts[place + 1]].tolist()
        return ends

    def of_many(self, places: _Places) -> _Places:
        """The ends of all of them in one row."""
        firsts = self.starts[places]
        counts = self.starts[places + 1] - firsts
        shifts = np.repeat(firsts - np.cumsum(counts) + counts, counts)
        chosen: _Places = self.ends[shifts + np.arange(len(shifts))]
        return chosen


def _levels(size: int, up: _Links, down: _Links) -> _Places:
    """Levels from 1 on; 0 for labels in and below a cycle (Kahn 1962, a level at a time)."""
    levels = np.zeros(size, np.int32)
    left = up.counts
    level = np.flatnonzero(left == 0).astype(np.int32)
    number = 0
    while len(level):
        number += 1
        levels[level] = number
        reached, times = np.unique(down.of_many(level), return_counts=True)
        left[reached] -= times
        level = reached[left[reached] == 0]
    return levels


def _cycles(size: int, narrower: _Places, broader: _Places) -> tuple[_Mask, list[list[int]]]:
    """The pairs to leave out so that no way comes back to its beginning, and these ways."""
    up, down = _Links.of(narrower, broader, size), _Links.of(broader, narrower, size)
    cut = np.zeros(len(narrower), np.bool_)
    doubtful = np.flatnonzero(_levels(size, up, down) == 0).tolist()
    ways = _ways_back(doubtful, up)
    if ways:
        last = np.array([way[-2:] for way in ways], np.int64)
        cut = np.isin(narrower * np.int64(size) + broader, last[:, 0] * size + last[:, 1])
    return cut, ways


def _ways_back(starts: Sequence[int], up: _Links) -> list[list[int]]:
    """A way for each step of a walk in depth that leads back onto the walk."""
    ways: list[list[int]] = []
    done: set[int] = set()
    for start in starts:
        if start in done:
            continue
        way, on_way = [start], {start: 0}
        left = [iter(up.of_one(start))]
        while way:
            above = next(left[-1], None)
            if above is None:
                left.pop()
                done.add(way.pop())
                on_way.popitem()
            elif above in on_way:
                ways.append([*way[on_way[above] :], above])
            elif above not in done:
                on_way[above] = len(way)
                way.append(above)
                left.append(iter(up.of_one(above)))
    return ways


def back_off(
    ranked: Sequence[tuple[int, float]],
    hierarchy: Hierarchy,
    prefer: Prefer = "any",
    *,
    picked: Collection[int] = (),
    allowed: _Mask | None = None,
    unsure: Unsure | None = None,
) -> list[Answer]:
    """Choose the level of a ranking's labels.

    - any: the ranking as it is.
    - leaf: labels that have labels below them are left out, also picked ones.
    - ancestor-when-unsure: from the deepest level up, the ranked labels with a common parent give
      way to it where the best of them leads the second by less than `margin`: all of them do,
      since the parent is broader than each. Its score s is pooled from theirs and from its own,
      where it was ranked too: s = τ log Σ exp(s_i / τ), above the highest by up to τ log n, as it
      is more likely to be right than any of them. So further up, until a level is sure. A label
      without ranked siblings never gives way: nothing is there that it could be taken for.

    Backing off to trade specificity for accuracy is from Deng et al. 2012 (Hedging your bets,
    CVPR), climbing until sure from Goren et al. 2024 (arXiv 2405.11533).

    Args:
        ranked: (position, score) of distinct labels, best first.
        picked: positions that Rank picked. It has read the text, so a pick never gives way, nor do
            its siblings, from which Rank has told it apart; and it keeps its place.
        allowed: (labels,) False for labels that may not take the place of others.

    Returns:
        The picks as they stood, the others around them by score, of equals the better place first.

    Raises:
        ConfigurationError: no such preference.
    """
    if prefer not in get_args(Prefer):
        raise ConfigurationError(f"prefer {prefer!r}: known are {', '.join(get_args(Prefer))}")
    answers = [Answer(position, score, at) for at, (position, score) in enumerate(ranked)]
    if prefer == "any" or not hierarchy:
        return answers
    if prefer == "leaf":
        return [answer for answer in answers if hierarchy.leaves[answer.position]]
    merged = _merged(answers, hierarchy, frozenset(picked), allowed, unsure or Unsure())
    return _reordered(merged, frozenset(picked))


def _merged(
    answers: Sequence[Answer],
    hierarchy: Hierarchy,
    picked: Collection[int],
    allowed: _Mask | None,
    unsure: Unsure,
) -> dict[int, Answer]:
    """What is left, by position, when from the deepest level up families have given way."""
    left = {answer.position: answer for answer in answers}
    families: dict[int, list[int]] = {}
    waiting: list[tuple[int, int]] = []

    def join(position: int) -> None:
        for parent in hierarchy.parents(position):
            if parent not in families:
                families[parent] = []
                heapq.heappush(waiting, (-int(hierarchy.levels[parent]), parent))
            if position not in families[parent]:
                families[parent].append(position)

    for position in left:
        join(position)
    while waiting:
        _, parent = heapq.heappop(waiting)
        family = [left[position] for position in families[parent] if position in left]
        kept = parent in picked or (allowed is not None and not allowed[parent])
        if kept or any(a.position in picked for a in family) or _told_apart(family, unsure):
            continue
        for answer in family:
            del left[answer.position]
        members = [*family, left[parent]] if parent in left else family
        left[parent] = _pooled(parent, members, unsure.temperature)
        join(parent)
    return left


def _told_apart(family: Sequence[Answer], unsure: Unsure) -> bool:
    if len(family) < 2:
        return True
    best, second = heapq.nlargest(2, (answer.score for answer in family))
    return best - second >= unsure.margin


def _pooled(position: int, members: Sequence[Answer], temperature: float) -> Answer:
    highest = max(answer.score for answer in members)
    total = sum(math.exp((answer.score - highest) / temperature) for answer in members)
    place = min(answer.place for answer in members)
    return Answer(position, highest + temperature * math.log(total), place)


def _reordered(answers: Mapping[int, Answer], picked: Collection[int]) -> list[Answer]:
    """The picks at their places, the others by score at the places that they had."""
    picks = [(answer.place, answer) for answer in answers.values() if answer.position in picked]
    others = [answer for answer in answers.values() if answer.position not in picked]
    places = sorted(answer.place for answer in others)
    others.sort(key=lambda answer: (-answer.score, answer.place))
    return [answer for _, answer in sorted([*picks, *zip(places, others, strict=True)])]

"""What passes between the stages: plain frozen values, without behaviour and heavy imports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from irr.selection import Selection

__all__ = ["Candidate", "Document", "Label", "Prediction", "ScoredLabel", "Usage"]


@dataclass(frozen=True, slots=True)
class Document:
    """One text to tag.

    `gold` holds the names or ids of its labels where they are known (training, evaluation),
    else None; an empty tuple means "known to have no label". `selection` says which labels may
    come out for it, among those that the run allows.
    """

    id: str
    text: str
    gold: tuple[str, ...] | None = None
    selection: Selection | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """One entry of a label set.

    `id` is unique in its set; `name` is what LMs and people read. `parents` are ids of broader
    labels, which need not be in the same set.
    """

    id: str
    name: str
    alternative_names: tuple[str, ...] = ()
    description: str = ""
    parents: tuple[str, ...] = ()


class Candidate(NamedTuple):
    """One label that Retrieve proposes for a document.

    `position` is the label's position in its label set; `score` the pooled score (about a
    cosine, higher is better); `evidence` the query (guess or phrase) nearest to the label.
    """

    position: int
    score: float
    evidence: str


@dataclass(frozen=True, slots=True)
class Usage:
    """What a document cost: LM calls that were answered, and tokens as the server counted them."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class ScoredLabel:
    """One label of a prediction.

    `score` is Retrieve's (see `Candidate`), also where Rank decided the order; `picked` says
    whether Rank named the label, None where no Rank ran or its reply about the label could not be
    read.
    """

    id: str
    label: str
    score: float
    evidence: str
    picked: bool | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of output for one document.

    `status` is "ok" or "error"; a row with an error has no labels, its `error` is a
    (class, message) pair. `notes` tell what did not go as planned but did not fail the row,
    such as a fall-back to the order of retrieval. `trace` is filled on request only. An
    `unfinished` row is no result: the run ended before the LM had answered, and another run may
    finish it.
    """

    id: str
    status: str
    labels: tuple[ScoredLabel, ...] = ()
    guesses: tuple[str, ...] = ()
    usage: Usage = Usage()
    notes: tuple[str, ...] = ()
    error: tuple[str, str] | None = None
    trace: dict[str, object] | None = field(default=None, hash=False)
    unfinished: bool = False

"""The stages as DSPy's optimizers see them: modules with predictors, and examples with inputs.

Label sets, indexes and encoders are shared by all copies that an optimizer makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy

from irr.compile.examples import Example
from irr.demos import shown_with_gold
from irr.infer import Infer
from irr.metrics import METRICS
from irr.program import InferRetrieveRank
from irr.rank import DEMO_DESCRIPTIONS_CHARS, Rank, fuse, show_candidates

__all__ = [
    "InferStage",
    "Pipeline",
    "RankStage",
    "Shared",
    "feedback_of",
    "infer_example",
    "metric_of",
    "rank_example",
]


class Shared:
    """What all copies of a module have in common: a program, for its labels and its retrieval."""

    def __init__(self, program: InferRetrieveRank) -> None:
        self.program = program

    def __deepcopy__(self, memo: dict[int, object]) -> Shared:
        return self


class InferStage(dspy.Module):
    """text → guesses → the candidates in Retrieve's order. One predictor: Infer's."""

    def __init__(self, infer: Infer, shared: Shared) -> None:
        super().__init__()
        self.infer = infer
        self.shared = shared

    def forward(self, text: str) -> dspy.Prediction:
        guesses = self.infer(text=text).guesses
        found = self.shared.program.find(text, guesses)
        return dspy.Prediction(ranked=[c.position for c in found], guesses=guesses)


class RankStage(dspy.Module):
    """text and fixed candidates (`pool`, positions) → their order. One predictor: Rank's."""

    def __init__(self, rank: Rank, shared: Shared) -> None:
        super().__init__()
        self.rank = rank
        self.shared = shared

    def forward(self, text: str, pool: Sequence[int]) -> dspy.Prediction:
        program = self.shared.program
        candidates = [program.labels.distinct(position) for position in pool]
        reply = self.rank(text=program.passages(text, pool), candidates=candidates)
        order = fuse(reply.order, program.fusion)
        return dspy.Prediction(ranked=[pool[place] for place in order])


class Pipeline(dspy.Module):
    """The whole program. Two predictors, or one where a stage has no LM."""

    def __init__(self, infer: Infer | None, rank: Rank | None, shared: Shared) -> None:
        super().__init__()
        if infer is not None:
            self.infer = infer
        if rank is not None:
            self.rank = rank
        self.shared = shared

    def forward(self, text: str) -> dspy.Prediction:
        program = self.shared.program
        guesses = self.infer(text=text).guesses if hasattr(self, "infer") else []
        pool = [c.position for c in program.find(text, guesses)]
        ranked = pool
        if hasattr(self, "rank") and pool:
            candidates = [program.labels.distinct(position) for position in pool]
            reply = self.rank(text=program.passages(text, pool), candidates=candidates)
            ranked = [pool[place] for place in fuse(reply.order, program.fusion)]
        return dspy.Prediction(ranked=ranked, guesses=guesses, pool=pool)


def infer_example(example: Example, program: InferRetrieveRank) -> dspy.Example:
    """Inputs and gold; and what makes it a demonstration of Infer: the gold names as guesses."""
    names = [program.labels[position].name for position in example.gold]
    row = {"text": example.document.text, "gold": list(example.gold), "guesses": names}
    return dspy.Example(**row).with_inputs("text")


def rank_example(example: Example, program: InferRetrieveRank, pool: Sequence[int]) -> dspy.Example:
    """Inputs and gold; and what makes it a demonstration of Rank: gold numbers among candidates."""
    shown, numbers = shown_with_gold(pool, example.gold)
    row: dict[str, Any] = {"text": example.document.text, "gold": list(example.gold)}
    labels = [program.labels.distinct(position) for position in shown]
    row["candidates"] = show_candidates(labels, DEMO_DESCRIPTIONS_CHARS)
    row["ranking"] = numbers
    row["pool"] = list(pool)
    return dspy.Example(**row).with_inputs("text", "pool")


def metric_of(name: str, k: int) -> Any:
    """The metric for DSPy: (example, prediction, trace) → a score in [0, 1]."""
    score = METRICS[name]

    def metric(example: dspy.Example, prediction: dspy.Prediction, _trace: object = None) -> float:
        return score(prediction.ranked, example.gold, k) or 0.0

    return metric


def feedback_of(name: str, k: int, program: InferRetrieveRank) -> Any:
    """GEPA's metric: a score, and in words which gold labels were lost, and at which stage."""
    metric = metric_of(name, k)

    def feedback(
        example: dspy.Example,
        prediction: dspy.Prediction,
        _trace: object = None,
        _predictor: object = None,
        _predictor_trace: object = None,
    ) -> dspy.Prediction:
        score = metric(example, prediction)
        lines = [f"{name}@{k} is {score:.2f}."]
        first = set(prediction.ranked[:k])
        for position in example.gold:
            label = program.labels[position].name
            if position in first:
                lines.append(f"{label!r} was found.")
            elif position in prediction.pool:
                lines.append(f"{label!r} was among the candidates, but Rank did not put it first.")
            else:
                guesses = ", ".join(map(repr, prediction.guesses)) or "nothing"
                lines.append(
                    f"{label!r} was not among the candidates: no guess was worded close to it. "
                    f"Infer guessed {guesses}."
                )
        return dspy.Prediction(score=score, feedback="\n".join(lines))

    return feedback

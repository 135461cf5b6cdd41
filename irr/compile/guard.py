"""The guard: programs scored on dev, and the one that is returned, never worse than the given.

A dearer program takes the place of the given one only where its gain is clear; a cheaper one where
it scores no less. The more programs one was chosen among on the same dev, the clearer its gain must
be: the best of many looks good by luck.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from irr.compile.examples import Example
from irr.metrics import METRICS, Score, mean_score
from irr.program import InferRetrieveRank

__all__ = ["DOUBT", "Candidate", "best_of", "difference", "gain_is_clear", "score_program"]

# The chance of taking a gain for real that is none, shared by all programs that were tried
# (Bonferroni's correction).
DOUBT = 0.05
# With fewer rows that both programs answered, there is nothing to compare.
_ENOUGH = 0.5
_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program with its scores on dev.

    `scores` has one number a dev example, in [0, 1], None where no answer came; `among` is the
    share of gold labels among the candidates, `retrieved` the score of Retrieve's order. `cost`
    is the length of what its prompts hold beside the text, in characters. `tried` is how many
    programs it was chosen among by their scores on dev.
    """

    name: str
    program: InferRetrieveRank
    scores: tuple[float | None, ...]
    among: float
    retrieved: float
    cost: int
    tried: int = 1

    @property
    def score(self) -> Score:
        """The mean over the rows that were answered, with its interval."""
        return mean_score(self.scores)

    @property
    def failed(self) -> int:
        """Dev examples without an answer."""
        return sum(score is None for score in self.scores)


def score_program(
    name: str,
    program: InferRetrieveRank,
    dev: Sequence[Example],
    metric: tuple[str, int],
    *,
    tried: int = 1,
) -> Candidate:
    """Predict the dev documents and score them."""
    measure, k = METRICS[metric[0]], metric[1]
    scores: list[float | None] = []
    among, retrieved = [], []
    documents = [example.document for example in dev]
    depth = program.retriever.settings.candidates
    predictions = program.predict_many(documents, top_k=max(k, depth), trace=True)
    for example, prediction in zip(dev, predictions, strict=True):
        if prediction.status != "ok" or prediction.trace is None:
            scores.append(None)
            continue
        found = [program.labels.position_of(label.id) for label in prediction.labels]
        scores.append(measure(found, example.gold, k) or 0.0)
        rows = prediction.trace["candidates"]
        assert isinstance(rows, list)
        first = [program.labels.position_of(row["id"]) for row in rows]
        among.append(len(set(first).intersection(example.gold)) / len(example.gold))
        retrieved.append(measure(first, example.gold, k) or 0.0)
    size = prompt_size(program)
    return Candidate(name, program, tuple(scores), _mean(among), _mean(retrieved), size, tried)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def prompt_size(program: InferRetrieveRank) -> int:
    """Characters of instructions and demonstrations in a document's prompts."""
    size = 0
    for stage in (program.infer, program.rank):
        if stage is None:
            continue
        demos = stage.predict.demos
        if stage.nearest is not None:
            demos = stage.nearest.demos[: stage.nearest.k]
        size += len(stage.predict.signature.instructions)
        size += sum(len(str(value)) for demo in demos for value in dict(demo).values())
    return size


def best_of(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate to return; the first is the given one, and what is left when in doubt.

    Of those that are as good as the given one the best by mean gain over it, of equals the
    cheapest, of these the first.
    """
    given = candidates[0]
    fit = [c for c in candidates if c is given or _takes_over(c, given)]
    return min(fit, key=lambda c: (-round(difference(c, given)[0], 9), c.cost))


def _takes_over(candidate: Candidate, given: Candidate) -> bool:
    gain, _, _ = difference(candidate, given)
    if candidate.cost <= given.cost and len(_gains(candidate, given)):
        return gain >= 0
    return gain_is_clear(candidate, given)


def gain_is_clear(candidate: Candidate, given: Candidate) -> bool:
    """Whether the gain over the given program is above zero beyond doubt."""
    gains = _gains(candidate, given)
    if not len(gains) or len(gains) < _ENOUGH * len(given.scores):
        return False
    return bool(np.mean(_resampled(gains, 0) <= 0) <= DOUBT / candidate.tried)


def difference(
    candidate: Candidate, given: Candidate, *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of the paired differences of the scores, with the 95% bootstrap interval.

    Over the rows that both programs answered; zeros where there are none.
    """
    score = mean_score(_gains(candidate, given), seed=seed)
    return score.mean or 0.0, score.low or 0.0, score.high or 0.0


def _gains(candidate: Candidate, given: Candidate) -> npt.NDArray[np.float64]:
    pairs = zip(candidate.scores, given.scores, strict=False)
    return np.array([a - b for a, b in pairs if a is not None and b is not None])


def _resampled(values: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    draw = np.random.default_rng(seed)
    means: npt.NDArray[np.float64]
    means = values[draw.integers(len(values), size=(_RESAMPLES, len(values)))].mean(axis=1)
    return means

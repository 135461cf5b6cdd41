"""The guard: programs scored on dev, and the one that is returned, never worse than the given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from irr.compile.examples import Example
from irr.metrics import METRICS, Score, mean_score
from irr.program import InferRetrieveRank

__all__ = ["Candidate", "best_of", "difference", "score_program"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program with its scores on dev.

    `scores` has one number a dev example, in [0, 1]; `among` and `guessed` are the shares of
    gold labels among the candidates and among the first k without Rank; `failed` counts rows
    without an answer. `cost` is the length of what its prompts hold beside the text, in
    characters: what decides between programs that score the same.
    """

    name: str
    program: InferRetrieveRank
    scores: tuple[float, ...]
    among: float
    retrieved: float
    failed: int
    cost: int

    @property
    def score(self) -> Score:
        """The mean with its interval."""
        return mean_score(self.scores)

    @property
    def mean(self) -> float:
        return float(np.mean(self.scores)) if self.scores else 0.0


def score_program(
    name: str, program: InferRetrieveRank, dev: Sequence[Example], metric: tuple[str, int]
) -> Candidate:
    """Predict the dev documents and score them. A document without an answer scores 0."""
    measure, k = METRICS[metric[0]], metric[1]
    scores, among, retrieved, failed = [], [], [], 0
    documents = [example.document for example in dev]
    depth = program.retriever.settings.candidates
    predictions = program.predict_many(documents, top_k=max(k, depth), trace=True)
    for example, prediction in zip(dev, predictions, strict=True):
        failed += prediction.status != "ok"
        found = [program.labels.position_of(label.id) for label in prediction.labels]
        scores.append(measure(found, example.gold, k) or 0.0)
        among.append(len(set(found).intersection(example.gold)) / len(example.gold))
        rows = prediction.trace["candidates"] if prediction.trace else []
        assert isinstance(rows, list)
        first = [program.labels.position_of(row["id"]) for row in rows]
        retrieved.append(measure(first, example.gold, k) or 0.0)
    return Candidate(
        name,
        program,
        tuple(scores),
        float(np.mean(among)),
        float(np.mean(retrieved)),
        failed,
        prompt_size(program),
    )


def prompt_size(program: InferRetrieveRank) -> int:
    """Characters of instructions, demonstrations and candidates in a document's prompts."""
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
    """The candidate with the best mean; of equals the cheapest, of these the first."""
    return min(candidates, key=lambda c: (-round(c.mean, 9), c.cost))


def difference(
    candidate: Candidate, given: Candidate, *, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of the paired differences of the scores, with the 95% bootstrap interval."""
    if not given.scores:
        return 0.0, 0.0, 0.0
    values = np.array(candidate.scores) - np.array(given.scores)
    draw = np.random.default_rng(seed)
    means = values[draw.integers(len(values), size=(2000, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)

"""The evaluations of one command: files of predictions, programs, and retrieval without an LM.

In: the command's options, the gold, a program where there is one. Out: an `Evaluation` of each, one
after the other; the predictions of programs also as files in the output folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irr.errors import ConfigurationError

if TYPE_CHECKING:
    from irr.build import LMChoice
    from irr.evaluate.predictions import Predicted
    from irr.evaluate.scoring import Evaluation, Gold, GuessedBy
    from irr.hierarchy import Hierarchy
    from irr.labels import LabelSet
    from irr.metrics import MetricSpec
    from irr.program import InferRetrieveRank
    from irr.retrieve import Retriever
    from irr.types import Prediction

__all__ = ["Run"]

BASELINE = "no LM"


class Run:
    """The evaluations of one command, one after the other, each predicted or read once."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        lms: LMChoice,
        gold: Sequence[Gold],
        labels: LabelSet,
        metrics: Sequence[MetricSpec],
        folder: Path | None,
        program: InferRetrieveRank | None,
        hierarchy: Hierarchy | None,
    ) -> None:
        self.arguments = arguments
        self.lms = lms
        self.gold = gold
        self.labels = labels
        self.metrics = metrics
        self.folder = folder
        self.program = program
        self.hierarchy = hierarchy
        self._names = {BASELINE}
        self.n_training = 0
        self.training = self._training()

    def evaluations(self, only_files: bool) -> Iterator[Evaluation]:
        """Files, the program, others beside it, and last the baseline."""
        from irr.evaluate.predictions import read_predictions
        from irr.program import InferRetrieveRank

        # All of them are opened before anything is predicted and paid for.
        others = [(folder, self._other(folder)) for folder in self.arguments.compare]
        for path in self.arguments.predictions:
            rows = read_predictions(path, [g.document for g in self.gold], self.labels)
            yield self._score(self._name(Path(path).name.split(".")[0]), rows)
        program = self.program
        if program is not None and not only_files:
            yield self._predict(self._name("program"), program)
            for folder, other in others:
                yield self._predict(self._name(Path(folder).resolve().name), other)
        has_lm = program is not None and (program.infer is not None or program.rank is not None)
        if program is not None and not self.arguments.no_baseline and (only_files or has_lm):
            plain = InferRetrieveRank(program.labels, program.retriever)
            yield self._predict(BASELINE, plain)

    def _name(self, name: str) -> str:
        """A name that no other evaluation of this run has."""
        name = name.encode("utf-8", "replace").decode() or "predictions"
        number, unique = 1, name
        while unique in self._names:
            number += 1
            unique = f"{name} ({number})"
        self._names.add(unique)
        return unique

    def _other(self, folder: str) -> InferRetrieveRank:
        from irr.build import open_program

        other = open_program(folder, lm=self.lms)
        if other.labels.content_hash != self.labels.content_hash:
            raise ConfigurationError(f"--compare {folder}: it has another label set")
        return other

    def _predict(self, name: str, program: InferRetrieveRank) -> Evaluation:
        from irr.evaluate.predictions import from_predictions
        from irr.show import RunProgress
        from irr.writer import PredictionWriter

        documents = [g.document for g in self.gold]
        depth = max(program.retriever.settings.candidates, *(s.k or 1 for s in self.metrics))
        predictions = program.predict_many(documents, top_k=depth, trace=True)

        def seen(progress: RunProgress, writer: PredictionWriter | None) -> Iterator[Prediction]:
            for prediction in predictions:
                if writer is not None:
                    writer.write(prediction)
                progress.add(prediction)
                yield prediction

        with RunProgress(shown=True) as progress:
            if self.folder is None:
                rows = from_predictions(seen(progress, None), program.labels)
                return self._score(name, rows, program.retriever)
            file = self.folder / f"predictions-{name.replace(' ', '-')}.jsonl"
            with PredictionWriter(file) as writer:
                rows = from_predictions(seen(progress, writer), program.labels)
                return self._score(name, rows, program.retriever)

    def _score(self, name: str, rows: Any, retriever: Retriever | None = None) -> Evaluation:
        from irr.evaluate.scoring import score_predictions

        predicted: Sequence[Predicted] = rows
        known = retriever or (self.program.retriever if self.program is not None else None)
        guessed = None if known is None else _guessed_by(known, self.labels)
        return score_predictions(
            name,
            predicted,
            self.gold,
            self.metrics,
            guessed_by=guessed,
            training=self.training,
            n_training=self.n_training,
            hierarchy=self.hierarchy,
        )

    def _training(self) -> dict[int, int] | None:
        if not self.arguments.train:
            return None
        from irr.documents import read_gold

        counts: dict[int, int] = {}
        for document in read_gold(self.arguments.train):
            self.n_training += 1
            names = document.gold or ()
            for position in {p for name in names for p in self.labels.find_all(name)}:
                counts[position] = counts.get(position, 0) + 1
        return counts


def _guessed_by(retriever: Retriever, labels: LabelSet) -> GuessedBy:
    """Labels that guesses name: by one of their names, or as the nearest label of a guess."""

    def guessed(guesses: Sequence[str]) -> set[int]:
        vectors = retriever.encoder.encode(list(guesses), role="query")
        nearest, _ = retriever.index.search(vectors, 1)
        named = {position for guess in guesses for position in labels.find_all(guess)}
        return {*nearest[:, 0].tolist(), *named}

    return guessed

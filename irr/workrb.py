"""WorkRB: TechWolf's benchmark (package ``workrb``) ranks with an `irr` program.

In: the queries and targets of a WorkRB task, as texts. Out: a score for each query and target, in
the order in which the program ranks the targets. Needs ``pip install 'irr[workrb]'``.

    import workrb
    from irr.workrb import IrrModel

    model = IrrModel()                                   # no LM, the default encoder
    model = IrrModel(irr.build.open_program("DIR"))      # a compiled program, its LMs, its demos
    workrb.evaluate(model, [TASK], output_folder="results")

Which stages run: WorkRB hands over all targets of a task, and they become the label set, by their
texts alone. Without LMs that is Retrieve over the targets, every query's own phrases being its
queries. With LMs, Infer guesses first, and Rank orders as many candidates as the program is set
to; the other targets follow in the order of Retrieve, since WorkRB wants every target ranked.
Where the targets are just the names of the program's own labels, its label set stays, with
alternative names and priors; elsewhere there are no priors. Types of input are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from irr.errors import ConfigurationError, LMError
from irr.phrases import phrases
from irr.types import Document, Label, Prediction

try:
    from workrb.models.base import ModelInterface
except ImportError:  # The module can be looked at without the extra, the model not be made.
    ModelInterface = None

if TYPE_CHECKING:
    from irr.program import InferRetrieveRank
    from irr.retrieve import Retriever

__all__ = ["IrrModel"]

# Scores are rounded to this, see `irr.retrieve`: what it sets apart stays apart in float32.
_STEP = 1e-6

_CITATION = """@article{doosterlinck2024irera,
  title={In-Context Learning for Extreme Multi-Label Classification},
  author={D'Oosterlinck, Karel and Khattab, Omar and Remy, Fran\\c{c}ois and Demeester, Thomas
          and Develder, Chris and Potts, Christopher},
  journal={arXiv preprint arXiv:2401.12178},
  year={2024}
}"""


class IrrModel(ModelInterface or object):  # type: ignore[misc]
    """A program behind WorkRB's model interface. See `irr.workrb` for the stages that run.

    Args:
        program: the program; None for one without LMs, with the default encoder.
        name: WorkRB files results under it: give every program its own.

    Raises:
        ConfigurationError: the package ``workrb`` is not installed.
        LMError: while ranking, where the LM gave no answer for a query: a benchmark with holes
            would be no benchmark.
    """

    def __init__(self, program: InferRetrieveRank | None = None, *, name: str = "irr") -> None:
        if ModelInterface is None:
            raise ConfigurationError("workrb is not installed: pip install 'irr[workrb]'")
        self.program = program or _without_lms()
        self._name = name
        self._last: tuple[tuple[str, ...], InferRetrieveRank] | None = None

    @property
    def name(self) -> str:
        """Under which WorkRB keeps the results."""
        return self._name

    @property
    def description(self) -> str:
        """Which stages run, over which encoder."""
        stages = [("Infer", self.program.infer), ("Retrieve", True), ("Rank", self.program.rank)]
        names = ", ".join(name for name, stage in stages if stage is not None)
        return f"irr: {names}; encoder {self.program.retriever.encoder.name}"

    @property
    def citation(self) -> str:
        """The method's paper."""
        return _CITATION

    @property
    def classification_label_space(self) -> None:
        """No fixed classes: labels are ranked as they come."""
        return

    def _compute_rankings(
        self,
        queries: list[str],
        targets: list[str],
        query_input_type: object = None,  # noqa: ARG002
        target_input_type: object = None,  # noqa: ARG002
    ) -> torch.Tensor:
        """Score: (queries, targets) float32, higher is better, no two of a query's alike.

        Without Rank the scores are Retrieve's. Where Rank decides, the best gets the highest of
        them, and so on down: what Rank orders stays in order, and scores keep their scale.
        """
        program, columns = self._over(targets)
        matrix = np.zeros((len(queries), len(targets)), np.float32)
        for row, (order, scores) in zip(matrix, _rank_all(program, queries), strict=True):
            row[columns[order]] = _falling(scores)
        return torch.from_numpy(matrix)

    def _compute_classification(
        self,
        texts: list[str],
        targets: list[str],
        input_type: object = None,
        target_input_type: object = None,
    ) -> torch.Tensor:
        """Score the classes as targets: (texts, classes) float32, see `_compute_rankings`."""
        return self._compute_rankings(texts, targets, input_type, target_input_type)

    def _over(self, targets: Sequence[str]) -> tuple[InferRetrieveRank, npt.NDArray[np.int64]]:
        """The program over these targets, and the target that each of its labels is."""
        own = self.program.labels.names
        place = {target: column for column, target in enumerate(targets)}
        if len(own) == len(targets) == len(place) and place.keys() == set(own):
            return self.program, np.array([place[name] for name in own])
        if self._last is None or self._last[0] != tuple(targets):
            self._last = (tuple(targets), _with_labels(self.program, targets))
        return self._last[1], np.arange(len(targets))


def _without_lms() -> InferRetrieveRank:
    """A program whose one label stands in until the targets come."""
    from irr.build import build_program
    from irr.labels import LabelSet

    return build_program(LabelSet([Label("target", "target")]))


def _with_labels(program: InferRetrieveRank, targets: Sequence[str]) -> InferRetrieveRank:
    """The program with targets for labels: the same encoder, LMs, prompts and settings."""
    from irr.index import open_index
    from irr.labels import LabelSet
    from irr.retrieve import Retriever

    # Numbers for ids, since texts may repeat.
    labels = LabelSet(Label(str(number), text) for number, text in enumerate(targets))
    encoder = program.retriever.encoder
    retriever = Retriever(
        encoder, open_index(labels, encoder), program.retriever.settings, labels=labels
    )
    return program.variant(labels=labels, retriever=retriever)


_Ranked = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]


def _rank_all(program: InferRetrieveRank, queries: Sequence[str]) -> Iterator[_Ranked]:
    """For each query all labels' positions, best first, and their scores, highest first."""
    settings = program.retriever.settings
    everything = program.retriever.with_settings(replace(settings, candidates=len(program.labels)))
    if program.rank is None:
        program = program.variant(retriever=everything)
    documents = [Document(str(number), query) for number, query in enumerate(queries, start=1)]
    predictions = program.predict_many(documents, top_k=len(program.labels))
    for document, prediction in zip(documents, predictions, strict=True):
        if prediction.error is not None:
            raise LMError(f"query {document.id} was not answered: {prediction.error[1]}")
        yield _complete(program, everything, document, prediction)


def _complete(
    program: InferRetrieveRank, everything: Retriever, document: Document, prediction: Prediction
) -> _Ranked:
    """A prediction's labels, and after them those that it leaves out, in Retrieve's order."""
    first = [program.labels.position_of(label.id) for label in prediction.labels]
    scores = [label.score for label in prediction.labels]
    if not first:  # A blank query: Retrieve has nothing to go by.
        return np.arange(len(program.labels)), np.zeros(len(program.labels))
    if len(first) < len(program.labels):
        named = set(first)
        found = everything.retrieve(phrases(document.text), prediction.guesses)
        rest = [candidate for candidate in found if candidate.position not in named]
        first += [candidate.position for candidate in rest]
        scores += [candidate.score for candidate in rest]
    return np.array(first), np.sort(np.array(scores))[::-1]


def _falling(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Lower scores, which do not rise, where they tie: WorkRB's sort may turn ties around.

    >>> _falling(np.array([0.5, 0.5, 0.4])).round(7).tolist()
    [0.5, 0.499999, 0.4]
    """
    steps = _STEP * np.arange(len(scores))
    lowest: npt.NDArray[np.float64] = np.minimum.accumulate(scores + steps)
    return lowest - steps

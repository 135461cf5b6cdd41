"""InferRetrieveRank: the program, three stages in a row, and how it runs over documents.

In: documents. Out: one `Prediction` for each, in the order of the documents. Infer and Rank are
absent where there is no LM: the text's own phrases are the only queries then, and the order of
retrieval stays. Without LMs neither DSPy nor asyncio is imported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from irr.chunks import join_passages, split_text
from irr.errors import ConfigurationError, IrrError, LMError
from irr.labels import LabelSet
from irr.phrases import phrases
from irr.pipeline import Gathering, Query, Stop, predict_ahead, predict_blocks
from irr.prompts import Prompts, read_prompts
from irr.retrieve import Retriever
from irr.types import Candidate, Document, Prediction, ScoredLabel, Usage

if TYPE_CHECKING:
    import asyncio

    from irr.hierarchy import Prefer
    from irr.infer import Infer
    from irr.rank import Rank
    from irr.retrieve import Mask
    from irr.selection import Selection

__all__ = ["InferRetrieveRank"]

# Rank's text: longer ones are shown as the passages nearest to the candidates.
RANK_TEXT_CHARS = 6_000
_PASSAGE_CHARS = 400
# Of a book the passages are longer: comparing more of them with the candidates takes minutes.
_MOST_PASSAGES = 500
_CANDIDATES_FOR_PASSAGES = 20
# Selections of documents that are known to fit the labels.
_MOST_FITTING = 10_000


@dataclass(frozen=True, slots=True)
class _Stages:
    """What the stages made of one document."""

    candidates: list[Candidate]
    order: Sequence[int]
    picks: Sequence[int] | None = None
    guesses: Sequence[str] = ()
    notes: Sequence[str] = ()
    unread: frozenset[int] = frozenset()


class InferRetrieveRank:
    """A program: a label set, and the stages that map texts to its labels.

    Args:
        labels: the label set.
        retriever: Retrieve, over that label set.
        infer: Infer with its LM set, or None.
        rank: Rank with its LM set, or None.
        fusion: weight of retrieval's order beside Rank's, see `irr.rank.fuse`.
        in_flight: the most LM requests at once.
        prompts: the wording that Infer and Rank were made with; saved with the program.
        selection: which labels may come out; not saved with the program. A document may narrow
            it by its own. Fixed, as `prefer` is: `variant` makes a program with another.
        prefer: which level of the hierarchy, see `irr.hierarchy.back_off`; not saved either.
        picked_only: leave out labels that Rank did not pick, where its reply about them could be
            read; not saved either.

    Use `irr.build.build_program` to make one from names and files.
    """

    def __init__(
        self,
        labels: LabelSet,
        retriever: Retriever,
        *,
        infer: Infer | None = None,
        rank: Rank | None = None,
        fusion: float = 0.0,
        in_flight: int = 32,
        prompts: Prompts | None = None,
        selection: Selection | None = None,
        prefer: Prefer = "any",
        picked_only: bool = False,
    ) -> None:
        if in_flight < 1:
            raise ConfigurationError(f"in_flight is at least 1, not {in_flight}")
        self.prompts = prompts or read_prompts()
        self.labels = labels
        self.retriever = retriever
        self.infer = infer
        self.rank = rank
        self.fusion = fusion
        self.in_flight = in_flight
        self._selection = selection
        self._prefer: Prefer = prefer
        self.picked_only = picked_only
        self._fitting: set[Selection] = set()
        self._gatherings: WeakKeyDictionary[asyncio.AbstractEventLoop, Gathering] = (
            WeakKeyDictionary()
        )

    @property
    def selection(self) -> Selection | None:
        """Which labels may come out."""
        return self._selection

    @property
    def prefer(self) -> Prefer:
        """Which level of the hierarchy comes out."""
        return self._prefer

    def variant(self, **changes: Any) -> InferRetrieveRank:
        """This program with other stages or settings: any of the constructor's arguments."""
        same = {
            "labels": self.labels,
            "retriever": self.retriever,
            "infer": self.infer,
            "rank": self.rank,
            "fusion": self.fusion,
            "in_flight": self.in_flight,
            "prompts": self.prompts,
            "selection": self.selection,
            "prefer": self.prefer,
            "picked_only": self.picked_only,
        }
        return InferRetrieveRank(**{**same, **changes})

    def predict(
        self,
        text: str,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        top_k: int = 10,
        trace: bool = False,
    ) -> Prediction:
        """Tag one text. See `predict_many`.

        Args:
            include, exclude: which labels may come out, among those that the program allows: ids,
                names or patterns as in `irr.selection`. They may be from anybody: files and
                regular expressions are not taken.

        Raises:
            ConfigurationError: one of them is no list of strings.
        """
        selection = None
        if include or exclude:
            from irr.selection import selection_of

            selection = selection_of({"include": include, "exclude": exclude})
        document = Document("1", text, selection=selection)
        (prediction,) = self.predict_many([document], top_k=top_k, trace=trace)
        return prediction

    def predict_many(
        self,
        documents: Iterable[Document],
        *,
        top_k: int = 10,
        trace: bool = False,
        stop: Stop | None = None,
    ) -> Generator[Prediction]:
        """Tag documents, which are read as they are needed. One prediction a document, in order.

        A document whose LM gave no answer becomes a prediction with status "error"; so does one
        whose selection names an unknown label or leaves no label. Not to be called while an event
        loop runs in this thread: await `apredict` there.

        Args:
            documents: any number of them.
            top_k: labels a prediction holds at most.
            trace: put what each stage did into the predictions.
            stop: to end the run early; rows of documents that were begun still come, those that
                the stop kept from being finished with `unfinished`.

        Raises:
            ConfigurationError: the program's own selection fits no label, or leaves none.
            LMError: with `fatal`, when no request can succeed (wrong key, unknown model); after
                the predictions of the documents that were begun, some of them `unfinished`.
            IrrError: whatever reading the documents raises, after the predictions of all
                documents before it.
        """
        if top_k < 1:
            raise ConfigurationError(f"top_k is at least 1, not {top_k}")
        _ = self.allowed  # What is wrong with it would be wrong with every document.
        stop = stop or Stop()
        if self.infer is None and self.rank is None:
            yield from predict_blocks(
                documents, lambda block: self._retrieve_block(block, top_k, trace), stop
            )
            return

        async def begin(number: int, document: Document, fatal: list[LMError]) -> Prediction:
            return await self.apredict(
                document, top_k=top_k, trace=trace, number=number, fatal=fatal
            )

        yield from predict_ahead(
            documents,
            begin,
            in_flight=self.in_flight,
            stop=stop,
            hold=self._hold,
            close=self.aclose,
        )

    async def apredict(
        self,
        document: Document,
        *,
        top_k: int = 10,
        trace: bool = False,
        number: int = 0,
        fatal: list[LMError] | None = None,
    ) -> Prediction:
        """Tag one document within a running event loop.

        Args:
            number: where requests wait for their turn, those of the lowest number go first.
            fatal: takes a fatal error, and the prediction is `unfinished`; without a list the
                error is raised.
        """
        from irr.lm import count_usage, order

        if (row := await self._row_before_stages(document)) is not None:
            return row
        order.set(number)
        with count_usage() as usage:
            try:
                stages = await self._stages(document)
            except ValueError as error:  # Half a surrogate pair: no server can be sent it.
                return _failed(document, error, usage.total)
            except LMError as error:
                if not error.fatal:
                    return _failed(document, error, usage.total)
                if fatal is None:
                    raise
                fatal.append(error)
                return replace(_failed(document, error, usage.total), unfinished=True)
            return self._prediction(document, stages, usage.total, top_k, trace)

    async def _row_before_stages(self, document: Document) -> Prediction | None:
        """Do `_row_without_stages`; where many labels are to be looked at, in a thread."""
        if document.selection is None or document.selection in self._fitting:
            return self._row_without_stages(document)
        import asyncio

        return await asyncio.to_thread(self._row_without_stages, document)

    def _row_without_stages(self, document: Document) -> Prediction | None:
        """The row of a document that no stage needs to see: blank, or its selection cannot be."""
        if not document.text.strip():
            return _blank(document)
        selection = document.selection
        if selection is None or selection in self._fitting:
            return None
        _ = self.allowed
        try:
            self.allowed_for(selection)
        except IrrError as error:
            return _failed(document, error, Usage())
        if len(self._fitting) >= _MOST_FITTING:
            self._fitting.clear()
        self._fitting.add(selection)
        return None

    async def _stages(self, document: Document) -> _Stages:
        text = document.text
        guesses, notes = await self._infer(text)
        candidates = await self._retrieve(Query(text, guesses, document.selection))
        stages = await self._rank(text, candidates)
        return replace(stages, guesses=guesses, notes=[*notes, *stages.notes])

    async def _infer(self, text: str) -> tuple[Sequence[str], Sequence[str]]:
        if self.infer is None:
            return [], []
        return await self.infer.ask(text)

    async def _retrieve(self, query: Query) -> list[Candidate]:
        import asyncio

        loop = asyncio.get_running_loop()
        gathering = self._gatherings.get(loop)
        if gathering is None:
            gathering = self._gatherings[loop] = Gathering(self.find_many)
        return await gathering.find(query)

    async def _rank(self, text: str, candidates: list[Candidate]) -> _Stages:
        if self.rank is None:
            return _Stages(candidates, range(len(candidates)))
        import asyncio

        from irr.rank import fuse

        positions = [candidate.position for candidate in candidates]
        shown = text
        if len(text) > RANK_TEXT_CHARS:
            shown = await asyncio.to_thread(self.passages, text, positions)
        labels = [self.labels.distinct(position) for position in positions]
        order, picked, notes, unread = await self.rank.ask(shown, labels)
        picks = None if picked is None else order[:picked]
        return _Stages(candidates, fuse(order, self.fusion), picks, (), notes, unread)

    def find(
        self, text: str, guesses: Sequence[str] = (), selection: Selection | None = None
    ) -> list[Candidate]:
        """Retrieve alone: the candidates for a text and guesses, best first.

        Raises:
            ConfigurationError: the selection fits no label, or leaves none.
        """
        (found,) = self.find_many([Query(text, guesses, selection)])
        return found

    def find_many(self, queries: Sequence[Query]) -> list[list[Candidate]]:
        """Do `find` for each, their phrases and guesses embedded together."""
        asked = [(phrases(query.text), query.guesses) for query in queries]
        masks = [self.allowed_for(query.selection) for query in queries]
        return self.retriever.retrieve_many(asked, masks)

    @cached_property
    def allowed(self) -> Mask | None:
        """The labels that may come out, (labels,) bool; None for all.

        Raises:
            ConfigurationError: the selection fits no label, or leaves none.
        """
        return self._mask(self.selection)

    def allowed_for(self, selection: Selection | None) -> Mask | None:
        """Those of the labels in `allowed` that a document's own selection allows too.

        Raises:
            ConfigurationError: the selection fits no label, or leaves none.
        """
        return self._mask(self.selection, selection) if selection else self.allowed

    def _mask(self, *selections: Selection | None) -> Mask | None:
        given = [selection for selection in selections if selection]
        leaves = self.prefer == "leaf"
        if not given and not leaves:
            return None
        return self.labels.selector.allowed(*given, leaves=leaves)

    def passages(self, text: str, positions: Sequence[int]) -> str:
        """What Rank sees of a text: all of it, or of a long one what is nearest to the labels.

        `positions` are those of the candidates, best first; the first few of them count.
        """
        if len(text) <= RANK_TEXT_CHARS or not positions:
            return text
        passages = split_text(text, max(_PASSAGE_CHARS, len(text) // _MOST_PASSAGES))
        first = positions[:_CANDIDATES_FOR_PASSAGES]
        encode = self.retriever.encoder.encode
        # Here names look for passages, not texts for names.
        names = encode([self.labels[position].name for position in first], role="query")
        return join_passages(passages, names @ encode(passages).T, RANK_TEXT_CHARS)

    def _retrieve_block(
        self, block: Sequence[Document], top_k: int, trace: bool
    ) -> Iterator[Prediction]:
        rows = [self._row_without_stages(document) for document in block]
        queries = [
            Query(document.text, (), document.selection)
            for document, row in zip(block, rows, strict=True)
            if row is None
        ]
        found = iter(self.find_many(queries))
        for document, row in zip(block, rows, strict=True):
            if row is None:
                candidates = next(found)
                stages = _Stages(candidates, range(len(candidates)))
                row = self._prediction(document, stages, Usage(), top_k, trace)
            yield row

    def _hold(self) -> None:
        """Send no further request."""
        for stage in (self.infer, self.rank):
            if stage is not None:
                stage.predict.lm.engine.hold()

    async def aclose(self) -> None:
        """Close the connections that the LMs have in the running event loop."""
        for stage in (self.infer, self.rank):
            if stage is not None:
                with contextlib.suppress(OSError):
                    await stage.predict.lm.engine.aclose()

    def _prediction(
        self, document: Document, stages: _Stages, usage: Usage, top_k: int, trace: bool
    ) -> Prediction:
        labels = tuple(islice(self._answers(stages, document.selection), top_k))
        return Prediction(
            id=document.id,
            status="ok",
            labels=labels,
            guesses=tuple(stages.guesses),
            usage=usage,
            notes=tuple(stages.notes),
            trace=self._trace(stages) if trace else None,
        )

    def _answers(self, stages: _Stages, selection: Selection | None) -> Iterator[ScoredLabel]:
        """The labels of a document, best first, at the level of the hierarchy that is preferred."""
        picks = set(stages.picks or ())
        unread = range(len(stages.candidates)) if stages.picks is None else stages.unread
        order = stages.order
        if self.picked_only:
            order = [place for place in order if place in picks or place in unread]
        if self.prefer != "ancestor-when-unsure":
            for place in order:
                candidate = stages.candidates[place]
                picked = place in picks or (None if place in unread else False)
                yield self._scored(candidate.position, candidate.score, candidate, picked)
            return
        from irr.hierarchy import back_off

        ordered = [stages.candidates[place] for place in order]
        known = {stages.candidates[place].position for place in picks}
        ranked = [(candidate.position, candidate.score) for candidate in ordered]
        allowed = self.allowed_for(selection)
        for answer in back_off(
            ranked, self.labels.hierarchy, self.prefer, picked=known, allowed=allowed
        ):
            picked = answer.position in known or (None if order[answer.place] in unread else False)
            yield self._scored(answer.position, answer.score, ordered[answer.place], picked)

    def _scored(
        self, position: int, score: float, candidate: Candidate, picked: bool | None
    ) -> ScoredLabel:
        label = self.labels[position]
        return ScoredLabel(label.id, label.name, score, candidate.evidence, picked)

    def _trace(self, stages: _Stages) -> dict[str, object]:
        """What each stage did: every candidate in Retrieve's order, and Rank's order of them."""
        rows = []
        for candidate in stages.candidates:
            label = self.labels[candidate.position]
            score = round(candidate.score, 4)
            row = {"id": label.id, "label": label.name, "score": score}
            rows.append({**row, "evidence": candidate.evidence})
        trace: dict[str, object] = {"guesses": list(stages.guesses), "candidates": rows}
        if stages.picks is not None:
            trace["picks"] = [position + 1 for position in stages.picks]
            trace["ranking"] = [position + 1 for position in stages.order]
        return trace


def _failed(document: Document, error: Exception, usage: Usage) -> Prediction:
    failure = (type(error).__name__, str(error))
    return Prediction(document.id, "error", usage=usage, error=failure)


def _blank(document: Document) -> Prediction:
    return Prediction(document.id, "ok", notes=("the text is empty",))

"""InferRetrieveRank: the program, three stages in a row, and how it runs over documents.

In: documents. Out: one `Prediction` for each, in the order of the documents. Infer and Rank are
absent where there is no LM: the text's own phrases are the only queries then, and the order of
retrieval stays. Without LMs neither DSPy nor asyncio is imported.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irr.chunks import join_passages, split_text
from irr.errors import ConfigurationError, LMError
from irr.labels import LabelSet
from irr.phrases import phrases
from irr.prompts import Prompts, read_prompts
from irr.readahead import ReadAhead
from irr.retrieve import Retriever
from irr.types import Candidate, Document, Prediction, ScoredLabel, Usage

if TYPE_CHECKING:
    import asyncio

    from irr.infer import Infer
    from irr.rank import Rank

__all__ = ["InferRetrieveRank"]

# Documents retrieved together where no LM is waited for: enough to fill the encoder's batches.
BLOCK = 64
# Documents begun before the oldest is finished, for each LM request that may be in flight.
AHEAD = 4
# Rank's text: longer ones are shown as the passages nearest to the candidates.
RANK_TEXT_CHARS = 6_000
_PASSAGE_CHARS = 400
# Of a book the passages are longer: comparing more of them with the candidates takes minutes.
_MOST_PASSAGES = 500
_CANDIDATES_FOR_PASSAGES = 20


@dataclass(frozen=True, slots=True)
class _Stages:
    """What the stages made of one document."""

    candidates: list[Candidate]
    order: Sequence[int]
    picks: Sequence[int] | None = None
    guesses: Sequence[str] = ()
    notes: Sequence[str] = ()


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
        }
        return InferRetrieveRank(**{**same, **changes})

    def predict(self, text: str, *, top_k: int = 10, trace: bool = False) -> Prediction:
        """Tag one text. See `predict_many`."""
        (prediction,) = self.predict_many([Document("1", text)], top_k=top_k, trace=trace)
        return prediction

    def predict_many(
        self, documents: Iterable[Document], *, top_k: int = 10, trace: bool = False
    ) -> Generator[Prediction]:
        """Tag documents, which are read as they are needed. One prediction a document, in order.

        A document whose LM gave no answer becomes a prediction with status "error". Not to be
        called while an event loop runs in this thread: await `apredict` there.

        Args:
            documents: any number of them.
            top_k: labels a prediction holds at most.
            trace: put what each stage did into the predictions.

        Raises:
            LMError: with `fatal`, when no request can succeed (wrong key, unknown model); after
                the predictions of the documents that were begun.
            IrrError: whatever reading the documents raises, after the predictions of all
                documents before it.
        """
        if top_k < 1:
            raise ConfigurationError(f"top_k is at least 1, not {top_k}")
        if self.infer is None and self.rank is None:
            yield from self._retrieve_blocks(documents, top_k, trace)
        else:
            yield from self._run_ahead(documents, top_k, trace)

    async def apredict(
        self,
        document: Document,
        *,
        top_k: int = 10,
        trace: bool = False,
        fatal: list[LMError] | None = None,
    ) -> Prediction:
        """Tag one document within a running event loop.

        A fatal error is raised, or where there is a list for it, put there, and the prediction
        has status "error".
        """
        from irr.lm import count_usage, quiet_dspy

        if not document.text.strip():
            return _blank(document)
        with count_usage() as usage, quiet_dspy():
            try:
                stages = await self._stages(document.text)
            except ValueError as error:  # Half a surrogate pair: no server can be sent it.
                failure = (type(error).__name__, str(error))
                return Prediction(document.id, "error", usage=usage.total, error=failure)
            except LMError as error:
                if error.fatal and fatal is None:
                    raise
                if error.fatal and fatal is not None:
                    fatal.append(error)
                failure = (type(error).__name__, str(error))
                return Prediction(document.id, "error", usage=usage.total, error=failure)
            return self._prediction(document, stages, usage.total, top_k, trace)

    async def _stages(self, text: str) -> _Stages:
        guesses, notes = await self._infer(text)
        candidates = await self._retrieve(text, guesses)
        order, picks, more_notes = await self._rank(text, candidates)
        return _Stages(candidates, order, picks, guesses, [*notes, *more_notes])

    async def _infer(self, text: str) -> tuple[list[str], list[str]]:
        if self.infer is None:
            return [], []
        reply = await self.infer.acall(text=text)
        return reply.guesses, reply.notes

    async def _retrieve(self, text: str, guesses: Sequence[str]) -> list[Candidate]:
        import asyncio

        # In a thread: other documents' LM calls go on while this one's queries are embedded.
        return await asyncio.to_thread(self.find, text, guesses)

    async def _rank(
        self, text: str, candidates: Sequence[Candidate]
    ) -> tuple[list[int], list[int] | None, list[str]]:
        if self.rank is None:
            return list(range(len(candidates))), None, []
        import asyncio

        from irr.rank import fuse

        positions = [candidate.position for candidate in candidates]
        shown = await asyncio.to_thread(self.passages, text, positions)
        labels = [self.labels[position] for position in positions]
        reply = await self.rank.acall(text=shown, candidates=labels)
        return fuse(reply.order, self.fusion), reply.order[: reply.picked], reply.notes

    def find(self, text: str, guesses: Sequence[str] = ()) -> list[Candidate]:
        """Retrieve alone: the candidates for a text and guesses, best first."""
        return self.retriever.retrieve(phrases(text), guesses)

    def passages(self, text: str, positions: Sequence[int]) -> str:
        """What Rank sees of a text: all of it, or of a long one what is nearest to the labels.

        `positions` are those of the candidates, best first; the first few of them count.
        """
        if len(text) <= RANK_TEXT_CHARS or not positions:
            return text
        passages = split_text(text, max(_PASSAGE_CHARS, len(text) // _MOST_PASSAGES))
        first = positions[:_CANDIDATES_FOR_PASSAGES]
        encode = self.retriever.encoder.encode
        names = encode([self.labels[position].name for position in first])
        return join_passages(passages, names @ encode(passages).T, RANK_TEXT_CHARS)

    def _retrieve_blocks(
        self, documents: Iterable[Document], top_k: int, trace: bool
    ) -> Iterator[Prediction]:
        reader = ReadAhead(documents, 2 * BLOCK)
        try:
            while block := reader.take(BLOCK, wait=True):
                yield from self._retrieve_block(block, top_k, trace)
        finally:
            reader.close()
        reader.raise_failure()

    def _retrieve_block(
        self, block: Sequence[Document], top_k: int, trace: bool
    ) -> Iterator[Prediction]:
        texts = [phrases(document.text) for document in block if document.text.strip()]
        found = iter(self.retriever.retrieve_many([(text, ()) for text in texts]))
        for document in block:
            if document.text.strip():
                candidates = next(found)
                stages = _Stages(candidates, range(len(candidates)))
                yield self._prediction(document, stages, Usage(), top_k, trace)
            else:
                yield _blank(document)

    def _run_ahead(
        self, documents: Iterable[Document], top_k: int, trace: bool
    ) -> Iterator[Prediction]:
        import asyncio

        _refuse_running_loop()
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            changed = asyncio.Event()
            most = AHEAD * self.in_flight
            reader = ReadAhead(
                documents, most, on_change=lambda: loop.call_soon_threadsafe(changed.set)
            )
            running: deque[asyncio.Task[Prediction]] = deque()
            fatal: list[LMError] = []

            async def oldest() -> Prediction | None:
                """The prediction for the oldest document, more being begun while it is awaited."""
                while True:
                    changed.clear()
                    # After a fatal error what was begun is finished: some of it is paid for.
                    for document in reader.take(0 if fatal else most - len(running)):
                        task = self.apredict(document, top_k=top_k, trace=trace, fatal=fatal)
                        running.append(loop.create_task(task))
                    if running and running[0].done():
                        return running.popleft().result()
                    if not running and (fatal or reader.ended):
                        return None
                    news = asyncio.ensure_future(changed.wait())
                    waited = [news, *([running[0]] if running else [])]
                    await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
                    news.cancel()

            try:
                while (prediction := runner.run(oldest())) is not None:
                    yield prediction
            finally:
                reader.close()
                runner.run(self._drop(running))
            if fatal:
                raise fatal[0]
            reader.raise_failure()

    async def _drop(self, running: Iterable[Any]) -> None:
        """Cancel what runs and close the connections."""
        import asyncio

        tasks = list(running)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that the LMs have in the running event loop."""
        for stage in (self.infer, self.rank):
            if stage is not None:
                with contextlib.suppress(OSError):
                    await stage.predict.lm.engine.aclose()

    def _prediction(
        self, document: Document, stages: _Stages, usage: Usage, top_k: int, trace: bool
    ) -> Prediction:
        labels = tuple(
            self._scored(stages.candidates[position], position, stages)
            for position in stages.order[:top_k]
        )
        return Prediction(
            id=document.id,
            status="ok",
            labels=labels,
            guesses=tuple(stages.guesses),
            usage=usage,
            notes=tuple(stages.notes),
            trace=self._trace(stages) if trace else None,
        )

    def _scored(self, candidate: Candidate, position: int, stages: _Stages) -> ScoredLabel:
        label = self.labels[candidate.position]
        picked = None if stages.picks is None else position in stages.picks
        return ScoredLabel(label.id, label.name, candidate.score, candidate.evidence, picked)

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


def _refuse_running_loop() -> None:
    import asyncio

    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise ConfigurationError(
            "an event loop runs already, as in a notebook: write 'await program.apredict("
            "irr.Document(id, text))' there"
        )


def _blank(document: Document) -> Prediction:
    return Prediction(document.id, "ok", notes=("the text is empty",))

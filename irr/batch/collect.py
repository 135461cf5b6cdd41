"""Documents → the requests that have no reply yet.

In: a program whose LMs' replies are in a ledger, and documents. Out: what it would ask next, in
files; nothing is sent. A document is gone through as far as its replies reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from irr.batch.answers import failure_of
from irr.batch.asked import Asked, Written
from irr.batch.requests import RequestFiles
from irr.lm import ContextTooLongError, NotAskedError
from irr.lm.failures import ReplyLimitError
from irr.program import InferRetrieveRank
from irr.types import Document, Prediction

__all__ = ["Collector", "Progress", "collect_requests"]


@dataclass(slots=True)
class Progress:
    """Documents gone through: those that wait for replies, and those that will be rows with
    status "error", the first of them in `failure`; the others have all their replies.
    """

    documents: int = 0
    waiting: int = 0
    failed: int = 0
    failure: str = ""

    def add(self, prediction: Prediction) -> None:
        """Count one."""
        self.documents += 1
        if prediction.error is None:
            return
        kind, message = prediction.error
        if kind == NotAskedError.__name__:
            self.waiting += 1
            return
        self.failed += 1
        self.failure = self.failure or f"{prediction.id!r}: {message}"


def collect_requests(
    program: InferRetrieveRank,
    documents: Iterable[Document],
    collector: Collector,
    *,
    top_k: int,
    tell: Callable[[Progress], object] = lambda _: None,
) -> Progress:
    """Hand every request that has no reply to the collector.

    `tell` is called after each document. The program is of no other use afterwards.

    Raises:
        IrrError: a document cannot be read, or a request not be written.
    """
    for stage in (program.infer, program.rank):
        if stage is not None:
            stage.predict.lm.engine.collect = collector
    progress = Progress()
    for prediction in program.predict_many(documents, top_k=top_k):
        progress.add(prediction)
        tell(progress)
    return progress


class Collector:
    """Takes the requests of a round, see `irr.lm.Collect`: each is written once.

    A request that was refused in an earlier round fails here as it did there, so that what stands
    on it (the halves of a text that was too long) is asked next; `irr predict` asks for it itself.
    But one whose error may pass is written again; and one with a JSON schema, without it.

    Args:
        roles: of each model in the ledger.
    """

    def __init__(self, asked: Asked, files: RequestFiles, roles: Mapping[str, str]) -> None:
        self._asked = asked
        self._files = files
        self._roles = roles

    def __call__(self, key: str, body: dict[str, Any]) -> None:
        before = self._asked.find(key)
        if before is not None and before.round == self._asked.round:
            return
        plain = before is not None and _plain(before, body)
        if plain:
            body = {name: value for name, value in body.items() if name != "response_format"}
        self._files.write(key, body["model"], body)
        self._asked.note(key, self._roles[body["model"]], plain=plain)


def _plain(before: Written, body: Mapping[str, Any]) -> bool:
    """Whether a request that was written before goes without its schema now.

    Raises:
        LMError: it was refused, and would be again.
    """
    if before.refusal is None:
        return before.plain
    error = failure_of(before.refusal, body["model"])
    if error.retryable or error.fatal:  # A fatal one is about the key or the model's name.
        return before.plain
    about_length = isinstance(error, ContextTooLongError | ReplyLimitError)
    # As the engine does: what is refused with a schema is asked once more without.
    if before.plain or about_length or error.status not in (400, 422, 501):
        raise error
    return True

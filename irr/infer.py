"""Infer: a text → guesses, free terms worded as the label set words its labels.

The first stage of Infer–Retrieve–Rank. Its guesses need not be labels; Retrieve maps them. A text
longer than a chunk is read chunk by chunk and the guesses are pooled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import dspy

from irr.adapter import infer_signature
from irr.ask import Steps, arun, run
from irr.chunks import split_text
from irr.demos import NearestDemos
from irr.errors import LMError, ReplyError
from irr.lm import ContextTooLongError
from irr.prompts import Prompts

__all__ = ["Infer", "Inferred"]

CHUNK_CHARS = 8_000
# Some 400,000 characters, a book: a row beyond it is a mistake more often than a document.
MOST_CHUNKS = 50
_SMALLEST_CHUNK = 500


class Inferred(NamedTuple):
    """What Infer gives, see `Infer`."""

    guesses: list[str]
    notes: list[str]


class Infer(dspy.Module):
    """Asks the LM for guesses.

    Calling it gives a `dspy.Prediction` with ``guesses`` (list of str, the surest first within a
    chunk, without repeats) and ``notes`` (what did not go as planned). A reply that cannot be
    read even at the third attempt gives no guesses for its chunk, and a note. `nearest`, where
    set, chooses the demonstrations of each chunk.

    Raises:
        LMError: no answer came.
    """

    def __init__(self, prompts: Prompts, *, chunk_chars: int = CHUNK_CHARS) -> None:
        super().__init__()
        self.predict = dspy.Predict(infer_signature(prompts))
        self.chunk_chars = chunk_chars
        self.nearest: NearestDemos | None = None

    def forward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(**run(self.predict, self._steps(text))._asdict())

    async def aforward(self, text: str) -> dspy.Prediction:
        return dspy.Prediction(**(await self.ask(text))._asdict())

    async def ask(self, text: str) -> Inferred:
        """Do what calling does, past DSPy's bookkeeping: the way of a million documents."""
        return await arun(self.predict, self._steps(text))

    def _steps(self, text: str) -> Steps[Inferred]:
        notes: list[str] = []
        guesses: dict[str, str] = {}
        chunks = split_text(text, self.chunk_chars)
        if len(chunks) > MOST_CHUNKS:
            read = sum(map(len, chunks[:MOST_CHUNKS]))
            notes.append(f"Infer read the first {read:,} of {len(text):,} characters")
            chunks = chunks[:MOST_CHUNKS]
        while chunks:
            answers = yield [self._question(chunk) for chunk in chunks]
            halves: list[str] = []
            for chunk, answer in zip(chunks, answers, strict=True):
                if isinstance(answer, LMError):
                    halves += _halved(chunk, answer, notes)
                else:
                    _merge(guesses, answer)
            chunks = halves
        return Inferred(list(guesses.values()), list(dict.fromkeys(notes)))

    def _question(self, chunk: str) -> dict[str, Any]:
        demos = {"demos": self.nearest(chunk)} if self.nearest is not None else {}
        return {"text": chunk, **demos}


def _halved(chunk: str, error: LMError, notes: list[str]) -> list[str]:
    """What is left to ask after an error: the halves of a chunk that was too long, or nothing."""
    if isinstance(error, ContextTooLongError) and len(chunk) > _SMALLEST_CHUNK:
        notes.append("Infer read the text in smaller chunks: the prompt was too long for the LM")
        return split_text(chunk, -(-len(chunk) // 2))
    if isinstance(error, ReplyError):
        notes.append(f"Infer gave no guesses: {error}")
        return []
    raise error


def _merge(guesses: dict[str, str], answer: list[Any]) -> None:
    for guess in answer:
        guesses.setdefault(guess.casefold(), guess)

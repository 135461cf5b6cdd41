"""Files of answers → the ledger of a run.

In: the JSON lines that OpenAI's Batch API (its output and its error file) or vLLM's run-batch give
back, in any order. Out: replies kept under the keys of their requests and counted once; errors,
answers to requests of other runs and lines that cannot be read are counted and told of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from irr.batch.asked import Asked, Refusal, Written
from irr.errors import InputError, LMError
from irr.files import TextFile
from irr.ledger import Ledger, Reply
from irr.lm import read_completion
from irr.lm.completion import decode
from irr.lm.failures import Server
from irr.lm.settings import NO_KEY

__all__ = ["Tally", "failure_of", "read_answers"]

_MOST_SAID = 4_000


@dataclass(slots=True)
class Tally:
    """What was in the files: `replies` that are new and `repeated` ones, answers that were
    `errors`, those to requests that the run did not ask (`strangers`), `unreadable` lines.
    """

    replies: int = 0
    repeated: int = 0
    errors: int = 0
    strangers: int = 0
    unreadable: int = 0

    @property
    def problems(self) -> int:
        """How many lines brought no reply."""
        return self.errors + self.strangers + self.unreadable


class _Answer(NamedTuple):
    key: str
    outcome: Reply | Refusal


def read_answers(
    path: Path | str, asked: Asked, ledger: Ledger, tally: Tally, tell: Callable[[str], object]
) -> None:
    """Keep the replies in a file of answers.

    Args:
        path: a file, also packed (.gz); "-" is standard input.
        asked: the requests of the run.
        ledger: keeps the replies, and counts requests and tokens; its accounts are open.
        tally: is added to.
        tell: is handed a line for each problem, with file and line.

    Raises:
        InputError: the file cannot be read, here or from some line on.
        OutputError, LMError: a reply cannot be kept.
    """
    file = TextFile(path, InputError)
    try:
        for number, text in file.lines():
            if text and not text.isspace():
                try:
                    answer = _answer_in(text)
                except ValueError as error:
                    tally.unreadable += 1
                    tell(f"{file.name}:{number}: no answer of a batch: {error}")
                    continue
                if problem := _take(answer, asked, ledger, tally):
                    tell(f"{file.name}:{number}: {answer.key}: {problem}")
    finally:
        asked.commit()


def failure_of(refusal: Refusal, model: str) -> LMError:
    """The error that the same answer would have been, had the server been asked directly."""
    return Server("the batch", model, NO_KEY).failure(refusal.status, {}, refusal.said)


def _take(answer: _Answer, asked: Asked, ledger: Ledger, tally: Tally) -> str | None:
    """Keep and count an answer. What is wrong with it, if anything is."""
    key, outcome = answer
    request = asked.find(key)
    if request is None:
        tally.strangers += 1
        return f"no request of {asked.path} has this custom_id: is the answer of another run?"
    if ledger.find(request.role, key) is not None:
        tally.repeated += 1
        return None
    if isinstance(outcome, Reply):
        ledger.put(key, outcome, request.role)
        asked.answer(key)
        tally.replies += 1
        return None
    tally.errors += 1
    _count_failure(request, ledger)
    asked.answer(key, outcome)
    return str(failure_of(outcome, ledger.models()[request.role]))


def _count_failure(request: Written, ledger: Ledger) -> None:
    """Count a request that failed, once however often its answer is read."""
    if not request.answered:
        ledger.failed(request.role, ledger.begin(request.role))


def _answer_in(text: str) -> _Answer:
    """The answer in a line.

    Raises:
        ValueError: there is none.
    """
    try:
        row = decode(text.encode())
    except ValueError as error:
        raise ValueError(f"malformed JSON: {error}") from None
    if not isinstance(row, dict) or not isinstance(row.get("custom_id"), str):
        raise ValueError("it has no custom_id")
    response = row.get("response")
    if response is not None and not isinstance(response, dict):
        raise ValueError("its response is no object")
    if not response and not row.get("error"):
        raise ValueError("it has neither response nor error")
    return _Answer(row["custom_id"], _outcome(response or {}, row.get("error")))


def _outcome(response: Mapping[str, Any], error: object) -> Reply | Refusal:
    status, body = response.get("status_code"), response.get("body")
    status = status if type(status) is int and 0 <= status < 1000 else 0
    if 200 <= status < 300 and not error:
        try:
            return read_completion(body if isinstance(body, dict) else {})
        except ValueError as why:
            error = f"no chat completion: {why}"
            body = None if not isinstance(body, dict) or not body.get("error") else body
    told = body if isinstance(body, dict) and body else error
    said = told if isinstance(told, dict) else {"error": str(told)}
    return Refusal(status, json.dumps(said).encode()[:_MOST_SAID])

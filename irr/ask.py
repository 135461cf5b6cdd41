"""Asking: the questions of a stage to its LM, each once more, differently, when a reply is no use.

A stage writes its logic once, as a generator of `Steps`: it yields lists of questions (the inputs
of its predictor) and is sent the answers. `run` drives it synchronously, the way DSPy's
optimizers call modules; `arun` drives it asynchronously, asking the questions of a list at the
same time. An answer is the value of the output field, or an `LMError` for the stage to deal with:
`ReplyError` when the LM answered twice and neither answer could be read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeAlias, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from irr.adapter import ListAdapter
from irr.errors import LMError, ReplyError
from irr.lm import CutOffError, as_irr_error
from irr.replies import excerpt

__all__ = ["Answer", "Steps", "Usable", "arun", "run"]

Answer: TypeAlias = "list[Any] | LMError"
Result = TypeVar("Result")
# Whether a value that could be read is an answer to its question.
Usable: TypeAlias = Callable[[dict[str, Any], list[Any]], bool]
Steps: TypeAlias = Generator[list[dict[str, Any]], list[Answer], Result]

_REMINDER = (
    "\n\nYour last answer could not be read. Answer with one JSON object and nothing else: no "
    "explanation, no code fence."
)
_SECOND_TEMPERATURE = 0.7
_ADAPTER = ListAdapter()


def _any_value(question: dict[str, Any], value: list[Any]) -> bool:  # noqa: ARG001
    return True


def run(predict: dspy.Predict, steps: Steps[Result], usable: Usable = _any_value) -> Result:
    """Drive a stage, one question after the other."""
    try:
        questions = next(steps)
        while True:
            questions = steps.send([_ask(predict, question, usable) for question in questions])
    except StopIteration as stop:
        result: Result = stop.value
        return result


async def arun(predict: dspy.Predict, steps: Steps[Result], usable: Usable = _any_value) -> Result:
    """Drive a stage, the questions of a step at the same time."""
    try:
        questions = next(steps)
        while True:
            answers = await asyncio.gather(
                *(_aask(predict, question, usable) for question in questions)
            )
            questions = steps.send(list(answers))
    except StopIteration as stop:
        result: Result = stop.value
        return result


def _ask(predict: dspy.Predict, question: dict[str, Any], usable: Usable) -> Answer:
    with dspy.context(adapter=_ADAPTER):
        try:
            try:
                with _our_errors():
                    return _value(predict(**question), question, usable)
            except ReplyError as error:
                with _our_errors():
                    reply = predict(**question, **_differently(predict, error))
                    return _value(reply, question, usable)
        except LMError as error:
            return error


async def _aask(predict: dspy.Predict, question: dict[str, Any], usable: Usable) -> Answer:
    with dspy.context(adapter=_ADAPTER):
        try:
            try:
                with _our_errors():
                    return _value(await predict.acall(**question), question, usable)
            except ReplyError as error:
                with _our_errors():
                    reply = await predict.acall(**question, **_differently(predict, error))
                    return _value(reply, question, usable)
        except LMError as error:
            return error


def _value(reply: dspy.Prediction, question: dict[str, Any], usable: Usable) -> list[Any]:
    (value,) = reply.toDict().values()
    if not usable(question, value):
        raise ReplyError(f"the LM's answer is not one of those asked for: {excerpt(str(value))}")
    return list(value)


def _differently(predict: dspy.Predict, error: ReplyError) -> dict[str, Any]:
    """Arguments of the second attempt: a reminder, some randomness; after a cut-off, more room."""
    lm = predict.lm or dspy.settings.lm
    config: dict[str, Any] = {}
    if lm is not None and lm.kwargs.get("temperature") is not None:
        config["temperature"] = max(_SECOND_TEMPERATURE, lm.kwargs["temperature"])
    if isinstance(error, CutOffError) and lm is not None and lm.kwargs.get("max_tokens"):
        config["max_tokens"] = 4 * lm.kwargs["max_tokens"]
    signature = predict.signature
    instructions = signature.instructions + _REMINDER
    return {"signature": signature.with_instructions(instructions), "config": config}


@contextlib.contextmanager
def _our_errors() -> Iterator[None]:
    """Turn the errors that DSPy wraps around ours back into ours."""
    try:
        yield
        return
    except (AdapterParseError, DSPyLMError) as error:
        ours = as_irr_error(error)
        if ours is None and isinstance(error, AdapterParseError):
            ours = ReplyError("the LM's reply is empty")
        elif ours is None:
            ours = LMError(f"the LM could not be asked: {error}")
    # Not from within the handler: DSPy's error would become a cause of its own cause.
    raise ours

"""Asking: the questions of a stage to its LM, each up to three times when a reply is no use.

A stage writes its logic once, as a generator of `Steps`: it yields lists of questions (the inputs
of its predictor) and is sent the answers. `run` drives it synchronously through DSPy, the way its
optimizers call modules and trace them; `arun` drives it asynchronously, asking the questions of a
list at the same time, and goes to the engine itself, which takes a fraction of the time. Both send
the same requests. An answer is the value of the output field, or an `LMError` for the stage to
deal with: `ReplyError` when no answer of the LM could be read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeAlias, TypeVar

import dspy
from dspy.utils.exceptions import AdapterParseError
from dspy.utils.exceptions import LMError as DSPyLMError

from irr.adapter import ListAdapter, read_list, response_format
from irr.errors import ConfigurationError, LMError, ReplyError
from irr.lm import CutOffError, Engine, as_irr_error, chat_body
from irr.replies import excerpt

__all__ = ["Answer", "Steps", "Usable", "arun", "run"]

Answer: TypeAlias = "list[Any] | LMError"
Result = TypeVar("Result")
# Whether a value that could be read is an answer to its question.
Usable: TypeAlias = Callable[[dict[str, Any], list[Any]], bool]
Steps: TypeAlias = Generator[list[dict[str, Any]], list[Answer], Result]

_AGAIN = "Answer with one JSON object and nothing else: no explanation, no code fence."
# What each further attempt adds to the instructions. Each is another request than the one before:
# a server's cache or the ledger would give the same reply to the same one.
_REMINDERS = (
    f"\n\nYour last answer could not be read. {_AGAIN}",
    f"\n\nYour last two answers could not be read. {_AGAIN}",
)
_LATER_TEMPERATURE = 0.7
_MORE_ROOM = 4
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
    """Drive a stage, the questions of a step at the same time.

    Raises:
        ConfigurationError: the LM is not one that `irr.lm.open_lm` made.
    """
    try:
        questions = next(steps)
        while True:
            if len(questions) == 1:
                answers = [await _aask(predict, questions[0], usable)]
            else:
                asked = (_aask(predict, question, usable) for question in questions)
                answers = await asyncio.gather(*asked)
            questions = steps.send(answers)
    except StopIteration as stop:
        result: Result = stop.value
        return result


def _ask(predict: dspy.Predict, question: dict[str, Any], usable: Usable) -> Answer:
    kwargs = _lm_of(predict).kwargs
    errors: list[ReplyError] = []
    while True:
        changes = _differently(predict.signature, kwargs, errors) if errors else {}
        try:
            with dspy.context(adapter=_ADAPTER), _our_errors():
                (value,) = predict(**question, **changes).toDict().values()
            return _used(value, question, usable)
        except ReplyError as error:
            errors.append(error)
            if len(errors) > len(_REMINDERS):
                return error
        except LMError as error:
            return error


async def _aask(predict: dspy.Predict, question: dict[str, Any], usable: Usable) -> Answer:
    lm = _lm_of(predict)
    if not isinstance(lm.engine, Engine):
        raise ConfigurationError(f"{lm.model!r} was not made by irr.lm.open_lm: use that")
    inputs = {name: value for name, value in question.items() if name != "demos"}
    demos = question.get("demos", predict.demos)
    errors: list[ReplyError] = []
    while True:
        signature, options = predict.signature, {**lm.kwargs, **predict.config}
        if errors:
            changes = _differently(signature, lm.kwargs, errors)
            signature, options = changes["signature"], {**options, **changes["config"]}
        options.setdefault("response_format", response_format(signature, inputs))
        messages = _ADAPTER.format(signature, demos, inputs)
        try:
            reply = await lm.engine.ask(chat_body(lm.model, messages, options))
            return _used(read_list(signature, reply.content), question, usable)
        except ReplyError as error:
            errors.append(error)
            if len(errors) > len(_REMINDERS):
                return error
        except LMError as error:
            return error


def _lm_of(predict: dspy.Predict) -> Any:
    lm = predict.lm or dspy.settings.lm
    if lm is None:
        raise ConfigurationError("the stage has no LM: set one that irr.lm.open_lm made")
    return lm


def _used(value: Any, question: dict[str, Any], usable: Usable) -> list[Any]:
    if not usable(question, value):
        raise ReplyError(f"the LM's answer is not one of those asked for: {excerpt(str(value))}")
    return list(value)


def _differently(signature: Any, kwargs: dict[str, Any], errors: list[ReplyError]) -> Any:
    """Arguments of a further attempt: a reminder, some randomness; after a cut-off, more room."""
    config: dict[str, Any] = {}
    if kwargs.get("temperature") is not None:
        config["temperature"] = max(_LATER_TEMPERATURE, kwargs["temperature"])
    if kwargs.get("max_tokens") and any(isinstance(error, CutOffError) for error in errors):
        config["max_tokens"] = _MORE_ROOM * kwargs["max_tokens"]
    instructions = signature.instructions + _REMINDERS[len(errors) - 1]
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

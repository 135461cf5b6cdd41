"""Chat completions as bytes: a request's body → JSON, a reply's JSON → `Reply`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from irr.errors import LMError
from irr.ledger import Reply

__all__ = ["chat_body", "decode", "encode", "read_completion"]

# What DSPy reads from an LM's arguments for itself.
_NOT_SENT = {"cache", "n", "num_generations", "prompt_cache", "rollout_id", "max_completion_tokens"}
# In the order in which DSPy's own dialect writes them: the same question has the same bytes.
_FIRST = ("max_tokens", "temperature", "top_p", "seed", "frequency_penalty", "presence_penalty")


def chat_body(
    model: str, messages: Sequence[Mapping[str, Any]], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The body of a chat completion. Options that are None are left to the server.

    The limit on the reply is always "max_tokens"; the engine writes it as its server wants it.
    """
    body: dict[str, Any] = {"model": model.removeprefix("openai/"), "messages": messages}
    limit = options.get("max_tokens") or options.get("max_completion_tokens")
    for name, value in (("max_tokens", limit), *((name, options.get(name)) for name in _FIRST[1:])):
        if value is not None:
            body[name] = value
    for name, value in options.items():
        if value is not None and name not in _NOT_SENT and name not in body:
            body[name] = value
    return body


def encode(body: Mapping[str, Any]) -> bytes:
    """A body as it is sent.

    Raises:
        LMError: it holds text that is not valid Unicode.
    """
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise LMError(
            f"the request cannot be written as JSON ({error}): a text that holds half a "
            "surrogate pair must be repaired first"
        ) from None


def decode(body: bytes) -> Any:
    """The value in a JSON text. Half a surrogate pair in it becomes a question mark.

    Raises:
        ValueError: it is not JSON, or nested too deeply.
    """
    try:
        return orjson.loads(body)
    except ValueError:
        pass
    try:  # Slower, and takes escapes of half a surrogate pair.
        told = json.loads(body)
        return orjson.loads(json.dumps(told, ensure_ascii=False).encode("utf-8", "replace"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_completion(body: bytes | Mapping[str, Any]) -> Reply:
    """The first choice of a chat completion. Token counts that are none count as 0.

    Raises:
        ValueError: it is no chat completion.
    """
    told = decode(body) if isinstance(body, bytes) else body
    if not isinstance(told, Mapping):
        raise ValueError(f"a JSON {type(told).__name__}")
    choices = told.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise ValueError("it has no choices")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise ValueError("its choice has no message")
    content, refusal = message.get("content"), message.get("refusal")
    if content is not None and not isinstance(content, str):
        raise ValueError("its content is no text")
    reason = choices[0].get("finish_reason")
    usage = told.get("usage")
    return Reply(
        content=content or "",
        finish_reason=reason if reason in ("length", "content_filter") else "stop",
        refusal=refusal if isinstance(refusal, str) and not content else None,
        input_tokens=_tokens(usage, "prompt_tokens"),
        output_tokens=_tokens(usage, "completion_tokens"),
    )


def _tokens(usage: object, name: str) -> int:
    count = usage.get(name) if isinstance(usage, dict) else None
    return count if type(count) is int and 0 <= count < 2**53 else 0

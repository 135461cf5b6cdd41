"""DSPy's requests and responses (lm15) ↔ the body of a chat completion and our `Reply`."""

from __future__ import annotations

import functools
from typing import Any

from dspy import lm15
from dspy.lm15 import OpenAIChatCompat, Request, Response

from irr.ledger import Reply

__all__ = ["body_of", "response_of"]


def body_of(request: Request) -> dict[str, Any]:
    """The body that DSPy's own dialect gives a request, as `irr.lm.chat_body` writes it."""
    body: dict[str, Any] = _dialect()._payload(request, stream=False)
    return {**body, "model": body["model"].removeprefix("openai/")}


def response_of(reply: Reply, request: Request) -> Response:
    """A reply as DSPy reads it."""
    return Response(
        id=None,
        model=request.model,
        message=lm15.Message.assistant(reply.content),
        finish_reason="stop",
        usage=lm15.Usage(
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            total_tokens=reply.input_tokens + reply.output_tokens,
        ),
    )


@functools.cache
def _dialect() -> Any:
    compat = OpenAIChatCompat(instruction_role="system", max_tokens_field="max_tokens")
    return lm15.OpenAIChatLM(api_key="unused", compat=compat)

"""The LM behind a name: connections, limits, retries, usage.

In: a name (``openai/MODEL``, or any model of an OpenAI-compatible server given by `api_base`) and
keys from the environment. Out: a `dspy.LM` whose engine asks the server.

    settings    what the name, the address and the environment say
    client      HTTP over connections that are kept open
    completion  a request's body as bytes, a reply's bytes as `Reply`
    failures    a status or an exception → `LMError`
    usage       what the replies of a document cost
    limiter     how many requests may be in flight
    commits     replies that come in together are kept together
    engine      one request: the ledger, its turn, its attempts
    binding     the `dspy.LM`; `requests` turns DSPy's requests into bodies
"""

from __future__ import annotations

from irr.ledger import Reply
from irr.lm.binding import open_lm, quiet_dspy
from irr.lm.completion import chat_body, read_completion
from irr.lm.engine import ATTEMPTS, Collect, Engine
from irr.lm.failures import (
    ContextTooLongError,
    CutOffError,
    NotAskedError,
    RateLimitError,
    as_irr_error,
)
from irr.lm.limiter import order
from irr.lm.settings import LMSettings
from irr.lm.usage import UsageCount, count_usage

__all__ = [
    "ATTEMPTS",
    "Collect",
    "ContextTooLongError",
    "CutOffError",
    "Engine",
    "LMSettings",
    "NotAskedError",
    "RateLimitError",
    "Reply",
    "UsageCount",
    "as_irr_error",
    "chat_body",
    "count_usage",
    "open_lm",
    "order",
    "quiet_dspy",
    "read_completion",
]

"""What went wrong with a request, as an `LMError`: from a status and a body, or an exception.

The message is in our words and the server's, never with a key in it. Which failures are worth
another attempt, and which end a run, is decided here and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import random
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from irr.errors import LMError, ReplyError
from irr.lm.completion import decode
from irr.lm.settings import NO_KEY

__all__ = [
    "LONGEST_WAIT",
    "ContextTooLongError",
    "CutOffError",
    "NotAskedError",
    "RateLimitError",
    "ReplyLimitError",
    "Server",
    "UnreachableError",
    "as_irr_error",
    "retry_after",
    "wait_after",
]

# A server that asks for a longer wait, in seconds, ends the run: a person decides then.
LONGEST_WAIT = 600.0
_TOO_LONG_CODE = "context_length_exceeded"
# What vLLM answers with HTTP 400, where OpenAI sends the code.
_TOO_LONG = ("maximum context length", "longer than the maximum model length")
# The same about a limit on the reply that no prompt could fit beside.
_LIMIT_TOO_HIGH = re.compile(r"max_tokens=\d+ cannot be greater than max_model_len=(\d+)")
_HINT = "; does the address end with /v1?"
_NO_MODEL = {"model_not_found", "model_not_available", "unsupported_model", "DeploymentNotFound"}
# Several servers send them with HTTP 429, where waiting does not help.
_NO_MONEY = {"insufficient_quota", "exceeded_current_quota_error", "1113"}
_BAD_KEY = {"invalid_api_key", "authentication_error"}
_TOO_MANY = {"rate_limit_exceeded", "rate_limit_error", "too_many_requests", "no_capacity"}


class ContextTooLongError(LMError):
    """The prompt does not fit the model's context: the stage shortens it and asks again."""


class ReplyLimitError(LMError):
    """The server allows no reply as long as was asked for; `context` is the model's, in tokens."""

    def __init__(self, message: str, context: int) -> None:
        super().__init__(message, status=400)
        self.context = context


class CutOffError(ReplyError):
    """The reply reached the limit on its length: it is asked for again with more room."""


class RateLimitError(LMError):
    """The server takes no more requests now (HTTP 429)."""


class UnreachableError(LMError):
    """No connection came about, so nothing was asked. `refused`: not by a time-out."""

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message, retryable=True, fatal=refused)
        self.refused = refused


class WebPageError(LMError):
    """The address is that of something else than an LM."""

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=True)


class NotAskedError(LMError):
    """The request was collected instead of sent."""


def as_irr_error(error: BaseException) -> LMError | None:
    """The `LMError` that DSPy wrapped into an error of its own, or None."""
    return next((cause for cause in _causes(error) if isinstance(cause, LMError)), None)


@dataclass(frozen=True)
class Server:
    """Who was asked: its address, the model's name, and the key, which no message may show."""

    base: str
    model: str
    key: str

    def failure(self, status: int, headers: Mapping[str, str], body: bytes) -> LMError:
        """What an answer other than 2xx says; also a 200 whose body is an error."""
        code, kind, said = _error_in(body, status)
        said = self._cleaned(said)
        http = f"HTTP {status}" if status >= 300 else "an error"
        if 300 <= status < 400:
            where = self._cleaned(headers.get("Location", "another address"))
            message = f"{self.base} answered {http}: moved to {where}: give that as --api-base"
            return LMError(message, fatal=True, status=status)
        if limit := _LIMIT_TOO_HIGH.search(said):
            return ReplyLimitError(said, int(limit[1]))
        codes = {code, kind}
        too_long = status in (400, 404, 409, 413, 422) and any(part in said for part in _TOO_LONG)
        if code == _TOO_LONG_CODE or too_long:
            advice = "shorten the examples, or serve the model with a longer context"
            message = f"the prompt is too long for {self.model!r} ({advice}): {said}"
            return ContextTooLongError(message, status=status)
        if codes & _NO_MODEL or status == 404:
            path = urlsplit(self.base).path.strip("/")
            hint = "" if path else _HINT
            message = f"{self.base} has no model {self.model!r} ({http}): {said}{hint}"
            return LMError(message, fatal=True, status=status)
        if codes & _NO_MONEY or status == 402:
            return LMError(f"{self.base} asks for payment: {said}", fatal=True, status=status)
        if codes & _BAD_KEY or status in (401, 403):
            advice = "set OPENAI_API_KEY to a valid key"
            message = f"the key was refused by {self.base} ({http}): {advice}"
            return LMError(message, fatal=True, status=status)
        if codes & _TOO_MANY or status in (408, 429) or status < 300 or status >= 500:
            return self._transient(status, headers, f"{self.base} answered {http}", said, codes)
        return LMError(f"{self.base} refused the request ({http}): {said}", status=status)

    def _transient(
        self, status: int, headers: Mapping[str, str], answered: str, said: str, codes: set[str]
    ) -> LMError:
        if status == 501:  # What is not implemented will not be in a second either.
            return LMError(f"{self.base} refused the request (HTTP 501): {said}", status=status)
        wait = retry_after(headers)
        if wait is not None and wait > LONGEST_WAIT:
            message = f"{self.base} asks to wait {wait:,.0f} s (HTTP {status}): run again then"
            return LMError(message, fatal=True, status=status)
        limited = status == 429 or bool(codes & _TOO_MANY)
        error = RateLimitError if limited else LMError
        return error(f"{answered}: {said}", retryable=True, retry_after=wait, status=status)

    def unreadable(self, why: str, headers: Mapping[str, str], body: bytes) -> LMError:
        """A body that is no chat completion, though its status is good."""
        with contextlib.suppress(ValueError):
            told = decode(body)
            if isinstance(told, dict) and told.get("error"):
                return self.failure(200, headers, body)
        if body.lstrip()[:1] == b"<":
            hint = "" if urlsplit(self.base).path.strip("/") else _HINT
            return WebPageError(f"{self.base} answered with a web page, not as an LM{hint}")
        return self._unreadable(why)

    def _unreadable(self, why: str) -> LMError:
        message = f"{self.base} sent a reply that is no chat completion: {self._cleaned(why)}"
        return LMError(message, retryable=True)

    def no_answer(self, error: Exception) -> LMError:
        """What kept an answer from coming."""
        said = self._cleaned(str(error) or type(error).__name__)
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            message = f"no answer from {self.base}: connecting took too long"
            return UnreachableError(message, refused=False)
        if isinstance(error, asyncio.TimeoutError):
            message = f"no answer from {self.base} in time: raise --timeout for a slow server"
            return LMError(message, retryable=True)
        if isinstance(error, aiohttp.ClientConnectorError):
            return UnreachableError(f"no answer from {self.base}: {said}", refused=True)
        if isinstance(error, aiohttp.ClientPayloadError):
            return self._unreadable(said)
        return LMError(f"no answer from {self.base}: {said}", retryable=True)

    def _cleaned(self, said: str) -> str:
        return _first_line(said if self.key == NO_KEY else said.replace(self.key, "…"))


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait, at least 0: from a number or an HTTP date."""
    for name, unit in (("Retry-After-Ms", 1e-3), ("Retry-After", 1.0)):
        value = headers.get(name, "").strip()
        try:
            return max(0.0, float(value) * unit)
        except ValueError:
            pass
        try:
            return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
        except (ValueError, OverflowError):
            pass
    return None


def wait_after(error: LMError, times: int, longest: float) -> float:
    """Seconds before the next attempt after the failure number `times`: doubling from one second
    up to `longest`, with jitter, and never less than the server asked for.
    """
    own = min(float(2 ** min(times - 1, 16)), longest) * random.uniform(0.75, 1.25)
    asked = error.retry_after
    return own if asked is None or asked < own else asked + random.uniform(0.0, 0.5)


def _error_in(body: bytes, status: int) -> tuple[str, str, str]:
    """(code, type, message) of an error's body, whatever its shape."""
    try:
        told = decode(body)
    except ValueError:
        return "", "", body[:2000].decode("utf-8", "replace").strip() or f"HTTP {status}"
    error = told.get("error", told) if isinstance(told, dict) else told
    if not isinstance(error, dict):
        return "", "", str(error)[:2000]
    code, kind = str(error.get("code") or ""), str(error.get("type") or "")
    said = str(error.get("message") or error.get("detail") or "")
    if code and code != str(status) and code not in said:
        said = f"{said} ({code})".strip()
    return code, kind, said


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what is behind it; causes may form a ring, which is gone through once."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        yield cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__


def _first_line(text: str) -> str:
    line = next((part.strip() for part in text.splitlines() if part.strip()), "no reason given")
    return line if len(line) <= 300 else line[:300] + "…"

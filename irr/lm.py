"""The LM behind a name: connections, retries, usage. DSPy asks it through its engine interface.

In: a name (``openai/MODEL``, or any model of an OpenAI-compatible server given by `api_base`) and
keys from the environment. Out: a `dspy.LM` whose engine is ours, so that the number of requests
in flight, the waiting after a 429 and the count of tokens are decided here and nowhere else.
DSPy's cache, history and retries are off; its fall-back to other clients cannot happen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import re
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary, WeakValueDictionary

import dspy
from dspy import lm15
from dspy._vendor.lm15.serde import request_to_dict, response_from_dict, response_to_dict
from dspy.lm15 import OpenAIChatCompat, Request, Response
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from irr.errors import ConfigurationError, LMError, ReplyError
from irr.ledger import Ledger
from irr.replies import excerpt
from irr.types import Usage

__all__ = [
    "ContextTooLongError",
    "Engine",
    "LMSettings",
    "UsageCount",
    "as_irr_error",
    "count_usage",
    "open_lm",
    "quiet_dspy",
]

logger = logging.getLogger(__name__)

OPENAI_BASE = "https://api.openai.com/v1"
# Waits double from one second: five of them outlast the restart of a server (31 s).
ATTEMPTS = 6
LONGEST_WAIT = 600.0
_WORTH_SAYING = 20.0
# What vLLM answers with HTTP 400, where OpenAI sends a code that lm15 knows.
_TOO_LONG = ("maximum context length", "longer than the maximum model length")
# The same about a limit on the reply that no prompt could fit beside.
_LIMIT_TOO_HIGH = re.compile(r"max_tokens=\d+ cannot be greater than max_model_len=(\d+)")
# 403s and 404s in a row, after good answers, that end a run: the key or the model is gone.
_MOST_REFUSALS = 5
# Calls in a row of which every attempt failed, half a minute each, that end a run.
_MOST_EXHAUSTED = 8
# What servers that want no key are sent, since some want the header.
_NO_KEY = "EMPTY"


# What lm15 raises, and what it stumbles over in bodies that are no chat completion.
_FORESEEN = (
    lm15.LM15Error,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    OSError,
    RecursionError,
)


@dataclass(frozen=True, slots=True)
class LMSettings:
    """How to reach an LM.

    `name` is ``openai/MODEL`` or, with `api_base`, the name under which the server has the model.
    `timeout` is the longest wait for the next byte of a reply, in seconds; `max_in_flight` the
    most requests at once. `max_tokens` bounds a reply and `temperature` its randomness; None
    leaves both to the server (reasoning models of OpenAI accept nothing else).
    """

    name: str
    api_base: str | None = None
    timeout: float = 120.0
    max_in_flight: int = 32
    max_tokens: int | None = 1024
    temperature: float | None = 0.0


class UsageCount:
    """A running count of `Usage`, shared by the calls made inside one `count_usage` block."""

    def __init__(self) -> None:
        self.total = Usage()


_counting: ContextVar[UsageCount | None] = ContextVar("irr_usage", default=None)


@contextlib.contextmanager
def count_usage() -> Iterator[UsageCount]:
    """Count the LM calls made inside the block, also by tasks it starts."""
    count = UsageCount()
    token = _counting.set(count)
    try:
        yield count
    finally:
        _counting.reset(token)


@contextlib.contextmanager
def quiet_dspy() -> Iterator[None]:
    """DSPy without its history and trace, which grow by every call and copy every prompt."""
    with dspy.context(disable_history=True, trace=None):
        yield


def open_lm(
    settings: LMSettings, *, ledger: Ledger | None = None, role: str = "student"
) -> dspy.LM:
    """Make the LM that `settings` names. Nothing is sent yet.

    With a `ledger`, its replies are kept there and its calls counted under `role`.

    Raises:
        ConfigurationError: the name fits no LM, or a key is missing.
    """
    base, model, key = _resolve(settings)
    reasoning = _is_reasoning_model(model)
    if ledger is not None:
        ledger.open_account(role, model)
    engine = Engine(
        base,
        key,
        timeout=settings.timeout,
        max_in_flight=settings.max_in_flight,
        ledger=ledger,
        role=role,
    )
    return dspy.LM(
        # The prefix only tells DSPy which family of arguments the model takes.
        model=f"openai/{model}",
        temperature=None if reasoning else settings.temperature,
        max_tokens=None if reasoning else settings.max_tokens,
        cache=False,
        num_retries=0,
        engine=engine,
        async_engine=AsyncEngine(engine),
    )


def _resolve(settings: LMSettings) -> tuple[str, str, str]:
    """(base URL, model, key) of an LM."""
    provider, slash, rest = settings.name.partition("/")
    base = settings.api_base or os.environ.get("OPENAI_BASE_URL")
    if slash and provider == "vllm":
        raise ConfigurationError(
            f"{settings.name!r}: this version does not start vLLM by itself; run "
            f"'vllm serve {rest}' and give --lm {rest} --api-base http://127.0.0.1:8000/v1"
        )
    if base is not None:
        _check_address(base)
    model = rest if provider == "openai" and slash else settings.name
    if base is None and not (provider == "openai" and slash):
        raise ConfigurationError(
            f"unknown LM {settings.name!r}: use none, openai/MODEL, or the model's name together "
            "with --api-base URL for a local vLLM or another OpenAI-compatible server"
        )
    if not model:
        raise ConfigurationError(f"--lm {settings.name!r} names no model: write openai/MODEL")
    return base or OPENAI_BASE, model, _key(settings.name, needed=base is None)


def _check_address(base: str) -> None:
    parts = urlsplit(base)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "--api-base holds a user name or password, which would show in messages: leave them "
            "out, and give a key as OPENAI_API_KEY"
        )
    try:
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or any(char.isspace() for char in base):
        raise ConfigurationError(
            f"--api-base {base!r} is no address: it begins with http:// or https:// "
            "and usually ends with /v1"
        )


def _key(name: str, *, needed: bool) -> str:
    """The key from the environment. Messages never quote it."""
    for variable in ("IRR_API_KEY", "OPENAI_API_KEY"):
        key = os.environ.get(variable, "").strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigurationError(
                f"{variable} holds a character that no key has (a line break or blank inside, or "
                "one that is not ASCII): set it again"
            )
        if key:
            return key
    if needed:
        raise ConfigurationError(
            f"no key for {name!r}: set OPENAI_API_KEY in the environment "
            "(or --api-base for a server of your own)"
        )
    return _NO_KEY


def _is_reasoning_model(model: str) -> bool:
    from dspy.clients.lm import _is_openai_reasoning_model

    return bool(_is_openai_reasoning_model(model))


class Engine:
    """One server, asked through lm15's OpenAI dialect, with retries. Safe to share by threads.

    Retried, up to `ATTEMPTS` times in all: 429 and 5xx (never before Retry-After has passed),
    resets, time-outs and bodies that cannot be read. A server that has never answered is not
    asked again when it refuses the connection: the address is wrong, and a person is waiting.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout: float,
        max_in_flight: int,
        ledger: Ledger | None = None,
        role: str = "",
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._key = key
        self._timeouts = lm15.Timeouts(connect=10.0, read=timeout, write=timeout, pool=None)
        self._max_in_flight = max_in_flight
        self._ledger = ledger
        self._role = role
        self._schema_refused = False
        self._answered = False
        self._reply_limit: int | None = None
        self._refusals = self._exhausted = 0
        self._threads = threading.BoundedSemaphore(max_in_flight)
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )
        # Locks vanish when nobody holds or awaits them.
        self._asking: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._aasking: WeakValueDictionary[tuple[int, str], Any] = WeakValueDictionary()
        self._lock = threading.Lock()
        self._client: lm15.OpenAIChatLM | None = None
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, lm15.AsyncOpenAIChatLM] = (
            WeakKeyDictionary()
        )

    def __repr__(self) -> str:
        return f"Engine({self.base_url!r})"

    def __deepcopy__(self, memo: dict[int, object]) -> Engine:
        return self  # Optimizers copy programs by the dozen; connections are shared.

    def complete(self, request: Request) -> Response:
        """Ask, with retries; DSPy's synchronous path."""
        wire, key = self._wire(request), self._key_of(request)
        with self._alone(key):
            kept = self._kept(key)
            if kept is not None:
                return self._checked(kept, request)
            try:
                response = self._complete(wire, key)
            except ReplyLimitError:
                response = self._complete(self._wire(request), key)
            except LMError as error:
                if not _suggests_schema_refusal(error, wire):
                    raise
                response = self._complete(_without_schema(wire), key)
                self._remember_schema_refusal()
        return self._checked(response, request)

    async def acomplete(self, request: Request) -> Response:
        """Ask, with retries; DSPy's asynchronous path."""
        wire, key = self._wire(request), self._key_of(request)
        async with self._aalone(key):
            kept = self._kept(key)
            if kept is not None:
                return self._checked(kept, request)
            try:
                response = await self._acomplete(wire, key)
            except ReplyLimitError:
                response = await self._acomplete(self._wire(request), key)
            except LMError as error:
                if not _suggests_schema_refusal(error, wire):
                    raise
                response = await self._acomplete(_without_schema(wire), key)
                self._remember_schema_refusal()
        return self._checked(response, request)

    def _checked(self, response: Response, request: Request) -> Response:
        """A reply that can be read, or `ReplyError` with what the LM said instead of answering."""
        if response.finish_reason == "length":
            limit, written = self._limit(request), response.usage.output_tokens
            if limit is not None and written is not None and written < limit // 2:
                # The server clamps a reply to what the prompt leaves of the context.
                raise ContextTooLongError(f"the prompt leaves {written} tokens for the LM's reply")
            at = f" at {written or limit} tokens" if written or limit else ""
            raise CutOffError(f"the LM's reply was cut off{at}")
        if response.finish_reason == "content_filter":
            raise ReplyError("the server's content filter held the LM's reply back")
        if not response.message.text:
            refused = next(
                (part for part in response.message.parts if part.type == "refusal"), None
            )
            if refused is not None:
                raise ReplyError(f"the LM refused: {excerpt(refused.text)}")
        return response

    def _alone(self, key: str) -> contextlib.AbstractContextManager[Any]:
        """Of the same request in several threads one is sent, the others find its reply kept."""
        if self._ledger is None:
            return contextlib.nullcontext()
        with self._lock:
            lock: contextlib.AbstractContextManager[Any]
            lock = self._asking.setdefault(key, threading.Lock())
            return lock

    def _aalone(self, key: str) -> contextlib.AbstractAsyncContextManager[Any]:
        if self._ledger is None:
            return contextlib.nullcontext()
        with self._lock:
            lock: contextlib.AbstractAsyncContextManager[Any]
            loop = id(asyncio.get_running_loop())
            lock = self._aasking.setdefault((loop, key), asyncio.Lock())
            return lock

    def _complete(self, request: Request, key: str) -> Response:
        with self._remembered_failure():
            for attempt in Retrying(**self._policy()):
                with attempt, self._threads, self._counted(request), self._translated(request):
                    response = self._sync_client().complete(request)
                    return self._accept(response, key)
        raise AssertionError("tenacity raises or returns")

    async def _acomplete(self, request: Request, key: str) -> Response:
        with self._remembered_failure():
            async for attempt in AsyncRetrying(**self._policy()):
                with attempt:
                    # Counted when it is sent, not while it waits for its turn.
                    async with self._turn():
                        with self._counted(request), self._translated(request):
                            response = await self._async_client().complete(request)
                            return self._accept(response, key)
        raise AssertionError("tenacity raises or returns")

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.transport.aclose()

    def _policy(self) -> dict[str, Any]:
        return {
            "stop": stop_after_attempt(ATTEMPTS),
            "retry": retry_if_exception(lambda e: isinstance(e, LMError) and e.retryable),
            "wait": _wait,
            "reraise": True,
        }

    def _wire(self, request: Request) -> Request:
        wire = replace(request, model=request.model.removeprefix("openai/"))
        limit = self._limit(request)
        if limit != request.config.max_tokens:
            wire = replace(wire, config=replace(wire.config, max_tokens=limit))
        return _without_schema(wire) if self._schema_refused else wire

    def _limit(self, request: Request) -> int | None:
        """The longest reply in tokens that is asked for."""
        limits = [n for n in (request.config.max_tokens, self._reply_limit) if n is not None]
        return min(limits) if request.config.max_tokens is not None else None

    def _remember_schema_refusal(self) -> None:
        """A call that failed with a schema went through without: send none from now on."""
        if not self._schema_refused:
            logger.info("%s takes no JSON schema; asking without one from now on", self.base_url)
        self._schema_refused = True

    def _key_of(self, request: Request) -> str:
        if self._ledger is None:
            return ""
        told = request_to_dict(request)
        return self._ledger.key_of(self._role, self.base_url, told)

    def _kept(self, key: str) -> Response | None:
        """The reply that was paid for earlier."""
        kept = self._ledger.find(self._role, key) if self._ledger is not None else None
        return None if kept is None else response_from_dict(kept)

    def _turn(self) -> asyncio.Semaphore:
        """The bound on requests in flight, in the running event loop."""
        loop = asyncio.get_running_loop()
        with self._lock:
            return self._turns.setdefault(loop, asyncio.Semaphore(self._max_in_flight))

    @contextlib.contextmanager
    def _counted(self, request: Request) -> Iterator[None]:
        """Enter a request in the ledger, and whether it was answered."""
        if self._ledger is None:
            yield
            return
        length = sum(len(message.text or "") for message in request.messages)
        reserved = self._ledger.begin(self._role, length + len(str(request.system or "")))
        answered = False
        try:
            yield
        except GeneratorExit:
            raise
        else:
            answered = True
        finally:
            self._ledger.end(self._role, reserved, answered=answered)

    @contextlib.contextmanager
    def _remembered_failure(self) -> Iterator[None]:
        """After calls in a row that all attempts failed, the run is hopeless: it is ended."""
        try:
            yield
        except LMError as error:
            if error.retryable and self._ledger is not None:
                self._exhausted += 1
                if error.fatal or self._exhausted >= _MOST_EXHAUSTED:
                    self._ledger.stop(error)
            raise

    def _accept(self, response: Response, key: str) -> Response:
        """Keep and count a reply before anything is made of it: it is paid for."""
        self._answered = True
        self._refusals = self._exhausted = 0
        usage = response.usage
        spent = Usage(1, usage.input_tokens or 0, usage.output_tokens or 0)
        count = _counting.get()
        if count is not None:
            count.total += spent
        if self._ledger is not None:
            told = response_to_dict(response)
            tokens = {"input_tokens": spent.input_tokens, "output_tokens": spent.output_tokens}
            self._ledger.keep(self._role, key, told, **tokens)
        return response

    @contextlib.contextmanager
    def _translated(self, request: Request) -> Iterator[None]:
        """Turn lm15's errors, and bodies it stumbles over, into `LMError`."""
        try:
            yield
        except _FORESEEN as error:
            failure = self._failure(error, request)
            if failure.fatal and not failure.retryable and self._ledger is not None:
                self._ledger.stop(failure)
            raise failure from error

    def _failure(self, error: Exception, request: Request) -> LMError:
        failure = _describe(error, request.model, self.base_url, self._key)
        if not self._answered and _is_refused_connection(error):
            failure.retryable = False
        if refused := _LIMIT_TOO_HIGH.search(str(failure)):
            # Half the context for the reply leaves half for the prompt.
            self._reply_limit = int(refused[1]) // 2
            return ReplyLimitError(str(failure))
        if self._answered and failure.status in (403, 404):
            # It answered before with this key and model: this may be about one document.
            self._refusals += 1
            failure.fatal = self._refusals >= _MOST_REFUSALS
        return failure

    def _sync_client(self) -> lm15.OpenAIChatLM:
        from dspy._vendor.lm15.transports import StdlibTransport

        with self._lock:
            if self._client is None:
                self._client = _ChatLM(
                    transport=StdlibTransport(**self._transport_options()), **self._options()
                )
            return self._client

    def _async_client(self) -> lm15.AsyncOpenAIChatLM:
        from dspy._vendor.lm15.transports import StdlibAsyncTransport

        loop = asyncio.get_running_loop()
        with self._lock:
            client = self._clients.get(loop)
            if client is None:
                client = lm15.AsyncOpenAIChatLM(
                    transport=StdlibAsyncTransport(**self._transport_options()), **self._options()
                )
                # The asynchronous client builds requests and reads replies by a synchronous one.
                client._inner = _ChatLM(transport=client._inner.transport, **self._options())
                self._clients[loop] = client
            return client

    def _options(self) -> dict[str, Any]:
        field = "max_completion_tokens" if self.base_url == OPENAI_BASE else "max_tokens"
        compat = OpenAIChatCompat(instruction_role="system", max_tokens_field=field)
        return {"api_key": self._key, "base_url": self.base_url, "compat": compat}

    def _transport_options(self) -> dict[str, Any]:
        return {
            "connect_timeout": self._timeouts.connect,
            "read_timeout": self._timeouts.read,
            "write_timeout": self._timeouts.write,
            "pool_timeout": self._timeouts.pool,
            "max_connections": self._max_in_flight,
        }


class _ChatLM(lm15.OpenAIChatLM):
    """lm15's reader, which takes a good answer also when the token counts beside it are odd."""

    def parse_response(self, request: Request, response: Any) -> Response:
        if response.status >= 300:
            headers = {name.lower(): value for name, value in response.headers}
            where = headers.get("location", "another address")
            raise lm15.InvalidRequestError(
                f"moved to {where}: give that as --api-base", status=response.status
            )
        try:
            return super().parse_response(request, response)
        except (TypeError, ValueError):
            body = response.json()
            if not isinstance(body, dict) or "usage" not in body:
                raise
            bare = json.dumps({name: part for name, part in body.items() if name != "usage"})
            return super().parse_response(request, replace(response, body=bare.encode()))


class AsyncEngine:
    """The asynchronous face of an `Engine`, as DSPy wants it: a second object."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __deepcopy__(self, memo: dict[int, object]) -> AsyncEngine:
        return self

    async def complete(self, request: Request) -> Response:
        return await self.engine.acomplete(request)


def as_irr_error(error: BaseException) -> LMError | None:
    """The `LMError` that DSPy wrapped into an error of its own, or None."""
    return next((cause for cause in _causes(error) if isinstance(cause, LMError)), None)


def _wait(state: RetryCallState) -> float:
    """Seconds before the next attempt: doubling with jitter, and never less than was asked for."""
    error = state.outcome.exception() if state.outcome is not None else None
    asked = error.retry_after if isinstance(error, LMError) else None
    own = float(2 ** (state.attempt_number - 1)) * random.uniform(0.75, 1.25)
    if asked is not None and asked >= own:
        if asked >= _WORTH_SAYING:
            logger.warning("waiting %.0f s, as the LM's server asks", asked)
        return asked + random.uniform(0.0, 0.5)
    return own


def _describe(error: Exception, model: str, base_url: str, key: str) -> LMError:
    """What happened, in our words and the server's; the key is in neither."""
    status = getattr(error, "status", None)
    said = getattr(error, "message", None) or str(error)
    if key != _NO_KEY:
        said = said.replace(key, "…")
    said = _first_line(said)
    http = f"HTTP {status}" if status else "an error"
    if _is_too_long(error, said):
        advice = "shorten the examples, or serve the model with a longer context"
        message = f"the prompt is too long for {model!r} ({advice}): {said}"
        return ContextTooLongError(message, status=status)
    if isinstance(error, lm15.AuthError):
        advice = "set OPENAI_API_KEY to a valid key"
        message = f"the key was refused by {base_url} ({http}): {advice}"
        return LMError(message, fatal=True, status=status)
    if isinstance(error, lm15.BillingError):
        return LMError(f"{base_url} asks for payment: {said}", fatal=True, status=status)
    if isinstance(error, lm15.UnsupportedModelError) or status == 404:
        hint = "" if urlsplit(base_url).path.strip("/") else "; does the address end with /v1?"
        message = f"{base_url} has no model {model!r} ({http}): {said}{hint}"
        return LMError(message, fatal=True, status=status)
    if isinstance(error, lm15.RateLimitError | lm15.ServerError | lm15.TimeoutError):
        retry_after = getattr(error, "retry_after", None)
        if retry_after is not None and retry_after > LONGEST_WAIT:
            message = f"{base_url} asks to wait {retry_after:,.0f} s ({http}): run again then"
            return LMError(message, fatal=True, status=status)
        message = f"{base_url} answered {http}: {said}"
        return LMError(message, retryable=True, retry_after=retry_after, status=status)
    if "read timed out" in said:
        message = f"no answer from {base_url} in time: raise --timeout for a slow server"
        return LMError(message, retryable=True)
    if isinstance(error, lm15.TransportError | OSError):
        fatal = _is_refused_connection(error)
        return LMError(f"no answer from {base_url}: {said}", retryable=True, fatal=fatal)
    if status is not None and 300 <= status < 400:
        return LMError(f"{base_url} answered {http}: {said}", fatal=True, status=status)
    if status is not None and status >= 400:
        return LMError(f"{base_url} refused the request ({http}): {said}", status=status)
    return LMError(f"{base_url} sent a reply that is no chat completion: {said}", retryable=True)


class ContextTooLongError(LMError):
    """The prompt does not fit the model's context: the stage shortens it and asks again."""


class ReplyLimitError(LMError):
    """The server allows no reply as long as was asked for: the call is made with a lower limit."""


class CutOffError(ReplyError):
    """The reply reached the limit on its length: it is asked for again with more room."""


def _is_too_long(error: Exception, said: str) -> bool:
    return isinstance(error, lm15.ContextLengthError) or (
        isinstance(error, lm15.InvalidRequestError) and any(words in said for words in _TOO_LONG)
    )


def _suggests_schema_refusal(error: LMError, request: Request) -> bool:
    """A 400 to a call with a schema may be about the schema: the call is made once more without."""
    return (
        request.config.response_format is not None
        and error.status in (400, 422, 501)
        and not isinstance(error, ContextTooLongError)
    )


def _without_schema(request: Request) -> Request:
    return replace(request, config=replace(request.config, response_format=None))


def _is_refused_connection(error: BaseException) -> bool:
    return any(
        isinstance(cause, ConnectionRefusedError) or type(cause).__name__ == "ConnectError"
        for cause in _causes(error)
    )


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

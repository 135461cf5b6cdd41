"""Engine: one LM behind one address or several, asked with retries.

In: the body of a chat completion. Out: its `Reply`, from the ledger where it was paid for before.
The number of requests in flight, the waiting after a failure, the count of tokens and the end of
a hopeless run are decided here and nowhere else. There is one way for a request, a coroutine;
`Engine.complete` runs it in a background loop for callers that do not run one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import aiohttp

from irr.errors import LMError, ReplyError
from irr.ledger import Ledger, Reply, key_of
from irr.lm.background import BackgroundLoop
from irr.lm.client import Client
from irr.lm.commits import Commits
from irr.lm.completion import encode, read_completion
from irr.lm.failures import (
    ContextTooLongError,
    CutOffError,
    NotAskedError,
    RateLimitError,
    ReplyLimitError,
    Server,
    UnreachableError,
    WebPageError,
    wait_after,
)
from irr.lm.limiter import Gate
from irr.lm.settings import OPENAI_BASE, addresses
from irr.lm.usage import counting
from irr.replies import excerpt
from irr.types import Usage

if TYPE_CHECKING:
    from dspy.lm15 import Request, Response

__all__ = ["ATTEMPTS", "Collect", "Engine"]

logger = logging.getLogger(__name__)

# Waits double from one second: seven of them outlast the restart of a server (91 s).
ATTEMPTS = 8
_LONGEST_OWN_WAIT = 30.0
# After a 429 the server works, but not for us: it is waited for longer, and not counted.
_LONGEST_LIMITED_WAIT = 60.0
MOST_LIMITED_SECONDS = 900.0
_WORTH_SAYING = 20.0
# 403s and 404s in a row, after good answers, that end a run: the key or the model is gone.
_MOST_REFUSALS = 5
# Calls in a row of which every attempt failed, a minute and a half each, that end a run.
_MOST_EXHAUSTED = 8
# How long a fatal error stops an engine that nobody closes: the cause may be mended meanwhile.
_STOPPED_SECONDS = 60.0

Collect = Callable[[str, dict[str, Any]], None]
"""Takes the key of a request, under which `Ledger.put` keeps its reply, and its body."""


class Engine:
    """One LM. Safe to share by threads and event loops.

    Args:
        base_url: the server's address, or several separated by commas.
        model: its name, for messages.
        timeout: seconds to wait for the next byte of a reply.
        max_in_flight: the most requests at once, at all addresses together.
        ledger: keeps and counts the replies, under `role`.
        collect: is handed each request that the ledger has no reply to, instead of its being
            sent; who asked gets a `NotAskedError`.

    Failures of the server (5xx, resets, time-outs, bodies that cannot be read) are retried, up to
    `ATTEMPTS` times in all. After a 429 a request is sent again for up to 15 minutes of waiting.
    Neither is before Retry-After has passed. A server that has never answered is not asked again
    when it refuses the connection: the address is wrong, and a person is waiting.
    """

    def __init__(
        self,
        base_url: str,
        key: str,
        *,
        timeout: float,
        max_in_flight: int,
        model: str = "",
        ledger: Ledger | None = None,
        role: str = "",
        collect: Collect | None = None,
    ) -> None:
        bases = addresses(base_url)
        self.gate = Gate(len(bases), max_in_flight)
        self.collect = collect
        self._servers = [Server(base, model, key) for base in bases]
        self._client = Client(bases, key, timeout)
        self._is_openai = bases[0] == OPENAI_BASE
        self._ledger = ledger
        self._commits = None if ledger is None else Commits(ledger)
        self._role = role
        self._schema_refused = False
        self._answered = False
        self._reply_limit: int | None = None
        self._refusals = self._exhausted = 0
        self._stops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[LMError, float]]
        self._stops = WeakKeyDictionary()
        self._pauses: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Event]
        self._pauses = WeakKeyDictionary()
        self._asking: dict[tuple[int, str], asyncio.Future[None]] = {}
        self._said_until = 0.0
        self._lock = threading.Lock()
        self._background: BackgroundLoop | None = None

    def __repr__(self) -> str:
        return f"Engine({','.join(server.base for server in self._servers)!r})"

    def __deepcopy__(self, memo: dict[int, object]) -> Engine:
        return self  # Optimizers copy programs by the dozen; connections are shared.

    def complete(self, request: Request) -> Response:
        """Ask, for DSPy's synchronous path."""
        with self._lock:
            if self._background is None:
                self._background = BackgroundLoop()
        return self._background.run(self.acomplete(request))

    async def acomplete(self, request: Request) -> Response:
        """Ask, for DSPy's asynchronous path."""
        from irr.lm.requests import body_of, response_of

        return response_of(await self.ask(body_of(request)), request)

    async def aclose(self) -> None:
        """End what a run has in the running event loop: connections, and a stop."""
        loop = asyncio.get_running_loop()
        self._stops.pop(loop, None)
        self._pauses.pop(loop, None)
        await self._client.aclose()

    def hold(self) -> None:
        """Send no further request in the running event loop; those in flight are waited for."""
        self._stop(LMError("the run was asked to stop", fatal=True))

    async def ask(self, body: dict[str, Any]) -> Reply:
        """The reply to a chat completion's body, see `irr.lm.chat_body`.

        Raises:
            ReplyError: it was cut off, filtered or refused.
            LMError: there is none.
        """
        data = encode(body)
        if self.collect is not None or (self._ledger is not None and self._ledger.keeps):
            reply = await self._ask_once(body, data, key_of(self._role, data))
        else:
            reply = await self._answer(body, data, "")
        count = counting.get()
        if count is not None:
            count.total += Usage(1, reply.input_tokens, reply.output_tokens)
        return self._checked(reply, body)

    async def _ask_once(self, body: dict[str, Any], data: bytes, key: str) -> Reply:
        """Of the same request at the same time one is sent, the others find its reply kept."""
        loop = asyncio.get_running_loop()
        place = (id(loop), key)
        while (other := self._asking.get(place)) is not None:
            await asyncio.wait([other])
        kept = self._ledger.find(self._role, key) if self._ledger is not None else None
        if kept is not None:
            return kept
        if self.collect is not None:
            self.collect(key, self._wire(body))
            raise NotAskedError("the request was collected, not sent")
        done = self._asking[place] = loop.create_future()
        try:
            return await self._answer(body, data, key)
        finally:
            del self._asking[place]
            done.set_result(None)

    async def _answer(self, body: dict[str, Any], data: bytes, key: str) -> Reply:
        """The reply of a server, in the form of request that it takes."""
        wire = self._wire(body)
        try:
            return await self._send(data if wire is body else encode(wire), key)
        except ReplyLimitError as error:
            # Half the context for the reply leaves half for the prompt.
            self._reply_limit = error.context // 2
            return await self._send(encode(self._wire(body)), key)
        except LMError as error:
            if not _suggests_schema_refusal(error, wire):
                raise
            bare = {name: value for name, value in wire.items() if name != "response_format"}
            reply = await self._send(encode(bare), key)
            self._remember_schema_refusal()
            return reply

    def _wire(self, body: dict[str, Any]) -> dict[str, Any]:
        """A body as the server takes it; itself, where there is nothing to change."""
        limit = self._limit(body)
        if limit == body.get("max_tokens") and not self._is_openai and not self._schema_refused:
            return body
        wire = {**body, "max_tokens": limit}
        if self._schema_refused:
            wire.pop("response_format", None)
        if limit is None:
            del wire["max_tokens"]
        elif self._is_openai:
            wire["max_completion_tokens"] = wire.pop("max_tokens")
        return wire

    def _limit(self, body: dict[str, Any]) -> int | None:
        """The longest reply in tokens that is asked for."""
        limit: int | None = body.get("max_tokens")
        if limit is None or self._reply_limit is None:
            return limit
        return min(limit, self._reply_limit)

    def _remember_schema_refusal(self) -> None:
        """A call that failed with a schema went through without: send none from now on."""
        if not self._schema_refused:
            logger.info("%r takes no JSON schema; asking without one from now on", self)
        self._schema_refused = True

    def _checked(self, reply: Reply, body: dict[str, Any]) -> Reply:
        """A reply that can be read, or `ReplyError` with what the LM said instead of answering."""
        if reply.finish_reason == "length":
            limit, written = self._limit(body), reply.output_tokens
            if limit is not None and 0 < written < limit // 2:
                # The server clamps a reply to what the prompt leaves of the context.
                raise ContextTooLongError(f"the prompt leaves {written} tokens for the LM's reply")
            at = f" at {written or limit} tokens" if written or limit else ""
            raise CutOffError(f"the LM's reply was cut off{at}")
        if reply.finish_reason == "content_filter":
            raise ReplyError("the server's content filter held the LM's reply back")
        if reply.refusal is not None:
            raise ReplyError(f"the LM refused: {excerpt(reply.refusal)}")
        return reply

    async def _send(self, data: bytes, key: str) -> Reply:
        """Attempts until one is answered, or no further one is worth it."""
        failures = limited = 0
        waited = 0.0
        while True:
            try:
                return await self._attempt(data, key, limited)
            except _ElsewhereError:
                continue
            except RateLimitError as error:
                limited += 1
                wait = wait_after(error, limited, _LONGEST_LIMITED_WAIT)
                waited += wait
                exhausted = waited > MOST_LIMITED_SECONDS
                failure: LMError = error
            except LMError as error:
                if not error.retryable:
                    raise
                failures += 1
                wait = wait_after(error, failures, _LONGEST_OWN_WAIT)
                exhausted = failures >= ATTEMPTS
                failure = error
            if exhausted:
                raise self._given_up(failure)
            if (stop := self._stopped()) is not None:
                # Not this document's failure: another run may well get its answer.
                raise stop.with_traceback(None)
            self._say(failure)
            await self._pause(wait)

    async def _attempt(self, data: bytes, key: str, limited: int) -> Reply:
        """Send a request once, when it is its turn. `limited`: how often it was refused before."""
        slot = await self.gate.acquire()
        try:
            self._refuse_when_stopped()
            reply = await self._post(slot.place, data, key)
        except RateLimitError as error:
            self.gate.refused(slot, wait_after(error, limited + 1, _LONGEST_LIMITED_WAIT))
            raise
        except UnreachableError as error:
            if self.gate.unreachable(slot):
                raise _ElsewhereError from error
            error.retryable = self._answered or not error.refused
            self._weigh(error)
            raise
        except BaseException as error:
            self.gate.failed(slot)
            if isinstance(error, LMError):
                self._weigh(error)
            raise
        self.gate.succeeded(slot)
        self._answered = True
        self._refusals = self._exhausted = 0
        if self._commits is not None:
            await self._commits.next()  # Kept before anything is made of it.
        return reply

    async def _post(self, place: int, data: bytes, key: str) -> Reply:
        """Send a request; the ledger is told of its reply."""
        ledger = self._ledger
        if ledger is None:
            return await self._exchange(place, data)
        # Counted when it is sent, not while it waits for its turn.
        reserved = ledger.begin(self._role, len(data))
        try:
            reply = await self._exchange(place, data)
        except UnreachableError:
            ledger.unsent(self._role, reserved)
            raise
        except BaseException:
            ledger.failed(self._role, reserved)
            raise
        ledger.answered(self._role, reserved, key, reply)
        return reply

    async def _exchange(self, place: int, data: bytes) -> Reply:
        server = self._servers[place]
        try:
            status, headers, body = await self._client.post(place, data)
        except (aiohttp.ClientError, OSError) as error:  # Time-outs are among the latter.
            raise server.no_answer(error) from error
        if not 200 <= status < 300:
            raise server.failure(status, headers, body)
        try:
            return read_completion(body)
        except ValueError as error:
            raise server.unreadable(str(error), headers, body) from error

    def _weigh(self, error: LMError) -> None:
        """What a failure says about the requests after it."""
        if isinstance(error, WebPageError) and not self._answered:
            error.fatal, error.retryable = True, False  # The address is wrong.
        if self._answered and error.status in (403, 404):
            # It answered before with this key and model: this may be about one document.
            self._refusals += 1
            error.fatal = self._refusals >= _MOST_REFUSALS
        if error.fatal and not error.retryable:
            self._stop(error)

    def _given_up(self, error: LMError) -> LMError:
        """The failure of the last attempt. After several such calls in a row the run is ended."""
        self._exhausted += 1
        if error.fatal or self._exhausted >= _MOST_EXHAUSTED:
            error.fatal = True
            error.retryable = False
            self._stop(error)
        return error

    def _stop(self, error: LMError) -> None:
        """Send no further request in this run: each fails with `error` at once."""
        if self._ledger is not None:
            self._ledger.stop(error)
        loop = asyncio.get_running_loop()
        if self._background is None or loop is not self._background.loop:
            self._stops[loop] = error, time.monotonic() + _STOPPED_SECONDS
        if loop in self._pauses:
            self._pauses.pop(loop).set()

    def _stopped(self) -> LMError | None:
        """The error that ended the run in the running event loop."""
        if not self._stops:
            return None
        error, until = self._stops.get(asyncio.get_running_loop(), (None, 0.0))
        return error if time.monotonic() < until else None

    def _refuse_when_stopped(self) -> None:
        error = self._stopped()
        count = counting.get()
        # What was paid for one document is lost without its last request, unless it is kept.
        if error is not None and not (count is not None and count.total.calls):
            raise error.with_traceback(None)

    async def _pause(self, seconds: float) -> None:
        """Wait, or until the run is stopped."""
        stopped = self._pauses.setdefault(asyncio.get_running_loop(), asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopped.wait(), seconds)

    def _say(self, error: LMError) -> None:
        """Tell of a long wait, once for all the requests that wait."""
        asked, now = error.retry_after or 0.0, time.monotonic()
        if asked >= _WORTH_SAYING and now >= self._said_until:
            self._said_until = now + asked
            logger.warning("waiting %.0f s, as the LM's server asks", asked)


class _ElsewhereError(Exception):
    """The server cannot be reached and another one may: the request goes there."""


def _suggests_schema_refusal(error: LMError, wire: dict[str, Any]) -> bool:
    """A 400 to a call with a schema may be about the schema: the call is made once more without."""
    return (
        "response_format" in wire
        and error.status in (400, 422, 501)
        and not isinstance(error, ContextTooLongError)
    )

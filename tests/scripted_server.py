"""An OpenAI-compatible server on a real socket whose answers are a script.

A script is a function from a `Call` to a `Reply` (or to a text, for a plain good reply). Replies
can be wrong in every way a server can be wrong: status codes, Retry-After, delays, bodies that
break off, connections that are reset or never answer. Calls are kept for the tests to look at.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Call:
    """One request. `number` counts from 0; `stage` is "infer", "rank" or "other"."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def messages(self) -> list[dict[str, str]]:
        return self.body["messages"]

    @property
    def user(self) -> str:
        return self.messages[-1]["content"]

    @property
    def stage(self) -> str:
        system = self.messages[0]["content"]
        return "infer" if '"guesses"' in system else "rank" if '"ranking"' in system else "other"

    @property
    def text(self) -> str:
        """The document's text as it stands in the prompt."""
        return self.user.split("Text:\n", 1)[-1].split("\n\nCandidates:\n", 1)[0]

    @property
    def candidates(self) -> list[str]:
        listed = self.user.split("\n\nCandidates:\n", 1)
        return re.findall(r"^[1-9]\d*\. (.*)$", listed[1], re.MULTILINE) if len(listed) == 2 else []


@dataclass(frozen=True)
class Reply:
    """How the server answers: see the module's docstring."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    finish_reason: str = "stop"
    tokens: int | None = None  # of the answer; otherwise its length says, or the limit it reached
    delay: float = 0.0
    raw: bytes | None = None  # the whole body, instead of a chat completion
    cut: int | None = None  # send this many bytes of the body, then close
    reset: bool = False  # close without an answer
    hang: bool = False  # never answer


Script = Callable[[Call], "Reply | str"]


class ScriptedServer:
    """Use as a context manager; `url` is its API base, `calls` all requests so far."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.calls: list[Call] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        opening = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(opening, self._loop).result(10)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *exception: object) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _shut(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        request, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(":", 1) for line in lines if ":" in line)
        headers = {name.strip().lower(): value.strip() for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        call = Call(len(self.calls), request.split()[1], headers, json.loads(body or b"{}"))
        self.calls.append(call)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            reply = self.script(call)
            return await self._send(call, Reply(reply) if isinstance(reply, str) else reply, writer)
        finally:
            self.in_flight -= 1

    async def _send(self, call: Call, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(3600 if reply.hang else reply.delay)
        if reply.reset:
            writer.transport.abort()
            return False
        body = reply.raw if reply.raw is not None else self._body(call, reply)
        lines = [f"HTTP/1.1 {reply.status} Scripted", f"Content-Length: {len(body)}"]
        lines += ["Content-Type: application/json"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body[: reply.cut])
        await writer.drain()
        if reply.cut is not None:
            writer.transport.abort()
            return False
        return True

    def _body(self, call: Call, reply: Reply) -> bytes:
        if reply.status >= 400:
            error = {"message": reply.content or "scripted error", "code": reply.status}
            return json.dumps({"error": error}).encode()
        prompt = sum(len(message["content"]) for message in call.messages) // 4
        answer = len(reply.content or "") // 4
        if reply.finish_reason == "length":
            answer = call.body.get("max_tokens", answer)
        answer = answer if reply.tokens is None else reply.tokens
        self.input_tokens += prompt
        self.output_tokens += answer
        message = {"role": "assistant", "content": reply.content}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason}
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }
        completion = {
            "id": f"scripted-{call.number}",
            "object": "chat.completion",
            "created": 0,
            "model": call.body.get("model"),
            "choices": [choice],
            "usage": usage,
        }
        return json.dumps(completion).encode()

"""An OpenAI-compatible server in a process of its own whose answers follow from the prompt.

    python eval/bench/stub_server.py --latency 0.2 --jitter 0.5 --cap 50 --fail 0.3

Prints ``ready URL`` and serves until its standard input is closed. Infer is answered with the
first words of the text, Rank with numbers drawn from a hash of the prompt: the same prompt always
gets the same answer. With ``--cap`` requests beyond so many at once get HTTP 429. With ``--fail``
that share of attempts fails in one of `FAULTS`; which attempts fail, and how, follows from the
prompt and from how often it was asked, not from timing. GET /stats tells what happened, GET
/bodies what the first requests were.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import sys
import time
from collections import Counter
from typing import Any

FAULTS = (
    "429", "500", "503", "reset", "hang", "truncated", "not json", "no choices", "cut off",
    "unreadable",
)  # fmt: skip
HEAD = b"\r\n\r\n"
KEPT_BODIES = 400


class State:
    """What the server was told and what it has seen."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.counts: Counter[str] = Counter()
        self.in_flight = self.most_in_flight = 0
        self.input_tokens = self.output_tokens = 0
        self.asked: Counter[bytes] = Counter()
        self.not_before: dict[bytes, float] = {}
        self.early_retries = 0
        self.repeated = 0
        self.answered: set[bytes] = set()
        self.first_bodies: list[bytes] = []

    def stats(self) -> dict[str, Any]:
        return {
            "counts": dict(self.counts),
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "early_retries": self.early_retries,
            "answered_again": self.repeated,
            "cpu_seconds": time.process_time(),
        }

    def fault(self, key: bytes) -> str | None:
        """How this attempt fails, or None."""
        self.asked[key] += 1
        if not self.options.fail:
            return None
        seed = b"%d %d " % (self.options.seed, self.asked[key]) + key
        draw = int.from_bytes(hashlib.blake2b(seed, digest_size=8).digest()) / 2**64
        if draw >= self.options.fail:
            return None
        return self.options.faults[int(draw / self.options.fail * len(self.options.faults))]


class Connection(asyncio.Protocol):
    """One client. Requests are answered one after the other, as HTTP/1.1 clients send them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.buffer = b""
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, separator, rest = self.buffer.partition(HEAD)
        if not separator:
            return
        length = 0
        for line in head.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if len(rest) < length:
            return
        self.buffer = rest[length:]
        method, path, _ = head.split(b" ", 2)
        if path == b"/stats":
            self.send(json.dumps(self.state.stats()).encode())
        elif path == b"/bodies":
            self.send(json.dumps([body.decode() for body in self.state.first_bodies]).encode())
        elif method == b"GET":
            models = {"data": [{"id": "stub", "object": "model"}]}
            self.send(json.dumps(models).encode())
        else:
            self.answer(rest[:length])

    def answer(self, body: bytes) -> None:
        state = self.state
        key = hashlib.blake2b(body, digest_size=16).digest()
        state.counts["calls"] += 1
        if len(state.first_bodies) < KEPT_BODIES:
            state.first_bodies.append(body)
        now = time.monotonic()
        if now < state.not_before.get(key, 0.0):
            state.early_retries += 1
        cap = state.options.cap
        if cap and state.in_flight >= cap:
            state.counts["429"] += 1
            self.refuse(key, 429, state.options.retry_after)
            return
        fault = state.fault(key)
        if fault is not None:
            state.counts[f"fault {fault}"] += 1
        state.in_flight += 1
        state.most_in_flight = max(state.most_in_flight, state.in_flight)
        spread = state.options.latency * state.options.jitter
        delay = max(0.0, state.options.latency + state.random.uniform(-spread, spread))
        asyncio.get_running_loop().call_later(delay, self.finish, body, key, fault)

    def finish(self, body: bytes, key: bytes, fault: str | None) -> None:
        state = self.state
        state.in_flight -= 1
        if self.transport is None or self.transport.is_closing():
            return
        if fault == "429":
            self.refuse(key, 429, state.options.retry_after)
        elif fault == "500":
            self.send(b'{"error": {"message": "internal"}}', 500)
        elif fault == "503":
            self.refuse(key, 503, state.options.retry_after)
        elif fault == "reset":
            self.transport.abort()
        elif fault == "hang":
            pass
        elif fault == "not json":
            self.send(b'{"id": "x", "choices": [{"mess')
        else:
            reply = self.completion(json.loads(body), fault)
            if fault == "truncated":
                self.send(reply, cut=len(reply) // 2)
                return
            if fault is None:
                state.repeated += key in state.answered
                state.answered.add(key)
            self.send(reply)

    def refuse(self, key: bytes, status: int, retry_after: float) -> None:
        if retry_after:
            self.state.not_before[key] = time.monotonic() + retry_after
        headers = b"Retry-After: %g\r\n" % retry_after if retry_after else b""
        self.send(b'{"error": {"message": "too many"}}', status, headers)

    def completion(self, body: dict[str, Any], fault: str | None) -> bytes:
        messages = body["messages"]
        prompt = sum(len(message["content"]) for message in messages) // 4
        content = reply_to(messages)
        if fault == "unreadable":
            content = "I would rather not say."
        finish = "length" if fault == "cut off" else "stop"
        answer = len(content) // 4
        if fault == "cut off":
            content, answer = content[: len(content) // 2], body.get("max_tokens") or answer
        choices = [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": finish,
            }
        ]
        if fault == "no choices":
            choices, answer = [], 0
        self.state.input_tokens += prompt
        self.state.output_tokens += answer
        self.state.counts["answers"] += 1
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }
        return json.dumps(
            {
                "id": "stub",
                "object": "chat.completion",
                "created": 0,
                "model": body.get("model"),
                "choices": choices,
                "usage": usage,
            }
        ).encode()

    def send(
        self, body: bytes, status: int = 200, headers: bytes = b"", cut: int | None = None
    ) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        head = b"HTTP/1.1 %d Stub\r\nContent-Type: application/json\r\n%sContent-Length: %d" % (
            status,
            headers,
            len(body),
        )
        self.transport.write(head + HEAD + body[:cut])
        if cut is not None:
            self.transport.close()


def reply_to(messages: list[dict[str, str]]) -> str:
    """The answer to a prompt: words of the text for Infer, numbers of candidates for Rank."""
    user = messages[-1]["content"]
    text, candidates, listed = user.partition("\n\nCandidates:\n")
    if not candidates:
        return json.dumps({"guesses": text.removeprefix("Text:\n").split()[:4]})
    numbers = range(1, listed.count("\n") + 1)  # the last line is "none of these"
    draw = random.Random(hashlib.blake2b(user.encode(), digest_size=8).digest())
    return json.dumps({"ranking": draw.sample(numbers, min(5, len(numbers)))})


async def serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    state = State(options)
    server = await loop.create_server(
        lambda: Connection(state), "127.0.0.1", options.port, backlog=4096
    )
    port = server.sockets[0].getsockname()[1]
    print(f"ready http://127.0.0.1:{port}/v1", flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await loop.run_in_executor(None, sys.stdin.read)
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--jitter", type=float, default=0.5, help="share of the latency")
    parser.add_argument("--cap", type=int, default=0, help="requests at once; 0 for any number")
    parser.add_argument("--fail", type=float, default=0.0, help="share of attempts that fail")
    parser.add_argument("--faults", type=lambda text: text.split(","), default=FAULTS)
    parser.add_argument("--retry-after", type=float, default=1.0, help="seconds; 0 for no header")
    parser.add_argument("--seed", type=int, default=0)
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()

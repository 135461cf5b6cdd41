"""Whether the engine finds how many requests a server takes at once, without being told.

    python eval/bench/caps.py [--caps 5,50,500] [--seconds 60] [--steady 30] [--json]

For each cap: a stub server in a process of its own answers that many requests at once and refuses
more (429, Retry-After 1 s). Twice as many are always waiting to be asked through `Engine.ask`.
The best possible is what a bare aiohttp loop with exactly the cap in flight gets from the same
server, asked first. Shown: answers in each window of 10 s, in the whole of the first `--seconds`,
and in the steady state after them, as shares of that; and the share of requests that were refused.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from irr.lm import Engine

sys.path.insert(0, str(Path(__file__).parents[1]))
from reporting import emit, parser, run, show_machine

WINDOW = 10.0
# Two cores answer some 1,000 calls a second at most: the caps must bind before they do.
LATENCY = {5: 0.1, 50: 0.2, 500: 1.0}
STUB = Path(__file__).with_name("stub_server.py")


@dataclass(frozen=True)
class Found:
    """Of one cap: answers a second as shares of the best possible, refusals as one of requests."""

    cap: int
    latency: float
    best: float
    windows: list[float]
    first: float
    steady: float
    refused: float


@contextlib.contextmanager
def served(cap: int, latency: float) -> Iterator[str]:
    """A stub server; its address."""
    command = [sys.executable, str(STUB), "--cap", str(cap), "--latency", str(latency)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None and server.stdin is not None
        try:
            yield server.stdout.readline().split()[1]
        finally:
            server.stdin.close()


def body(number: int) -> dict[str, Any]:
    messages = [
        {"role": "system", "content": "Answer with JSON."},
        {"role": "user", "content": f"Text:\nWe use PostgreSQL, document {number}."},
    ]
    return {"model": "stub", "messages": messages, "max_tokens": 64, "temperature": 0.0}


async def bare(url: str, cap: int, seconds: float) -> float:
    """Answers a second with exactly `cap` requests in flight."""
    answers = 0
    end = time.monotonic() + seconds

    async def one_after_the_other(session: aiohttp.ClientSession, first: int) -> None:
        nonlocal answers
        number = first
        while time.monotonic() < end:
            async with session.post(
                f"{url}/chat/completions", data=orjson.dumps(body(number))
            ) as r:
                orjson.loads(await r.read())
            answers += r.status == 200 and time.monotonic() <= end
            number += cap

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(one_after_the_other(session, n) for n in range(cap)))
    return answers / seconds


@contextlib.asynccontextmanager
async def asking(engine: Engine, at_once: int, answered: list[float]) -> AsyncIterator[None]:
    """Requests without end in the background; the times of their answers are put in a list."""
    numbers = iter(range(10**9, 2 * 10**9))

    async def ask() -> None:
        while True:
            await engine.ask(body(next(numbers)))
            answered.append(time.monotonic())

    tasks = [asyncio.create_task(ask()) for _ in range(at_once)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await engine.aclose()


def stats(url: str) -> tuple[int, int]:
    """(requests, refusals) that the server has seen."""
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as answer:
        counts = json.load(answer)["counts"]
    return counts["calls"], counts.get("429", 0)


async def measure(cap: int, seconds: float, steady: float) -> Found:
    latency = LATENCY.get(cap, 0.5)
    with served(cap, latency) as url:
        best = await bare(url, cap, WINDOW)
        engine = Engine(url, "EMPTY", timeout=60, max_in_flight=max(32, 4 * cap))
        answered: list[float] = []
        began = time.monotonic()
        async with asking(engine, max(32, 2 * cap), answered):
            await asyncio.sleep(seconds)
            before = await asyncio.to_thread(stats, url)
            settled = time.monotonic()
            await asyncio.sleep(steady)
            ended = time.monotonic()
            after = await asyncio.to_thread(stats, url)

    def share(since: float, until: float) -> float:
        return sum(since <= at < until for at in answered) / (until - since) / best

    starts = [began + WINDOW * number for number in range(int(seconds // WINDOW))]
    calls, refused = (now - then for now, then in zip(after, before, strict=True))
    return Found(
        cap=cap,
        latency=latency,
        best=best,
        windows=[share(start, start + WINDOW) for start in starts],
        first=share(began, settled),
        steady=share(settled, ended),
        refused=refused / calls,
    )


def bench(options: argparse.Namespace) -> int:
    where = show_machine(options)
    rows = [asyncio.run(measure(cap, options.seconds, options.steady)) for cap in options.caps]
    header = ["cap", "latency", "best/s", "windows of 10 s", "first", "steady", "refused"]
    cells = [
        [
            f"{row.cap}",
            f"{row.latency} s",
            f"{row.best:.1f}",
            " ".join(f"{share:.2f}" for share in row.windows),
            f"{row.first:.2f}",
            f"{row.steady:.2f}",
            f"{row.refused:.2%}",
        ]
        for row in rows
    ]
    emit({"machine": where, "caps": [asdict(row) for row in rows]}, [(header, cells)], options)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument(
        "--caps",
        type=lambda text: [int(number) for number in text.split(",")],
        default=list(LATENCY),
        help="requests that the server takes at once (default 5,50,500)",
    )
    made.add_argument("--seconds", type=float, default=60.0, help="until it counts as settled")
    made.add_argument("--steady", type=float, default=30.0, help="seconds measured after that")
    return run(bench, made.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

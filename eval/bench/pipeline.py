"""Documents a second of the whole pipeline, as a share of what a bare aiohttp loop reaches.

In:  a server in a process of its own that answers after a jittered latency (`stub_server.py`);
     short generated texts; labels that are generated, or a file with --labels. The vectors of
     queries are looked up in a table of random ones, so that the pipeline is measured and not this
     machine's encoder; --encoder takes a real one instead.
Out: for each number of requests in flight: LM calls and documents a second of the pipeline
     (Infer, Retrieve, Rank, journal on disk, replies kept), the same calls made by a bare aiohttp
     loop in the same run, the share, and the CPU time of a call in either; then how much several
     processes reach together; then how many queries a second are embedded in the pipeline and
     one document at a time.

    python eval/bench/pipeline.py [--documents 4000] [--in-flight 64 256] [--processes 2]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from irr.build import LMChoice, build_program
from irr.encoder import load_encoder
from irr.index import LabelIndex
from irr.infer import Infer
from irr.labels import LabelSet
from irr.ledger import Ledger
from irr.lm import LMSettings, open_lm
from irr.phrases import phrases
from irr.program import InferRetrieveRank
from irr.prompts import read_prompts
from irr.rank import Rank
from irr.retrieve import Retriever
from irr.runs import RunSettings, open_journal, run_to_file
from irr.types import Document, Label

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.stub import Stub, stub_server
from reporting import emit, parser, run, show_machine

WORDS = 2_000


class TableEncoder:
    """Texts as random directions, looked up: what is left of an encoder that costs nothing."""

    name = "table"
    fingerprint = "0" * 64
    dimensions = 64

    def __init__(self) -> None:
        rows = np.random.default_rng(0).standard_normal((1 << 16, self.dimensions))
        self._rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    def encode(self, texts: Sequence[str], *, progress: object = None, **_: object) -> np.ndarray:
        if callable(progress):
            progress(len(texts))
        return self._rows[[crc32(text.encode()) & 0xFFFF for text in texts]]


@dataclass(frozen=True)
class Speed:
    """What one way reached."""

    seconds: float
    calls: int
    cpu: float

    @property
    def calls_a_second(self) -> float:
        return self.calls / self.seconds

    @property
    def cpu_ms_a_call(self) -> float:
        return 1000 * self.cpu / self.calls


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=4000)
    options.add_argument("--words", type=int, default=8, help="in a text")
    options.add_argument("--in-flight", type=int, nargs="+", default=[64, 256])
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--latency", type=float, default=0.2)
    options.add_argument("--labels", help="a label set; default: 500 generated labels")
    options.add_argument("--encoder", help="a real encoder instead of the table")
    options.add_argument("--queries-of", type=int, default=60, help="documents for embedding")
    options.add_argument("--child", help=argparse.SUPPRESS)
    return run(measure, options.parse_args())


def measure(options: argparse.Namespace) -> int:
    if options.child:
        print(json.dumps(asdict(pipeline(options, Stub(options.child), max(options.in_flight)))))
        return 0
    machine = show_machine(options)
    rows, told = [], []
    with stub_server(latency=options.latency, jitter=0.5) as stub:
        bodies = capture(options)
        for in_flight in options.in_flight:
            for _ in range(2):  # The first round warms connections, caches and the CPU.
                bare = asyncio.run(bare_loop(stub, bodies, 2 * options.documents, in_flight))
                ours = pipeline(options, stub, in_flight)
            rows.append(row(f"1 process, {in_flight}", ours, bare))
            told.append({"in_flight": in_flight, "ours": asdict(ours), "bare": asdict(bare)})
        bare = asyncio.run(bare_loop(stub, bodies, 2 * options.documents, max(options.in_flight)))
        together = processes(options, stub)
        rows.append(
            row(f"{options.processes} processes, {max(options.in_flight)} each", together, bare)
        )
        told.append(
            {"processes": options.processes, "ours": asdict(together), "bare": asdict(bare)}
        )
    embedding_rows, embedding = embed(options)
    header = [
        "in flight", "documents/s", "calls/s", "bare", "share", "CPU ms/call", "bare",
    ]  # fmt: skip
    emit(
        {"machine": machine, "pipeline": told, "embedding": embedding},
        [(header, rows), (["embedding", "queries/s", "ratio"], embedding_rows)],
        options,
    )
    return 0


def row(name: str, ours: Speed, bare: Speed) -> list[str]:
    return [
        name,
        f"{ours.calls_a_second / 2:.0f}",
        f"{ours.calls_a_second:.0f}",
        f"{bare.calls_a_second:.0f}",
        f"{ours.calls_a_second / bare.calls_a_second:.2f}",
        f"{ours.cpu_ms_a_call:.2f}",
        f"{bare.cpu_ms_a_call:.2f}",
    ]


def texts(count: int, words: int, seed: int = 0) -> list[Document]:
    draw = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(WORDS)]
    return [
        Document(str(number), " ".join(draw.choices(vocabulary, k=words)) + f" n{number}")
        for number in range(count)
    ]


def program(
    options: argparse.Namespace, url: str, in_flight: int, ledger: Ledger | None
) -> InferRetrieveRank:
    choice = LMChoice("stub", url, in_flight=in_flight)
    if options.labels and options.encoder:
        return build_program(options.labels, lm=choice, encoder=options.encoder, ledger=ledger)
    encoder = load_encoder(options.encoder) if options.encoder else TableEncoder()
    draw = random.Random(1)
    names = {f"word{draw.randrange(WORDS)} word{draw.randrange(WORDS)}" for _ in range(500)}
    labels = (
        LabelSet.read(options.labels)
        if options.labels
        else LabelSet([Label(name, name) for name in sorted(names)])
    )
    retriever = Retriever(encoder, LabelIndex.build(labels, encoder))
    made = InferRetrieveRank(labels, retriever, in_flight=in_flight)
    prompts = read_prompts()
    lm = open_lm(LMSettings("stub", url, max_in_flight=in_flight), ledger=ledger)
    made.infer, made.rank = Infer(prompts), Rank(prompts)
    made.infer.predict.lm = made.rank.predict.lm = lm
    return made


def pipeline(options: argparse.Namespace, stub: Stub, in_flight: int) -> Speed:
    """The documents through the whole pipeline into a file."""
    documents = texts(options.documents, options.words)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "out.jsonl"
        ledger = Ledger(Path(folder) / "out.replies")
        made = program(options, stub.url, in_flight, ledger)
        settings = RunSettings()
        rows = []
        with open_journal(made, target, settings) as journal:
            started, cpu = time.perf_counter(), time.process_time()
            run_to_file(made, documents, journal, settings, add=rows.append)
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
        ledger.close()
        assert [row.id for row in rows] == [document.id for document in documents]
        assert {row.status for row in rows} == {"ok"}
    return Speed(seconds, sum(row.usage.calls for row in rows), cpu)


def capture(options: argparse.Namespace) -> list[bytes]:
    """The bodies of calls that the pipeline makes, of both stages."""
    with stub_server(latency=0) as stub:
        for _ in program(options, stub.url, 64, None).predict_many(texts(200, options.words)):
            pass
        return stub.bodies()


async def bare_loop(stub: Stub, bodies: Sequence[bytes], count: int, in_flight: int) -> Speed:
    """The same calls by aiohttp alone, `in_flight` at once."""
    import aiohttp

    left = iter(range(count))
    headers = {"Content-Type": "application/json"}
    url = f"{stub.url}/chat/completions"
    started, cpu = time.perf_counter(), time.process_time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for number in left:
                body = bodies[number % len(bodies)]
                async with session.post(url, data=body, headers=headers) as reply:
                    (await reply.json())["choices"][0]["message"]["content"]

        await asyncio.gather(*(work() for _ in range(in_flight)))
    return Speed(time.perf_counter() - started, count, time.process_time() - cpu)


def processes(options: argparse.Namespace, stub: Stub) -> Speed:
    """Several processes at once, each with all the documents; the time of the slowest."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", stub.url]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        for _ in range(options.processes)
    ]
    told = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    return Speed(
        max(one["seconds"] for one in told),
        sum(one["calls"] for one in told),
        sum(one["cpu"] for one in told),
    )


def embed(options: argparse.Namespace) -> tuple[list[list[str]], dict[str, float]]:
    """Queries a second: one `encode` a document, and the pipeline with LM calls in flight."""
    documents = texts(options.queries_of, 30, seed=2)
    queries = sum(len(phrases(document.text).queries) for document in documents)
    encoder = load_encoder(options.encoder or "all-MiniLM-L6-v2")
    encoder.encode([document.text for document in documents[:8]])
    started = time.perf_counter()
    for document in documents:
        encoder.encode(phrases(document.text).queries)
    alone = queries / (time.perf_counter() - started)
    with stub_server(latency=options.latency, jitter=0.5) as stub, contextlib.ExitStack():
        named = argparse.Namespace(**{**vars(options), "encoder": encoder.name, "labels": None})
        made = program(named, stub.url, max(options.in_flight), None)
        started = time.perf_counter()
        count = sum(row.status == "ok" for row in made.predict_many(documents))
        batched = queries / (time.perf_counter() - started)
    assert count == len(documents)
    rows = [
        ["one encode a document", f"{alone:.0f}", "1.00"],
        ["the pipeline, LM calls in flight", f"{batched:.0f}", f"{batched / alone:.2f}"],
    ]
    return rows, {"alone": alone, "pipeline": batched}


if __name__ == "__main__":
    sys.exit(main())

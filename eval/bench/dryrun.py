"""How near the dry run's estimate comes to the run: calls, tokens, cost, time.

In:  nothing: documents are drawn, in three kinds: short ones of about the same length; lengths
     log-normally spread over 100 to 20,000 characters; short ones with a few of 50,000 to 200,000.
Out: for each kind the estimate with its range, the run, and the difference in percent. The LM is
     `stub_server.py` in a process of its own, which counts calls and tokens itself; the run has a
     server and a ledger of its own, so that nothing of the sample is free. The encoder is a cheap
     one (words as random directions): the time is that of calls and of the way through the program.

    python eval/bench/dryrun.py [--documents 1000] [--sample 20] [--latency 0.5] [--in-flight 64]
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "eval")]
from reporting import emit, parser, run, show_machine  # noqa: E402

from irr.dryrun import Range, RunEstimate, estimate_run  # noqa: E402
from irr.index import LabelIndex  # noqa: E402
from irr.labels import LabelSet  # noqa: E402
from irr.ledger import Ledger, Price  # noqa: E402
from irr.program import InferRetrieveRank  # noqa: E402
from irr.prompts import read_prompts  # noqa: E402
from irr.retrieve import Retriever  # noqa: E402
from irr.types import Document, Label  # noqa: E402

LABELS = 2_000
WORDS = 20_000
PRICE = Price(0.15, 0.6)
MEASURES = ("calls", "input tokens", "output tokens", "cost in $", "seconds", "seconds, no LM")


class WordEncoder:
    """Words as random directions, added up: texts that share words are near."""

    name = "words"
    fingerprint = "0" * 64
    dimensions = 64

    def encode(self, texts: Sequence[str], *, progress: object = None, **_: object) -> np.ndarray:  # noqa: ARG002
        rows = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in zip(rows, texts, strict=True):
            for word in text.casefold().split():
                row += _direction(word)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


@cache
def _direction(word: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(WordEncoder.dimensions, dtype=np.float32)


def short(draw: random.Random, number: int) -> int:  # noqa: ARG001
    return draw.randint(120, 280)


def spread(draw: random.Random, number: int) -> int:  # noqa: ARG001
    return round(min(20_000.0, max(100.0, draw.lognormvariate(7.3, 1.2))))


def few_long(draw: random.Random, number: int) -> int:
    return draw.randint(50_000, 200_000) if number % 100 == 50 else draw.randint(200, 1_000)


KINDS: dict[str, Callable[[random.Random, int], int]] = {
    "short": short,
    "spread": spread,
    "few long": few_long,
}


def text_of(draw: random.Random, words: Sequence[str], length: int) -> str:
    """Sentences and paragraphs of about so many characters."""
    parts: list[str] = []
    size = 0
    while size < length:
        count = draw.randint(5, 25)
        end = "\n\n" if draw.random() < 0.15 else " "
        parts.append(" ".join(draw.choices(words, k=count)) + "." + end)
        size += len(parts[-1])
    return "".join(parts)[:length]


def documents(kind: str, count: int, seed: int) -> list[Document]:
    """The documents of a kind; one in fifty has no text."""
    draw = random.Random(f"{kind} {seed}")
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 10))) for _ in range(WORDS)]
    # Kept by the encoder: neither the estimate nor the run is the first to see a word.
    WordEncoder().encode(words)
    lengths = [KINDS[kind](draw, number) for number in range(count)]
    return [
        Document(str(number), "" if number % 50 == 7 else text_of(draw, words, length))
        for number, length in enumerate(lengths)
    ]


@contextlib.contextmanager
def server(options: argparse.Namespace) -> Iterator[str]:
    script = str(Path(__file__).with_name("stub_server.py"))
    command = [sys.executable, script, "--latency", str(options.latency)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().split()[1]
        process.stdin.close()


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/stats") as reply:
        found: dict[str, Any] = json.load(reply)
        return found


def program_at(url: str, ledger: Ledger, in_flight: int) -> InferRetrieveRank:
    from irr.infer import Infer
    from irr.lm import LMSettings, open_lm
    from irr.rank import Rank

    draw = random.Random(0)
    stems = ["".join(draw.choices("etaoinshrdlu", k=6)) for _ in range(LABELS)]
    labels = LabelSet(
        [Label(str(n), f"{stem} {draw.choice(stems)}") for n, stem in enumerate(stems)]
    )
    encoder = WordEncoder()
    index = LabelIndex.build(labels, encoder)
    lm = open_lm(LMSettings("stub", url, max_in_flight=in_flight), ledger=ledger)
    infer, rank = Infer(read_prompts()), Rank(read_prompts())
    infer.predict.lm = rank.predict.lm = lm
    return InferRetrieveRank(
        labels, Retriever(encoder, index), infer=infer, rank=rank, in_flight=in_flight
    )


def estimated(
    texts: Sequence[Document], options: argparse.Namespace
) -> tuple[RunEstimate, dict[str, float]]:
    """The estimate, and what making it took."""
    with server(options) as url, opened_ledger() as ledger:
        program = program_at(url, ledger, options.in_flight)
        started = time.perf_counter()
        found = estimate_run(texts, program, sample=options.sample, ledger=ledger)
        took = time.perf_counter() - started
        return found, {"seconds": took, "calls": stats(url)["counts"]["answers"]}


def really(texts: Sequence[Document], options: argparse.Namespace) -> list[float]:
    """`MEASURES` of a run, but for the last."""
    with server(options) as url, opened_ledger() as ledger:
        program = program_at(url, ledger, options.in_flight)
        started = time.perf_counter()
        failed = sum(row.status != "ok" for row in program.predict_many(texts))
        seconds = time.perf_counter() - started
        seen = stats(url)
        assert not failed, f"{failed} documents failed"
        spent_in, spent_out = seen["input_tokens"], seen["output_tokens"]
        cost = PRICE.of(spent_in, spent_out)
        return [seen["counts"]["answers"], spent_in, spent_out, cost, seconds]


@contextlib.contextmanager
def opened_ledger() -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder) / "replies", prices={"stub": PRICE})
        try:
            yield ledger
        finally:
            ledger.close()


def without_lm(
    texts: Sequence[Document], real: list[float], options: argparse.Namespace
) -> list[Range | None]:
    """The estimate of the time without an LM; what it takes is added to `real`."""
    program = program_at("http://127.0.0.1:9/v1", Ledger(), options.in_flight)
    program = program.variant(infer=None, rank=None)
    estimate = estimate_run(texts, program, sample=options.sample)
    started = time.perf_counter()
    for _ in program.predict_many(texts):
        pass
    real.append(time.perf_counter() - started)
    return [estimate.seconds]


def compare(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    texts = documents(kind, options.documents, options.seed)
    estimate, took = estimated(texts, options)
    real = really(texts, options)
    guesses = [
        estimate.calls,
        estimate.input_tokens,
        estimate.output_tokens,
        estimate.cost,
        estimate.seconds,
        *without_lm(texts, real, options),
    ]
    rows = {}
    for name, guess, truth in zip(MEASURES, guesses, real, strict=True):
        if guess is None:
            continue
        rows[name] = {
            "estimate": guess.value,
            "low": guess.low,
            "high": guess.high,
            "run": truth,
            "off_percent": round(100 * (guess.value / truth - 1), 1),
            # The estimate of whole numbers is a float.
            "in_range": guess.low - 1e-6 <= truth <= guess.high + 1e-6,
        }
    return {"rows": rows, "limit": estimate.limited_by, "dry_run": took}


def bench(options: argparse.Namespace) -> int:
    machine = show_machine(options)
    kinds = {kind: compare(kind, options) for kind in options.kinds}
    header = ["kind", "", "estimate", "low", "high", "run", "off by", "in range"]
    lines = [
        [
            *(kind, name, *(_number(row[part]) for part in ("estimate", "low", "high", "run"))),
            *(f"{row['off_percent']:+.1f}%", "yes" if row["in_range"] else "no"),
        ]
        for kind, found in kinds.items()
        for name, row in found["rows"].items()
    ]
    more = [
        [kind, *(_number(found["dry_run"][name]) for name in ("calls", "seconds")), found["limit"]]
        for kind, found in kinds.items()
    ]
    result = {"machine": machine, "options": vars(options) | {"kinds": options.kinds}}
    tables = [(header, lines), (["dry run of", "calls", "seconds", "time limited by"], more)]
    emit(result | {"kinds": kinds}, tables, options)
    return 0


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 or value == int(value) else f"{value:,.4g}"


def main() -> int:
    options = parser(__doc__)
    options.add_argument("--documents", type=int, default=1_000)
    options.add_argument("--sample", type=int, default=20)
    options.add_argument("--latency", type=float, default=0.5, help="of the server, in seconds")
    options.add_argument("--in-flight", type=int, default=64)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    return run(bench, options.parse_args())


if __name__ == "__main__":
    sys.exit(main())

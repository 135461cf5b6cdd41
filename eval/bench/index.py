"""Approximate search against exact: build, opening, memory, time a document, recall.

In:  label sets and documents. Their real vectors, by the default encoder, are mixed into as many
     as are wanted: each is the unit vector of a + w · b + noise, for a and b random labels, w
     between 0.2 and 0.8, noise of length 0.3; the real ones come first. Queries are the documents'
     own phrases, an even choice of each text that has enough of them. Encoding is left out.
Out: for each size, milliseconds a document of Retriever (the pooling of all queries of a text
     into 100 candidates) on an approximate and on an exact index with the same hubs, in turns, of
     the bare shortlist, and recall@50: how many of the exact first 50 are among the approximate
     first 50. For the largest size also seconds to build and to open (in a fresh process), and
     that process's memory: of its own, and mapped from the file. For each real label set with its
     documents, forced to be approximate, recall@50 and how near the hubs are to the exact ones.

    python eval/bench/index.py --base esco/labels.jsonl icd/labels.jsonl \\
        --input esco/tech_validation.jsonl icd/notes.jsonl [--labels 1300000]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

import numpy as np
import numpy.typing as npt

from irr.documents import read_documents
from irr.encoder import load_encoder
from irr.errors import ConfigurationError
from irr.index import LabelIndex, open_index
from irr.labels import LabelSet
from irr.phrases import Phrases, phrases
from irr.retrieve import Retriever
from irr.vectors import unit_rows

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from reporting import emit, parser, run, show_machine
from retrieval import Given

Floats = npt.NDArray[np.float32]
Row = dict[str, float]

DEPTH = 50
TARGET = 0.98
OPEN_SECONDS = 2.0
SIZES = (25_000, 50_000, 100_000, 200_000, 400_000)
_SLAB = 65_536


def mixed(base: Floats, count: int, path: Path, seed: int = 0) -> Floats:
    """(count, d) unit rows, written to `path` and mapped: first the base, then mixtures of it."""
    draw = np.random.default_rng(seed)
    made = np.lib.format.open_memmap(path, "w+", np.float32, (count, base.shape[1]))
    given = min(count, len(base))
    made[:given] = base[draw.permutation(len(base))[:given]]
    for first in range(given, count, _SLAB):
        shape = (min(_SLAB, count - first), base.shape[1])
        a, b = (base[draw.integers(len(base), size=shape[0])] for _ in "ab")
        weights = draw.uniform(0.2, 0.8, (shape[0], 1)).astype(np.float32)
        noise = draw.standard_normal(shape, np.float32) * np.float32(0.3 / shape[1] ** 0.5)
        made[first : first + shape[0]] = unit_rows(a + weights * b + noise)
    made.flush()
    return np.load(path, mmap_mode="r")


def thinned(found: Phrases, count: int) -> Phrases:
    """`count` of a text's queries, evenly over the text."""
    picks = [place * len(found) // count for place in range(count)]
    return Phrases(
        tuple(found.queries[place] for place in picks),
        tuple(found.clauses[place] for place in picks),
    )


def spread(texts: Sequence[Phrases], count: int) -> list[Phrases]:
    """At most `count` of them, evenly."""
    return [texts[place * len(texts) // count] for place in range(min(count, len(texts)))]


def recall(exact: Retriever, other: Retriever, texts: Sequence[Phrases]) -> list[float]:
    """For each text, the share of the exact first 50 that are among the other's."""
    shares = []
    for text in texts:
        wanted, found = ({c.position for c in r.retrieve(text)[:DEPTH]} for r in (exact, other))
        shares.append(len(wanted & found) / len(wanted))
    return shares


def compared(index: LabelIndex, encoder: Given, texts: Sequence[Phrases]) -> Row:
    """Times and recall of an approximate index against an exact one with the same hubs."""
    hubs, name = index.hubs, index.encoder
    plain = LabelIndex.of_units(
        index.vectors, index.owners, hubs=hubs, encoder=name, approximate=False
    )
    exact, ours = Retriever(encoder, plain), Retriever(encoder, index)
    shares = recall(exact, ours, texts)
    taken: dict[str, list[float]] = {"exact": [], "approximate": [], "shortlist": []}
    shortlist = index.shortlist
    assert shortlist is not None
    for text in texts:
        vectors = encoder.encode(text.queries)
        for key, action in (
            ("exact", lambda text=text: exact.retrieve(text)),
            ("approximate", lambda text=text: ours.retrieve(text)),
            ("shortlist", lambda vectors=vectors: shortlist.near_queries(vectors)),
        ):
            started = time.perf_counter()
            action()
            taken[key].append(1000 * (time.perf_counter() - started))
    row = {key: median(times) for key, times in taken.items()}
    row |= {"ratio": row["exact"] / row["approximate"]}
    return row | {"recall": mean(shares), "worst": min(shares)}


def opened(folder: Path, queries: Path) -> dict[str, float]:
    """What a fresh process takes to open the index, and to search for each text's queries."""
    script = [sys.executable, __file__, "--open", str(folder), str(queries)]
    told = subprocess.run(script, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(told)
    return found


def open_here(folder: Path, queries: Path) -> int:
    """The part of `opened` in the fresh process."""
    texts = np.load(queries)
    before = memory()
    started = time.perf_counter()
    index = LabelIndex.load(folder, verify=False)
    seconds = time.perf_counter() - started
    after_open = memory()
    for text in texts:
        index.near(text, 100)
    after_searches = memory()
    told = {"open": seconds}
    for kind in ("RssAnon", "RssFile"):
        told[f"{kind} after open"] = after_open[kind] - before[kind]
        told[f"{kind} after {len(texts)} texts"] = after_searches[kind] - before[kind]
    print(json.dumps(told))
    return 0


def memory() -> dict[str, float]:
    """Resident megabytes of this process by kind, as Linux tells them; elsewhere 0."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"RssAnon": 0.0, "RssFile": 0.0}
    pairs = (line.split()[:2] for line in lines if line.startswith("Rss"))
    return {name.rstrip(":"): int(size) / 1000 for name, size in pairs}


def of_real_set(index: LabelIndex, encoder: Given, texts: Sequence[Phrases]) -> Row:
    """A real label set, forced to be approximate, its hubs too."""
    forced = LabelIndex.of_units(
        index.vectors, index.owners, encoder=index.encoder, approximate=True
    )
    shares = recall(Retriever(encoder, index), Retriever(encoder, forced), texts)
    apart = np.abs(index.hubs - forced.hubs)
    return {
        "recall": mean(shares),
        "worst": min(shares),
        "hubs, correlation": float(np.corrcoef(index.hubs, forced.hubs)[0, 1]),
        "hubs, mean difference": float(apart.mean()),
        "hubs, deviation": float(index.hubs.std()),
    }


def bench(options: argparse.Namespace) -> int:
    if options.labels < 1000 or min(options.queries) < 1 or options.documents < 1:
        raise ConfigurationError("--labels must be 1000 or more, the other numbers 1 or more")
    header = show_machine(options) | {"faiss": version("faiss-cpu")}
    model = load_encoder()
    sets = [open_index(LabelSet.read(path), model, approximate=False) for path in options.base]
    texts = {
        path: [found for d in read_documents(path) if (found := phrases(d.text))]
        for path in options.input
    }
    flat = [text for group in texts.values() for text in group]
    known = list(dict.fromkeys(query for text in flat for query in text.queries))
    encoder = Given(model.fingerprint, dict(zip(known, model.encode(known), strict=True)))
    real = {
        path: of_real_set(index, encoder, texts[source])
        for path, source, index in zip(options.base, options.input, sets, strict=True)
    }
    base = np.concatenate([index.vectors for index in sets])
    chosen = {
        count: spread([thinned(t, count) for t in flat if len(t) >= count], options.documents)
        for count in options.queries
    }
    if not all(chosen.values()):
        raise ConfigurationError("no document has that many phrases: lower --queries")
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="irr-bench-") as name:
        rows, largest = _at_sizes(Path(name), base, encoder, chosen, options)
    result = {"machine": header, "rows": rows, "largest": largest, "real": real}
    _show(result, rows, largest, real, options)
    return 0


def _at_sizes(
    folder: Path,
    base: Floats,
    encoder: Given,
    chosen: dict[int, list[Phrases]],
    options: argparse.Namespace,
) -> tuple[dict[str, Row], dict[str, float]]:
    """The rows by size and number of queries, and what building and opening the largest took."""
    rows: dict[str, Row] = {}
    sizes = [*(size for size in SIZES if size < options.labels), options.labels]
    for size in sizes:
        vectors = mixed(base, size, folder / f"{size}.npy")
        started = time.perf_counter()
        index = LabelIndex.of_units(
            vectors, np.arange(size), encoder=encoder.fingerprint, approximate=True
        )
        seconds = time.perf_counter() - started
        print(f"{size:,} labels: built in {seconds:.0f} s", file=sys.stderr)
        for count, texts in chosen.items():
            rows[f"{size:,} labels, {count} queries"] = compared(index, encoder, texts)
        if size < options.labels:
            (folder / f"{size}.npy").unlink()
    index.save(folder / "index")
    queries = np.stack([encoder.encode(text.queries) for text in chosen[max(chosen)]])
    np.save(folder / "queries.npy", queries)
    megabytes = sum(file.stat().st_size for file in (folder / "index").iterdir()) / 1e6
    largest = {"labels": size, "build": seconds, "megabytes": megabytes}
    return rows, largest | opened(folder / "index", folder / "queries.npy")


def _show(
    result: dict[str, object],
    rows: dict[str, Row],
    largest: dict[str, float],
    real: dict[str, Row],
    options: argparse.Namespace,
) -> None:
    columns = ["exact", "approximate", "ratio", "shortlist", "recall", "worst"]
    table = [
        [name, *(f"{row[key]:.{3 if key in ('recall', 'worst') else 1}f}" for key in columns)]
        for name, row in rows.items()
    ]
    names = ["", "ms exact", "ms approximate", "ratio", "ms shortlist", "recall@50", "worst"]
    kept = ["recall", "worst", *(key for key in next(iter(real.values())) if "hubs" in key)]
    of_real = [[name, *(f"{row[key]:.4f}" for key in kept)] for name, row in real.items()]
    told = [[name, f"{value:,.2f}"] for name, value in largest.items()]
    tables = [(names, table), (["", *kept], of_real), (["largest (s, MB)", ""], told)]
    emit(result, tables, options)
    if not options.json:
        least = min(row["recall"] for row in (*rows.values(), *real.values()))
        for said, met in (
            (f"recall@50 at least {TARGET}: {least:.3f}", least >= TARGET),
            (f"open within {OPEN_SECONDS} s: {largest['open']:.2f}", largest["open"] <= 2),
        ):
            print(f"{said}, {'met' if met else 'missed'}")


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--base", nargs="+", metavar="FILE", help="label sets to mix")
    made.add_argument("--input", nargs="+", metavar="FILE", help="documents for each label set")
    made.add_argument("--labels", type=int, default=1_300_000, help="(default 1300000)")
    made.add_argument(
        "--queries", type=int, nargs="+", default=[10, 40], help="a document (default 10 40)"
    )
    made.add_argument("--documents", type=int, default=40, help="of each kind (default 40)")
    made.add_argument("--folder", metavar="DIR", help="for some GB of temporary files")
    made.add_argument("--open", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = made.parse_args(argv)
    if options.open:
        return open_here(*options.open)
    if not options.base or len(options.base) != len(options.input or ()):
        made.error("--base and as many --input are needed")
    return run(bench, options)


if __name__ == "__main__":
    sys.exit(main())

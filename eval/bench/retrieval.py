"""Time of retrieval a document, encoding left out: the published algorithm against ours.

In:  a label set, whose vectors are taken from the user's cache or made; queries are drawn: random
     labels' vectors with noise, so that their neighbours are as dense as real queries'.
Out: milliseconds a document, median over interleaved repeats, and the ratio to the published
     algorithm, with one thread and with as many as the machine is set up for:
     - published: every label for every query ranked by sentence-transformers' semantic_search,
       as D'Oosterlinck et al. 2024 do, a dict of lists of scores by label, their maximum, sorted;
     - published, stripped: the same result with one product a query and one dict of maxima;
     - ours, maximum: LabelIndex.scores, the maximum over queries, top_k; the same labels in the
       same order, which is checked for every document;
     - the same for 256 documents at once;
     - ours, default: what Retriever does for these queries as phrases of three clauses.

    python eval/bench/retrieval.py --labels DIR/labels.jsonl [--queries 10] [--repeats 9]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from irr.encoder import load_encoder
from irr.errors import ConfigurationError, IrrError
from irr.index import LabelIndex, open_index
from irr.labels import LabelSet
from irr.phrases import Phrases
from irr.retrieve import Retriever
from irr.vectors import BLOCK, top_k, unit_rows

sys.path.insert(0, str(Path(__file__).parents[1]))
from reporting import emit, parser, run, show_machine

Floats = npt.NDArray[np.float32]
Ranking = list[tuple[str, float]]

TOP = 50
DOCUMENTS = 256
NOISE = 0.5
TARGET = 60
# Two ways of summing the same products differ by this much at most.
ROUNDING = 2e-6


def draw_queries(index: LabelIndex, documents: int, queries: int, seed: int = 0) -> Floats:
    """(documents, queries, d) unit vectors about labels' vectors, at cosines near 0.9."""
    draw = np.random.default_rng(seed)
    rows = draw.integers(len(index.vectors), size=documents * queries)
    noise = unit_rows(draw.standard_normal((len(rows), index.dimensions)))
    units = unit_rows(index.vectors[rows] + NOISE * noise)
    return units.reshape(documents, queries, -1)


def published(names: Sequence[str], labels: object, queries: Floats, k: int) -> Ranking:
    """The k best labels as D'Oosterlinck et al. 2024 find them; `labels` is a torch tensor."""
    import torch
    from sentence_transformers.util import semantic_search

    hits = semantic_search(torch.from_numpy(queries), labels, top_k=len(names))
    found: defaultdict[str, list[float]] = defaultdict(list)
    for of_query in hits:
        for hit in of_query:
            found[names[hit["corpus_id"]]].append(hit["score"])
    best = {name: max(scores) for name, scores in found.items()}
    return [(name, best[name]) for name in sorted(best, key=best.__getitem__, reverse=True)[:k]]


def stripped(names: Sequence[str], labels: Floats, queries: Floats, k: int) -> Ranking:
    """The same result by the plainest Python: no ranking a query, no lists."""
    best: dict[str, float] = {}
    for query in queries:
        for name, score in zip(names, (labels @ query).tolist(), strict=True):
            if score > best.get(name, -2.0):
                best[name] = score
    return [(name, best[name]) for name in sorted(best, key=best.__getitem__, reverse=True)[:k]]


def ours(names: Sequence[str], index: LabelIndex, queries: Floats, k: int) -> Ranking:
    """The same result by `LabelIndex`."""
    scores = index.scores(queries).max(axis=0)
    return [(names[position], float(scores[position])) for position in top_k(scores, k)]


def ours_at_once(
    names: Sequence[str], index: LabelIndex, documents: Floats, k: int
) -> list[Ranking]:
    """The same for (documents, queries, d), as many in one product as its block of scores holds."""
    rankings = []
    count = documents.shape[1]
    step = max(1, BLOCK // (len(index) * count))
    for first in range(0, len(documents), step):
        block = documents[first : first + step]
        scores = index.scores(block.reshape(-1, block.shape[2]))
        for best in np.maximum.reduceat(scores, np.arange(0, len(scores), count)):
            rankings.append([(names[p], float(best[p])) for p in top_k(best, k)])
    return rankings


def same(one: Ranking, other: Ranking) -> bool:
    """Equal names in equal order; two names may trade places where rounding decides."""
    return len(one) == len(other) and all(
        abs(score - their_score) < ROUNDING and (name == their_name or _tied(other, score, name))
        for (name, score), (their_name, their_score) in zip(one, other, strict=True)
    )


def _tied(ranking: Ranking, score: float, name: str) -> bool:
    """Is `name` in the ranking with this score, or as good as its last entry?"""
    near = [entry for entry in ranking if abs(entry[1] - score) < ROUNDING]
    return any(entry[0] == name for entry in near) or ranking[-1] in near


class Given:
    """An encoder that knows its texts' vectors: encoding takes no time."""

    name = "given"

    def __init__(self, fingerprint: str, vectors: dict[str, Floats]) -> None:
        self.fingerprint = fingerprint
        self._vectors = vectors
        self.dimensions = len(next(iter(vectors.values())))

    def encode(self, texts: Sequence[str], *, progress: object = None, **_: object) -> Floats:  # noqa: ARG002
        return np.stack([self._vectors[text] for text in texts])


def default_recipe(index: LabelIndex, queries: Floats) -> Callable[[], object]:
    """Retrieve as it comes, for queries given as the phrases of three clauses."""
    names = [f"query {number}" for number in range(len(queries))]
    encoder = Given(index.encoder, dict(zip(names, queries, strict=True)))
    clauses = tuple(min(number // max(1, len(names) // 3), 2) for number in range(len(names)))
    retriever = Retriever(encoder, index)
    return lambda: retriever.retrieve(Phrases(tuple(names), clauses))


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """At most `count` threads in numpy and torch; None leaves them as they are."""
    if count is None:
        yield
        return
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def milliseconds(action: Callable[[], object], inner: int) -> float:
    """The mean of `inner` runs in a row."""
    started = time.perf_counter()
    for _ in range(inner):
        action()
    return 1000 * (time.perf_counter() - started) / inner


def measure(
    actions: dict[str, tuple[Callable[[], object], int, int]], repeats: int
) -> dict[str, float]:
    """Median milliseconds a document of (action, runs in a row, documents), interleaved."""
    taken: dict[str, list[float]] = {name: [] for name in actions}
    for action, _, _ in actions.values():
        action()
    for _ in range(repeats):
        for name, (action, inner, documents) in actions.items():
            taken[name].append(milliseconds(action, inner) / documents)
    return {name: median(times) for name, times in taken.items()}


def bench(options: argparse.Namespace) -> int:
    import torch

    if options.queries < 1 or options.repeats < 1:
        raise ConfigurationError("--queries and --repeats must be 1 or more")
    labels = LabelSet.read(options.labels)
    index = open_index(labels, load_encoder())
    if len(index.vectors) != len(labels) or len(set(labels.names)) != len(labels):
        message = "the published algorithm knows labels by one name each: give such a label set"
        raise ConfigurationError(message)
    header = show_machine(options)
    names, vectors = labels.names, np.array(index.vectors)
    tensor = torch.from_numpy(vectors)
    documents = draw_queries(index, DOCUMENTS, options.queries)
    at_once = ours_at_once(names, index, documents, TOP)
    for queries, batched in zip(documents, at_once, strict=True):
        plain = stripped(names, vectors, queries, TOP)
        if not same(plain, ours(names, index, queries, TOP)) or not same(plain, batched):
            raise IrrError("ours is not the published algorithm's top 50")
    one = documents[0]
    if not same(published(names, tensor, one, TOP), stripped(names, vectors, one, TOP)):
        raise IrrError("the stripped algorithm is not the published one")
    actions: dict[str, tuple[Callable[[], object], int, int]] = {
        "published": (lambda: published(names, tensor, one, TOP), 1, 1),
        "published, stripped": (lambda: stripped(names, vectors, one, TOP), 1, 1),
        "ours, maximum": (lambda: ours(names, index, one, TOP), 20, 1),
        f"ours, {DOCUMENTS} at once": (
            lambda: ours_at_once(names, index, documents, TOP),
            1,
            DOCUMENTS,
        ),
        "ours, default recipe": (default_recipe(index, one), 20, 1),
    }
    results = {}
    for setting, count in (("one thread", 1), ("as configured", None)):
        with threads(count):
            results[setting] = measure(actions, options.repeats)
    rows = [
        [name, *(f"{value:.2f}" for r in results.values() for value in (r[name], _ratio(r, name)))]
        for name in actions
    ]
    columns = [column for setting in results for column in (f"ms, {setting}", "ratio")]
    met = {
        setting: {name: _ratio(r, name) >= TARGET for name in r if name.startswith("ours, m")}
        for setting, r in results.items()
    }
    ratios = {s: {name: round(_ratio(r, name), 1) for name in r} for s, r in results.items()}
    result = {"machine": header, "labels": len(labels), "queries": options.queries}
    result |= {"milliseconds": results, "ratio": ratios, "target": TARGET}
    emit(result, [(["", *columns], rows)], options)
    if not options.json:
        print(
            f"\n{len(labels):,} labels, {options.queries} queries a document, top {TOP}; ", end=""
        )
        print(f"median of {options.repeats}; same top {TOP} for {DOCUMENTS} documents: yes")
        for setting, by_name in met.items():
            said = "met" if all(by_name.values()) else "missed"
            ratio = ratios[setting]["ours, maximum"]
            print(f"at least {TARGET} times faster one by one, {setting}: {ratio:.0f}, {said}")
    return 0


def _ratio(results: dict[str, float], name: str) -> float:
    return results["published"] / results[name]


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--labels", required=True, metavar="FILE", help="the label set")
    made.add_argument("--queries", type=int, default=10, help="queries a document (default 10)")
    made.add_argument("--repeats", type=int, default=9, help="repeats of each (default 9)")
    return run(bench, made.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

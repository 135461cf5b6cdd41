"""Time and memory of scoring many documents, and the ratio to ranx on the metrics both have.

In:  nothing: documents are drawn. Labels have Zipf frequencies; a document has 1 to 10 gold
     labels, 50 predictions with scores, and half of its gold labels among them. ranx must be
     installed (pip install ranx) for the ratio.
Out: the median over repeats, each in a process of its own, ours and ranx in turns:
     - scoring: seconds of `Scorer.add`, against ranx's conversion of dicts to Qrels and Run with
       its evaluation. ranx alone: the evaluation by itself, compiled beforehand;
     - intervals: seconds of `Scorer.result`. ranx has none;
     - peak memory of the process, and how much of it is there before the first document. Ours
       draws documents one by one; ranx needs all of them at once.
     The means of the shared metrics must agree to 1e-9. Ours is also timed with all metrics.

    python eval/bench/metrics.py [--documents 100000] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "eval")]
from irr.errors import IrrError  # noqa: E402
from irr.metrics import Cut, Scorer, parse_specs  # noqa: E402

LABELS = 10_000
DEPTH = 50
CHUNK = 2_000
AGREE = 1e-9
# Ours and ranx's name.
SHARED = {
    "P@5": "precision@5",
    "R@10": "recall@10",
    "R@50": "recall@50",
    "nDCG@10": "ndcg@10",
    "MRR": "mrr",
    "hit@5": "hit_rate@5",
    "F1@5": "f1@5",
    "RPREC": "r-precision",
}
OTHERS = (
    "RP@5, RP@10, microF1@5, macroF1@5, microF1>0.5, macroF1>0.5, F1>0.5, PSP@5, PSnDCG@5, "
    "coverage@10"
)
SIDES = ("shared", "all", "ranx")

Drawn = tuple[list[str], list[float], list[str]]


def documents(count: int) -> Iterator[Drawn]:
    """(ranking, scores, gold) of each document; the same for every side."""
    draw = np.random.default_rng(0)
    names = np.array([f"label {number}" for number in range(LABELS)])
    frequencies = 1 / np.arange(1, LABELS + 1)
    frequencies /= frequencies.sum()
    for start in range(0, count, CHUNK):
        rows = min(CHUNK, count - start)
        drawn = draw.choice(LABELS, size=(rows, 3 * DEPTH), p=frequencies)
        sizes = draw.integers(1, 11, size=rows)
        scores = np.sort(draw.random((rows, DEPTH)), axis=1)[:, ::-1]
        for labels, size, row in zip(drawn, sizes.tolist(), scores.tolist(), strict=True):
            yield _document(draw, names, labels, size, row)


def _document(
    draw: np.random.Generator, names: Any, labels: Any, size: int, scores: list[float]
) -> Drawn:
    distinct = list(dict.fromkeys(labels.tolist()))
    gold, found, rest = distinct[:size], distinct[: (size + 1) // 2], distinct[size:]
    ranking = [*found, *rest][:DEPTH]
    # Where a frequent label was drawn often: labels from the end fill up.
    ranking += [label for label in range(LABELS - DEPTH, LABELS) if label not in distinct][
        : DEPTH - len(ranking)
    ]
    order = draw.permutation(DEPTH)
    return names[np.array(ranking)[order]].tolist(), scores, names[gold].tolist()


def score_ours(count: int, everything: bool) -> dict[str, Any]:
    """Seconds and means of one pass, documents drawn as it goes."""
    training = {f"label {number}": 50_000 // (number + 1) for number in range(LABELS)}
    specs = parse_specs(", ".join(SHARED) + (", " + OTHERS if everything else ""))
    scorer = Scorer(specs, training, 100_000, labels_at=Cut(10) if everything else None)
    before, scoring = peak(), 0.0
    for ranking, scores, gold in documents(count):
        started = time.perf_counter()
        scorer.add(ranking, scores if everything else None, gold)
        scoring += time.perf_counter() - started
    started = time.perf_counter()
    result = scorer.result()
    intervals = time.perf_counter() - started
    means = {name: result[name].mean for name in SHARED}
    return {"scoring": scoring, "intervals": intervals, "before": before, "means": means}


def score_ranx(count: int) -> dict[str, Any]:
    """The same for ranx, which is compiled on a few documents first."""
    import ranx

    few, _ = _ranx_pass(ranx, 50)
    before = peak()
    rows, means = _ranx_pass(ranx, count)
    del few
    return {**rows, "before": before, "means": dict(zip(SHARED, means.values(), strict=True))}


def _ranx_pass(ranx: Any, count: int) -> tuple[dict[str, float], dict[str, float]]:
    qrels, run = {}, {}
    for number, (ranking, scores, gold) in enumerate(documents(count)):
        qrels[str(number)] = dict.fromkeys(gold, 1)
        run[str(number)] = dict(zip(ranking, scores, strict=True))
    started = time.perf_counter()
    judged, ranked = ranx.Qrels(qrels), ranx.Run(run)
    converted = time.perf_counter()
    means = ranx.evaluate(judged, ranked, list(SHARED.values()))
    ended = time.perf_counter()
    seconds = {"scoring": ended - started, "alone": ended - converted}
    return seconds, {name: float(value) for name, value in means.items()}


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_child(side: str, count: int) -> dict[str, Any]:
    """What a side measured in a process of its own."""
    command = [sys.executable, __file__, "--side", side, "--documents", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise IrrError(f"{side}: {done.stderr.strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def child(options: argparse.Namespace) -> int:
    sides: dict[str, Callable[[], dict[str, Any]]] = {
        "shared": lambda: score_ours(options.documents, everything=False),
        "all": lambda: score_ours(options.documents, everything=True),
        "ranx": lambda: score_ranx(options.documents),
    }
    print(json.dumps({**sides[options.side](), "peak": peak()}))
    return 0


def check_agreement(runs: dict[str, list[dict[str, Any]]]) -> None:
    for name, mean in runs["shared"][0]["means"].items():
        other = runs["ranx"][0]["means"][name]
        if abs(mean - other) > AGREE:
            raise IrrError(f"{name} is {mean} here and {other} by ranx")


def bench(options: argparse.Namespace) -> int:
    from reporting import emit, show_machine

    header = show_machine(options)
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side in SIDES:
            runs[side].append(in_child(side, options.documents))
    check_agreement(runs)
    found = {
        side: {key: median(row[key] for row in rows) for key in rows[0] if key != "means"}
        for side, rows in runs.items()
    }
    ranx = [row["scoring"] for row in runs["ranx"]]
    ours = [row["scoring"] for row in runs["shared"]]
    ratio = median(mine / theirs for mine, theirs in zip(ours, ranx, strict=True))
    alone = found["shared"]["scoring"] / found["ranx"]["alone"]
    named = {"shared": f"ours, the {len(SHARED)} of ranx", "all": "ours, all", "ranx": "ranx"}
    table = [
        [named[side], *(f"{row[key]:.2f}" if key in row else "-" for key in ("scoring", "alone"))]
        + [f"{row['intervals']:.2f}" if "intervals" in row else "-"]
        + [f"{row[key]:.0f}" for key in ("before", "peak")]
        for side, row in found.items()
    ]
    columns = ["", "scoring s", "alone s", "intervals s", "MB before", "MB peak"]
    result = {"machine": header, "documents": options.documents, "repeats": options.repeats}
    result |= {"found": found, "ratio_to_ranx": ratio, "ratio_to_ranx_alone": alone}
    emit(result, [(columns, table)], options)
    if not options.json:
        print(f"\nratio of seconds, ours to ranx: {ratio:.2f}; to its evaluation alone {alone:.1f}")
        print(f"{options.documents} documents, median of {options.repeats}; means agree to {AGREE}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    made.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    made.add_argument("--documents", type=int, default=100_000, help="default 100,000")
    made.add_argument("--repeats", type=int, default=3, help="runs of each side (default 3)")
    made.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = made.parse_args(argv)
    if options.side:
        return child(options)
    from reporting import run

    return run(bench, options)


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_NUM_THREADS", str(len(os.sched_getaffinity(0))))
    sys.exit(main())

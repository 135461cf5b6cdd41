"""What backing off to broader labels gains and costs, without an LM, on any gold with a hierarchy.

In:  a label set whose labels name their parents; documents with labels to choose margin and
     temperature on, by cross-validation; others to report on.
Out: at equal coverage, with bootstrap intervals over documents: how many of the predictions are
     right, how much information they keep, and the information of the right ones (a wrong one
     has none), which is what margin and temperature are chosen by.

A prediction is right if it is a gold label or an ancestor of one, with and without backing off
alike; "exact" counts gold labels only. Information is 1 - log(leaves below) / log(leaves in all):
1 for a leaf, 0 for a label above all leaves (Deng et al. 2012, there in bits). Equal coverage: the
first 5 labels of each document; or the 1, 2, 3 labels a document, on average over the documents,
that have the highest scores of all.

    python eval/prepare_icd10cm.py --output DIR/icd
    python eval/prepare_icd10cm.py --seed 1 --output DIR/icd1
    python eval/backoff.py --labels icd10cm --names-only --tune DIR/icd/notes.jsonl \\
        --input DIR/icd1/notes.jsonl
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import numpy.typing as npt
from reporting import cell, emit, in_percent, parser, run

from irr.documents import read_gold
from irr.encoder import load_encoder
from irr.errors import ConfigurationError
from irr.hierarchy import Answer, Hierarchy, Unsure, back_off
from irr.index import open_index
from irr.labels import LabelSet
from irr.metrics import Score, mean_score, ratio_score
from irr.phrases import phrases
from irr.retrieve import Retriever

FIRST = 5
AVERAGES = (1, 2, 3)
RESAMPLES = 2000
FOLDS = 5
MARGINS = (0.0, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3)
TEMPERATURES = (0.02, 0.03, 0.04, 0.05, 0.06, 0.08)
MILDER = (0.03, 0.05, 0.1)
ALWAYS = 1e6
PLAIN, CHOSEN = "as ranked", "backed off"
ASPECTS = ("right", "exact", "information", "information of the right")

Floats = npt.NDArray[np.float64]
Ranked = list[tuple[int, float]]
Answers = list[list[Answer]]


@dataclass(frozen=True)
class Case:
    """A document: its candidates, its gold labels, and these with all their ancestors."""

    ranked: Ranked
    gold: frozenset[int]
    right: frozenset[int]


class Judge:
    """Predictions → what they are worth, by aspect."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self.hierarchy = hierarchy
        self._leaves = math.log(hierarchy.leaves.sum())
        self.information = cache(self._information)

    def _information(self, position: int) -> float:
        below = int(self.hierarchy.leaves[self.hierarchy.below([position])].sum())
        return 1 - math.log(below) / self._leaves

    def worth(self, case: Case, answer: Answer) -> tuple[float, float, float, float]:
        """The values of `ASPECTS`."""
        right, information = answer.position in case.right, self.information(answer.position)
        return float(right), float(answer.position in case.gold), information, right * information

    def sums(self, cases: Sequence[Case], kept: Sequence[Sequence[Answer]]) -> Floats:
        """(documents, aspects and one more): sums over a document's labels, and how many."""
        nothing = np.zeros(len(ASPECTS) + 1)
        return np.array(
            [
                sum((np.array([*self.worth(case, answer), 1.0]) for answer in row), nothing)
                for case, row in zip(cases, kept, strict=True)
            ]
        )


def first(answers: Answers) -> Answers:
    return [row[:FIRST] for row in answers]


def best(answers: Answers, average: int) -> Answers:
    """So many labels a document, those with the highest scores of all."""
    scored = ((answer.score, -at) for at, row in enumerate(answers) for answer in row)
    *_, limit = sorted(scored, reverse=True)[: average * len(answers)]
    return [
        [answer for answer in row if (answer.score, -at) >= limit] for at, row in enumerate(answers)
    ]


COVERAGES: dict[str, Callable[[Answers], Answers]] = {f"first {FIRST}": first} | {
    f"{average} a document": partial(best, average=average) for average in AVERAGES
}


def read_labels(options: argparse.Namespace) -> LabelSet:
    labels = LabelSet.read(options.labels)
    if not options.names_only:
        return labels
    return LabelSet(replace(label, alternative_names=()) for label in labels)


def read_cases(
    path: str, labels: LabelSet, hierarchy: Hierarchy, retriever: Retriever
) -> list[Case]:
    """The documents that have gold in the label set, with their candidates."""
    gold = [
        (document.text, frozenset(p for name in document.gold for p in labels.find_all(name)))
        for document in read_gold(path)
        if document.gold
    ]
    known = [(text, positions) for text, positions in gold if positions]
    if len(known) < FOLDS:
        message = f"{path}: {len(known)} documents have labels of the set"
        raise ConfigurationError(f"{message}: {FOLDS} are needed")
    found = retriever.retrieve_many([(phrases(text), ()) for text, _ in known])
    return [
        Case(
            [(c.position, c.score) for c in candidates],
            positions,
            positions.union(*(hierarchy.ancestors(p) for p in positions)),
        )
        for candidates, (_, positions) in zip(found, known, strict=True)
    ]


def backed_off(cases: Sequence[Case], hierarchy: Hierarchy, unsure: Unsure) -> list[list[Answer]]:
    return [
        back_off(case.ranked, hierarchy, "ancestor-when-unsure", unsure=unsure) for case in cases
    ]


def choose(cases: Sequence[Case], judge: Judge) -> tuple[Unsure, Floats]:
    """The setting with the most information of right labels among the first, and its gain on
    folds that it was not chosen on: (documents, aspects), setting minus none."""
    grid = [Unsure(*pair) for pair in itertools.product(MARGINS, TEMPERATURES)]
    values = np.array(
        [
            judge.sums(cases, first(backed_off(cases, judge.hierarchy, unsure)))[:, :-1] / FIRST
            for unsure in grid
        ]
    )
    rewards = values[:, :, -1]
    fold = np.random.default_rng(0).permutation(len(cases)) % FOLDS
    gains = np.empty(values.shape[1:])
    for number in range(FOLDS):
        chosen = rewards[:, fold != number].mean(axis=1).argmax()
        gains[fold == number] = (values[chosen] - values[0])[fold == number]
    return grid[int(rewards.mean(axis=1).argmax())], gains


def compare(options: argparse.Namespace) -> int:
    labels = read_labels(options)
    hierarchy = Hierarchy.of(labels)
    if not hierarchy:
        raise ConfigurationError(f"{options.labels}: no label has a parent in the set")
    encoder = load_encoder()
    retriever = Retriever(encoder, open_index(labels, encoder))
    judge = Judge(hierarchy)
    unsure, held_out = Unsure(), None
    if options.tune:
        unsure, held_out = choose(read_cases(options.tune, labels, hierarchy, retriever), judge)
    cases = read_cases(options.input, labels, hierarchy, retriever)
    systems = {PLAIN: [back_off(case.ranked, hierarchy) for case in cases]}
    for margin in MILDER:
        milder = replace(unsure, margin=margin)
        systems[f"margin {margin}"] = backed_off(cases, hierarchy, milder)
    systems[CHOSEN] = backed_off(cases, hierarchy, unsure)
    systems["always"] = backed_off(cases, hierarchy, replace(unsure, margin=ALWAYS))
    sums = {
        coverage: {name: judge.sums(cases, keep(answers)) for name, answers in systems.items()}
        for coverage, keep in COVERAGES.items()
    }
    report(options, unsure, held_out, sums)
    if not options.json:
        count = f"{len(labels):,} labels, {len(cases):,} documents"
        print(f"\n{count}; chosen: margin {unsure.margin}, temperature {unsure.temperature}")
    return 0


def report(
    options: argparse.Namespace,
    unsure: Unsure,
    held_out: Floats | None,
    sums: dict[str, dict[str, Floats]],
) -> None:
    tables = []
    result: dict[str, object] = {"margin": unsure.margin, "temperature": unsure.temperature}
    if held_out is not None:
        gains = [mean_score(column) for column in held_out.T]
        result["held_out_gain"] = _by_aspect(gains)
        row = ["gain on held-out folds", *(cell(gain, signed=True) for gain in gains)]
        tables.append((["tuning", *ASPECTS], [row]))
    for coverage, systems in sums.items():
        means = {name: _means(values) for name, values in systems.items()}
        gains = _gains(systems[CHOSEN], systems[PLAIN])
        rows = [[name, *map(cell, scores)] for name, scores in means.items()]
        signed = [cell(gain, signed=True) for gain in gains]
        rows.append([f"{CHOSEN} minus {PLAIN}", *signed])
        tables.append(([coverage, *ASPECTS], rows))
        by_system = {name: _by_aspect(scores) for name, scores in means.items()}
        result[coverage] = by_system | {"gain": _by_aspect(gains)}
    emit(result, tables, options)


def _means(sums: Floats) -> list[Score]:
    """Each aspect's mean over predictions."""
    return [ratio_score(column, sums[:, -1]) for column in sums.T[:-1]]


def _gains(ours: Floats, theirs: Floats) -> list[Score]:
    """The differences of `_means`, documents resampled in pairs."""
    draw = np.random.default_rng(0)
    picks = draw.integers(len(ours), size=(RESAMPLES, len(ours)))
    drawn = _ratios(ours[picks].sum(axis=1)) - _ratios(theirs[picks].sum(axis=1))
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    means = _ratios(ours.sum(axis=0)) - _ratios(theirs.sum(axis=0))
    return [
        Score(float(mean), float(a), float(b), len(ours), 0)
        for mean, a, b in zip(means, low, high, strict=True)
    ]


def _ratios(sums: Floats) -> Floats:
    ratios: Floats = sums[..., :-1] / np.maximum(1, sums[..., -1:])
    return ratios


def _by_aspect(scores: Sequence[Score]) -> dict[str, object]:
    return {name: in_percent(score) for name, score in zip(ASPECTS, scores, strict=True)}


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--labels", required=True, metavar="FILE", help="the label set")
    made.add_argument(
        "--names-only", action="store_true", help="leave alternative names out of the labels"
    )
    made.add_argument(
        "--tune", metavar="GOLD", help="documents to choose on (default: the shipped setting)"
    )
    made.add_argument("--input", required=True, metavar="GOLD", help="documents to report on")
    return run(compare, made.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

"""What each signal of retrieval adds: synonyms, descriptions, exact matches, lexical matching.

In:  ICD-10-CM from its package; folders of eval/prepare_trove.py and eval/prepare_esco.py.
Out: recall@10 and @50 (on ESCO RP@5, RP@10 and RP@50) without an LM, with bootstrap intervals over
     documents, and the difference from names only, by pairs:
     - names only, each signal added to them, all together with weights that compile's tuning chose
       on other documents ("tuned"), and lexical matching without any vector;
     - of ICD-10-CM, a fifth of the inclusion terms is held out: each is a text, and three to five
       of different chapters joined are a note. The other four fifths are synonyms, or in one row
       descriptions. Descriptions otherwise are the includes notes of a code and of all above it,
       which two codes of five have;
     - of the trove classifiers, the last part of a classifier is its synonym; there are no
       descriptions. The texts are those of installed packages;
     - ESCO has names only here. "Tuned" is cross-validated: each fifth of the documents is scored
       with the settings that tuning chose on the other four; "for Rank" on the mean of RP@10 and
       recall@50, as compile does where an LM ranks what is found.

The weights that are not tuned are the middle ones of those that compile tries.

    python eval/lanes.py --trove DIR/trove --esco DIR/esco
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from prepare_icd10cm import draw_note, note_row, read_codes
from reporting import cell, emit, in_percent, parser, run

from irr.compile.examples import Example
from irr.compile.retrieval import RetrievalTuner, changes
from irr.documents import read_gold
from irr.encoder import Encoder, load_encoder
from irr.errors import ConfigurationError
from irr.index import open_index
from irr.labels import LabelSet
from irr.metrics import METRICS, mean_score, paired_difference
from irr.phrases import phrases
from irr.retrieve import Retriever, RetrieveSettings
from irr.types import Document, Label

FOLDS = 5
DEPTH = 50
NOTES = 300
# Texts that weights are tuned on: they are not reported on.
TUNING = 300
LEXICAL, EXACT = {"lexical_weight": 0.1}, {"exact_weight": 0.1}
SIGNALS = ("lexical_weight", "exact_weight", "alternative_handicap", "description_handicap")
NAMES = "names only"

Rankings = list[list[int]]
Row = dict[str, npt.NDArray[np.float64]]


def terms_and_labels(seed: int) -> tuple[list[Document], list[Document], dict[str, LabelSet]]:
    """ICD-10-CM: held-out terms and notes of them as documents; label sets by what they know."""
    try:
        import simple_icd_10_cm as icd
    except ImportError:
        message = "simple-icd-10-cm is not installed: pip install simple-icd-10-cm"
        raise ConfigurationError(message) from None
    codes, terms = read_codes()
    draw = random.Random(seed)
    draw.shuffle(terms)
    held, kept = terms[: len(terms) // FOLDS], terms[len(terms) // FOLDS :]
    synonyms: dict[str, list[str]] = {}
    for term in kept:
        for code in term.codes:
            synonyms.setdefault(code, []).append(term.text)
    described = {code: _description(icd, code) for code, _ in codes}
    plain = [Label(code, name) for code, name in codes]
    with_synonyms = [replace(x, alternative_names=tuple(synonyms.get(x.id, ()))) for x in plain]
    sets = {
        NAMES: plain,
        "synonyms": with_synonyms,
        "descriptions": [replace(x, description=described[x.id]) for x in plain],
        "synonyms as descriptions": [
            replace(x, description="; ".join(synonyms.get(x.id, ()))) for x in plain
        ],
        "all": [replace(x, description=described[x.id]) for x in with_synonyms],
    }
    rows = [note_row(number, draw_note(held, draw)) for number in range(NOTES)]
    notes = [Document(str(r["id"]), str(r["text"]), tuple(map(str, r["labels"]))) for r in rows]  # type: ignore[call-overload]
    single = [Document(f"term-{i}", t.text, tuple(t.codes)) for i, t in enumerate(held)]
    return single, notes, {name: LabelSet(labels) for name, labels in sets.items()}


def _description(icd: object, code: str) -> str:
    above = [code, *icd.get_ancestors(code)]  # type: ignore[attr-defined]
    notes = (note for place in above for note in icd.get_includes(place))  # type: ignore[attr-defined]
    return "; ".join(dict.fromkeys(notes))


def trove(folder: Path) -> tuple[list[Document], dict[str, LabelSet]]:
    """Classifiers with and without their last part as a synonym, and packages as documents."""
    plain = LabelSet.read(folder / "labels.jsonl")
    last = [(label, label.name.rpartition(" :: ")[2]) for label in plain]
    known = [
        replace(label, alternative_names=(part,) if part != label.name else ())
        for label, part in last
    ]
    documents = list(read_gold(folder / "installed.jsonl"))
    return documents, {NAMES: plain, "synonyms": LabelSet(known), "all": LabelSet(known)}


class Bench:
    """Label sets of the same labels, which know more or less of them, on one set of documents."""

    def __init__(
        self, encoder: Encoder, sets: Mapping[str, LabelSet], metrics: Sequence[tuple[str, int]]
    ) -> None:
        self.sets = sets
        self.metrics = metrics
        self._of_content: dict[str, Retriever] = {}
        for labels in sets.values():
            if labels.content_hash not in self._of_content:
                made = Retriever(encoder, open_index(labels, encoder), labels=labels)
                self._of_content[labels.content_hash] = made

    def retriever(self, name: str, **settings: float) -> Retriever:
        chosen = RetrieveSettings(candidates=DEPTH, **settings)  # type: ignore[arg-type]
        return self._of_content[self.sets[name].content_hash].with_settings(chosen)

    def score(self, rankings: Rankings, examples: Sequence[Example]) -> Row:
        return {
            f"{name}@{k}": np.array(
                [METRICS[name](r, e.gold, k) for r, e in zip(rankings, examples, strict=True)]
            )
            for name, k in self.metrics
        }

    def row(self, retriever: Retriever, examples: Sequence[Example]) -> Row:
        found = [retriever.retrieve(example.phrases) for example in examples]
        return self.score([[c.position for c in row] for row in found], examples)

    def rows(self, examples: Sequence[Example], tuned: Retriever) -> dict[str, Row]:
        """Names only, each signal beside names, all of them, and lexical matching alone."""
        lexical = self.sets["all"].lexical
        worded = [np.argsort(-lexical.scores(e.document.text), kind="stable") for e in examples]
        rows = {"lexical only": self.score([row[:DEPTH].tolist() for row in worded], examples)}
        rows[NAMES] = self.row(self.retriever(NAMES), examples)
        for name in ("synonyms", "descriptions", "synonyms as descriptions"):
            if name in self.sets:
                rows[f"names + {name}"] = self.row(self.retriever(name), examples)
        rows["names + exact"] = self.row(self.retriever(NAMES, **EXACT), examples)
        rows["names + lexical"] = self.row(self.retriever(NAMES, **LEXICAL), examples)
        rows["all"] = self.row(self.retriever("all", **LEXICAL, **EXACT), examples)
        rows["all, tuned"] = self.row(tuned, examples)
        return rows

    def tuned(self, examples: Sequence[Example]) -> Retriever:
        """Over all that is known of the labels, with the settings that tuning chooses."""
        retriever = self.retriever("all")
        tried = changes(retriever, guesses=False)
        settings, _ = self.tuner(retriever, examples).tune(tried, folds=FOLDS, seed=0)
        print(f"tuned on {len(examples)} others: {_differing(settings)}", file=sys.stderr)
        return retriever.with_settings(settings)

    def tuner(
        self, retriever: Retriever, examples: Sequence[Example], *, for_rank: bool = False
    ) -> RetrievalTuner:
        name, k = self.metrics[0]

        def score(found: Sequence[int], gold: Sequence[int]) -> float:
            own = METRICS[name](found, gold, k) or 0.0
            return (own + len(set(found) & set(gold)) / len(gold)) / 2 if for_rank else own

        return RetrievalTuner(retriever, examples, [()] * len(examples), score)


def cross_validated(bench: Bench, examples: Sequence[Example], *, for_rank: bool) -> Row:
    """Scores with settings tuned on the other folds, among the changes of `SIGNALS`."""
    retriever = bench.retriever(NAMES)
    tried = [c for c in changes(retriever, guesses=False) if c.keys() <= set(SIGNALS)]
    fold = np.random.default_rng(0).permutation(len(examples)) % FOLDS
    rows = {f"{name}@{k}": np.empty(len(examples)) for name, k in bench.metrics}
    for number in range(FOLDS):
        rest = [e for e, f in zip(examples, fold, strict=True) if f != number]
        held = [e for e, f in zip(examples, fold, strict=True) if f == number]
        settings, _ = bench.tuner(retriever, rest, for_rank=for_rank).tune(
            tried, folds=FOLDS, seed=0
        )
        print(f"fold {number}: {_differing(settings)}", file=sys.stderr)
        for name, values in bench.row(retriever.with_settings(settings), held).items():
            rows[name][fold == number] = values
    return rows


def _differing(settings: RetrieveSettings) -> str:
    given = RetrieveSettings(candidates=settings.candidates)
    names = settings.__slots__
    changed = {n: getattr(settings, n) for n in names if getattr(settings, n) != getattr(given, n)}
    return ", ".join(f"{name} {value:g}" for name, value in changed.items()) or "nothing changed"


def esco(folder: Path, encoder: Encoder) -> tuple[dict[str, dict[str, Row]], Bench]:
    labels = LabelSet.read(folder / "labels.jsonl")
    bench = Bench(encoder, {NAMES: labels}, [("RP", 10), ("RP", 5), ("RP", 50)])
    blocks: dict[str, dict[str, Row]] = {}
    examples = {
        name: examples_of(list(read_gold(folder / f"{name}_validation.jsonl")), labels)
        for name in ("house", "tech")
    }
    settings: list[dict[str, float]] = [
        *({"exact_weight": value} for value in (0.05, 0.1, 0.2)),
        *({"lexical_weight": value} for value in (0.05, 0.1, 0.2)),
        EXACT | LEXICAL,
    ]
    for name, block in examples.items():
        rows = {NAMES: bench.row(bench.retriever(NAMES), block)}
        for chosen in settings:
            told = ", ".join(f"{key.split('_')[0]} {value:g}" for key, value in chosen.items())
            rows[told] = bench.row(bench.retriever(NAMES, **chosen), block)
        blocks[name.upper()] = rows
    both = [*examples["house"], *examples["tech"]]
    tuned = {
        "tuned": cross_validated(bench, both, for_rank=False),
        "tuned for Rank": cross_validated(bench, both, for_rank=True),
    }
    for name, part in (
        ("HOUSE", slice(0, len(examples["house"]))),
        ("TECH", slice(len(examples["house"]), None)),
    ):
        for told, row in tuned.items():
            blocks[name][told] = {metric: values[part] for metric, values in row.items()}
    return blocks, bench


def examples_of(documents: Sequence[Document], labels: LabelSet) -> list[Example]:
    """The documents with gold in the label set; of a name of several labels, all are gold."""
    made = []
    for document in documents:
        gold = dict.fromkeys(p for name in document.gold or () for p in labels.find_all(name))
        if gold:
            made.append(Example(document, tuple(gold), phrases(document.text)))
    return made


def compare(options: argparse.Namespace) -> int:
    encoder = load_encoder(threads=options.threads)
    blocks: dict[str, dict[str, Row]] = {}
    recall = [("R", 10), ("R", DEPTH)]
    single, notes, sets = terms_and_labels(options.seed)
    bench = Bench(encoder, sets, recall)
    terms = examples_of(single, sets[NAMES])
    # Both are tuned on terms: notes are made of all of them.
    tuned = bench.tuned(terms[:TUNING])
    for title, examples in (
        ("ICD-10-CM, a term", terms[TUNING:]),
        ("ICD-10-CM, a note", examples_of(notes, sets[NAMES])),
    ):
        blocks[f"{title} ({len(examples):,})"] = bench.rows(examples, tuned)
    if options.trove:
        documents, sets = trove(options.trove)
        bench = Bench(encoder, sets, recall)
        examples = examples_of(documents, sets[NAMES])
        random.Random(options.seed).shuffle(examples)
        cut = len(examples) // 3
        blocks[f"trove ({len(examples) - cut})"] = bench.rows(
            examples[cut:], bench.tuned(examples[:cut])
        )
    if options.esco:
        found, _ = esco(options.esco, encoder)
        blocks |= {f"ESCO, {name}": rows for name, rows in found.items()}
    tables = []
    for title, rows in blocks.items():
        metrics = list(rows[NAMES])
        header = [title, *(column for metric in metrics for column in (metric, "difference"))]
        tables.append((header, [[name, *_cells(row, rows[NAMES])] for name, row in rows.items()]))
    result: dict[str, object] = {
        title: {
            name: {
                metric: {
                    **in_percent(mean_score(list(values))),
                    "difference": in_percent(paired_difference(values, rows[NAMES][metric])),
                }
                for metric, values in row.items()
            }
            for name, row in rows.items()
        }
        for title, rows in blocks.items()
    }
    emit(result, tables, options)
    return 0


def _cells(row: Row, given: Row) -> list[str]:
    cells = []
    for metric, values in row.items():
        cells.append(cell(mean_score(list(values))))
        same = row is given
        cells.append("" if same else cell(paired_difference(values, given[metric]), signed=True))
    return cells


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--trove", type=Path, metavar="DIR", help="of eval/prepare_trove.py")
    made.add_argument("--esco", type=Path, metavar="DIR", help="of eval/prepare_esco.py")
    made.add_argument("--seed", type=int, default=0, help="of the held-out terms (default 0)")
    made.add_argument("--threads", type=int, metavar="N", help="CPU threads of the encoder")
    return run(compare, made.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())

"""With a tenth of the labels hidden: how many come back as suggestions, and at what precision.

There is no LM here. Guesses are simulated by what people wrote for known labels, or replayed:

- icd: notes of ICD-10-CM inclusion terms, each term a guess; the labels have their names only
  ("names"), or half of the terms as alternative names too ("names and half of the terms"). A guess
  is of the codes that list it.
- esco: what the published system's Llama-2 guessed on 65 job ads (recorded; see
  eval/replay_recorded.py). Which label a guess stands for is not known: taken is the label that is
  nearest to it with none hidden, so these rows measure the command, not the encoder. "Picks" are
  the labels that GPT-4 picked then, mostly ten a document, without the hidden ones; what it would
  have picked in their place is not known.

A suggestion is right if its name is a guess of hidden labels only. A hidden label that is guessed
in some document comes back if such a suggestion is of it. "All" suggests every guess that is no
name: what the bound is to beat. The bound on the similarity is chosen for the best mean F1 on
seeds of hidden labels 0 to 4; reported are the means over seeds 5 to 14, with 95% bootstrap
intervals over these. The grouping bound is not tuned. "P@20" is the precision of the first 20,
"P@20 by documents" the same if those of the most documents came first.

What ESCO lacks with nothing hidden counts as wrong there, so the precision is a lower bound.
Rows "products too" count the guesses of `PRODUCTS` as right: products and technologies by name, of
which no ESCO label has the name. They were chosen out of the recorded guesses for this script, with
the nearest labels in view; no annotator has seen them. Practices that ESCO may lack, such as pair
programming, still count as wrong, and the recall is of hidden labels alone.

    python eval/suggestions.py --recorded RAW_DIR/tech_validation_recorded_run.json \\
        --labels DIR/esco/labels.jsonl
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from prepare_icd10cm import draw_note, read_codes
from replay_recorded import read_records
from reporting import cell, emit, in_percent, parser, run

from irr.encoder import Encoder, load_encoder
from irr.index import open_index
from irr.labels import LabelSet
from irr.metrics import Score, mean_score
from irr.suggest import BELOW, Guessed, Suggester, Suggestion
from irr.types import Label
from irr.vectors import Floats, Positions

TUNED_ON, REPORTED = range(5), range(5, 15)
BOUNDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)
MIN_COUNTS = (1, 2)
ALL = 0.999
HIDDEN = 0.1
NOTES = 2_000
# With a tenth of the labels hidden at random, all of these are hidden once in 10⁴⁰ guesses.
DEPTH = 40
FIRST = (20, 50)
MEASURES = (
    *("suggestions", "precision", "recall", "F1"),
    *(f"P@{first}" for first in FIRST),
    *(f"P@{first} by documents" for first in FIRST),
)
PRODUCTS = frozenset(
    {
        *(".NET", ".NET analyzers", ".NET technology stack", "ASP.NET Web API", "AWS", "AWS/Azure"),
        *("Azure", "Azure AppService", "Azure AppService IIS", "Azure PaaS microservices"),
        *("Azure SQL", "Django", "GitHub", "HTML5", "Heroku", "Infer#", "JSON.NET", "Java EE"),
        *("Jira", "Kubernetes", "NumPy", "OpenCV", "PostGIS", "PowerShell", "React JS", "ReactJS"),
        *("Redux", "Ruby on Rails", "Shapely", "Slack", "SonarQube", "Spring", "Spring Boot"),
    }
)


@dataclass(frozen=True)
class Setting:
    """Documents with guesses, and of each guess its labels, its vector and the labels next to it.

    `nearest` (guesses, DEPTH) with `cosines`, best first, of all labels, none hidden. The ids of
    picked labels are their positions. `missing` are guesses that are right whatever is hidden.
    """

    name: str
    labels: int
    documents: list[Guessed]
    of_guess: dict[str, frozenset[int]]
    places: dict[str, int]
    vectors: Floats
    nearest: Positions
    cosines: Floats
    missing: frozenset[str] = frozenset()

    def hidden(self, seed: int) -> npt.NDArray[np.bool_]:
        mask = np.zeros(self.labels, np.bool_)
        count = round(HIDDEN * self.labels)
        mask[np.random.default_rng(seed).choice(self.labels, count, replace=False)] = True
        return mask

    def suggested(self, hidden: npt.NDArray[np.bool_], below: float) -> list[Suggestion]:
        def look_up(texts: Sequence[str]) -> tuple[Floats, Positions, Floats]:
            rows = np.array([self.places[text] for text in texts])
            first = (~hidden[self.nearest[rows]]).argmax(axis=1)
            chosen = (rows, first)
            return self.vectors[rows], self.nearest[chosen], self.cosines[chosen]

        out_of_sight = frozenset(map(str, np.flatnonzero(hidden).tolist()))
        suggester = Suggester(look_up, str, below=below)
        suggester.add(replace(row, picked=row.picked - out_of_sight) for row in self.documents)
        return suggester.suggestions()

    def measure(self, seeds: Sequence[int], below: float) -> dict[int, Floats]:
        """The values of `MEASURES` by minimal count: (seeds, measures)."""
        rows = [self.measure_one(seed, below) for seed in seeds]
        return {count: np.array([row[count] for row in rows]) for count in MIN_COUNTS}

    def measure_one(self, seed: int, below: float) -> dict[int, tuple[float, ...]]:
        """The values of `MEASURES` by minimal count, with one choice of hidden labels."""
        hidden = self.hidden(seed)
        from_hidden = {
            guess: positions
            for guess, positions in self.of_guess.items()
            if positions and all(hidden[position] for position in positions)
        }
        found = self.suggested(hidden, below)
        return {
            count: self._measures([one for one in found if one.documents >= count], from_hidden)
            for count in MIN_COUNTS
        }

    def _measures(
        self, found: Sequence[Suggestion], from_hidden: dict[str, frozenset[int]]
    ) -> tuple[float, ...]:
        back = {place for one in found for place in from_hidden.get(one.name, ())}
        guessed = set().union(*from_hidden.values())
        recall = len(back) / len(guessed) if guessed else 0.0
        right = from_hidden.keys() | self.missing
        precision = _precision(found, right)
        both = precision + recall
        by_documents = sorted(found, key=_by_documents)
        f1 = 2 * precision * recall / both if both else 0.0
        firsts = [order[:first] for order in (found, by_documents) for first in FIRST]
        return len(found), precision, recall, f1, *(_precision(some, right) for some in firsts)


def _by_documents(one: Suggestion) -> tuple[int, int, int]:
    """A key to sort by: most documents first, of as many the most frequent, the first guessed."""
    return -one.documents, -one.guesses[0][1], int(one.examples[0])


def _precision(found: Sequence[Suggestion], right: Set[str]) -> float:
    return sum(one.name in right for one in found) / len(found) if found else 0.0


def make_setting(
    name: str,
    labels: LabelSet,
    encoder: Encoder,
    documents: list[list[str]],
    of_guess: dict[str, frozenset[int]] | None,
) -> Setting:
    rows = [Guessed(str(at), tuple(map(_clean, guesses))) for at, guesses in enumerate(documents)]
    # The suggester asks for a guess as it was first written.
    texts = list(dict.fromkeys(guess for row in rows for guess in row.guesses))
    vectors = encoder.encode(texts, role="query")
    nearest, cosines = open_index(labels, encoder).search(vectors, DEPTH)
    if of_guess is None:
        firsts = zip(texts, nearest[:, 0].tolist(), strict=True)
        of_guess = {text: frozenset([first]) for text, first in firsts}
    places = {text: place for place, text in enumerate(texts)}
    said = {_clean(guess): positions for guess, positions in of_guess.items()}
    used = {text: said[text] for text in texts}
    return Setting(name, len(labels), rows, used, places, vectors, nearest, cosines)


def _clean(guess: str) -> str:
    return " ".join(guess.split())


def icd_settings(encoder: Encoder) -> list[Setting]:
    codes, terms = read_codes()
    places = {code: place for place, (code, _) in enumerate(codes)}
    of_guess = {term.text: frozenset(places[code] for code in term.codes) for term in terms}
    draw = random.Random(0)
    documents = [[term.text for term in draw_note(terms, draw)] for _ in range(NOTES)]
    known: dict[str, list[str]] = {}
    for term in terms:
        if draw.random() < 0.5:
            for code in term.codes:
                known.setdefault(code, []).append(term.text)
    plain = LabelSet(Label(code, name) for code, name in codes)
    half = LabelSet(Label(code, name, tuple(known.get(code, ()))) for code, name in codes)
    return [
        make_setting("icd, names", plain, encoder, documents, of_guess),
        make_setting("icd, names and half of the terms", half, encoder, documents, of_guess),
    ]


def esco_settings(labels: LabelSet, recorded: Path, encoder: Encoder) -> list[Setting]:
    records = read_records(recorded)
    documents = [list(record.queries) for record in records]
    plain = make_setting("esco, recorded", labels, encoder, documents, None)
    rows = [
        replace(row, picked=frozenset(str(labels.position_of(name)) for name in names))
        for row, record in zip(plain.documents, records, strict=True)
        for names in [record.ranking[: record.picked]]
    ]
    picked = replace(plain, name="esco, recorded, with picks", documents=rows)
    return [
        variant
        for setting in (plain, picked)
        for variant in (
            setting,
            replace(setting, name=f"{setting.name}, products too", missing=PRODUCTS),
        )
    ]


def scores(setting: Setting) -> Iterator[tuple[int, str, float, dict[str, Score]]]:
    """By minimal count and kind of bound: the bound, and what it comes to on fresh seeds."""
    tuning = {below: setting.measure(TUNED_ON, below) for below in BOUNDS}
    fresh: dict[float, dict[int, Floats]] = {}
    f1 = MEASURES.index("F1")
    for count in MIN_COUNTS:
        best = max(BOUNDS, key=lambda below: tuning[below][count][:, f1].mean())
        for kind, below in (("all", ALL), ("shipped", BELOW), ("tuned", best)):
            if below not in fresh:
                fresh[below] = setting.measure(REPORTED, below)
            columns = zip(MEASURES, fresh[below][count].T, strict=True)
            yield count, kind, below, {name: mean_score(column) for name, column in columns}


def compare(options: argparse.Namespace) -> int:
    encoder = load_encoder()
    settings = icd_settings(encoder)
    if options.recorded:
        settings += esco_settings(LabelSet.read(options.labels), options.recorded, encoder)
    table, result = [], []
    for setting in settings:
        for min_count, kind, below, found in scores(setting):
            result.append(_row(setting, min_count, kind, below, found))
            name = f"{setting.name}, {min_count}+ documents"
            cells = [cell(found[measure]) for measure in MEASURES[1:]]
            table.append([name, kind, f"{below:g}", f"{found['suggestions'].mean:,.0f}", *cells])
    header = ["setting", "bound", "", *MEASURES]
    emit({"rows": result}, [(header, table)], options)
    return 0


def _row(
    setting: Setting, min_count: int, kind: str, below: float, found: dict[str, Score]
) -> dict[str, object]:
    row: dict[str, object] = {"setting": setting.name, "min_count": min_count}
    row |= {"bound": kind, "below": below, "suggestions": found["suggestions"].mean}
    return row | {measure: in_percent(found[measure]) for measure in MEASURES[1:]}


def main(argv: Sequence[str] | None = None) -> int:
    made = parser(__doc__)
    made.add_argument("--labels", metavar="FILE", help="ESCO's label set, with --recorded")
    made.add_argument("--recorded", type=Path, metavar="FILE", help="the recorded run, JSON")
    options = made.parse_args(argv)
    if bool(options.labels) != bool(options.recorded):
        made.error("--labels and --recorded go together")
    return run(compare, options)


if __name__ == "__main__":
    sys.exit(main())

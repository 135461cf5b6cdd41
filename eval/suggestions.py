"""With a tenth of the labels hidden: how many come back as suggestions, and at what precision.

There is no LM here. Guesses are simulated by what people wrote for known labels, or replayed:

- icd: notes of ICD-10-CM inclusion terms, each term a guess; the labels have their names only
  ("names"), or half of the terms as alternative names too ("names and half of the terms"). A guess
  is of the codes that list it.
- esco: what the published system's Llama-2 guessed on 65 job ads (recorded; see
  eval/replay_recorded.py). Which label a guess stands for is not known: taken is the label that is
  nearest to it with none hidden, so this row measures the command, not the encoder.

A suggestion is right if its name is a guess of hidden labels only. A hidden label that is guessed
in some document comes back if such a suggestion is of it. "All" suggests every guess that is no
name: what the bound is to beat. The bound on the similarity is chosen for the best mean F1 on
seeds of hidden labels 0 to 4; reported are the means over seeds 5 to 14, with 95% bootstrap
intervals over these. The grouping bound is not tuned. What no label set of today has counts as
wrong too, such as many a technology in job ads, so the precision is a lower bound; and without an
LM there are no picks, which answer guesses too.

    python eval/suggestions.py --recorded RAW_DIR/tech_validation_recorded_run.json \\
        --labels DIR/esco/labels.jsonl
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
MEASURES = ("suggestions", "precision", "recall", "F1")


@dataclass(frozen=True)
class Setting:
    """Documents with guesses, and of each guess its labels, its vector and the labels next to it.

    `nearest` (guesses, DEPTH) with `cosines`, best first, of all labels, none hidden.
    """

    name: str
    labels: int
    documents: list[Guessed]
    of_guess: dict[str, frozenset[int]]
    places: dict[str, int]
    vectors: Floats
    nearest: Positions
    cosines: Floats

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

        suggester = Suggester(look_up, below=below)
        suggester.add(self.documents)
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
            count: _measures([one for one in found if one.documents >= count], from_hidden)
            for count in MIN_COUNTS
        }


def _measures(
    found: Sequence[Suggestion], from_hidden: dict[str, frozenset[int]]
) -> tuple[float, ...]:
    right = [suggestion for suggestion in found if suggestion.name in from_hidden]
    back = {position for one in right for position in from_hidden[one.name]}
    guessed = set().union(*from_hidden.values())
    precision = len(right) / len(found) if found else 0.0
    recall = len(back) / len(guessed) if guessed else 0.0
    both = precision + recall
    return len(found), precision, recall, 2 * precision * recall / both if both else 0.0


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
    vectors = encoder.encode(texts)
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


def esco_setting(labels: LabelSet, recorded: Path, encoder: Encoder) -> Setting:
    documents = [list(record.queries) for record in read_records(recorded)]
    return make_setting("esco, recorded", labels, encoder, documents, None)


def scores(setting: Setting) -> Iterator[tuple[int, str, float, dict[str, Score]]]:
    """By minimal count and kind of bound: the bound, and what it comes to on fresh seeds."""
    tuning = {below: setting.measure(TUNED_ON, below) for below in BOUNDS}
    fresh: dict[float, dict[int, Floats]] = {}
    for count in MIN_COUNTS:
        best = max(BOUNDS, key=lambda below: tuning[below][count][:, -1].mean())
        for kind, below in (("all", ALL), ("shipped", BELOW), ("tuned", best)):
            if below not in fresh:
                fresh[below] = setting.measure(REPORTED, below)
            columns = zip(MEASURES, fresh[below][count].T, strict=True)
            yield count, kind, below, {name: mean_score(column) for name, column in columns}


def compare(options: argparse.Namespace) -> int:
    encoder = load_encoder()
    settings = icd_settings(encoder)
    if options.recorded:
        settings.append(esco_setting(LabelSet.read(options.labels), options.recorded, encoder))
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

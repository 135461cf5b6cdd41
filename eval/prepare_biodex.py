"""BioDEX-Reactions → labels.jsonl, priors.json, validation.jsonl, test.jsonl, test_250.jsonl.

In:  reaction_terms.txt (one term a line) and biodex_priors.json (term → prior) in --source, and
     the documents: <split>.jsonl in --source (rows of the data set, one JSON object a line) where
     one is there, else the data set BioDEX/BioDEX-Reactions on the Hugging Face hub, which needs a
     network and the package datasets. Fields: title, abstract, fulltext, reactions, and where
     there is one fulltext_processed, which the published system reads.
Out: labels.jsonl {"id", "name"} (the term is the id), priors.json, <split>.jsonl
     {"id", "text", "labels"}; test_250.jsonl: the documents that the published figures are of.

`reactions` is one string, separated by commas, and a term may hold commas itself: from the left,
the longest run of pieces that is a term of the label set is taken as one. A piece that is no term
in any case of its letters stays in the gold, where it counts as never found, and is reported.

    python eval/prepare_biodex.py --source RAW_DIR --output DIR
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from preparation import parser, report, run, write_jsonl, write_priors

from irr.errors import InputError
from irr.evaluate.tasks import hub_rows
from irr.files import TextFile
from irr.labels import LabelSet

DATASET = "BioDEX/BioDEX-Reactions"
LABELS = "reaction_terms.txt"
PRIORS = "biodex_priors.json"
SPLITS = ("validation", "test")
# The published runs shuffle validation, then test, by one generator, and test on the first 250.
PUBLISHED_SEED = 42
PUBLISHED_SIZE = 250
REPORTED = 10

Row = dict[str, Any]


class Terms:
    """The label set's terms, found in a string of several."""

    def __init__(self, terms: Iterable[str]) -> None:
        self._terms = {term: term for term in terms}
        # Exact wording goes before another case of its letters.
        self._folded = {term.casefold(): term for term in reversed(self._terms)}
        self._most_commas = max((term.count(",") for term in self._terms), default=0)

    def __contains__(self, term: str) -> bool:
        return term in self._terms

    def split(self, reactions: str) -> list[str]:
        """The terms of a string separated by commas, each once; what is no term stays as it is.

        >>> Terms(["Pain", "Injury, head", "Injury"]).split("pain, Injury, head, Ache")
        ['Pain', 'Injury, head', 'Ache']
        """
        pieces = reactions.split(",")
        found: list[str] = []
        start = 0
        while start < len(pieces):
            term, start = self._longest(pieces, start)
            found.append(term)
        return list(dict.fromkeys(filter(None, found)))

    def _longest(self, pieces: Sequence[str], start: int) -> tuple[str, int]:
        """The longest term that begins at a piece, or the piece, and where the next begins."""
        for end in range(min(len(pieces), start + self._most_commas + 1), start, -1):
            text = ",".join(pieces[start:end]).strip()
            term = self._terms.get(text) or self._folded.get(text.casefold())
            if term is not None:
                return term, end
        return pieces[start].strip(), start + 1


def text_of(row: Row) -> str:
    """What the published system reads, else title, abstract and full text, as far as they are."""
    fields = ("title", "abstract", "fulltext")
    parts = [row.get("fulltext_processed")] if row.get("fulltext_processed") else []
    parts = parts or [row[field] for field in fields if row.get(field)]
    return "\n\n".join(str(part).strip() for part in parts)


def read_rows(source: Path, split: str) -> tuple[str, Iterator[tuple[int, Row]]]:
    """Where the rows of a split are from, and the rows with their lines."""
    path = source / f"{split}.jsonl"
    if not path.exists():
        rows = enumerate(hub_rows(DATASET, split), start=1)
        return f"{DATASET}:{split}", ((line, dict(row)) for line, row in rows)
    return str(path), _local_rows(TextFile(path, InputError))


def _local_rows(file: TextFile) -> Iterator[tuple[int, Row]]:
    for line, value in file.json_values():
        if not isinstance(value, dict):
            raise file.failure("expected an object with the fields of the data set", line)
        yield line, value


def read_documents(source: Path, split: str, terms: Terms) -> list[Row]:
    """The documents of a split. One without reactions has no labels."""
    where, rows = read_rows(source, split)
    documents = []
    for number, (line, row) in enumerate(rows, start=1):
        text, reactions = text_of(row), row.get("reactions")
        if not text:
            message = "has no text: fill in title, abstract, fulltext or fulltext_processed"
            raise InputError(message, path=where, line=line)
        if not isinstance(reactions, str | None):
            raise InputError("'reactions' must be one string", path=where, line=line)
        labels = terms.split(reactions or "")
        documents.append({"id": f"{split}-{number}", "text": text, "labels": labels})
    if not documents:
        raise InputError("holds no documents", path=where)
    return documents


def published_sample(validation: int, test: Sequence[Row]) -> list[Row]:
    """The test documents of the published figures, in their order there.

    `validation` is how many documents the split shuffled before has: the generator goes on.
    """
    draw = random.Random(PUBLISHED_SEED)
    draw.shuffle(list(range(validation)))
    documents = list(test)
    draw.shuffle(documents)
    return documents[:PUBLISHED_SIZE]


def read_priors(path: Path) -> dict[str, float]:
    """Prior of each term."""
    try:
        priors = json.loads(path.read_text(encoding="utf-8-sig"))
        return {str(name).strip(): float(prior) for name, prior in priors.items()}
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", path=path) from None
    except (AttributeError, TypeError, ValueError) as problem:
        message = f"must be one JSON object of term → number: {problem}"
        raise InputError(message, path=path) from None


def report_unknown(name: str, documents: Sequence[Row], terms: Terms) -> None:
    unknown = Counter(label for row in documents for label in row["labels"] if label not in terms)
    labels = sum(len(row["labels"]) for row in documents)
    report(
        f"{name}: {len(documents)} documents, {labels} reactions; {unknown.total()} of them are "
        f"{len(unknown)} terms that are not in the label set, kept"
    )
    for label, count in unknown.most_common(REPORTED):
        report(f"{name}: not in the label set: {label!r}, {count} documents")


def prepare(source: Path, output: Path) -> None:
    """Reads everything first and writes only then: a bad file leaves no half result."""
    names = LabelSet.read(source / LABELS).names
    terms, priors = Terms(names), read_priors(source / PRIORS)
    documents = {split: read_documents(source, split, terms) for split in SPLITS}
    validation, test = (documents[split] for split in SPLITS)
    output.mkdir(parents=True, exist_ok=True)
    write_jsonl(output / "labels.jsonl", ({"id": name, "name": name} for name in names))
    report(f"labels.jsonl: {len(names)} labels")
    write_priors(output / "priors.json", priors, terms)
    for split, rows in documents.items():
        write_jsonl(output / f"{split}.jsonl", rows)
        report_unknown(f"{split}.jsonl", rows, terms)
    sample = published_sample(len(validation), test)
    write_jsonl(output / f"test_{PUBLISHED_SIZE}.jsonl", sample)


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument("--source", type=Path, required=True, help="folder of terms and priors")
    given = options.parse_args(argv)
    return run(lambda: prepare(given.source, given.output), given.output)


if __name__ == "__main__":
    sys.exit(main())

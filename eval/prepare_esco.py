"""Raw ESCO files → labels.jsonl, priors.json and one gold file for each annotated set.

In:  skills_en_label.txt (one label a line), esco_priors.json (label → prior) and any number of
     <set>_<split>_annotations.csv (columns sentence and label, in any order and case, such as
     sentence, span, sub_span, label of HOUSE and TECH; one row a label).
Out: labels.jsonl {"id", "name"} (ESCO's list has no ids here: the name is the id), priors.json,
     <set>_<split>.jsonl {"id", "text", "labels"}.

Protocol (D'Oosterlinck et al. 2024, arXiv 2401.12178): rows labelled LABEL NOT PRESENT or
UNDERSPECIFIED are dropped; rows are grouped by sentence, a document's labels are a set; documents
left without any label are dropped. What is dropped is counted on standard error. A gold label
that the label set lacks stays in the gold, where it counts as never found, and is reported.

Without --source the labels (ESCO 1.1.0) and the annotations come from TechWolf's data sets on the
Hugging Face hub, which needs a network and the package datasets. There are no priors then.

    python eval/prepare_esco.py [--source RAW_DIR] --output DIR
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from preparation import parser, report, run, write_jsonl, write_priors

from irr.errors import DocumentError, InputError, LabelSetError
from irr.evaluate.tasks import hub_rows

LABELS = "skills_en_label.txt"
PRIORS = "esco_priors.json"
ANNOTATIONS = "_annotations.csv"
NO_LABEL = frozenset({"LABEL NOT PRESENT", "UNDERSPECIFIED"})
HUB_SETS = {
    "house": ("validation", "test"),
    "tech": ("validation", "test"),
    "techwolf": ("test",),
}
HUB_ANNOTATIONS = "TechWolf/skill-extraction-{}"
# The data set, split and config that hold ESCO's skills, with the column of their names.
HUB_LABELS = ("TechWolf/Skill-extraction-Tech-graded", "corpus", "corpus")
HUB_LABEL = "title"

Row = tuple[int, str, str]
"""A row's line, its sentence and its label."""


@dataclass(frozen=True)
class Gold:
    """One annotated set: documents in order of first appearance, and what was left out."""

    documents: list[tuple[str, list[str]]]
    rows: int
    rows_dropped: int
    documents_dropped: int


Raw = tuple[list[str], Mapping[str, float] | None, dict[str, Gold]]
"""Labels, priors where there are any, and the annotated sets by name."""


def read_text(path: Path, error: type[InputError]) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise error("no such file; --source must hold the raw ESCO files", path=path) from None
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", path=path) from None
    except UnicodeDecodeError as problem:
        raise error(f"is not UTF-8 (byte {problem.start})", path=path) from None


def read_labels(path: Path) -> list[str]:
    """Stripped names in file order. Blank lines are skipped, a repeated name is an error."""
    lines: dict[str, int] = {}
    for number, line in enumerate(read_text(path, LabelSetError).split("\n"), start=1):
        name = line.strip()
        if name in lines:
            message = f"label {name!r} is already on line {lines[name]}; remove one of them"
            raise LabelSetError(message, path=path, line=number)
        if name:
            lines[name] = number
    if not lines:
        raise LabelSetError("holds no label", path=path)
    return list(lines)


def read_priors(path: Path) -> dict[str, float]:
    """Prior of each label, names stripped."""
    try:
        priors = json.loads(read_text(path, InputError))
        return {str(name).strip(): float(prior) for name, prior in priors.items()}
    except (AttributeError, TypeError, ValueError) as problem:
        message = f"must be one JSON object of label → number: {problem}"
        raise InputError(message, path=path) from None


def read_gold(path: Path) -> Gold:
    """Groups the rows of one annotations file by sentence."""
    return group(read_rows(path), path)


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of one annotations file."""
    reader = csv.DictReader(io.StringIO(read_text(path, DocumentError), newline=""))
    columns = {name.strip().casefold(): name for name in reader.fieldnames or ()}
    missing = {"sentence", "label"} - columns.keys()
    if missing:
        message = f"the header lacks the column {sorted(missing)[0]!r}"
        raise DocumentError(message, path=path, line=1)
    for row in reader:
        yield reader.line_num, row[columns["sentence"]] or "", row[columns["label"]] or ""


def group(rows: Iterable[Row], path: Path | str) -> Gold:
    """Groups rows by sentence; `path` is where they are from, for errors."""
    labels: dict[str, dict[str, None]] = {}
    count = dropped = 0
    for line, sentence, cell in rows:
        label = cell.strip()
        if not sentence.strip() or not label:
            message = "a row needs a sentence and a label"
            raise DocumentError(message, path=path, line=line)
        count += 1
        found = labels.setdefault(sentence, {})
        if label in NO_LABEL:
            dropped += 1
        else:
            found[label] = None
    documents = [(sentence, list(found)) for sentence, found in labels.items() if found]
    return Gold(documents, count, dropped, len(labels) - len(documents))


def hub_gold(name: str, split: str) -> Gold:
    """The annotations of one set from the Hugging Face hub."""
    dataset = HUB_ANNOTATIONS.format(name)
    numbered = enumerate(hub_rows(dataset, split), start=1)
    rows = ((n, row.get("sentence") or "", row.get("label") or "") for n, row in numbered)
    return group(rows, f"{dataset}:{split}")


def hub_labels() -> list[str]:
    """ESCO's skills from the Hugging Face hub, stripped, in their order there."""
    dataset, split, config = HUB_LABELS
    names = (str(row.get(HUB_LABEL) or "").strip() for row in hub_rows(dataset, split, config))
    labels = list(dict.fromkeys(filter(None, names)))
    if not labels:
        raise LabelSetError(f"has no column {HUB_LABEL!r} with labels in it", path=dataset)
    return labels


def prepare(source: Path | None, output: Path) -> None:
    """Reads everything first and writes only then: a bad file leaves no half result."""
    labels, priors, sets = from_hub() if source is None else from_folder(source)
    known = set(labels)
    output.mkdir(parents=True, exist_ok=True)
    write_jsonl(output / "labels.jsonl", ({"id": name, "name": name} for name in labels))
    report(f"labels.jsonl: {len(labels)} labels")
    if priors is None:
        # Those of another preparation would be taken for this one's.
        (output / "priors.json").unlink(missing_ok=True)
        report("priors.json: none; the Hugging Face hub has no priors")
    else:
        write_priors(output / "priors.json", priors, known)
    for name, gold in sets.items():
        write_gold(output, name, gold, known)


def from_folder(source: Path) -> Raw:
    """Labels, priors and annotated sets of a folder of raw files."""
    labels = read_labels(source / LABELS)
    priors = read_priors(source / PRIORS)
    paths = sorted(source.glob(f"*{ANNOTATIONS}"))
    if not paths:
        raise DocumentError(f"holds no *{ANNOTATIONS}", path=source)
    return labels, priors, {path.name.removesuffix(ANNOTATIONS): read_gold(path) for path in paths}


def from_hub() -> Raw:
    """Labels and annotated sets of the Hugging Face hub, which has no priors."""
    labels = hub_labels()
    names = [(name, split) for name, splits in HUB_SETS.items() for split in splits]
    return labels, None, {f"{name}_{split}": hub_gold(name, split) for name, split in names}


def write_gold(output: Path, name: str, gold: Gold, known: set[str]) -> None:
    documents = enumerate(gold.documents, start=1)
    rows = (
        {"id": f"{name}-{i}", "text": text, "labels": labels} for i, (text, labels) in documents
    )
    write_jsonl(output / f"{name}.jsonl", rows)
    report(
        f"{name}.jsonl: {len(gold.documents)} documents of {gold.rows} rows; dropped "
        f"{gold.rows_dropped} rows and {gold.documents_dropped} documents without a label"
    )
    unknown = Counter(x for _, labels in gold.documents for x in labels if x not in known)
    for label, count in unknown.most_common():
        report(f"{name}.jsonl: gold label not in the label set, kept: {label!r}, {count} documents")


def main(argv: Sequence[str] | None = None) -> int:
    options = parser(__doc__)
    options.add_argument(
        "--source", type=Path, help="folder of the raw ESCO files (default: the Hugging Face hub)"
    )
    given = options.parse_args(argv)
    return run(lambda: prepare(given.source, given.output), given.output)


if __name__ == "__main__":
    sys.exit(main())

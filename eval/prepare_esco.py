"""Raw ESCO files → labels.jsonl, priors.json and one gold file for each annotated set.

In:  skills_en_label.txt (one label a line), esco_priors.json (label → prior) and any number of
     <set>_<split>_annotations.csv (columns sentence, span, sub_span, label; one row a span).
Out: labels.jsonl {"id", "name"} (ESCO's list has no ids here: the name is the id), priors.json,
     <set>_<split>.jsonl {"id", "text", "labels"}.

Protocol (D'Oosterlinck et al. 2024, arXiv 2401.12178): rows labelled LABEL NOT PRESENT or
UNDERSPECIFIED are dropped; rows are grouped by sentence, a document's labels are a set; documents
left without any label are dropped. What is dropped is counted on standard error. A gold label
that the label set lacks stays in the gold, where it counts as never found, and is reported.

    python eval/prepare_esco.py --source RAW_DIR --output DIR
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from irr.errors import DocumentError, InputError, IrrError, LabelSetError, OutputError

LABELS = "skills_en_label.txt"
PRIORS = "esco_priors.json"
ANNOTATIONS = "_annotations.csv"
NO_LABEL = frozenset({"LABEL NOT PRESENT", "UNDERSPECIFIED"})


@dataclass(frozen=True)
class Gold:
    """One annotated set: documents in order of first appearance, and what was left out."""

    documents: list[tuple[str, list[str]]]
    rows: int
    rows_dropped: int
    documents_dropped: int


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
    labels: dict[str, dict[str, None]] = {}
    rows = dropped = 0
    reader = csv.DictReader(io.StringIO(read_text(path, DocumentError), newline=""))
    missing = {"sentence", "label"} - set(reader.fieldnames or ())
    if missing:
        message = f"the header lacks the column {sorted(missing)[0]!r}"
        raise DocumentError(message, path=path, line=1)
    for row in reader:
        sentence, label = row["sentence"] or "", (row["label"] or "").strip()
        if not sentence.strip() or not label:
            message = "a row needs a sentence and a label"
            raise DocumentError(message, path=path, line=reader.line_num)
        rows += 1
        found = labels.setdefault(sentence, {})
        if label in NO_LABEL:
            dropped += 1
        else:
            found[label] = None
    documents = [(sentence, list(found)) for sentence, found in labels.items() if found]
    return Gold(documents, rows, dropped, len(labels) - len(documents))


def write_jsonl(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """One JSON object a line, UTF-8."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8", newline="\n")


def report(message: str) -> None:
    print(message, file=sys.stderr)


def prepare(source: Path, output: Path) -> None:
    """Reads every raw file first and writes only then: a bad file leaves no half result."""
    labels = read_labels(source / LABELS)
    known = set(labels)
    priors = read_priors(source / PRIORS)
    paths = sorted(source.glob(f"*{ANNOTATIONS}"))
    if not paths:
        raise DocumentError(f"holds no *{ANNOTATIONS}", path=source)
    sets = {path.name.removesuffix(ANNOTATIONS): read_gold(path) for path in paths}

    output.mkdir(parents=True, exist_ok=True)
    write_jsonl(output / "labels.jsonl", ({"id": name, "name": name} for name in labels))
    report(f"labels.jsonl: {len(labels)} labels")
    kept = {name: prior for name, prior in priors.items() if name in known}
    text = json.dumps(kept, ensure_ascii=False, indent=0) + "\n"
    (output / "priors.json").write_text(text, encoding="utf-8", newline="\n")
    report(f"priors.json: {len(kept)} priors; {len(priors) - len(kept)} dropped: not in the labels")
    for name, gold in sets.items():
        write_gold(output, name, gold, known)


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="folder of the raw ESCO files")
    parser.add_argument("--output", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(argv)
    try:
        prepare(options.source, options.output)
    except IrrError as error:
        report(f"error: {error}")
        return error.exit_status
    except OSError as error:
        report(f"error: cannot write to {options.output}: {error.strerror or error}")
        return OutputError.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
